"""Piecewise linear functions with public knots: one batch of comparisons, one selection for each slope.

Theory of operation. The comparisons of x with all knots share one opening and one table. The bit of a piece, or of a
set of pieces, is an XOR of theirs, so pieces of one slope are selected together, and offsets are a weighted sum of
bits, which is free. A slope that is no whole number is a truncation gated by its bit, from the opening that is there.

Rounds: 1 to open x, 3 for the bits. Dealt per element: the comparisons', and 16 bytes for each slope but 0 (32 for one
that is no whole number). Error: none for whole slopes, below one unit for each other slope. The bits stay in x's memo:
a gradient compares nothing. Sent and leaked: see the gates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from torchveil.fixedpoint import ENCODABLE, encode_scalar
from torchveil.functions.arithmetic import (
    combine,
    expand_bit,
    map_bit,
    multiply,
    narrow,
    number,
    rescale,
    secret,
    select,
    to_scale,
    weigh,
)
from torchveil.functions.comparison import Output, bits, positive
from torchveil.handle import Bit, Deferred, Handle, Public, Secret


@dataclass(frozen=True, slots=True)
class Knot:
    """The end of a piece; ``closed`` if its value belongs to the lower piece."""

    value: float
    closed: bool = False

    def raw(self, scale: int) -> int:
        """The threshold t with [x < t] for integers of the scale; exact for values between two of them."""
        scaled = Fraction(self.value) * scale
        return math.floor(scaled) + 1 if self.closed else math.ceil(scaled)


@dataclass(frozen=True, slots=True)
class Line:
    """slope x + offset."""

    slope: float
    offset: float = 0.0


Pieces = frozenset[int]

#: What the names of bits in a memo begin with.
MEMO = "pieces"


def _thresholds(knots: Sequence[Knot], scale: int) -> tuple[int, ...]:
    """Ascending thresholds; a piece whose ends are out of order is empty."""
    out: list[int] = []
    for knot in knots:
        # what can be encoded lies between the bounds, so an infinite knot is never passed
        raw = knot.raw(scale) if math.isfinite(knot.value) else math.copysign(ENCODABLE, knot.value)
        raw = max(-ENCODABLE, min(ENCODABLE, int(raw)))
        out.append(max(raw, out[-1]) if out else raw)
    return tuple(out)


def piece_bits(x: Secret, knots: Sequence[Knot], wanted: Sequence[Pieces]) -> dict[Pieces, Bit]:
    """[x lies in one of the pieces] for each set of pieces; 3 rounds after the opening of x, none if known already."""
    thresholds = _thresholds(knots, x.scale)
    known: dict[Pieces, Bit] = x.memo.setdefault(f"{MEMO} {thresholds}", {})
    missing = [pieces for pieces in dict.fromkeys(wanted) if pieces not in known]
    if missing and thresholds == (1,):
        # the sign: a relu may have left it, or want it
        known[frozenset({1})] = sign = positive(x)
        known[frozenset({0})] = map_bit(sign, flip=True)
    elif missing:
        made = bits(x, thresholds, [_output(pieces, len(knots)) for pieces in missing])
        known.update(zip(missing, made, strict=True))
    return {pieces: known[pieces] for pieces in wanted}


def _output(pieces: Pieces, n_knots: int) -> Output:
    """Piece k is [x < t_k] XOR [x < t_(k-1)]; beyond the last knot the former is 1."""
    ends: set[int] = set()
    for piece in pieces:
        ends ^= {piece, piece - 1} - {-1, n_knots}
    return tuple(sorted(ends)), n_knots in pieces


def _alike(values: Sequence[float]) -> dict[float, Pieces]:
    """The pieces of each value."""
    out: dict[float, Pieces] = {}
    for piece, value in enumerate(values):
        out[value] = out.get(value, frozenset()) | {piece}
    return out


def piecewise(x: Handle, knots: Sequence[Knot], lines: Sequence[Line]) -> Secret:
    """The function that is ``lines[k]`` below ``knots[k]``, and the last line beyond the last knot."""
    wire = narrow(number(x))
    scale = wire.scale
    op = wire.session.operation
    slopes = {slope: pieces for slope, pieces in _alike([line.slope for line in lines]).items() if slope}
    offsets = {
        encode_scalar(offset, scale, op=op) if offset else 0: pieces
        for offset, pieces in _alike([line.offset for line in lines]).items()
    }
    # one offset needs no bit: one whose bit is not there for a slope already
    base = next((raw for raw, pieces in offsets.items() if pieces not in slopes.values()), next(iter(offsets)))
    steps = {pieces: raw - base for raw, pieces in offsets.items() if raw != base}
    everywhere = frozenset(range(len(lines)))
    found = piece_bits(wire, knots, [p for p in (*slopes.values(), *steps) if p != everywhere])
    terms = []
    for slope, pieces in slopes.items():
        terms.append((sloped(wire, slope, found.get(pieces)), 1))
    if steps:
        moved = weigh([found[pieces] for pieces in steps], list(steps.values()), 0, scale, wire.format)
        terms.append((moved, 1))
    if not terms:
        return combine([(wire, 0)], base, scale=scale)
    out = combine(terms, base, scale=scale)
    out.format = wire.format
    return out


def sloped(x: Secret, slope: float, bit: Bit | None) -> Secret:
    """slope x [times the bit], x at the scale of its format."""
    fraction = Fraction(slope)
    if fraction.denominator == 1:
        chosen = x if bit is None else select(bit, x)
        return chosen if slope == 1 else combine([(chosen, int(slope))], scale=x.scale)
    return rescale(x, fraction, x.scale, value=fraction, bit=bit)


def times_slope(grad: Handle, x: Handle, knots: Sequence[Knot], slopes: Sequence[float]) -> Handle:
    """grad times ``slopes[k]`` where x lies in piece k: a derivative. No comparison after that of ``piecewise``.

    A public gradient: local, the slopes (times a gradient that is one number) rounded to half a unit. A secret one:
    1 round, and below one unit for each slope that is no whole number.
    """
    wire = narrow(number(x))
    grad = grad.force() if isinstance(grad, Deferred) else grad
    alike = {slope: pieces for slope, pieces in _alike(slopes).items() if slope}
    everywhere = frozenset(range(len(slopes)))
    found = piece_bits(wire, knots, [pieces for pieces in alike.values() if pieces != everywhere])
    if not found:
        return multiply(grad, Public(wire.session, (), fill=slopes[0]))
    if isinstance(grad, Public):
        factor = 1.0 if grad.fill is None else grad.fill
        scale = wire.format.scale
        weights = [round(Fraction(slope) * Fraction(factor) * scale) for slope in alike]
        slope_of = weigh([found[pieces] for pieces in alike.values()], weights, 0, scale, wire.format)
        return slope_of if grad.fill is not None else multiply(slope_of, grad)
    return gated_sum(grad, [(found[pieces], slope) for slope, pieces in alike.items()])


def gated_sum(grad: Handle, terms: Sequence[tuple[Bit, float]]) -> Secret:
    """The sum of slope * bit * grad, from one opening of a secret gradient; a pending one is truncated by it."""
    wire = secret(grad)
    scale = wire.format.scale
    out = []
    for bit, slope in terms:
        bit = expand_bit(bit, wire.shape)
        fraction = Fraction(slope)
        if fraction.denominator == 1:
            chosen = select(bit, wire)
            out.append((to_scale(chosen, scale) if len(terms) > 1 else chosen, int(slope)))
        elif wire.wide:
            out.append((rescale(narrow(wire), fraction, scale, value=fraction, bit=bit), 1))
        else:
            out.append((rescale(wire, fraction * Fraction(scale, wire.scale), scale, value=fraction, bit=bit), 1))
    total = out[0][0] if out[0][1] == 1 and len(out) == 1 else combine(out, scale=out[0][0].scale)
    total.format = wire.format
    return total


def same_pieces(result: Secret, x: Secret) -> None:
    """The result lies in the same pieces as x (a limit, in place): its gradient finds x's bits."""
    result.memo.update((key, found) for key, found in x.memo.items() if key.startswith(MEMO))
