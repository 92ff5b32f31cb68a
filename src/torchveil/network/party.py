"""A party's session: runs gates on its shares, exchanges with the other parties, fetches what the provider deals.

An exchange is one frame to every other party, for all instructions under way: the number of the (first) instruction,
the digest of everything that was streamed so far, and the pieces one after another. What the other party sends must be
of the same number, digest and length. What the provider deals carries the digest of what the provider may see.

Values are released to a receiver only if ``Releases`` allows it, and sealed to the receiver's key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from time import perf_counter
from typing import Any, Protocol

import torch

from torchveil.drivers.exchange import Flight, combine
from torchveil.drivers.replay import Run, playing
from torchveil.errors import Desynchronised, MalformedMessage, ProtocolError
from torchveil.gates import GATES
from torchveil.gates.base import Exchange
from torchveil.network import messages as m
from torchveil.network.framing import Frame
from torchveil.network.links import Link
from torchveil.network.pieces import dealt, exchange_of, exchanged
from torchveil.network.role_session import RoleSession
from torchveil.program import instructions as ins
from torchveil.program.digest import StreamDigest
from torchveil.program.encoding import decode, encode, without_public
from torchveil.program.plan import Plan
from torchveil.roles.party import Party


class Releases(Protocol):
    """Who may see what, and how it reaches them; follows the stream to know whose data went into which wire."""

    def input(self, wire: int) -> None:
        """The controller shared a value."""

    def follow(self, i: ins.Instruction) -> None:
        """An instruction was carried out."""

    def alias(self, new: int, old: int) -> None:
        """A wire has a second name."""

    def release(self, i: ins.Reveal, number: int) -> Callable[[memoryview], None]:
        """Decide on a reveal, or raise; what sends this party's share to the receiver."""


