"""Sigmoid and tanh: a gated series inside, the constant outside. 4 rounds after the opening of x and one truncation.

Error: the fit (2**-20) plus the tail cut off (half a unit at 16 bits) plus one unit, for every x.
"""

from __future__ import annotations

import math

from torchveil.functions.arithmetic import combine, narrow, number, to_scale, weigh
from torchveil.functions.comparison import inside_bits
from torchveil.functions.normalise import series
from torchveil.functions.series import TrigSeries, saturation, sigmoid_series, tanh_series
from torchveil.gates.series import RESULT_BITS
from torchveil.handle import Handle, Secret

_TAIL = 2**-17


def _period_bits(scale: int, limit: float) -> int:
    """The smallest ring whose period leaves the series room to turn round beyond the limits."""
    return math.ceil(math.log2(2.5 * limit * scale))


def _saturating(x: Handle, limit: float, fit: TrigSeries, n_bits: int, *, low: int) -> Secret:
    """The series inside [-limit, limit), ``low`` (0 or -1) below and 1 above."""
    wire = narrow(number(x))
    edge = round(limit * wire.scale)
    below, inside, above = inside_bits(wire, -edge, edge)
    middle = series(wire, fit, n_bits, inside)
    ends = weigh([below, above], [low << RESULT_BITS, 1 << RESULT_BITS], 0, middle.scale, wire.format)
    return to_scale(combine([(middle, 1), (ends, 1)], scale=middle.scale), wire.format.scale)


def _format_scale(x: Handle) -> int:
    return number(x).format.scale


def sigmoid(x: Handle) -> Secret:
    """1 / (1 + exp(-x)) for every x."""
    limit = saturation("sigmoid", _TAIL)
    scale = _format_scale(x)
    n_bits = _period_bits(scale, limit)
    out = _saturating(x, limit, sigmoid_series((1 << n_bits) / scale, 2**-20, _TAIL), n_bits, low=0)
    out.nonnegative = True
    return out


def tanh(x: Handle) -> Secret:
    """tanh(x) for every x."""
    limit = saturation("tanh", _TAIL)
    scale = _format_scale(x)
    n_bits = _period_bits(scale, limit)
    return _saturating(x, limit, tanh_series((1 << n_bits) / scale, 2**-20, _TAIL), n_bits, low=-1)
