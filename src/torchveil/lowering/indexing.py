"""Indexing by public and by secret indices, and the scatter forms that are their gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import comparison as cmp
from torchveil.functions import look_up
from torchveil.functions.structure import apply
from torchveil.handle import Bit, Deferred, Handle, Public, Secret
from torchveil.lowering.table import aten, lowers, operand


def _public_indices(indices: Any, op: str) -> tuple[Tensor | None, ...]:
    out: list[Tensor | None] = []
    for index in indices:
        if index is None or isinstance(index, Tensor):
            out.append(index)
        elif isinstance(index, Public):
            dense = index.dense()
            out.append(dense if dense.dtype is torch.bool else dense.to(torch.int64))
        else:
            raise UnsupportedOperation(
                "indexing by a secret: the shape or the places would be public",
                op=op,
                remedy="select with a mask (torch.where), a one-hot product, or torch.gather on one-hot rows",
            )
    return tuple(out)


def _is_secret(index: Any) -> bool:
    """A secret whole number per element; a mask or a fraction is none."""
    whole = isinstance(index, Deferred) and index.whole
    return whole or (isinstance(index, Secret) and index.scale == index.format.scale == 1)


def _secret_rows(indices: Any) -> tuple[int, Handle] | None:
    """(dimension, index) if one dimension is indexed, by a secret."""
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    return given[0] if len(given) == 1 and _is_secret(given[0][1]) else None


@lowers(aten.index.Tensor, aten._unsafe_index.Tensor, indices=True)
def _index(x: Any, indices: Any) -> Handle:
    if isinstance(x, Tensor):
        _public_indices(indices, "index")
        raise UnsupportedOperation("indexing a plain tensor by a secret", op="index", remedy="share the tensor")
    rows = _secret_rows(indices)
    if rows is not None:
        return look_up.take_rows(x, *rows)
    return apply(x, "index", _public_indices(indices, "index"))


@lowers(aten.index_select.default, indices=True)
def _index_select(x: Handle, dim: int, index: Any) -> Handle:
    if _is_secret(index):
        return look_up.take_rows(x, dim % max(1, len(x.shape)), index)
    return apply(x, "index_select", dim, _public_indices([index], "index_select")[0])


@lowers(aten.gather.default, indices=True)
def _gather(x: Handle, dim: int, index: Any, *, sparse_grad: bool = False) -> Handle:
    pooled = index.attachments.get("pooled") if isinstance(index, Deferred) else None
    if pooled is not None and dim % len(x.shape) == len(x.shape) - 1 and pooled.serves(index.shape, x.shape[-1]):
        # the gradient of an unpooling: what lies where the maxima of a pooling were
        planes = pooled.resized(x, math.prod(pooled.windows.sizes))
        planes = apply(planes, "reshape", (*pooled.batch, *pooled.windows.sizes))
        return apply(pooled.pick(planes), "reshape", index.shape)
    if _is_secret(index) and x.shape:
        return look_up.gather(x, dim % len(x.shape), index)
    return apply(x, "gather", dim, _public_indices([index], "gather")[0])


@lowers(aten.index_put.default, indices=True)
def _index_put(x: Handle, indices: Any, values: Handle, accumulate: bool = False, unsafe: bool = False) -> Handle:
    rows = _secret_rows(indices)
    if rows is not None:
        return _put_rows(x, *rows, operand(values, x), accumulate)
    if len(indices) == 1 and isinstance(indices[0], Bit) and not accumulate and not operand(values, x).shape:
        shape = indices[0].shape + (1,) * (len(x.shape) - len(indices[0].shape))
        chosen = apply(indices[0], "reshape", shape)
        return cmp.where(chosen, ar.expand_to(operand(values, x), x.shape), x)
    places = _public_indices(indices, "index_put")
    flat = _numbered(x.shape)[tuple(slice(None) if p is None else p for p in places)]
    values = ar.expand_to(operand(values, x), tuple(flat.shape))
    if not accumulate:
        return _overwritten(x, flat, values)
    return ar.add(x, apply(values, "scatter_index", x.shape, places))


def _numbered(shape: tuple[int, ...]) -> Tensor:
    """Every place of a shape by its number in memory order."""
    return torch.arange(math.prod(shape)).reshape(shape)


def _overwritten(x: Handle, flat: Tensor, values: Handle) -> Handle:
    """x with ``values`` at the public places whose numbers are in ``flat``, of the same shape; local.

    Of several values for one place the last one stays. torch promises none; without threads it keeps the last, too.
    """
    flat = flat.reshape(-1)
    order = torch.arange(flat.numel())
    last = torch.full((math.prod(x.shape),), -1).scatter_reduce_(0, flat, order, "amax")
    kept = ar.multiply(x, Public(x.session, x.shape, tensor=(last < 0).to(torch.int64).reshape(x.shape)))
    values = apply(values, "reshape", (-1,))
    winners = last[flat] == order
    if not bool(winners.all()):
        values, flat = apply(values, "index_select", 0, order[winners]), flat[winners]
    return ar.add(kept, apply(apply(values, "scatter_index", (last.numel(),), (flat,)), "reshape", x.shape))


def _put_rows(x: Handle, dim: int, index: Handle, values: Handle, accumulate: bool) -> Handle:
    """Rows written at secret places; places that are meant twice get the sum, where torch promises nothing."""
    shape = (*x.shape[:dim], *index.shape, *x.shape[dim + 1 :])
    placed = look_up.add_rows(x.shape, dim, index, ar.expand_to(values, shape))
    if not accumulate:
        row = [1] * len(x.shape)
        row[dim] = -1
        hit = apply(look_up.hits(index, x.shape[dim]), "reshape", tuple(row))
        x = _cleared(x, hit, look_up.index_count(index))
    return ar.add(x, placed)


def _cleared(x: Handle, hit: Handle, most: int) -> Handle:
    """x with zeros at the secret places that are written ``hit`` times, at most ``most``.

    Counts that may exceed one are compared with 0: 3 or 4 rounds more.
    """
    if most <= 1:
        return ar.add(x, ar.multiply(x, hit), -1)
    return cmp.where(cmp.compare_scalar(ar.secret(hit), 0, "gt"), Public(x.session, x.shape, fill=0.0), x)


@lowers(aten.scatter_add.default, indices=True)
def _scatter_add(x: Handle, dim: int, index: Any, src: Handle) -> Handle:
    if not x.shape and _is_secret(index):
        return ar.add(x, operand(src, x))  # the only place there is
    if _is_secret(index) and x.shape:
        return ar.add(x, look_up.scatter_add(x.shape, dim % len(x.shape), index, operand(src, x)))
    places = _public_indices([index], "scatter_add")[0]
    return ar.add(x, apply(operand(src, x), "scatter_gather", x.shape, dim, places))


@lowers(aten.index_add.default, indices=True)
def _index_add(x: Handle, dim: int, index: Any, source: Handle, *, alpha: float = 1) -> Handle:
    if _is_secret(index):
        return ar.add(x, look_up.add_rows(x.shape, dim % max(1, len(x.shape)), index, operand(source, x)), alpha)
    if not x.shape:
        return ar.add(x, apply(apply(operand(source, x), "reshape", (-1,)), "sum", (0,), False), alpha)
    # torch takes one place without dimensions, for one row
    rows = (place if place is None else place.reshape(-1) for place in _public_indices([index], "index_add"))
    places = (*[None] * (dim % max(1, len(x.shape))), *rows)
    return ar.add(x, apply(operand(source, x), "scatter_index", x.shape, places), alpha)


@lowers(aten.scatter.src, indices=True)
def _scatter(x: Handle, dim: int, index: Any, src: Handle) -> Handle:
    if not x.shape and _is_secret(index):
        return src  # the only place there is
    winners = index.attachments.get("winners") if isinstance(index, Deferred) else None
    if winners is not None and isinstance(x, Public) and x.fill == 0:
        # the gradient of max or min along a dimension: torch scatters it to the (secret) winner
        dim = dim % max(1, len(x.shape))
        row = (*x.shape[:dim], 1, *x.shape[dim + 1 :]) if x.shape else ()
        if winners.dim == dim and index.shape == row == src.shape:
            return winners.distribute(ar.secret(src)) if x.shape else src
    order = index.attachments.get("order") if isinstance(index, Deferred) else None
    if order is not None and isinstance(x, Public) and x.fill == 0 and order.dim == dim % max(1, len(x.shape)):
        # the gradient of a sort, a k-th value or a median
        used = (*x.shape[: order.dim], order.count, *x.shape[order.dim + 1 :])
        if x.shape[order.dim] == order.size and index.shape == used == src.shape:
            found: Handle = order.distribute(ar.secret(src))
            return found
    if _is_secret(index) and x.shape:
        return _scatter_secret(x, dim % len(x.shape), index, src)
    places = _public_indices([index], "scatter")[0]
    if places is None:
        raise UnsupportedOperation("a scatter without places", op="scatter")
    values = operand(src, x)
    if not x.shape:
        # torch takes one place and one value with or without a dimension
        return apply(apply(values, "reshape", (-1,)), "sum", (0,), False)
    for d, size in enumerate(places.shape):
        values = values if values.shape[d] == size else apply(values, "slice", d, 0, size, 1)
    return _overwritten(x, _numbered(x.shape).gather(dim, places), values)


def _scatter_secret(x: Handle, dim: int, index: Handle, src: Handle) -> Handle:
    """Values written at secret places; places that are meant twice get the sum, where torch promises nothing."""
    ones = Public(x.session, index.shape, fill=1.0)
    hit = look_up.scatter_add(x.shape, dim, index, ones)
    return ar.add(_cleared(x, hit, index.shape[dim]), look_up.scatter_add(x.shape, dim, index, src))


@lowers(aten.scatter.value, indices=True)
def _scatter_value(x: Handle, dim: int, index: Any, value: float) -> Handle:
    if _is_secret(index) and x.shape:
        dim = dim % len(x.shape)
        hit = look_up.scatter_add(x.shape, dim, index, Public(x.session, index.shape, fill=1.0))
        met = hit if index.shape[dim] == 1 else cmp.compare_scalar(ar.secret(hit), 0, "gt")
        return cmp.where(met, Public(x.session, x.shape, fill=float(value)), x)
    places = _public_indices([index], "scatter")[0]
    if places is None:
        raise UnsupportedOperation("a scatter without places", op="scatter")
    mask = torch.ones(x.shape, dtype=torch.int64).scatter_(dim, places, 0)
    kept = ar.multiply(x, Public(x.session, x.shape, tensor=mask))
    return ar.add(kept, Public(x.session, x.shape, tensor=(1 - mask).to(torch.float64) * value))
