"""Sums and products of handles: scales, lazy truncation, public scalars.

Theory of operation. A handle's ``scale`` says what its integers mean now. A product of scales s and t has scale s t and
is *pending*: it is truncated to its format's scale when something needs it there, at most once, and a public factor
that comes before is folded into that truncation (the learning rate of a gradient costs nothing). A square stays at
double scale (*wide*): second moments and variances would underflow otherwise. Sums bring both operands to the larger
scale, exactly. A public number is the rational c/d with the smallest c that is exact to 2**-24: c is a local product, d
a truncation by any divisor. See docs/design/0003.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import InvalidArgument, ShapeMismatch, TorchveilError, WouldBePublished
from torchveil.fixedpoint import FixedPoint, check_divisor, encode, encode_scalar, finer, rational
from torchveil.handle import Bit, Deferred, Handle, Public, Secret, Shape
from torchveil.kernels import BILINEAR
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins

#: Public scalars that are added may widen a value up to this scale before they are refused.
_WIDEST = 2**34

#: Two parties round shares to multiples of 2^16 before a truncation by a multiple of it: 2 bytes less per opening.
DROPPED = 16

#: A parameter's scale may grow to this many times its format's, and a product's factors together, before they narrow.
_STRETCH = 128

#: A wide value may take public divisors into its scale up to this one; it then holds |x| < 2**17.
_WIDEST_PRODUCT = 2**44


def secret(x: Handle) -> Secret:
    """The handle as a wire: deferred values are forced, bits become 0 and 1, constants become wires."""
    if isinstance(x, Secret):
        return x
    if isinstance(x, Deferred):
        return secret(x.force())
    if isinstance(x, Bit):
        return x.session.bit_to_arithmetic(x)
    return constant(x)


def as_number(x: Handle) -> Handle:
    """Bits and whole numbers in the session's format: the same integers, still at scale 1."""
    x = x.force() if isinstance(x, Deferred) else x
    if isinstance(x, Public):
        return x
    wire = secret(x)
    if wire.format.scale > 1:
        return wire
    out = combine([(wire, 1)], scale=1)
    fixed = wire.session.fixed_point
    out.format = fixed if fixed.scale > 1 else FixedPoint()
    return out


def number(x: Handle) -> Secret:
    """The handle as a wire with all digits of its format: what a fraction may be added to, or a function applied to."""
    wire = secret(as_number(x))
    return wire if wire.scale >= wire.format.scale else to_scale(wire, wire.format.scale)


def constant(x: Public, scale: int | None = None, number_format: FixedPoint | None = None) -> Secret:
    """A public constant as a wire (all parties know it)."""
    session = x.session
    number_format = number_format or session.fixed_point
    scale = scale or number_format.scale
    identifier = session.new_id()
    if x.fill is not None:
        value: Tensor | int = encode_scalar(x.fill, scale, op=session.operation)
    else:
        value = encode(x.dense(), scale, op=session.operation)
    session.submit(ins.Constant(identifier, x.shape, value))
    return session.wire(identifier, scale, number_format, opened=True)


def broadcast(*shapes: Shape) -> Shape:
    """The common shape, or ``ShapeMismatch``."""
    first = shapes[0]
    if all(shape == first for shape in shapes[1:]):
        return first
    try:
        return tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError as error:
        text = f"shapes {' and '.join(map(str, shapes))} do not broadcast"
        raise ShapeMismatch(text, op="broadcast", remedy="reshape one") from error


# --- scales --------------------------------------------------------------------------------------------------------


def narrow(x: Secret) -> Secret:
    """x at its format's scale; truncated at most once, the result remembered."""
    if not x.pending:
        return x
    known: Secret | None = x.memo.get("narrow")
    if known is None:
        known = _narrow_view(x) or rescale(x, Fraction(x.format.scale, x.scale), x.format.scale)
        x.memo["narrow"] = known
    return known


def _narrow_view(x: Secret) -> Secret | None:
    """The view of a truncated value, if x views one that is truncated already or has no more elements than x."""
    base, view = x.memo.get("view", (None, None))
    if base is None or (base.scale, base.format) != (x.scale, x.format):
        return None
    if base.numel > x.numel and "narrow" not in base.memo:
        return None
    return x.session.map(narrow(base), view)


