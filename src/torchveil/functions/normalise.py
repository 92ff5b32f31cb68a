"""Reciprocal, division, square roots and logarithm: find the power of four, then a series on the mantissa.

Theory of operation. x holds the integer X (x = X / S), 4^low <= |X| < 4^high. One batch of comparisons with powers of
four, on one opening, gives the one-hot bucket of |X|: the comparison of X with t and that of -X with t exclude each
other, so their XOR is one bit for both signs. Weighted sums of those bits are free, so N = 4^s, the power of four that
lifts the bucket to the top, is known as a sharing, and m = |X| N lies in [1, 4) * 2^K, K = 2 (high - 1): an exact
product, nothing is truncated. A trigonometric series of period 8 * 2^K gives f(m / 2^K), f one of 1/m, sqrt m,
1/sqrt m, log m, and the factor that undoes N is again a weighted sum of the bits. The sign is a bit of the batch.

Small arrays take every power of four at once: 1 round to open x, 3 (bits), 1 (N), 1 (m), 1 (truncate f), 1 (product),
1 (truncate): 9 rounds; the logarithm needs no product. A comparison costs 16 bytes and more per element, and there are
18 (reciprocal, 36 with a sign) to 22 (roots) at 16 bits, so large arrays go in two levels: first the powers of 4^6, a
product, then the powers of four within one of 4^6, a product. That is 13 and 10 comparisons, for 5 more rounds.

Never garbage: a zero and everything beyond the top bucket has a value of its own (see each function).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torchveil.fixedpoint import FixedPoint
from torchveil.functions.arithmetic import (
    combine,
    map_bit,
    narrow,
    number,
    raw_product,
    rescale,
    secret,
    select_raw,
    to_scale,
    weigh,
)
from torchveil.functions.comparison import BELOW, Output, bits
from torchveil.functions.series import TrigSeries, log_series, reciprocal_series, rsqrt_series, sqrt_series
from torchveil.functions.structure import apply, concatenate
from torchveil.gates.series import COEFFICIENT_BITS
from torchveil.gates.series import RESULT_BITS as SERIES_BITS
from torchveil.handle import Bit, Handle, Secret
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins

_WHOLE = FixedPoint(2, 0)

#: Powers of four that the first of two levels takes together.
_SPAN = 6

#: Absolute error of the fits of 1/m and sqrt m; for 1/m up to four times as much relative to the result.
FIT = 2.0**-21

#: From so many elements on there are two levels. They save 235 to 410 bytes per element and cost 5 rounds: even at
#: about 1,000 elements on a link of 10 Gbit/s and 50 us, at 4,000 on one of 100 Mbit/s and 20 ms.
TWO_LEVELS_FROM = 2048


@dataclass(frozen=True, slots=True)
class Digit:
    """One-hot bits of a part of the exponent; ``shifts`` says how many powers of four lift each to the top.

    No bit is set for the lowest place, whose shift ``rest`` is the largest.
    """

    bits: tuple[Bit, ...]
    shifts: tuple[int, ...]
    rest: int

    def weigh(self, weight: Callable[[int], int], without: Sequence[Bit] = (), scale: int = 1) -> Secret:
        """The integer weight(shift), 0 where a bit of ``without`` is set (there no bit of this digit is); local."""
        rest = weight(self.rest)
        weights = [*(weight(shift) - rest for shift in self.shifts), *(-rest for _ in without)]
        return weigh([*self.bits, *without], weights, rest, scale, _WHOLE)


@dataclass(frozen=True, slots=True)
class Lift:
    """A factor of the result: the product over all digits of base^shift, or with ``down`` of base^(rest - shift).

    It is 0 beyond the top bucket, and with ``zero`` also below the lowest, which counts as the lowest power otherwise;
    with ``signed`` it takes the sign of X.
    """

    base: int
    down: bool = False
    zero: bool = False
    signed: bool = False

    def of(self, digit: Digit, without: Sequence[Bit] = ()) -> Secret:
        return digit.weigh(lambda s: self.base ** (digit.rest - s if self.down else s), without)


@dataclass(frozen=True, slots=True)
class Mantissa:
    """m = |X| 4^shift in [1, 4) * 2^exponent; the digits of shift; the factor asked for."""

    value: Secret
    exponent: int
    digits: tuple[Digit, ...] = ()
    factor: Secret | None = None

    def lifted(self) -> Secret:
        if self.factor is None:
            raise ValueError("this mantissa was made without a factor")
        return self.factor

    @property
    def spare(self) -> int:
        """A ``down`` lift of base b is b^spare times b^(power of four of X)."""
        return sum(digit.rest for digit in self.digits) - self.exponent // 2


@dataclass(frozen=True, slots=True)
class _Coarse:
    """The first digit and what lies outside: ``tiny`` is [|X| < 4^low] (or [X < 4^low]), ``top`` [|X| >= 4^high]."""

    digit: Digit
    tiny: Bit
    top: Bit
    sign: Bit | None


def _coarse(x: Secret, low: int, tops: Sequence[int], *, signed: bool) -> _Coarse:
    """Which of the groups 4^low .. 4^tops[0] .. 4^tops[-1] holds |X|; 3 rounds after the opening of x."""
    bounds = [low, *tops]
    thresholds = [4**bound for bound in bounds]
    # below[k] are the comparisons whose XOR is [|X| < 4^bounds[k]]: [X < t], and [X < 1 - t] = [-X >= t]
    below: list[tuple[int, ...]] = [(k,) for k in range(len(bounds))]
    if signed:
        below = [(k, k + len(bounds)) for k in range(len(bounds))]
        thresholds += [1 - 4**bound for bound in bounds]
    outputs: list[Output] = [(below[0], False), (below[-1], True)]
    outputs += [((*below[k], *below[k + 1]), False) for k in range(1, len(tops))]
    if signed:
        # [X < 0] is [X < 1 - 4^0]
        outputs.append(((thresholds.index(0),), False) if low == 0 else ((len(thresholds),), False))
        thresholds += [] if low == 0 else [0]
    tiny, top, *rest = bits(x, thresholds, outputs)
    sign = rest.pop() if signed else None
    shifts = [tops[-1] - bound for bound in tops]
    return _Coarse(Digit(tuple(rest), tuple(shifts[1:]), shifts[0]), tiny, top, sign)


def _fine(x: Secret, high: int, span: int) -> Digit:
    """Which of the powers 4^(high - span) .. 4^high holds X; 3 rounds after the opening of x."""
    outputs: list[Output] = [((k, k + 1), False) for k in range(span - 2)]
    made = bits(x, [4 ** (high - span + k) for k in range(1, span)], [*outputs, ((span - 2,), True)])
    return Digit(tuple(made), tuple(range(span - 2, -1, -1)), span - 1)


@dataclass(frozen=True, slots=True)
class Magnitude:
    """|X| as ``value``, with ``floor`` added where it is below 4^low; where it lies, and that as a factor, ``raising``.

    ``value`` and ``raising`` are opened together.
    """

    value: Secret
    raising: Secret
    found: _Coarse
    low: int
    high: int
    span: int
    floor: int


def magnitude(x: Secret, low: int, high: int, *, signed: bool, floor: int = 0) -> Magnitude:
    """The first level: |X| for a ``signed`` x, else X; all powers of four of a small array. 3 rounds and an opening."""
    span = _SPAN if x.numel >= TWO_LEVELS_FROM and high - low > _SPAN else 1
    x.session.open(x)
    found = _coarse(x, low, range(high, low, -span)[::-1], signed=signed)
    value = _as_integers(x)
    if found.sign is not None:
        value = combine([(value, 1), (select_raw(found.sign, value), -2)], scale=1)
    if floor:
        value = combine([(value, 1), (x.session.bit_to_arithmetic(found.tiny), floor)], scale=1)
    # a number below 0 that has no sign here is tiny, and so is one that rounding has left a unit below 0
    raising = Lift(4).of(found.digit, [found.top] if signed else [found.tiny, found.top])
    x.session.open(value, raising)
    return Magnitude(value, raising, found, low, high, span, floor)


def mantissa(x: Magnitude, lift: Lift | None = None, *, also_open: Sequence[Secret] = ()) -> Mantissa:
    """The mantissa, and the factor that ``lift`` says, opened together with ``also_open``.

    Zero and what lies beyond the top count as 4^low, what lies between 0 and 4^low as that or up to twice as much.
    """
    session, found, first = x.value.session, x.found, x.found.digit
    outside = [found.tiny, found.top]
    unit = 4**first.rest
    lowest = unit << 2 * x.low
    # where 4^shift is not 0 for tiny numbers, the floor has been lifted with them
    raised = unit * x.floor if found.sign is not None else 0
    fill = weigh(outside, [lowest - raised, lowest], 0, 1, _WHOLE)
    value = combine([(raw_product(x.value, x.raising), 1), (fill, 1)], scale=1)
    raising, factor = x.raising, None
    if lift is not None:
        same = found.sign is not None and lift.base == 4 and not lift.down and not lift.zero
        factor = raising if same else lift.of(first, outside if lift.zero else [found.top])
        if found.sign is not None and lift.signed:
            factor = combine([(factor, 1), (select_raw(found.sign, factor), -2)], scale=1)
    digits = [first]
    if x.span > 1:
        second = _fine(value, x.high, x.span)
        digits.append(second)
        raising = Lift(4).of(second)
        more = raising if lift is None or (lift.base == 4 and not lift.down) else lift.of(second)
        session.open(raising, *([] if factor is None else [factor, more]))
        value = raw_product(value, raising)
        factor = None if factor is None else raw_product(factor, more)
    session.open(value, *([] if factor is None else [factor]), *also_open)
    return Mantissa(value, 2 * (x.high - 1), tuple(digits), factor)


def series(x: Secret, fit: TrigSeries, n_bits: int, bit: Bit | None = None, *, factor: int = 1) -> Secret:
    """The trigonometric series of x's integers over a period of 2^n_bits / factor, at scale 2^58; [gated by bit]."""
    session = x.session
    session.open(x)
    out = session.new_id()
    session.submit(
        ins.Series(
            out,
            x.id,
            None if bit is None else bit.id,
            n_bits,
            fit.frequencies,
            _integers(fit.cosines, COEFFICIENT_BITS),
            _integers(fit.sines, COEFFICIENT_BITS),
            round(Fraction(fit.constant) * (1 << SERIES_BITS)),
            x.shape,
            factor,
        )
    )
    return session.wire(out, 1 << SERIES_BITS, x.format, shape=x.shape)


