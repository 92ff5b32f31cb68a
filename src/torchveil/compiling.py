"""``torchveil.compile``: record a function once, then run it as a plan without Python in between.

Theory of operation. The first call runs the function as always and records its instruction stream together with

    inputs    the secret arguments, and every secret that it reads from outside (parameters, optimizer state)
    outputs   what it returns, the secrets that it writes, the gradients that it leaves in ``.grad``
    guards    everything public that the stream depended on: kinds of the inputs (shape, scale, opened or not), plain
              arguments by value, attributes of the modules and hyperparameters and state of the optimizers that ran

A later call whose guards hold runs the plan (``program.plan``) on the inputs of that moment; any other call records
again. So a changed shape, ``model.eval()`` or another learning rate cost one recording each; the ``MAX_PLANS`` plans
used last are kept. What cannot be repeated raises ``PlanError`` with the line: revealing or sharing inside the
function, random numbers of torch (dropout), plain tensors that it changes and reads (the step count of Adam).

Like any tracer it sees operations on tensors and nothing else: other effects of the function (printing, appending to a
list) happen only when it is recorded.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from torchveil.costs import PlanCosts
from torchveil.engine import Engine
from torchveil.errors import PlanError
from torchveil.gates import GATES, Nature
from torchveil.gates.base import FREE, Cost
from torchveil.guards import Witness
from torchveil.handle import NO_WIRE, Bit, Deferred, Handle, Public, Secret
from torchveil.program.encoding import plan_digest
from torchveil.program.plan import Plan, make_plan
from torchveil.public import PublicTensor
from torchveil.recording import ACTIVE, Recorder, kind_of, recording
from torchveil.tensor import EncryptedTensor, wrap

P = ParamSpec("P")
R = TypeVar("R")

#: Plans that one compiled function keeps; the one unused for longest makes room.
MAX_PLANS = 8

#: After so many recordings a warning says that the function is not really compiled.
_MANY = 16


# --- arguments -------------------------------------------------------------------------------------------------------


def _is_value(x: Any) -> bool:
    """Whether an argument is a secret value, as opposed to a parameter, which is meant itself."""
    return isinstance(x, EncryptedTensor) and not (x.requires_grad and x.is_leaf)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a call, flattened: the secret values among them, and what the others must be again."""

    leaves: tuple[Any, ...]
    spec: TreeSpec
    key: tuple[Any, ...]
    plain: tuple[Tensor, ...]

    @staticmethod
    def of(args: Any, kwargs: Any) -> Arguments:
        leaves, spec = tree_flatten((args, kwargs))
        key: list[Any] = [torch.is_grad_enabled()]
        plain: list[Tensor] = []
        first: dict[int, int] = {}
        for place, x in enumerate(leaves):
            if _is_value(x):
                same = first.setdefault(id(x._cell), place)
                key.append(("secret", kind_of(_ready(x)), x.dtype, x.requires_grad, same))
            elif isinstance(x, Tensor) and not isinstance(x, EncryptedTensor):
                clear = x.plain if isinstance(x, PublicTensor) else x
                key.append((type(x), clear.dtype, tuple(clear.shape)))
                plain.append(clear)
            else:
                key.append(_constant_key(x))
        return Arguments(tuple(leaves), spec, tuple(key), tuple(plain))

    def equals(self, key: tuple[Any, ...], plain: Sequence[Tensor]) -> bool:
        """Whether a plan that was recorded for ``key`` and ``plain`` fits."""
        return self.key == key and all(torch.equal(a, b) for a, b in zip(self.plain, plain, strict=True))


def _constant_key(x: Any) -> Any:
    if x is None or isinstance(x, (bool, int, float, complex, str, bytes)):
        return type(x), x
    return type(x), id(x)


def _ready(x: EncryptedTensor) -> Handle:
    """The handle of an argument, evaluated; a batch of a data set is opened as the data set, once for all batches."""
    handle = x.handle
    if isinstance(handle, Deferred):
        handle = handle.force()
        x._cell.replace(handle) if not x._path else None
    if isinstance(handle, Secret) and not handle.is_opened():
        handle.session.open_root(handle)
    return handle


# --- one plan --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Slot:
    """Where a value goes. ``target`` is, by ``kind``: "result" a place in the result, "argument" the place of an
    argument, "cell" a storage, "grad" the leaf whose gradient it is."""

    kind: str
    target: Any
    like: Handle
    dtype: torch.dtype | None = None


