"""Exponentials: of non-positive numbers in one step (softmax), of any number by two squarings.

Range and error at 16 bits: ``exp_nonpositive`` for every x <= 0, |error| < 1.2 units of the result's scale, exactly 0
below about -16; ``exp`` for every x: relative error < 2**-13 up to x = 11.09 plus one unit, 0 below about -20,
saturating at 65536 (2**16) above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from torchveil.functions.arithmetic import combine, narrow, number, raw_product, rescale, to_scale
from torchveil.functions.comparison import NOT_BELOW, bits
from torchveil.gates.exponential import RESULT_BITS, split
from torchveil.handle import Bit, Handle, Secret
from torchveil.program import instructions as ins

#: The largest scale of an exponent.
MAX_UNIT = 2**32
_WASTE = 1.04


def gated(x: Secret, bit: Bit, unit: int, n_bits: int, result_bits: int = RESULT_BITS) -> Secret:
    session = x.session
    mask_bits, factor_bits = split((1 << n_bits) / unit, result_bits)
    session.open(x)
    out = session.new_id()
    session.submit(ins.Exponential(out, x.id, bit.id, unit, n_bits, mask_bits, factor_bits, x.shape, x.zeros))
    return session.wire(out, 1 << result_bits, x.format, shape=x.shape, nonnegative=True)


def filling(scale: float, reach: float, waste: float = _WASTE) -> tuple[int, int]:
    """(factor, bits), the factor as small as possible: ``2**bits`` is from 1 to ``waste`` times factor scale reach.

    The exponential reaches down to ``-2**bits / unit`` and loses a bit of precision for each ln 4 that nobody needs; a
    series needs more terms for a period that is longer than asked for.
    """
    factor = 0
    while True:
        factor += 1
        needed = factor * scale * reach
        n_bits = math.ceil(math.log2(needed))
        if 2**n_bits <= waste * needed:
            return factor, n_bits


@dataclass(frozen=True, slots=True)
class Window:
    """Where the exponential of integers at a scale is computed: from ``-lowest`` to 0; below it counts as 0.

    The integers, which end in ``zeros`` zeros that are left out, are multiplied by ``factor`` and lie in an interval of
    ``n_bits`` bits then.
    """

    factor: int
    n_bits: int
    zeros: int = 0

    @property
    def lowest(self) -> int:
        return ((1 << self.n_bits) - 1) // self.factor << self.zeros


def windowed(x: Secret, scale: int) -> tuple[Secret, Window]:
    """(x, truncated if its scale is too fine; the window outside of which exp(x) is below half a unit of ``scale``)."""
    reach = math.log(2 * scale)
    window = Window(*filling(x.scale >> x.zeros, reach), x.zeros)
    if window.factor * x.scale >> x.zeros > MAX_UNIT:
        x = narrow(x)
        window = Window(*filling(x.scale, reach))
    return x, window


def exp_inside(x: Secret, window: Window, inside: Bit, result_bits: int = RESULT_BITS) -> Secret:
    """exp(x) at 2^result_bits where x is ``inside`` the window, 0 elsewhere; no round after the opening of x."""
    factor = window.factor
    finer = x if factor == 1 else combine([(x, factor)], scale=factor * x.scale)
    return gated(finer, inside, factor * x.scale >> window.zeros, window.n_bits, result_bits)


def inside_window(x: Secret, window: Window) -> Bit:
    """[x lies in the window] for x <= 0; 3 rounds after the opening of x."""
    (inside,) = bits(x, (-window.lowest,), (NOT_BELOW,))
    return inside


def exp_nonpositive(x: Secret, scale: int) -> Secret:
    """exp(x) for x <= 0, at ``scale``. 4 rounds after the opening of x; pending x is used as it is."""
    x, window = windowed(x, scale)
    return to_scale(exp_inside(x, window, inside_window(x, window)), scale)


def exp(x: Handle) -> Secret:
    """exp(x) by exp(x/4) squared twice. 3 + 1 + 2 + 2 rounds after the opening of x."""
    wire = narrow(number(x))
    unit, target = wire.scale, wire.format.scale
    top = round(math.log(2**16) * unit)
    bottom = math.log(2 * target) * unit
    n_bits = math.ceil(math.log2(top + bottom))
    shifted = combine([(wire, 1)], -top, scale=unit)
    inside, above = bits(shifted, (1 - (1 << n_bits), 1), (((0, 1), False), ((1,), True)))
    quarter = to_scale(gated(shifted, inside, 4 * unit, n_bits), 2**28)
    half = to_scale(raw_product(quarter, quarter), 2**29)
    whole = raw_product(half, half)
    limit = math.exp(top / unit)
    out = rescale(whole, Fraction(limit) * Fraction(target, 2**58), target)
    saturated = wire.session.bit_to_arithmetic(above)
    total = combine([(out, 1), (saturated, round(limit * target))], scale=target)
    total.format = wire.format
    total.nonnegative = True
    return total
