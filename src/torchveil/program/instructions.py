"""Typed instructions. A program is a stream of them; it depends on shapes and public constants only, never on data.

Identifiers name wires (values of which each party holds a share) or bit wires (opened selector bits). They are given
by the controller; the instruction *number*, from which every mask is derived, is counted by each role itself.
``shape`` is always the shape of the result. Public tensors inside an instruction go to the parties, never to the
provider.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from torchveil.kernels.linear_maps import LinearMap

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Instruction:
    """Base of all instructions."""


@dataclass(frozen=True, slots=True, eq=False)
class Input(Instruction):
    """An owner shares a clear value (already encoded); the value itself is never part of the instruction."""

    out: int
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Instruction):
    """A public tensor becomes a wire: the first party holds it, the others hold zeros."""

    out: int
    shape: Shape
    value: Tensor | int = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Map(Instruction):
    """out = map(x): structure, indexing by public indices, sums."""

    out: int
    x: int
    map: LinearMap


@dataclass(frozen=True, slots=True, eq=False)
class Concatenate(Instruction):
    """out = cat(xs, dim)."""

    out: int
    xs: tuple[int, ...]
    dim: int


@dataclass(frozen=True, slots=True, eq=False)
class Combine(Instruction):
    """out = sum of factor * wire, with broadcasting, + constant (a public integer).

    With ``follow`` the opening of out follows later, once the one term that has none is opened.
    """

    out: int
    terms: tuple[tuple[int, int], ...]
    constant: int = 0
    follow: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AddPublic(Instruction):
    """out = x + value, a public tensor of ring elements (may broadcast x up)."""

    out: int
    x: int
    value: Tensor = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Write(Instruction):
    """out = base with the view ``path`` replaced by value."""

    out: int
    base: int
    value: int
    path: tuple[LinearMap, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Open(Instruction):
    """Make openings x + mask of wires, all in one round.

    Opening what is opened already is an error of the stream, unless ``again`` says that it may be: a plan may get an
    opening from an ancestor earlier than the recorded program did. The second opening has a mask of its own.
    ``bits``: how many bits of each element travel, per wire; all if empty. Fewer than the ring has: the upper bits of a
    wire whose share is a multiple of a power of two, or what an opening that is half known lacks.
    """

    xs: tuple[int, ...]
    shapes: tuple[Shape, ...]
    again: bool = False
    bits: tuple[int, ...] = ()

    def one_by_one(self) -> tuple[Open, ...]:
        """The same openings as instructions of their own, for a plan."""
        each: list[tuple[int, ...]] = [(b,) for b in self.bits] or [()] * len(self.xs)
        return tuple(Open((x,), (shape,), True, b) for x, shape, b in zip(self.xs, self.shapes, each, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Round(Instruction):
    """out = x rounded to a multiple of 2^bits, up or down; two parties, each on its share alone."""

    out: int
    x: int
    bits: int
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Lift(Instruction):
    """out = [bit *] x / 2^bits for a rounded wire x of which the upper bits were opened under a mask of their own."""

    out: int
    x: int
    bit: int | None
    bits: int
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Bilinear(Instruction):
    """out = f(x, y) for two opened wires; f from ``kernels.BILINEAR``."""

    out: int
    x: int
    y: int
    function: str
    options: dict[str, Any]
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class PublicProduct(Instruction):
    """out = f(x, value) (or f(value, x) with ``left``) for a public tensor of ring elements; drops the opening."""

    out: int
    x: int
    value: Tensor = field(repr=False)
    function: str
    options: dict[str, Any]
    left: bool


@dataclass(frozen=True, slots=True, eq=False)
class Truncate(Instruction):
    """out = [bit *] x / divisor for an opened wire."""

    out: int
    x: int
    bit: int | None
    divisor: int
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Compare(Instruction):
    """Selector bits of an opened wire against public thresholds.

    With y = -x if ``negate`` else x, let m_j = [y - thresholds[j] < 0]. Result k is the XOR of the m_j for j in
    ``outputs[k][0]``, flipped if ``outputs[k][1]``: one bit wire each. x is known to be a multiple of 2^zeros.
    """

    outs: tuple[int, ...]
    x: int
    negate: bool
    thresholds: tuple[int, ...]
    outputs: tuple[tuple[tuple[int, ...], bool], ...]
    shape: Shape
    zeros: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Equal(Instruction):
    """Bits [x = value] of an opened wire, one bit wire per public value."""

    outs: tuple[int, ...]
    x: int
    values: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Winner(Instruction):
    """Bit wires of the shape of an opened wire x that has at least two entries along ``dim``.

    ``outs[0]``: the entry is the first among the largest of its row. With a ``reach``, ``outs[1]``: the largest of the
    row minus the entry is at most the reach. x is known to be a multiple of 2^zeros.
    """

    outs: tuple[int, ...]
    x: int
    dim: int
    reach: int | None
    shape: Shape
    zeros: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class MapBit(Instruction):
    """out = map(bit): structure only. With ``flip`` the complement."""

    out: int
    bit: int
    map: LinearMap
    flip: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class BitToArithmetic(Instruction):
    """out = the bit as a ring element 0 or 1; local."""

    out: int
    bit: int


@dataclass(frozen=True, slots=True, eq=False)
class WeighBits(Instruction):
    """out = constant + sum of weight * bit over bit wires of one shape; local."""

    out: int
    bits: tuple[int, ...]
    weights: tuple[int, ...]
    constant: int


@dataclass(frozen=True, slots=True, eq=False)
class Select(Instruction):
    """out = bit * x for an opened wire x of the same shape."""

    out: int
    bit: int
    x: int
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Exponential(Instruction):
    """out = [bit *] exp(x / unit) at scale 2**(mask_bits + factor_bits), x / unit in (-2^bits / unit, 0], x opened.

    With ``zeros`` the wire is known to be 2^zeros times x.
    """

    out: int
    x: int
    bit: int | None
    unit: int
    bits: int
    mask_bits: int
    factor_bits: int
    shape: Shape
    zeros: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Series(Instruction):
    """out = [bit *] sum a_j cos(j t) + b_j sin(j t), t = 2 pi factor x / 2^bits, for an opened wire x."""

    out: int
    x: int
    bit: int | None
    bits: int
    frequencies: tuple[int, ...]
    cosines: tuple[int, ...]
    sines: tuple[int, ...]
    constant: int
    shape: Shape
    factor: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Refresh(Instruction):
    """out = x under fresh shares (a zero sharing is added)."""

    out: int
    x: int
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Reveal(Instruction):
    """The parties send their re-randomised shares of x to the receiver."""

    x: int
    receiver: str
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Free(Instruction):
    """The wires are not needed any more."""

    xs: tuple[int, ...]
