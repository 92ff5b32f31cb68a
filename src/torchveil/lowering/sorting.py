"""Sorting, ranks and medians; where the values came from stays secret, and the way back of the gradient with it."""

from __future__ import annotations

from typing import Any

from torchveil.errors import InvalidArgument, UnsupportedOperation
from torchveil.fixedpoint import FixedPoint
from torchveil.functions import arithmetic as ar
from torchveil.functions import sorting
from torchveil.functions.structure import apply
from torchveil.handle import Deferred, Handle, Public, Secret
from torchveil.lowering.table import aten, lowers


def _places(found: Handle, order: sorting.Order | None) -> Deferred:
    """An index that remembers the swaps, for the gradient."""
    out = Deferred(found.session, found.shape, lambda: found, {} if order is None else {"order": order})
    out.whole = True
    return out


def _ordered(x: Handle, dim: int, descending: bool) -> tuple[Handle, Handle, sorting.Order | None, int]:
    wire = ar.secret(x)
    if not wire.shape:
        return wire, ar.constant(Public(wire.session, (), fill=0.0), 1, FixedPoint(2, 0)), None, 0
    dim = dim % len(wire.shape)
    # two sorts of one value, as of a median and its index, are one
    key = f"sorted {dim} {descending}"
    if key not in wire.memo:
        wire.memo[key] = sorting.sort(wire, dim, descending=descending)
    values, places, order = wire.memo[key]
    return values, places, order, dim


@lowers(aten.sort.default)
def _sort(x: Handle, dim: int = -1, descending: bool = False) -> tuple[Handle, Handle]:
    values, places, order, _ = _ordered(x, dim, descending)
    return values, _places(places, order)


@lowers(aten.sort.stable)
def _stable_sort(x: Handle, *, stable: bool | None, dim: int = -1, descending: bool = False) -> tuple[Handle, Handle]:
    return _sort(x, dim, descending)


def _slice(x: Handle, dim: int, start: int, count: int) -> Handle:
    return apply(x, "slice", dim, start, start + count, 1) if x.shape else x


@lowers(aten.topk.default)
def _topk(x: Handle, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Handle, Handle]:
    if not 0 <= k <= (x.shape[dim] if x.shape else 1):
        raise InvalidArgument(f"the {k} largest of fewer entries", op="topk", remedy="check k")
    values, places, order, dim = _ordered(x, dim, largest)
    return _slice(values, dim, 0, k), _places(_slice(places, dim, 0, k), order and order.part(0, k))


@lowers(aten.kthvalue.default)
def _kth(x: Handle, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Handle, Handle]:
    if not 0 < k <= (x.shape[dim] if x.shape else 1):
        raise InvalidArgument(f"the {k}-th smallest of fewer entries", op="kthvalue", remedy="check k")
    values, places, order, dim = _ordered(x, dim, False)
    value, place = _slice(values, dim, k - 1, 1), _slice(places, dim, k - 1, 1)
    if not keepdim and x.shape:
        value, place = apply(value, "squeeze_dim", dim), apply(place, "squeeze_dim", dim)
    return value, _places(place, order and order.part(k - 1, 1))


@lowers(aten.median.dim, aten.nanmedian.dim)
def _median_dim(x: Handle, dim: int, keepdim: bool = False) -> tuple[Handle, Handle]:
    """The lower of two medians, as torch's."""
    size = x.shape[dim] if x.shape else 1
    if not size:
        raise UnsupportedOperation("the median of nothing", op="median", remedy="check the shape")
    return _kth(x, (size + 1) // 2, dim, keepdim)


@lowers(aten.median.default, aten.nanmedian.default)
def _median(x: Handle) -> Handle:
    return _median_dim(apply(x, "reshape", (-1,)), 0)[0]


def _refuse(op: Any, what: str, remedy: str) -> None:
    """An op whose result's shape would tell what nobody may know."""
    name = op._schema.name.split("::")[1]

    def refuse(*_args: Any, **_kwargs: Any) -> Secret:
        raise UnsupportedOperation(what, op=name, remedy=remedy)

    lowers(op)(refuse)


for _op in (aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default):
    _refuse(_op, "how many values differ would show in the shape", "sort, and compare neighbours on shares")
_refuse(aten.nonzero.default, "how many entries are not zero would show in the shape", "use masks and torch.where")
_refuse(aten.mode.default, "the most frequent value", "count with one_hot(...).sum(0) and take its argmax")
_refuse(aten.bincount.default, "the largest secret would show in the shape", "use one_hot(x, n).sum(0)")
