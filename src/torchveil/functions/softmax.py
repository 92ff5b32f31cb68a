"""Softmax and log-softmax: maximum, exponential, one division for the whole row; the logarithm only if it is read.

Theory of operation. With M the maximum, e = exp(x - M) and s = sum e in [1, k], p = e f(s) with f(m) = 1/m by a series:
products of whole numbers at 2^22, one truncation. Short rows, up to 12 entries: the series reaches from 1 to k, and the
opening of e at its full precision gives the opening of s. Longer rows: s N in [1, 4) * 2^K for a power of four N, and
p = (e N) f(s N). The gradient of the loss needs p only; log-softmax is (x - M) - log s, from the same row sum, when
somebody asks.

Rounds after the opening of x: the maximum (``functions.maximum``; all pairs also say which e vanish, after a tournament
3 rounds do), 1 for M, then for short rows 3: e, the inverse, its truncation. For longer rows 2 for e and s, 3 for s
against the powers of four, 4 for the quotient. Error < 1.5 units of 16 bits for any k up to 10^6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torchveil.functions.arithmetic import combine, due, narrow, number, raw_product, secret, to_scale
from torchveil.functions.exponential import MAX_UNIT, exp_inside, inside_window, windowed
from torchveil.functions.maximum import maximum
from torchveil.functions.normalise import FIT, Lift, Mantissa, log_of_mantissa, magnitude, mantissa, series
from torchveil.functions.series import log_series, reciprocal_series
from torchveil.functions.structure import apply
from torchveil.handle import Handle, Secret

_EXP_BITS = 22

#: Rows up to this length have a series of their own: 19 harmonics, where a power of four needs 5 rounds.
_SHORT_ROW = 12
#: A short row's sum is an angle of this many bits, and the period of its series at least this many times its length.
_TURN_BITS = 62
_MARGIN = 1.25
_ROW_ERROR = 2.0**-20


class Row(Protocol):
    """The row sums as the logarithm needs them."""

    def log(self, target: int) -> Secret:
        """log of the row sums at scale ``target``."""


@dataclass(slots=True)
class Softmax:
    """What softmax, log-softmax and their gradients share.

    shifted: x - max; probabilities: at a large pending scale (values at most 1).
    """

    shifted: Secret
    probabilities: Secret
    row: Row

    def narrow_probabilities(self) -> Secret:
        return narrow(self.probabilities)

    def log_probabilities(self) -> Secret:
        """(x - max) - log(sum exp(x - max)), at the format's scale."""
        shifted = narrow(self.shifted)
        out = combine([(shifted, 1), (self.row.log(shifted.format.scale), -1)], scale=shifted.scale)
        out.format = shifted.format
        return out


@dataclass(slots=True)
class _Quotient:
    """Probabilities are ``numerators * inverse / 2^exponent``, the inverse at its own scale."""

    numerators: Secret
    inverse: Secret
    exponent: int
    row: Row


def softmax(x: Handle, dim: int) -> Softmax:
    """The parts of a softmax along ``dim``."""
    wire = number(x)
    if wire.scale > MAX_UNIT:
        wire = due(wire)  # still finer than its format, and without its low bits fit for the exponential
    wire, window = windowed(wire, 1 << _EXP_BITS)
    session, size = wire.session, wire.shape[dim]
    largest, winners = maximum(wire, dim, window.lowest)
    if size > 1:
        session.open(largest)
    shifted = combine([(wire, 1), (largest, -1)], scale=wire.scale)
    inside = inside_window(shifted, window) if winners.near is None else winners.near
    if size <= _SHORT_ROW:
        turn = _turn(size)
        quotient = _short(exp_inside(shifted, window, inside, _TURN_BITS - turn), dim, turn)
    else:
        quotient = _long(exp_inside(shifted, window, inside), dim)
    session.open(quotient.numerators, quotient.inverse)
    digits = min(26, 60 - quotient.exponent)
    probabilities = raw_product(quotient.numerators, to_scale(quotient.inverse, 1 << digits))
    probabilities.scale = 1 << (quotient.exponent + digits)
    probabilities.format = wire.format
    probabilities.nonnegative = True
    return Softmax(shifted, probabilities, quotient.row)


# --- short rows ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _ShortRow:
    """Row sums in [1, size] as angles of 2^_TURN_BITS, a period of 2^turn."""

    total: Secret
    size: int
    turn: int

    def inverse(self) -> Secret:
        return series(self.total, reciprocal_series(self._base, self._period, _ROW_ERROR), _TURN_BITS)

    def log(self, target: int) -> Secret:
        return to_scale(series(self.total, log_series(self._base, self._period, _ROW_ERROR), _TURN_BITS), target)

    @property
    def _base(self) -> int:
        return max(4, self.size)

    @property
    def _period(self) -> float:
        return float(1 << self.turn)


def _turn(size: int) -> int:
    """The period, as a power of two, of the series for rows of this length."""
    return math.ceil(math.log2(_MARGIN * max(6, size)))


def _short(exponentials: Secret, dim: int, turn: int) -> _Quotient:
    """The exponentials come so fine that a row's sum just fits: their opening opens the sum as well."""
    exponentials.session.open(exponentials)
    total = secret(apply(exponentials, "sum", (dim,), True))
    row = _ShortRow(total, exponentials.shape[dim], turn)
    return _Quotient(_integers(to_scale(exponentials, 1 << _EXP_BITS)), row.inverse(), _EXP_BITS, row)


# --- long rows -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _LongRow:
    """Row sums at 2^_EXP_BITS by their mantissa."""

    mantissa: Mantissa

    def log(self, target: int) -> Secret:
        return log_of_mantissa(self.mantissa, 1 << _EXP_BITS, target)


def _long(exponentials: Secret, dim: int) -> _Quotient:
    """Numerators and row sums are multiplied by the power of four that brings the sum into [1, 4)."""
    numerators = _integers(to_scale(exponentials, 1 << _EXP_BITS))
    total = secret(apply(numerators, "sum", (dim,), True))
    high = _EXP_BITS // 2 + math.ceil(math.log(exponentials.shape[dim] * 1.001, 4))
    m = mantissa(magnitude(total, _EXP_BITS // 2, high, signed=False), Lift(4), also_open=[numerators])
    scaled = raw_product(numerators, m.lifted())
    inverse = series(m.value, reciprocal_series(max_error=FIT), m.exponent + 3)
    return _Quotient(scaled, inverse, m.exponent, _LongRow(m))


def _integers(x: Secret) -> Secret:
    """The same wire counted as whole numbers."""
    return combine([(x, 1)], scale=1)
