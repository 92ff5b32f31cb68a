"""Elementwise arithmetic: sums, products, quotients, powers, roots, exponentials, and the optimizers' fused forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.fixedpoint import encode_scalar
from torchveil.functions import arithmetic as ar
from torchveil.functions import comparison as cmp
from torchveil.functions import exclusion, exponential, normalise
from torchveil.handle import Deferred, Excluding, ExcludingAbove, Handle, Public, Secret
from torchveil.lowering.table import aten, lowers, operand, writes


def _pair(x: Any, y: Any) -> tuple[Handle, Handle]:
    like = x if isinstance(x, Handle) else y
    return operand(x, like), operand(y, like)


@lowers(aten.add.Tensor, aten.add.Scalar, deferrable=True)
def _add(x: Any, y: Any, alpha: float = 1) -> Handle:
    return exclusion.add(*_pair(x, y), alpha)


@lowers(aten.sub.Tensor, aten.sub.Scalar, deferrable=True)
def _sub(x: Any, y: Any, alpha: float = 1) -> Handle:
    return exclusion.add(*_pair(x, y), -alpha)


@lowers(aten.rsub.Scalar, aten.rsub.Tensor, deferrable=True)
def _rsub(x: Any, y: Any, alpha: float = 1) -> Handle:
    x, y = _pair(x, y)
    return ar.add(y, x, -alpha)


@lowers(aten.neg.default, deferrable=True)
def _neg(x: Handle) -> Handle:
    return exclusion.negated(x) if isinstance(x, (Excluding, ExcludingAbove)) else ar.negate(x)


@lowers(aten.mul.Tensor, aten.mul.Scalar, deferrable=True)
def _mul(x: Any, y: Any) -> Handle:
    x, y = _pair(x, y)
    for one, other in ((x, y), (y, x)):
        if isinstance(one, Excluding) and isinstance(other, Public) and other.fill is not None and not other.shape:
            return exclusion.scale(one, other.fill)
    if _is_mask(x) and _is_mask(y):
        # torch multiplies public answers such as those of isfinite
        return Public(x.session, ar.broadcast(x.shape, y.shape), tensor=x.dense() & y.dense())
    return ar.multiply(x, y)


def _is_mask(x: Handle) -> TypeGuard[Public]:
    return isinstance(x, Public) and x.tensor is not None and x.tensor.dtype is torch.bool


@lowers(aten.div.Tensor, aten.div.Scalar, aten.div.out, deferrable=True)
def _div(x: Any, y: Any) -> Handle:
    x, y = _pair(x, y)
    return divide(x, y)


def divide(x: Handle, y: Handle) -> Handle:
    """x / y; a public divisor is exact, a public dividend scales a reciprocal."""
    if isinstance(x, Excluding) and isinstance(y, Public) and y.fill and not y.shape:
        return exclusion.scale(x, 1 / y.fill)
    x = x.force() if isinstance(x, Deferred) else x
    y = y.force() if isinstance(y, Deferred) else y
    shape = ar.broadcast(x.shape, y.shape)
    if isinstance(y, Public):
        if y.fill is not None:
            if isinstance(x, Public):
                return ar.multiply(x, Public(y.session, y.shape, fill=1.0 / y.fill))
            return ar.expand_to(ar.divide_scalar(ar.secret(x), y.fill), shape)
        return ar.multiply(x, Public(y.session, y.shape, tensor=1.0 / y.dense()))
    if isinstance(x, Public) and x.fill is not None:
        return ar.expand_to(ar.multiply_scalar(normalise.reciprocal(y), x.fill), shape)
    return normalise.divide(ar.expand_to(x, shape), y)


@lowers(aten.reciprocal.default)
def _reciprocal(x: Handle) -> Handle:
    return normalise.reciprocal(x)


def _in_the_clear(function: Callable[[Tensor], Tensor], x: Public) -> Public:
    """A function of a public constant, in full precision: an accumulator starts at an epsilon."""
    if x.fill is not None:
        return Public(x.session, x.shape, fill=float(function(torch.tensor(x.fill, dtype=torch.float64))))
    return Public(x.session, x.shape, tensor=function(x.dense().to(torch.float64)))


@lowers(aten.sqrt.default)
def _sqrt(x: Handle) -> Handle:
    return _in_the_clear(torch.sqrt, x) if isinstance(x, Public) else normalise.sqrt(x)


@lowers(aten.rsqrt.default)
def _rsqrt(x: Handle) -> Handle:
    return _in_the_clear(torch.rsqrt, x) if isinstance(x, Public) else normalise.rsqrt(x)


@lowers(aten.exp.default)
def _exp(x: Handle) -> Handle:
    if isinstance(x, Excluding):
        # what lies that far below the window is 0
        x = exclusion.sink(ar.narrow(ar.number(x.finite)), x.excluded)
    return exponential.exp(x)


@lowers(aten.log.default)
def _log(x: Handle) -> Handle:
    return normalise.log(x)


@lowers(aten.logit.default)
def _logit(x: Handle, eps: float | None = None) -> Handle:
    x = x if eps is None else cmp.clamp(x, eps, 1 - eps)
    rest = ar.add(Public(x.session, (), fill=1.0), x, -1)
    return ar.add(normalise.log(x), normalise.log(rest), -1)


@lowers(aten.logit_backward.default)
def _logit_backward(grad: Handle, x: Handle, eps: float | None = None) -> Handle:
    wire = ar.secret(x)
    if eps is not None:
        low, high = (encode_scalar(v, wire.scale, op="logit_backward") for v in (eps, 1 - eps))
        grad = ar.select(cmp.inside_bits(wire, low, high + 1)[1], grad)
    return normalise.divide(grad, ar.add(wire, ar.multiply(wire, wire), -1))


@lowers(aten.pow.Tensor_Scalar)
def power(x: Handle, exponent: float) -> Handle:
    """x^p for a public p: products for whole p, roots for halves, else e^(p log x) for x > 0.

    In the last case zero and negative numbers count as one unit, as they do in the logarithm.
    """
    if exponent == 0:
        return Public(x.session, x.shape, fill=1.0)
    if not math.isfinite(exponent) or (abs(exponent) > 64 and float(exponent).is_integer()):
        raise UnsupportedOperation(
            f"a secret to the power {exponent}",
            op="pow",
            remedy="use exponents up to 64, or torch.exp(p * torch.log(x)) for positive x",
        )
    if not float(2 * exponent).is_integer() or abs(exponent) > 64:
        return exponential.exp(ar.multiply_scalar(normalise.log(x), exponent))
    if not float(exponent).is_integer():
        root = normalise.sqrt(x) if exponent > 0 else normalise.rsqrt(x)
        return _whole_power(root, abs(int(2 * exponent)))
    # the inverse first: a power of what is large would leave the range, where that of its inverse is small
    return _whole_power(x if exponent > 0 else normalise.reciprocal(x), abs(int(exponent)))


writes(aten.pow_.Scalar)(power)


def _whole_power(x: Handle, exponent: int) -> Handle:
    out: Handle | None = None
    base = x
    while True:
        if exponent & 1:
            out = base if out is None else ar.multiply(out, base)
        exponent >>= 1
        if not exponent:
            return out if out is not None else base
        base = ar.multiply(base, base)


@lowers(aten.abs.default)
def _abs(x: Handle) -> Handle:
    if isinstance(x, ExcludingAbove):
        return exclusion.absolute(x)
    return cmp.absolute(x)


@lowers(aten.sgn.default, aten.sign.default)
def _sign(x: Handle) -> Handle:
    if isinstance(x, ExcludingAbove):
        kept, one = (
            Public(x.session, x.shape, tensor=t.to(torch.int64)) for t in (~x.below.excluded, x.below.excluded)
        )
        x = ar.add(one, ar.multiply(x.below.finite, kept), -1)
    wire = ar.secret(x)
    below, at_most = cmp.bits(wire, (0, 1), (((0,), False), ((1,), True)))
    # [x > 0] - [x < 0], whole numbers counted in the format's scale
    scale = wire.format.scale
    return ar.weigh([below, at_most], [-scale, scale], 0, scale, wire.format)


@lowers(aten.addcmul.default)
def _addcmul(x: Handle, a: Handle, b: Handle, *, value: float = 1) -> Handle:
    product = ar.multiply(a, b)
    scaled = product if isinstance(product, Public) else ar.multiply_scalar(ar.secret(product), value)
    return ar.add(x, scaled, value if isinstance(product, Public) else 1)


@lowers(aten.addcdiv.default)
def _addcdiv(x: Handle, a: Handle, b: Handle, *, value: float = 1) -> Handle:
    return ar.add(x, divide(a, b), value)


@lowers(aten.lerp.Scalar)
def _lerp(x: Handle, end: Handle, weight: float) -> Handle:
    """x + weight (end - x): an average of gradients, kept wide so that small ones are not rounded away."""
    difference = ar.add(end, x, -1)
    if isinstance(difference, Secret) and difference.pending:
        difference = ar.combine([(difference, 1)], scale=difference.scale)
        difference.wide = True
    return ar.add(x, difference, weight)


@lowers(aten.lerp.Tensor)
def _lerp_tensor(x: Handle, end: Handle, weight: Handle) -> Handle:
    return ar.add(x, ar.multiply(ar.add(end, x, -1), weight))


@lowers(aten.clamp.default)
def _clamp(x: Handle, min: float | None = None, max: float | None = None) -> Handle:
    return cmp.clamp(x, min, max)


@lowers(aten.clamp_min.default)
def _clamp_min(x: Handle, min: float) -> Handle:
    return cmp.clamp(x, min, None)


@lowers(aten.clamp_min.Tensor)
def _clamp_min_tensor(x: Handle, min: Any) -> Handle:
    min = operand(min, x)
    if isinstance(min, Public) and not min.shape:
        return cmp.clamp(x, float(min.dense()), None)
    return _maximum(x, min)


@lowers(aten.clamp_max.default)
def _clamp_max(x: Handle, max: float) -> Handle:
    return cmp.clamp(x, None, max)


def _limits(y: Handle, x: Handle) -> TypeGuard[Public]:
    """Whether y is one public number for all of a secret x."""
    if not isinstance(y, Public) or y.fill is None or not math.isfinite(y.fill) or isinstance(x, Public):
        return False
    return ar.broadcast(x.shape, y.shape) == x.shape


@lowers(aten.maximum.default, aten.maximum.out)
def _maximum(x: Handle, y: Handle) -> Handle:
    if _limits(y, x):
        return cmp.clamp(x, y.fill, None)
    return ar.add(y, cmp.relu(ar.add(x, y, -1)))


@lowers(aten.minimum.default)
def _minimum(x: Handle, y: Handle) -> Handle:
    if _limits(y, x):
        return cmp.clamp(x, None, y.fill)
    return ar.add(x, cmp.relu(ar.add(x, y, -1)), -1)
