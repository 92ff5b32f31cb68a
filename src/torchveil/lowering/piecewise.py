"""Piecewise linear activations and gradients: tables of knots and lines; a gradient finds the bits of its forward.

Which piece a knot belongs to is what torch's gradient says; values do not depend on it, but for hardshrink and
threshold, where forward and gradient agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from torchveil import public_randomness
from torchveil.errors import UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import comparison as cmp
from torchveil.functions.piecewise import Knot, Line, piece_bits, piecewise, same_pieces, times_slope
from torchveil.handle import Bit, Deferred, Handle, Public, Secret
from torchveil.lowering.table import Updated, aten, lowers


@dataclass(frozen=True, slots=True)
class Shape:
    """A piecewise linear function."""

    knots: tuple[Knot, ...]
    lines: tuple[Line, ...]

    def of(self, x: Handle) -> Secret:
        return piecewise(x, self.knots, self.lines)

    def gradient(self, grad: Handle, x: Handle) -> Handle:
        return times_slope(grad, x, self.knots, [line.slope for line in self.lines])


def _between(low: float, high: float) -> tuple[Knot, ...]:
    """Both ends belong to the outer pieces."""
    return Knot(low, closed=True), Knot(high)


def _outside(limit: float) -> tuple[Knot, ...]:
    """Both ends belong to the inner piece."""
    return Knot(-limit), Knot(limit, closed=True)


def hardtanh(low: float, high: float) -> Shape:
    """x limited to [low, high]; the gradient is 0 at both ends."""
    below, above = _between(low, high)
    start, end = int(low == -math.inf), 2 - int(high == math.inf)
    return Shape((below, above)[start:end], (Line(0, low), Line(1), Line(0, high))[start : end + 1])


def _hardshrink(limit: float) -> Shape:
    return Shape(_outside(limit), (Line(1), Line(0), Line(1)))


def _softshrink(limit: float) -> Shape:
    return Shape(_outside(limit), (Line(1, limit), Line(0), Line(1, -limit)))


HARDSIGMOID = Shape(_between(-3, 3), (Line(0), Line(1 / 6, 0.5), Line(0, 1)))
#: What multiplies the gradient of hardswish.
HARDSWISH_SLOPE = Shape(_between(-3, 3), (Line(0), Line(1 / 3, 0.5), Line(0, 1)))


# --- relu and its relatives ------------------------------------------------------------------------------------------


@lowers(aten.relu.default)
def _relu(x: Handle) -> Handle:
    return cmp.relu(x)


def _sign_bit(x: Handle) -> Bit:
    """[x > 0] of a relu's input or output, from the memo when the forward left it there."""
    return cmp.positive(ar.secret(x))


def gate(bit: Bit, grad: Handle) -> Handle:
    """bit * grad, also when the gradient is a public constant."""
    if isinstance(grad, Public):
        return ar.multiply(ar.secret(bit), grad)
    return ar.select(bit, grad)


@lowers(aten.leaky_relu.default)
def _leaky_relu(x: Handle, negative_slope: float = 0.01) -> Handle:
    wire = ar.narrow(ar.number(x))
    kept = cmp.relu(wire)
    slope = ar.multiply_scalar(wire, negative_slope)
    return ar.add(ar.multiply_scalar(kept, 1 - negative_slope), slope)


@lowers(aten.leaky_relu_backward.default)
def _leaky_relu_backward(grad: Handle, x: Handle, negative_slope: float, self_is_result: bool) -> Handle:
    kept = gate(_sign_bit(x), grad)
    return ar.add(ar.multiply_scalar(ar.secret(kept), 1 - negative_slope), grad, negative_slope)


@lowers(aten._prelu_kernel.default)
def _prelu(x: Handle, weight: Handle) -> Handle:
    """x above 0, weight x below; the weight has x's shape or one that broadcasts to it."""
    wire = ar.narrow(ar.number(x))
    kept = cmp.relu(wire)
    return ar.add(kept, ar.multiply(ar.add(wire, kept, -1), weight))


@lowers(aten._prelu_kernel_backward.default)
def _prelu_backward(grad: Handle, x: Handle, weight: Handle) -> tuple[Handle, Handle]:
    wire = ar.narrow(ar.number(x))
    kept = gate(_sign_bit(wire), grad)
    rest = ar.add(grad, kept, -1)
    below = ar.add(wire, cmp.relu(wire), -1)
    return ar.add(kept, ar.multiply(rest, weight)), ar.multiply(below, grad)


