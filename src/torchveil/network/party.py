"""A party's session: runs gates on its shares, exchanges with the other parties, fetches what the provider deals.

An exchange is one frame to every other party, for all instructions under way: the number of the (first) instruction,
the digest of everything that was streamed so far, and the pieces one after another. What the other party sends must be
of the same number, digest and length. What the provider deals carries the digest of what the provider may see.

Values are released to a receiver only if consent allows it, and sealed to the receiver's key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from time import perf_counter
from typing import Any

import msgspec
import torch

from torchveil.drivers.exchange import Flight, combine
from torchveil.drivers.ranks import Collective
from torchveil.drivers.replay import Run, playing
from torchveil.errors import ConsentError, DataNotFound, Desynchronised, LimitExceeded, MalformedMessage, ProtocolError
from torchveil.gates import GATES
from torchveil.gates.base import Exchange, require_shape
from torchveil.network import messages as m
from torchveil.network.certificates import Identity
from torchveil.network.consent.provenance import PlanFlow
from torchveil.network.consent.session import SessionConsent
from torchveil.network.dataset_store import DatasetStore
from torchveil.network.framing import Frame
from torchveil.network.group import Group
from torchveil.network.links import Link, blamed
from torchveil.network.pieces import dealt, exchange_of, exchanged
from torchveil.network.results import Kept, Result, ResultStore
from torchveil.network.role_session import RoleSession
from torchveil.program import instructions as ins
from torchveil.program.digest import StreamDigest
from torchveil.program.encoding import encode, plan_digest, without_public
from torchveil.program.plan import Plan
from torchveil.program.tensors import MOST_DIMENSIONS
from torchveil.roles.party import Party
from torchveil.roles.wires import Wire
from torchveil.storage import Checkpoint, Holder, ShareStore, read_shares, write_shares


def other_stream(link: Link, number: int) -> Desynchronised:
    """The error when what a role sends belongs to another stream than ours."""
    return Desynchronised(
        f"{link.peer} carries out another stream at instruction {number}",
        remedy="all roles must be told the same: use one controller per session, of the same version everywhere",
        at_fault=str(link.peer),
    )


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a party keeps beyond a session: data of owners, checkpoints, results for owners."""

    datasets: DatasetStore
    checkpoints: ShareStore
    results: ResultStore


