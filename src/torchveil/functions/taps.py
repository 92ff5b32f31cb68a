"""Public matrices with few entries in a row, along one dimension: resampling, averages of windows, bags of rows.

The entries are rational: integer weights over one common divisor. The weighted sum is local and follows openings and
masks alike; the divisor goes into the scale, so that the result is pending and is truncated with whatever follows. A
matrix whose entries have no common divisor up to 2**20 is rounded to multiples of 2**-20.

Cost: 0 rounds and 0 bytes here; one truncation when the result is needed. Error: 2**-21 of the largest |x| for each
entry of a row if the weights had to be rounded, otherwise none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from torchveil.functions import arithmetic as ar
from torchveil.functions.structure import apply
from torchveil.handle import Handle, Public

#: The largest common divisor of weights that is kept exactly.
_LARGEST_DIVISOR = 2**20

#: A pending value takes divisors into its scale up to here; it then holds |x| < 2**17.
_LARGEST_SCALE = 2**44


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """out[j] = sum over t of weights[j, t] / divisor * x[index[j, t]]; x has ``size`` entries along the dimension."""

    index: Tensor
    weights: Tensor
    divisor: int
    size: int

    @property
    def picks(self) -> bool:
        """Whether every result is one entry of x."""
        return self.divisor == 1 and self.index.shape[1] == 1 and bool((self.weights == 1).all())

    def transposed(self) -> Taps:
        """The transposed matrix, for gradients."""
        columns = self.index.reshape(-1)
        rows = torch.arange(self.index.shape[0]).repeat_interleave(self.index.shape[1])
        return _padded(columns, rows, self.weights.reshape(-1), self.divisor, (self.size, self.index.shape[0]))


def _padded(rows: Tensor, columns: Tensor, weights: Tensor, divisor: int, shape: tuple[int, int]) -> Taps:
    """Entries (row, column, weight) as equally long rows; the missing ones have the weight 0."""
    kept = weights != 0
    rows, columns, weights = rows[kept], columns[kept], weights[kept]
    order = torch.argsort(rows, stable=True)
    rows, columns, weights = rows[order], columns[order], weights[order]
    counts = torch.bincount(rows, minlength=shape[0])
    width = int(counts.max()) if counts.numel() else 0
    places = torch.arange(rows.numel()) - (counts.cumsum(0) - counts)[rows]
    index = torch.zeros((shape[0], width), dtype=torch.int64)
    factors = torch.zeros((shape[0], width), dtype=torch.int64)
    index[rows, places] = columns
    factors[rows, places] = weights
    return Taps(index, factors, divisor, shape[1])


def picking(index: Tensor, size: int) -> Taps:
    """out[j] = x[index[j]]."""
    return Taps(index.reshape(-1, 1), torch.ones((index.numel(), 1), dtype=torch.int64), 1, size)


def from_entries(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Taps:
    """The matrix of ``shape`` with these entries (float64), as integers over a common divisor."""
    divisor = _common_divisor(values)
    return _padded(rows, columns, torch.round(values * divisor).to(torch.int64), divisor, shape)


def from_matrix(matrix: Tensor) -> Taps:
    """A dense matrix [out, in] of float64."""
    rows, columns = matrix.nonzero(as_tuple=True)
    return from_entries(rows, columns, matrix[rows, columns], (matrix.shape[0], matrix.shape[1]))


def _common_divisor(values: Tensor) -> int:
    """The smallest number that makes all values whole but for rounding errors, or 2**20 if that is too large."""
    divisor = 1
    for value in values.abs().unique().tolist():
        guess = Fraction(value).limit_denominator(_LARGEST_DIVISOR)
        divisor = math.lcm(divisor, guess.denominator)
        if divisor > _LARGEST_DIVISOR or abs(float(guess) - value) > 2.0**-40 * max(1.0, value):
            return _LARGEST_DIVISOR
    return divisor


def apply_taps(x: Handle, dim: int, taps: Taps) -> Handle:
    """The matrix along ``dim`` of x; local. The result is pending if the divisor is not 1."""
    dim = dim % len(x.shape)
    if taps.picks:
        return apply(x, "index_select", dim, taps.index[:, 0])
    if isinstance(x, Public):
        summed = apply(Public(x.session, x.shape, tensor=x.dense().double()), "taps", dim, taps.index, taps.weights)
        return ar.multiply(summed, Public(x.session, (), fill=1 / taps.divisor))
    wire = ar.secret(x) if taps.divisor == 1 else ar.secret(ar.as_number(x))
    if wire.stretched or wire.scale * taps.divisor > _LARGEST_SCALE:
        wire = ar.narrow(wire)
    out = apply(wire, "taps", dim, taps.index, taps.weights)
    result = ar.secret(out)
    result.scale = wire.scale * taps.divisor
    result.nonnegative = wire.nonnegative and bool((taps.weights >= 0).all())
    return result


def apply_axes(x: Handle, first: int, axes: list[Taps]) -> Handle:
    """One matrix for each dimension from ``first`` on. Those that shrink go first; then less is left to do."""
    for k in sorted(range(len(axes)), key=lambda k: axes[k].index.shape[0] / max(1, axes[k].size)):
        x = apply_taps(x, first + k, axes[k])
    return x


def of_axis(linear: Callable[[Tensor], Tensor], dimensions: int, axis: int, size: int, across: int = 1) -> Taps:
    """The matrix by which a public linear map acts along one of its spatial axes: torch's own map of unit vectors.

    ``linear`` takes [size, 1, *spatial] in float64, with ``size`` entries along ``axis`` and ``across`` along the
    others, which it has to leave alone.
    """
    spatial = [size if k == axis else across for k in range(dimensions)]
    shape = [size if k == axis else 1 for k in range(dimensions)]
    units = torch.eye(size, dtype=torch.float64).reshape(size, 1, *shape).expand(size, 1, *spatial)
    image = linear(units.contiguous())
    for k in range(dimensions):
        if k != axis:
            image = image.narrow(2 + k, 0, 1)
    return from_matrix(image.reshape(size, -1).t())
