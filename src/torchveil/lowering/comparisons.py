"""Comparisons, logic on secret bits, and selection by them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import comparison as cmp
from torchveil.functions import exclusion
from torchveil.functions.structure import apply
from torchveil.handle import Bit, Deferred, Excluding, ExcludingAbove, Handle, Public, Secret
from torchveil.lowering.table import aten, lowers, operand


def _infinite(x: Handle) -> bool:
    return isinstance(x, Public) and x.fill is not None and math.isinf(x.fill)


def _between(x: Handle, y: Handle) -> bool:
    """Whether y is a public number between 0 and a unit of x, which no x equals."""
    return isinstance(x, Secret) and isinstance(y, Public) and y.fill is not None and 0 < abs(y.fill) * x.scale < 0.5


def _relation(name: str) -> Any:
    def compare(x: Any, y: Any) -> Handle:
        like = x if isinstance(x, Handle) else y
        x, y = operand(x, like), operand(y, like)
        if isinstance(x, ExcludingAbove) or isinstance(y, ExcludingAbove):
            x, y = exclusion.negated(y), exclusion.negated(x)
        if isinstance(y, Excluding) and not isinstance(x, Excluding):
            return _relation(cmp.MIRRORED[name])(y, x)  # type: ignore[no-any-return]
        if isinstance(x, Excluding) and isinstance(y, Public) and y.fill is not None and math.isinf(y.fill):
            known = torch.zeros(x.shape, dtype=torch.float64).masked_fill(x.excluded, -math.inf)
            verdicts = getattr(torch, name)(known, torch.tensor(y.fill).expand(y.shape))
            return Public(x.session, tuple(verdicts.shape), tensor=verdicts)
        if isinstance(x, Excluding) and not isinstance(y, Excluding):
            return cmp.compare_scalar(exclusion.difference(x, y), 0, name)
        x = x.force() if isinstance(x, Deferred) else x
        y = y.force() if isinstance(y, Deferred) else y
        if name == "lt" and isinstance(x, Secret) and x.nonnegative and isinstance(y, Public) and y.fill == 0:
            # what made it says so: a square, an exponential, a relu
            shape = ar.broadcast(x.shape, y.shape)
            return Public(x.session, shape, tensor=torch.zeros(shape, dtype=torch.bool))
        if isinstance(x, Public) and isinstance(y, Public):
            return Public(x.session, ar.broadcast(x.shape, y.shape), tensor=getattr(torch, name)(x.dense(), y.dense()))
        if x is y or _infinite(x) or _infinite(y):
            # a share holds neither infinities nor nan: any number stands for it
            a, b = (v.fill if isinstance(v, Public) else 0.0 for v in (x, y))
            verdict = bool(getattr(torch, name)(torch.tensor(a), torch.tensor(b)))
            shape = ar.broadcast(x.shape, y.shape)
            return Public(x.session, shape, tensor=torch.full(shape, verdict))
        if name in ("eq", "ne") and (_between(x, y) or _between(y, x)):
            shape = ar.broadcast(x.shape, y.shape)
            return Public(x.session, shape, tensor=torch.full(shape, name == "ne"))
        return cmp.compare(x, y, name)

    return compare


for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _packet = getattr(aten, _name)
    lowers(_packet.Tensor, _packet.Scalar)(_relation(_name))


def _infinities(x: Handle, sign: int) -> Tensor:
    """The public places of plus or minus infinity; a share holds none, and no nan."""
    if isinstance(x, Excluding) and sign < 0:
        return x.excluded
    return _infinities(x.below, -1) if isinstance(x, ExcludingAbove) and sign > 0 else torch.zeros(x.shape).bool()


def _is_infinite(*signs: int) -> Any:
    def found(x: Handle) -> Handle:
        places = torch.zeros(x.shape, dtype=torch.bool)
        for sign in signs:
            places = places | _infinities(x, sign)
        return Public(x.session, x.shape, tensor=places)

    return found


for _op, _signs in (
    (aten.isnan.default, ()), (aten.isinf.default, (1, -1)), (aten.isposinf.default, (1,)),
    (aten.isneginf.default, (-1,)),
):  # fmt: skip
    lowers(_op)(_is_infinite(*_signs))


def as_bit(x: Handle) -> Bit:
    """A handle as a bit (non-zero is true)."""
    x = x.force() if isinstance(x, Deferred) else x
    return x if isinstance(x, Bit) else cmp.compare(x, Public(x.session, (), fill=0.0), "ne")


@lowers(aten.logical_not.default)
def _not(x: Handle) -> Handle:
    return ar.map_bit(as_bit(x), flip=True)


@lowers(aten.bitwise_not.default)
def _bitwise_not(x: Handle) -> Handle:
    _require_truth(x)
    return _not(x)


def _is_truth(x: Any) -> bool:
    """Whether torch sees truth values, or a constant that is one."""
    if isinstance(x, Deferred) and not x.whole:
        x = x.force()
    if isinstance(x, Public) and x.tensor is None:
        return x.fill in (0, 1)
    plain = x.tensor if isinstance(x, Public) else x
    return isinstance(x, Bit) or (isinstance(plain, Tensor) and plain.dtype is torch.bool)


def _require_truth(*values: Any) -> None:
    """Bits of whole numbers are not at hand: refused before anything is computed."""
    if not all(_is_truth(x) for x in values):
        like = next(x for x in values if isinstance(x, Handle))
        raise UnsupportedOperation(
            "the bits of secret whole numbers",
            op=like.session.operation,
            remedy="for truth values use torch.logical_and, logical_or, logical_xor, logical_not, or x.bool() first",
        )


def _truth(x: Any, like: Handle) -> Handle:
    """0 or 1 as a number; what is public, a plain mask among it, stays public."""
    if isinstance(x, Tensor):
        return Public(like.session, tuple(x.shape), tensor=(x != 0).to(torch.int64))
    if isinstance(x, Public):
        return Public(x.session, x.shape, tensor=(x.dense() != 0).to(torch.int64))
    return ar.secret(as_bit(x))


def _logic(combine_numbers: Any, *, bitwise: bool) -> Any:
    def logic(x: Any, y: Any) -> Handle:
        if bitwise:
            _require_truth(x, y)
        like = x if isinstance(x, Handle) else y
        a, b = _truth(x, like), _truth(y, like)
        both = combine_numbers(a, b, ar.multiply(a, b))
        if isinstance(both, Public):
            return Public(both.session, both.shape, tensor=both.dense() != 0)
        return cmp.compare_scalar(ar.secret(both), 0, "gt")

    return logic


for _name, _combined in {
    "and": lambda a, b, ab: ab,
    "or": lambda a, b, ab: ar.add(a, b),
    "xor": lambda a, b, ab: ar.add(ar.add(a, b), ab, -2),
}.items():
    lowers(getattr(aten, f"logical_{_name}").default, masks=True)(_logic(_combined, bitwise=False))
    lowers(getattr(aten, f"bitwise_{_name}").Tensor, masks=True)(_logic(_combined, bitwise=True))


@lowers(aten.where.self, masks=True)
def _where(condition: Any, x: Any, y: Any) -> Handle:
    like = next(v for v in (condition, x, y) if isinstance(v, Handle))
    x, y = _whole(operand(x, like)), _whole(operand(y, like))
    if isinstance(condition, Tensor):
        return _public_where(condition, x, y)
    if isinstance(condition, Public):
        return _public_where(condition.dense(), x, y)
    return cmp.where(condition, x, y)


def _whole(x: Handle) -> Handle:
    """A whole number that torch made a tensor of, as a number."""
    if isinstance(x, Public) and not x.shape and x.tensor is not None and not x.tensor.dtype.is_floating_point:
        return Public(x.session, (), fill=float(x.tensor))
    return x


def _public_where(mask: Tensor, x: Handle, y: Handle) -> Handle:
    mask = mask.to(torch.bool)
    if exclusion.has_plus(x) or exclusion.has_plus(y):
        return exclusion.negated(_public_where(mask, exclusion.negated(x), exclusion.negated(y)))
    if exclusion.split(x)[1] is not None or exclusion.split(y)[1] is not None:
        return _excluding_where(mask, x, y)
    keep = Public(x.session, tuple(mask.shape), tensor=mask.to(torch.int64))
    rest = Public(x.session, tuple(mask.shape), tensor=1 - mask.to(torch.int64))
    return ar.add(ar.multiply(x, keep), ar.multiply(y, rest))


def _excluding_where(mask: Tensor, x: Handle, y: Handle) -> Handle:
    """mask ? x : y when x or y has places of minus infinity."""
    shape = ar.broadcast(tuple(mask.shape), x.shape, y.shape)
    places = torch.zeros(shape, dtype=torch.bool)
    (finite_x, _), (finite_y, _) = sides = exclusion.split(x), exclusion.split(y)
    whole: Handle | None = None
    for (_, infinite), taken, other in zip(sides, (mask, ~mask), (finite_y, finite_x), strict=True):
        if infinite is not None:
            places = places | (infinite & taken)
            # where a side is nothing but minus infinity, the other needs no product with the mask
            whole = other if bool((infinite | ~taken).all()) else whole
    return exclusion.exclude(_public_where(mask, finite_x, finite_y) if whole is None else whole, places)


@lowers(aten.masked_fill.Scalar, aten.masked_fill.Tensor, masks=True)
def _masked_fill(x: Handle, mask: Any, value: Any) -> Handle:
    fill = operand(value if isinstance(value, Handle) else float(value), x)
    shape = ar.broadcast(x.shape, tuple(mask.shape))
    if isinstance(mask, Tensor):
        return _public_where(mask, ar.expand_to(fill, shape), x)
    if isinstance(mask, Public):
        return _public_where(mask.dense(), ar.expand_to(fill, shape), x)
    return cmp.where(mask, ar.expand_to(fill, shape), x)


def _count(x: Handle, dim: Any, keepdim: bool) -> tuple[Secret, int]:
    """(how many are true along the dimensions, how many there are)."""
    rank = max(1, len(x.shape))
    chosen = range(len(x.shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = tuple(d % rank for d in chosen) if x.shape else ()
    numbers = ar.secret(as_bit(x))
    return ar.secret(apply(numbers, "sum", dims, keepdim) if dims else numbers), math.prod(x.shape[d] for d in dims)


@lowers(aten.any.default, aten.any.dim, aten.any.dims)
def _any(x: Handle, dim: Any = None, keepdim: bool = False) -> Handle:
    if isinstance(x, Public) and dim is None:
        return Public(x.session, (), tensor=x.dense().any())
    return cmp.compare_scalar(_count(x, dim, keepdim)[0], 0, "gt")


@lowers(aten.all.default, aten.all.dim, aten.all.dims)
def _all(x: Handle, dim: Any = None, keepdim: bool = False) -> Handle:
    true, count = _count(x, dim, keepdim)
    return cmp.compare_scalar(true, count, "ge")
