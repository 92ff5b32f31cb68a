"""The lockstep driver: all roles in one process, every party advanced to its next exchange, then all go on.

Deterministic and without threads of its own; kernels may use all cores. It protects nothing, since all roles share a
process: it is the embedded default, the reference for other drivers, and where costs are measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchveil.drivers.clock import RoleClock
from torchveil.drivers.exchange import Flight, combine
from torchveil.drivers.ranks import Collective, over_processes, require_agreement, world_size
from torchveil.drivers.replay import replay
from torchveil.errors import PlainDiverged, ProtocolError
from torchveil.gates import GATES
from torchveil.gates.base import FREE, Cost, Exchange, Gate, n_bytes
from torchveil.kernels import less_pads
from torchveil.kernels.drawn import DrawnRing
from torchveil.kernels.threads import Kernels
from torchveil.program import instructions as ins
from torchveil.program.plan import Plan
from torchveil.program.wiring import defines
from torchveil.roles.keys import Identity, agree_session_id, input_streams, party_role, provider_role
from torchveil.roles.party import Party, RandomSource
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.tables import Tables
from torchveil.roles.wires import Wire
from torchveil.storage import Checkpoint, Holder, Place, read_shares, write_shares

#: In place of a cluster's name, in what is stored.
CLUSTER = "lockstep"


def make_roles(
    party_names: Sequence[str], provider_name: str, owner_name: str = "owner"
) -> tuple[list[Party], Provider, list[RandomSource], bytes]:
    """Fresh roles with agreed keys, the owner's input streams, and the session id."""
    identities = [Identity(f"party/{name}") for name in party_names]
    provider, owner = Identity(f"provider/{provider_name}"), Identity(f"owner/{owner_name}")
    halves = [identity.half for identity in identities]
    session_id = agree_session_id([*halves, provider.half, owner.half])
    parties = [
        party_role(name, rank, identity, halves, provider.half, owner.half, session_id)
        for rank, (name, identity) in enumerate(zip(party_names, identities, strict=True))
    ]
    return (
        parties,
        provider_role(provider_name, provider, halves, session_id),
        input_streams(owner, halves, session_id),
        session_id,
    )


@dataclass(slots=True)
class Tally:
    """What crossed: bytes that each party sent to the others, bytes to receivers of reveals; what was revealed last."""

    sent: int = 0
    outside: int = 0
    revealed: Tensor | None = None


