"""Reductions: sums and means are local; the winner bits of a maximum serve its index and its gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import comparison as cmp
from torchveil.functions import exclusion, normalise
from torchveil.functions.maximum import maximum
from torchveil.functions.structure import apply
from torchveil.handle import Bit, Deferred, Excluding, ExcludingAbove, Handle, Public
from torchveil.lowering import elementwise
from torchveil.lowering.table import aten, lowers


def _dims(x: Handle, dim: Any) -> tuple[int, ...]:
    if dim is None or dim == []:
        return tuple(range(len(x.shape)))
    dims = [dim] if isinstance(dim, int) else list(dim)
    return tuple(d % max(1, len(x.shape)) for d in dims)


def _count(x: Handle, dim: Any) -> int:
    """How many elements a reduction over ``dim`` takes together; one number is one element."""
    return math.prod(x.shape[d] for d in _dims(x, dim)) if x.shape else 1


def total(x: Handle, dim: Any = None, keepdim: bool = False) -> Handle:
    """Sum over dimensions (all for None); local."""
    dims = _dims(x, dim)
    if not x.shape:
        return ar.secret(x) if isinstance(x, Bit) else x
    return apply(x, "sum", dims, keepdim)


@lowers(aten.sum.default, deferrable=True)
def _sum(x: Handle, *, dtype: Any = None) -> Handle:
    return total(x)


@lowers(aten.sum.dim_IntList, deferrable=True)
def _sum_dim(x: Handle, dim: Any, keepdim: bool = False, *, dtype: Any = None) -> Handle:
    return total(x, dim, keepdim)


def mean(x: Handle, dim: Any = None, keepdim: bool = False) -> Handle:
    """The sum divided by the count, in one truncation."""
    count = _count(x, dim)
    if count == 0:
        raise UnsupportedOperation("the mean of nothing", op="mean", remedy="check the shape")
    summed = total(ar.as_number(x), dim, keepdim)
    if isinstance(summed, Public):
        return ar.multiply(summed, Public(x.session, (), fill=1.0 / count))
    return ar.divide_scalar(ar.secret(summed), count)


def fine_mean(x: Handle, dims: list[int]) -> Handle:
    """The mean with more digits than its format, dimensions kept: for what is taken from every element of a gradient.

    An error there is the same for all of them, so their sums gather it, where errors of single elements cancel. A
    factor of a product as it is (``stretched``).
    """
    count = math.prod(x.shape[d] for d in dims)
    if isinstance(x, Public):
        return mean(x, dims, True)
    summed = ar.secret(total(ar.as_number(x), dims, True))
    return ar.stretched_quotient(summed, count)


@lowers(aten.mean.default, deferrable=True)
def _mean(x: Handle, *, dtype: Any = None) -> Handle:
    return mean(x)


@lowers(aten.mean.dim, deferrable=True)
def _mean_dim(x: Handle, dim: Any, keepdim: bool = False, *, dtype: Any = None) -> Handle:
    return mean(x, dim, keepdim)


@lowers(aten.cumsum.default)
def _cumsum(x: Handle, dim: int, *, dtype: Any = None) -> Handle:
    return apply(x, "cumsum", dim)


@lowers(aten.var.correction)
def _var(x: Handle, dim: Any = None, *, correction: float | None = 1, keepdim: bool = False) -> Handle:
    return variance(x, dim, 1 if correction is None else correction, keepdim)


def variance(x: Handle, dim: Any, correction: float, keepdim: bool) -> Handle:
    """Mean squared deviation, kept at double scale."""
    count = _count(x, dim)
    centred = ar.narrow(ar.secret(ar.add(x, mean(x, dim, True), -1)))
    squares = ar.multiply(centred, centred)
    return ar.divide_scalar(ar.secret(total(squares, dim, keepdim)), count - correction)


@lowers(aten.std.correction)
def _std(x: Handle, dim: Any = None, *, correction: float | None = 1, keepdim: bool = False) -> Handle:
    return normalise.sqrt(variance(x, dim, 1 if correction is None else correction, keepdim))


@lowers(aten.linalg_vector_norm.default)
def _norm(x: Handle, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Handle:
    dims = list(_dims(x, dim))
    if ord == 2:
        return normalise.sqrt(total(ar.multiply(x, x), dim, keepdim))
    if ord == 0:
        return ar.as_number(total(cmp.compare_scalar(ar.secret(x), 0, "ne"), dim, keepdim))
    size = exclusion.absolute(x) if isinstance(x, ExcludingAbove) else cmp.absolute(x)
    if ord == 1:
        return total(size, dim, keepdim)
    if abs(ord) == math.inf:
        return _over(size, dims, keepdim, 1 if ord > 0 else -1)
    if 0 < ord < 1 and ord != 0.5:
        raise UnsupportedOperation(
            f"a vector norm of order {ord}", op="norm", remedy="use an order of at least 1, 1/2, or one not above 0"
        )
    # as fractions, of the largest or of the smallest by each, whose powers do not leave the range
    most = _over(size, dims, True, 1 if ord > 0 else -1)
    all_most = ar.expand_to(most, size.shape)
    shares = normalise.divide(size, all_most) if ord > 0 else normalise.divide(all_most, size)
    root = elementwise.power(total(elementwise.power(shares, abs(ord)), dim, True), 1 / ord)
    out = ar.multiply(most, root)
    return out if keepdim or not dims else apply(out, "squeeze_dims", tuple(dims))


# --- maxima ----------------------------------------------------------------------------------------------------------


def _selection(x: Handle, dim: int, keepdim: bool, sign: int, *, empty_rows: bool = False) -> tuple[Handle, Handle]:
    """(extremum, index) along dim; the index is evaluated only if somebody reads it.

    ``empty_rows``: of a row of which a mask leaves nothing only the index will be read, which is 0 as in torch.
    """
    if not x.shape:
        return _selection(_flat(x), 0, False, sign, empty_rows=empty_rows)
    if isinstance(x, ExcludingAbove) and sign < 0:
        most, places = _selection(x.below, dim, keepdim, 1, empty_rows=empty_rows)
        return ar.negate(most), places
    dim = dim % len(x.shape)
    empty: Tensor | None = None
    if isinstance(x, Excluding) and sign > 0:
        wire, empty = exclusion.lowered(x, dim, empty_rows=empty_rows)
    else:
        wire = ar.secret(x)
    if 0 in wire.shape[dim : dim + 1]:
        raise UnsupportedOperation("the largest of nothing", op=wire.session.operation, remedy="check the shape")
    signed = wire if sign > 0 else ar.combine([(wire, -1)], scale=wire.scale)
    value, winners = maximum(signed, dim)
    if sign < 0:
        value = ar.combine([(value, -1)], scale=value.scale)
    shape = value.shape if keepdim else (*value.shape[:dim], *value.shape[dim + 1 :])

    def index() -> Handle:
        found: Handle = winners.index(value)
        if empty is not None:
            found = ar.multiply(found, Public(found.session, tuple(empty.shape), tensor=(~empty).to(torch.int64)))
        return found if keepdim else apply(found, "squeeze_dim", dim)

    places = Deferred(wire.session, shape, index, {"winners": winners, "keepdim": keepdim})
    places.whole = True
    return (value if keepdim else apply(value, "squeeze_dim", dim)), places


def _flat(x: Handle) -> Handle:
    return apply(x, "reshape", (-1,))


@lowers(aten.max.dim)
def _max_dim(x: Handle, dim: int, keepdim: bool = False) -> tuple[Handle, Handle]:
    return _selection(x, dim, keepdim, 1)


@lowers(aten.min.dim)
def _min_dim(x: Handle, dim: int, keepdim: bool = False) -> tuple[Handle, Handle]:
    return _selection(x, dim, keepdim, -1)


@lowers(aten.max.default)
def _max(x: Handle) -> Handle:
    return _selection(_flat(x), 0, False, 1)[0]


@lowers(aten.min.default)
def _min(x: Handle) -> Handle:
    return _selection(_flat(x), 0, False, -1)[0]


def _over(x: Handle, dim: Any, keepdim: bool, sign: int) -> Handle:
    if isinstance(x, (Excluding, ExcludingAbove)) and len(_dims(x, dim)) > 1:
        return _over_excluding(x, _dims(x, dim), keepdim, sign)
    for d in sorted(() if not x.shape else _dims(x, dim), reverse=True):
        x = _selection(x, d, keepdim, sign)[0]
    return x


def _over_excluding(x: Handle, dims: tuple[int, ...], keepdim: bool, sign: int) -> Handle:
    """All dimensions as one: a row of which nothing is left may lie in a matrix of which something is."""
    rest = [d for d in range(len(x.shape)) if d not in dims]
    kept = [x.shape[d] for d in rest]
    rows = apply(apply(x, "permute", (*rest, *dims)), "reshape", (*kept, math.prod(x.shape[d] for d in dims)))
    out = _selection(rows, len(kept), False, sign)[0]
    if not keepdim:
        return out
    return apply(out, "reshape", tuple(1 if d in dims else size for d, size in enumerate(x.shape)))


@lowers(aten.amax.default)
def _amax(x: Handle, dim: Any = (), keepdim: bool = False) -> Handle:
    return _over(x, list(dim), keepdim, 1)


@lowers(aten.amin.default)
def _amin(x: Handle, dim: Any = (), keepdim: bool = False) -> Handle:
    return _over(x, list(dim), keepdim, -1)


def _place(x: Handle, dim: int | None, keepdim: bool, sign: int) -> Handle:
    if dim is None:
        return _selection(_flat(x), 0, False, sign, empty_rows=True)[1]
    return _selection(x, dim, keepdim, sign, empty_rows=True)[1]


@lowers(aten.argmax.default)
def _argmax(x: Handle, dim: int | None = None, keepdim: bool = False) -> Handle:
    return _place(x, dim, keepdim, 1)


@lowers(aten.argmin.default)
def _argmin(x: Handle, dim: int | None = None, keepdim: bool = False) -> Handle:
    return _place(x, dim, keepdim, -1)


__all__ = ["fine_mean", "mean", "total", "variance"]
