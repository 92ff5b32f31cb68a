"""Public factors of the series gates, by exact integer arithmetic.

Every party multiplies its shares by the same public integers, so those integers have to agree to the last bit on every
processor and accelerator.  Floating-point ``cos``, ``sin`` and ``exp`` give no such promise.  The functions here use
only ``int64`` additions, multiplications, shifts, masks and table look-ups.  The tables are computed once per process
in decimal arithmetic, whose results are fixed by its specification and not by the platform's mathematical library.

Units: a phase is a whole number of ``1 / 2**bits`` turns; cosines and sines are whole numbers of ``2**-TRIG_BITS``.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "EXPONENT_LIMIT",
    "PI",
    "TRIG_BITS",
    "HarmonicsWalk",
    "check_exponential",
    "cos_sin",
    "decimal_cos_sin",
    "exp_slope",
    "exp_tables",
    "exponential",
    "harmonics",
    "harmonics_walk",
    "iterate_harmonics",
    "trig_slope",
    "trig_tables",
]

TRIG_BITS = 30
"""Fraction bits of the cosines and sines that :func:`cos_sin` and :func:`harmonics` return."""

EXPONENT_LIMIT = 24
"""Largest magnitude, in real units, of an exponent that :func:`exponential` accepts."""

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")
_PRECISION = 60  # decimal digits while tables are built; the entries need about twelve
_INNER = 31  # fraction bits of table entries: one more than the result's, and still a product fits 62 bits
_COARSE = 11  # bits of a turn resolved by the first table
_FINE = 11  # bits of a turn resolved by the second table
_TURN = 40  # bits of a turn that are used at all; the rest is worth 2*pi*2**-40 < 2**-37
_SLOPE = 30  # fraction bits of the linear factor for the last _TURN - _COARSE - _FINE bits
_EXP_COARSE = 12  # bits resolved by the first table of the exponential
_EXP_FINE = 11  # bits resolved by its second table, when a linear part follows
_EXP_SLOPE = 20  # extra fraction bits of that linear part's factor
_EXP_PRODUCT = 61  # the product of two entries lies in [2**61, 2**62.04)
_MAX_UNIT = 1 << 32


def _context() -> Context:
    return Context(prec=_PRECISION, rounding=ROUND_HALF_EVEN)


def _scaled(value: Decimal, bits: int) -> int:
    """Return ``value * 2**bits`` rounded to the nearest integer (within a decimal context)."""
    return int((value * (1 << bits)).to_integral_value(rounding=ROUND_HALF_EVEN))


def decimal_cos_sin(turns: Decimal) -> tuple[Decimal, Decimal]:
    """Return the cosine and sine of ``2*pi*turns`` to about fifty digits, identically on every platform."""
    with localcontext(_context()):
        reduced = turns - turns.to_integral_value(rounding=ROUND_HALF_EVEN)
        angle = 2 * PI * reduced / 16
        square = angle * angle
        cosine, sine = Decimal(1), angle
        term, index = angle, 1
        smallest = Decimal(1).scaleb(-_PRECISION - 2)
        even = Decimal(1)
        while abs(even) > smallest:
            even = -term * angle / (index + 1)
            term = -term * square / ((index + 1) * (index + 2))
            cosine += even
            sine += term
            index += 2
        for _ in range(4):
            cosine, sine = cosine * cosine - sine * sine, 2 * cosine * sine
        return cosine, sine


@cache
def trig_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (cos, sin) of ``i / 2**11`` turns and (cos, sin) of ``i / 2**22`` turns, 2**11 entries each, at 2**31."""
    columns: list[Tensor] = []
    with localcontext(_context()):
        for resolution, count in ((_COARSE, 1 << _COARSE), (_COARSE + _FINE, 1 << _FINE)):
            step_cos, step_sin = decimal_cos_sin(Decimal(1) / (1 << resolution))
            cosine, sine = Decimal(1), Decimal(0)
            cosines: list[int] = []
            sines: list[int] = []
            for _ in range(count):
                cosines.append(_scaled(cosine, _INNER))
                sines.append(_scaled(sine, _INNER))
                cosine, sine = cosine * step_cos - sine * step_sin, sine * step_cos + cosine * step_sin
            columns += [torch.tensor(cosines, dtype=torch.int64), torch.tensor(sines, dtype=torch.int64)]
    first, second, third, fourth = (column.to(device) for column in columns)
    return first, second, third, fourth


@cache
def trig_slope() -> int:
    """Return ``2*pi`` over ``2**40`` in units of ``2**-(31 + 30)``."""
    with localcontext(_context()):
        return _scaled(2 * PI, _INNER + _SLOPE - _TURN)


