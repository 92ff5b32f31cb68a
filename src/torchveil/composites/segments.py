"""Reductions of segments whose lengths are public: torch's fused kernel has no encrypted form, its parts have."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchveil.composites.table import replaces
from torchveil.errors import InvalidArgument, UnsupportedOperation
from torchveil.functions.groups import Groups, groups
from torchveil.public import public

#: What the reduction of nothing gives; None: torch gives nan or an infinity, which no share holds.
_NOTHING = {"sum": 0.0, "prod": 1.0, "mean": None, "max": None, "min": None}


def _segments(lengths: Tensor | None, offsets: Tensor | None, lead: int, size: int) -> Groups:
    """The places of every segment in [lead * size], [lead * segments] of them."""
    given = offsets if lengths is None else lengths
    if type(given) is not Tensor:
        raise UnsupportedOperation("segments of secret lengths", op="segment_reduce", remedy="use public lengths")
    rows = given.reshape(lead, given.shape[-1])
    ends = rows.cumsum(1) if lengths is not None else rows[:, 1:]
    starts = ends - rows if lengths is not None else rows[:, :-1]
    if rows.numel() and (bool((ends < starts).any()) or int(starts.min()) < 0 or int(ends.max()) > size):
        raise InvalidArgument("segments that leave the data", op="segment_reduce", remedy="check the lengths")
    where = torch.arange(size)
    inside = (where >= starts.unsqueeze(2)) & (where < ends.unsqueeze(2))
    row, segment, place = inside.nonzero().unbind(1)
    return groups(row * starts.shape[1] + segment, row * size + place, starts.numel())


def _reduced(rows: Tensor, reduce: str, found: Groups, initial: float | None) -> Tensor:
    """[places, rest] -> [groups, rest]."""
    mask = found.mask.unsqueeze(2)
    taken = rows[found.members]
    if reduce in ("sum", "mean"):
        total = taken.masked_fill(~mask, 0.0).sum(1) + (initial or 0.0)
        return total if reduce == "sum" else total * public(1.0 / found.sizes.clamp(min=1).double()).unsqueeze(1)
    if reduce == "prod":
        return taken.masked_fill(~mask, 1.0).prod(1) * (1.0 if initial is None else initial)
    sign = 1 if reduce == "max" else -1
    # an empty group has one entry that stands for the initial value
    kept = mask | (found.sizes == 0).reshape(-1, 1, 1)
    taken = taken.masked_fill(~mask, 0.0 if initial is None else initial)
    most = (sign * taken).masked_fill(~kept, -math.inf).amax(1)
    return sign * (most if initial is None else most.clamp(min=sign * initial))


@replaces(torch.segment_reduce)
def segment_reduce(
    data: Tensor, reduce: str, *, lengths: Tensor | None = None, indices: Tensor | None = None,
    offsets: Tensor | None = None, axis: int = 0, unsafe: bool = False, initial: float | None = None,
) -> Tensor:  # fmt: skip
    """torch.segment_reduce at public places: sums and means are local but for the division, products a tree, the
    largest and smallest a maximum over the members."""
    if reduce not in _NOTHING:
        raise InvalidArgument(f"the reduction {reduce}", op="segment_reduce", remedy="sum, mean, max, min or prod")
    if indices is not None or (lengths is None and offsets is None):
        raise InvalidArgument("neither lengths nor offsets", op="segment_reduce", remedy="give one of them")
    axis = axis % data.dim()
    lead, size = math.prod(data.shape[:axis]), data.shape[axis]
    found = _segments(lengths, offsets, lead, size)
    if initial is None and _NOTHING[reduce] is None and bool((found.sizes == 0).any()):
        raise UnsupportedOperation(
            "the reduction of an empty segment, which no share holds", op="segment_reduce", remedy="give initial"
        )
    rows = data.reshape(lead * size, -1)
    out = _reduced(rows, reduce, found, initial)
    return out.reshape(*data.shape[:axis], -1, *data.shape[axis + 1 :])