def _integers(values: Sequence[float], n_bits: int) -> tuple[int, ...]:
    return tuple(round(Fraction(value) * (1 << n_bits)) for value in values)


def _as_integers(x: Secret) -> Secret:
    """The same wire counted as whole numbers; shares opening and all."""
    return combine([(x, 1)], scale=1)


def _reach(scale: int, beyond: int) -> int:
    """The power of four that covers real numbers up to 2^beyond at ``scale``."""
    return min(30, math.ceil((math.log2(scale) + beyond) / 2))


def _lowest(scale: int) -> int:
    """Below 2^-20 real everything counts as 2^-20 when the scale is finer than that."""
    return max(0, math.ceil((math.log2(scale) - 20) / 2))


def _mantissa_series(m: Mantissa, fit: TrigSeries, scale: int) -> Secret:
    return to_scale(series(m.value, fit, m.exponent + 3), scale)


def reciprocal(x: Handle) -> Secret:
    """1/x for 2^-20 < |x| < 2^20. Relative error < 2**-18 (2**-15.8 above 18 digits) plus one unit; 1/0 is 1/unit, the
    largest; 0 beyond 2^20."""
    wire = number(x)
    if wire.pending and not wire.wide:
        wire = narrow(wire)
    low, high = _lowest(wire.scale), _reach(wire.scale, 20)
    m = mantissa(magnitude(wire, low, high, signed=not wire.nonnegative), Lift(4, signed=True))
    fit = _mantissa_series(m, reciprocal_series(max_error=FIT), 1 << min(26, 58 - 2 * (high - low)))
    out = raw_product(m.lifted(), fit)
    # 1/x = S N f / 2^K
    target = wire.format.scale
    result = rescale(out, Fraction(wire.scale * target, fit.scale << m.exponent), target)
    return _like(result, wire)