class PartySession(RoleSession):
    """One session of a party. ``links``: to the other parties by rank; ``provider``: to the provider."""

    def __init__(
        self,
        party: Party,
        links: Mapping[int, Link],
        provider: Link,
        releases: Releases,
        **common: Any,
    ) -> None:
        super().__init__(f"party/{party.name}", party.n_parties, party, **common)
        self.party = party
        self.releases = releases
        self._links = dict(sorted(links.items()))
        self._provider = provider
        self._all = StreamDigest()
        self._all.update(self.session_id)
        #: numbers that the provider may be dealing for now
        self._due = range(0)
        party.fetch = self._fetch

    # --- the stream --------------------------------------------------------------------------------------------------

    def _note(self, item: m.Message, more: bytes = b"") -> None:
        super()._note(item, more)
        self._all.update(m.pack_meta(item) + more)

    def _alias(self, item: m.Alias, buffers: Sequence[memoryview]) -> None:
        super()._alias(item, buffers)
        self.releases.alias(item.new, item.old)

    def _do(self, item: m.Do, buffers: Sequence[memoryview]) -> None:
        i = decode(item.structure, buffers, self._decoding)
        number = self._begin(i)
        self._all.update(item.structure, buffers)
        seen = without_public(i)
        if seen is i:
            self._view.update(item.structure, buffers)
        else:
            self._view.update(*encode(seen))
        party = self.party
        party.begin(number)
        self._due = range(number, number + 1)
        gate = GATES[type(i)]
        if isinstance(i, ins.Input):
            raise MalformedMessage("an input without a share")
        if isinstance(i, ins.Free):
            party.free(i.xs)
        elif isinstance(i, ins.Reveal):
            self._reveal(i, number)
        elif gate.interactive:
            flight = Flight([gate.evaluate(party, i)], number)
            flight.launch(0)
            while not flight.landed:
                flight.answer(0, self._swap((flight,))[0])
        else:
            gate.evaluate(party, i)
        self.releases.follow(i)
        self.metrics.instruction(gate.name)

    def _share(self, item: m.Share, buffers: Sequence[memoryview]) -> None:
        i = self._input_of(item)
        number = self._begin(i)
        self._all.update(item.structure)
        self._view.update(item.structure)
        party = self.party
        party.begin(number)
        if len(buffers) != (1 if party.receiver else 0):
            raise ProtocolError("the correction of an input went to the wrong party")
        for raw in buffers:
            if len(raw) != 8 * prod(i.shape):
                raise ProtocolError("an input is not of the shape that its instruction says")
            piece = torch.frombuffer(raw, dtype=torch.int64) if len(raw) else torch.empty(0, dtype=torch.int64)
            party.deliver({("input", 0): piece.view(i.shape)})
        GATES[ins.Input].evaluate(party, i)
        self.releases.input(i.out)
        self.metrics.instruction("input")

    def _reveal(self, i: ins.Reveal, number: int) -> None:
        send = self.releases.release(i, number)
        flight = Flight([GATES[ins.Reveal].evaluate(self.party, i)], number)
        flight.launch(0)
        (sent,) = flight.taken()
        send(exchange_of(sent.pieces)[0])
        flight.answer(0, ())
        self.metrics.revealed()

    # --- plans -------------------------------------------------------------------------------------------------------

    def _play(self, plan: Plan, item: m.RunPlan, first: int) -> None:
        party = self.party
        self._due = range(first, first + plan.n_labels)
        for slot, wire in zip(plan.inputs, item.inputs, strict=True):
            self.releases.alias(slot, wire)
        with playing([party], [party], plan, first, item.inputs, item.outputs):
            Run([party], plan, first, self._swap, GATES).stages(iter([{}] * len(plan.instructions)))
        for i in plan.instructions:
            self.releases.follow(i)
        for slot, wire in zip(plan.outputs, item.outputs, strict=True):
            self.releases.alias(wire, slot)
        self.releases.follow(ins.Free(plan.slots))

    # --- the hot path ------------------------------------------------------------------------------------------------

    def _swap(self, flights: Sequence[Flight]) -> list[tuple[Any, ...]]:
        """One round: send what all flights have to say, get what the others say, add up."""
        start = perf_counter()
        sent: list[Exchange] = [flight.taken()[0] for flight in flights]
        own = [piece for exchange in sent for piece in exchange.pieces]
        number, digest = flights[0].number, self._all.value
        frame = Frame(int(m.Kind.EXCHANGE), number, digest, body=exchange_of(own))
        what = f"instruction {number} ({self.place.operation})"
        for link in self._links.values():
            self.hub.post(link, frame, what)
        pieces = {self.party.rank: own}
        for rank, link in self._links.items():
            found = self.hub.receive(link, self.limits.deadline_s, what)
            if found.kind != m.Kind.EXCHANGE or found.number != number or found.digest != digest:
                raise Desynchronised(f"{link.peer} carries out another stream at instruction {number}")
            pieces[rank] = exchanged(own, found.received)
            self.metrics.exchanged(str(link.peer), len(found.received), perf_counter() - start)
        if any([link.queued for link in self._links.values()]):
            self.hub.flush(self.limits.deadline_s, what)
        out: list[tuple[Any, ...]] = []
        at = 0
        rows = [pieces[rank] for rank in range(self.n_parties)]
        for exchange in sent:
            count = len(exchange.pieces)
            totals = [combine(exchange.kind, [row[k] for row in rows], self.party.width) for k in range(at, at + count)]
            out.append(tuple(totals))
            at += count
        return out

    def _fetch(self, number: int) -> None:
        """Take frames of the provider until the one for ``number`` has come."""
        what = f"what is dealt for instruction {number} ({self.place.operation})"
        while True:
            frame = self.hub.receive(self._provider, self.limits.deadline_s, what)
            corrections: dict[tuple[str, int], Any] = dealt(m.parse(frame, m.Dealt), frame.received)
            wrong = frame.number not in self._due or frame.number % self.n_parties != self.party.rank
            if wrong or frame.digest != self._view.value:
                raise Desynchronised(f"{self._provider.peer} carries out another stream at instruction {number}")
            self.party.deliver_for(frame.number, corrections)
            self.metrics.dealt(len(frame.received))
            if frame.number == number:
                return
