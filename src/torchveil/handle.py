"""Handles: what the controller holds of a value. No handle contains a share, a mask or a clear secret.

    Secret    a wire: shape, strides, scale and format, whether it is opened, what earlier gates left for later ones
    Bit       a bit wire (a selector)
    Public    a constant that everybody may know: a number filling a shape, or a tensor
    Deferred  a pure function of immutable handles, evaluated only if somebody asks (an unread loss)
    Excluding a value with public places of minus infinity, for those who know to leave them out (a masked softmax)

Handles are immutable in value: an in-place operation of torch gives a tensor a new handle. A handle never references a
tensor subclass. Dropping the last reference queues the wire for freeing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.fixedpoint import FixedPoint

if TYPE_CHECKING:
    from torchveil.engine import Engine

Shape = tuple[int, ...]

#: The identifier of a handle that stands for a kind of value, and for no wire; nothing is freed for it.
NO_WIRE = 0


class Secret:
    """A value of which each party holds a share.

    ``scale`` is the scale the integers have now; ``format.scale`` the one they return to when truncated. A larger
    ``scale`` is *pending* (a product, truncated when needed) unless ``wide`` (a square, kept at double scale).
    ``nonnegative`` is public knowledge from the operation that made the value. ``parent`` is the handle that this one
    is a linear image of, or the one term of a sum that lacks an opening, while it has no opening of its own. ``memo``
    keeps what later gates may reuse. ``zeros``: value and shares are multiples of 2^zeros; ``short``: it was opened as
    such, under a mask of its own, or consists of elements that were (``picked``); ``half``: its opening is known but
    for its upper ``half`` bits. ``stretched``: the scale is the format's times a small factor, which products take
    along in place of a truncation.
    """

    __slots__ = (
        "__weakref__",
        "format",
        "half",
        "id",
        "is_input",
        "memo",
        "nonnegative",
        "opened",
        "parent",
        "picked",
        "scale",
        "session",
        "shape",
        "short",
        "stretched",
        "stride",
        "wide",
        "zeros",
    )

    def __init__(
        self,
        session: Engine,
        identifier: int,
        shape: Shape,
        stride: Shape,
        scale: int,
        number_format: FixedPoint,
        *,
        wide: bool = False,
        nonnegative: bool = False,
        opened: bool = False,
        parent: Secret | None = None,
        is_input: bool = False,
        zeros: int = 0,
        half: int = 0,
        stretched: bool = False,
        picked: bool = False,
        short: bool = False,
    ) -> None:
        self.session = session
        self.id = identifier
        self.shape = shape
        self.stride = stride
        self.scale = scale
        self.format = number_format
        self.wide = wide
        self.nonnegative = nonnegative
        self.opened = opened
        self.parent = parent
        self.is_input = is_input
        self.zeros = zeros
        self.half = half
        self.stretched = stretched
        self.short = short
        self.picked = picked
        self.memo: dict[str, Any] = {}

    def renamed(self, identifier: int, *, opened: bool | None = None) -> Secret:
        """A handle of the same kind of value for another wire, without memo and ancestors."""
        return Secret(
            self.session,
            identifier,
            self.shape,
            self.stride,
            self.scale,
            self.format,
            wide=self.wide,
            nonnegative=self.nonnegative,
            opened=self.is_opened() if opened is None else opened,
            is_input=self.is_input,
            zeros=self.zeros,
            half=self.half,
            stretched=self.stretched,
            short=self.short,
        )

    @property
    def kind(self) -> tuple[Any, ...]:
        """All that a program can depend on: everything but the wire."""
        return (
            self.shape,
            self.stride,
            self.scale,
            self.format,
            self.wide,
            self.nonnegative,
            self.is_opened(),
            self.zeros,
            self.half,
            self.stretched,
            self.short,
        )

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def pending(self) -> bool:
        """Whether a truncation is still due."""
        return self.scale > self.format.scale

    def is_opened(self) -> bool:
        """Whether an opening exists or follows from one of an ancestor."""
        node: Secret | None = self
        picked = True
        while node is not None:
            if node.opened:
                self.opened = True
                self.short = node.short and picked
                self.parent = None
                return True
            picked = picked and node.picked
            node = node.parent
        return False

    @property
    def lacks_bits(self) -> bool:
        """Whether its opening is known, or follows, but for the upper bits of one."""
        node: Secret | None = self
        while node is not None and not node.is_opened():
            if node.half:
                return True
            node = node.parent
        return False

    def mark_opened(self) -> None:
        """It was opened itself: short if it ends in zeros, to its end if it was half open."""
        self.opened = True
        self.parent = None
        self.short = bool(self.zeros)
        self.half = 0

    def __del__(self) -> None:
        # a handle whose construction failed has nothing to free
        session: Engine | None = getattr(self, "session", None)
        if session is not None and getattr(self, "id", NO_WIRE) != NO_WIRE:
            session._dropped.append(self.id)

    def __repr__(self) -> str:
        return f"<Secret {self.id} shape={self.shape} scale={self.scale}>"


class Bit:
    """A secret bit per element, opened under a mask: usable as a selector any number of times."""

    __slots__ = ("__weakref__", "id", "memo", "session", "shape")

    def __init__(self, session: Engine, identifier: int, shape: Shape) -> None:
        self.session = session
        self.id = identifier
        self.shape = shape
        self.memo: dict[str, Any] = {}

    def __del__(self) -> None:
        session: Engine | None = getattr(self, "session", None)
        if session is not None and getattr(self, "id", NO_WIRE) != NO_WIRE:
            session._dropped.append(self.id)

    def __repr__(self) -> str:
        return f"<Bit {self.id} shape={self.shape}>"


class Public:
    """A constant: ``fill`` for a number repeated over ``shape``, else ``tensor`` (a plain float or integer tensor)."""

    __slots__ = ("fill", "session", "shape", "tensor")

    def __init__(
        self, session: Engine, shape: Shape, *, fill: float | None = None, tensor: Tensor | None = None
    ) -> None:
        self.session = session
        self.shape = shape
        self.fill = fill
        self.tensor = tensor

    def dense(self) -> Tensor:
        """The constant as a plain tensor."""
        if self.tensor is not None:
            return self.tensor
        if self.fill is None:
            raise ValueError("a constant without a value")
        return torch.tensor(float(self.fill), dtype=torch.float64).expand(self.shape)

    def __repr__(self) -> str:
        return f"<Public shape={self.shape}>"


class Deferred:
    """A value that nobody has asked for yet. ``force`` evaluates it once; ``attachments`` are what gates may reuse."""

    __slots__ = ("_make", "_value", "attachments", "session", "shape", "whole")

    def __init__(
        self,
        session: Engine,
        shape: Shape,
        make: Callable[[], Handle],
        attachments: dict[str, Any] | None = None,
    ) -> None:
        self.session = session
        self.shape = shape
        self._make: Callable[[], Handle] | None = make
        self._value: Handle | None = None
        self.attachments = attachments or {}
        #: Whether torch sees whole numbers (an index).
        self.whole = False

    def force(self) -> Secret | Bit | Public:
        if self._value is None:
            make = self._make
            if make is None:
                raise RuntimeError("a deferred value without a function")
            value = make()
            self._value = value.force() if isinstance(value, Deferred) else value
            self._make = None
        value = self._value
        return value.force() if isinstance(value, Deferred) else value

    def __repr__(self) -> str:
        return f"<Deferred shape={self.shape}>"


class Excluding(Deferred):
    """``finite``, but minus infinity where ``excluded`` (bool, public, of the same shape) says so.

    The ring has no infinity. Whoever asks for the value itself is refused; a softmax leaves the places out.
    """

    __slots__ = ("excluded", "finite")

    def __init__(self, finite: Handle, excluded: Tensor, attachments: dict[str, Any] | None = None) -> None:
        super().__init__(finite.session, finite.shape, self._refuse, attachments)
        self.finite = finite
        self.excluded = excluded

    def force(self) -> Secret | Bit | Public:
        raise self._refuse()

    def _refuse(self) -> Any:
        return UnsupportedOperation(
            "a secret with places of minus infinity: no share holds one",
            op=self.session.operation,
            remedy="pass it to softmax, log_softmax or max, which leave these places out, or mask with a finite number",
        )

    def __repr__(self) -> str:
        return f"<Excluding shape={self.shape}>"


class ExcludingAbove(Deferred):
    """The negative of ``below``: plus infinity in its excluded places, which a minimum leaves out."""

    __slots__ = ("below",)

    def __init__(self, below: Excluding) -> None:
        super().__init__(below.session, below.shape, self._refuse)
        self.below = below

    def force(self) -> Secret | Bit | Public:
        raise self._refuse()

    def _refuse(self) -> Any:
        return UnsupportedOperation(
            "a secret with places of plus infinity: no share holds one",
            op=self.session.operation,
            remedy="pass it to min or amin, which leave these places out, or mask with a finite number",
        )

    def __repr__(self) -> str:
        return f"<ExcludingAbove shape={self.shape}>"


Handle = Secret | Bit | Public | Deferred


def contiguous_strides(shape: Shape) -> Shape:
    """The strides of a contiguous tensor."""
    out = []
    step = 1
    for size in reversed(shape):
        out.append(step)
        step *= max(size, 1)
    return tuple(reversed(out))


def facade_dtype(handle: Handle) -> torch.dtype:
    """The dtype that torch sees: bool for bits, int64 for whole numbers, float32 otherwise."""
    if isinstance(handle, Bit):
        return torch.bool
    if isinstance(handle, Public) and handle.tensor is not None and handle.tensor.dtype is torch.bool:
        return torch.bool
    if isinstance(handle, Secret) and handle.scale == 1 and handle.format.scale == 1:
        return torch.int64
    if isinstance(handle, Deferred) and handle.whole:
        return torch.int64
    return torch.float32


def facade_strides(handle: Handle) -> Shape:
    """The strides that torch sees: those of the share, so that torch and the share agree on what is contiguous."""
    return handle.stride if isinstance(handle, Secret) else contiguous_strides(handle.shape)