@dataclass(slots=True)
class _Plan:
    """A plan with its guards, its bindings and its account."""

    session: Engine
    plan: Plan
    arguments: tuple[tuple[Any, ...], tuple[Tensor, ...], tuple[Any, ...]]
    places: tuple[int, ...]
    cells: tuple[tuple[Any, Any, bool], ...]
    witness: Witness
    slots: tuple[_Slot, ...]
    given: list[Any]
    spec: TreeSpec
    costs: PlanCosts

    def misfit(self, call: Arguments) -> str:
        """Why the plan does not fit the call; empty if it does."""
        if not call.equals(self.arguments[0], self.arguments[1]):
            return "the arguments changed"
        if any(call.leaves[place].handle.session is not self.session for place in self.places):
            return "the arguments are of another session"
        for cell, kind, used in self.cells:
            if used and cell.handle.session is not self.session:
                return "a secret that the function uses is of another session"
            if isinstance(cell.handle, Deferred):
                cell.replace(cell.handle.force())
            if kind_of(cell.handle) != kind:
                return "a secret that the function uses changed its shape, scale or opening"
        return self.witness.misfit()

    def run(self, call: Arguments) -> Any:
        """Run the plan and hand out its results."""
        inputs = [call.leaves[place].handle for place in self.places]
        inputs += [cell.handle for cell, _, used in self.cells if used]
        identifiers = self.session.run_plan(self.plan, inputs, self.costs)
        self.witness.repeat_effects()
        leaves = [call.leaves[x.place] if isinstance(x, _Again) else x for x in self.given]
        fresh = iter(identifiers)
        for slot in self.slots:
            like = slot.like
            if isinstance(like, Secret):
                like = like.renamed(next(fresh))
            elif isinstance(like, Bit):
                like = Bit(self.session, next(fresh), like.shape)
            _PUT[slot.kind](slot, like, call, leaves)
        return tree_unflatten(leaves, self.spec)


def _put_result(slot: _Slot, handle: Handle, _call: Arguments, leaves: list[Any]) -> None:
    leaves[slot.target] = wrap(handle, slot.dtype)


def _put_argument(slot: _Slot, handle: Handle, call: Arguments, _leaves: list[Any]) -> None:
    call.leaves[slot.target].assign(handle)


def _put_cell(slot: _Slot, handle: Handle, _call: Arguments, _leaves: list[Any]) -> None:
    slot.target.replace(handle)


def _put_grad(slot: _Slot, handle: Handle, _call: Arguments, _leaves: list[Any]) -> None:
    slot.target.grad = wrap(handle, slot.dtype)


_PUT: dict[str, Callable[[_Slot, Handle, Arguments, list[Any]], None]] = {
    "result": _put_result,
    "argument": _put_argument,
    "cell": _put_cell,
    "grad": _put_grad,
}


@dataclass(frozen=True, slots=True)
class _Again:
    """A result that is one of the arguments."""

    place: int


# --- recording -------------------------------------------------------------------------------------------------------

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None))


def _record(function: Callable[..., Any], call: Arguments) -> tuple[Any, _Plan | None]:
    """Run the function once: (its result, the plan). No plan if it leaves nothing secret behind."""
    outside = {place: x.handle for place, x in enumerate(call.leaves) if _is_value(x)}
    with recording() as recorder:
        witness = Witness(recorder, call.plain, function)
        own = _own_arguments(recorder, call, outside)
        args, kwargs = tree_unflatten([own.get(place, x) for place, x in enumerate(call.leaves)], call.spec)
        before = {place: x.handle for place, x in own.items()}
        with witness:
            result = function(*args, **kwargs)
        leaves, spec = tree_flatten(result)
        slots: list[_Slot] = []
        given = [_given_back(x, place, own, slots) for place, x in enumerate(leaves)]
        _refuse_shared_writes(recorder, call, own, before)
        _written_arguments(call, own, before, slots)
        _written_cells(recorder, slots)
        _left_gradients(recorder, slots)
        with recorder.paused():
            for slot in slots:
                if slot.kind == "argument":
                    call.leaves[slot.target].assign(slot.like)
        now = [call.leaves[x.place] if isinstance(x, _Again) else x for x in given]
        for slot in slots:
            if slot.kind == "result":
                now[slot.target] = leaves[slot.target].detach()
        _share_openings(outside, before, recorder)
        out = tree_unflatten(now, spec)
        if recorder.session is None or not slots:
            return out, None
        witness.settle()
        return out, _planned(recorder, witness, call, before, slots, given, spec)


def _own_arguments(recorder: Recorder, call: Arguments, outside: dict[int, Handle]) -> dict[int, EncryptedTensor]:
    """For every secret value among the arguments a tensor of the function's own, under a second name."""
    own: dict[int, EncryptedTensor] = {}
    first: dict[Any, EncryptedTensor] = {}
    recorder.arguments = {id(call.leaves[place]._cell) for place in outside}
    for place, handle in outside.items():
        x = call.leaves[place]
        key = ("view", place) if x._path else id(x._cell)
        if key not in first:
            first[key] = wrap(recorder.input(handle), x.dtype)
            first[key].requires_grad_(x.requires_grad)
            recorder.belong(handle.session)
        own[place] = first[key]
    return own


