"""Short openings: rounding shares to multiples of 2^k, moving and adding k or w - k bits, lifting a quotient.

The formulas are those of ``gates.rounding``, ``gates.opening`` and ``gates.lift``. What is dealt or sent in k bits is
kept in words of 16 bits, hence k <= 16. In the ring of 64 bits the words are the lanes of the elements, so that nothing
is multiplied or shifted; smaller rings, and other k, take the plain way.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchveil.kernels.reference import is_negative, reduce_ring, shift_right_logical
from torchveil.randomness import Words

_PLANES = ((64, np.uint64), (32, np.uint32), (16, np.uint16), (8, np.uint8))
_LITTLE = sys.byteorder == "little"


def round_share(share: Tensor, bits: int, up: bool, width: int) -> Tensor:
    """The share as a multiple of 2^bits: the next one below, or above with ``up``."""
    low = (1 << bits) - 1
    return reduce_ring((share + low if up else share) & ~low, width)


# --- pieces of messages ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Packed:
    """The low ``bits`` bits of ring elements as they travel: planes of 64, 32, 16 or 8 bits, the lowest first."""

    planes: tuple[npt.NDArray[Any], ...]
    bits: int
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return sum(plane.nbytes for plane in self.planes)


def _layout(bits: int) -> list[tuple[int, int, Any]]:
    """(first bit, bits, type) of each plane; the last one is filled up to a whole byte."""
    out, at = [], 0
    for size, kind in _PLANES:
        if 8 * -(-bits // 8) - at >= size:
            out.append((at, size, kind))
            at += size
    return out


def packed_bytes(bits: int) -> int:
    """Bytes of one element of which ``bits`` bits travel."""
    return -(-bits // 8)


def pack_low(x: Tensor, bits: int) -> Packed:
    """The low ``bits`` bits of every element."""
    flat = x.contiguous().view(-1).numpy()
    planes = []
    for at, size, kind in _layout(bits):
        if _LITTLE and at % size == 0 and at + size <= bits:
            planes.append(flat.view(kind)[at // size :: 64 // size].copy())
        else:
            planes.append(((flat >> at) & ((1 << min(size, bits - at)) - 1)).astype(kind))
    return Packed(tuple(planes), bits, tuple(x.shape))


def pack_words(x: Words, bits: int, shape: tuple[int, ...]) -> Packed:
    """Words of ``bits`` <= 16 bits as they travel."""
    return Packed((x.astype(np.uint16 if bits > 8 else np.uint8),), bits, shape)


def _unpack(piece: Packed) -> npt.NDArray[np.int64]:
    """The elements as numbers in [0, 2^bits)."""
    out = np.zeros(piece.planes[0].shape, dtype=np.int64)
    for plane, (at, size, kind) in zip(piece.planes, _layout(piece.bits), strict=True):
        if _LITTLE and at % size == 0:
            out.view(kind)[at // size :: 64 // size] = plane
        else:
            out |= plane.astype(np.int64) << at
    return out


def add_packed(pieces: Sequence[Packed]) -> Tensor:
    """The sum of all pieces modulo 2^bits, as int64."""
    total = _unpack(pieces[0])
    for piece in pieces[1:]:
        total += _unpack(piece)
    total &= (1 << pieces[0].bits) - 1
    return torch.from_numpy(total).view(pieces[0].shape)


# --- k bits of something --------------------------------------------------------------------------------------------


def _words(x: Tensor) -> Words:
    return x.contiguous().view(-1).numpy().astype(np.uint16)


def _upper(x: Tensor, bits: int, width: int) -> Words:
    """The upper ``bits`` bits of every element, flat."""
    if width == 64 and bits == 16 and _LITTLE:
        return x.contiguous().view(-1).numpy().view(np.uint16)[3::4]
    return _words(shift_right_logical(x, width - bits, width))


def _add_upper(x: Tensor, words: Words, bits: int, width: int) -> Tensor:
    """x + words * 2^(w - bits); x is contiguous and may be overwritten."""
    if width == 64 and bits == 16 and _LITTLE:
        lanes = x.view(-1).numpy().view(np.uint16)[3::4]
        np.add(lanes, words, out=lanes)
        return x
    upper = torch.from_numpy(words.astype(np.int64)).view(x.shape) << (width - bits)
    return reduce_ring(x + upper, width)


def add_words(a: Words, b: Words, bits: int) -> Words:
    """a + b modulo 2^bits."""
    out: Words = (a + b) & np.uint16((1 << bits) - 1)
    return out


def subtract_words(a: Words, b: Words, bits: int) -> Words:
    """a - b modulo 2^bits."""
    out: Words = (a - b) & np.uint16((1 << bits) - 1)
    return out


# --- lifting --------------------------------------------------------------------------------------------------------


def lift_rows(mask: Tensor, bit: Tensor | None, bits: int, width: int) -> tuple[Words, Tensor | None]:
    """What the provider deals for a lift: rows H, R (with a bit rho also rho R), [rows, elements], and rho (M mod
    2^(w-k)).

    H = floor(M / 2^(w-k)), R the bit of M below.
    """
    split = width - bits
    rows = np.empty((2 if bit is None else 3, mask.numel()), dtype=np.uint16)
    rows[0] = _upper(mask, bits, width)
    low_top = _words((mask >> (split - 1)) & 1)
    rows[1] = low_top
    if bit is None:
        return rows, None
    rows[2] = low_top * _words(bit)
    return rows, bit * (mask & ((1 << split) - 1))


def _raised(opened: Tensor, width: int) -> Tensor:
    return reduce_ring(opened + (1 << (width - 2)), width)


def _base(raised: Tensor, bits: int, width: int) -> Tensor:
    return shift_right_logical(raised, bits, width).sub_(1 << (width - bits - 2))


def _where_wrapped(raised: Tensor, row: Words, width: int) -> Words:
    """The row where the mask's top bit would mean a wrap, else 0."""
    out: Words = row * ~is_negative(raised, width).contiguous().view(-1).numpy()
    return out


def lift_base(opened: Tensor, bits: int, width: int) -> Tensor:
    """The opened quotient, as an integer, if nothing wrapped: ((V + 2^(w-2)) mod 2^w) / 2^k - 2^(w-k-2)."""
    return _base(_raised(opened, width), bits, width)


def lifted_share(opened: Tensor, rows: Words, mask: Tensor, first: bool, bits: int, width: int) -> tuple[Tensor, Words]:
    """(a party's share of x / 2^k, its share of the upper k bits of the quotient's opening) from its pieces."""
    raised = _raised(opened, width)
    upper = add_words(rows[0], _where_wrapped(raised, rows[1], width), bits)
    out = _base(raised, bits, width) - mask if first else -mask
    return _add_upper(reduce_ring(out.contiguous(), width), upper, bits, width), upper


def complete(opened: Tensor, upper: Tensor, bits: int, width: int) -> Tensor:
    """The whole opening of the quotient from the rounded opening and its upper bits."""
    base = reduce_ring(lift_base(opened, bits, width), width).contiguous()
    return _add_upper(base, _words(upper), bits, width)


def gated_piece(opened: Tensor, rows: Words, dealt: Tensor, bits: int, width: int) -> Tensor:
    """A party's share of rho (M mod 2^(w-k) - o 2^(w-k)): what rho * base exceeds rho * x / 2^k by."""
    wrapped = _where_wrapped(_raised(opened, width), rows[2], width)
    out = dealt.clone(memory_format=torch.contiguous_format)
    return _add_upper(out, subtract_words(np.zeros_like(wrapped), wrapped, bits), bits, width)
