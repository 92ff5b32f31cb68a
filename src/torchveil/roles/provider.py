"""The provider: knows every mask, deals correlated randomness, never sees a share, an opening or a public tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from torchveil.errors import ProtocolError
from torchveil.kernels import add_stream, less_pads, reduce_ring, xor_bits, xor_words
from torchveil.kernels.drawn import DrawnBits, DrawnRing, DrawnWords
from torchveil.randomness import Bits, Words
from torchveil.roles.ledger import Ledger
from torchveil.roles.party import RandomSource
from torchveil.roles.tables import Tables
from torchveil.roles.tied import TiedStreams


class Provider(Tables):
    """The provider's memory (masks only) and the streams it shares with each party.

    ``deal`` splits a value: every party but the receiver takes keystream as its piece, the receiver gets what is
    missing. So a dealt value costs the bytes of one correction, whatever the number of parties.
    """

    __slots__ = ("_outbox", "_padded", "_streams", "ledger", "n_parties", "name", "receiver", "width")

    def __init__(self, name: str, streams: Sequence[Mapping[str, RandomSource]], width: int = 64) -> None:
        super().__init__()
        self.name = name
        self.n_parties = len(streams)
        self.width = width
        self._streams = list(streams)
        self._outbox: dict[tuple[str, int], Tensor | Bits | Words] = {}
        #: elements of the pads of what is to be sent
        self._padded: dict[tuple[str, int], int] = {}
        self.ledger = Ledger()
        self.receiver = 0

    def tie(self, view: bytes) -> None:
        """Streams that are tied (``roles.tied``) go on under keys of the digest of what was carried out."""
        for streams in self._streams:
            if isinstance(streams, TiedStreams):
                streams.tie(view)

    def begin(self, number: int) -> None:
        self.ledger.begin(number)
        self.receiver = number % self.n_parties

    def start(self, number: int) -> None:
        """Begin an instruction of a plan; dealing needs no exchange, so it is complete when ``deal`` returns."""
        self.ledger.start(number)
        self.receiver = number % self.n_parties

    def leave(self, last: int, *, failed: bool = False) -> None:
        """The plan is over."""
        self._outbox.clear()
        self._padded.clear()
        self.ledger.leave(last, failed=failed)

    def mask(self, slot: int, shape: tuple[int, ...]) -> Tensor:
        """The sum of all parties' mask pieces."""
        total = self._streams[0]["mask"].ring(self.ledger.number, slot, shape, self.width)
        for streams in self._streams[1:]:
            total = add_stream(total, streams["mask"], self.ledger.number, slot, self.width)
        return total

    def mask_bits(self, slot: int, shape: tuple[int, ...]) -> Bits:
        """The XOR of all parties' mask bits."""
        total = self._streams[0]["mask-bits"].bits(self.ledger.number, slot, shape)
        for streams in self._streams[1:]:
            np.bitwise_xor(total, streams["mask-bits"].bits(self.ledger.number, slot, shape), out=total)
        return total

    def mask_bits_pieces(self, slot: int, shape: tuple[int, ...]) -> list[DrawnBits]:
        """What ``mask_bits`` is the XOR of, not yet made."""
        number = self.ledger.number
        return [DrawnBits(streams["mask-bits"], number, slot, shape) for streams in self._streams]

    def deal(self, slot: int, value: Tensor, *, fresh: bool = False) -> None:
        """Share ``value`` additively; the correction goes to this instruction's receiver.

        A ``fresh`` value belongs to nobody else and may be overwritten.
        """
        self.send_correction(slot, less_pads(value, self.pads(slot, tuple(value.shape)), self.width, fresh))

    def deal_bits(self, slot: int, value: Bits) -> None:
        """Share packed bits by XOR; the correction goes to this instruction's receiver."""
        for pad in self.pads_bits(slot, value.shape):
            value = xor_bits(value, pad.stream, pad.number, slot)
        self.send_bits_correction(slot, value)

    def deal_words(self, slot: int, value: Words, valid: int) -> None:
        """Share 16-bit words by XOR in their low ``valid`` bits."""
        for pad in self.pads_words(slot, value.shape, valid):
            value = xor_words(value, pad.stream, pad.number, slot, valid)
        self.send_words_correction(slot, value)

    # A kernel that takes the pads off itself saves a pass: name them, compute the value less its pads, send that.

    def pads(self, slot: int, shape: tuple[int, ...]) -> list[DrawnRing]:
        """The pieces of all parties but the receiver, for a value of this shape dealt under ``slot``."""
        self._pad("dealt", slot, shape)
        number = self.ledger.number
        return [DrawnRing(streams["dealt"], number, slot, shape, self.width) for streams in self._not_receiving()]

    def pads_bits(self, slot: int, shape: tuple[int, ...]) -> list[DrawnBits]:
        """As ``pads``, for packed bits."""
        self._pad("dealt-bits", slot, shape)
        number = self.ledger.number
        return [DrawnBits(streams["dealt-bits"], number, slot, shape) for streams in self._not_receiving()]

    def pads_words(self, slot: int, shape: tuple[int, ...], valid: int) -> list[DrawnWords]:
        """As ``pads``, for words."""
        self._pad("dealt-bits", slot, shape)
        number = self.ledger.number
        return [DrawnWords(streams["dealt-bits"], number, slot, shape, valid) for streams in self._not_receiving()]

    def send_correction(self, slot: int, correction: Tensor) -> None:
        """Send the receiver a value less its ``pads``."""
        self._send("dealt", slot, reduce_ring(correction, self.width))

    def send_bits_correction(self, slot: int, correction: Bits) -> None:
        """Send the receiver packed bits XORed with their ``pads_bits``."""
        self._send("dealt-bits", slot, correction)

    def send_words_correction(self, slot: int, correction: Words) -> None:
        """Send the receiver words XORed with their ``pads_words``."""
        self._send("dealt-bits", slot, correction)

    def _not_receiving(self) -> list[Mapping[str, RandomSource]]:
        return [streams for rank, streams in enumerate(self._streams) if rank != self.receiver]

    def collect(self) -> dict[tuple[str, int], Tensor | Bits | Words]:
        """What this instruction sends to its receiver."""
        outbox, self._outbox = self._outbox, {}
        self._padded.clear()
        return outbox

    def reduce(self, x: Tensor) -> Tensor:
        return reduce_ring(x, self.width)

    def _pad(self, purpose: str, slot: int, shape: tuple[int, ...]) -> None:
        self.ledger.use(purpose, slot)
        self._padded[purpose, slot] = math.prod(shape)

    def _send(self, purpose: str, slot: int, piece: Tensor | Bits | Words) -> None:
        if (purpose, slot) in self._outbox:
            raise ProtocolError("a correction was dealt twice")
        # an instruction may state another shape than its operands have: torch would stretch one pad over many values
        count = piece.numel() if isinstance(piece, Tensor) else piece.size
        if count != self._padded.get((purpose, slot)):
            raise ProtocolError("an instruction states another shape than its operands have")
        self._outbox[(purpose, slot)] = piece

    def abandon(self, outs: tuple[int, ...]) -> None:
        """Forget everything about an instruction that failed."""
        self._outbox.clear()
        self._padded.clear()
        self.free(outs)

    def __repr__(self) -> str:
        return f"<Provider {self.name}, {len(self.wires)} masks>"
