"""The controller's driver: sends instructions to roles on other machines, and waits for nothing but a reveal.

Theory of operation. Every instruction is first run on shapes alone (``drivers.shapes``): that finds what a user's
program can do wrong before anything is sent, tells shapes and strides, and says exactly what it costs. Then it is
encoded, once for the parties and, where it holds public tensors, once more without them for the provider, and put into
a batch for each role. Batches are sent when they are large enough, before a reveal and before a plan; the roles work
meanwhile.

An error at a role may reach this program many instructions later. For every instruction on its way the driver notes
the user's line and the torch operation, so that the error names them.

An exception may come from anywhere: Ctrl-C, a handler of a signal. Whatever is told to roles is told as a whole
(``whole``) or the session is over, at once and for that reason; roles that were told a half would find fault with each
other later.

What this side holds: shapes, its own inputs while it splits them, and what is revealed to it: sealed shares of each
party, which it adds up.
"""

from __future__ import annotations

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
import torch
from torch import Tensor

from torchveil.drivers.clock import RoleClock
from torchveil.drivers.ranks import Collective
from torchveil.drivers.shapes import ShapesDriver
from torchveil.errors import (
    ConsentError,
    Desynchronised,
    MalformedMessage,
    PeerLost,
    SessionAborted,
    SessionStateError,
    StorageError,
    TorchveilError,
)
from torchveil.gates.base import Cost
from torchveil.kernels import less_pads, sum_pieces
from torchveil.kernels.drawn import DrawnRing
from torchveil.network import messages as m
from torchveil.network.certificates import Credentials
from torchveil.network.config import Limits
from torchveil.network.framing import Frame
from torchveil.network.links import Link, blamed
from torchveil.network.opening import Opened, reason, refuse
from torchveil.network.pieces import padded, ring_of
from torchveil.program import instructions as ins
from torchveil.program.encoding import encode, encode_plan, plan_without_public, without_public
from torchveil.program.plan import Plan
from torchveil.roles.keys import input_streams
from torchveil.roles.party import RandomSource
from torchveil.storage import Checkpoint, Place
from torchveil.where import shown, user_frame

#: A batch is sent when it has so many items,
_ITEMS = 24
#: or its structures and buffers so many bytes,
_BYTES = 1 << 18
#: and the lines of so many instructions are remembered.
_LINES = 1 << 16
#: How much longer than a role this side waits: a role that waits in vain itself knows better for whom.
_MARGIN_S = 1.0


P = ParamSpec("P")
R = TypeVar("R")

#: What a wrong program gets from shapes, before anything is told.
_WRONG_SHAPES = (TorchveilError, RuntimeError, IndexError, TypeError, ValueError)


