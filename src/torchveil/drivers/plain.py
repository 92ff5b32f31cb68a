"""The plain driver: the same instruction stream on clear fixed-point integers, without shares or masks.

It shows what the number format does to a program, at the speed of clear integers, and protects nothing. Costs are those
that the gates' formulas predict for the stated number of parties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from torchveil.drivers.clock import RoleClock
from torchveil.drivers.ranks import Collective, over_processes, require_agreement, world_size
from torchveil.errors import StorageError
from torchveil.gates import GATES
from torchveil.gates.base import FREE, Cost
from torchveil.program import instructions as ins
from torchveil.program.plan import Plan
from torchveil.program.wiring import defines
from torchveil.roles.plain import Plain
from torchveil.storage import Checkpoint, Place


class PlainDriver:
    """Runs the clear meaning of every instruction; ``strict`` raises ``RangeExceeded`` where a range is left."""

    __slots__ = ("_n_parties", "measured", "plain")

    def __init__(self, n_parties: int, *, strict: bool = False) -> None:
        self._n_parties = n_parties
        self.plain = Plain(strict=strict)
        self.measured: Cost = FREE

    def run(self, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        gate = GATES[type(i)]
        if isinstance(i, ins.Input) and clear is not None:
            self.plain.inputs.append(clear)
        try:
            gate.clear(self.plain, i)
        except BaseException:
            self.plain.abandon(defines(i))
            raise
        self.measured = gate.cost(i, self._n_parties)
        return self.plain.value(i.x) if isinstance(i, ins.Reveal) else None

    def is_open(self, wire: int) -> bool:
        """Nothing is opened here; the stream is that of a driver on which all went well."""
        return True

    @property
    def ranks(self) -> int:
        """Of torch's process group."""
        return world_size()

    def collect(self, out: int, x: int, collective: Collective) -> None:
        require_agreement(collective)
        self.plain.set(out, over_processes(collective, self.plain.value(x)))
        self.measured = FREE

    def watch(self, clock: RoleClock | None) -> None:
        """Nothing to time: there are no roles."""

    def share_of(self, wire: int) -> Tensor:
        return self.plain.value(wire)

    def shape_of_bit(self, bit: int) -> tuple[int, ...]:
        return tuple(self.plain.bit(bit).shape)

    def n_wires(self) -> int:
        return len(self.plain.wires) + len(self.plain.bits)

    def save(self, checkpoint: Checkpoint, wires: Mapping[str, int], place: Place) -> None:
        raise _nothing_stored()

    def load(self, checkpoint: Checkpoint, wires: Mapping[str, int], place: Place) -> None:
        raise _nothing_stored()

    def clear(self) -> None:
        self.plain.forget()

    def alias(self, new: int, old: int, *, apart: bool = False) -> None:
        self.plain.alias(new, old)

    def run_plan(self, plan: Plan, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """The instructions of a plan one after another; the cost is that of its rounds and its gates' formulas."""
        total = Cost()
        try:
            for slot, wire in zip(plan.inputs, inputs, strict=True):
                self.plain.alias(slot, wire)
            for stage in plan.stages:
                for position in (*stage.local, *stage.starts):
                    i = plan.instructions[position]
                    GATES[type(i)].clear(self.plain, i)
                    total += GATES[type(i)].cost(i, self._n_parties)
                self.plain.free(stage.frees)
            for slot, wire in zip(plan.outputs, outputs, strict=True):
                self.plain.alias(wire, slot)
        finally:
            self.plain.free(plan.slots)
        self.measured = Cost(plan.rounds, total.sent, total.dealt)


def _nothing_stored() -> StorageError:
    return StorageError(
        "the plain backend has no shares, and clear values of secrets are not written to disk",
        remedy="use Session(backend='lockstep') where checkpoints are wanted",
    )
