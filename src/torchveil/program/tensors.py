"""Public tensors inside messages: a description in the structure, the numbers in buffers beside it.

A tensor travels with its layout, as a share that is made of it has its strides: its numbers are sent in the order of
memory, each once, so that an expanded tensor is as large as what was expanded. One that holds a single number has no
buffer at all. A tensor with gaps between its elements is copied first: what lies in the gaps belongs to somebody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any, Literal, NoReturn

import torch
from msgspec import Meta, Struct
from torch import Tensor

from torchveil.errors import InvalidArgument, LimitExceeded, MalformedMessage

Buffer = memoryview | bytearray | bytes

#: No tensor has more dimensions.
MOST_DIMENSIONS = 64

Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Sizes = Annotated[tuple[Size, ...], Meta(max_length=MOST_DIMENSIONS)]
Number = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]

#: dtypes that travel, and the numbers that each can hold.
_DTYPES: dict[str, tuple[torch.dtype, int, int]] = {
    "int64": (torch.int64, -(1 << 63), (1 << 63) - 1),
    "int32": (torch.int32, -(1 << 31), (1 << 31) - 1),
    "uint8": (torch.uint8, 0, 255),
    "bool": (torch.bool, 0, 1),
}
_NAMES = {dtype: name for name, (dtype, _, _) in _DTYPES.items()}
_DtypeName = Literal["int64", "int32", "uint8", "bool"]

#: From so many bytes on a tensor shares the memory of its buffer: a small one would keep a whole frame in memory.
SHARED = 1 << 16

#: What a value of the ring may be, and what may stand for places.
RING = frozenset(("int64",))
PLACES = frozenset(_DTYPES)


class Stored(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=0):
    """A tensor whose numbers are buffer ``buffer``; ``strides`` (in elements) is None if it is contiguous."""

    dtype: _DtypeName
    shape: Sizes
    strides: Sizes | None
    buffer: Size


class Filled(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=1):
    """A tensor that holds one number everywhere."""

    dtype: _DtypeName
    shape: Sizes
    number: Number


Reference = Stored | Filled


def refuse(what: str) -> NoReturn:
    """Raise ``MalformedMessage``, which says ``what`` and none of the data."""
    raise MalformedMessage(f"bytes that are no instruction: {what}", remedy="use the same version at every role")


def _distinct(shape: Sequence[int], strides: Sequence[int]) -> int:
    """How many numbers lie under a layout that is dense but for expanded dimensions; -1 if it has gaps or overlaps."""
    count = 1
    for stride, size in sorted((st, n) for n, st in zip(shape, strides, strict=True) if n > 1 and st):
        if stride != count:
            return -1
        count *= size
    return count


def _normal(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """Strides as they are written: None for a contiguous layout, 1 where a dimension has one entry."""
    expected = 1
    contiguous = True
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1:
            contiguous = contiguous and stride == expected
            expected *= n
    return None if contiguous else tuple(1 if n == 1 else st for n, st in zip(shape, strides, strict=True))


def pack_tensor(x: Tensor, buffers: list[memoryview]) -> tuple[Any, ...]:
    """The reference to a public tensor; its numbers are appended to ``buffers``, which share its memory."""
    name = _NAMES.get(x.dtype)
    if name is None or x.device.type != "cpu":
        raise InvalidArgument(
            f"a public tensor of {x.dtype} on {x.device} cannot be sent to a role",
            remedy="use whole numbers on the CPU",
        )
    x = x.detach()
    shape, strides = tuple(x.shape), x.stride()
    if 0 in shape:
        buffers.append(memoryview(b""))
        return 0, name, shape, None, len(buffers) - 1
    count = _distinct(shape, strides)
    if count < 0:
        x = x.clone()
        strides = x.stride()
        count = _distinct(shape, strides)
        if count < 0:
            x = x.contiguous()
            strides = x.stride()
            count = _distinct(shape, strides)
    if count == 1:
        return 1, name, shape, int(x.as_strided((), ()))
    span = x.as_strided((count,), (1,))
    buffers.append(memoryview(span.numpy()).cast("B"))  # type: ignore[arg-type]
    return 0, name, shape, _normal(shape, strides), len(buffers) - 1


class Reader:
    """Takes the tensors of a message out of its buffers: each buffer once, in order, and none is left over."""

    __slots__ = ("_buffers", "_most", "_next")

    def __init__(self, buffers: Sequence[Buffer], most: int) -> None:
        self._buffers = buffers
        self._most = most
        self._next = 0

    def finish(self) -> None:
        """Raise unless every buffer was used."""
        if self._next != len(self._buffers):
            refuse("a buffer that nothing refers to")

    def tensor(self, reference: Reference, allowed: frozenset[str]) -> Tensor:
        """The tensor of a reference. It shares the memory of a buffer that is writable, aligned and not small."""
        dtype, low, high = _DTYPES[reference.dtype]
        shape = reference.shape
        if reference.dtype not in allowed:
            refuse("a public tensor of another type")
        require_elements(shape, self._most)
        if isinstance(reference, Filled):
            if not low <= reference.number <= high or 0 in shape:
                refuse("a number that its type cannot hold")
            one = torch.tensor(reference.number, dtype=dtype, device="cpu")
            return one.reshape(shape) if prod(shape) == 1 else one.expand(shape)
        if reference.buffer != self._next or self._next >= len(self._buffers):
            refuse("buffers out of order")
        data = memoryview(self._buffers[self._next])
        self._next += 1
        strides = reference.strides
        count = prod(shape) if strides is None else _laid_out(shape, strides)
        if count == 1:
            refuse("a buffer for a single number")
        if data.nbytes != count * dtype.itemsize or not data.contiguous:
            refuse("a buffer of another length than its tensor")
        if not count:
            return torch.empty(shape, dtype=dtype, device="cpu")
        flat = _from_buffer(data, dtype)
        if dtype is torch.bool and bool((flat.view(torch.uint8) > 1).any()):
            refuse("a truth value that is neither 0 nor 1")
        return flat.view(shape) if strides is None else flat.as_strided(shape, strides)


def _laid_out(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many numbers lie under strides that were sent, which are written in one way only."""
    if len(shape) != len(strides) or 0 in shape or _normal(shape, strides) != strides:
        refuse("strides that are no layout")
    count = _distinct(shape, strides)
    if count < 0:
        refuse("strides that are no layout")
    return count


def _from_buffer(data: memoryview, dtype: torch.dtype) -> Tensor:
    if data.readonly or data.nbytes < SHARED:
        data = memoryview(bytearray(data))
    flat = torch.frombuffer(data, dtype=dtype)
    return flat if flat.data_ptr() % dtype.itemsize == 0 else flat.clone()


def elements(shape: Sequence[int]) -> int:
    """How many elements a tensor has, counting an empty dimension as 1: what its strides may reach."""
    total = 1
    for n in shape:
        total *= abs(n) or 1
    return total


def require_elements(shape: Sequence[int], most: int) -> None:
    """Raise ``LimitExceeded`` if a tensor of this shape has more than ``most`` elements."""
    require_count(elements(shape), most, "a tensor of")


def require_count(count: int, most: int, what: str = "an operation on") -> None:
    """Raise ``LimitExceeded`` for more than ``most`` elements, which says no number of the message."""
    if count > most:
        raise LimitExceeded(
            f"{what} more than the {most} elements that this role takes",
            remedy="use smaller tensors, or raise limits.elements at every role",
        )
