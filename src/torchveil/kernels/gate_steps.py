"""The local steps of the gates as single functions: the reference twins of fused kernels.

Each is the formula of its gate (see there) in plain torch and numpy, on the pieces that one role holds. A native
module offers the same names and agrees bit for bit; ``kernels.dispatch`` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchveil.kernels import chunks, drawn
from torchveil.kernels.chunks import digits, unary_lookup
from torchveil.kernels.drawn import (
    BitsPiece,
    DrawnBits,
    DrawnRing,
    DrawnWords,
    RingPads,
    RingPiece,
    Source,
    WordsPads,
    WordsPiece,
)
from torchveil.kernels.reference import (
    BILINEAR,
    divide_unsigned,
    is_negative,
    pack_bits,
    reduce_ring,
    top_bit,
    unpack_bits,
)
from torchveil.randomness import Bits, Words


def empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A contiguous tensor of the type and device of ``like``, whose elements are to be written."""
    return like.new_empty(shape)


# --- keystream, combined with its use -------------------------------------------------------------------------------


def add_stream(total: Tensor, stream: Source, number: int, slot: int, width: int) -> Tensor:
    """total + keystream of the label. ``total`` is contiguous and may be overwritten."""
    return reduce_ring(total.add_(stream.ring(number, slot, tuple(total.shape), width)), width)


def subtract_stream(value: Tensor, stream: Source, number: int, slot: int, width: int) -> Tensor:
    """value - keystream of the label, as a new tensor."""
    return reduce_ring(value - stream.ring(number, slot, tuple(value.shape), width), width)


def mask_value(value: Tensor, stream: Source, number: int, slot: int, width: int) -> tuple[Tensor, Tensor]:
    """(value + mask, mask), the mask being the keystream of the label."""
    mask = stream.ring(number, slot, tuple(value.shape), width)
    return reduce_ring(value + mask, width), mask


def xor_bits(value: Bits, stream: Source, number: int, slot: int) -> Bits:
    """value ^ keystream of the label, as a new array."""
    return np.bitwise_xor(value, stream.bits(number, slot, value.shape))


def xor_words(value: Words, stream: Source, number: int, slot: int, valid: int) -> Words:
    """value ^ the low ``valid`` bits of each word of keystream, as a new array."""
    return np.bitwise_xor(value, stream.words(number, slot, value.shape, valid))


def keep_drawn(piece: DrawnRing) -> RingPiece:
    """The piece as the kernels in use want it: these ones want it made, once."""
    return piece.held()


def keep_drawn_bits(piece: DrawnBits) -> BitsPiece:
    """As ``keep_drawn``, for packed bits."""
    return piece.held()


def keep_drawn_words(piece: DrawnWords) -> WordsPiece:
    """As ``keep_drawn``, for words."""
    return piece.held()


def take_off(value: Tensor, pads: RingPads, width: int) -> Tensor:
    """value - every pad."""
    for pad in pads:
        value = value - pad.held()
    return reduce_ring(value, width)


def less_pads(value: Tensor, pads: RingPads, width: int, fresh: bool) -> Tensor:
    """value - every pad; a ``fresh`` value may be overwritten."""
    return take_off(value, pads, width)


def sum_pieces(pieces: Sequence[Tensor], width: int) -> Tensor:
    """The sum of ring elements, at least one, as a new tensor if there are two."""
    total = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
    return reduce_ring(total, width)


def xor_pieces(pieces: Sequence[Bits]) -> Bits:
    """The XOR of packed bits, at least one, as a new array if there are two."""
    total = pieces[0]
    for piece in pieces[1:]:
        total = np.bitwise_xor(total, piece)
    return total


def combination(values: Sequence[Tensor], factors: Sequence[int], constant: int) -> Tensor:
    """The sum of factor * value (at least one) + constant, not reduced; plus and minus one cost no product.

    One value with the factor 1 may be returned as it is.
    """
    total: Tensor | None = None
    for value, factor in zip(values, factors, strict=True):
        if total is None:
            total = value if factor == 1 else -value if factor == -1 else value * factor
        else:
            total = torch.add(total, value, alpha=factor)
    if total is None:
        raise ValueError("a combination of nothing")
    return total + constant if constant else total


