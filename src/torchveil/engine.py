"""The engine of a session: keys, roles, the stream of instructions, openings, reveals and the account.

``submit`` runs an instruction on every role, accounts for it under the current torch operation and module path, and
emits queued frees first, so that the stream is the same wherever Python's collector happens to run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from torch import Tensor

from torchveil.costs import Account, CostReport, Observer, PlanCosts
from torchveil.drivers.base import Driver
from torchveil.drivers.clock import RoleClock
from torchveil.drivers.lockstep import CLUSTER, Lockstep, make_roles
from torchveil.drivers.plain import PlainDriver
from torchveil.drivers.ranks import Collective
from torchveil.errors import (
    ConfigurationError,
    InvalidArgument,
    PlainDiverged,
    PlanError,
    RangeExceeded,
    RevealRequired,
    SessionMismatch,
    SessionStateError,
    ShapeMismatch,
    TorchveilError,
)
from torchveil.fixedpoint import FixedPoint, decode, encode
from torchveil.gates import GATES
from torchveil.handle import Bit, Deferred, Handle, Public, Secret, Shape, contiguous_strides
from torchveil.kernels.linear_maps import LinearMap
from torchveil.participants import check_format, check_participants
from torchveil.program import instructions as ins
from torchveil.program.plan import Plan
from torchveil.recording import ACTIVE
from torchveil.roles.plain import Plain
from torchveil.storage import Checkpoint, Place
from torchveil.where import backward_module_path, user_line

#: The ring is Z_2^64.
_WIDTH = 64

_BACKENDS = {
    "lockstep": "all roles share this process, so NOTHING is protected from whoever runs it",
    "plain": "clear integers, no shares at all: NOTHING is protected",
}


@dataclass(frozen=True, slots=True)
class RevealRecord:
    """One reveal: who received a value of which shape, by which line of the program. Never the value."""

    receiver: str
    shape: Shape
    line: str


class Surface(Protocol):
    """What a front end of other words (the ``syft`` package) decides for its sessions; without one the core decides."""

    #: What ``if secret:`` says.
    boolean_text: str

    def show(self, x: Any) -> str:
        """How an encrypted tensor prints; never a value."""

    def adopt(self, x: Tensor, like: Any) -> Any:
        """A plain tensor that met the encrypted tensor ``like``, as an encrypted tensor of the same session."""


class Engine:
    """Parties, a provider and their keys, in one process (lockstep).

    parties: names of the computing parties, at least two; provider: the name of the crypto provider, none of them;
    fixed_point: the number format of what is shared without another one; debug: also run the program on clear integers
    and stop at the first operation whose shares differ or whose values leave their range (lockstep only);
    backend: "lockstep", or "plain" for the same program on clear integers, without any protection.

    Raises ``ConfigurationError`` for fewer than two parties, repeated names, or a provider that is also a party.
    Lockstep protects nothing: all roles share this process. See SECURITY.md.
    """

    def __init__(
        self,
        parties: Sequence[str] = ("alice", "bob"),
        provider: str = "james",
        *,
        fixed_point: FixedPoint | None = None,
        debug: bool = False,
        backend: str = "lockstep",
    ) -> None:
        self.parties, self.provider = check_participants(parties, provider)
        check_format(fixed_point)
        self.fixed_point = fixed_point or FixedPoint()
        self._debug = debug
        self.backend = backend
        self._driver = self._make_driver(backend, debug)
        self._next_id = 0
        self._dropped: list[int] = []
        self._account = Account()
        self._reveals: list[RevealRecord] = []
        self._process = os.getpid()
        self._closed = False
        #: Where the parties are, as checkpoints say it: one of another home is refused.
        self.home = CLUSTER
        #: How often what this session computes on was taken up from a checkpoint.
        self.epoch = 0
        self._running = threading.RLock()
        self._busy = False
        self.operation = ""
        self.module_path: list[str] = []
        self.surface: Surface | None = None
        #: Told of every instruction while a profile runs; whoever runs instructions without ``submit`` tells it too.
        self.observer: Observer | None = None
        self._clock: RoleClock | None = None

    def _make_driver(self, backend: str, debug: bool) -> Driver:
        if backend == "plain":
            return PlainDriver(len(self.parties), strict=debug)
        if backend != "lockstep":
            raise ConfigurationError(f"no backend is called {backend!r}", remedy="choose 'lockstep' or 'plain'")
        roles, provider_role, inputs, session_id = make_roles(self.parties, self.provider)
        plain = Plain(provider_role, strict=True) if debug else None
        return Lockstep(roles, provider_role, inputs, plain=plain, session_id=session_id)

    # --- running instructions ----------------------------------------------------------------------------------------

    def new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def submit(self, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        """Run one instruction on every role; a revealed value comes back, otherwise None."""
        self._enter()
        try:
            self._busy = True
            return self._submit(i, clear)
        finally:
            self._leave()

    def _enter(self) -> None:
        """Take the session for this thread, or say why not. Who has it says so (``_busy``), and leaves it."""
        if self._closed or self.forked:
            self._refuse_state()
        if not self._running.acquire(blocking=False):
            # the order of instructions would depend on the scheduler, and with it every mask
            raise SessionStateError(
                "two threads use the session at the same time", remedy="use a session from one thread at a time"
            )
        if self._busy:
            self._running.release()
            raise SessionStateError(
                "a handler of a signal, a finalizer or a callback uses the session in the middle of an operation",
                remedy="only note there what is to be done, and do it between two operations",
            )

    def _leave(self) -> None:
        self._busy = False
        self._running.release()

    def _submit_as(self, operation: str, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        """Submit what no torch operation asked for: it is accounted under a name of its own."""
        before, self.operation = self.operation, operation
        try:
            return self.submit(i, clear)
        finally:
            self.operation = before

    def _submit(self, i: ins.Instruction, clear: Tensor | None) -> Tensor | None:
        observer = self.observer
        start = 0.0 if observer is None else perf_counter()
        self._flush()
        recorder = ACTIVE.recorder
        if recorder is not None:
            recorder.check(i)
        gate = GATES[type(i)]
        try:
            revealed = self._driver.run(i, clear)
        except (PlainDiverged, RangeExceeded) as error:
            error.args = (f"{error}\n  torch operation: {self.operation}",)
            raise
        except TorchveilError:
            raise
        except (RuntimeError, IndexError) as error:
            raise ShapeMismatch(
                f"the operands do not fit together: {error}", op=self.operation or gate.name, remedy="check the shapes"
            ) from error
        module = self.module_path[-1] if self.module_path else backward_module_path()
        self._account.add(self.operation, module, gate.name, self._driver.measured)
        if recorder is not None:
            recorder.add(self, i, self.operation, module)
        if observer is not None:
            observer.record(self.operation, module, gate.name, self._driver.measured, perf_counter() - start)
        return revealed

    def _flush(self) -> None:
        """Free what nobody holds any more. A plan's own names, which are negative, are not the roles' to free."""
        if self._dropped:
            dropped, self._dropped = self._dropped, []
            wires = tuple(name for name in dropped if name > 0)
            if wires:
                self._driver.run(ins.Free(wires))

    def run_plan(self, plan: Plan, inputs: Sequence[Secret | Bit], costs: PlanCosts) -> list[int]:
        """Run a recorded plan; the identifiers of its results. ``costs`` says to which operations its cost belongs."""
        self.own(*inputs)
        self._enter()
        try:
            self._busy = True
            self._flush()
            outputs = [self.new_id() for _ in plan.outputs]
            try:
                self._driver.run_plan(plan, [x.id for x in inputs], outputs)
            finally:
                # also after an error: what was opened before it stays open
                for slot, x in zip(plan.inputs, inputs, strict=True):
                    if slot in plan.opens and isinstance(x, Secret) and self.has_opening(x):
                        x.mark_opened()
            self._account.add_plan(costs, self._driver.measured)
        finally:
            self._leave()
        if self.observer is not None and self._clock is not None:
            for i, ((operation, module, gate), cost) in zip(plan.instructions, costs.each, strict=True):
                self.observer.record(operation, module, gate, cost, self._clock.select(i))
        return outputs

    def alias(self, x: Secret | Bit, *, apart: bool = False) -> Secret | Bit:
        """A second name for a wire, without memo and ancestors; openings are shared unless ``apart``."""
        self.own(x)
        identifier = self.new_id()
        self._enter()
        try:
            self._busy = True
            self._driver.alias(identifier, x.id, apart=apart)
        finally:
            self._leave()
        if isinstance(x, Bit):
            return Bit(self, identifier, x.shape)
        return x.renamed(identifier)

    def has_opening(self, x: Secret) -> bool:
        """Whether the wire is open at all roles; under another name it may have been opened unknown to its handle."""
        return self._driver.is_open(x.id)

    def observe(self, observer: Observer | None, clock: RoleClock | None = None) -> None:
        """Tell ``observer`` of every instruction from here on, and ``clock`` how long each role works; None ends it.

        Raises ``SessionStateError`` when the session has an observer already, is closed or was forked.
        """
        if observer is not None:
            if self._closed or self.forked:
                self._refuse_state()
            if self.observer is not None:
                raise SessionStateError(
                    "a profile of this session is running", remedy="stop it before you start another one"
                )
        self.observer = observer
        self._clock = clock
        self._driver.watch(clock)

    def refuse_reading(self, how: str, text: str = "") -> None:
        """Raise ``RevealRequired``: the program would read a secret in Python, by ``how``."""
        raise reading_refused(how, text)

    def _refuse_state(self) -> None:
        if self._closed:
            raise SessionStateError("the session is closed", remedy="open a new session")
        raise SessionStateError(
            "the session was forked; two processes would use the same masks for different values",
            remedy="use DataLoader(num_workers=0), and open a session inside a new process if one is needed",
        )

    def layout(self, identifier: int) -> tuple[Shape, Shape]:
        """Shape and strides of a wire, read from a share: uniform noise of the right form."""
        share = self._driver.share_of(identifier)
        return tuple(share.shape), tuple(share.stride())

    def bit_shape(self, identifier: int) -> Shape:
        """The shape of a bit wire."""
        return self._driver.shape_of_bit(identifier)

    def wire(
        self,
        identifier: int,
        scale: int,
        number_format: FixedPoint,
        *,
        shape: Shape | None = None,
        wide: bool = False,
        nonnegative: bool = False,
        opened: bool = False,
        parent: Secret | None = None,
        is_input: bool = False,
        zeros: int = 0,
        half: int = 0,
        stretched: bool = False,
        picked: bool = False,
    ) -> Secret:
        """The handle of a wire that was just defined."""
        if shape is None:
            shape, stride = self.layout(identifier)
        else:
            stride = contiguous_strides(shape)
        return Secret(
            self,
            identifier,
            shape,
            stride,
            scale,
            number_format,
            wide=wide,
            nonnegative=nonnegative,
            opened=opened,
            parent=parent,
            is_input=is_input,
            zeros=zeros,
            half=half,
            stretched=stretched,
            picked=picked,
        )

    # --- in and out --------------------------------------------------------------------------------------------------

    def input(self, values: Tensor, number_format: FixedPoint | None = None) -> Secret:
        """Share a clear tensor as its owner. 0 rounds, 8 bytes per element to one party."""
        number_format = number_format or self.fixed_point
        raw = encode(values, number_format.scale, op="share")
        return self.input_raw(raw, number_format.scale, number_format)

    def input_raw(self, raw: Tensor, scale: int, number_format: FixedPoint) -> Secret:
        """Share ring elements that are already encoded at ``scale``."""
        identifier = self.new_id()
        shape = tuple(raw.shape)
        self._submit_as("share", ins.Input(identifier, shape), raw.contiguous())
        return self.wire(identifier, scale, number_format, shape=shape, is_input=True)

    def reveal(self, handle: Handle, receiver: str = "controller") -> Tensor:
        """The clear value as float64 (bool for a bit), sent to ``receiver`` and counted.

        1 round, 8 bytes per element from every party to the receiver, after a fresh zero sharing. Raises
        ``InvalidArgument`` when the receiver is the provider, who knows the masks.
        """
        raw, scale, is_bit = self.reveal_raw(handle, receiver)
        return raw != 0 if is_bit else decode(raw, scale)

    def reveal_raw(self, handle: Handle, receiver: str = "controller") -> tuple[Tensor, int, bool]:
        """(integers, scale, whether they are bits) of a revealed value."""
        if receiver == self.provider:
            raise InvalidArgument(
                "the provider cannot receive a value: it knows the masks of every opening",
                op="reveal",
                remedy="reveal to the controller, an owner or a party",
            )
        handle = handle.force() if isinstance(handle, Deferred) else handle
        if isinstance(handle, Public):
            dense = handle.dense()
            return encode(dense, self.fixed_point.scale), self.fixed_point.scale, False
        self.own(handle)
        is_bit = isinstance(handle, Bit)
        wire = self.bit_to_arithmetic(handle) if isinstance(handle, Bit) else handle
        value = self._submit_as("reveal", ins.Reveal(wire.id, receiver, wire.shape))
        if value is None:
            raise SessionStateError("a reveal gave nothing back", remedy="open a new session")
        self.note_reveal(receiver, wire.shape)
        return value, wire.scale, is_bit

    def bit_to_arithmetic(self, bit: Bit) -> Secret:
        """A bit as a secret 0 or 1 at scale 1; local and remembered."""
        known = bit.memo.get("arithmetic")
        if known is None:
            identifier = self.new_id()
            self.submit(ins.BitToArithmetic(identifier, bit.id))
            known = self.wire(identifier, 1, FixedPoint(2, 0), shape=bit.shape, nonnegative=True)
            bit.memo["arithmetic"] = known
        out: Secret = known
        return out

    def own(self, *handles: Handle) -> None:
        """Raise ``SessionMismatch`` unless every handle belongs to this session."""
        for handle in handles:
            if handle.session is not self:
                raise SessionMismatch(
                    "a secret of another session: its shares lie under other keys",
                    op=self.operation,
                    remedy="share all operands in one session",
                )

    # --- openings ----------------------------------------------------------------------------------------------------

    def open(self, *handles: Secret) -> None:
        """Make sure that all have openings; those missing travel in one round.

        The root of a structural chain is opened instead of its image when it is an input (a data set, a parameter) or
        at most twice as large, so that every other image of it is opened too. What ends in zeros is opened without
        them, what is half open is completed.
        """
        todo: dict[int, Secret] = {}
        for handle in handles:
            if not handle.is_opened():
                root = _root_to_open(handle)
                todo[root.id] = root
        if todo:
            roots = list(todo.values())
            bits = tuple(root.half or _WIDTH - root.zeros for root in roots)
            self.submit(ins.Open(tuple(r.id for r in roots), tuple(r.shape for r in roots), bits=bits))
            for root in roots:
                root.mark_opened()

    def open_root(self, x: Secret) -> None:
        """Open the data set that x is a piece of, if it is one and has no opening yet: once for all its batches."""
        root = _root_to_open(x)
        if root is not x and root.is_input:
            self.open(x)

    def map(self, x: Secret, linear_map: LinearMap) -> Secret:
        """The image of a secret under a linear map of the table; local."""
        identifier = self.new_id()
        self.submit(ins.Map(identifier, x.id, linear_map))
        out = self.wire(
            identifier,
            x.scale,
            x.format,
            wide=x.wide,
            nonnegative=x.nonnegative,
            parent=x,
            zeros=x.zeros,
            stretched=x.stretched,
            picked=linear_map.picks,
        )
        if x.pending and linear_map.aliases:
            # both are truncated at once: a gradient and its transpose
            out.memo["view"] = (x, linear_map)
        return out

    # --- with other ranks --------------------------------------------------------------------------------------------

    @property
    def ranks(self) -> int:
        """How many ranks run this program, each with a session like this one; see ``drivers.ranks``."""
        return self._driver.ranks

    def collect(self, x: Secret, how: str, root: int = 0, operation: str = "collective") -> Secret:
        """The "sum" or "mean" of all ranks' values, that of rank ``root`` ("broadcast"), or all of them ("stack").

        Every rank calls it, with a value of the same shape and format. Each party combines its own shares: 0 rounds
        and 0 bytes between parties, nobody learns anything. The result has no opening. A sum of R values needs a range
        R times as large; a mean is a sum whose scale takes the R in, to be truncated with whatever follows. Raises
        ``Desynchronised`` when ranks disagree, ``PlanError`` in a compiled function.
        """
        self.own(x)
        said = f"{how} {x.scale} {x.format.base} {x.format.digits} {x.wide} {x.stretched} {x.zeros}"
        mean, how = how == "mean", "sum" if how == "mean" else how
        collective = Collective(how, x.shape, root, said)
        identifier = self.new_id()
        self.outside_of(operation, lambda: self._driver.collect(identifier, x.id, collective))
        shape = collective.result(self.ranks)
        return self.wire(
            identifier,
            x.scale * self.ranks if mean else x.scale,
            x.format,
            shape=shape,
            wide=x.wide,
            # another rank's value may be negative
            nonnegative=False,
            stretched=x.stretched and not mean,
            zeros=x.zeros,
            is_input=how == "broadcast" and x.is_input,
        )

    # --- at rest -----------------------------------------------------------------------------------------------------

    def store(self, checkpoint: Checkpoint, values: Mapping[str, Secret], place: Place) -> None:
        """Have the parties write their shares of ``values``, refreshed for it. 0 rounds, 0 bytes."""
        self._refuse_recording("saves a checkpoint")
        self.own(*values.values())
        fresh: dict[str, int] = {}
        try:
            for key, x in values.items():
                fresh[key] = self.new_id()
                self._submit_as("save", ins.Refresh(fresh[key], x.id, x.shape))
            self._enter()
            try:
                self._busy = True
                self._driver.save(checkpoint, fresh, place)
            finally:
                self._leave()
        finally:
            self._dropped.extend(fresh.values())

    def restore(self, checkpoint: Checkpoint, place: Place) -> dict[str, int]:
        """Wires, by key, of what the parties stored; none has an opening."""
        self._refuse_recording("loads a checkpoint")
        wires = {key: self.new_id() for key in checkpoint.entries}
        self._enter()
        try:
            self._busy = True
            self._flush()
            self._driver.load(checkpoint, wires, place)
        finally:
            self._leave()
        self.epoch = max(self.epoch, checkpoint.epoch + 1)
        return wires

    def outside_of(self, operation: str, work: Callable[[], None]) -> None:
        """Do what is no instruction, under a name of its own, as ``submit`` does those: one thread, frees first."""
        self._refuse_recording(f"asks for {operation}")
        self._enter()
        before = self.operation
        try:
            self._busy, self.operation = True, operation
            self._flush()
            work()
            self._account.add(operation, "", operation, self._driver.measured)
        finally:
            self.operation = before
            self._leave()

    def note_reveal(self, receiver: str, shape: Shape) -> None:
        """Count a reveal."""
        self._account.reveals += 1
        self._reveals.append(RevealRecord(receiver, shape, user_line()))

    def _refuse_recording(self, what: str) -> None:
        recorder = ACTIVE.recorder
        if recorder is not None and recorder.listening:
            raise PlanError(f"a compiled function {what}", remedy="do it outside, between two calls of the function")

    # --- telling -----------------------------------------------------------------------------------------------------

    def cost(self) -> CostReport:
        """Rounds and bytes so far: totals, per operation, per module path, per gate."""
        return self._account.report()

    @property
    def reveals(self) -> tuple[RevealRecord, ...]:
        """Every reveal so far: receiver, shape, line."""
        return tuple(self._reveals)

    @property
    def n_wires(self) -> int:
        """How many values the parties hold, after what nobody holds any more was freed; of a session in use, that was
        closed or forked, with that. Parties on other machines hear of it with the next instructions."""
        try:
            self._enter()
        except SessionStateError:
            return self._driver.n_wires()
        try:
            self._busy = True
            self._flush()
            return self._driver.n_wires()
        finally:
            self._leave()

    def describe(self) -> str:
        """Who takes part, what is protected, and what is not."""
        fixed = self.fixed_point
        return "\n".join(
            [
                f"session of {', '.join(self.parties)} with provider {self.provider}; ring 2**64, "
                f"fixed point {fixed.base}**-{fixed.digits}",
                "security: semi-honest; any n-1 parties may collude with the controller and the owners, the provider "
                "with nobody",
                f"backend: {self.backend} - {self._protection()}",
            ]
        )

    def _protection(self) -> str:
        """What the backend protects."""
        return _BACKENDS[self.backend]

    def close(self) -> None:
        """Forget all shares and masks; using the session afterwards raises.

        A forked process only lets go of it: its words would go out in the name, under the keys and with the counters of
        the process that opened the session.
        """
        self._closed = True
        if not self.forked:
            self._driver.clear()

    @property
    def ended(self) -> bool:
        """Whether the session is over."""
        return self._closed

    @property
    def forked(self) -> bool:
        """Whether another process opened the session, of which this one is a fork."""
        return os.getpid() != self._process

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session parties={list(self.parties)} provider={self.provider!r}>"

    def _refuse_copy(self, how: str) -> SessionStateError:
        return SessionStateError(
            f"a session cannot be {how}: two copies would use the same masks for different values",
            remedy="open a new session and share the data again",
        )

    def __copy__(self) -> Engine:
        raise self._refuse_copy("copied")

    def __deepcopy__(self, _memo: Any) -> Engine:
        raise self._refuse_copy("copied")

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise self._refuse_copy("pickled")


def reading_refused(how: str, text: str = "") -> RevealRequired:
    """The error for a program that would read a secret, with the remedy."""
    return RevealRequired(
        text or "the program would read a secret",
        op=how,
        remedy="call .reveal() where the value may be known, or keep the decision on shares (torch.where)",
    )


def _root_to_open(handle: Secret) -> Secret:
    root = handle
    while root.parent is not None:
        root = root.parent
    if root is handle or root.is_input or 2 * handle.numel >= root.numel:
        return root
    return handle
