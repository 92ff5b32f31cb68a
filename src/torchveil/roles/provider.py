"""The provider: knows every mask, deals correlated randomness, never sees a share, an opening or a public tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from torchveil.errors import ProtocolError
from torchveil.kernels import add_stream, reduce_ring, subtract_stream, subtract_words, xor_bits, xor_words
from torchveil.randomness import Bits, Words
from torchveil.roles.ledger import Ledger
from torchveil.roles.party import RandomSource
from torchveil.roles.wires import BitWire, Wire


class Provider:
    """The provider's memory (masks only) and the streams it shares with each party.

    ``deal`` splits a value: every party but the receiver takes keystream as its piece, the receiver gets what is
    missing. So a dealt value costs the bytes of one correction, whatever the number of parties.
    """

    __slots__ = ("_outbox", "_streams", "bits", "ledger", "n_parties", "name", "receiver", "width", "wires")

    def __init__(self, name: str, streams: Sequence[dict[str, RandomSource]], width: int = 64) -> None:
        self.name = name
        self.n_parties = len(streams)
        self.width = width
        self._streams = list(streams)
        self._outbox: dict[tuple[str, int], Tensor | Bits | Words] = {}
        self.wires: dict[int, Wire] = {}
        self.bits: dict[int, BitWire] = {}
        self.ledger = Ledger()
        self.receiver = 0

    def begin(self, number: int) -> None:
        self.ledger.begin(number)
        self.receiver = number % self.n_parties

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

    def deal(self, slot: int, value: Tensor) -> None:
        """Share ``value`` additively; the correction goes to this instruction's receiver."""
        self.ledger.use("dealt", slot)
        for rank, streams in enumerate(self._streams):
            if rank != self.receiver:
                value = subtract_stream(value, streams["dealt"], self.ledger.number, slot, self.width)
        self._send("dealt", slot, reduce_ring(value, self.width))

    def deal_bits(self, slot: int, value: Bits) -> None:
        """Share packed bits by XOR; the correction goes to this instruction's receiver."""
        self.ledger.use("dealt-bits", slot)
        for rank, streams in enumerate(self._streams):
            if rank != self.receiver:
                value = xor_bits(value, streams["dealt-bits"], self.ledger.number, slot)
        self._send("dealt-bits", slot, value)

    def deal_words(self, slot: int, value: Words, valid: int) -> None:
        """Share 16-bit words by XOR in their low ``valid`` bits."""
        self.ledger.use("dealt-bits", slot)
        for rank, streams in enumerate(self._streams):
            if rank != self.receiver:
                value = xor_words(value, streams["dealt-bits"], self.ledger.number, slot, valid)
        self._send("dealt-bits", slot, value)

    def deal_short(self, slot: int, value: Words, bits: int) -> None:
        """Share words of ``bits`` <= 16 bits additively modulo 2^bits; two bytes each."""
        self.ledger.use("dealt-bits", slot)
        for rank, streams in enumerate(self._streams):
            if rank != self.receiver:
                piece = streams["dealt-bits"].words(self.ledger.number, slot, value.shape, bits)
                value = subtract_words(value, piece, bits)
        self._send("dealt-bits", slot, value)

    def collect(self) -> dict[tuple[str, int], Tensor | Bits | Words]:
        """What this instruction sends to its receiver."""
        outbox, self._outbox = self._outbox, {}
        return outbox

    def reduce(self, x: Tensor) -> Tensor:
        return reduce_ring(x, self.width)

    def _send(self, purpose: str, slot: int, piece: Tensor | Bits | Words) -> None:
        if (purpose, slot) in self._outbox:
            raise ProtocolError("a correction was dealt twice")
        self._outbox[(purpose, slot)] = piece

    def abandon(self, outs: tuple[int, ...]) -> None:
        """Forget everything about an instruction that failed."""
        self._outbox.clear()
        self.free(outs)

    def free(self, xs: tuple[int, ...]) -> None:
        for x in xs:
            self.wires.pop(x, None)
            self.bits.pop(x, None)

    def __repr__(self) -> str:
        return f"<Provider {self.name}, {len(self.wires)} masks>"
