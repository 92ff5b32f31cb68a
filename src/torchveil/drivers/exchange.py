"""One instruction under way, and the exchange of one round: what all drivers have in common.

A driver holds the parties that it runs: all of them in lockstep, one on a machine of its own. It is told how to
exchange (``Swap``): what every flight gets for what its parties send.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from torchveil.errors import Desynchronised
from torchveil.gates.base import Exchange, Interaction
from torchveil.kernels import add_packed, sum_pieces, xor_pieces


class Flight:
    """An interactive instruction: one generator per party of this driver, all at the same exchange.

    ``number`` is its label number, ``position`` its place in a plan; ``messages`` what the parties send now.
    """

    __slots__ = ("_running", "messages", "number", "position")

    def __init__(self, running: Sequence[Interaction], number: int = 0, position: int = 0) -> None:
        self._running = list(running)
        self.messages: list[Exchange] = []
        self.number = number
        self.position = position

    def launch(self, rank: int) -> None:
        """Let one party, in order of rank, come to its first exchange."""
        self.messages.append(next(self._running[rank]))

    def taken(self) -> list[Exchange]:
        """What the parties send in this round, all of one form."""
        messages = self.messages
        first = messages[0]
        if any([m.kind != first.kind or len(m.pieces) != len(first.pieces) for m in messages[1:]]):
            raise Desynchronised("parties are at different exchanges")
        self.messages = []
        return messages

    def answer(self, rank: int, totals: tuple[Any, ...]) -> None:
        """Give one party, in order of rank, the result of the exchange; it runs to its next one or to its end."""
        try:
            self.messages.append(self._running[rank].send(totals))
        except StopIteration:
            return

    @property
    def landed(self) -> bool:
        """Whether all parties are through. Raises ``Desynchronised`` if only some are."""
        if not self.messages:
            return True
        if len(self.messages) != len(self._running):
            raise Desynchronised("some parties finished before others")
        return False


#: One round for everything that is under way: what the parties of each flight get.
Swap = Callable[[Sequence[Flight]], list[tuple[Any, ...]]]


def combine(kind: str, pieces: Sequence[Any], width: int) -> Any:
    """What crosses in one exchange: the sum (in the ring, or of some bits) or XOR of all parties' pieces."""
    if kind == "xor":
        return xor_pieces(pieces)
    return sum_pieces(pieces, width) if isinstance(pieces[0], Tensor) else add_packed(pieces)
