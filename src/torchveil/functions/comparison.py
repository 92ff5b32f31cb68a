"""Comparisons and what follows from them: signs, clamps, where, relu.

All thresholds against one value share its opening and its table; each batch costs 3 rounds after the opening.
"""

from __future__ import annotations

from collections.abc import Sequence

from torchveil.fixedpoint import encode_scalar
from torchveil.functions.arithmetic import (
    add,
    align,
    broadcast,
    combine,
    due,
    expand_bit,
    expand_to,
    map_bit,
    multiply,
    narrow,
    number,
    secret,
    select,
    weigh,
)
from torchveil.handle import Bit, Deferred, Handle, Public, Secret, Shape
from torchveil.program import instructions as ins

Output = tuple[tuple[int, ...], bool]

BELOW: Output = ((0,), False)
NOT_BELOW: Output = ((0,), True)


def bits(x: Secret, thresholds: Sequence[int], outputs: Sequence[Output], *, negate: bool = False) -> list[Bit]:
    """Selector bits: with y = -x or x and m_j = [y < thresholds[j]], one XOR of m_j (flipped) per output."""
    session = x.session
    session.open(x)
    outs = tuple(session.new_id() for _ in outputs)
    session.submit(ins.Compare(outs, x.id, negate, tuple(thresholds), tuple(outputs), x.shape, x.zeros))
    return [Bit(session, out, x.shape) for out in outs]


def equal_bits(x: Secret, values: Sequence[int]) -> list[Bit]:
    """Bits [x = value] for integers at x's scale, all from one table; 3 rounds after the opening of x."""
    session = x.session
    session.open(x)
    outs = tuple(session.new_id() for _ in values)
    session.submit(ins.Equal(outs, x.id, tuple(values), x.shape))
    return [Bit(session, out, x.shape) for out in outs]


def positive(x: Secret) -> Bit:
    """[x > 0] = msb(-x); remembered, so that a gradient finds it."""
    known = x.memo.get("positive")
    if known is None:
        (known,) = bits(x, (0,), (BELOW,), negate=True)
        x.memo["positive"] = known
    return known


def negative(x: Secret) -> Bit:
    """[x < 0]."""
    known = x.memo.get("negative")
    if known is None:
        (known,) = bits(x, (0,), (BELOW,))
        x.memo["negative"] = known
    return known


def _difference(x: Handle, y: Handle) -> Secret:
    return secret(add(x, y, -1))


def compare(x: Handle, y: Handle, relation: str) -> Bit:
    """Elementwise lt, le, gt, ge, eq, ne of two handles; 3 rounds after the opening of the difference."""
    x = x.force() if isinstance(x, Deferred) else x
    y = y.force() if isinstance(y, Deferred) else y
    if isinstance(y, Public) and y.fill is not None and not isinstance(x, Public):
        wire = secret(x)
        bit = compare_scalar(wire, y.fill, relation)
        return expand_bit(bit, broadcast(x.shape, y.shape))
    if isinstance(x, Public) and x.fill is not None and not isinstance(y, Public):
        return compare(y, x, MIRRORED[relation])
    return compare_scalar(_difference(x, y), 0, relation)


#: The relation of y to x that says what one of x to y does.
MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}

#: What a comparison with a number just above 0, or just below it, is on whole units: the same with 0.
_BESIDE_ZERO = {"lt": ("le", "lt"), "le": ("le", "lt"), "gt": ("gt", "ge"), "ge": ("gt", "ge")}


def compare_scalar(x: Secret, value: float, relation: str) -> Bit:
    """x against a public number, which is rounded to x's scale."""
    if x.scale < x.session.fixed_point.scale and not float(value).is_integer():
        x = number(x)
    if 0 < abs(value) * x.scale < 0.5 and relation in _BESIDE_ZERO:
        # a number between 0 and a unit: exactly as strict as the comparison with 0 on its side
        relation, value = _BESIDE_ZERO[relation][value < 0], 0
    raw = encode_scalar(value, x.scale, op=x.session.operation) if value else 0
    if raw == 0 and relation == "gt":
        return positive(x)
    if raw == 0 and relation == "lt":
        return negative(x)
    if relation in ("eq", "ne"):
        (bit,) = equal_bits(x, (raw,))
        return bit if relation == "eq" else map_bit(bit, flip=True)
    table: dict[str, tuple[tuple[int, ...], Output]] = {
        "lt": ((raw,), BELOW),
        "ge": ((raw,), NOT_BELOW),
        "le": ((raw + 1,), BELOW),
        "gt": ((raw + 1,), NOT_BELOW),
    }
    thresholds, output = table[relation]
    return bits(x, thresholds, (output,))[0]