# --- products -------------------------------------------------------------------------------------------------------


def product_share(
    function: str,
    dealt: RingPiece,
    x_open: Tensor,
    a: Tensor,
    y_open: Tensor,
    b: Tensor,
    first: bool,
    options: dict[str, Any],
    width: int,
) -> Tensor:
    """A party's share of f(x, y): dealt - f(a, y^), + f(x^, y^ - b) at the first party, - f(x^, b) at the others.

    ``dealt`` may be overwritten.
    """
    f = BILINEAR[function]
    if first:
        out = drawn.ring(dealt) + f(x_open, y_open - b, **options)
    else:
        out = drawn.ring(dealt) - f(x_open, b, **options)
    return reduce_ring(out - f(a, y_open, **options), width)


# --- truncation -----------------------------------------------------------------------------------------------------


def mask_quotients(
    r: Tensor, bit: Tensor | None, divisor: int, width: int, pads: Sequence[RingPads] = ()
) -> tuple[Tensor, ...]:
    """q = floor((r + 2^(w-2) mod d) / d) and t, the top bit of r; with a bit b: (b q, q - b q, b t, t - b t).

    Each less its pads, if there are any.
    """
    values = _quotients_of_mask(r, bit, divisor, width)
    return tuple(take_off(v, p, width) for v, p in zip(values, pads, strict=True)) if pads else values


def _quotients_of_mask(r: Tensor, bit: Tensor | None, divisor: int, width: int) -> tuple[Tensor, ...]:
    carry = (1 << (width - 2)) % divisor
    quotient = divide_unsigned(r, divisor, width)
    if carry:
        quotient = quotient + (r - quotient * divisor + carry >= divisor)
    top = top_bit(r, width)
    if bit is None:
        return quotient, top
    chosen, raised = bit * quotient, bit * top
    return tuple(reduce_ring(x, width) for x in (chosen, quotient - chosen, raised, top - raised))


def _quotients(opened: Tensor, divisor: int, width: int) -> tuple[Tensor, Tensor]:
    quotient = divide_unsigned(opened, divisor, width)
    step, rest = divmod(1 << width, divisor)
    jump: Tensor | int = step if step < (1 << 63) else step - (1 << 64)
    if rest:
        jump = (opened - quotient * divisor + rest >= divisor).to(torch.int64) + step
        return quotient, torch.where(is_negative(opened, width), 0, jump)
    return quotient, torch.where(is_negative(opened, width), 0, torch.tensor(jump, dtype=torch.int64))


def truncated_share(
    opened: Tensor,
    quotients: Sequence[RingPiece],
    tops: Sequence[RingPiece],
    gate: tuple[Tensor, Tensor] | None,
    first: bool,
    divisor: int,
    width: int,
) -> Tensor:
    """A party's share of z / d, or of bit * z / d.

    ``quotients`` and ``tops`` are its pieces of what ``mask_quotients`` gives, one each, or two each with a ``gate``:
    the public flip and this party's share of the gating bit.
    """
    own_quotients, own_tops = [drawn.ring(x) for x in quotients], [drawn.ring(x) for x in tops]
    v = reduce_ring(opened + (1 << (width - 2)), width)
    quotient, jump = _quotients(v, divisor, width)
    quotient = quotient - (1 << (width - 2)) // divisor
    if gate is None:
        out = jump * own_tops[0] - own_quotients[0]
        return reduce_ring(out + quotient if first else out, width)
    flip, bit = gate
    flipped = flip.to(torch.bool)
    top, dealt = (torch.where(flipped, other, one) for one, other in (own_tops, own_quotients))
    out = jump * top - dealt
    return reduce_ring(out + quotient * bit_share(flip, bit, first), width)


# --- comparison -----------------------------------------------------------------------------------------------------