def to_scale(x: Secret, scale: int) -> Secret:
    """x at ``scale``: exact when it grows by a whole factor, otherwise one truncation."""
    if x.scale == scale:
        return x
    if x.scale > scale and scale == x.format.scale:
        return narrow(x)
    return rescale(x, Fraction(scale, x.scale), scale)


@lru_cache(maxsize=4096)
def _ratio(numerator: int, denominator: int) -> tuple[int, int]:
    return rational(Fraction(numerator, denominator))


def rescale(
    x: Secret,
    factor: Fraction,
    scale: int,
    *,
    wide: bool = False,
    value: Fraction | None = None,
    bit: Bit | None = None,
) -> Secret:
    """The integers times ``factor``, declared to have ``scale``; with ``bit`` gated by it."""
    numerator, divisor = _ratio(factor.numerator, factor.denominator)
    session = x.session
    if value is not None:
        check_divisor(divisor, value, op=session.operation)
    positive = x.nonnegative and numerator >= 0
    scaled = x if numerator == 1 else combine([(x, numerator)], scale=x.scale)
    if divisor == 1:
        if bit is not None:
            scaled = _plain_select(bit, scaled)
        return _relabel(scaled, x, scale, wide, positive)
    scaled = rounded(scaled, divisor)
    session.open(scaled)
    scaled.is_opened()
    out = session.new_id()
    bit_id = None if bit is None else bit.id
    lift = scaled.short and divisor == 1 << scaled.zeros
    if lift:
        session.submit(ins.Lift(out, scaled.id, bit_id, scaled.zeros, scaled.shape))
    else:
        session.submit(ins.Truncate(out, scaled.id, bit_id, divisor, scaled.shape))
    half = scaled.zeros if lift and bit is None else 0
    return session.wire(out, scale, x.format, shape=x.shape, wide=wide, nonnegative=positive, half=half)


def rounded(x: Secret, divisor: int) -> Secret:
    """x as what is to be divided by ``divisor``: with its low bits rounded away on shares if that makes for fewer
    bytes.

    Two parties, a divisor that is a multiple of 2^16, no opening yet: then one of 6 bytes will do. The same wire at the
    same scale, off by less than 2^16 of its integers. Otherwise x itself. Local.
    """
    if divisor % (1 << DROPPED) or len(x.session.parties) != 2 or x.zeros >= DROPPED or x.is_opened():
        return x
    known: Secret | None = x.memo.get("rounded")
    if known is None:
        known = x.memo["rounded"] = round_shares(x, DROPPED)
    return known


def round_shares(x: Secret, bits: int) -> Secret:
    """x as a multiple of 2^bits, exact if it is one; two parties, local."""
    session = x.session
    out = session.new_id()
    session.submit(ins.Round(out, x.id, bits, x.shape))
    return session.wire(
        out, x.scale, x.format, shape=x.shape, wide=x.wide, nonnegative=x.nonnegative, zeros=bits, stretched=x.stretched
    )