def divide(a: Handle, b: Handle) -> Secret:
    """a / b with error < 2**-17 |a/b| plus two units, for |a/b| < 2^21 and 2^-20 < |b| < 2^20.

    b = 0 counts as one unit (a/0 = a/unit), |b| above 2^20 gives 0 (debug mode stops at 2^21). A quotient that is too
    large is cut off, with its sign, at 2^24 - 2^9 (at 2^22 - 2^7 with 20 digits, at 2^16 with 26; for b = 0 then at up
    to four times that): for every a, and every b below 2^20.

    Both are multiplied by the same power of four first, so that a large quotient and a large divisor lose no digits.
    Rounds: 3 more than a reciprocal's for the cut, which deals 120 bytes per element.
    """
    numerator, divisor = number(a), number(b)
    # a wide dividend (a first moment) keeps ten more digits
    numerator = to_scale(numerator, numerator.format.scale << 10) if numerator.wide else narrow(numerator)
    if divisor.pending and not divisor.wide:
        divisor = narrow(divisor)
    session = numerator.session
    session.own(numerator, divisor)
    session.open(numerator, divisor)
    low, high = _lowest(divisor.scale), _reach(divisor.scale, 20)
    # the product with the power of four stays below 2^62, and so does the quotient with 38 digits in the end
    most, cut = _MOST * numerator.scale / divisor.scale, Fraction(1 << 62, 4**high)
    # what counts as 4^low has a smaller product with its power of four than the largest: room for more
    times = max(1, min(4 if low == 0 else 3, round(most / cut)))
    cut, floor = min(cut, most / times), times << 2 * low
    size = magnitude(divisor, low, high, signed=not divisor.nonnegative, floor=floor)
    clamped = _clamped(_as_integers(numerator), size.value, max(1, int(cut)))
    m = mantissa(size, Lift(4, signed=True), also_open=[clamped])
    scaled = raw_product(clamped, m.lifted())
    inverse = series(m.value, reciprocal_series(max_error=FIT), m.exponent + 3)
    session.open(scaled, inverse)
    # scaled = q m S_a / S_b (integers): keep 18 digits of q * m / 2^K
    kept = Fraction(divisor.scale << 18, numerator.scale << m.exponent)
    left = rescale(scaled, kept, 1 << 18)
    right = to_scale(inverse, 1 << 20)
    target = max(numerator.format.scale, divisor.format.scale)
    out = raw_product(left, right)
    result = rescale(out, Fraction(target, 1 << 38), target)
    result.format = numerator.format if numerator.format.scale == target else divisor.format
    result.nonnegative = numerator.nonnegative and divisor.nonnegative
    return result


