"""What the engine asks of a driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from torchveil.drivers.clock import RoleClock
from torchveil.drivers.ranks import Collective
from torchveil.gates.base import Cost
from torchveil.program import instructions as ins
from torchveil.program.plan import Plan
from torchveil.storage import Checkpoint, Place


class Driver(Protocol):
    """Runs instructions; ``measured`` is what the last one cost."""

    @property
    def measured(self) -> Cost: ...

    def run(self, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        """Execute one instruction; a revealed value comes back. An error leaves no trace of the instruction."""
        ...

    def run_plan(self, plan: Plan, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Run a recorded plan on the wires ``inputs``; its results get the identifiers ``outputs``."""
        ...

    @property
    def ranks(self) -> int:
        """How many ranks run the same program, each in a session of its own; 1 if this is the only one."""
        ...

    def collect(self, out: int, x: int, collective: Collective) -> None:
        """Every party makes ``out`` of its ranks' shares of ``x``. 0 rounds. ``x`` is of the collective's shape.

        Raises ``Desynchronised`` when ranks mean different collectives, here or with what is waited for next.
        """
        ...

    def alias(self, new: int, old: int, *, apart: bool = False) -> None:
        """A second name for a wire; local, and no instruction."""
        ...

    def is_open(self, wire: int) -> bool:
        """Whether a wire that may have been opened under another name is open, at all roles."""
        ...

    def watch(self, clock: RoleClock | None) -> None:
        """Time the work of each role on ``clock`` from here on, if there are roles; None ends it."""
        ...

    def share_of(self, wire: int) -> Tensor:
        """A tensor of the shape and strides of a wire."""
        ...

    def shape_of_bit(self, bit: int) -> tuple[int, ...]:
        """The shape of a bit wire."""
        ...

    def n_wires(self) -> int:
        """How many wires and bit wires a role holds."""
        ...

    def save(self, checkpoint: Checkpoint, wires: Mapping[str, int], place: Place) -> None:
        """Have every party write its shares of ``wires``, by the keys of ``checkpoint.entries``; it is on disk then.

        The wires were refreshed for it. ``place`` is for parties in this process; others know their own. Raises
        ``StorageError``; the save before is not touched, whatever happens.
        """
        ...

    def load(self, checkpoint: Checkpoint, wires: Mapping[str, int], place: Place) -> None:
        """Define ``wires`` by what every party stored, or none and raise ``CheckpointInvalid``. Nothing is opened."""
        ...

    def clear(self) -> None:
        """Forget all values."""
        ...
