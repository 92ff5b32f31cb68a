"""A piece of keystream that is named and not yet made, so that a kernel can draw it while it uses it.

A role hands such pieces to the local steps of a gate. ``held`` makes the tensor or array; a native kernel draws a block
at a time instead and never stores the whole. Drawing a piece twice gives the same bytes: a role marks the label as used
when it names the piece (``roles.ledger``), not when somebody draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from torchveil.randomness import Bits, Words


class Source(Protocol):
    """What keystream is read from: ``randomness.Stream``, or an enumeration in tests."""

    def ring(self, number: int, slot: int, shape: tuple[int, ...], width: int) -> Tensor: ...

    def bits(self, number: int, slot: int, shape: tuple[int, ...]) -> Bits: ...

    def words(self, number: int, slot: int, shape: tuple[int, ...], valid: int) -> Words: ...


class DrawnRing(NamedTuple):
    """Ring elements of ``width`` bits."""

    stream: Source
    number: int
    slot: int
    shape: tuple[int, ...]
    width: int

    def held(self) -> Tensor:
        return self.stream.ring(self.number, self.slot, self.shape, self.width)


class DrawnBits(NamedTuple):
    """Packed bits."""

    stream: Source
    number: int
    slot: int
    shape: tuple[int, ...]

    def held(self) -> Bits:
        return self.stream.bits(self.number, self.slot, self.shape)


class DrawnWords(NamedTuple):
    """Words of 16 bits, of which the low ``valid`` are kept."""

    stream: Source
    number: int
    slot: int
    shape: tuple[int, ...]
    valid: int

    def held(self) -> Words:
        return self.stream.words(self.number, self.slot, self.shape, self.valid)


RingPiece = Tensor | DrawnRing
BitsPiece = Bits | DrawnBits
WordsPiece = Words | DrawnWords
RingPads = Sequence[DrawnRing]
BitsPads = Sequence[DrawnBits]
WordsPads = Sequence[DrawnWords]


def ring(piece: RingPiece) -> Tensor:
    """The tensor of a piece."""
    return piece.held() if isinstance(piece, DrawnRing) else piece


def bits(piece: BitsPiece) -> Bits:
    """The array of packed bits of a piece."""
    return piece.held() if isinstance(piece, DrawnBits) else piece


def words(piece: WordsPiece) -> Words:
    """The array of words of a piece."""
    return piece.held() if isinstance(piece, DrawnWords) else piece
