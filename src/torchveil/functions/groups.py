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
