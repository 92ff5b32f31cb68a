"""What a gate is: three functions and a formula, without any I/O.

    deal(provider, instruction)        what the provider computes from masks and deals
    evaluate(party, instruction)       what a party computes; an interactive gate is a generator that yields an
                                       ``Exchange`` and is sent the combined result; a local gate is a plain function
    clear(plain, instruction)          the meaning, on clear integers; given the masks it is bit-equal
    cost(instruction, n_parties)       rounds and bytes as a formula, compared with the driver's measurement by a test

No gate knows whether its messages cross a thread, a socket or nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from torchveil.errors import ProtocolError
from torchveil.kernels import Packed
from torchveil.randomness import Bits, Words

Piece = Tensor | Bits | Words | Packed
Interaction = Generator["Exchange", tuple[Any, ...], None]


class Exchange(NamedTuple):
    """One round: every party sends ``pieces`` to every other one and gets the combination of all.

    kind "sum": ring elements, or some of their bits, added; "xor": packed bits; "reveal": ring elements to the receiver
    only.
    """

    kind: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What an instruction costs.

    rounds      exchange rounds between parties
    sent        bytes that each party sends to the other parties (all of them together)
    dealt       bytes from the provider to the receiving party
    outside     bytes between parties and an owner or receiver (inputs and reveals), all parties together
    """

    rounds: int = 0
    sent: int = 0
    dealt: int = 0
    outside: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.rounds + other.rounds,
            self.sent + other.sent,
            self.dealt + other.dealt,
            self.outside + other.outside,
        )


FREE = Cost()


@dataclass(frozen=True, slots=True)
class Gate:
    """A row of the gate table."""

    name: str
    interactive: bool
    deal: Callable[[Any, Any], None]
    evaluate: Callable[[Any, Any], Any]
    clear: Callable[[Any, Any], None]
    cost: Callable[[Any, int], Cost]

    @property
    def silent(self) -> bool:
        """Whether it uses no label at all: linear work on what is there."""
        return self.cost is local


def local(_instruction: Any, _n_parties: int) -> Cost:
    """The cost of a gate that sends nothing, deals nothing and uses no randomness."""
    return FREE


def require_shape(share: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ``ProtocolError`` unless a share has the shape that its instruction states."""
    if share.shape != shape and tuple(share.shape) != tuple(shape):
        raise ProtocolError(f"an instruction states the shape {shape}, the share has {tuple(share.shape)}")


def n_bytes(piece: Piece) -> int:
    """Bytes of a message piece on the wire."""
    return piece.numel() * 8 if isinstance(piece, Tensor) else int(piece.nbytes)
