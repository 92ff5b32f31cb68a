"""Groups at public places: which entries belong together, as a table of places with a mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Groups:
    """``members[g, k]`` is the place of entry k of group g; ``mask`` (bool, same shape) says which of them count."""

    members: Tensor
    mask: Tensor

    @property
    def sizes(self) -> Tensor:
        """How many entries each group has."""
        return self.mask.sum(1)


def groups(group: Tensor, place: Tensor, count: int) -> Groups:
    """``count`` groups from pairs of a group and a place, both flat and public; an empty group has a place that
    does not count, so that every table has a column."""
    order = torch.argsort(group, stable=True)
    group, place = group[order], place[order]
    sizes = torch.bincount(group, minlength=count)
    longest = max(1, int(sizes.max())) if count else 1
    starts = sizes.cumsum(0) - sizes
    column = torch.arange(group.numel()) - starts[group]
    members = torch.zeros(count, longest, dtype=torch.int64)
    mask = torch.zeros(count, longest, dtype=torch.bool)
    members[group, column] = place
    mask[group, column] = True
    return Groups(members, mask)


def scattered(shape: torch.Size, source: torch.Size, dim: int, index: Tensor, include_self: bool) -> Groups:
    """What meets in each place of x when a source is scattered to public places along ``dim``.

    A group per place of x, flat; members are places of x and then of the source, flat and end to end. Without
    ``include_self`` a place counts itself only if nothing is scattered to it.
    """
    count, used = shape.numel(), tuple(slice(0, n) for n in index.shape)
    every = torch.arange(count)
    # where each entry of the source goes: the place of x with the index in place of its own number
    targets = every.reshape(shape)[_others(used, dim)].gather(dim, index).reshape(-1)
    sources = torch.arange(source.numel()).reshape(source)[used].reshape(-1) + count
    alone = every if include_self else every[torch.bincount(targets, minlength=count) == 0]
    return groups(torch.cat([alone, targets]), torch.cat([alone, sources]), count)


def _others(used: tuple[slice, ...], dim: int) -> tuple[slice, ...]:
    """The same but all of ``dim``."""
    return tuple(slice(None) if d == dim % len(used) else part for d, part in enumerate(used))
