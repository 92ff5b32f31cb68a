"""Recording: what a compiled function submits, which secrets it reads from outside, and what it leaves behind.

While a recording is active, the first read of a tensor's storage (a ``Cell``) that existed before gives that storage a
second name for its wire, without memo or ancestors: the recorded instructions then use nothing that a later run would
not have. Storages made while recording are the function's own.

A recording belongs to one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchveil.errors import PlanError
from torchveil.handle import Bit, Deferred, Handle, Secret
from torchveil.program import instructions as ins
from torchveil.where import user_line

if TYPE_CHECKING:
    from torchveil.engine import Engine

#: What a plan cannot repeat, and why.
_REFUSED: dict[type[ins.Instruction], tuple[str, str]] = {
    ins.Reveal: ("a compiled function reveals a value", "return the tensor and reveal it outside"),
    ins.Input: ("a compiled function shares a plain tensor", "share it outside and pass it as an argument"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded instruction, and the torch operation and module it belongs to."""

    instruction: ins.Instruction
    operation: str
    module: str


@dataclass(slots=True)
class Captured:
    """A storage that the function reads and did not make: its handle while recording, the one before, and its kind."""

    cell: Any
    handle: Handle
    before: Handle
    kind: Any


def kind_of(handle: Handle) -> Any:
    """All that a recording can depend on; two handles of one kind differ in their wire only. A constant is itself."""
    if isinstance(handle, Secret):
        return handle.kind
    return handle.shape if isinstance(handle, Bit) else id(handle)


#: In place of a storage: there is no gradient; there is one that the function does not read.
NO_GRADIENT, SOME_GRADIENT = "none", "some"


def _place_of(grad: Any) -> Any:
    """The storage of a gradient: a plan that reads it reads this one and no other."""
    return NO_GRADIENT if grad is None else getattr(grad, "_cell", grad)


def is_gradient(leaf: Any, place: Any) -> bool:
    """Whether the gradient of ``leaf`` lies where it was (``place``), or is missing as it was."""
    if place is SOME_GRADIENT:
        return leaf.grad is not None
    return _place_of(leaf.grad) is place


def _is_leaf(tensor: Any) -> bool:
    try:
        return bool(tensor.is_leaf)
    except RuntimeError:
        # a view made while gradients were off, whose base was written since: torch does not want to be asked
        return False


class Recorder:
    """Collects one run of a function."""

    def __init__(self) -> None:
        self.session: Engine | None = None
        self.stream: list[Entry] = []
        self.captured: dict[int, Captured] = {}
        self.born: dict[int, Any] = {}
        #: leaf tensors and the storage of their gradient when first met (None: the function had set it)
        self.gradients: dict[int, tuple[Any, Any]] = {}
        #: storages of the function's arguments, and wires that have a second name already
        self.arguments: set[int] = set()
        self._named: set[int] = set()
        self._paused = False

    @property
    def listening(self) -> bool:
        """Whether what happens now belongs to the recording."""
        return not self._paused

    def add(self, session: Engine, i: ins.Instruction, operation: str, module: str) -> None:
        """An instruction was run."""
        if not self.listening or isinstance(i, ins.Free):
            return
        self.belong(session)
        self.stream.append(Entry(i, operation, module))

    def check(self, i: ins.Instruction) -> None:
        """Raise ``PlanError`` for an instruction that a plan cannot repeat, before it is run."""
        if self.listening and type(i) in _REFUSED:
            message, remedy = _REFUSED[type(i)]
            raise PlanError(message, remedy=remedy)

    def made(self, cell: Any) -> None:
        """A storage was made by the function."""
        if self.listening:
            self.born[id(cell)] = cell

    def read(self, tensor: Any) -> None:
        """A tensor is read or written: capture its storage if the function did not make it."""
        if not self.listening:
            return
        if tensor.requires_grad and tensor.is_leaf and id(tensor) not in self.gradients:
            self.gradients[id(tensor)] = tensor, _place_of(tensor.grad)
        cell = tensor._cell
        if id(cell) in self.born or id(cell) in self.captured:
            return
        self.belong(cell.handle.session)
        before = self.settled(cell)
        found = kind_of(before)
        cell.replace(self.input(before))
        self.captured[id(cell)] = Captured(cell, cell.handle, before, found)

    def gradient_set(self, tensor: Any) -> None:
        """The function sets ``.grad`` of a tensor: what was there before does not matter."""
        if self.listening and id(tensor) not in self.gradients:
            self.gradients[id(tensor)] = tensor, None

    def leaves(self) -> list[tuple[Any, Any]]:
        """The leaf tensors met, and the storage of the gradient that each had (None: the function had set it before).

        Asked for at the end: below autograd a result has no graph yet and looks like a leaf.
        """
        found = [(tensor, place) for tensor, place in self.gradients.values() if _is_leaf(tensor)]
        unread = [place not in (None, NO_GRADIENT) and id(place) not in self.captured for _, place in found]
        return [(tensor, SOME_GRADIENT if no else place) for (tensor, place), no in zip(found, unread, strict=True)]

    def settled(self, cell: Any) -> Handle:
        """The storage's value, evaluated outside the recording if nobody had asked for it yet."""
        if isinstance(cell.handle, Deferred):
            with self.paused():
                cell.handle = cell.handle.force()
        handle: Handle = cell.handle
        return handle

    def input(self, handle: Handle) -> Handle:
        """A second name for a wire that existed before; constants stay what they are."""
        if not isinstance(handle, (Secret, Bit)):
            return handle
        apart = handle.id in self._named
        self._named.add(handle.id)
        return handle.session.alias(handle, apart=apart)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Work that is done now is not part of the function."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def belong(self, session: Engine) -> None:
        """All that is recorded belongs to one session."""
        if self.session is None:
            self.session = session
        elif self.session is not session:
            raise PlanError(
                "a compiled function uses two sessions", remedy="compile one function for each", op=user_line()
            )


class _Active(threading.local):
    """The recording of this thread, if any."""

    recorder: Recorder | None = None


ACTIVE = _Active()


@contextmanager
def recording() -> Iterator[Recorder]:
    """Record what this thread does inside the block."""
    recorder = Recorder()
    ACTIVE.recorder = recorder
    try:
        yield recorder
    finally:
        ACTIVE.recorder = None
