"""A party: computes on shares, reads its pieces of masks and dealt values, never sees a key of anybody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from torchveil.errors import Desynchronised, ProtocolError
from torchveil.kernels import (
    Packed,
    drawn,
    keep_drawn,
    keep_drawn_bits,
    keep_drawn_words,
    mask_short,
    mask_value,
    reduce_ring,
)
from torchveil.kernels.drawn import BitsPiece, DrawnBits, DrawnRing, DrawnWords, RingPiece, WordsPiece
from torchveil.randomness import Bits, Words
from torchveil.roles.ledger import Ledger
from torchveil.roles.tables import Tables
from torchveil.roles.tied import TiedStream, TiedStreams

Number = TypeVar("Number", np.uint8, np.uint16)


class RandomSource(Protocol):
    """What a role reads randomness from: ``randomness.Stream``, or an enumeration in tests."""

    def ring(self, number: int, slot: int, shape: tuple[int, ...], width: int) -> Tensor: ...

    def bits(self, number: int, slot: int, shape: tuple[int, ...]) -> Bits: ...

    def words(self, number: int, slot: int, shape: tuple[int, ...], valid: int) -> Words: ...


class Party(Tables):
    """One party's memory and streams.

    ``mask``/``mask_bits`` return fresh pieces under which a value may be sent, once per label; ``dealt``/``dealt_bits``
    return this party's piece of a value that the provider deals: keystream, or the correction if this party is the
    receiver of the instruction. The methods ``..._piece`` name keystream without making it (``kernels.drawn``).

    ``fetch(number)``, if there is one, is asked for the corrections of an instruction when one of them is needed and
    none was delivered; it calls ``deliver_for``. ``dealer`` is who is to blame for corrections that do not fit.
    """

    __slots__ = (
        "_corrections",
        "_streams",
        "_zero",
        "dealer",
        "fetch",
        "ledger",
        "n_parties",
        "name",
        "rank",
        "receiver",
        "width",
    )

    def __init__(
        self,
        name: str,
        rank: int,
        n_parties: int,
        streams: Mapping[str, RandomSource],
        zero: Mapping[int, RandomSource],
        width: int = 64,
    ) -> None:
        super().__init__()
        self.name = name
        self.rank = rank
        self.n_parties = n_parties
        self.width = width
        self._streams = streams
        self._zero = zero
        self._corrections: dict[tuple[int, str, int], Tensor | Bits | Words] = {}
        self.ledger = Ledger()
        self.receiver = False
        self.fetch: Callable[[int], None] | None = None
        self.dealer = ""

    def tie(self, view: bytes, everything: bytes) -> None:
        """Streams that are tied (``roles.tied``) go on under keys of what was carried out: those with the provider by
        the digest of what the provider may see of it, those with parties by that of everything."""
        if isinstance(self._streams, TiedStreams):
            self._streams.tie(view)
        for zero in self._zero.values():
            if isinstance(zero, TiedStream):
                zero.tie(everything)

    @property
    def first(self) -> bool:
        """Whether this party adds public constants to its share."""
        return self.rank == 0

    def begin(self, number: int) -> None:
        """Start the next instruction; this party receives corrections if ``number`` says so."""
        if self._corrections:
            raise Desynchronised("corrections of the last instruction were never read", at_fault=self.dealer)
        self.ledger.begin(number)
        self.receiver = number % self.n_parties == self.rank

    def start(self, number: int) -> None:
        """Begin an instruction of a plan."""
        self.ledger.start(number)
        self.receiver = number % self.n_parties == self.rank

    def resume(self, number: int) -> None:
        """Go on with an instruction of a plan that waited for an exchange."""
        self.ledger.resume(number)
        self.receiver = number % self.n_parties == self.rank

    def leave(self, last: int, *, failed: bool = False) -> None:
        """The plan is over."""
        if self._corrections and not failed:
            raise Desynchronised("corrections of a plan were never read", at_fault=self.dealer)
        self._corrections.clear()
        self.ledger.leave(last, failed=failed)

    def deliver(self, corrections: dict[tuple[str, int], Tensor | Bits | Words]) -> None:
        """Take the provider's corrections for this instruction."""
        if not self.receiver:
            raise Desynchronised("corrections went to the wrong party")
        self.deliver_for(self.ledger.number, corrections)

    def deliver_for(self, number: int, corrections: Mapping[tuple[str, int], Tensor | Bits | Words]) -> None:
        """Take what was sent for the instruction ``number``, of which this party is the receiver."""
        for (purpose, slot), piece in corrections.items():
            self._corrections[number, purpose, slot] = piece

    def mask(self, slot: int, shape: tuple[int, ...]) -> Tensor:
        self.ledger.use("mask", slot)
        return self._streams["mask"].ring(self.ledger.number, slot, shape, self.width)

    def masked(self, slot: int, value: Tensor) -> tuple[Tensor, Tensor]:
        """(value + mask, mask) under a fresh mask of this label."""
        self.ledger.use("mask", slot)
        return mask_value(value, self._streams["mask"], self.ledger.number, slot, self.width)

    def masked_short(self, slot: int, value: Tensor, missing: int) -> tuple[Packed, Tensor]:
        """As ``masked`` for value / 2^missing, of which the lower bits travel."""
        self.ledger.use("mask", slot)
        return mask_short(value, self._streams["mask"], self.ledger.number, slot, missing, self.width)

    def mask_bits(self, slot: int, shape: tuple[int, ...]) -> Bits:
        return drawn.bits(self.mask_bits_piece(slot, shape))

    def mask_bits_piece(self, slot: int, shape: tuple[int, ...]) -> BitsPiece:
        self.ledger.use("mask-bits", slot)
        return keep_drawn_bits(DrawnBits(self._streams["mask-bits"], self.ledger.number, slot, shape))

    def dealt(self, slot: int, shape: tuple[int, ...]) -> Tensor:
        return drawn.ring(self.dealt_piece(slot, shape))

    def dealt_piece(self, slot: int, shape: tuple[int, ...]) -> RingPiece:
        self.ledger.use("dealt", slot)
        if self.receiver:
            piece = self._take("dealt", slot)
            if not isinstance(piece, Tensor) or tuple(piece.shape) != shape:
                raise self._not_as_expected()
            return piece
        return keep_drawn(DrawnRing(self._streams["dealt"], self.ledger.number, slot, shape, self.width))

    def dealt_bits(self, slot: int, shape: tuple[int, ...]) -> Bits:
        return drawn.bits(self.dealt_bits_piece(slot, shape))

    def dealt_bits_piece(self, slot: int, shape: tuple[int, ...]) -> BitsPiece:
        self.ledger.use("dealt-bits", slot)
        if self.receiver:
            return self._take_array("dealt-bits", slot, shape, np.uint8)
        return keep_drawn_bits(DrawnBits(self._streams["dealt-bits"], self.ledger.number, slot, shape))

    def dealt_words(self, slot: int, shape: tuple[int, ...], valid: int) -> Words:
        return drawn.words(self.dealt_words_piece(slot, shape, valid))

    def dealt_words_piece(self, slot: int, shape: tuple[int, ...], valid: int) -> WordsPiece:
        self.ledger.use("dealt-bits", slot)
        if self.receiver:
            return self._take_array("dealt-bits", slot, shape, np.uint16)
        return keep_drawn_words(DrawnWords(self._streams["dealt-bits"], self.ledger.number, slot, shape, valid))

    def input_piece(self, shape: tuple[int, ...]) -> Tensor:
        """This party's piece of an owner's input (all but the receiver)."""
        self.ledger.use("input", 0)
        return self._streams["input"].ring(self.ledger.number, 0, shape, self.width)

    def input_correction(self, shape: tuple[int, ...]) -> Tensor:
        """The receiver's piece of an owner's input, as it was sent."""
        self.ledger.use("input", 0)
        piece = self._take("input", 0)
        if not isinstance(piece, Tensor) or tuple(piece.shape) != shape:
            raise Desynchronised("an input has another shape than its instruction says")
        return piece

    def zero_share(self, slot: int, shape: tuple[int, ...]) -> Tensor | int:
        """This party's piece of a fresh sharing of zero: + the stream of each later party, - of each earlier one."""
        self.ledger.use("zero", slot)
        total: Tensor | int = 0
        for peer, stream in sorted(self._zero.items()):
            piece = stream.ring(self.ledger.number, slot, shape, self.width)
            total = total + piece if peer > self.rank else total - piece
        return total

    def reduce(self, x: Tensor) -> Tensor:
        return reduce_ring(x, self.width)

    def _take(self, purpose: str, slot: int) -> Tensor | Bits | Words:
        label = (self.ledger.number, purpose, slot)
        if self.fetch is not None and label not in self._corrections:
            self.fetch(self.ledger.number)
        piece = self._corrections.pop(label, None)
        if piece is None:
            raise ProtocolError(f"the provider dealt nothing for {purpose}/{slot}", at_fault=self.dealer)
        return piece

    def _take_array(self, purpose: str, slot: int, shape: tuple[int, ...], kind: type[Number]) -> npt.NDArray[Number]:
        piece = self._take(purpose, slot)
        if isinstance(piece, Tensor) or piece.dtype != kind or piece.shape != shape:
            raise self._not_as_expected()
        return piece.view(kind)

    def _not_as_expected(self) -> Desynchronised:
        return Desynchronised("a correction has another shape or type than the gate expects", at_fault=self.dealer)

    def abandon(self, outs: tuple[int, ...]) -> None:
        """Forget everything about an instruction that failed."""
        self._corrections.clear()
        self.free(outs)

    def __repr__(self) -> str:
        return f"<Party {self.name} rank={self.rank} of {self.n_parties}, {len(self.wires)} wires>"
