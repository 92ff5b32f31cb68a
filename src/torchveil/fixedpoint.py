"""Fixed-point numbers: how a float becomes an integer of the ring and back.

``FixedPoint(base, digits)`` has the scale ``base**digits``; a real x is stored as round(x * scale). The scale of a
secret may be larger for a while (a product carries the product of two scales until it is truncated); the format says
to which scale it returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from torchveil.errors import ConfigurationError, EncodingError, PrecisionLoss

#: An encoded value must stay below this, so that one more addition and every gate's offset fit the ring of 2**64.
ENCODABLE = 2**61

#: How exact a public scalar has to be: relative error at most 2**-24 (rules: at least 24 significant bits).
SCALAR_PRECISION = Fraction(1, 2**24)

_MAX_DIVISOR = 2**61

#: Elements that are encoded at once: few enough to stay in the cache, and for torch to use no second thread.
_PIECE = 1 << 14


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """A number format: ``digits`` digits after the point, in ``base``.

    Raises ``ConfigurationError`` for a base below 2, a negative number of digits, or a scale above 2**26 (products of
    two such values must leave room in 64 bits: |x*y| < 2**62 / scale**2).
    """

    base: int = 2
    digits: int = 16

    def __post_init__(self) -> None:
        if self.base < 2 or self.digits < 0 or self.base**self.digits > 2**26:
            raise ConfigurationError(
                f"no number format has base {self.base} and {self.digits} digits in a ring of 2**64",
                remedy="choose a base of at least 2 and base**digits at most 2**26",
            )

    @property
    def scale(self) -> int:
        return int(self.base**self.digits)


def finer(a: FixedPoint, b: FixedPoint) -> FixedPoint:
    """The format in which a result of both is kept: the one with the larger scale."""
    return a if a.scale >= b.scale else b


def encode(values: Tensor, scale: int, *, op: str = "encode") -> Tensor:
    """round(values * scale) as int64, to nearest; error at most half a unit in the last place.

    Raises ``EncodingError`` for nan, infinities and |round(x * scale)| >= 2**61; the message counts, it does not quote.
    """
    if not values.dtype.is_floating_point:
        raw = values.to(torch.int64)
        limit = ENCODABLE // scale
        if raw.numel() and (int(raw.max()) >= limit or int(raw.min()) <= -limit):
            raise _out_of_range(op, scale)
        return raw * scale
    values = values.detach()
    out = torch.empty_like(values, dtype=torch.int64)
    if not values.numel():
        return out
    pieces = [(values, out)]
    if values.is_contiguous():
        pieces = list(zip(values.view(-1).split(_PIECE), out.view(-1).split(_PIECE), strict=True))
    if all([_encode_piece(piece, scale, raw) for piece, raw in pieces]):
        return out
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise EncodingError(
            f"{bad} of {values.numel()} values are nan or infinite; a share cannot hold them",
            op=op,
            remedy="clean the data first, for example with torch.nan_to_num",
        )
    raise _out_of_range(op, scale)


def _encode_piece(values: Tensor, scale: int, out: Tensor) -> bool:
    """Write what ``encode`` returns into ``out``; whether all values fit."""
    scaled = values.to(torch.float64, copy=True).mul_(scale)
    low, high = torch.aminmax(scaled)
    out.copy_(scaled.round_())
    return float(low) > -ENCODABLE and float(high) < ENCODABLE  # neither holds for nan


def decode(raw: Tensor, scale: int) -> Tensor:
    """raw / scale as float64: exact for |raw| < 2**53, otherwise correct to a relative 2**-53."""
    return raw.to(torch.float64) / scale


def encode_scalar(value: float, scale: int, *, op: str) -> int:
    """round(value * scale) for a public number that is added to or compared with a secret.

    Raises ``EncodingError`` when it does not fit and ``PrecisionLoss`` when a non-zero number would become 0.
    """
    if value != value or value in (float("inf"), float("-inf")):
        raise EncodingError("a public scalar is nan or infinite", op=op, remedy="use a finite number")
    raw = round(Fraction(value) * scale)
    if abs(raw) >= ENCODABLE:
        raise _out_of_range(op, scale)
    if raw == 0 and value != 0:
        raise PrecisionLoss(
            f"the public number {value!r} is below half a unit at scale {scale} and would become 0",
            op=op,
            remedy="share with more digits, or scale the computation",
        )
    return raw


def rational(value: Fraction) -> tuple[int, int]:
    """Numerator and divisor (c, d) with c/d = value up to a relative 2**-24, the numerator as small as possible.

    A product with a public number is c times the secret, then one truncation by d: a small c keeps the range, and
    numbers such as 0.1, 1/3 or 1/128 need no factor at all. d is 1 for whole numbers.
    """
    if value == 0:
        return 0, 1
    if value.denominator == 1:
        return value.numerator, 1
    magnitude = abs(value)
    # Best approximations of the inverse keep the numerator small: d/c ~ 1/|value| with the smallest c.
    inverse = 1 / magnitude
    bound = 1
    while True:
        if inverse.denominator <= bound:
            guess = inverse
        else:
            guess = inverse.limit_denominator(bound)
        if guess != 0 and abs(guess * magnitude - 1) <= SCALAR_PRECISION:
            break
        bound *= 2
    # The bound was doubled: look for the smallest numerator below it.
    low, high = bound // 2, guess.denominator
    while low + 1 < high:
        middle = (low + high) // 2
        trial = inverse.limit_denominator(max(middle, 1))
        if trial != 0 and abs(trial * magnitude - 1) <= SCALAR_PRECISION:
            high = trial.denominator
            guess = trial
        else:
            low = middle
    numerator, divisor = guess.denominator, guess.numerator
    return (numerator if value > 0 else -numerator), divisor


def check_divisor(divisor: int, value: Fraction, *, op: str) -> None:
    """Raise ``PrecisionLoss`` when dividing by ``divisor`` turns every value of the ring into 0."""
    if divisor >= _MAX_DIVISOR:
        raise PrecisionLoss(
            f"a factor of {float(value):.3g} turns every value of this scale into 0",
            op=op,
            remedy="fold the factor into another one, or share with more digits",
        )


def _out_of_range(op: str, scale: int) -> EncodingError:
    return EncodingError(
        f"a value does not fit: at scale {scale} the magnitude must stay below {ENCODABLE // scale}",
        op=op,
        remedy="rescale the data, or use fewer digits",
    )
