"""Steps and ramps: sigmoid, tanh, erf, gelu, silu, softplus, mish, and slopes. A series inside, straight lines outside.

Theory of operation. One batch of comparisons gives the bits [-L <= x < L] and [x >= L]. The series runs on the same
opening and without a bit: it may be anything outside, its magnitude stays below 16. Its truncation, due anyway, is
gated by the first bit, so 16 bytes per element do what gating the series would do with 16 per frequency. The period is
four times L: a half-wave series (sines of odd frequencies, or cosines) then has the fewest terms. Steps add the bits;
a ramp is x/2 plus an even function inside (for mish plus an odd one as well) and x above, both selections of x, which
is open.

A step takes a pending x (a sum of products) as it is, a ramp truncates it first.

Rounds: 1 to open x, 3 for the bits, 1 for the truncation. Sent per element and party: 16 bytes and 68 bits. Dealt per
element: 72 bytes and 1 bit for the bits, 32 for the truncation, 16 per frequency (at 16 bits: sigmoid 16, tanh 18, erf
8, gelu 8, silu 21, softplus 14, mish 27, slopes of the last four 8, 23, 16, 31), 16 more for the selections of a ramp.
A slope after its ramp needs neither bits nor the opening of x: 1 round.

Error for every x: inside the interval below one unit (truncation) plus 2**-19 (fit), outside at most 2**-17 (for mish
a tenth more). Measured at 16 bits, on grids of half a million points: 1.7e-5 for functions and slopes alike. Leaks
nothing: see the gates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class _Reach:
    """A function of ``beta`` x: it saturates for |beta x| >= ``limit``, or is cut off above at ``top``."""

    limit: float
    beta: float = 1.0
    top: float = math.inf

    def bits(self, x: Secret) -> tuple[Bit, Bit]:
        """(inside, above); remembered, so that a slope finds them."""
        edge = round(self.limit / self.beta * x.scale)
        # beta x > top: there the function jumps to x
        high = edge if self.top >= self.limit else max(-edge, math.floor(Fraction(self.top / self.beta) * x.scale) + 1)
        known: tuple[Bit, Bit] | None = x.memo.get(f"within {edge} {high}")
        if known is None:
            inside, above = bits(x, (-edge, high), (((0, 1), False), ((1,), True)))
            x.memo[f"within {edge} {high}"] = known = inside, above
        return known

    def wave(self, x: Secret, fitted: Callable[[float], TrigSeries]) -> Secret:
        """The series of the period 4 limit (or a little more) for which it is ``fitted``, at scale 2^58; no bit."""
        factor, n_bits = filling(x.scale, 4 * self.limit / self.beta, _WASTE)
        return series(x, fitted((1 << n_bits) / (factor * x.scale) * self.beta), n_bits, factor=factor)


def _as_it_is(x: Handle) -> Secret:
    """x, pending or not: its truncation would take a round and bytes of its own, and give no better angle."""
    wire = number(x)
    return due(wire) if wire.scale <= _FINEST else narrow(wire)


def _step(wire: Secret, reach: _Reach, fitted: Callable[[float], TrigSeries], *, low: int) -> Secret:
    """The series inside the reach, ``low`` (0 or -1) below and 1 above."""
    scale = wire.format.scale
    inside, above = reach.bits(wire)
    wave = reach.wave(wire, fitted)
    middle = rescale(wave, Fraction(scale, wave.scale), scale, bit=inside)
    # what is neither inside nor above is below: low (1 - inside - above) + above
    ends = weigh([inside, above], [-low * scale, (1 - low) * scale], low * scale, scale, wire.format)
    return combine([(middle, 1), (ends, 1)], scale=scale)


def sigmoid(x: Handle) -> Secret:
    """1 / (1 + exp(-x)) for every x."""
    reach = _Reach(saturation("sigmoid", _TAIL))
    out = _step(_as_it_is(x), reach, lambda period: sigmoid_series(period, _FIT, _TAIL), low=0)
    out.nonnegative = True
    return out


def tanh(x: Handle) -> Secret:
    """tanh(x) for every x."""
    reach = _Reach(saturation("tanh", _TAIL))
    return _step(_as_it_is(x), reach, lambda period: tanh_series(period, _FIT, _TAIL), low=-1)


def erf(x: Handle) -> Secret:
    """erf(x) for every x."""
    reach = _Reach(saturation("erf", _TAIL))
    return _step(_as_it_is(x), reach, lambda period: erf_series(period, _FIT, _TAIL), low=-1)


def ramp(x: Handle, name: Ramp, beta: float = 1.0, top: float = math.inf) -> Secret:
    """The ramp r(beta x) / beta for every x: 0 below, x above; x from beta x > ``top`` on.

    For beta < 1 the errors of fit and tails are 1/beta times as large.
    """
    wire = narrow(number(x))
    scale = wire.format.scale
    reach = _Reach(saturation(name, _TAIL), beta, top)
    inside, above = reach.bits(wire)
    wave = reach.wave(wire, lambda period: ramp_series(name, reach.limit, period, _FIT))
    # outside, x could be too large for the scale of the series
    line = select_raw(inside, wire)
    half = round(Fraction(beta) * Fraction(1 << RESULT_BITS, 2 * wire.scale))
    whole = combine([(wave, 1), (line, half)], scale=wave.scale)
    middle = rescale(whole, Fraction(scale, whole.scale) / Fraction(beta), scale, bit=inside)
    out = combine([(middle, 1), (select_raw(above, wire), 1)], scale=scale)
    out.format = wire.format
    return out


def ramp_slope(x: Handle, name: Ramp, beta: float = 1.0, top: float = math.inf) -> Secret:
    """The derivative of ``ramp``. After it: 1 round and no comparison."""
    reach = _Reach(saturation(name, _TAIL), beta, top)
    return _step(narrow(number(x)), reach, lambda period: ramp_slope_series(name, reach.limit, period, _FIT), low=0)