def _given_back(x: Any, place: int, own: dict[int, EncryptedTensor], slots: list[_Slot]) -> Any:
    """One result: an argument given back, a secret that needs a slot, or a constant."""
    for argument, mine in own.items():
        if x is mine:
            return _Again(argument)
    if isinstance(x, EncryptedTensor):
        slots.append(_Slot("result", place, _forced(x), x.dtype))
        return None
    if isinstance(x, _CONSTANTS):
        return x
    raise PlanError(
        f"a compiled function returns {type(x).__name__}",
        remedy="return encrypted tensors, numbers, words, None, or tuples, lists and dicts of them",
    )


def _refuse_shared_writes(
    recorder: Recorder, call: Arguments, own: dict[int, EncryptedTensor], before: dict[int, Handle]
) -> None:
    """A write must be seen under every name of the storage; the function's names for one storage are separate here."""
    names: dict[int, set[int]] = {}
    written: set[int] = set()
    for place, x in own.items():
        cell = id(call.leaves[place]._cell)
        names.setdefault(cell, set()).add(id(x))
        if x.handle is not before[place]:
            written.add(cell)
    for captured in recorder.captured.values():
        if id(captured.cell) in recorder.arguments:
            names[id(captured.cell)].add(id(captured))
            if captured.cell.handle is not captured.handle:
                written.add(id(captured.cell))
    if any(len(names[cell]) > 1 for cell in written):
        raise PlanError(
            "a compiled function writes into a tensor that it knows under two names (views, or an argument that it "
            "also closes over)",
            remedy="pass the whole tensor once and take its parts inside, or pass clones",
        )


def _written_arguments(
    call: Arguments, own: dict[int, EncryptedTensor], before: dict[int, Handle], slots: list[_Slot]
) -> None:
    done: set[int] = set()
    for place, x in own.items():
        if x.handle is not before[place] and id(x) not in done:
            done.add(id(x))
            slots.append(_Slot("argument", place, _completed(_forced(x))))


def _written_cells(recorder: Recorder, slots: list[_Slot]) -> None:
    for captured in recorder.captured.values():
        cell = captured.cell
        if cell.handle is not captured.handle:
            if isinstance(cell.handle, Deferred):
                cell.replace(cell.handle.force())
            slots.append(_Slot("cell", cell, _completed(cell.handle)))


def _completed(handle: Handle) -> Handle:
    """State that a next run will read: an opening that lacks a few bits is completed here, where it is known how."""
    if isinstance(handle, Secret) and handle.lacks_bits:
        handle.session.open(handle)
    return handle


def _left_gradients(recorder: Recorder, slots: list[_Slot]) -> None:
    for leaf, _ in recorder.leaves():
        grad = leaf.grad
        if isinstance(grad, EncryptedTensor) and id(grad._cell) in recorder.born:
            slots.append(_Slot("grad", leaf, _forced(grad), grad.dtype))


def _forced(x: EncryptedTensor) -> Handle:
    """The handle of a tensor, evaluated now as a part of the function."""
    handle = x.handle
    if isinstance(handle, Deferred):
        handle = handle.force()
        if not x._path:
            x._cell.replace(handle)
    return handle


def _share_openings(outside: dict[int, Handle], before: dict[int, Handle], recorder: Recorder) -> None:
    """What the function opened under its own name is open under the old one too, unless the two were apart."""
    pairs = [(outside[place], handle) for place, handle in before.items()]
    pairs += [(captured.before, captured.handle) for captured in recorder.captured.values()]
    for old, new in pairs:
        if isinstance(old, Secret) and isinstance(new, Secret) and new.is_opened() and old.session.has_opening(old):
            old.opened = True
            old.parent = None


