"""Pieces of messages as bytes: ring elements, packed bits, words, and parts of ring elements.

Parties run the same instruction, so each knows the form of what the others send from what it sends itself: an exchange
carries bytes only, and anything of another length is refused. What the provider deals is described, since a party need
not know before its gate asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchveil.errors import MalformedMessage
from torchveil.gates.base import Piece
from torchveil.kernels import Packed
from torchveil.network import messages

Buffer = bytes | memoryview

#: Types that a dealt piece may have. Ring elements are tensors, the others arrays.
TYPES: dict[str, type[np.generic]] = {"ring": np.int64, "bits": np.uint8, "words": np.uint16}
_NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}

#: Where the buffers of one body begin: so that ring elements lie at their natural places in memory.
ALIGN = 8


def _view(array: npt.NDArray[np.generic]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def buffers_of(piece: Piece) -> list[memoryview]:
    """The bytes of a piece, not copied if it lies in one."""
    if isinstance(piece, Tensor):
        return [_view(piece.detach().numpy())]
    if isinstance(piece, Packed):
        return [_view(plane) for plane in piece.planes]
    return [_view(piece)]


def like(piece: Piece, body: memoryview, at: int) -> tuple[Piece, int]:
    """(a piece of the form of ``piece`` made of the bytes from ``at`` on, where it ends)."""
    if isinstance(piece, Packed):
        planes = []
        for plane in piece.planes:
            found, at = _array(body, at, plane.dtype, plane.shape)
            planes.append(found)
        return Packed(tuple(planes), piece.bits, piece.shift, piece.shape), at
    if isinstance(piece, Tensor):
        array, at = _array(body, at, np.dtype(np.int64), tuple(piece.shape))
        return torch.from_numpy(array), at
    return _array(body, at, piece.dtype, piece.shape)


def _array(body: memoryview, at: int, dtype: np.dtype, shape: Sequence[int]) -> tuple[npt.NDArray, int]:  # type: ignore[type-arg]
    count = math.prod(shape)
    end = at + count * dtype.itemsize
    if end > len(body):
        raise MalformedMessage("a message is shorter than what it should hold")
    try:
        array = np.frombuffer(body, dtype=dtype, count=count, offset=at).reshape(shape)
    except ValueError:  # an empty array may still have sizes that multiply to more than there can be
        raise MalformedMessage("a message is of a shape that no array can have") from None
    if at % dtype.itemsize:
        array = array.copy()
    return array, end


def ring_of(body: memoryview | bytearray, shape: Sequence[int]) -> Tensor:
    """A body of nothing but ring elements, not copied. Raises ``MalformedMessage`` if it is not of this shape."""
    array, end = _array(memoryview(body), 0, np.dtype(np.int64), shape)
    if end != len(body):
        raise MalformedMessage("a message is longer than what it should hold")
    return torch.from_numpy(array)


def exchange_of(pieces: Sequence[Piece]) -> list[memoryview]:
    """The body of an exchange."""
    return [view for piece in pieces for view in buffers_of(piece)]


def exchanged(own: Sequence[Piece], body: memoryview) -> list[Piece]:
    """What another party sent where ``own`` is what this one sent. Raises ``MalformedMessage`` for another length."""
    found: list[Piece] = []
    at = 0
    for piece in own:
        other, at = like(piece, body, at)
        found.append(other)
    if at != len(body):
        raise MalformedMessage("a message is longer than what it should hold")
    return found


def dealt_of(corrections: Mapping[tuple[str, int], Piece]) -> tuple[messages.Dealt, list[Buffer]]:
    """(description, body) of what the provider deals for one instruction."""
    described: list[messages.Piece] = []
    body: list[Buffer] = []
    for (purpose, slot), piece in corrections.items():
        (view,) = buffers_of(piece)
        kind = "ring" if isinstance(piece, Tensor) else _NAMES[piece.dtype]  # type: ignore[union-attr]
        described.append(messages.Piece(purpose, slot, kind, tuple(piece.shape)))
        body += [view, bytes(-len(view) % ALIGN)]
    return messages.Dealt(tuple(described)), body


def dealt(description: messages.Dealt, body: memoryview) -> dict[tuple[str, int], Piece]:
    """The corrections of a description. Raises ``MalformedMessage`` for lengths that do not fit and repeated slots."""
    found: dict[tuple[str, int], Piece] = {}
    at = 0
    for piece in description.pieces:
        kind = TYPES.get(piece.dtype)
        if kind is None or (piece.purpose, piece.slot) in found:
            raise MalformedMessage("a correction of an unknown type, or twice the same")
        array, at = _array(body, at, np.dtype(kind), piece.shape)
        at += -at % ALIGN
        found[piece.purpose, piece.slot] = torch.from_numpy(array) if piece.dtype == "ring" else array
    if at != len(body):
        raise MalformedMessage("a message is longer than what it should hold")
    return found


def cut(body: memoryview, lengths: Sequence[int]) -> list[memoryview]:
    """The buffers of a body, each at a multiple of ``ALIGN``. Raises ``MalformedMessage`` for other lengths."""
    found, at = [], 0
    for length in lengths:
        if at + length > len(body):
            raise MalformedMessage("a message is shorter than what it should hold")
        found.append(body[at : at + length])
        at += length + -length % ALIGN
    if at != len(body):
        raise MalformedMessage("a message is longer than what it should hold")
    return found


def padded(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Buffers as ``cut`` finds them again."""
    out: list[Buffer] = []
    for buffer in buffers:
        out += [buffer, bytes(-len(buffer) % ALIGN)]
    return out
