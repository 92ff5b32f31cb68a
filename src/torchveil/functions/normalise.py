"""Reciprocal, division, square roots and logarithm: find the power of four, then a series on the mantissa.

Theory of operation. x holds the integer X (x = X / S). One batch of comparisons with powers of four, on one opening,
gives the one-hot bucket j with 4^j <= |X| < 4^(j+1). Weighted sums of those bits are free, so N = 4^(J-1-j) (with the
sign of X when asked) is known as a sharing and m = X N lies in [1, 4) * 2^K, K = 2(J - 1): an exact product, nothing is
truncated. A trigonometric series of period 8 * 2^K gives f(m / 2^K), f one of 1/m, sqrt m, 1/sqrt m, log m, and the
factor that undoes N is again a weighted sum of the bits.

Rounds after the opening of x: 3 (bits), 1 (N), 1 (m), 1 (truncate f), 1 (product), 1 (truncate): 8; the logarithm needs
no product. Never garbage: a zero and everything beyond the top bucket has a value of its own (see each function).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from torchveil.fixedpoint import FixedPoint
from torchveil.functions.arithmetic import combine, narrow, number, raw_product, rescale, to_scale, weigh
from torchveil.functions.comparison import bits
from torchveil.functions.series import TrigSeries, log_series, reciprocal_series, rsqrt_series, sqrt_series
from torchveil.gates.series import COEFFICIENT_BITS
from torchveil.gates.series import RESULT_BITS as SERIES_BITS
from torchveil.handle import Bit, Handle, Secret
from torchveil.program import instructions as ins

_WHOLE = FixedPoint(2, 0)


@dataclass(frozen=True, slots=True)
class Buckets:
    """One-hot bits of the power of four of |X|, from 4^low to 4^high, and beyond.

    ``positive[k]`` is [4^(low+k) <= X < 4^(low+k+1)], ``negative`` the same for -X (empty when X >= 0 is known),
    ``top`` the bits for |X| >= 4^high.
    """

    low: int
    high: int
    positive: tuple[Bit, ...]
    negative: tuple[Bit, ...]
    top: tuple[Bit, ...]


def buckets(x: Secret, low: int, high: int, *, signed: bool) -> Buckets:
    """The buckets of x's integers; 3 rounds after its opening, all thresholds in one batch."""
    powers = [4**j for j in range(low, high + 1)]
    thresholds = list(powers)
    count = high - low
    # m_j = [X < 4^j]: bucket = m_{j+1} ^ m_j; the last threshold alone, flipped, is the top
    outputs: list[tuple[tuple[int, ...], bool]] = [((k, k + 1), False) for k in range(count)]
    outputs.append(((count,), True))
    if signed:
        # [X < 1 - 4^j] = [-X >= 4^j]
        base = len(thresholds)
        thresholds += [1 - power for power in powers]
        outputs += [((base + k, base + k + 1), False) for k in range(count)]
        outputs.append(((base + count,), False))
    made = bits(x, thresholds, outputs)
    top = [made[count]]
    negative: tuple[Bit, ...] = ()
    if signed:
        negative = tuple(made[count + 1 : 2 * count + 1])
        top.append(made[2 * count + 1])
    return Buckets(low, high, tuple(made[:count]), negative, tuple(top))


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


@dataclass(frozen=True, slots=True)
class Mantissa:
    """m = X N in [1, 4) * 2^exponent (integers), the buckets it came from, and N as it multiplies the result.

    ``factor`` is N with the largest value for a zero; it is what 1/X is proportional to.
    """

    value: Secret
    exponent: int
    buckets: Buckets
    factor: Secret | None = None

    def divisor_factor(self) -> Secret:
        if self.factor is None:
            raise ValueError("this mantissa was made without a factor")
        return self.factor


