"""One-time use: a label that is sent or dealt twice raises, in every run and not only in tests.

A role counts the instructions that it executes; the number is never taken from a message. It only grows. The labels of
an instruction are remembered while it is under way, so memory stays flat. A plan claims a range of numbers at once; its
instructions may overlap, each can be started once.
"""

from __future__ import annotations

from torchveil.errors import Desynchronised, LabelReused


class Ledger:
    """The labels used by one role during the instructions under way; ``number`` is the one being worked on."""

    __slots__ = ("_claimed", "_under_way", "_used", "number")

    def __init__(self) -> None:
        self.number = -1
        self._used: set[tuple[str, int]] = set()
        self._claimed: set[int] = set()
        self._under_way: dict[int, set[tuple[str, int]]] = {}

    def begin(self, number: int) -> None:
        """Start the next instruction. The role counts itself; ``number`` is what the sender believes it to be."""
        if number != self.number + 1 or self._claimed:
            raise Desynchronised(
                f"instruction {number} came where {self.number + 1} was due", remedy="open a new session"
            )
        self.number = number
        self._used.clear()

    def use(self, purpose: str, slot: int) -> None:
        """Mark the label (purpose, this instruction, slot) as used; a second time raises ``LabelReused``."""
        label = (purpose, slot)
        if label in self._used:
            raise LabelReused(f"the label {purpose}/{slot} of instruction {self.number} was used before")
        self._used.add(label)

    # --- plans -----------------------------------------------------------------------------------------------------

    def claim(self, first: int, count: int) -> None:
        """Start a plan of ``count`` instructions, the numbers from ``first`` on."""
        if first != self.number + 1 or self._claimed:
            raise Desynchronised(f"a plan at {first} came where {self.number + 1} was due", remedy="open a new session")
        self._claimed.update(range(first, first + count))

    def start(self, number: int) -> None:
        """Begin one instruction of the plan; each once."""
        try:
            self._claimed.remove(number)
        except KeyError:
            raise LabelReused(f"instruction {number} is not of this plan, or it was started before") from None
        self.number = number
        self._used = self._under_way[number] = set()

    def resume(self, number: int) -> None:
        """Go on with one that is under way."""
        self.number = number
        self._used = self._under_way[number]

    def finish(self, number: int) -> None:
        """An instruction of the plan is complete."""
        del self._under_way[number]

    def leave(self, last: int, *, failed: bool = False) -> None:
        """The plan is over. Numbers that a failed one never started are lost: no label of theirs is ever used."""
        if not failed and (self._claimed or self._under_way):
            raise Desynchronised("a plan ended before all of its instructions did")
        self._claimed.clear()
        self._under_way.clear()
        self._used = set()
        self.number = last