def cos_sin(phase: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of ``2*pi*(phase mod 2**bits) / 2**bits`` as integers at scale ``2**30``.

    The turn is split as ``hi/2**11 + mid/2**22 + low/2**40``.  With table entries at scale ``2**31``, ::

        C = cos(hi) cos(mid) - sin(hi) sin(mid),    S = sin(hi) cos(mid) + cos(hi) sin(mid)      (scale 2**62)
        cos = (C - (S >> 31) b) >> 32,              sin = (S + (C >> 31) b) >> 32                (rounded)

    where ``b`` is the angle of ``low`` at scale ``2**31``; it stays below ``1.5e-6``, so ``cos b = 1`` and
    ``sin b = b`` hold to ``1.2e-12``.

    Error bound, in units of ``2**-30``: table entries 0.71, ``b`` 0.25, ignored bits 0.01, last rounding 0.5; in all
    below 1.5, which is less than ``2**-29``.  The result lies in ``[-2**30 - 1, 2**30 + 1]``.

    Args:
        phase: ``int64`` tensor of any shape; only its low ``bits`` bits matter.
        bits: number of bits of one turn, 3 to 62.

    Raises:
        ValueError: ``bits`` is out of range.
        TypeError: ``phase`` is not ``int64``.
    """
    if not 3 <= bits <= 62:
        raise ValueError(f"bits must be from 3 to 62, got {bits}")
    _require_int64(phase)
    coarse_cos, coarse_sin, fine_cos, fine_sin = trig_tables(phase.device)
    if bits <= _COARSE:
        high = (phase & ((1 << bits) - 1)) << (_COARSE - bits)
        return _round_shift(_look_up(coarse_cos, high), 1), _round_shift(_look_up(coarse_sin, high), 1)
    high = (phase >> (bits - _COARSE)) & ((1 << _COARSE) - 1)
    head_cos, head_sin = _look_up(coarse_cos, high), _look_up(coarse_sin, high)
    if bits <= _COARSE + _FINE:
        rest = bits - _COARSE
        middle = (phase & ((1 << rest) - 1)) << (_FINE - rest)
    else:
        middle = (phase >> (bits - _COARSE - _FINE)) & ((1 << _FINE) - 1)
    tail_cos, tail_sin = _look_up(fine_cos, middle), _look_up(fine_sin, middle)
    cosine = (head_cos * tail_cos).sub_(head_sin * tail_sin)
    sine = head_sin.mul_(tail_cos).add_(head_cos.mul_(tail_sin))
    if bits > _COARSE + _FINE:
        low = phase & ((1 << (bits - _COARSE - _FINE)) - 1)
        low = low >> (bits - _TURN) if bits > _TURN else low << (_TURN - bits)
        angle = low.mul_(trig_slope()).add_(1 << (_SLOPE - 1)).bitwise_right_shift_(_SLOPE)
        cosine, sine = cosine - (sine >> _INNER).mul_(angle), sine.add_((cosine >> _INNER).mul_(angle))
    down = 2 * _INNER - TRIG_BITS
    return _round_shift(cosine, down), _round_shift(sine, down)


class HarmonicsWalk(NamedTuple):
    """How harmonics are reached: slot 0 holds the first one, a step (to, a, b) adds the angles of two slots.

    The k-th frequency stands in ``slots[k]`` once ``steps_before[k]`` steps are done.
    """

    steps: tuple[tuple[int, int, int], ...]
    steps_before: tuple[int, ...]
    slots: tuple[int, ...]
    n_slots: int


def iterate_harmonics(cos1: Tensor, sin1: Tensor, frequencies: tuple[int, ...]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield ``(j, cos(j t), sin(j t))`` for each ``j`` in ``frequencies``; see :func:`harmonics`.

    Only the running harmonic and the small steps are kept, so memory does not grow with the number of harmonics and a
    caller that accumulates a sum stays in cache.  The yielded tensors are used again: do not write to them.
    """
    _require_int64(cos1)
    _require_int64(sin1)
    if cos1.shape != sin1.shape:
        raise ValueError(f"cosine and sine differ in shape: {tuple(cos1.shape)} and {tuple(sin1.shape)}")
    return _follow(cos1, sin1, frequencies, harmonics_walk(frequencies))


@cache
def harmonics_walk(frequencies: tuple[int, ...]) -> HarmonicsWalk:
    """Plan how :func:`harmonics` reaches each frequency.

    Raises:
        ValueError: ``frequencies`` is not ascending and positive.
    """
    jumps = [after - before for before, after in pairwise((0, *frequencies))]
    if min(jumps, default=1) <= 0:
        raise ValueError(f"frequencies must be ascending and positive, got {frequencies}")
    longest = max(jumps, default=1)
    known = {1: 0}
    free: list[int] = []
    n_slots = 1
    steps: list[tuple[int, int, int]] = []
    steps_before: list[int] = []
    slots: list[int] = []

    def reach(frequency: int, start: int) -> int:
        nonlocal n_slots
        if frequency not in known:
            base = start if 0 < start < frequency else frequency // 2
            first, second = reach(base, 0), reach(frequency - base, 0)
            if not free:
                free.append(n_slots)
                n_slots += 1
            known[frequency] = free.pop()
            steps.append((known[frequency], first, second))
        return known[frequency]

    previous = 1
    for frequency in frequencies:
        slots.append(reach(frequency, previous))
        steps_before.append(len(steps))
        for stale in [index for index in known if index > longest and index != frequency]:
            free.append(known.pop(stale))
        previous = frequency
    return HarmonicsWalk(tuple(steps), tuple(steps_before), tuple(slots), n_slots)


def _follow(
    cos1: Tensor, sin1: Tensor, frequencies: tuple[int, ...], walk: HarmonicsWalk
) -> Iterator[tuple[int, Tensor, Tensor]]:
    held: dict[int, tuple[Tensor, Tensor]] = {0: (cos1, sin1)}
    done = 0
    for frequency, steps_before, slot in zip(frequencies, walk.steps_before, walk.slots, strict=True):
        for to, first, second in walk.steps[done:steps_before]:
            held[to] = _rotate(held[first], held[second])
        done = steps_before
        yield frequency, *held[slot]


def harmonics(cos1: Tensor, sin1: Tensor, frequencies: tuple[int, ...]) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return ``(cos(j t), sin(j t))`` at scale ``2**30`` for each ``j`` in ``frequencies``, from those of ``j = 1``.

    Angle addition, ``cos((p+d)t) = cos(pt) cos(dt) - sin(pt) sin(dt)`` and likewise the sine, from the preceding
    frequency ``p`` and the step ``d`` to the next one (a step that is missing is itself built by halves), each result
    rounded by a shift of 30.

    Error bound: if the vector ``(cos1, sin1)`` is off by ``e`` (in units of ``2**-30``), harmonic ``j`` is off by less
    than ``j e + (j - 1) / sqrt(2)``, up to terms of order ``(j e)**2 * 2**-30``.  With :func:`cos_sin`, ``e < 2.1``,
    so below ``2.9 j * 2**-30``; for an error that does not grow, call ``cos_sin(j * phase, bits)``.

    Args:
        cos1: cosine of the angle at scale ``2**30``, ``int64``.
        sin1: sine of the angle at scale ``2**30``, ``int64``, of the same shape.
        frequencies: ascending positive integers, for example ``(1, 2, 3)`` or ``(1, 3, 5)``.

    Raises:
        ValueError: ``frequencies`` is not ascending and positive, or the shapes differ.
        TypeError: a tensor is not ``int64``.
    """
    return tuple((cosine, sine) for _, cosine, sine in iterate_harmonics(cos1, sin1, frequencies))


def _rotate(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Add two angles given as (cos, sin) at scale ``2**30``."""
    (cos_a, sin_a), (cos_b, sin_b) = first, second
    cosine = (cos_a * cos_b).sub_(sin_a * sin_b)
    sine = (sin_a * cos_b).add_(cos_a * sin_b)
    return _round_shift(cosine, TRIG_BITS), _round_shift(sine, TRIG_BITS)


def _round_shift(value: Tensor, shift: int) -> Tensor:
    """Return ``floor(value / 2**shift + 1/2)``, overwriting ``value``."""
    return value.add_(1 << (shift - 1)).bitwise_right_shift_(shift)


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """Return ``table[index]`` as a new tensor; several times faster than indexing with a tensor."""
    return table.index_select(0, index.reshape(-1)).view(index.shape)


def _require_int64(value: Tensor) -> None:
    if value.dtype != torch.int64:
        raise TypeError(f"expected an int64 tensor, got {value.dtype}")


@cache
def exp_tables(
    unit: int, fraction_bits: int, low: int, high: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Return (mantissa, shift - 1, fine factor, coarse step bits, linear bits) for :func:`exponential`.

    ``e**((low*unit + i*2**s)/unit) * 2**fraction_bits = mantissa[i] * 2**(31 - shift[i])`` with a mantissa in
    ``[2**30, 2**31]``, and ``fine[i] = e**(i * 2**t / unit) * 2**31``, ``s`` coarse step bits, ``t`` linear bits.
    """
    span = (high - low) * unit
    step_bits = max(0, span.bit_length() - _EXP_COARSE)
    linear_bits = max(0, step_bits - _EXP_FINE)
    mantissas: list[int] = []
    shifts: list[int] = []
    with localcontext(_context()):
        value = Decimal(low).exp() * (1 << fraction_bits)
        ratio = (Decimal(1 << step_bits) / unit).exp()
        # shift is the smallest number with value * 2**shift in [2**61, 2**62), kept up to date along the table
        shift = 200
        for _ in range((span >> step_bits) + 1):
            while value * (Decimal(2) ** shift) >= 1 << (_EXP_PRODUCT + 1):
                shift -= 1
            # Beyond a shift of 62 the result is below one half: store zero.
            mantissas.append(_scaled(value * Decimal(2) ** (shift - _INNER), 0) if shift <= _EXP_PRODUCT + 1 else 0)
            shifts.append(min(shift, _EXP_PRODUCT + 1) - 1)
            value *= ratio
        fine_value = Decimal(1)
        ratio = (Decimal(1 << linear_bits) / unit).exp()
        fine: list[int] = []
        for _ in range(1 << (step_bits - linear_bits)):
            fine.append(_scaled(fine_value, _INNER))
            fine_value *= ratio
    columns = [torch.tensor(column, dtype=torch.int64, device=device) for column in (mantissas, shifts, fine)]
    return columns[0], columns[1], columns[2], step_bits, linear_bits


def exp_slope(unit: int) -> int:
    """Return ``1 / unit`` in units of ``2**-(31 + 20)``."""
    return ((1 << (_INNER + _EXP_SLOPE)) + unit // 2) // unit


@cache
def check_exponential(unit: int, fraction_bits: int, low: int, high: int) -> None:
    """Raise ``ValueError`` unless :func:`exponential` takes these arguments."""
    if not 1 <= unit <= _MAX_UNIT:
        raise ValueError(f"unit must be from 1 to 2**32, got {unit}")
    if not 0 < fraction_bits <= 42:
        raise ValueError(f"fraction_bits must be from 1 to 42, got {fraction_bits}")
    if not -EXPONENT_LIMIT <= low < high <= EXPONENT_LIMIT:
        raise ValueError(f"the range must satisfy -24 <= low < high <= 24, got {low} and {high}")
    with localcontext(_context()):
        if Decimal(high).exp() * (1 << fraction_bits) >= 1 << _EXP_PRODUCT:
            raise ValueError(f"e**{high} with {fraction_bits} fraction bits reaches 2**61")


def exponential(
    exponent: Tensor,
    unit: int,
    fraction_bits: int,
    *,
    low: int = -EXPONENT_LIMIT,
    high: int = EXPONENT_LIMIT,
) -> Tensor:
    """Return ``e**(exponent / unit) * 2**fraction_bits`` as rounded ``int64`` integers.

    The exponent is clamped to ``[low * unit, high * unit]`` and split as ``low*unit + hi*2**s + lo``.  A first table
    holds ``e**(low + hi*2**s/unit)`` as a 31-bit mantissa and a shift, a second one ``e**(lo/unit)`` at scale
    ``2**31``; the result is their 62-bit product, shifted right with rounding.  For a ``unit`` so fine that the second
    table would exceed 2048 entries, its last ``t`` bits are taken as ``e**z = 1 + z``, ``z < 1.2e-5``.

    Error bound: ``result * 2**-29.3 + 0.51`` units of the last place; that is within 0.92 unit when the result is
    below ``2**28``, and within ``2**-28`` of the result above.

    Args:
        exponent: signed ``int64`` tensor, in units of ``1 / unit``.
        unit: integer that stands for one, 1 to ``2**32``; need not be a power of two.
        fraction_bits: fraction bits of the result, 1 to 42.
        low: least exponent in real units, at least -24.
        high: greatest exponent in real units, at most 24.  ``e**high * 2**fraction_bits`` must stay below ``2**61``:
            26 fraction bits at ``high = 24``, 42 fraction bits at ``high = 13``.

    Raises:
        ValueError: an integer argument is out of range.
        TypeError: ``exponent`` is not ``int64``.
    """
    check_exponential(unit, fraction_bits, low, high)
    _require_int64(exponent)
    mantissas, shifts, fine, step_bits, linear_bits = exp_tables(unit, fraction_bits, low, high, exponent.device)
    offset = exponent.clamp(low * unit, high * unit).sub_(low * unit)
    index = offset >> step_bits
    product = _look_up(mantissas, index)
    if step_bits:
        rest = offset.bitwise_and_((1 << step_bits) - 1)
        factor = _look_up(fine, rest >> linear_bits)
        if linear_bits:
            small = _round_shift(rest.bitwise_and_((1 << linear_bits) - 1).mul_(exp_slope(unit)), _EXP_SLOPE)
            factor.add_(_round_shift(small.mul_(factor), _INNER))
        product.mul_(factor)
    else:
        product.bitwise_left_shift_(_INNER)
    return product.bitwise_right_shift_(_look_up(shifts, index)).add_(1).bitwise_right_shift_(1)
