"""Short openings: rounding shares to multiples of 2^k, moving and adding k or w - k bits, lifting a quotient.

The formulas are those of ``gates.rounding``, ``gates.opening`` and ``gates.lift``. What is dealt or sent in k bits is
kept in words of 16 bits, hence k <= 16. In the ring of 64 bits and with k = 16, the words are lanes of the elements:
few passes over memory, and the same results as the plain way, which all other rings take.
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

from torchveil.kernels import drawn, gate_steps
from torchveil.kernels.drawn import RingPiece, Source, WordsPads, WordsPiece
from torchveil.kernels.reference import reduce_ring, shift_right_logical, signed
from torchveil.randomness import Words

_PLANES = (np.uint8, np.uint16, np.uint32, np.uint64)
#: Whether words of 16 bits may be taken for lanes of elements: little-endian machines.
LANES = sys.byteorder == "little"


def _lanes(bits: int, width: int) -> bool:
    """Whether words of ``bits`` bits are lanes of ring elements."""
    return LANES and bits == 16 and width == 64


def _flat(x: Tensor) -> npt.NDArray[Any]:
    return x.contiguous().view(-1).numpy()


def round_share(share: Tensor, bits: int, up: bool, width: int) -> Tensor:
    """The share as a multiple of 2^bits: the next one below, or above with ``up``."""
    low = (1 << bits) - 1
    return reduce_ring((share + low).bitwise_and_(~low) if up else share & ~low, width)


# --- pieces of messages ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Packed:
    """2^shift times the low ``bits`` bits of ring elements as they travel: planes of 8 to 64 bits, the lowest first."""

    planes: tuple[npt.NDArray[Any], ...]
    bits: int
    shift: int
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return sum(plane.nbytes for plane in self.planes)


def packed_bytes(bits: int) -> int:
    """Bytes of one element of which ``bits`` bits travel: whole ones, a word of 16 bits at least."""
    return max(2, -(-bits // 8))


def _layout(bits: int) -> list[tuple[int, Any]]:
    """(first bit, type) of each plane: the bytes as a sum of powers of two."""
    out, at = [], 0
    for kind in _PLANES:
        size = np.dtype(kind).itemsize
        if packed_bytes(bits) & size:
            out.append((at, kind))
            at += 8 * size
    return out


def pack_low(x: Tensor, bits: int, shift: int) -> Packed:
    """The low ``bits`` bits of every element, which count as multiples of 2^shift; x may be overwritten."""
    shape = tuple(x.shape)
    if _lanes(shift, bits + shift):
        flat = _flat(x.bitwise_left_shift_(16))
        return Packed((flat.view(np.uint16)[1::4].copy(), flat.view(np.uint32)[1::2].copy()), bits, shift, shape)
    flat = _flat(x) & ((1 << bits) - 1)
    return Packed(tuple((flat >> at).astype(kind) for at, kind in _layout(bits)), bits, shift, shape)


def mask_short(
    value: Tensor, stream: Source, number: int, slot: int, missing: int, width: int
) -> tuple[Packed, Tensor]:
    """(what travels of value / 2^missing + mask, mask): a multiple of 2^missing, and the keystream of the label."""
    # an arithmetic shift: only the lower bits of the sum travel
    masked, mask = gate_steps.mask_value(value >> missing, stream, number, slot, width)
    return pack_low(masked, width - missing, missing), mask


def add_packed(pieces: Sequence[Packed] | Sequence[Words]) -> Tensor | Words:
    """2^shift times the sum of all pieces modulo 2^bits; of words their sum modulo 2^16."""
    packed = [piece for piece in pieces if isinstance(piece, Packed)]
    if not packed:
        words: Words = sum(pieces[1:], start=pieces[0])  # type: ignore[arg-type]
        return words
    first, pieces = packed[0], packed
    if _lanes(first.shift, first.bits + first.shift):
        return _add_lanes(pieces)
    total = np.zeros(first.planes[0].shape, dtype=np.int64)
    for piece in pieces:
        for plane, (at, _) in zip(piece.planes, _layout(piece.bits), strict=True):
            total += plane.astype(np.int64) << at
    total &= (1 << first.bits) - 1
    return torch.from_numpy(total << first.shift).view(first.shape)


def _add_lanes(pieces: Sequence[Packed]) -> Tensor:
    first = pieces[0]
    low, high = first.planes
    for piece in pieces[1:]:
        total = low + piece.planes[0]
        high = high + piece.planes[1]
        high += total < low
        low = total
    out = np.empty(low.shape, dtype=np.int64)
    halves = out.view(np.uint32)
    halves[0::2] = low.astype(np.uint32) << np.uint32(16)
    halves[1::2] = high
    return torch.from_numpy(out).view(first.shape)


# --- k bits of something --------------------------------------------------------------------------------------------


def _words(x: Tensor) -> Words:
    return _flat(x).astype(np.uint16)


def add_words(a: Words, b: Words, bits: int) -> Words:
    """a + b modulo 2^bits."""
    out: Words = a + b
    return out if bits == 16 else out & np.uint16((1 << bits) - 1)


def subtract_words(a: Words, b: Words, bits: int) -> Words:
    """a - b modulo 2^bits."""
    out: Words = a - b
    return out if bits == 16 else out & np.uint16((1 << bits) - 1)


def _add_upper(x: Tensor, words: Words, bits: int, width: int) -> Tensor:
    """x + words * 2^(w - bits); x is contiguous and may be overwritten."""
    if _lanes(bits, width):
        lanes = x.view(-1).numpy().view(np.uint16)[3::4]
        np.add(lanes, words, out=lanes)
        return x
    return reduce_ring(x + (torch.from_numpy(words.astype(np.int64)).view(x.shape) << (width - bits)), width)


# --- lifting --------------------------------------------------------------------------------------------------------


def lift_rows(
    mask: Tensor, bit: Tensor | None, bits: int, width: int, pads: WordsPads = ()
) -> tuple[Words, Tensor | None]:
    """What the provider deals: words [rows, elements] H, R (with a bit rho also rho R), and rho (M mod 2^(w-k)).

    H = floor(M / 2^(w-k)), R the bit of M below. The words are less their pads.
    """
    rows, gated = _lift_rows(mask, bit, bits, width)
    for pad in pads:
        rows = subtract_words(rows, pad.held(), bits)
    return rows, gated


def _lift_rows(mask: Tensor, bit: Tensor | None, bits: int, width: int) -> tuple[Words, Tensor | None]:
    split = width - bits
    rows = np.empty((2 if bit is None else 3, mask.numel()), dtype=np.uint16)
    if _lanes(bits, width):
        lanes = _flat(mask).view(np.uint16)
        rows[0] = lanes[3::4]
        np.right_shift(lanes[2::4], np.uint16(15), out=rows[1])
    else:
        rows[0] = _words(shift_right_logical(mask, split, width))
        rows[1] = _words((mask >> (split - 1)) & 1)
    if bit is None:
        return rows, None
    np.multiply(rows[1], _words(bit), out=rows[2])
    return rows, (mask & ((1 << split) - 1)).mul_(bit)


def _tops(opened: Tensor, bits: int, width: int) -> tuple[Words, Words]:
    """(whether V < -2^(w-2), a mask of all ones where the top bit of V + 2^(w-2) is 0, so that a wrap is possible)."""
    one = np.uint16(1)
    if _lanes(bits, width):
        high = _flat(opened).view(np.uint16)[3::4] >> np.uint16(14)
    else:
        high = _words(shift_right_logical(opened, width - 2, width))
    lower = high >> one
    top = (high ^ lower) & one
    return lower & top, top - one


def _quotient(opened: Tensor, bits: int, width: int) -> Tensor:
    """V / 2^k as a signed number: B of ``gates.lift``, less 2^(w-k) where V < -2^(w-2)."""
    return signed(opened, width) >> bits


def lift_base(opened: Tensor, bits: int, width: int) -> Tensor:
    """The opened quotient, as an integer, if nothing wrapped."""
    below, _ = _tops(opened, bits, width)
    return _add_upper(reduce_ring(_quotient(opened, bits, width).contiguous(), width), below, bits, width)


def lifted_share(
    opened: Tensor, rows: WordsPiece, mask: Tensor, first: bool, bits: int, width: int
) -> tuple[Tensor, Words]:
    """(a party's share of x / 2^k, its share of the upper k bits of the quotient's opening) from its pieces."""
    rows = drawn.words(rows)
    below, may_wrap = _tops(opened, bits, width)
    upper = add_words(rows[0], rows[1] & may_wrap, bits)
    out = _quotient(opened, bits, width).sub_(mask) if first else -mask
    moved = upper + below if first else upper
    return _add_upper(reduce_ring(out.contiguous(), width), moved, bits, width), upper


def complete(opened: Tensor, upper: Words, bits: int, width: int) -> Tensor:
    """The whole opening of the quotient from the rounded opening and the upper bits."""
    below, _ = _tops(opened, bits, width)
    out = reduce_ring(_quotient(opened, bits, width).contiguous(), width)
    return _add_upper(out, upper + below, bits, width)


def gated_piece(opened: Tensor, rows: Words, dealt: Tensor, bits: int, width: int) -> Tensor:
    """A party's share of rho (M mod 2^(w-k) - o 2^(w-k)): what rho * base exceeds rho * x / 2^k by."""
    _, may_wrap = _tops(opened, bits, width)
    out = dealt.clone(memory_format=torch.contiguous_format)
    return _add_upper(out, subtract_words(np.zeros_like(rows[2]), rows[2] & may_wrap, bits), bits, width)


def gated_lift(
    opened: Tensor,
    rows: WordsPiece,
    mask: Tensor,
    dealt: RingPiece,
    flip: Tensor,
    bit: Tensor,
    first: bool,
    bits: int,
    width: int,
) -> Tensor:
    """A party's share of the bit (its flip, this party's share of its mask) times x / 2^k from its pieces."""
    rows = drawn.words(rows)
    share, _ = lifted_share(opened, rows, mask, first, bits, width)
    piece = gated_piece(opened, rows, drawn.ring(dealt), bits, width)
    return gate_steps.selected_share(flip, lift_base(opened, bits, width), bit, piece, share, width)
