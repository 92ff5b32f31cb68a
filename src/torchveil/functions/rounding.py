"""Rounding to multiples of a public number, exactly.

Theory of operation. The integer X is truncated by the divisor D: t is floor(X / D) or one more. The rest r = X - t D
lies in (-D, D), and comparing it with public thresholds says how far t is off, so floor(X / D) = t - [r < 0], exactly.
To the nearest whole number, halves to even as in torch, it is the same with the divisor 2 D: t' = 2 t + 2 - (how many
of -3D/2 + 1, -D/2, D/2 + 1, 3D/2 lie above r), where an even t is what decides the ties.

A divisor that is no whole number of units is a fraction with a denominator of up to 24 bits; X is multiplied by that
first, and the multiple is what is exact.

Rounds: 1 to open X, 1 to open the rest, 3 for the comparison: 5. Range: |X| < 2^62. Leaks nothing: see the gates.
"""

from __future__ import annotations

from fractions import Fraction

from torchveil.fixedpoint import FixedPoint, rational
from torchveil.functions.arithmetic import combine, rescale, secret, select, weigh
from torchveil.functions.comparison import BELOW, absolute, bits, negative
from torchveil.handle import Bit, Secret


def _parts(x: Secret, divisor: int) -> tuple[Secret, Secret]:
    """(t, r): a quotient that is at most one too large, and the rest in (-divisor, divisor) at x's scale."""
    quotient = rescale(x, Fraction(1, divisor), 1)
    return quotient, combine([(x, 1), (quotient, -divisor)], scale=x.scale)


def _multiple(x: Secret, divisor: Fraction) -> tuple[Secret, int]:
    """(c X, D) with c X / D = x / divisor."""
    numerator, whole = rational(1 / (divisor * x.scale))
    return (x if numerator == 1 else combine([(x, numerator)], scale=x.scale)), whole


def _whole(terms: list[tuple[Secret, int]], constant: int, like: Secret) -> Secret:
    out = combine(terms, constant, scale=1)
    out.format = like.format
    return out


def floor_divide(x: Secret, divisor: Fraction) -> Secret:
    """floor(x / divisor) for a positive divisor, whole numbers at scale 1."""
    x, whole = _multiple(x, divisor)
    if whole == 1:
        return _whole([(x, 1)], 0, x)
    quotient, rest = _parts(x, whole)
    (below,) = bits(rest, (0,), (BELOW,))
    return _whole([(quotient, 1), (secret(below), -1)], 0, x)


def remainder(x: Secret, divisor: Fraction) -> Secret:
    """x - divisor floor(x / divisor) for a positive divisor, at x's scale."""
    scale = x.scale
    multiple, whole = _multiple(x, divisor)
    if whole == 1:
        return combine([(x, 0)], scale=scale)
    _, rest = _parts(multiple, whole)
    (below,) = bits(rest, (0,), (BELOW,))
    out = combine([(rest, 1), (secret(below), whole)], scale=scale)
    out.format, out.nonnegative = x.format, True
    return rescale(out, divisor * scale / whole, scale)


def nearest(x: Secret, divisor: Fraction) -> Secret:
    """x / divisor to the nearest whole number, halves to even, at scale 1."""
    x, whole = _multiple(x, divisor)
    if whole == 1:
        return _whole([(x, 1)], 0, x)
    # twice everything, so that half the divisor is a whole number
    doubled = combine([(x, 2)], scale=x.scale)
    quotient, rest = _parts(doubled, 4 * whole)
    thresholds = (-3 * whole + 1, -whole, whole + 1, 3 * whole)
    below: list[Bit] = bits(rest, thresholds, [((k,), False) for k in range(4)])
    off = weigh(below, [-1] * 4, 2, 1, x.format)
    return _whole([(quotient, 2), (off, 1)], 0, x)


def towards_zero(x: Secret) -> Secret:
    """x without its fraction, as whole numbers that torch sees as integers; one batch of comparisons for each half."""
    size = floor_divide(absolute(x), Fraction(1))
    out = combine([(size, 1), (select(negative(x), size), -2)], scale=1)
    out.format = FixedPoint(2, 0)
    return out
