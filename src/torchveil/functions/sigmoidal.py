"""Steps and ramps: sigmoid, tanh, gelu, silu and their slopes. A series inside an interval, straight lines outside.

Theory of operation. One batch of comparisons gives the bits [-L <= x < L] and [x >= L]. The series runs on the same
opening and without a bit: it may be anything outside, its magnitude stays below 16. Its truncation, due anyway, is
gated by the first bit, so 16 bytes per element do what gating the series would do with 16 per frequency. The period is
four times L: a half-wave series (sines of odd frequencies, or cosines) then has the fewest terms. Steps add the bits;
a ramp is x/2 plus an even function inside and x above, both selections of x, which is open.

A step takes a pending x (a sum of products) as it is, a ramp truncates it first.

Rounds: 1 to open x, 3 for the bits, 1 for the truncation. Sent per element and party: 16 bytes and 68 bits. Dealt per
element: 72 bytes and 1 bit for the bits, 32 for the truncation, 16 per frequency (at 16 bits: sigmoid 16, tanh 18, gelu
8, silu 21, their slopes 8 and 23), 16 more for the selections of a ramp. A slope after its ramp needs neither bits nor
the opening of x: 1 round.

Error for every x: inside the interval below one unit (truncation) plus 2**-19 (fit), outside at most 2**-17. Measured
at 16 bits, on grids of half a million points: 1.7e-5 for functions and slopes alike. Leaks nothing: see the gates.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from torchveil.functions.arithmetic import combine, due, narrow, number, rescale, select_raw, weigh
from torchveil.functions.comparison import bits
from torchveil.functions.exponential import filling
from torchveil.functions.normalise import series
from torchveil.functions.series import (
    Ramp,
    TrigSeries,
    erf_series,
    ramp_series,
    ramp_slope_series,
    saturation,
    sigmoid_series,
    tanh_series,
)
from torchveil.gates.series import RESULT_BITS
from torchveil.handle import Bit, Handle, Secret

_TAIL = 2**-17
_FIT = 2**-19
_WASTE = 1.01

#: The largest scale whose values are angles as they are; a period of 64 takes 6 bits more.
_FINEST = 2**52


def _within(x: Secret, limit: float) -> tuple[Bit, Bit]:
    """([-limit <= x < limit], [x >= limit]); remembered, so that a slope finds them."""
    edge = round(limit * x.scale)
    known: tuple[Bit, Bit] | None = x.memo.get(f"within {edge}")
    if known is None:
        inside, above = bits(x, (-edge, edge), (((0, 1), False), ((1,), True)))
        x.memo[f"within {edge}"] = known = inside, above
    return known


def _half_wave(x: Secret, limit: float, fitted: Callable[[float], TrigSeries]) -> Secret:
    """The series of x with the period 4 limit (or a little more) for which it is ``fitted``, at scale 2^58; no bit."""
    factor, n_bits = filling(x.scale, 4 * limit, _WASTE)
    return series(x, fitted((1 << n_bits) / (factor * x.scale)), n_bits, factor=factor)


def _as_it_is(x: Handle) -> Secret:
    """x, pending or not: its truncation would take a round and bytes of its own, and give no better angle."""
    wire = number(x)
    return due(wire) if wire.scale <= _FINEST else narrow(wire)


def _step(wire: Secret, limit: float, fitted: Callable[[float], TrigSeries], *, low: int) -> Secret:
    """The series inside [-limit, limit), ``low`` (0 or -1) below and 1 above."""
    scale = wire.format.scale
    inside, above = _within(wire, limit)
    wave = _half_wave(wire, limit, fitted)
    middle = rescale(wave, Fraction(scale, wave.scale), scale, bit=inside)
    # what is neither inside nor above is below: low (1 - inside - above) + above
    ends = weigh([inside, above], [-low * scale, (1 - low) * scale], low * scale, scale, wire.format)
    return combine([(middle, 1), (ends, 1)], scale=scale)


def sigmoid(x: Handle) -> Secret:
    """1 / (1 + exp(-x)) for every x."""
    limit = saturation("sigmoid", _TAIL)
    out = _step(_as_it_is(x), limit, lambda period: sigmoid_series(period, _FIT, _TAIL), low=0)
    out.nonnegative = True
    return out


def tanh(x: Handle) -> Secret:
    """tanh(x) for every x."""
    limit = saturation("tanh", _TAIL)
    return _step(_as_it_is(x), limit, lambda period: tanh_series(period, _FIT, _TAIL), low=-1)


def erf(x: Handle) -> Secret:
    """erf(x) for every x."""
    limit = saturation("erf", _TAIL)
    return _step(_as_it_is(x), limit, lambda period: erf_series(period, _FIT, _TAIL), low=-1)


def ramp(x: Handle, name: Ramp) -> Secret:
    """gelu, gelu with tanh, or silu, for every x: 0 below, x above."""
    wire = narrow(number(x))
    scale = wire.format.scale
    limit = saturation(name, _TAIL)
    inside, above = _within(wire, limit)
    wave = _half_wave(wire, limit, lambda period: ramp_series(name, limit, period, _FIT))
    # outside, x could be too large for the scale of the series
    line = select_raw(inside, wire)
    whole = combine([(wave, 1), (line, round(Fraction(1 << RESULT_BITS, 2 * wire.scale)))], scale=wave.scale)
    middle = rescale(whole, Fraction(scale, whole.scale), scale, bit=inside)
    out = combine([(middle, 1), (select_raw(above, wire), 1)], scale=scale)
    out.format = wire.format
    return out


def ramp_slope(x: Handle, name: Ramp) -> Secret:
    """The derivative of ``ramp``. After it: 1 round and no comparison."""
    limit = saturation(name, _TAIL)
    return _step(narrow(number(x)), limit, lambda period: ramp_slope_series(name, limit, period, _FIT), low=0)
