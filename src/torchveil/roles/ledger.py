"""One-time use: a label that is sent or dealt twice raises, in every run and not only in tests.

A role counts the instructions that it executes; the number is never taken from a message. It only grows, so
remembering the labels of the current instruction is enough and memory stays flat.
"""

from __future__ import annotations

from torchveil.errors import Desynchronised, LabelReused


class Ledger:
    """The labels used by one role during the current instruction."""

    __slots__ = ("_used", "number")

    def __init__(self) -> None:
        self.number = -1
        self._used: set[tuple[str, int]] = set()

    def begin(self, number: int) -> None:
        """Start the next instruction. The role counts itself; ``number`` is what the sender believes it to be."""
        if number != self.number + 1:
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
