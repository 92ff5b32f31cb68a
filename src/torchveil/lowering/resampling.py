"""Interpolation and sampling at public places: public matrices, local; the weights are torch's own.

Every mode of ``interpolate`` acts along each dimension by itself, so torch tells the weights by mapping unit vectors.
``grid_sample`` reads a public grid; a secret grid would be indexing by a secret.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.functions.structure import apply
from torchveil.functions.taps import Taps, apply_axes, apply_taps, from_entries, from_matrix, of_axis
from torchveil.handle import Handle, Public
from torchveil.lowering.table import aten, lowers

# --- interpolate -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _axis(op: Any, n: int, k: int, size: int, out: int, align: tuple[bool, ...], scale: float | None) -> Taps:
    # two entries across: torch 2.13 resamples columns of width one wrongly with antialiasing
    outs = [out if j == k else 2 for j in range(n)]
    scales = [scale if j == k else None for j in range(n)]
    return of_axis(lambda x: op(x, outs, *align, *scales), n, k, size, across=2)


def _axes(op: Any, n: int, sizes: Any, outs: Any, options: tuple[Any, ...]) -> list[Taps]:
    """``options`` are align_corners, where the mode has it, and the scale of each dimension, where it was given."""
    align = tuple(option for option in options if isinstance(option, bool))
    scales = [*options[len(align) :], *[None] * n]
    return [_axis(op, n, k, sizes[k], outs[k], align, scales[k]) for k in range(n)]


def _rules(op: Any, n: int) -> tuple[Callable[..., Handle], Callable[..., Handle]]:
    def resample(x: Handle, outs: Any, *options: Any) -> Handle:
        return apply_axes(x, 2, _axes(op, n, x.shape[2:], outs, options))

    def backward(grad: Handle, outs: Any, size: Any, *options: Any) -> Handle:
        axes = _axes(op, n, size[2:], outs, options)
        return apply_axes(grad, 2, [axis.transposed() for axis in axes])

    return resample, backward


#: mode -> (forward, backward, dimensions)
_MODES: list[tuple[Any, Any, int]] = [
    (aten.upsample_nearest1d.default, aten.upsample_nearest1d_backward.default, 1),
    (aten.upsample_nearest2d.default, aten.upsample_nearest2d_backward.default, 2),
    (aten.upsample_nearest3d.default, aten.upsample_nearest3d_backward.default, 3),
    (aten._upsample_nearest_exact1d.default, aten._upsample_nearest_exact1d_backward.default, 1),
    (aten._upsample_nearest_exact2d.default, aten._upsample_nearest_exact2d_backward.default, 2),
    (aten._upsample_nearest_exact3d.default, aten._upsample_nearest_exact3d_backward.default, 3),
    (aten.upsample_linear1d.default, aten.upsample_linear1d_backward.default, 1),
    (aten.upsample_bilinear2d.default, aten.upsample_bilinear2d_backward.default, 2),
    (aten.upsample_trilinear3d.default, aten.upsample_trilinear3d_backward.default, 3),
    (aten.upsample_bicubic2d.default, aten.upsample_bicubic2d_backward.default, 2),
    (aten._upsample_bilinear2d_aa.default, aten._upsample_bilinear2d_aa_backward.default, 2),
    (aten._upsample_bicubic2d_aa.default, aten._upsample_bicubic2d_aa_backward.default, 2),
]
for _op, _backward_op, _n in _MODES:
    _resample, _backward = _rules(_op, _n)
    lowers(_op)(_resample)
    lowers(_backward_op)(_backward)


# --- grids -----------------------------------------------------------------------------------------------------------

_BILINEAR, _NEAREST, _BICUBIC = 0, 1, 2
_ZEROS, _BORDER, _REFLECTION = 0, 1, 2

#: The parameter of torch's cubic convolution.
_CUBIC = -0.75


def _bounded(place: Tensor, size: int, padding: int, align: bool) -> Tensor:
    """A place along a dimension, moved into it as ``padding`` says."""
    if padding == _ZEROS:
        return place
    if padding == _REFLECTION:
        low, span = (0.0, size - 1.0) if align else (-0.5, float(size))
        if span == 0:
            return torch.zeros_like(place)
        away = (place - low).abs()
        turns, rest = torch.floor(away / span), torch.fmod(away, span)
        place = torch.where(turns.fmod(2) == 0, rest, span - rest) + low
    return place.clamp(0, size - 1)


def _cubic_weight(distance: Tensor) -> Tensor:
    """Weights of the cubic convolution for 0 <= distance <= 2."""
    a, x = _CUBIC, distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, far)


def _axis_taps(coordinate: Tensor, size: int, mode: int, padding: int, align: bool) -> list[tuple[Tensor, Tensor]]:
    """(places, weights) along one dimension for coordinates in [-1, 1]; what lies outside has the weight 0."""
    place = (coordinate + 1) / 2 * (size - 1) if align else ((coordinate + 1) * size - 1) / 2
    if mode == _BICUBIC:
        base = place.floor()
        found = [(base + k, _cubic_weight((place - base - k).abs())) for k in (-1, 0, 1, 2)]
        found = [(_bounded(at, size, padding, align), weight) for at, weight in found]
    else:
        place = _bounded(place, size, padding, align)
        base = place.floor()
        found = [(base, base + 1 - place), (base + 1, place - base)]
        if mode == _NEAREST:
            found = [(place.round(), torch.ones_like(place))]
    out = []
    for at, weight in found:
        inside = (at >= 0) & (at <= size - 1)
        out.append((at.clamp(0, size - 1).to(torch.int64), weight * inside))
    return out


def _grid_taps(sizes: tuple[int, ...], grid: Tensor, mode: int, padding: int, align: bool) -> Taps:
    """From [N * places in the input] to [N * points of the grid]."""
    n, d = grid.shape[0], grid.shape[-1]
    points = grid.to(torch.float64).reshape(n, -1, d)
    # the last coordinate of the grid belongs to the first spatial dimension
    axes = [_axis_taps(points[..., d - 1 - k], sizes[k], mode, padding, align) for k in range(d)]
    rows = torch.arange(points.shape[0] * points.shape[1])
    whole = math.prod(sizes)
    start = (torch.arange(n) * whole).unsqueeze(1)
    columns, weights = [], []
    for corner in product(*axes):
        flat, weight = torch.zeros((), dtype=torch.int64), torch.ones((), dtype=torch.float64)
        for size, (place, factor) in zip(sizes, corner, strict=True):
            flat, weight = flat * size + place, weight * factor
        columns.append((start + flat).reshape(-1))
        weights.append(weight.reshape(-1))
    return from_entries(rows.repeat(len(columns)), torch.cat(columns), torch.cat(weights), (rows.numel(), n * whole))


def _public_grid(grid: Handle) -> Tensor:
    if isinstance(grid, Public):
        return grid.dense()
    raise UnsupportedOperation(
        "sampling at secret places", op="grid_sample", remedy="pass a public grid: torchveil.public(grid)"
    )


def _sample(x: Handle, taps: Taps, outs: tuple[int, ...]) -> Handle:
    """A matrix on the batch and the places of [N, C, *sizes], counted as one dimension."""
    n, c = x.shape[:2]
    flat = apply(apply(x, "transpose", 0, 1), "reshape", (c, -1))
    out = apply(apply_taps(flat, 1, taps), "reshape", (c, n, *outs))
    return apply(apply(out, "transpose", 0, 1), "contiguous")


@lowers(aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
def _grid_sample(x: Handle, grid: Handle, mode: int, padding: int, align: bool) -> Handle:
    points = _public_grid(grid)
    taps = _grid_taps(x.shape[2:], points, mode, padding, align)
    return _sample(x, taps, tuple(points.shape[1:-1]))


@lowers(aten.grid_sampler_2d_backward.default, aten.grid_sampler_3d_backward.default)
def _grid_sample_backward(
    grad: Handle, x: Handle, grid: Handle, mode: int, padding: int, align: bool, output_mask: list[bool]
) -> tuple[Handle | None, Handle | None]:
    if not output_mask[0]:
        return None, None
    taps = _grid_taps(x.shape[2:], _public_grid(grid), mode, padding, align).transposed()
    return _sample(grad, taps, x.shape[2:]), None


@lru_cache(maxsize=64)
def _affine_taps(size: tuple[int, ...], align: bool) -> Taps:
    """[points, d + 1]: the homogeneous coordinates of the points of the grid."""
    d = len(size) - 2
    units = torch.zeros((d + 1, d, d + 1), dtype=torch.float64)
    units[torch.arange(d + 1), 0, torch.arange(d + 1)] = 1
    points: Tensor = aten.affine_grid_generator.default(units, [d + 1, 1, *size[2:]], align)
    return from_matrix(points[..., 0].reshape(d + 1, -1).t())


@lowers(aten.affine_grid_generator.default)
def _affine_grid(theta: Handle, size: list[int], align: bool) -> Handle:
    """theta [N, d, d + 1] -> [N, *size, d]."""
    points = apply_taps(theta, 2, _affine_taps(tuple(size), align))
    return apply(apply(points, "transpose", 1, 2), "reshape", (theta.shape[0], *size[2:], len(size) - 2))