def due(x: Secret) -> Secret:
    """A pending x as its truncation will find it (see ``rounded``); comparisons of that are cheaper."""
    if not x.pending or x.wide or x.scale % x.format.scale or "narrow" in x.memo:
        return x
    return rounded(x, x.scale // x.format.scale)


def _relabel(x: Secret, origin: Secret, scale: int, wide: bool, nonnegative: bool) -> Secret:
    """The same wire under another declared scale (needs a handle of its own)."""
    if x is origin and scale == x.scale and wide == x.wide:
        return x
    out = combine([(x, 1)], scale=scale)
    out.format, out.wide, out.nonnegative, out.stretched = origin.format, wide, nonnegative, False
    return out


def combine(terms: list[tuple[Secret, int]], constant_raw: int = 0, *, scale: int | None = None) -> Secret:
    """sum of factor * x + constant in the ring, all at one scale; local."""
    first = terms[0][0]
    session = first.session
    session.own(*(x for x, _ in terms))
    number_format = first.format
    for x, _ in terms[1:]:
        number_format = finer(number_format, x.format)
    out = session.new_id()
    closed = {x.id: x for x, _ in terms if not x.is_opened()}
    # an opening that only a half one keeps from following is completed there, with fewer bytes
    parent = next(iter(closed.values())) if len(closed) == 1 else None
    parent = parent if parent is not None and parent.half else None
    session.submit(
        ins.Combine(out, tuple((x.id, factor) for x, factor in terms), constant_raw, follow=parent is not None)
    )
    scale = scale or first.scale
    zeros = min(x.zeros for x, _ in terms)
    return session.wire(
        out,
        scale,
        number_format,
        wide=any(x.wide for x, _ in terms),
        nonnegative=constant_raw >= 0 and all(x.nonnegative and factor >= 0 for x, factor in terms),
        opened=not closed,
        parent=parent,
        zeros=0 if constant_raw % (1 << zeros) else zeros,
        stretched=scale <= _STRETCH * number_format.scale and any(x.stretched for x, _ in terms),
    )


# --- sums ----------------------------------------------------------------------------------------------------------


def add(x: Handle, y: Handle, factor: float = 1) -> Handle:
    """x + factor * y."""
    x = x.force() if isinstance(x, Deferred) else x
    y = y.force() if isinstance(y, Deferred) else y
    if factor == 0:
        return expand_to(x, broadcast(x.shape, y.shape))
    if isinstance(x, Public) and isinstance(y, Public):
        return _add_public(x, y, factor)
    if isinstance(y, Public):
        if y.fill is not None:
            moved = add_scalar(secret(x), y.fill * factor)
            return expand_to(moved, broadcast(x.shape, y.shape))
        return add_tensor(secret(x), y.dense().to(torch.float64) * factor)
    if isinstance(x, Public):
        return add(multiply_scalar(secret(y), factor), x)
    a, b = secret(x), secret(y)
    a.session.own(a, b)
    broadcast(a.shape, b.shape)
    whole = float(factor).is_integer() and abs(factor) < 2**20
    if not whole:
        stepped = _step(a, b, Fraction(factor)) if math.isfinite(factor) else None
        if stepped is not None:
            return stepped
        b = multiply_scalar(b, abs(factor))
    a, b = align(a, b)
    return combine([(a, 1), (b, int(factor) if whole else 1 if factor > 0 else -1)])


def _step(a: Secret, b: Secret, factor: Fraction) -> Secret | None:
    """a + factor * b for an opened a and a pending b, at a scale that takes the factor's divisor in; None if none does.

    With factor c/d the step is b c / 2^16 at scale (b's scale) d / 2^16: a division by 2^16 alone, whose opening costs
    6 bytes, and 2 more complete it and with it the opening of the sum (docs/design/0008). The sum stays at that scale.
    """
    if len(a.session.parties) != 2 or a.wide or b.wide or not (a.stretched or a.scale == a.format.scale):
        return None
    numerator, divisor = _ratio(factor.numerator, factor.denominator)
    scale, rest = divmod(b.scale * divisor, 1 << DROPPED)
    if rest or scale % a.format.scale or abs(numerator) > _STRETCH or not a.is_opened() or b.is_opened():
        return None
    target = math.lcm(scale, a.scale)
    if target > _STRETCH * a.format.scale:
        return None
    step = rescale(b, Fraction(abs(numerator), 1 << DROPPED), scale)
    sign = 1 if numerator > 0 else -1
    out = combine([(a, target // a.scale), (step, sign * (target // scale))], scale=target)
    out.format = a.format
    out.stretched = target > a.format.scale
    return out


def align(a: Secret, b: Secret) -> tuple[Secret, Secret]:
    """Both at the larger of the two scales (mixed precisions included)."""
    if a.scale == b.scale:
        return a, b
    if a.scale < b.scale:
        b, a = align(b, a)
        return a, b
    if a.scale % b.scale == 0:
        return a, combine([(b, a.scale // b.scale)], scale=a.scale)
    # scales of different bases: pending products are truncated first, then the coarser format moves
    a, b = narrow(a), narrow(b)
    if a.scale == b.scale:
        return a, b
    target = max(a.scale, b.scale)
    return to_scale(a, target), to_scale(b, target)


def add_scalar(x: Secret, value: float) -> Secret:
    """x + a public number. A number too small for the scale widens it first; ``PrecisionLoss`` if none has room.

    To a wide value at least one unit is added: 2**-34 at 16 bits.
    """
    if value == 0:
        return x
    if not math.isfinite(value):
        encode_scalar(value, x.scale, op=x.session.operation)
    if x.scale < x.session.fixed_point.scale and not float(value).is_integer():
        x = number(x)
    wide = x.wide
    while (
        abs(Fraction(value) * x.scale) < 8
        and not float(value * x.scale).is_integer()
        and (x.scale * x.format.base <= _WIDEST)
    ):
        if round(Fraction(value) * x.scale) != 0:
            break
        x = combine([(x, x.format.base)], scale=x.scale * x.format.base)
        x.wide = True
    if wide and 0 < abs(Fraction(value) * x.scale) < Fraction(1, 2):
        # an epsilon that keeps a sum of squares from zero
        return combine([(x, 1)], 1 if value > 0 else -1, scale=x.scale)
    raw = encode_scalar(value, x.scale, op=x.session.operation)
    return combine([(x, 1)], raw, scale=x.scale)


def add_tensor(x: Secret, values: Tensor) -> Secret:
    """x + a public tensor."""
    session = x.session
    if x.scale < session.fixed_point.scale and not bool((values == values.round()).all()):
        x = number(x)
    raw = encode(values, x.scale, op=session.operation)
    out = session.new_id()
    session.submit(ins.AddPublic(out, x.id, raw))
    return session.wire(out, x.scale, x.format, wide=x.wide, opened=x.is_opened())


def _add_public(x: Public, y: Public, factor: float) -> Public:
    shape = broadcast(x.shape, y.shape)
    if x.fill is not None and y.fill is not None:
        return Public(x.session, shape, fill=x.fill + factor * y.fill)
    return Public(x.session, shape, tensor=x.dense() + factor * y.dense())


def negate(x: Handle) -> Handle:
    x = x.force() if isinstance(x, Deferred) else x
    if isinstance(x, Public):
        return multiply(x, Public(x.session, (), fill=-1.0))
    x = secret(x)
    return combine([(x, -1)], scale=x.scale)


def expand_to(x: Handle, shape: Shape) -> Handle:
    """x broadcast to ``shape``."""
    if x.shape == shape:
        return x
    if isinstance(x, Public):
        if x.fill is not None:
            return Public(x.session, shape, fill=x.fill)
        return Public(x.session, shape, tensor=x.dense().expand(shape))
    wire = secret(x)
    return wire.session.map(wire, LinearMap("expand", (shape,)))


# --- products ------------------------------------------------------------------------------------------------------


def multiply_scalar(x: Secret, value: float) -> Secret:
    """x times a public number: local for a whole number, otherwise at most one truncation.

    A pending truncation takes the factor in. A divisor of the format's scale (a power of two, in base 2) makes a value
    pending, to be truncated with whatever follows. A wide value takes any divisor into its scale while there is room:
    (1 - beta) g^2 keeps every digit. Both cost nothing and lose nothing.
    """
    if value == 1:
        return x
    if not math.isfinite(value):
        encode_scalar(value, x.scale, op=x.session.operation)
    fraction = Fraction(value)
    numerator, divisor = _ratio(fraction.numerator, fraction.denominator)
    scale = x.format.scale
    if x.scale == scale > 1 and divisor > 1 and scale % divisor == 0 and abs(numerator) < divisor:
        # products are pending at scale^2, a multiple of this, so a sum with one needs no truncation either
        return combine([(x, numerator)], scale=scale * divisor)
    return _multiply_fraction(x, fraction)


def divide_scalar(x: Secret, value: float) -> Secret:
    """x divided by a public number, exactly that number (a mean is divided by N, not multiplied by 1/N)."""
    if value == 0:
        raise InvalidArgument("a secret divided by the public number 0", op="div", remedy="check the divisor")
    return _multiply_fraction(x, Fraction(1) / Fraction(value))


def stretched_quotient(x: Secret, divisor: int) -> Secret:
    """x divided by a public whole number at the finest scale that a factor of a product may have; one truncation."""
    target = _STRETCH * x.format.scale
    out = rescale(x, Fraction(target, x.scale * divisor), target)
    if out is x:
        return x
    out.stretched = True
    return out


def _multiply_fraction(x: Secret, fraction: Fraction) -> Secret:
    if fraction.denominator == 1 and abs(fraction) < 2**24:
        return combine([(x, int(fraction))], scale=x.scale)
    x = secret(as_number(x))
    if not x.wide and x.scale != x.format.scale:
        target = x.format.scale
        return rescale(x, fraction * Fraction(target, x.scale), target, value=fraction)
    numerator, divisor = _ratio(fraction.numerator, fraction.denominator)
    if x.wide and x.scale * divisor <= _WIDEST_PRODUCT and abs(numerator) < 2**10:
        out = combine([(x, numerator)], scale=x.scale * divisor)
        out.wide = True
        return out
    if x.wide and 2 * x.scale <= _WIDEST_PRODUCT and abs(fraction) < Fraction(1, 4):
        # not room for the whole divisor: take in what there is, so that a small factor loses fewer digits
        target = x.scale << ((_WIDEST_PRODUCT // x.scale).bit_length() - 1)
        return rescale(x, fraction * Fraction(target, x.scale), target, wide=True, value=fraction)
    rest = fraction - 1
    if abs(rest) <= Fraction(1, 2) and _ratio(rest.numerator, rest.denominator)[0] ** 2 < numerator**2:
        # x + x * rest: for 0.999 the factor of the truncated part is 1 and not 999, which saves range
        part = rescale(x, rest, x.scale, wide=x.wide, value=fraction)
        out = combine([(x, 1), (part, 1)], scale=x.scale)
        out.nonnegative = x.nonnegative
        return out
    return rescale(x, fraction, x.scale, wide=x.wide, value=fraction)


def multiply(x: Handle, y: Handle) -> Handle:
    """Elementwise product with broadcasting."""
    return bilinear(x, y, "mul")


def bilinear(x: Handle, y: Handle, function: str, options: dict[str, Any] | None = None) -> Handle:
    """f(x, y) for a bilinear f. Secret times secret: openings of what has none (1 round), 8 bytes dealt per output."""
    options = options or {}
    x = x.force() if isinstance(x, Deferred) else x
    y = y.force() if isinstance(y, Deferred) else y
    if isinstance(x, Public) and isinstance(y, Public):
        return _public_public(x, y, function, options)
    if isinstance(x, Public):
        return _public_product(secret(y), x, function, options, left=True)
    if isinstance(y, Public):
        return _public_product(secret(x), y, function, options, left=False)
    if function == "mul" and isinstance(x, Bit) and x.shape == broadcast(x.shape, y.shape):
        return select(x, y)
    if function == "mul" and isinstance(y, Bit) and y.shape == broadcast(x.shape, y.shape):
        return select(y, x)
    a = secret(x)
    b = a if y is x else secret(y)
    return product(a, b, function, options)


def product(a: Secret, b: Secret, function: str = "mul", options: dict[str, Any] | None = None) -> Secret:
    """f(a, b) for two wires; pending operands are truncated first, the result is pending (wide for a square)."""
    square = a is b
    a, b = (narrow(a), narrow(b)) if square else _factors(a, b)
    out = raw_product(a, b, function, options)
    out.wide = square and function == "mul" and out.pending
    return out


def multiply_divided(a: Secret, b: Secret) -> Secret:
    """a * b, b as it is if a public divisor made it pending: its integers are those of a narrow value."""
    return raw_product(narrow(a), b if b.scale < b.format.scale**2 else narrow(b))


def _factors(a: Secret, b: Secret) -> tuple[Secret, Secret]:
    """Both as factors of a product: pending ones truncated, stretched ones as they are while there is room."""
    a = a if a.stretched else narrow(a)
    b = b if b.stretched else narrow(b)
    if a.scale * b.scale > _STRETCH * a.format.scale * b.format.scale:
        return narrow(a), narrow(b)
    return a, b


def raw_product(a: Secret, b: Secret, function: str = "mul", options: dict[str, Any] | None = None) -> Secret:
    """f(a, b) of the integers as they are: openings of what has none (1 round), 8 bytes dealt per output element."""
    options = options or {}
    session = a.session
    session.own(a, b)
    shape = result_shape(function, a, b, options)
    session.open(a, b)
    out = session.new_id()
    session.submit(ins.Bilinear(out, a.id, b.id, function, options, shape))
    nonnegative = (a is b and function == "mul") or (a.nonnegative and b.nonnegative)
    return session.wire(out, a.scale * b.scale, finer(a.format, b.format), shape=shape, nonnegative=nonnegative)


def result_shape(function: str, a: Secret | Public, b: Secret | Public, options: dict[str, Any]) -> Shape:
    """The shape of f(a, b), checked before anything is sent."""
    x, y = a.shape, b.shape
    if function == "mul":
        return broadcast(x, y)
    if function == "mm":
        if len(x) != 2 or len(y) != 2 or x[1] != y[0]:
            raise ShapeMismatch(
                f"matrices of shape {x} and {y} cannot be multiplied", op="mm", remedy="check the shapes"
            )
        return (x[0], y[1])
    if function == "bmm":
        if len(x) != 3 or len(y) != 3 or x[0] != y[0] or x[2] != y[1]:
            raise ShapeMismatch(
                f"batches of shape {x} and {y} cannot be multiplied", op="bmm", remedy="check the shapes"
            )
        return (x[0], x[1], y[2])
    try:
        meta = BILINEAR[function](*(torch.empty(s, dtype=torch.int64, device="meta") for s in (x, y)), **options)
    except RuntimeError as error:
        raise ShapeMismatch(f"{function} of {x} and {y}: {error}", op=function, remedy="check the shapes") from error
    return tuple(meta.shape)


def _public_public(x: Public, y: Public, function: str, options: dict[str, Any]) -> Public:
    if function == "mul" and x.fill is not None and y.fill is not None:
        return Public(x.session, broadcast(x.shape, y.shape), fill=x.fill * y.fill)
    a, b = x.dense().to(torch.float64), y.dense().to(torch.float64)
    dense = BILINEAR[function](a, b, **options)
    return Public(x.session, tuple(dense.shape), tensor=dense)


def _public_product(x: Secret, y: Public, function: str, options: dict[str, Any], *, left: bool) -> Handle:
    if y.fill == 0:
        shape = result_shape(function, y, x, options) if left else result_shape(function, x, y, options)
        return Public(x.session, shape, fill=0.0)
    if function == "mul" and y.fill is not None:
        return expand_to(multiply_scalar(x, y.fill), broadcast(x.shape, y.shape))
    session = x.session
    values = y.dense()
    x = narrow(x)
    whole = not values.dtype.is_floating_point or bool((values == values.round()).all())
    x = x if whole else secret(as_number(x))
    scale = 1 if whole else x.format.scale
    raw = encode(values, scale, op=session.operation)
    out = session.new_id()
    session.submit(ins.PublicProduct(out, x.id, raw, function, options, left))
    positive = x.nonnegative and bool((values >= 0).all())
    return session.wire(out, x.scale * scale, x.format, nonnegative=positive)


# --- selection -----------------------------------------------------------------------------------------------------


def map_bit(bit: Bit, linear_map: LinearMap | None = None, *, flip: bool = False) -> Bit:
    """Structure on a bit, or its complement; local."""
    session = bit.session
    out = session.new_id()
    session.submit(ins.MapBit(out, bit.id, linear_map or LinearMap("alias"), flip))
    return Bit(session, out, session.bit_shape(out))


def weigh(
    bits: Sequence[Bit], weights: Sequence[int], constant_raw: int, scale: int, number_format: FixedPoint
) -> Secret:
    """constant + sum of weight * bit, integers of the given scale; local."""
    session = bits[0].session
    out = session.new_id()
    session.submit(ins.WeighBits(out, tuple(bit.id for bit in bits), tuple(weights), constant_raw))
    return session.wire(out, scale, number_format, shape=bits[0].shape)


def expand_bit(bit: Bit, shape: Shape) -> Bit:
    return bit if bit.shape == shape else map_bit(bit, LinearMap("expand", (shape,)))


def select(bit: Bit, x: Handle) -> Secret:
    """bit * x. A pending x is truncated and selected from one opening (no round of its own)."""
    wire = secret(x)
    wire.session.own(bit, wire)
    shape = broadcast(bit.shape, wire.shape)
    if wire.shape != shape:
        wire = secret(expand_to(wire, shape))
    bit = expand_bit(bit, shape)
    if wire.pending and not wire.wide and "narrow" not in wire.memo:
        return rescale(wire, Fraction(wire.format.scale, wire.scale), wire.format.scale, bit=bit)
    if wire.pending and not wire.wide:
        wire = narrow(wire)
    return _plain_select(bit, wire)


def select_raw(bit: Bit, x: Secret) -> Secret:
    """bit * x at x's own scale, even when it is pending (same shapes)."""
    return _plain_select(expand_bit(bit, x.shape), x)


def _plain_select(bit: Bit, x: Secret) -> Secret:
    session = x.session
    session.open(x)
    out = session.new_id()
    session.submit(ins.Select(out, bit.id, x.id, x.shape))
    return session.wire(out, x.scale, x.format, shape=x.shape, wide=x.wide, nonnegative=x.nonnegative)


def refuse_plain(op: str) -> TorchveilError:
    """The error for a plain tensor next to a secret."""
    return WouldBePublished(
        "a plain tensor meets a secret: every party would learn the plain tensor",
        op=op,
        remedy="wrap it in torchveil.public(...) if it may be known, or share it with session.share(...)",
    )