@lowers(aten.rrelu_with_noise.default)
def _rrelu(
    x: Handle, noise: Handle, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Any:
    """In training the slopes below 0 are public and random: one is drawn for every element, whatever its sign."""
    if not training:
        return _leaky_relu(x, (lower + upper) / 2)
    if generator is not None:
        raise UnsupportedOperation("rrelu with its own generator", op="rrelu", remedy="use torch.manual_seed")
    slopes = Public(x.session, x.shape, tensor=public_randomness.uniform(x.shape, lower, upper))
    wire = ar.narrow(ar.number(x))
    out = _prelu(wire, slopes)
    rest = Public(x.session, x.shape, tensor=1 - slopes.dense().to(torch.float64))

    def slope() -> Handle:
        return ar.add(ar.multiply(ar.secret(_sign_bit(wire)), rest), slopes)

    return Updated(out, {1: Deferred(x.session, x.shape, slope)})


@lowers(aten.rrelu_with_noise_backward.default)
def _rrelu_backward(
    grad: Handle, x: Handle, noise: Handle, lower: float, upper: float, training: bool, self_is_result: bool
) -> Handle:
    if training:
        return ar.multiply(grad, noise)
    return _leaky_relu_backward(grad, x, (lower + upper) / 2, self_is_result)


# --- limits and shrinkage --------------------------------------------------------------------------------------------


@lowers(aten.hardtanh.default)
def _hardtanh(x: Handle, min_val: float = -1, max_val: float = 1) -> Handle:
    wire = ar.narrow(ar.number(x))
    out = hardtanh(min_val, max_val).of(wire)
    # in place, the gradient is asked of the result: it lies in the same piece
    same_pieces(out, wire)
    return out


@lowers(aten.hardtanh_backward.default)
def _hardtanh_backward(grad: Handle, x: Handle, min_val: float, max_val: float) -> Handle:
    return hardtanh(min_val, max_val).gradient(grad, x)


@lowers(aten.hardshrink.default)
def _hardshrink_forward(x: Handle, lambd: float = 0.5) -> Handle:
    return _hardshrink(lambd).of(x)


@lowers(aten.hardshrink_backward.default)
def _hardshrink_backward(grad: Handle, x: Handle, lambd: float) -> Handle:
    return _hardshrink(lambd).gradient(grad, x)


@lowers(aten.softshrink.default)
def _softshrink_forward(x: Handle, lambd: float = 0.5) -> Handle:
    return _softshrink(lambd).of(x)


@lowers(aten.softshrink_backward.default)
def _softshrink_backward(grad: Handle, x: Handle, lambd: float) -> Handle:
    return _softshrink(lambd).gradient(grad, x)


@lowers(aten.hardsigmoid.default)
def _hardsigmoid(x: Handle) -> Handle:
    return HARDSIGMOID.of(x)


@lowers(aten.hardsigmoid_backward.default)
def _hardsigmoid_backward(grad: Handle, x: Handle) -> Handle:
    return HARDSIGMOID.gradient(grad, x)


@lowers(aten.hardswish.default)
def _hardswish(x: Handle) -> Handle:
    """x (x + 3) / 6 between -3 and 3, x above. The square of x must stay below 2^62 units only for debug mode."""
    wire = ar.narrow(ar.number(x))
    scale = wire.scale
    middle, above = frozenset({1}), frozenset({2})
    found = piece_bits(wire, HARDSWISH_SLOPE.knots, [middle, above])
    whole = ar.combine([(ar.raw_product(wire, wire), 1), (wire, 3 * scale)], scale=scale * scale)
    inside = ar.rescale(whole, Fraction(1, 6 * scale), scale, bit=found[middle])
    out = ar.combine([(inside, 1), (ar.select(found[above], wire), 1)], scale=scale)
    out.format = wire.format
    return out


@lowers(aten.hardswish_backward.default)
def _hardswish_backward(grad: Handle, x: Handle) -> Handle:
    return ar.multiply(grad, HARDSWISH_SLOPE.of(x))


def _threshold(threshold: float, value: float) -> Shape:
    return Shape((Knot(threshold, closed=True),), (Line(0, value), Line(1)))


@lowers(aten.threshold.default)
def _threshold_forward(x: Handle, threshold: float, value: float) -> Handle:
    wire = ar.narrow(ar.number(x))
    out = _threshold(threshold, value).of(wire)
    if value <= threshold:
        # in place, the gradient is asked of the result
        same_pieces(out, wire)
    return out


@lowers(aten.threshold_backward.default)
def _threshold_backward(grad: Handle, x: Handle, threshold: float) -> Handle:
    if threshold == 0:
        return gate(_sign_bit(x), grad)
    return _threshold(threshold, 0).gradient(grad, x)
