"""Exponentials: of non-positive numbers in one step (softmax), of any number by two squarings.

Range and error at 16 bits: ``exp_nonpositive`` for every x <= 0, |error| < 1.2 units of the result's scale, exactly 0
below about -16; ``exp`` for every x: relative error < 2**-13 up to x = 11.09 plus one unit, 0 below about -20,
saturating at 65536 (2**16) above.
"""

from __future__ import annotations

import math
from fractions import Fraction

from torchveil.functions.arithmetic import combine, narrow, number, raw_product, rescale, to_scale
from torchveil.functions.comparison import NOT_BELOW, bits
from torchveil.gates.exponential import RESULT_BITS, split
from torchveil.handle import Bit, Handle, Secret
from torchveil.program import instructions as ins

#: The largest scale of an exponent.
MAX_UNIT = 2**32
_WASTE = 1.04


def _gate(x: Secret, bit: Bit, unit: int, n_bits: int) -> Secret:
    session = x.session
    mask_bits, factor_bits = split((1 << n_bits) / unit)
    session.open(x)
    out = session.new_id()
    session.submit(ins.Exponential(out, x.id, bit.id, unit, n_bits, mask_bits, factor_bits, x.shape, x.zeros))
    return session.wire(out, 1 << RESULT_BITS, x.format, shape=x.shape, nonnegative=True)


def _filling(scale: int, reach: float) -> tuple[int, int]:
    """(factor, bits), the factor as small as possible: ``factor * scale * reach`` is just below ``2**bits``.

    The gate reaches down to ``-2**bits / unit`` and loses a bit of precision for each ln 4 that nobody needs.
    """
    factor = 0
    while True:
        factor += 1
        needed = factor * scale * reach
        n_bits = math.ceil(math.log2(needed))
        if 2**n_bits <= _WASTE * needed:
            return factor, n_bits


def exp_nonpositive(x: Secret, scale: int) -> Secret:
    """exp(x) for x <= 0, at ``scale``. 4 rounds after the opening of x; pending x is used as it is."""
    reach = math.log(2 * scale)
    unit = x.scale >> x.zeros
    if _filling(unit, reach)[0] * unit > MAX_UNIT:
        x = narrow(x)
        unit = x.scale >> x.zeros
    factor, n_bits = _filling(unit, reach)
    lowest = ((1 << n_bits) - 1) // factor
    (inside,) = bits(x, (-lowest << x.zeros,), (NOT_BELOW,))
    finer = x if factor == 1 else combine([(x, factor)], scale=factor * x.scale)
    return to_scale(_gate(finer, inside, factor * unit, n_bits), scale)


def exp(x: Handle) -> Secret:
    """exp(x) by exp(x/4) squared twice. 3 + 1 + 2 + 2 rounds after the opening of x."""
    wire = narrow(number(x))
    unit, target = wire.scale, wire.format.scale
    top = round(math.log(2**16) * unit)
    bottom = math.log(2 * target) * unit
    n_bits = math.ceil(math.log2(top + bottom))
    shifted = combine([(wire, 1)], -top, scale=unit)
    inside, above = bits(shifted, (1 - (1 << n_bits), 1), (((0, 1), False), ((1,), True)))
    quarter = to_scale(_gate(shifted, inside, 4 * unit, n_bits), 2**28)
    half = to_scale(raw_product(quarter, quarter), 2**29)
    whole = raw_product(half, half)
    limit = math.exp(top / unit)
    out = rescale(whole, Fraction(limit) * Fraction(target, 2**58), target)
    saturated = wire.session.bit_to_arithmetic(above)
    total = combine([(out, 1), (saturated, round(limit * target))], scale=target)
    total.format = wire.format
    total.nonnegative = True
    return total
