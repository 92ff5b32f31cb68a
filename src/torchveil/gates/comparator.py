"""The comparator: XOR shares of the sign bits [y - t < 0] of an opened value, before anything is opened.

Theory of operation (w = 64). y^ = y + l is known. The sign of y - t is
    msb(y - t) = msb(v) ^ msb(l) ^ [v_lo < l_lo],   v = y^ - t,
with lo the low w - 1 bits. l_lo is cut into chunks of 4 bits; for each the provider deals, XOR-shared, the unary code
T[u] = [u < l_k], u = 0..14. With the public digit v_k, lt_k = T[v_k] and le_k = T[v_k - 1] (T[-1] = 1), so e_k =
lt_k ^ le_k: look-ups, no interaction, linear over GF(2), hence right for every number of parties. ``and_tree`` combines
the chunks. One table serves any number of thresholds; the AND masks and monomials are fresh for each.
If y is known to be a multiple of 2^zeros (``gates.rounding``), the thresholds are rounded up to such multiples, v and l
end in zeros, and the chunks that consist of them are left out: 12 chunks for zeros = 16.

Exact for all 2^64 values of y - t. With a = b as signed numbers, [a < b] = msb(a - b) needs |a - b| < 2^63.
What a gate builds on these bits states views and cost; of the comparator itself, per element and J thresholds: 2
rounds; sent 33 J / 8 (n - 1) bytes; dealt 32 + (96 J + 1) / 8 bytes. Floor: 232 bits of tables (15 per chunk, 7 for
the top one) where 256 are dealt.
Sources: one-time truth tables, Ishai et al., TCC'13; prefix parity, Boyle et al., CCS'23; the combination is ours.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from torchveil.gates.base import Cost, Exchange
from torchveil.kernels import (
    and_tree,
    dealt_monomials,
    evaluate_node,
    gather_masked,
    pack_top_bits,
    unary_leaf,
    unary_tables,
)
from torchveil.randomness import Bits
from torchveil.roles.party import Party
from torchveil.roles.provider import Provider

#: Slots of the labels. Those between belong to ``bit_opening``, those from 256 on to ``conjunction``.
_TABLES, _SIGN, _TREE = 0, 1, 4


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the low w - 1 bits are cut: ``chunk`` bits each, trees of ``fan_in``."""

    chunk: int
    fan_in: int
    chunks: int


def geometry(width: int, zeros: int = 0) -> Geometry:
    """4-bit chunks and fan-in 4 in the real ring; 1-bit chunks and fan-in 2 in the small rings of the leak tests."""
    chunk, fan_in = (4, 4) if width == 64 else (1, 2)
    return Geometry(chunk, fan_in, -(-(width - 1) // chunk) - zeros // chunk)


def deal_signs(provider: Provider, mask: Tensor, n_thresholds: int, zeros: int = 0) -> None:
    """Deal what ``signs`` reads, for the mask [*lead, elements] of y; whole bytes of elements if there is a lead."""
    shape = geometry(provider.width, zeros)
    planes = (*mask.shape[:-1], -(-mask.shape[-1] // 8))
    flat = mask.reshape(-1)
    pads = provider.pads_words(_TABLES, (shape.chunks, *mask.shape), (1 << shape.chunk) - 1)
    tables = unary_tables(flat, provider.width, shape.chunk, pads, shape.chunks)
    provider.send_words_correction(_TABLES, tables.reshape(shape.chunks, *mask.shape))
    provider.deal_bits(_SIGN, pack_top_bits(flat, provider.width).reshape(1, *planes))
    slot = _TREE
    for level in and_tree.levels(shape.chunks, shape.fan_in):
        for group in level:
            size = (len(group.plan.variables), len(group.chunks), n_thresholds, *planes)
            masks = provider.mask_bits_pieces(slot, size)
            pads_bits = provider.pads_bits(slot, (len(group.plan.monomials), *size[1:]))
            provider.send_bits_correction(slot, dealt_monomials(group.plan, masks, pads_bits))
            slot += 1


def signs(
    party: Party, opened: Tensor, thresholds: Sequence[int], *, negate: bool = False, zeros: int = 0
) -> Generator[Exchange, tuple[Any, ...], Bits]:
    """This party's XOR share of the packed bits [y - t_j < 0], [J, *lead, bytes], from y^ [*lead, elements]."""
    shape = geometry(party.width, zeros)
    thresholds = [-(-t >> zeros << zeros) for t in thresholds]
    planes = (*opened.shape[:-1], -(-opened.shape[-1] // 8))
    tables = party.dealt_words_piece(_TABLES, (shape.chunks, *opened.shape), (1 << shape.chunk) - 1)
    flat = opened.reshape(-1)
    less, equal, tops = unary_leaf(flat, tables, thresholds, negate, party.first, party.width, shape.chunk)
    del tables  # the largest thing here: 32 bytes an element
    less, equal = (x.reshape(shape.chunks, len(thresholds), *planes) for x in (less, equal))
    slot = _TREE
    for level in and_tree.levels(shape.chunks, shape.fan_in):
        masked, masks, first_slot = [], [], slot
        for group in level:
            shape_of = (len(group.plan.variables), len(group.chunks), *less.shape[1:])
            mask = party.mask_bits_piece(slot, shape_of)
            masks.append(mask)
            masked.append(gather_masked(group, less, equal, mask))
            slot += 1
        totals = yield Exchange("xor", tuple(masked))
        results = []
        for offset, (group, mask, total) in enumerate(zip(level, masks, totals, strict=True)):
            size = (len(group.plan.monomials), *mask.shape[1:])
            dealt = party.dealt_bits_piece(first_slot + offset, size)
            results.append(evaluate_node(group.plan, less[list(group.tops)], total, mask, dealt, party.first))
        less, equal = _next_level(level, results)
    share: Bits = less[0] ^ party.dealt_bits(_SIGN, (1, *planes))
    if party.first:
        share ^= tops.reshape(share.shape)
    return share


def _next_level(level: Sequence[and_tree.Group], results: Sequence[tuple[Bits, Bits | None]]) -> tuple[Bits, Bits]:
    """The planes of a level put in order; "equal" is not asked for at the group of the lowest chunks."""
    first = results[0][0]
    if len(results) == 1:
        return first, first
    less = np.empty((sum(len(group.chunks) for group in level), *first.shape[1:]), dtype=np.uint8)
    equal = np.zeros_like(less)
    for group, (lt, eq) in zip(level, results, strict=True):
        less[group.places] = lt
        if eq is not None:
            equal[group.places] = eq
    return less, equal


def cost_of_signs(n_values: int, n_bytes: int, n_thresholds: int, n_parties: int, zeros: int = 0) -> Cost:
    """The cost of the comparator on ``n_values`` elements, ``n_bytes`` bytes of bits, and J thresholds."""
    shape = geometry(64, zeros)
    rounds, opened, dealt = and_tree.bits_per_comparison(shape.chunks, shape.fan_in)
    return Cost(
        rounds=rounds,
        sent=opened * n_thresholds * n_bytes * (n_parties - 1),
        dealt=2 * shape.chunks * n_values + (dealt * n_thresholds + 1) * n_bytes,
    )