class PartySession(RoleSession):
    """One session of a party. ``links``: to the other parties by rank; ``provider``: to the provider; ``group``: to the
    other ranks of this party, if the session is one of several.

    ``consent`` follows the stream and is asked before anything is released; ``controller`` is who opened the session.
    """

    def __init__(
        self,
        party: Party,
        links: Mapping[int, Link],
        provider: Link,
        consent: SessionConsent,
        controller: Identity,
        keeping: Keeping,
        holder: Holder,
        group: Group | None = None,
        **common: Any,
    ) -> None:
        super().__init__(f"party/{party.name}", party.n_parties, party, **common)
        self.party = party
        self.consent = consent
        self.provenance = consent.provenance
        self.controller = controller
        self.keeping = keeping
        self.holder = holder
        self.group = group
        self._flows: dict[int, tuple[PlanFlow, bytes]] = {}
        self._links = dict(sorted(links.items()))
        self._provider = provider
        self._all = StreamDigest()
        self._all.update(self.session_id)
        #: numbers that the provider may be dealing for now
        self._due = range(0)
        party.fetch, party.dealer = self._fetch, str(provider.peer)

    def _end(self) -> None:
        super()._end()
        self.party.fetch = None

    # --- the stream --------------------------------------------------------------------------------------------------

    def _note(self, item: m.Message, more: bytes = b"") -> None:
        super()._note(item, more)
        self._all.update(m.pack_meta(item) + more)

    def _alias(self, item: m.Alias, buffers: Sequence[memoryview]) -> None:
        super()._alias(item, buffers)
        self.provenance.alias(item.new, item.old)

    def _define(self, item: m.Define, buffers: Sequence[memoryview]) -> None:
        super()._define(item, buffers)
        plan = self._plans[item.key][0]
        self._flows[item.key] = PlanFlow(plan), plan_digest(plan, public=True)

    def _run_plan(self, item: m.RunPlan, buffers: Sequence[memoryview]) -> None:
        if item.key in self._flows:
            self._all.update(self._flows[item.key][1])  # with the public tensors, which other parties must have too
        super()._run_plan(item, buffers)

    def _start(self, i: ins.Instruction, structure: bytes, buffers: Sequence[memoryview]) -> int:
        """Count an instruction and take it into both digests; its number."""
        number = self._begin(i)
        self._all.update(structure, buffers)
        seen = without_public(i)
        if seen is i:
            self._view.update(structure, buffers)
        else:
            self._view.update(*encode(seen))
        self.party.begin(number)
        self.party.tie(self._view.full, self._all.full)
        self._due = range(number, number + 1)
        return number

    def _do(self, item: m.Do, buffers: Sequence[memoryview]) -> None:
        i = self._decoded(item.structure, buffers)
        number = self._start(i, item.structure, buffers)
        party, gate = self.party, self._gates[type(i)]
        if isinstance(i, ins.Input):
            raise MalformedMessage("an input without a share")
        if isinstance(i, ins.Free):
            party.free(i.xs)
        elif isinstance(i, ins.Reveal):
            self._answer(number, partial(self._reveal, i, number), done=False)
        elif gate.interactive:
            flight = Flight([gate.evaluate(party, i)], number)
            flight.launch(0)
            while not flight.landed:
                flight.answer(0, self._swap((flight,))[0])
        else:
            gate.evaluate(party, i)
        self.provenance.follow(i)
        self.metrics.instruction(gate.name)

    def _share(self, item: m.Share, buffers: Sequence[memoryview]) -> None:
        i = self._input_of(item)
        self._start(i, item.structure, ())
        party = self.party
        if len(buffers) != (1 if party.receiver else 0):
            raise ProtocolError("the correction of an input went to the wrong party")
        for raw in buffers:
            if len(raw) != 8 * prod(i.shape):
                raise ProtocolError("an input is not of the shape that its instruction says")
            piece = torch.frombuffer(raw, dtype=torch.int64) if len(raw) else torch.empty(0, dtype=torch.int64)
            party.deliver({("input", 0): piece.view(i.shape)})
        self._gates[ins.Input].evaluate(party, i)
        self.provenance.input(i.out, str(self.controller.role))
        self.metrics.instruction("input")

    # --- out ---------------------------------------------------------------------------------------------------------

    def _share_of(self, i: ins.Reveal, number: int) -> memoryview:
        """This party's share of a value, re-randomised, once its release was allowed."""
        flight = Flight([GATES[ins.Reveal].evaluate(self.party, i)], number)
        flight.launch(0)
        (sent,) = flight.taken()
        flight.answer(0, ())
        self.metrics.revealed()
        return exchange_of(sent.pieces)[0]

    def _allow(self, i: ins.Reveal, number: int, receiver: Identity) -> None:
        try:
            self.consent.allow(i, number, str(receiver.role), receiver.fingerprint)
        except ConsentError:
            self.metrics.refused()
            raise

    def _reveal(self, i: ins.Reveal, number: int) -> None:
        if i.receiver != "controller":
            raise MalformedMessage("a reveal to somebody else than the controller", remedy="use session.deliver")
        self._allow(i, number, self.controller)
        context = m.seal_context(self.session_id, number, self.role)
        box = self.controller.seal(self._share_of(i, number), context)
        self.hub.post(self.control, Frame(int(m.Kind.REVEALED), number, body=[box]))

    def _deliver(self, item: m.Deliver, _buffers: Sequence[memoryview]) -> None:
        i = self._decoded(item.structure)
        result = m.parse_struct(item.result, Result)
        if not isinstance(i, ins.Reveal) or i.shape != result.shape:
            raise MalformedMessage("a result that is no reveal of its shape")
        number = self._start(i, item.structure, ())

        def deliver() -> None:
            try:
                owner = self.keeping.results.known(i.receiver)
            except DataNotFound:
                self.consent.decline(i, number)
                raise
            self._allow(i, number, owner)
            kept = Kept(result, i.receiver, str(self.controller.role), self.session_id, number)
            self.keeping.results.put(kept, owner, self._share_of(i, number), self.role)

        self._answer(number, deliver)

    # --- with other ranks --------------------------------------------------------------------------------------------

    def _combine(self, item: m.Collect, number: int) -> None:
        self.party.begin(number)
        if self.group is None:
            raise MalformedMessage("a collective in a session without other ranks")
        collective = Collective(item.how, item.shape, item.root, item.format)
        made_of = collective.result(self.group.size)
        if prod(made_of) > self.limits.elements or len(made_of) > MOST_DIMENSIONS:
            raise LimitExceeded("a collective makes a larger value than this role takes", remedy="combine smaller ones")
        self.holdings.take(8 * prod(item.shape) * self.group.size)
        share, owners = None, frozenset[str]()
        if item.x is not None:
            share, owners = self.party.wires[item.x].value(), self.provenance.of(item.x)
            require_shape(share, item.shape)
        made, owners = self.group.make(collective, share, owners, self._all.full)
        for digest in self.group.heard:
            self._all.update(digest)
        self.party.wires[item.out] = Wire(made)
        self.provenance.restore(item.out, sorted(owners))

    def _wait(self, item: m.Wait, buffers: Sequence[memoryview]) -> None:
        super()._wait(item, buffers)
        self._answer(self._number, lambda: None)

    # --- at rest -----------------------------------------------------------------------------------------------------

    def _dataset(self, item: m.Dataset, _buffers: Sequence[memoryview]) -> None:
        self._note(item)

        def take() -> None:
            self.holdings.take(8 * prod(item.shape))
            share, schema, owner = self.keeping.datasets.open(item.name, item.identifier)
            if schema.shape != item.shape:
                raise DataNotFound(f"{item.name!r} has another shape than the controller says", op="dataset")
            self.party.wires[item.out] = Wire(share)
            self.provenance.input(item.out, owner)

        self._answer(self._number, take)

    def _save(self, item: m.Save, _buffers: Sequence[memoryview]) -> None:
        self._note(item)
        wires, owners = self.party.wires, self.provenance.of
        shares = {key: wires[x].value() for key, x in item.wires.items()}
        provenance = {key: sorted(owners(x)) for key, x in item.wires.items()}
        store, holder = self.keeping.checkpoints, self.holder
        checkpoint = self._own(item.checkpoint)
        self._answer(self._number, lambda: write_shares(store, holder, checkpoint, shares, provenance))

    def _own(self, checkpoint: Checkpoint) -> Checkpoint:
        """As it is kept: each controller's apart, so that none can replace, remove or read another one's."""
        return msgspec.structs.replace(checkpoint, name=f"{self.controller.role}/{checkpoint.name}")

    def _load(self, item: m.Load, _buffers: Sequence[memoryview]) -> None:
        self._note(item)
        if item.wires.keys() != item.checkpoint.entries.keys():
            raise MalformedMessage("a load does not name the values of its checkpoint")

        def load() -> None:
            self.holdings.take(8 * sum(prod(entry.shape) for entry in item.checkpoint.entries.values()))
            shares, manifest = read_shares(self.keeping.checkpoints, self.holder, self._own(item.checkpoint))
            for key, x in item.wires.items():
                self.party.wires[x] = Wire(shares[key])
                self.provenance.restore(x, manifest.entries[key].provenance)

        self._answer(self._number, load)

    # --- plans -------------------------------------------------------------------------------------------------------

    def _play(self, plan: Plan, item: m.RunPlan, first: int) -> None:
        party = self.party
        self._due = range(first, first + plan.n_labels)
        party.tie(self._view.full, self._all.full)
        with (
            self.holdings.run_of(item.key, item.inputs, self._gates) as gates,
            playing([party], [party], plan, first, item.inputs, item.outputs),
        ):
            Run([party], plan, first, self._swap, gates).stages(iter([{}] * len(plan.instructions)))
        flow, digest = self._flows[item.key]
        self.provenance.follow_plan(flow, item.inputs, item.outputs)
        for slot, wire in enumerate(item.outputs):
            self.provenance.mark(wire, digest, slot)

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
        self.tick()
        for rank, link in self._links.items():
            found = self.hub.receive(link, self.limits.deadline_s, what)
            if found.kind != m.Kind.EXCHANGE or found.number != number or found.digest != digest:
                raise other_stream(link, number)
            try:
                pieces[rank] = exchanged(own, found.received)
            except MalformedMessage as error:
                raise blamed(error, link) from None
            self.metrics.exchanged(str(link.peer), len(found.received), perf_counter() - start)
        self.metrics.round()
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
            try:
                corrections: dict[tuple[str, int], Any] = dealt(m.parse(frame, m.Dealt), frame.received)
            except MalformedMessage as error:
                raise blamed(error, self._provider) from None
            wrong = frame.number not in self._due or frame.number % self.n_parties != self.party.rank
            if wrong or frame.digest != self._view.value:
                raise other_stream(self._provider, number)
            self.party.deliver_for(frame.number, corrections)
            self.metrics.dealt(len(frame.received))
            self.metrics.received(str(self._provider.peer), len(frame.received))
            if frame.number == number:
                return
