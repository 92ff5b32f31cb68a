"""One instruction under way at all parties, and the exchange of one round: the lockstep drivers' common part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torchveil.errors import Desynchronised
from torchveil.gates.base import Exchange, Interaction, n_bytes


class Flight:
    """An interactive instruction: one generator per party, all at the same exchange.

    ``sent``: bytes that each party sent to the others so far; ``outside``: bytes to a receiver of a reveal;
    ``revealed``: what the receiver got.
    """

    __slots__ = ("_messages", "_running", "number", "outside", "position", "revealed", "sent")

    def __init__(self, running: Sequence[Interaction], number: int = 0, position: int = 0) -> None:
        self._running = list(running)
        self._messages: list[Exchange] = []
        self.number = number
        self.position = position
        self.sent = self.outside = 0
        self.revealed: Any = None

    def launch(self, rank: int) -> None:
        """Let one party, in order of rank, come to its first exchange."""
        self._messages.append(next(self._running[rank]))

    def totals(self, combine: Callable[[str, list[Any]], Any]) -> tuple[Any, ...]:
        """Exchange: what every party gets, the combination of all pieces."""
        messages = self._messages
        first = messages[0]
        if any([m.kind != first.kind or len(m.pieces) != len(first.pieces) for m in messages[1:]]):
            raise Desynchronised("parties are at different exchanges")
        kind = first.kind
        size = sum([n_bytes(piece) for piece in first.pieces])
        totals = tuple([combine(kind, [m.pieces[k] for m in messages]) for k in range(len(first.pieces))])
        self._messages = []
        if first.kind == "reveal":
            # for the receiver alone: the parties go on without it
            self.outside += size * len(messages)
            self.revealed = totals[0]
            return ()
        self.sent += size * (len(messages) - 1)
        return totals

    def answer(self, rank: int, totals: tuple[Any, ...]) -> None:
        """Give one party, in order of rank, the result of the exchange; it runs to its next one or to its end."""
        try:
            self._messages.append(self._running[rank].send(totals))
        except StopIteration:
            return

    @property
    def landed(self) -> bool:
        """Whether all parties are through. Raises ``Desynchronised`` if only some are."""
        if not self._messages:
            return True
        if len(self._messages) != len(self._running):
            raise Desynchronised("some parties finished before others")
        return False
