"""Quantiles: one sort, then public ranks. torch's own would write plain ranks beside secrets."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import replaces
from torchveil.errors import UnsupportedOperation

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
    """torch.quantile for public q: the sort of ``functions.sorting`` and at most one product with a public number."""
    if type(q) not in (float, int, Tensor) or interpolation not in _WEIGHTS:
        raise UnsupportedOperation(
            "a quantile at a secret rank", op="quantile", remedy="give q as a number or a plain tensor"
        )
    flat = dim is None or not x.dim()
    rows = x.reshape(-1) if flat else x
    along = 0 if flat or dim is None else dim % x.dim()
    ordered = torch.sort(rows, along).values
    size = ordered.shape[along]
    found = [_at(ordered, along, float(part) * (size - 1), interpolation) for part in torch.as_tensor(q).reshape(-1)]
    if keepdim:
        shape = [1] * x.dim() if flat else [*x.shape[:along], 1, *x.shape[along + 1 :]]
        found = [value.reshape(shape) for value in found]
    return torch.stack(found) if isinstance(q, Tensor) and q.dim() else found[0]


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