def mantissa(
    x: Secret, low: int, high: int, *, signed: bool, with_factor: bool = False, also_open: Sequence[Secret] = ()
) -> Mantissa:
    """Normalise x's integers between 4^low and 4^high. Below: counted as the lowest power; above: factor 0.

    ``also_open`` travels in the round that opens N.
    """
    found = buckets(x, low, high, signed=signed)
    count = high - low
    exponent = 2 * (high - 1)
    regular = [*found.positive, *found.negative]
    one = 4 ** (high - 1)
    powers = [4 ** (high - 1 - low - k) for k in range(count)]
    weights = [*powers, *(-power for power in powers[: len(found.negative)])]
    plain = weigh(regular, weights, 0, 1, _WHOLE)
    # outside all buckets m is set to 1 * 2^exponent, so that the series stays where it was fitted
    fill = weigh(regular, [-one] * len(regular), one, 1, _WHOLE)
    factor = None
    if with_factor:
        largest = powers[0]
        corrected = [*(weight - largest for weight in weights), *([-largest] * len(found.top))]
        factor = weigh([*regular, *found.top], corrected, largest, 1, _WHOLE)
    integers = _as_integers(x)
    x.session.open(integers, plain, *([] if factor is None else [factor]), *also_open)
    value = combine([(raw_product(integers, plain), 1), (fill, 1)], scale=1)
    return Mantissa(value, exponent, found, factor)


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
    """1/x for 2^-20 < |x| < 2^20. Relative error < 2**-18 (2**-16 above 18 digits) plus one unit; 1/0 is 1/unit, the
    largest; 0 beyond 2^20."""
    wire = number(x)
    if wire.pending and not wire.wide:
        wire = narrow(wire)
    m = mantissa(wire, _lowest(wire.scale), _reach(wire.scale, 20), signed=not wire.nonnegative, with_factor=True)
    digits = 58 - 2 * (m.buckets.high - m.buckets.low)
    fit = _mantissa_series(m, reciprocal_series(), 1 << min(26, digits))
    out = raw_product(m.divisor_factor(), fit)
    # 1/x = S N f / 2^K
    target = wire.format.scale
    result = rescale(out, Fraction(wire.scale * target, fit.scale << m.exponent), target)
    return _like(result, wire)


def divide(a: Handle, b: Handle) -> Secret:
    """a / b with error < 2**-17 |a/b| plus two units, for |a/b| < 2^21 and 2^-20 < |b| < 2^20.

    b = 0 counts as one unit (a/0 = a/unit), |b| above 2^20 gives 0. A quotient above 2^24 leaves the ring like any
    product that does; debug mode names it.

    Both are multiplied by the same power of four first, so that a large quotient and a large divisor lose no digits.
    """
    numerator, divisor = number(a), number(b)
    # a wide dividend (a first moment) keeps ten more digits
    numerator = to_scale(numerator, numerator.format.scale << 10) if numerator.wide else narrow(numerator)
    if divisor.pending and not divisor.wide:
        divisor = narrow(divisor)
    numerator.session.own(numerator, divisor)
    low, high = _lowest(divisor.scale), _reach(divisor.scale, 20)
    session = numerator.session
    integers = _as_integers(numerator)
    m = mantissa(divisor, low, high, signed=not divisor.nonnegative, with_factor=True, also_open=[integers])
    scaled = raw_product(integers, m.divisor_factor())
    inverse = series(m.value, reciprocal_series(), m.exponent + 3)
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


def sqrt(x: Handle) -> Secret:
    """sqrt(x) for 0 <= x < 2^28; 0 for x <= 0. A wide x (a second moment) gives a wide root. Error < 2**-20 relative
    plus one unit."""
    wire = _narrow_unless_wide(number(x))
    m = mantissa(wire, 0, _reach(wire.scale, 28), signed=False)
    root = _mantissa_series(m, sqrt_series(), 1 << 24)
    weights = [2**k for k in range(len(m.buckets.positive))]
    power = weigh(m.buckets.positive, weights, 0, 1, _WHOLE)
    out = raw_product(power, root)
    target = wire.format.scale**2 if wire.wide else wire.format.scale
    factor = Fraction(target) / (Fraction(math.sqrt(wire.scale)) * root.scale)
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
    m = mantissa(wire, 0, high, signed=False)
    inverse = _mantissa_series(m, rsqrt_series(), 1 << 24)
    weights = [2 ** (high - 1 - k) for k in range(high)]
    one = weights[0]
    power = weigh(m.buckets.positive, [weight - one for weight in weights], one, 1, _WHOLE)
    out = raw_product(power, inverse)
    target = wire.format.scale
    factor = Fraction(target) * Fraction(math.sqrt(wire.scale)) / (inverse.scale << (high - 1))
    result = _like(rescale(out, factor, target), wire)
    result.nonnegative = True
    return result


def log(x: Handle) -> Secret:
    """log(x) for 0 < x < 2^28; zero and negative numbers count as one unit (the smallest logarithm)."""
    wire = _narrow_unless_wide(number(x))
    high = _reach(wire.scale, 28)
    m = mantissa(wire, 0, high, signed=False)
    return _like(log_of_mantissa(m, wire.scale, wire.format.scale), wire)


def log_of_mantissa(m: Mantissa, scale: int, target: int) -> Secret:
    """log(X / scale) from the mantissa of X: log m + (power) log 4 - log scale, one truncation."""
    part = _mantissa_series(m, log_series(), target)
    step = math.log(4.0)
    weights = [round(k * step * target) for k in range(len(m.buckets.positive))]
    # X = (m / 2^K) 4^j with j = low + k
    offset = round((m.buckets.low * step - math.log(scale)) * target)
    if not weights:
        return combine([(part, 1)], offset, scale=target)
    power = weigh(m.buckets.positive, weights, offset, target, _WHOLE)
    return combine([(part, 1), (power, 1)], scale=target)


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
