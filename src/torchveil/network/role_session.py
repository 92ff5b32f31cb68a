"""A session at a role: reads the controller's stream and carries it out, item by item, in order.

What parties and provider have in common is here; ``party`` and ``provider`` say what an instruction and a plan are to
them. Every role counts instructions itself and keeps a running digest of what the provider may see of the stream;
parties keep one of everything too. Both begin with the session id, so that a controller that told roles different
things is found out at the first message between them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from torchveil.errors import (
    ConsentError,
    Desynchronised,
    LimitExceeded,
    MalformedMessage,
    PeerLost,
    StorageError,
    TorchveilError,
)
from torchveil.gates import GATES, Nature
from torchveil.kernels.threads import Kernels
from torchveil.network import messages as m
from torchveil.network.config import Limits
from torchveil.network.framing import Frame
from torchveil.network.holdings import Holdings
from torchveil.network.links import Hub, Link
from torchveil.network.metrics import Metrics
from torchveil.network.pieces import cut
from torchveil.program import instructions as ins
from torchveil.program.digest import StreamDigest
from torchveil.program.encoding import DecodeLimits, decode, decode_plan, plan_digest
from torchveil.program.plan import Plan
from torchveil.roles.tables import Tables

#: How often a role tells the controller how far it is and looks whether all others are there, while it gets on.
PROGRESS_S = 0.5

#: How long nothing may come from the controller until a role that lost another one takes the session as not closed;
_FAREWELL_S = 1.0
#: one that was told of the loss by a role that has looked for so long already;
_FAREWELL_TOLD_S = 0.1
#: and how long at most it passes over instructions in search of that news, and as a share of the deadline.
_FAREWELL_MOST_S, _FAREWELL_SHARE = 5.0, 0.25

#: Plans that a session may define, and wires that go into or come out of one: what goes into what is a table of bits.
PLANS = 4096
PLAN_WIRES = 8192


@dataclass(frozen=True, slots=True)
class Place:
    """The instruction that is being carried out or comes next, for errors and logs."""

    number: int = 0
    operation: str = ""


class RoleSession(ABC):
    """Base of both kinds of sessions. ``run`` returns when the controller closes the session, and raises otherwise."""

    def __init__(
        self,
        role: str,
        n_parties: int,
        tables: Tables,
        hub: Hub,
        control: Link,
        session_id: bytes,
        limits: Limits,
        silence_s: float,
        metrics: Metrics,
        threads: int = 0,
    ) -> None:
        self.role = role
        self.n_parties = n_parties
        self.hub = hub
        self.control = control
        self.session_id = session_id
        self.limits = limits
        self._silence_s = silence_s
        self.metrics = metrics
        self._last = Place()
        self._begun = False
        hub.position = self._position
        self._threads = threads
        self._tables = tables
        self._number = 0
        #: values that the metrics count as held
        self._held = 0
        self._told = 0.0
        self._ends = monotonic() + limits.session_s
        self._plans: dict[int, tuple[Plan, bytes, dict[str, int]]] = {}
        self._nature = Nature(n_parties)
        self._view = StreamDigest()
        self._view.update(session_id)
        self._decoding = DecodeLimits(elements=limits.elements)
        self.holdings = Holdings(tables, limits.session_bytes)
        self._gates = self.holdings.asking()
        self._handlers = self._table()

    def run(self) -> None:
        """Carry out the stream until it ends, or until its controller closed the session; what is under way then is
        dropped."""
        try:
            with self.metrics.watching(self.hub.links):
                try:
                    self._carry_out()
                except PeerLost as lost:
                    if not self._was_closed(_FAREWELL_S if m.told_by(lost) is None else _FAREWELL_TOLD_S):
                        raise
        except LimitExceeded as error:
            error.at_fault = error.at_fault or str(self.control.peer)  # who asked for it; links name who sent too much
            raise
        finally:
            self.metrics.wires(-self._held)
            self._end()

    def _end(self) -> None:
        """Forget all values, and what would keep this object until a collector of cycles happens to run."""
        self._tables.forget()
        self._handlers.clear()

    def _carry_out(self) -> None:
        while True:
            self._begun = False
            what = "the controller's next instruction"
            frame = self.hub.receive(self.control, self.limits.idle_s, what, silence_s=self._silence_s)
            if frame.kind == m.Kind.CLOSE:
                return
            stream = m.parse(frame, m.Stream)
            if frame.number != self._number:
                raise Desynchronised(
                    f"the controller is at instruction {frame.number}, this role at {self._number}",
                    remedy="install the same version of torchveil everywhere",
                    at_fault=str(self.control.peer),
                )
            if monotonic() > self._ends:
                raise LimitExceeded("the session is older than this role allows", remedy="save, and open a new one")
            buffers = cut(frame.received, [n for item in stream.items for n in getattr(item, "buffers", ())])
            at = 0
            with Kernels(self._threads):
                for item in stream.items:
                    self._begun = False
                    count = len(getattr(item, "buffers", ()))
                    self._handlers[type(item)](item, buffers[at : at + count])
                    at += count
                    self.tick()
            held = len(self._tables.wires) + len(self._tables.bits)
            self.metrics.wires(held - self._held)
            self._held = held
            if held > self.limits.wires:
                self._begun = True  # by the last one
                raise LimitExceeded(
                    f"more than {self.limits.wires} values at a time", remedy="let go of tensors, or raise limits.wires"
                )

    @property
    def number(self) -> int:
        """Of the first instruction that was not begun."""
        return self._number

    @property
    def place(self) -> Place:
        """Where the session stands: at rest, and while an instruction is read, it is the next one."""
        return self._last if self._begun else Place(self._number)

    def _position(self) -> int:
        return self._last.number if self._begun else self._number

    def _was_closed(self, silence_s: float) -> bool:
        """Whether the controller closed the session, which a role that is ahead hears of, and ends, before this one.

        Asked once a link is lost, before anybody is told of that. Instructions that were sent before the last word are
        passed over: nobody waits for them.
        """
        hub, control, heed = self.hub, self.control, self.hub.urgent
        # others may end now, or take that for an error; what the controller has to say counts
        hub.urgent = lambda link, frame: link is not control or (heed is not None and heed(link, frame))
        for link in hub.links:
            link.may_close = link is not control
        ends = monotonic() + max(silence_s, min(self.limits.deadline_s * _FAREWELL_SHARE, _FAREWELL_MOST_S))
        try:
            while True:
                left = max(ends - monotonic(), 0.0)
                frame = hub.receive(control, left, "the end of the session", silence_s=silence_s)
                if frame.kind != m.Kind.STREAM:
                    return frame.kind == m.Kind.CLOSE
        except TorchveilError:
            return False

    def _table(self) -> dict[type, Callable[[Any, Sequence[memoryview]], None]]:
        """What each kind of item does."""
        return {
            m.Do: self._do,
            m.Share: self._share,
            m.Alias: self._alias,
            m.Define: self._define,
            m.RunPlan: self._run_plan,
            m.Save: self._save,
            m.Load: self._load,
            m.Dataset: self._dataset,
            m.Deliver: self._deliver,
            m.Collect: self._collect,
            m.Wait: self._wait,
        }

    @abstractmethod
    def _do(self, item: m.Do, buffers: Sequence[memoryview]) -> None: ...

    @abstractmethod
    def _share(self, item: m.Share, buffers: Sequence[memoryview]) -> None: ...

    @abstractmethod
    def _play(self, plan: Plan, item: m.RunPlan, first: int) -> None: ...

    def _begin(self, i: ins.Instruction) -> int:
        """Count an instruction; its number."""
        number = self._number
        self._number += 1
        self._at(number, GATES[type(i)].name)
        return number

    def _at(self, number: int, operation: str) -> None:
        """An instruction begins."""
        self._last, self._begun = Place(number, operation), True

    def _decoded(self, structure: bytes, buffers: Sequence[memoryview] = ()) -> ins.Instruction:
        return self.holdings.watched(decode(structure, buffers, self._decoding))

    def _input_of(self, item: m.Share) -> ins.Input:
        i = self._decoded(item.structure)
        if not isinstance(i, ins.Input):
            raise MalformedMessage("a share that belongs to no input")
        return i

    def _note(self, item: m.Message, more: bytes = b"") -> None:
        """Take an item that is no instruction into the digests."""
        self._view.update(m.pack_meta(m.without_names(item)) + more)

    def _alias(self, item: m.Alias, _buffers: Sequence[memoryview]) -> None:
        self._note(item)
        self._tables.alias(item.new, item.old, apart=item.apart)

    @abstractmethod
    def _save(self, item: m.Save, _buffers: Sequence[memoryview]) -> None: ...

    @abstractmethod
    def _load(self, item: m.Load, _buffers: Sequence[memoryview]) -> None: ...

    @abstractmethod
    def _dataset(self, item: m.Dataset, _buffers: Sequence[memoryview]) -> None: ...

    def _collect(self, item: m.Collect, _buffers: Sequence[memoryview]) -> None:
        self._note(item)
        number = self._number
        self._number += 1
        self._at(number, f"{item.how} of all ranks")
        self._combine(item, number)

    def _wait(self, item: m.Wait, _buffers: Sequence[memoryview]) -> None:
        self._note(item)

    @abstractmethod
    def _combine(self, item: m.Collect, number: int) -> None: ...

    @abstractmethod
    def _deliver(self, item: m.Deliver, _buffers: Sequence[memoryview]) -> None: ...

    def _answer(self, number: int, work: Callable[[], None], *, done: bool = True) -> None:
        """Do what the controller waits for, and say that it is done, or why not; the session goes on either way."""
        try:
            work()
        except (ConsentError, StorageError) as error:
            failure = m.failure_of(error, self.role, number, self.place.operation)
            self.hub.post(self.control, m.message_of(m.Kind.REFUSED, failure, number=number))
        else:
            if done:
                self.hub.post(self.control, Frame(int(m.Kind.DONE), number))

    def _define(self, item: m.Define, buffers: Sequence[memoryview]) -> None:
        if item.key in self._plans:
            raise MalformedMessage("a plan was defined twice")
        if len(self._plans) >= PLANS:
            raise LimitExceeded(f"more than {PLANS} plans in a session", remedy="compile once, call often")
        plan = decode_plan(item.structure, buffers, self._nature, self._decoding)
        if max(len(plan.inputs), len(plan.outputs)) > PLAN_WIRES:
            raise LimitExceeded(f"a plan of more than {PLAN_WIRES} inputs or outputs", remedy="compile smaller parts")
        self.holdings.keep(sum(map(len, buffers)))
        plan = replace(plan, instructions=tuple(map(self.holdings.watched, plan.instructions)))
        gates = Counter(GATES[type(i)].name for i in plan.instructions)
        self._plans[item.key] = plan, plan_digest(plan), dict(gates)

    def _run_plan(self, item: m.RunPlan, _buffers: Sequence[memoryview]) -> None:
        known = self._plans.get(item.key)
        if known is None:
            raise MalformedMessage("a plan was never defined")
        plan, digest, gates = known
        if (len(item.inputs), len(item.outputs)) != (len(plan.inputs), len(plan.outputs)):
            raise MalformedMessage("a plan was given another number of wires than it takes")
        first = self._number
        self._number += plan.n_labels
        self._at(first, "a plan")
        self._note(item, digest)
        self._play(plan, item, first)
        self.metrics.plan(gates)

    def tick(self) -> None:
        """Tell the controller now and then how far this role is; look after the links meanwhile."""
        now = monotonic()
        if now - self._told > PROGRESS_S:
            self._told = now
            self.hub.post(self.control, Frame(int(m.Kind.PROGRESS), number=self.place.number))
            self.hub.poll("looking after the links")
