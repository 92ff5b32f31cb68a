"""Comparison with public thresholds: selector bits from one opening, two rounds of ANDs and one round for the bit.

Theory of operation (w = 64). y^ = y + l is known. The sign of y - t is
    msb(y - t) = msb(v) ^ msb(l) ^ [v_lo < l_lo],   v = y^ - t,
with lo the low w - 1 bits. l_lo is cut into chunks of 4 bits; for each the provider deals, XOR-shared, the
unary code T[u] = [u < l_k], u = 0..14. With the public digit v_k, lt_k = T[v_k] and le_k = T[v_k - 1] (T[-1] = 1), so
e_k = lt_k ^ le_k: look-ups, no interaction, linear over GF(2), hence right for every number of parties. ``and_tree``
combines the chunks. One table serves any number of thresholds; the AND masks and monomials are fresh for each.
If y is known to be a multiple of 2^zeros (``gates.rounding``), the thresholds are rounded up to such multiples, v and l
end in zeros, and the chunks that consist of them are left out.
The XORs asked for are opened as d^ = d ^ r under a fresh bit r whose arithmetic sharing [r] is dealt: a bit wire.

Exact for all 2^64 values of y - t. With a = b as signed numbers, [a < b] = msb(a - b) needs |a - b| < 2^63.
Views. party: uniform XOR pieces and tables, openings under fresh bits; provider: nothing. Cost per element, J
thresholds and K bits: rounds 3; sent (33 J + K)/8 (n-1) bytes; dealt 32 + (96 J + 1)/8 + 8 K bytes (353 bits + 8 bytes
for J = K = 1). With zeros = 16: sent (24 J + K)/8 (n-1), dealt 24 + (64 J + 1)/8 + 8 K. Floors: 232 bits of tables (15
per chunk, 7 for the top one) where 256 are dealt, and 8 bytes [r].
Sources: one-time truth tables, Ishai et al., TCC'13; prefix parity, Boyle et al., CCS'23; the combination is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchveil.gates.base import Cost, Exchange, Gate, Interaction
from torchveil.kernels import (
    and_tree,
    evaluate_node,
    gather_masked,
    monomials,
    pack_top_bits,
    signed,
    unary_leaf,
    unary_tables,
    unpack_to_ring,
)
from torchveil.program.instructions import Compare
from torchveil.randomness import Bits
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import BitWire


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


_TABLES, _SIGN, _RESULT, _FLIP, _TREE = 0, 1, 2, 3, 4


def _select_rows(rows: Bits, i: Compare) -> list[Bits]:
    out = []
    for chosen, _ in i.outputs:
        total = rows[chosen[0]].copy()
        for j in chosen[1:]:
            total ^= rows[j]
        out.append(total)
    return out


def deal(provider: Provider, i: Compare) -> None:
    shape = geometry(provider.width, i.zeros)
    mask = provider.wires[i.x].total_mask().reshape(-1)
    if i.negate:
        mask = provider.reduce(-mask)
    count = mask.numel()
    n_bytes = -(-count // 8)
    provider.deal_words(_TABLES, unary_tables(mask, provider.width, shape.chunk, shape.chunks), (1 << shape.chunk) - 1)
    provider.deal_bits(_SIGN, pack_top_bits(mask, provider.width).reshape(1, n_bytes))
    slot = _TREE
    for level in and_tree.levels(shape.chunks, shape.fan_in):
        for group in level:
            size = (len(group.plan.variables), len(group.chunks), len(i.thresholds), n_bytes)
            provider.deal_bits(slot, monomials(group.plan, provider.mask_bits(slot, size)))
            slot += 1
    flips = provider.mask_bits(_FLIP, (len(i.outs), n_bytes))
    bits = unpack_to_ring(flips, count, i.shape)
    provider.deal(_RESULT, bits)
    for k, out in enumerate(i.outs):
        provider.bits[out] = BitWire(None, bits[k])


def evaluate(party: Party, i: Compare) -> Interaction:
    shape = geometry(party.width, i.zeros)
    opened = party.wires[i.x].public().reshape(-1)
    count = opened.numel()
    n_bytes = -(-count // 8)
    tables = party.dealt_words(_TABLES, (shape.chunks, count), (1 << shape.chunk) - 1)
    thresholds = [-(-t >> i.zeros << i.zeros) for t in i.thresholds]
    less, equal, tops = unary_leaf(opened, tables, thresholds, i.negate, party.first, party.width, shape.chunk)
    slot = _TREE
    for level in and_tree.levels(shape.chunks, shape.fan_in):
        masked, masks, first_slot = [], [], slot
        for group in level:
            shape_of = (len(group.plan.variables), len(group.chunks), *less.shape[1:])
            mask = party.mask_bits(slot, shape_of)
            masks.append(mask)
            masked.append(gather_masked(group, less, equal, mask))
            slot += 1
        totals = yield Exchange("xor", tuple(masked))
        n_groups = sum(len(group.chunks) for group in level)
        next_less = np.empty((n_groups, *less.shape[1:]), dtype=np.uint8)
        next_equal = np.zeros_like(next_less)
        width = max(len(members) for group in level for members in group.chunks)
        for offset, (group, mask, total) in enumerate(zip(level, masks, totals, strict=True)):
            size = (len(group.plan.monomials), *mask.shape[1:])
            dealt = party.dealt_bits(first_slot + offset, size)
            lt_top = less[[members[-1] for members in group.chunks]]
            lt_out, eq_out = evaluate_node(group.plan, lt_top, total, mask, dealt, party.first)
            places = [members[0] // width for members in group.chunks]
            next_less[places] = lt_out
            if eq_out is not None:
                next_equal[places] = eq_out
        less, equal = next_less, next_equal
    signs = less[0] ^ party.dealt_bits(_SIGN, (1, n_bytes))
    if party.first:
        signs ^= tops
    flips = party.mask_bits(_FLIP, (len(i.outs), n_bytes))
    rows = np.stack(_select_rows(signs, i)) ^ flips
    if party.first:
        for k, (_, flip) in enumerate(i.outputs):
            if flip:
                rows[k] ^= 0xFF
    (public,) = yield Exchange("xor", (rows,))
    flip_bits = unpack_to_ring(public, count, i.shape)
    share = party.dealt(_RESULT, (len(i.outs), *i.shape))
    for k, out in enumerate(i.outs):
        party.bits[out] = BitWire(flip_bits[k], share[k])


def clear(plain: Plain, i: Compare) -> None:
    y = plain.value(i.x)
    if i.negate:
        y = -y
    below: list[Tensor] = []
    for threshold in i.thresholds:
        difference = y - threshold if plain.width == 64 else (y - threshold) & ((1 << plain.width) - 1)
        below.append((signed(difference, plain.width) < 0).to(torch.int64))
    limit = (1 << (plain.width - 2)) - 1
    plain.require(y, -limit, limit, "comparison", "compare values that are closer together, or use fewer digits")
    for out, (chosen, flip) in zip(i.outs, i.outputs, strict=True):
        total = below[chosen[0]]
        for j in chosen[1:]:
            total = total ^ below[j]
        plain.set_bit(out, total ^ 1 if flip else total)


def cost(i: Compare, n_parties: int) -> Cost:
    shape = geometry(64, i.zeros)
    rounds, opened, dealt = and_tree.bits_per_comparison(shape.chunks, shape.fan_in)
    count = math.prod(i.shape)
    n_bytes = -(-count // 8)
    n_thresholds, n_outputs = len(i.thresholds), len(i.outs)
    return Cost(
        rounds=rounds + 1,
        sent=(opened * n_thresholds + n_outputs) * n_bytes * (n_parties - 1),
        dealt=2 * shape.chunks * count + (dealt * n_thresholds + 1) * n_bytes + 8 * n_outputs * count,
    )


GATE = Gate("compare", True, deal, evaluate, clear, cost)
