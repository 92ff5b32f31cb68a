"""Exponential linear units: x above 0, an exponential that tends to a constant below.

Theory of operation. elu(x) = scale x for x > 0, else scale alpha (e^(input_scale x) - 1). One batch of comparisons says
where x > 0 and where x <= 0 lies in the window of the exponential; below it e^(input_scale x) is less than half a unit.
The exponential is gated by that bit and its truncation takes the public factors in, so nothing is added but a weighted
sum of bits. The derivative is linear in the result: input_scale (y + scale alpha) for x <= 0.

Rounds: 1 to open x, 3 for the bits, 1 for the truncation; the derivative 1, and no comparison after its forward.
Error: for every x below 1.5 units for factors up to 1, else as many times more. Leaks nothing: see the gates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from torchveil.errors import UnsupportedOperation
from torchveil.functions.arithmetic import combine, narrow, number, rescale, select, weigh
from torchveil.functions.comparison import bits, positive
from torchveil.functions.exponential import MAX_UNIT, filling, gated
from torchveil.functions.piecewise import sloped
from torchveil.handle import Bit, Handle, Secret


@dataclass(frozen=True, slots=True)
class Unit:
    """The public numbers of a unit, all as torch names them."""

    alpha: float
    scale: float
    input_scale: float

    def window(self, scale: int) -> tuple[int, int, int]:
        """(factor, unit, bits): the integers of x times factor are exponents in units of 1 / unit over 2^bits.

        Raises ``UnsupportedOperation`` where no exponential reaches: an input scale that is not positive, or tiny.
        """
        if not 0 < self.input_scale < math.inf:
            raise UnsupportedOperation(
                f"an exponential unit with input scale {self.input_scale}", op="elu", remedy="use a positive one"
            )
        real = scale / self.input_scale
        finer = max(1, math.ceil(_FINEST / real))
        height = max(1.0, abs(self.alpha * self.scale))
        factor, n_bits = filling(finer * scale, min(_REACH, math.log(2 * scale * height)) / self.input_scale)
        unit = round(factor * finer * real)
        if unit > MAX_UNIT:
            raise UnsupportedOperation(
                f"an exponential unit as flat as input scale {self.input_scale}",
                op="elu",
                remedy=f"use one above {scale / MAX_UNIT:.1e}, or a linear function",
            )
        return factor * finer, unit, n_bits


#: A unit of exponents that counts this many steps is rounded by little enough, and the furthest exponent of the gate.
_FINEST, _REACH = 2**10, 22.0
_ABOVE = "elu above"


def elu(x: Handle, unit: Unit) -> Secret:
    """The unit's value for every x."""
    wire = narrow(number(x))
    known: Secret | None = wire.memo.get(f"elu {unit}")
    if known is not None:
        return known
    scale = wire.scale
    factor, steps, n_bits = unit.window(scale)
    lowest = ((1 << n_bits) - 1) // factor
    inside, above = bits(wire, (-lowest, 1), (((0, 1), False), ((1,), True)))
    finer = wire if factor == 1 else combine([(wire, factor)], scale=scale * factor)
    power = gated(finer, inside, steps, n_bits)
    depth = Fraction(unit.scale) * Fraction(unit.alpha)
    low = rescale(power, depth * Fraction(scale, power.scale), scale)
    raw = round(depth * scale)
    ends = weigh([above], [raw], -raw, scale, wire.format)
    out = combine([(low, 1), (sloped(wire, unit.scale, above), 1), (ends, 1)], scale=scale)
    out.format = wire.format
    out.nonnegative = False
    out.memo[_ABOVE] = above
    wire.memo[f"elu {unit}"] = out
    return out


def slope(x: Handle, unit: Unit) -> Secret:
    """The derivative at x."""
    return slope_at_result(elu(x, unit), unit)


def slope_at_result(y: Handle, unit: Unit) -> Secret:
    """The derivative where the unit's value is y."""
    wire = narrow(number(y))
    above: Bit = wire.memo.get(_ABOVE) or positive(wire)
    scale = wire.scale
    below = combine([(wire, 1), (select(above, wire), -1)], scale=scale)
    bottom = round(Fraction(unit.input_scale) * Fraction(unit.scale) * Fraction(unit.alpha) * scale)
    ends = weigh([above], [round(Fraction(unit.scale) * scale) - bottom], bottom, scale, wire.format)
    return combine([(sloped(below, unit.input_scale, None), 1), (ends, 1)], scale=scale)
