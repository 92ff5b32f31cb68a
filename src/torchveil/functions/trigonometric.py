"""Sine and cosine of any number, and the angle of a point.

Sine and cosine. The series gate computes with angles modulo 2^62, and 2^62 divides 2^64: the integers of x times the
public number 2^62 / (2 pi scale), rounded, are an angle of every x that wraps as an angle should. One harmonic, no
comparison, no range: 1 round to open x, 1 for the truncation, 16 bytes dealt for the wave and 16 for the truncation.
Error < 1 unit + |x| 2^-43 at 16 bits (the rounding of the public number).

The angle of (x, y). With r = min(|x|, |y|) / max(|x|, |y|) in [0, 1], atan r is a series; three reflections, by the
bits [|y| > |x|], [x < 0] and [y < 0], lead from the first octant to all eight. Error < 4 units for max(|x|, |y|) above
2^-4: below, r is only as exact as its operands are. The angle of (0, 0) is 0, as in torch.
"""

from __future__ import annotations

import math
from decimal import Decimal
from functools import cache

import numpy as np
import numpy.typing as npt

from torchveil.functions.arithmetic import (
    add,
    align,
    combine,
    multiply_scalar,
    narrow,
    number,
    secret,
    select_raw,
    to_scale,
)
from torchveil.functions.comparison import absolute, bits, negative, positive
from torchveil.functions.normalise import divide, series
from torchveil.functions.series import TrigSeries, fit
from torchveil.handle import Bit, Handle, Secret
from torchveil.kernels.tables import PI, decimal_cos_sin

_TURN_BITS = 62
_FIT = 2.0**-20

SINE = TrigSeries("sin", -math.pi, math.pi, 2 * math.pi, (1,), 0.0, (0.0,), (1.0,), 0.0)
COSINE = TrigSeries("cos", -math.pi, math.pi, 2 * math.pi, (1,), 0.0, (1.0,), (0.0,), 0.0)


def wave(x: Handle, kind: TrigSeries, per_turn: float = 2 * math.pi) -> Secret:
    """The ``kind`` of x, ``per_turn`` units to a turn, at the format's scale."""
    wire = number(x)
    factor = round((1 << _TURN_BITS) / (per_turn * wire.scale))
    out = to_scale(series(wire, kind, _TURN_BITS, factor=factor), wire.format.scale)
    out.format = wire.format
    return out


def _decimal_atan(x: Decimal) -> Decimal:
    """By halving the angle twice and the power series: 50 digits for |x| <= 1."""
    for _ in range(2):
        x = x / (1 + (1 + x * x).sqrt())
    term = total = x
    power, index = x, 1
    while abs(term) > Decimal(10) ** -50:
        power, index = -power * x * x, index + 2
        term = power / index
        total += term
    return 4 * total


@cache
def _atan_series() -> TrigSeries:
    return fit("atan", _decimal_atan, 0.0, 1.0, 3.0, _FIT, "odd", np.arctan)


def _reflect(bit: Bit, angle: Secret, about: float) -> Secret:
    """bit ? about - angle : angle, for a narrow angle."""
    turned = combine([(angle, -2)], round(about * angle.scale), scale=angle.scale)
    return combine([(angle, 1), (select_raw(bit, turned), 1)], scale=angle.scale)


def angle(y: Handle, x: Handle) -> Secret:
    """atan2(y, x), from -pi to pi."""
    down, across = narrow(number(y)), narrow(number(x))
    below, left = negative(down), negative(across)
    rise, run = align(absolute(down), absolute(across))
    steep = positive(combine([(rise, 1), (run, -1)], scale=rise.scale))
    swap = select_raw(steep, combine([(rise, 1), (run, -1)], scale=rise.scale))
    least = combine([(rise, 1), (swap, -1)], scale=rise.scale)
    most = combine([(run, 1), (swap, 1)], scale=rise.scale)
    least.nonnegative = most.nonnegative = True
    ratio = divide(least, most)
    fitted = _atan_series()
    n_bits = 62
    factor = round((1 << n_bits) / (fitted.period * ratio.scale))
    octant = to_scale(series(ratio, fitted, n_bits, factor=factor), ratio.format.scale)
    octant.format = ratio.format
    out = _reflect(left, _reflect(steep, octant, math.pi / 2), math.pi)
    return combine([(out, 1), (select_raw(below, out), -2)], scale=out.scale)


def _decimal_sinc(x: Decimal) -> Decimal:
    return Decimal(1) if not x else decimal_cos_sin(x / 2)[1] / (PI * x)


def _float_sinc(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.sinc(x)


@cache
def _sinc_series() -> TrigSeries:
    return fit("sinc", _decimal_sinc, -0.5, 0.5, 2.0, _FIT, "none", _float_sinc)


def sinc(x: Handle) -> Secret:
    """sin(pi x) / (pi x): a series for |x| < 1/2, a quotient elsewhere. Error < 4 units."""
    wire = narrow(number(x))
    half = wire.scale // 2
    (inside,) = bits(wire, (-half, half), (((0, 1), False),))
    fitted = _sinc_series()
    factor = round((1 << _TURN_BITS) / (fitted.period * wire.scale))
    middle = to_scale(series(wire, fitted, _TURN_BITS, inside, factor=factor), wire.format.scale)
    quotient = divide(wave(wire, SINE, 2.0), secret(wire))
    outer = narrow(secret(add(quotient, select_raw(inside, quotient), -1)))
    out = secret(add(multiply_scalar(outer, 1 / math.pi), middle))
    out.format = wire.format
    return out