def _planned(
    recorder: Recorder,
    witness: Witness,
    call: Arguments,
    before: dict[int, Handle],
    slots: list[_Slot],
    given: list[Any],
    spec: TreeSpec,
) -> _Plan:
    session = recorder.session
    if session is None:
        raise PlanError("a compiled function uses no session", remedy="pass it encrypted tensors")
    nature = Nature(len(session.parties))
    # an argument that is given twice is one input
    first: dict[int, int] = {}
    for place, handle in before.items():
        if isinstance(handle, (Secret, Bit)):
            first.setdefault(handle.id, place)
    places = tuple(first.values())
    captured = list(recorder.captured.values())
    inputs = [_wire(before[place]) for place in places]
    inputs += [_wire(c.handle) for c in captured if isinstance(c.handle, (Secret, Bit))]
    plan = make_plan(
        [entry.instruction for entry in recorder.stream],
        inputs,
        [_wire(slot.like) for slot in slots if not isinstance(slot.like, Public)],
        nature,
        lambda: -session.new_id(),
        [slot.like.id for slot in slots if isinstance(slot.like, Secret) and slot.like.is_opened()],
    )
    for slot in slots:
        # a handle of the same kind for no wire: the plan must not keep wires alive. A constant is what it is
        if isinstance(slot.like, Secret):
            slot.like = slot.like.renamed(NO_WIRE)
        elif isinstance(slot.like, Bit):
            slot.like = Bit(session, NO_WIRE, slot.like.shape)
    kept = tuple(x for x in call.leaves if not _is_value(x) and not isinstance(x, Tensor))
    return _Plan(
        session,
        plan,
        (call.key, tuple(x.clone() for x in call.plain), kept),
        places,
        tuple((c.cell, c.kind, isinstance(c.handle, (Secret, Bit))) for c in captured),
        witness,
        tuple(slots),
        given,
        spec,
        _costs(plan, recorder, nature),
    )


def _wire(handle: Handle) -> int:
    if not isinstance(handle, (Secret, Bit)):
        raise TypeError("a handle without a wire")
    return handle.id


def _costs(plan: Plan, recorder: Recorder, nature: Nature) -> PlanCosts:
    """The cost of one run per operation, module and gate; a shared round counts for its first instruction."""
    leader = plan.leaders(nature)
    each = []
    for position, (i, source) in enumerate(zip(plan.instructions, plan.sources, strict=True)):
        entry = recorder.stream[source]
        cost = nature.cost(i)
        key = (entry.operation, entry.module, GATES[type(i)].name)
        each.append((key, Cost(leader.get(position, 0), cost.sent, cost.dealt)))
    return PlanCosts.of(each)


# --- the function ----------------------------------------------------------------------------------------------------


class CompiledFunction(Generic[P, R]):
    """A function that runs as recorded plans. ``recordings`` counts how often it was recorded."""

    def __init__(self, function: Callable[P, R]) -> None:
        self._function = function
        self._plans: list[_Plan] = []
        self.recordings = 0
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if ACTIVE.recorder is not None:
            # inside another compiled function: a part of that one
            return self._function(*args, **kwargs)
        call = Arguments.of(args, kwargs)
        reason = ""
        for place, plan in enumerate(self._plans):
            reason = plan.misfit(call)
            if not reason:
                if place:
                    self._plans.insert(0, self._plans.pop(place))
                out: R = plan.run(call)
                return out
        self._plans = [plan for plan in self._plans if not plan.session.ended]
        result, plan_made = _record(self._function, call)
        self.recordings += 1
        if plan_made is not None:
            self._plans.insert(0, plan_made)
            del self._plans[MAX_PLANS:]
        if self.recordings == _MANY:
            warnings.warn(
                f"{self.__name__} was recorded {_MANY} times; the last time because {reason}",  # type: ignore[attr-defined]
                stacklevel=2,
            )
        recorded: R = result
        return recorded

    @property
    def rounds(self) -> int:
        """Rounds of the plan used last; 0 before the first call."""
        return self._plans[0].plan.rounds if self._plans else 0

    @property
    def cost(self) -> Cost:
        """Rounds and bytes of one run of the plan used last."""
        return self._plans[0].costs.total if self._plans else FREE

    def digests(self) -> tuple[str, ...]:
        """What an owner's grant names a plan by (``torchveil grant --plan``), of the plan used last first; 64
        hexadecimal digits each.

        Parties work out the same from what they run, so nobody has to believe it. It covers every operation and every
        public number and tensor in it, and not what the plan is given. The same function gives the same on any session
        of as many parties, if its arguments have the same shapes and number formats: a local one with made-up data
        will do. Outputs are numbered from 0 as the function returns them, in the order of ``torch.utils._pytree``;
        what it writes, and gradients that it leaves, follow.
        """
        return tuple(plan_digest(made.plan, public=True).hex() for made in self._plans)

    def __repr__(self) -> str:
        return f"<compiled {getattr(self._function, '__name__', 'function')}, {len(self._plans)} plans>"


def compile(function: Callable[P, R]) -> CompiledFunction[P, R]:
    """A function that is recorded when it is first called and replayed without Python after that.

    function: works on encrypted tensors (arguments, or modules and optimizers that it closes over) and plain arguments;
    may run modules, ``loss.backward()`` and ``optimizer.step()``. Returns encrypted tensors, numbers, words or None, or
    tuples, lists and dicts of these; results have no graph, so ``backward`` belongs inside.

    Rounds: those of the longest chain of exchanges; bytes: those of the recorded operations that results depend on.
    Leaks nothing beyond the uncompiled function. Raises ``PlanError`` for what a plan cannot repeat.
    """
    return CompiledFunction(function)