def where(condition: Handle, x: Handle, y: Handle) -> Handle:
    """condition ? x : y for a secret bit."""
    bit = condition.force() if isinstance(condition, Deferred) else condition
    if not isinstance(bit, Bit):
        bit = compare(bit, Public(bit.session, (), fill=0.0), "ne")
    shape = broadcast(bit.shape, x.shape, y.shape)
    x, y = _exact(x), _exact(y)
    if isinstance(x, Public) and not isinstance(y, Public):
        return _fill(bit, x, y, shape)
    if isinstance(y, Public) and not isinstance(x, Public):
        return _fill(map_bit(bit, flip=True), y, x, shape)
    difference = secret(expand_to(add(x, y, -1), shape))
    return add(select(bit, difference), y)


def _exact(x: Handle) -> Handle:
    """x without digits that a selection would round away: what is chosen equals it."""
    x = x.force() if isinstance(x, Deferred) else x
    return narrow(x) if isinstance(x, Secret) and x.pending and not x.wide else x


def _fill(bit: Bit, x: Public, y: Handle, shape: Shape) -> Handle:
    """x where the bit is set, y elsewhere: a constant is not rounded with y, and 0 stays 0."""
    if x.fill is None:
        chosen = multiply(expand_bit(bit, shape), x)
        return add(select(map_bit(expand_bit(bit, shape), flip=True), expand_to(y, shape)), chosen)
    wire = secret(y)
    if wire.scale < wire.session.fixed_point.scale and not float(x.fill).is_integer():
        wire = number(wire)
    kept = select(map_bit(expand_bit(bit, shape), flip=True), expand_to(wire, shape))
    if x.fill == 0:
        return kept
    raw = encode_scalar(x.fill, kept.scale, op=kept.session.operation)
    filled = weigh([expand_bit(bit, shape)], [raw], 0, kept.scale, kept.format)
    return combine([(kept, 1), (filled, 1)], scale=kept.scale)


def relu(x: Handle) -> Secret:
    """max(x, 0). 3 rounds after the opening; a pending truncation is included. The sign stays in the memo.

    The sign of a pending x may be that of what it is rounded to (``due``): 0 counts as not positive, as its relu does.
    """
    wire = secret(x)
    bit = wire.memo.get("positive")
    if bit is None:
        bit = wire.memo["positive"] = positive(due(wire))
    out = select(bit, wire)
    out.nonnegative = True
    out.memo["positive"] = bit
    return out


def sign_times(x: Secret, factor_positive: int, factor_negative: int) -> Secret:
    """x * (factor_positive where x > 0 else factor_negative): abs, for (1, -1)."""
    chosen = select(positive(x), x)
    a, b = align(chosen, x)
    return combine([(a, factor_positive - factor_negative), (b, factor_negative)])


def absolute(x: Handle) -> Secret:
    """|x|."""
    out = sign_times(secret(x), 1, -1)
    out.nonnegative = True
    return out


def clamp(x: Handle, low: float | None, high: float | None) -> Secret:
    """x limited to [low, high]; both limits in one batch of comparisons. As in torch, high everywhere if low > high."""
    if low is not None and high is not None and low > high:
        return number(Public(x.session, x.shape, fill=float(high)))
    wire = narrow(number(x))
    op = wire.session.operation
    raw_low = None if low is None else _limit(low, wire.scale, op)
    raw_high = None if high is None else _limit(high, wire.scale, op)
    if raw_low is not None and raw_high is not None:
        below, inside, above = inside_bits(wire, raw_low, max(raw_low, raw_high + 1))
        kept = select(inside, wire)
        out = combine([(kept, 1), (secret(below), raw_low), (secret(above), raw_high)], scale=wire.scale)
        out.memo["inside"] = inside
        out.nonnegative = raw_low >= 0 and raw_high >= 0
        return out
    limit, output = (raw_low, NOT_BELOW) if raw_low is not None else ((raw_high or 0) + 1, BELOW)
    offset = raw_low if raw_low is not None else (raw_high or 0)
    (inside,) = bits(wire, (limit or 0,), (output,))
    kept = select(inside, combine([(wire, 1)], -offset, scale=wire.scale) if offset else wire)
    out = combine([(kept, 1)], offset, scale=wire.scale)
    out.memo["inside"] = inside
    out.nonnegative = raw_low is not None and raw_low >= 0
    return out


def _limit(value: float, scale: int, op: str) -> int:
    """A limit as an integer; one that is finer than a unit becomes one unit (an eps keeps a divisor from zero)."""
    if value and abs(value) * scale < 0.5:
        return 1 if value > 0 else -1
    return encode_scalar(value, scale, op=op) if value else 0


def inside_bits(x: Secret, low: int, high: int) -> tuple[Bit, Bit, Bit]:
    """([x < low], [low <= x < high], [x >= high]) for raw limits, in one batch."""
    below, inside, above = bits(x, (low, high), (((0,), False), ((0, 1), False), ((1,), True)))
    return below, inside, above
