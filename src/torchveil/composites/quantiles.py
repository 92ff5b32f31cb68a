"""Quantiles: one sort, then public ranks. torch's own would write plain ranks beside secrets."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import replaces
from torchveil.errors import InvalidArgument
from torchveil.public import public

#: interpolation -> (public weight of the upper neighbour, of a rank with the given fraction)
_WEIGHTS: dict[str, Any] = {
    "linear": lambda fraction: fraction,
    "lower": lambda fraction: 0.0,
    "higher": lambda fraction: math.ceil(fraction),
    "midpoint": lambda fraction: 0.5 * math.ceil(fraction),
    "nearest": lambda fraction: float(fraction > 0.5),
}


# a share holds no nan, so that nanquantile is the same
@replaces(torch.quantile, torch.Tensor.quantile, torch.nanquantile, torch.Tensor.nanquantile)
def quantile(
    x: Tensor, q: float | Tensor, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """torch.quantile: the sort of ``functions.sorting``, and at most one product with a number if q is public.

    At a secret rank every entry has a weight: how close its place is to the rank, for whole ranks 0 or 1.
    """
    if interpolation not in _WEIGHTS:
        raise InvalidArgument(f"the interpolation {interpolation}", op="quantile", remedy="one that torch has")
    flat = dim is None or not x.dim()
    rows = x.reshape(-1) if flat else x
    along = 0 if flat or dim is None else dim % x.dim()
    ordered = torch.sort(rows, along).values
    size = ordered.shape[along]
    if isinstance(q, Tensor) and type(q) is not Tensor:
        ranks = q.reshape(-1) * (size - 1)
        weighed = _at_secret(ordered.movedim(along, 0), ranks, interpolation)
        found = list(weighed.unbind(0))
        if not found:
            raise InvalidArgument("no ranks", op="quantile", remedy="give at least one")
        return _shaped(x, q, found, along, flat, keepdim)
    found = [_at(ordered, along, float(part) * (size - 1), interpolation) for part in torch.as_tensor(q).reshape(-1)]
    return _shaped(x, q, found, along, flat, keepdim)


def _shaped(x: Tensor, q: Any, found: list[Tensor], along: int, flat: bool, keepdim: bool) -> Tensor:
    if keepdim:
        shape = [1] * x.dim() if flat else [*x.shape[:along], 1, *x.shape[along + 1 :]]
        found = [value.reshape(shape) for value in found]
    return torch.stack(found) if isinstance(q, Tensor) and q.dim() else found[0]


def _at_secret(ordered: Tensor, ranks: Tensor, interpolation: str) -> Tensor:
    """[size, rest] at secret ranks [m] -> [m, rest]: 1 - |rank - place| for each place, or 0."""
    if interpolation != "linear":
        ranks = ranks.detach()  # whole ranks do not move with it
    wanted = {
        "linear": lambda: [ranks],
        "lower": lambda: [ranks.floor()],
        "higher": lambda: [ranks.ceil()],
        "nearest": lambda: [ranks.round()],
        "midpoint": lambda: [ranks.floor(), ranks.ceil()],
    }[interpolation]()
    places = public(torch.arange(ordered.shape[0], dtype=torch.float64))
    weights = [torch.relu(1 - (rank.unsqueeze(1) - places).abs()) for rank in wanted]
    weight = weights[0] if len(weights) == 1 else (weights[0] + weights[1]) / 2
    out: Tensor = torch.tensordot(weight, ordered, 1)
    return out


def _at(ordered: Tensor, dim: int, rank: float, interpolation: str) -> Tensor:
    # 0.3 * 10 is a rank of 3, as in torch, whose ranks have single precision
    rank = round(rank) if abs(rank - round(rank)) < 1e-6 * max(1.0, rank) else rank
    low = math.floor(rank)
    fraction = rank - low
    below = ordered.select(dim, low)
    if interpolation == "nearest" and fraction == 0.5:
        return ordered.select(dim, low + low % 2)
    weight = _WEIGHTS[interpolation](fraction)
    return torch.lerp(below, ordered.select(dim, low + 1), weight) if weight else below.clone()