def unary_tables(mask: Tensor, width: int, chunk: int, pads: WordsPads = (), n_chunks: int | None = None) -> Words:
    """The unary codes of a mask's digits (``chunks.unary_tables``), XORed with every pad."""
    out = chunks.unary_tables(mask, width, chunk, n_chunks)
    for pad in pads:
        out = np.bitwise_xor(out, pad.held().reshape(out.shape))
    return out


def unary_leaf(
    opened: Tensor,
    tables: WordsPiece,
    thresholds: Sequence[int],
    negate: bool,
    first: bool,
    width: int,
    chunk: int,
    whole: bool = False,
) -> tuple[Bits, Bits, Bits]:
    """A party's packed planes (less, equal) [chunks, J, bytes] and the public top bits [J, bytes] of v = +-y^ - t_j.

    The digits are those of the low w - 1 bits, or of all w with ``whole`` (equality, where ``less`` is of no use); if
    there are fewer tables, the upper ones.
    """
    held = drawn.words(tables)
    tables = held.reshape(len(held), -1)
    opened = opened.reshape(-1).contiguous()
    if negate:
        opened = -opened
    count = opened.numel()
    n_bytes = -(-count // 8)
    less: Bits = np.empty((len(tables), len(thresholds), n_bytes), dtype=np.uint8)
    equal = np.empty_like(less)
    tops: Bits = np.empty((len(thresholds), n_bytes), dtype=np.uint8)
    for j, threshold in enumerate(thresholds):
        v = reduce_ring(opened - threshold if threshold else opened, width)
        tops[j] = pack_bits(top_bit(v, width).numpy().astype(np.uint8))
        wanted = list(digits(v, width + 1 if whole else width, chunk))
        for k, digit in enumerate(wanted[len(wanted) - len(tables) :]):
            below, at_most = unary_lookup(tables[k], digit, first)
            less[k, j] = pack_bits(below)
            equal[k, j] = pack_bits(at_most)
    equal ^= less
    return less, equal, tops


def pack_top_bits(x: Tensor, width: int) -> Bits:
    """The top bits of a flat tensor, packed."""
    return pack_bits(top_bit(x, width).numpy().astype(np.uint8))


def unpack_to_ring(packed: Bits, count: int, shape: tuple[int, ...]) -> Tensor:
    """Packed rows [rows, bytes] of ``count`` bits each, as ring elements 0 and 1 of shape [rows, *shape]."""
    return torch.from_numpy(unpack_bits(packed, count).astype(np.int64)).reshape(len(packed), *shape)


# --- bits -----------------------------------------------------------------------------------------------------------


def bit_share(flip: Tensor, bit: Tensor, first: bool) -> Tensor:
    """A party's share of d = flip ^ r in the ring, from its share ``bit`` of r."""
    share = (1 - 2 * flip) * bit
    return share + flip if first else share


def weighed_bits(
    flips: Sequence[Tensor], bits: Sequence[Tensor], weights: Sequence[int], constant: int, first: bool, width: int
) -> Tensor:
    """A party's share of constant + the sum of weight * bit (at least one), from its shares as in ``bit_share``."""
    total = bit_share(flips[0], bits[0], first) * weights[0]
    for flip, bit, weight in zip(flips[1:], bits[1:], weights[1:], strict=True):
        total += bit_share(flip, bit, first) * weight
    return reduce_ring(total + constant if first else total, width)


def selection_masks(bit: Tensor, mask: Tensor, width: int, pads: RingPads = ()) -> Tensor:
    """The provider of a selection: r l, less its pads."""
    return take_off(bit * mask, pads, width)


def selected_share(flip: Tensor, opened: Tensor, bit: Tensor, dealt: RingPiece, share: Tensor, width: int) -> Tensor:
    """A party's share of d x: flip [x] + (1 - 2 flip) (x^ [r] - [r l])."""
    chosen = (opened * bit).sub_(drawn.ring(dealt)).mul_(1 - 2 * flip)
    return reduce_ring(chosen.add_(flip * share), width)