def whole(
    method: Callable[Concatenate[NetworkDriver, P], R],
) -> Callable[Concatenate[NetworkDriver, P], R]:
    """What is begun in here is done to its end; if anything else than an error of ours ends it, the session is over."""

    def guarded(self: NetworkDriver, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except TorchveilError:
            raise
        except BaseException as error:
            self.interrupted(error)
            raise

    functools.update_wrapper(guarded, method)
    return guarded


class Batch:
    """Items for one role that were not sent yet, with their buffers."""

    __slots__ = ("buffers", "first", "items", "link", "n_bytes")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.items: list[Any] = []
        self.buffers: list[Any] = []
        self.first = 0
        self.n_bytes = 0

    def add(self, item: Any, buffers: Sequence[Any] = (), size: int = 0) -> None:
        self.items.append(item)
        self.buffers += buffers
        self.n_bytes += size + sum(map(len, buffers))

    def take(self, number: int) -> Frame:
        """All of it as a frame; ``number`` is the first instruction of the next batch."""
        frame = m.message_of(m.Kind.STREAM, m.Stream(tuple(self.items)), number=self.first, body=padded(self.buffers))
        self.items, self.buffers, self.n_bytes, self.first = [], [], 0, number
        return frame


class NetworkDriver:
    """Runs instructions on the roles of an open session. ``operation`` tells the torch operation of now, for errors."""

    def __init__(
        self,
        opened: Opened,
        credentials: Credentials,
        limits: Limits,
        *,
        operation: Callable[[], str],
        ranks: int = 1,
        inputs: Sequence[RandomSource] | None = None,
    ) -> None:
        self.hub = opened.hub
        known = weakref.ref(self)  # a session that nobody holds any more goes at once, not when a collector runs
        self.hub.position = lambda: 0 if (driver := known()) is None else driver.number
        self._heartbeat = opened.need(opened.heartbeat)
        self.limits = limits
        self.number = 0
        self.session_id = opened.session_id
        self._credentials = credentials
        self._links = opened.links()
        self._provider = opened.need(opened.provider)
        self.n_parties = len(self._links)
        self._shapes = ShapesDriver(self.n_parties)
        self._operation = operation
        self._ranks = ranks
        self._batches = [Batch(link) for link in self._links.values()]
        self._dealer = Batch(self._provider)
        self._notes: OrderedDict[int, tuple[str, Any]] = OrderedDict()
        self._plans: dict[int, tuple[int, Plan]] = {}
        self._failed: TorchveilError | None = None
        self._inputs = (
            list(inputs)
            if inputs is not None
            else input_streams(opened.keys, opened.halves[: self.n_parties], opened.session_id)
        )

    @property
    def failed(self) -> bool:
        """Whether the session ended, with an error or without."""
        return self._failed is not None

    @property
    def measured(self) -> Cost:
        return self._shapes.measured

    # --- instructions ------------------------------------------------------------------------------------------------

    def run(self, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        """Send one instruction; a revealed value comes back, anything else at once None."""
        self._require()
        self._on_shapes(lambda: self._shapes.run(i))
        return self._tell(i, clear)

    @whole
    def _tell(self, i: ins.Instruction, clear: Tensor | None) -> Tensor | None:
        number = self.number
        self.number = number + 1
        self._note(number)
        if isinstance(i, ins.Input):
            self._input(i, number, clear)
        else:
            self._send_instruction(i)
        if isinstance(i, ins.Reveal):
            return self._reveal(i, number)
        if self._batches[0].n_bytes > _BYTES or len(self._batches[0].items) >= _ITEMS:
            self.send()
        return None

    def _send_instruction(self, i: ins.Instruction) -> None:
        structure, buffers = encode(i)
        lengths = tuple(map(len, buffers))
        item = m.Do(structure, lengths)
        for batch in self._batches:
            batch.add(item, buffers, len(structure))
        seen = without_public(i)
        if seen is not i:
            structure, buffers = encode(seen)
            item = m.Do(structure, tuple(map(len, buffers)))
        self._dealer.add(item, buffers, len(structure))

    def _input(self, i: ins.Input, number: int, clear: Tensor | None) -> None:
        """Split a value: one party is sent what is missing, the others have their pieces from streams."""
        if clear is None or tuple(clear.shape) != i.shape or clear.dtype != torch.int64:
            raise MalformedMessage("an input is not a tensor of int64 of the shape that its instruction says")
        receiver = number % self.n_parties
        pads = [
            DrawnRing(stream, number, 0, i.shape, 64) for rank, stream in enumerate(self._inputs) if rank != receiver
        ]
        correction = less_pads(clear, pads, 64, False).contiguous().view(-1).numpy().data.cast("B")
        structure, _ = encode(i)
        for rank, batch in enumerate(self._batches):
            if rank == receiver:
                batch.add(m.Share(structure, (len(correction),)), [correction], len(structure))
            else:
                batch.add(m.Share(structure), (), len(structure))
        self._dealer.add(m.Share(structure), (), len(structure))

    def _reveal(self, i: ins.Reveal, number: int) -> Tensor:
        """Wait for every party's sealed share of a value for this program, and add them up."""
        self.send()
        shares = []
        answers = self._from_parties(m.Kind.REVEALED, number, "a revealed value")
        for frame, link in zip(answers, self._links.values(), strict=True):
            context = m.seal_context(self.session_id, number, str(link.peer))
            try:
                box = self._credentials.unseal(bytes(frame.received), context)
                shares.append(ring_of(bytearray(box), i.shape))
            except MalformedMessage as error:
                raise self._fail(blamed(error, link)) from None
        return sum_pieces(shares, 64)

    def _from_parties(self, kind: m.Kind, number: int, what: str) -> list[Frame]:
        """What every party answers. If some refuse, one of their errors is raised; the session goes on."""
        answers = [self._awaited(link, (kind, m.Kind.REFUSED), what) for link in self._links.values()]
        for frame, link in zip(answers, self._links.values(), strict=True):
            if frame.number != number:
                raise self._fail(
                    Desynchronised(
                        f"{link.peer} answers for instruction {frame.number}, not {number}", at_fault=str(link.peer)
                    )
                )
        refused = [frame for frame in answers if frame.kind == m.Kind.REFUSED]
        if refused:
            raise self._located(m.parse(refused[0], m.Failure))
        return answers

    @whole
    def _ask(self, item: m.Message, what: str) -> None:
        """Have all roles do what is no instruction, and wait until the parties have done it."""
        self._require()
        self._item(item)
        self.send()
        self._from_parties(m.Kind.DONE, self.number, what)

    # --- at rest, and to owners --------------------------------------------------------------------------------------

    def save(self, checkpoint: Checkpoint, wires: Mapping[str, int], place: Place) -> None:
        self._ask(m.Save(checkpoint, dict(wires)), "a checkpoint to be saved")

    def load(self, checkpoint: Checkpoint, wires: Mapping[str, int], place: Place) -> None:
        self._ask_for(m.Load(checkpoint, dict(wires)), tuple(wires.values()), "a checkpoint to be loaded")
        self._shapes.load(checkpoint, wires, place)

    def take_dataset(self, name: str, out: int, shape: tuple[int, ...], identifier: bytes) -> None:
        """The parties' shares of an owner's data become the wire ``out``."""
        self._ask_for(m.Dataset(name, out, shape, identifier), (out,), "an owner's data")
        self._shapes.run(ins.Input(out, shape))

    def _ask_for(self, item: m.Message, wires: tuple[int, ...], what: str) -> None:
        """Ask for wires; if a party refuses, none of them stays anywhere."""
        try:
            self._ask(item, what)
        except (ConsentError, StorageError):
            self._send_instruction(ins.Free(wires))
            self._note(self.number)
            self.number += 1
            raise

    @property
    def ranks(self) -> int:
        """How many ranks take part, each with a session like this one."""
        return self._ranks

    def collect(self, out: int, x: int | None, collective: Collective) -> None:
        """Every party's ranks make ``out``; sent at once, since the other ranks wait for it."""
        self._require()
        self._on_shapes(lambda: self._shapes.collect_over(self._ranks, out, collective))
        self._tell_collect(out, x, collective)

    @whole
    def _tell_collect(self, out: int, x: int | None, collective: Collective) -> None:
        self._note(self.number)
        self.number += 1
        how: Any = collective.how
        self._item(m.Collect(how, out, x, collective.shape, collective.root, collective.format))
        self.send()

    def finish(self) -> None:
        """Wait until the parties have done all that they were told."""
        self._ask(m.Wait(), "what is under way")

    def deliver(self, i: ins.Reveal, result: bytes) -> None:
        """Have the parties keep their shares of a value for an owner."""
        self._require()
        self._on_shapes(lambda: self._shapes.run(i))
        self._tell_deliver(i, result)

    @whole
    def _tell_deliver(self, i: ins.Reveal, result: bytes) -> None:
        number = self.number
        self.number = number + 1
        self._note(number)
        self._item(m.Deliver(encode(i)[0], result))
        self.send()
        self._from_parties(m.Kind.DONE, number, "a result to be kept")

    def send(self) -> None:
        """Send what waits in batches, and look whether a role has anything to say."""
        with self._heartbeat.turn:
            self._require()  # another thread may have closed it
            self._send()

    def _send(self) -> None:
        try:
            for batch in (*self._batches, self._dealer):
                if batch.items:
                    self.hub.post(batch.link, batch.take(self.number), "instructions")
            self.hub.poll("instructions")
            for batch in (*self._batches, self._dealer):
                self._hear(batch.link)
        except TorchveilError as error:
            raise self._fail(error) from None

    def _hear(self, link: Link) -> None:
        """Take what a role said about its progress: lines of what is done are not needed any more."""
        while link.decoder.ready:
            if link.decoder.ready[0][1].kind != m.Kind.PROGRESS:
                return
            self._progress(self.hub.receive(link, 1.0, "progress"))

    def _progress(self, frame: Frame) -> None:
        while len(self._notes) > _LINES:
            self._notes.popitem(last=False)

    def _awaited(self, link: Link, kinds: Sequence[m.Kind], what: str) -> Frame:
        """The next frame of a role that is no news of its progress; each one moves the deadline."""
        with self._heartbeat.turn:
            self._require()
            try:
                while True:
                    frame = self.hub.receive(link, self.limits.deadline_s + _MARGIN_S, what)
                    if frame.kind == m.Kind.PROGRESS:
                        self._progress(frame)
                    elif frame.kind in kinds:
                        return frame
                    else:
                        raise blamed(MalformedMessage(f"{link.peer} sent a message of kind {frame.kind}"), link)
            except TorchveilError as error:
                raise self._fail(error) from None

    # --- plans -------------------------------------------------------------------------------------------------------

    def run_plan(self, plan: Plan, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Have a plan run; the first time it is sent, later its number alone."""
        self._require()
        self._on_shapes(lambda: self._shapes.run_plan(plan, inputs, outputs))
        self._tell_plan(plan, inputs, outputs)

    @whole
    def _tell_plan(self, plan: Plan, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        self._note(self.number)
        known = self._plans.get(id(plan))
        if known is None:
            known = len(self._plans), plan  # held, so that its id stays its own
            self._plans[id(plan)] = known
            structure, buffers = encode_plan(plan)
            lengths = tuple(map(len, buffers))
            for batch in self._batches:
                batch.add(m.Define(known[0], structure, lengths), buffers, len(structure))
            structure, buffers = encode_plan(plan_without_public(plan))
            self._dealer.add(m.Define(known[0], structure, tuple(map(len, buffers))), buffers, len(structure))
        self._item(m.RunPlan(known[0], tuple(inputs), tuple(outputs)))
        self.number += plan.n_labels
        self.send()

    @whole
    def alias(self, new: int, old: int, *, apart: bool = False) -> None:
        self._shapes.alias(new, old, apart=apart)
        self._item(m.Alias(new, old, apart))

    def _item(self, item: m.Message) -> None:
        for batch in self._batches:
            batch.add(item, (), 32)
        self._dealer.add(m.without_names(item), (), 32)

    # --- errors ------------------------------------------------------------------------------------------------------

    def _note(self, number: int) -> None:
        self._notes[number] = self._operation(), user_frame()

    def _require(self) -> None:
        if self._failed is not None:
            closed = isinstance(self._failed, SessionStateError)
            why = self._failed.message if closed else f"the session ended with an error: {self._failed.message}"
            raise SessionStateError(why, remedy="open a new session")

    def _on_shapes(self, work: Callable[[], object]) -> None:
        """See what an instruction does to shapes. What a wrong program gets leaves the session as it was."""
        try:
            work()
        except _WRONG_SHAPES:
            raise
        except BaseException as error:
            self.interrupted(error)
            raise

    def interrupted(self, error: BaseException) -> None:
        """End the session because of an exception that is not ours."""
        if self._failed is None:
            with self._heartbeat.turn:
                self._end(
                    SessionAborted(
                        f"the program was interrupted in the middle of an operation ({type(error).__name__})",
                        op=self._operation(),
                        remedy="open a new session; go on from the last session.save",
                        at_fault=str(self._credentials.role),
                    )
                )

    def _end(self, error: TorchveilError) -> None:
        """Tell the roles why it is over."""
        self._failed = error
        self._heartbeat.stop()
        try:
            refuse(self.hub, error, str(self._credentials.role), self.number)
        finally:
            self.hub.close()

    def _fail(self, error: TorchveilError) -> TorchveilError:
        """The session is over; the error with the operation and the line that it is about."""
        with self._heartbeat.turn:
            return self._failure(error)

    def _failure(self, error: TorchveilError) -> TorchveilError:
        self._heartbeat.stop()
        if isinstance(error, PeerLost):
            error = reason(self.hub, error)
        failure = m.told_by(error)
        if failure is not None:
            out = self._located(failure)
        else:
            operation = error.op or self._operation()
            out = type(error)(error.message, op=operation, remedy=error.remedy, at_fault=error.at_fault)
        self._end(out)
        return out

    def _located(self, failure: m.Failure) -> TorchveilError:
        """What a role tells of an instruction, with the torch operation and the line that asked for it."""
        operation, found = "", None
        if failure.number is not None and failure.number < self.number:
            operation, found = self._notes.get(failure.number, (operation, found))
        elif failure.number is not None:  # a role that has done all that it was sent names what was not sent yet
            operation, found = self._operation(), user_frame()
        told = msgspec.structs.replace(failure, operation=operation or failure.operation)
        return m.told(told, "" if found is None else shown(*found))

    # --- the rest of a driver ----------------------------------------------------------------------------------------

    def watch(self, clock: RoleClock | None) -> None:
        """Roles on other machines are not timed here."""

    def is_open(self, wire: int) -> bool:
        return self._shapes.is_open(wire)

    def share_of(self, wire: int) -> Tensor:
        return self._shapes.share_of(wire)

    def shape_of_bit(self, bit: int) -> tuple[int, ...]:
        return self._shapes.shape_of_bit(bit)

    def n_wires(self) -> int:
        return self._shapes.n_wires()

    def clear(self) -> None:
        """End the session: the roles forget everything. Waits until they have, but raises nothing if one does not."""
        if self._failed is None:
            self._failed = SessionStateError("the session is closed", remedy="open a new session")
            with self._heartbeat.turn:
                self._part()
        self._shapes.clear()

    def _part(self) -> None:
        try:
            with suppress(TorchveilError):
                self._send()
                links = [batch.link for batch in (*self._batches, self._dealer)]
                for link in links:
                    link.may_close = True
                    self._heartbeat.links.remove(link)  # nothing comes after the last word
                    self.hub.post(link, Frame(int(m.Kind.CLOSE)))
                for link in links:
                    self._farewell(link)
        finally:
            self._heartbeat.stop()
            self.hub.close()

    def _farewell(self, link: Link) -> None:
        """Until a role ends the connection, which it does when it has forgotten the session."""
        with suppress(PeerLost):
            while self.hub.receive(link, self.limits.handshake_s, "the end of the session").kind != m.Kind.ABORT:
                continue


__all__ = ["NetworkDriver"]
