"""Losses of numbers: squared and absolute errors, binary cross-entropy. Values that nobody reads are not computed."""

from __future__ import annotations

import torch

from torchveil.functions import arithmetic as ar
from torchveil.functions import normalise, sigmoidal
from torchveil.functions.piecewise import Knot, Line
from torchveil.handle import Deferred, Handle, Public, Secret
from torchveil.lowering.activations import softplus
from torchveil.lowering.piecewise import Shape, hardtanh
from torchveil.lowering.reductions import mean, total
from torchveil.lowering.table import aten, lowers

_NONE, _MEAN, _SUM = 0, 1, 2


def reduce(x: Handle, reduction: int) -> Handle:
    """torch's reduction codes: 0 none, 1 mean, 2 sum."""
    if reduction == _NONE:
        return x
    return mean(x) if reduction == _MEAN else total(x)


def _reduced_shape(shape: tuple[int, ...], reduction: int) -> tuple[int, ...]:
    return shape if reduction == _NONE else ()


def _normaliser(count: int, reduction: int) -> float:
    return 1.0 / count if reduction == _MEAN else 1.0


# --- squared and absolute errors ------------------------------------------------------------------------------------


@lowers(aten.mse_loss.default)
def _mse(x: Handle, target: Handle, reduction: int = 1) -> Handle:
    difference = ar.add(x, target, -1)
    if isinstance(difference, Secret):
        difference = ar.narrow(difference)

    def value() -> Handle:
        return reduce(ar.multiply(difference, difference), reduction)

    return Deferred(x.session, _reduced_shape(difference.shape, reduction), value)


@lowers(aten.mse_loss_backward.default)
def _mse_backward(grad: Handle, x: Handle, target: Handle, reduction: int) -> Handle:
    difference = ar.add(x, target, -1)
    count = torch.Size(difference.shape).numel()
    return ar.multiply(difference, ar.multiply(grad, Public(x.session, (), fill=2.0 * _normaliser(count, reduction))))


# --- binary cross-entropy --------------------------------------------------------------------------------------------


@lowers(aten.binary_cross_entropy_with_logits.default)
def _bce_logits(
    x: Handle, target: Handle, weight: Handle | None = None, pos_weight: Handle | None = None, reduction: int = 1
) -> Handle:
    def value() -> Handle:
        wire = ar.narrow(ar.number(x))
        # log(1 + e^x) - t x, and with a weight w of the positives: + (w - 1) t log(1 + e^-x)
        soft = softplus(wire)
        lost: Handle = ar.add(soft, ar.multiply(target, wire), -1)
        if pos_weight is not None:
            extra = ar.multiply(ar.add(pos_weight, Public(wire.session, (), fill=-1.0)), target)
            lost = ar.add(lost, ar.multiply(extra, ar.add(soft, wire, -1)))
        if weight is not None:
            lost = ar.multiply(lost, weight)
        return reduce(lost, reduction)

    return Deferred(x.session, _reduced_shape(ar.broadcast(x.shape, target.shape), reduction), value)


@lowers(aten.binary_cross_entropy.default)
def _bce(x: Handle, target: Handle, weight: Handle | None = None, reduction: int = 1) -> Handle:
    def value() -> Handle:
        one = Public(x.session, (), fill=1.0)
        yes = ar.multiply(target, normalise.log(x))
        no = ar.multiply(ar.add(one, target, -1), normalise.log(ar.add(one, x, -1)))
        lost = ar.negate(ar.add(yes, no))
        return reduce(lost if weight is None else ar.multiply(lost, weight), reduction)

    return Deferred(x.session, _reduced_shape(x.shape, reduction), value)


@lowers(aten.binary_cross_entropy_backward.default)
def _bce_backward(grad: Handle, x: Handle, target: Handle, weight: Handle | None = None, reduction: int = 1) -> Handle:
    wire = ar.narrow(ar.number(x))
    spread = ar.add(wire, ar.multiply(wire, wire), -1)
    slope = normalise.divide(ar.add(wire, target, -1), spread)
    count = torch.Size(x.shape).numel()
    out = ar.multiply(slope, ar.multiply(grad, Public(x.session, (), fill=_normaliser(count, reduction))))
    return out if weight is None else ar.multiply(out, weight)


# --- errors with a bound --------------------------------------------------------------------------------------------


def _bounded(x: Handle, target: Handle, limit: float, reduction: int, factor: float) -> Handle:
    """factor * (d^2 / 2 where |d| < limit, else limit (|d| - limit / 2)) for d = x - target.

    With c = d limited to +-limit it is c (2 d - c) / 2.
    """
    difference = ar.add(x, target, -1)

    def value() -> Handle:
        d = ar.narrow(ar.number(difference))
        c = hardtanh(-limit, limit).of(d)
        lost = ar.multiply(c, ar.add(ar.add(d, d), c, -1))
        return reduce(ar.multiply_scalar(ar.secret(lost), factor / 2), reduction)

    return Deferred(x.session, _reduced_shape(difference.shape, reduction), value)


def _scaled_gradient(slope: Handle, grad: Handle, reduction: int) -> Handle:
    count = torch.Size(slope.shape).numel()
    return ar.multiply(slope, ar.multiply(grad, Public(slope.session, (), fill=_normaliser(count, reduction))))


@lowers(aten.huber_loss.default)
def _huber(x: Handle, target: Handle, reduction: int = 1, delta: float = 1.0) -> Handle:
    return _bounded(x, target, delta, reduction, 1.0)


@lowers(aten.huber_loss_backward.default)
def _huber_backward(grad: Handle, x: Handle, target: Handle, reduction: int, delta: float) -> Handle:
    return _scaled_gradient(hardtanh(-delta, delta).of(ar.add(x, target, -1)), grad, reduction)


@lowers(aten.smooth_l1_loss.default)
def _smooth_l1(x: Handle, target: Handle, reduction: int = 1, beta: float = 1.0) -> Handle:
    return _bounded(x, target, beta, reduction, 1 / beta)


@lowers(aten.smooth_l1_loss_backward.default)
def _smooth_l1_backward(grad: Handle, x: Handle, target: Handle, reduction: int, beta: float) -> Handle:
    slope = Shape((Knot(-beta), Knot(beta)), (Line(0, -1), Line(1 / beta), Line(0, 1)))
    return _scaled_gradient(slope.of(ar.add(x, target, -1)), grad, reduction)


# --- soft margins ----------------------------------------------------------------------------------------------------


@lowers(aten.soft_margin_loss.default)
def _soft_margin(x: Handle, target: Handle, reduction: int = 1) -> Handle:
    """log(1 + exp(-target x))."""

    def value() -> Handle:
        return reduce(softplus(ar.negate(ar.multiply(x, target))), reduction)

    return Deferred(x.session, _reduced_shape(ar.broadcast(x.shape, target.shape), reduction), value)


@lowers(aten.soft_margin_loss_backward.default)
def _soft_margin_backward(grad: Handle, x: Handle, target: Handle, reduction: int) -> Handle:
    wrong = sigmoidal.sigmoid(ar.negate(ar.multiply(x, target)))
    return _scaled_gradient(ar.negate(ar.multiply(wrong, target)), grad, reduction)