#: The largest quotient: with 38 digits, the errors of its factors included, it is below 2^62.
_MOST = Fraction((1 << 24) - (1 << 9))


def _clamped(a: Secret, size: Secret, cut: int) -> Secret:
    """The integers a limited to +-w, w = cut size - 1, for opened a and size >= 1.

    With U = a - w and V = a + w, u = [U < 0] and v = [V < 0], it is w + u U - v V. U and V are linear in opened values,
    so both bits cost 3 rounds together, and the selections none.
    """
    ends = [combine([(a, 1), (size, factor)], sign, scale=1) for factor, sign in ((-cut, 1), (cut, -1))]
    stacked = secret(concatenate([apply(end, "unsqueeze", 0) for end in ends], 0))
    (below,) = bits(stacked, (0,), (BELOW,))
    lower, upper = (select_raw(map_bit(below, LinearMap("select", (0, k))), end) for k, end in enumerate(ends))
    return combine([(size, cut), (lower, 1), (upper, -1)], -1, scale=1)


def sqrt(x: Handle) -> Secret:
    """sqrt(x) for 0 <= x < 2^28; 0 for x <= 0. A wide x (a second moment) gives a wide root. Error < 2**-20 relative
    plus one unit."""
    wire = _narrow_unless_wide(number(x))
    m = mantissa(magnitude(wire, 0, _reach(wire.scale, 28), signed=False), Lift(2, down=True, zero=True))
    root = _mantissa_series(m, sqrt_series(max_error=FIT), 1 << 24)
    out = raw_product(m.lifted(), root)
    target = wire.format.scale**2 if wire.wide else wire.format.scale
    factor = Fraction(target) / (Fraction(math.sqrt(wire.scale)) * (root.scale << m.spare))
    result = rescale(out, factor, target, wide=wire.wide)
    result = _like(result, wire)
    result.wide = wire.wide
    result.nonnegative = True
    return result