class Lockstep:
    """Runs instructions on parties and provider of one process, and measures what crosses between them.

    ``plain`` follows the same stream on clear values when given (debug mode): after every instruction the shares must
    add up to it exactly, and a range that is left raises before anything is computed from it.
    """

    __slots__ = (
        "gates",
        "inputs",
        "measured",
        "n_parties",
        "number",
        "parties",
        "plain",
        "provider",
        "session_id",
        "tally",
        "width",
    )

    def __init__(
        self,
        parties: Sequence[Party],
        provider: Provider,
        inputs: Sequence[RandomSource],
        *,
        plain: Plain | None = None,
        session_id: bytes = b"",
    ) -> None:
        self.session_id = session_id
        self.parties = list(parties)
        self.provider = provider
        self.inputs = list(inputs)
        self.plain = plain
        if plain is not None:
            plain.last_share = self._last_share
        self.n_parties = len(self.parties)
        self.width = provider.width
        self.number = 0
        self.measured = Cost()
        self.tally = Tally()
        self.gates = GATES

    def run(self, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        """Execute one instruction; ``clear`` is the owner's value of an input. Returns a revealed value, or None.

        ``measured`` holds what this instruction sent. Errors leave no trace of the instruction in any role.
        """
        gate = self.gates[type(i)]
        number = self.number
        self.number = number + 1
        roles: list[Any] = [self.provider, *self.parties]
        for role in roles:
            role.begin(number)
        if isinstance(i, ins.Free):
            self.release(i.xs)
            self.measured = FREE
            return None
        try:
            with Kernels():
                revealed = self._execute(gate, i, number, clear)
            if self.plain is not None:
                self.follow_plain(gate, i, clear)
        except BaseException:
            for role in [*roles, *([self.plain] if self.plain is not None else [])]:
                role.abandon(defines(i))
            if isinstance(i, ins.Open):
                self.forget_half_openings(i.xs)
            raise
        return revealed

    def run_plan(self, plan: Plan, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Run a plan on the wires ``inputs``; its results become the wires ``outputs``. ``measured`` is the whole run.

        An error leaves no trace of the plan: its numbers are lost, openings of inputs that it began are forgotten.
        """
        first = self.number
        self.number = first + plan.n_labels
        self.tally = Tally()
        rounds, dealt = replay(self, plan, first, inputs, outputs)
        self.measured = Cost(rounds, self.tally.sent, dealt)

    def _execute(self, gate: Gate, i: ins.Instruction, number: int, clear: Tensor | None) -> Tensor | None:
        gate.deal(self.provider, i)
        dealt = self.provider.collect()
        dealt_bytes = sum(n_bytes(piece) for piece in dealt.values())
        outside = 0
        if isinstance(i, ins.Input):
            if clear is None:
                raise ProtocolError("an input without a value")
            if tuple(clear.shape) != i.shape or clear.dtype != torch.int64:
                raise ProtocolError("an input is not a tensor of int64 of the shape that its instruction says")
            dealt = self._split_input(number, clear)
            outside = 8 * clear.numel()
        if dealt:
            self.parties[self.provider.receiver].deliver(dealt)
            del dealt  # whoever uses a correction frees it
        if not gate.interactive:
            for party in self.parties:
                gate.evaluate(party, i)
            self.measured = Cost(0, 0, dealt_bytes, outside)
            return None
        self.tally = Tally()
        flight = Flight([gate.evaluate(party, i) for party in self.parties])
        rounds = self._interact(flight)
        self.measured = Cost(rounds, self.tally.sent, dealt_bytes, outside + self.tally.outside)
        return self.tally.revealed

    @property
    def ranks(self) -> int:
        """Of torch's process group: every process holds all roles of one rank."""
        return world_size()

    def collect(self, out: int, x: int, collective: Collective) -> None:
        require_agreement(collective)
        for party in self.parties:
            party.wires[out] = Wire(over_processes(collective, party.wires[x].value()))
        self.provider.wires[out] = Wire(None)
        if self.plain is not None:
            self.plain.set(out, over_processes(collective, self.plain.value(x)))
        self.measured = FREE

    def watch(self, clock: RoleClock | None) -> None:
        """Time every role's work on ``clock`` from here on; None ends it."""
        self.gates = GATES if clock is None else clock.timed(GATES)

    def share_of(self, wire: int, rank: int = 0) -> Tensor:
        """One party's share: its shape and strides are those of the value; its elements are uniform."""
        return self.parties[rank].wires[wire].value()

    def _last_share(self, wire: int) -> Tensor:
        return self.share_of(wire, -1)

    def is_open(self, wire: int) -> bool:
        """Of all roles alike: an opening that did not reach all of them was forgotten by all."""
        return self.parties[0].wires[wire].resolve()

    def forget_half_openings(self, xs: Sequence[int]) -> None:
        """An opening that failed half-way never happened; the next one has a new label, hence new masks."""
        for x in xs:
            tables = [self.provider.wires, *(party.wires for party in self.parties)]
            wires = [table[x] for table in tables if x in table]
            if any(wire.mask is None for wire in wires):
                for wire in wires:
                    wire.forget_opening()

    def shape_of_bit(self, bit: int) -> tuple[int, ...]:
        """The shape of a bit wire."""
        return tuple(self.parties[0].bits[bit].public_flip().shape)

    def n_wires(self) -> int:
        """How many wires and bit wires a party holds."""
        return len(self.parties[0].wires) + len(self.parties[0].bits)

    def _holder(self, party: Party) -> Holder:
        names = tuple(each.name for each in self.parties)
        return Holder(party.name, party.rank, names, CLUSTER, self.session_id)

    def save(self, checkpoint: Checkpoint, wires: Mapping[str, int], place: Place) -> None:
        for party in self.parties:
            write_shares(
                place.store(party.name, CLUSTER, create=True),
                self._holder(party),
                checkpoint,
                {key: party.wires[x].value() for key, x in wires.items()},
                dict.fromkeys(wires, ()),
            )

    def load(self, checkpoint: Checkpoint, wires: Mapping[str, int], place: Place) -> None:
        read = [
            read_shares(place.store(party.name, CLUSTER), self._holder(party), checkpoint)[0] for party in self.parties
        ]
        for key, x in wires.items():
            shares = [shares.pop(key) for shares in read]
            for party, share in zip(self.parties, shares, strict=True):
                party.wires[x] = Wire(share)
            self.provider.wires[x] = Wire(None)
            if self.plain is not None:
                self.plain.set(x, combine("sum", shares, self.width))

    def clear(self) -> None:
        """Forget all shares and masks."""
        for role in self._roles():
            role.forget()

    def release(self, xs: tuple[int, ...]) -> None:
        """Forget wires at every role."""
        for role in self._roles():
            role.free(xs)

    def _roles(self) -> list[Tables]:
        """Everybody with tables: parties, provider, and the clear run of debug mode."""
        return [*self.parties, self.provider, *([] if self.plain is None else [self.plain])]

    def alias(self, new: int, old: int, *, apart: bool = False) -> None:
        for role in self._roles():
            role.alias(new, old, apart=apart)

    def _split_input(self, number: int, clear: Tensor) -> dict[tuple[str, int], Any]:
        receiver, shape = number % self.n_parties, tuple(clear.shape)
        others = [stream for rank, stream in enumerate(self.inputs) if rank != receiver]
        pads = [DrawnRing(stream, number, 0, shape, self.width) for stream in others]
        return {("input", 0): less_pads(clear, pads, self.width, False)}

    def _interact(self, flight: Flight) -> int:
        """Run an instruction to its end; how many rounds it took."""
        rounds = 0
        ranks = range(self.n_parties)
        for rank in ranks:
            flight.launch(rank)
        while not flight.landed:
            rounds += 1
            (totals,) = self.swap((flight,))
            for rank in ranks:
                flight.answer(rank, totals)
        return rounds

    def swap(self, flights: Sequence[Flight]) -> list[tuple[Any, ...]]:
        """One round: combines what all parties send and counts it."""
        return [self._totals(flight.taken()) for flight in flights]

    def _totals(self, sent: list[Exchange]) -> tuple[Any, ...]:
        first, tally = sent[0], self.tally
        size = sum([n_bytes(piece) for piece in first.pieces])
        totals = tuple([combine(first.kind, [m.pieces[k] for m in sent], self.width) for k in range(len(first.pieces))])
        if first.kind == "reveal":
            # for the receiver alone: the parties go on without it
            tally.outside += size * len(sent)
            tally.revealed = totals[0]
            return ()
        tally.sent += size * (len(sent) - 1)
        return totals

    def follow_plain(self, gate: Gate, i: ins.Instruction, clear: Tensor | None = None) -> None:
        """Debug mode: run the clear meaning and compare it with the sum of the shares."""
        plain = self.plain
        if plain is None:
            return
        if isinstance(i, ins.Input) and clear is not None:
            plain.inputs.append(clear)
        gate.clear(plain, i)
        for out in defines(i):
            if out in plain.wires:
                total = combine("sum", [party.wires[out].value() for party in self.parties], self.width)
                same = total.equal(plain.value(out))
            else:
                flip = self.parties[0].bits[out].public_flip()
                mask = combine("sum", [party.bits[out].secret() for party in self.parties], self.width)
                same = (flip ^ mask).equal(plain.bit(out))
            if not same:
                raise PlainDiverged(f"instruction {self.number - 1} ({gate.name}) differs from the clear run")


__all__ = ["Lockstep", "make_roles"]
