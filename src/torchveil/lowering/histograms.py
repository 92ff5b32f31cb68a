"""Histograms and places among boundaries: comparisons of every number with every boundary, in one batch.

The number of bins is public, the edges may be secret: between the smallest and the largest secret they are. What is
counted where stays secret. n numbers and b bins take n (b + 1) comparisons, 4 rounds after the edges; more dimensions
take products of the rows of zeros and ones, one round each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchveil.lowering.table import aten, composes
from torchveil.public import public

# --- boundaries ------------------------------------------------------------------------------------------------------


@composes(aten.bucketize.Tensor)
def _bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many of the ascending boundaries, public or secret, lie below x."""
    point = x.unsqueeze(-1)
    return (point >= boundaries if right else point > boundaries).sum(-1)


@composes(aten.searchsorted.Tensor)
def _searchsorted(
    boundaries: Tensor,
    x: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """The order of the boundaries does not change how many are below; a ``sorter`` says no more than that."""
    rows = boundaries if boundaries.dim() == 1 else boundaries.unsqueeze(-2)
    return _bucketize(x, rows, right=right or side == "right")


@composes(aten.searchsorted.Scalar)
def _searchsorted_scalar(
    boundaries: Tensor,
    x: float,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    return (boundaries <= x if right or side == "right" else boundaries < x).sum(-1)


# --- histograms ------------------------------------------------------------------------------------------------------


def _edges(x: Tensor, bins: int, limits: Sequence[float] | None, margin: float) -> Tensor:
    """[bins + 1] from the lower limit to the upper; of secrets of which nothing is known, from the smallest to the
    largest. Limits that are equal are moved apart by ``margin`` each, as torch does."""
    parts = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    if limits is None and not x.numel():
        limits = (0.0, 1.0)
    if limits is not None:
        low, high = limits
        low, high = (low - margin, high + margin) if low == high else (low, high)
        return public(low + (high - low) * parts)
    least, most = x.reshape(-1).amin(), x.reshape(-1).amax()
    apart = (least == most).to(torch.float32) * margin
    least, most = least - apart, most + apart
    inner = least + (most - least) * public(parts[1:-1])
    # the ends are the numbers themselves: no rounding leaves one of them outside
    return torch.cat([least.reshape(1), inner, most.reshape(1)])


def _members(x: Tensor, edges: Tensor) -> Tensor:
    """[n, bins]: 1 where number n lies in the bin. Each has its lower edge, the last also its upper."""
    points = x.unsqueeze(1)
    # one batch: not above the last edge is not below it with the signs changed
    beside = torch.cat([points - edges[:-1], edges[-1:] - points], 1)
    inside = (beside >= 0).to(torch.float32)
    above = torch.cat([inside[:, :-1], 1 - inside[:, -1:]], 1)
    return above[:, :-1] - above[:, 1:]


def _counted(x: Tensor, edges: Sequence[Tensor], weight: Tensor | None, density: bool) -> Tensor:
    """Counts, sums of weights or densities of the rows of x [n, dimensions] in bins between edges."""
    rows: Tensor | None = None if weight is None else weight.reshape(-1, 1)
    for dim, ends in enumerate(edges):
        members = _members(x[:, dim], ends)
        if rows is None:
            rows = members
        else:
            rows = (rows.unsqueeze(2) * members.unsqueeze(1)).flatten(1)
    if rows is None:
        raise TypeError("no dimensions")
    out = rows.sum(0).reshape([len(ends) - 1 for ends in edges])
    if not density:
        return out
    out = out / out.sum()
    for dim, ends in enumerate(edges):
        widths = ends[1:] - ends[:-1]
        out = out / widths.reshape([-1 if d == dim else 1 for d in range(len(edges))])
    return out


@composes(aten.histc.default)
def _histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Counts per bin of equal width; what lies outside is not counted."""
    edges = _edges(x, bins, None if min == max else (min, max), 1.0)
    return _counted(x.reshape(-1, 1), [edges], None, False)


@composes(aten.histogram.bin_ct)
def _histogram(
    x: Tensor, bins: int = 100, *, range: list[float] | None = None, weight: Tensor | None = None, density: bool = False
) -> tuple[Tensor, Tensor]:
    edges = _edges(x, bins, range, 0.5)
    return _counted(x.reshape(-1, 1), [edges], weight, density), edges


@composes(aten.histogram.bins_tensor)
def _histogram_between(
    x: Tensor, bins: Tensor, *, weight: Tensor | None = None, density: bool = False
) -> tuple[Tensor, Tensor]:
    return _counted(x.reshape(-1, 1), [bins], weight, density), bins.clone()


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _all_edges(x: Tensor, bins: list[int], limits: list[float] | None) -> list[Tensor]:
    rows = _rows(x)
    return [
        _edges(rows[:, d], count, None if limits is None else limits[2 * d : 2 * d + 2], 0.5)
        for d, count in enumerate(bins)
    ]


@composes(aten._histogramdd_bin_edges.default)
def _histogramdd_edges(
    x: Tensor, bins: list[int], *, range: list[float] | None = None, **_options: Any
) -> list[Tensor]:
    return _all_edges(x, bins, range)


@composes(aten._histogramdd_from_bin_cts.default)
def _histogramdd(
    x: Tensor, bins: list[int], *, range: list[float] | None = None, weight: Tensor | None = None, density: bool = False
) -> Tensor:
    return _counted(_rows(x), _all_edges(x, bins, range), weight, density)


@composes(aten._histogramdd_from_bin_tensors.default)
def _histogramdd_between(
    x: Tensor, bins: list[Tensor], *, weight: Tensor | None = None, density: bool = False
) -> Tensor:
    return _counted(_rows(x), bins, weight, density)