def rsqrt(x: Handle) -> Secret:
    """1/sqrt(x) for 0 < x < 2^28; zero and negative numbers count as one unit.

    Error < 2**-18 relative plus one unit.
    """
    wire = _narrow_unless_wide(number(x))
    high = _reach(wire.scale, 28)
    m = mantissa(magnitude(wire, 0, high, signed=False), Lift(2))
    inverse = _mantissa_series(m, rsqrt_series(), 1 << 24)
    out = raw_product(m.lifted(), inverse)
    target = wire.format.scale
    factor = Fraction(target) * Fraction(math.sqrt(wire.scale)) / (inverse.scale << (high - 1))
    result = _like(rescale(out, factor, target), wire)
    result.nonnegative = True
    return result


def log(x: Handle) -> Secret:
    """log(x) for 0 < x < 2^28; zero and negative numbers count as one unit (the smallest logarithm)."""
    wire = _narrow_unless_wide(number(x))
    m = mantissa(magnitude(wire, 0, _reach(wire.scale, 28), signed=False))
    return _like(log_of_mantissa(m, wire.scale, wire.format.scale), wire)


def log_of_mantissa(m: Mantissa, scale: int, target: int) -> Secret:
    """log(X / scale) from the mantissa of X: log m + (power) log 4 - log scale, one truncation."""
    part = _mantissa_series(m, log_series(), target)
    step = math.log(4.0)
    # X = (m / 2^K) 4^(K/2 - shift)
    offset = m.exponent // 2 * step - math.log(scale)
    if not m.digits:
        return combine([(part, 1)], round(offset * target), scale=target)
    first, *rest = m.digits
    terms = [first.weigh(lambda shift: round((offset - shift * step) * target), scale=target)]
    terms += [digit.weigh(lambda shift: round(-shift * step * target), scale=target) for digit in rest]
    return combine([(part, 1), *((term, 1) for term in terms)], scale=target)


def _narrow_unless_wide(x: Secret) -> Secret:
    return x if x.wide else narrow(x)


def _like(result: Secret, origin: Secret) -> Secret:
    result.format = origin.format
    result.nonnegative = False
    return result


def log_between_one_and_four(x: Secret, target: int) -> Secret:
    """log(x) for x known to lie in [1, 4], whose scale is a power of two: no comparison, one series."""
    exponent = x.scale.bit_length() - 1
    integers = _as_integers(x)
    part = to_scale(series(integers, log_series(), exponent + 3), target)
    part.nonnegative = True
    return part
