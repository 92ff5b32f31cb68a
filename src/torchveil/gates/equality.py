"""Equality with public values: an AND of chunk equalities, one table for any number of values.

Formula. y = t iff y^ - t = l in the whole ring, chunk by chunk: e_k = [v_k = l_k] from the unary code of the mask's
digit (as in ``gates.comparison``, here over all w bits), then a tree of masked multi-input ANDs, then the bit is opened
under a fresh one.
Views. As for the comparison: uniform pieces and openings under fresh bits. Cost per element and J values: 3 rounds;
sent 21 J / 8 (n - 1) bytes; dealt 32 + 55 J / 8 + 8 J bytes. Floors: 240 bits of tables where 256 are dealt; 20 opened
bits per value is what a fan-in of 4 needs (fewer rounds cost more monomials).
Sources: Ishai et al., TCC'13 (one-time truth tables); ABY2.0, eprint 2020/1225, sec. 3.2 (multi-input AND).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from torchveil.gates.base import Cost, Exchange, Gate, Interaction
from torchveil.gates.comparison import geometry
from torchveil.kernels import and_tree, dealt_monomials, evaluate_product, unary_leaf, unary_tables, unpack_to_ring
from torchveil.program.instructions import Equal
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import BitWire

_TABLES, _RESULT, _FLIP, _TREE = 0, 1, 2, 3


def _chunks(width: int) -> tuple[int, int, int]:
    """(bits per chunk, chunks, fan-in) over all bits of the ring."""
    shape = geometry(width)
    return shape.chunk, -(-width // shape.chunk), shape.fan_in


def deal(provider: Provider, i: Equal) -> None:
    chunk, chunks, fan_in = _chunks(provider.width)
    mask = provider.wires[i.x].total_mask().reshape(-1)
    count = mask.numel()
    n_bytes = -(-count // 8)
    pads = provider.pads_words(_TABLES, (chunks, count), (1 << chunk) - 1)
    provider.send_words_correction(_TABLES, unary_tables(mask, provider.width + 1, chunk, pads))
    for level, sizes in enumerate(and_tree.product_levels(chunks, fan_in)):
        for group, size in enumerate(sizes):
            slot, plan = _slot(level, group), and_tree.product_node(size)
            masks = provider.mask_bits_pieces(slot, (size, len(i.values), n_bytes))
            pads_bits = provider.pads_bits(slot, (len(plan.monomials), len(i.values), n_bytes))
            provider.send_bits_correction(slot, dealt_monomials(plan, masks, pads_bits))
    flips = provider.mask_bits(_FLIP, (len(i.outs), n_bytes))
    bits = unpack_to_ring(flips, count, i.shape)
    provider.deal(_RESULT, bits)
    for k, out in enumerate(i.outs):
        provider.bits[out] = BitWire(None, bits[k])


def evaluate(party: Party, i: Equal) -> Interaction:
    chunk, chunks, fan_in = _chunks(party.width)
    opened, _ = party.wires[i.x].faces()
    opened = opened.reshape(-1)
    count = opened.numel()
    n_bytes = -(-count // 8)
    tables = party.dealt_words_piece(_TABLES, (chunks, count), (1 << chunk) - 1)
    _, equal, _ = unary_leaf(opened, tables, i.values, False, party.first, party.width, chunk, whole=True)
    del tables
    for level, sizes in enumerate(and_tree.product_levels(chunks, fan_in)):
        starts = np.cumsum([0, *sizes])
        masks = [
            party.mask_bits(_slot(level, group), (size, len(i.values), n_bytes)) for group, size in enumerate(sizes)
        ]
        masked = tuple(equal[starts[g] : starts[g + 1]] ^ mask for g, mask in enumerate(masks))
        totals = yield Exchange("xor", masked)
        rows = []
        for group, (mask, total) in enumerate(zip(masks, totals, strict=True)):
            plan = and_tree.product_node(sizes[group])
            dealt = party.dealt_bits_piece(_slot(level, group), (len(plan.monomials), *mask.shape[1:]))
            rows.append(evaluate_product(plan, total, mask, dealt, party.first))
        equal = np.stack(rows)
    flips = party.mask_bits(_FLIP, (len(i.outs), n_bytes))
    (public,) = yield Exchange("xor", (equal[0] ^ flips,))
    flip_bits = unpack_to_ring(public, count, i.shape)
    share = party.dealt(_RESULT, (len(i.outs), *i.shape))
    for k, out in enumerate(i.outs):
        party.bits[out] = BitWire(flip_bits[k], share[k])


def _slot(level: int, group: int) -> int:
    return _TREE + 256 * level + group


def clear(plain: Plain, i: Equal) -> None:
    y = plain.value(i.x)
    for out, value in zip(i.outs, i.values, strict=True):
        plain.set_bit(out, (y == value % (1 << plain.width) if plain.width < 64 else y == value).to(torch.int64))


def cost(i: Equal, n_parties: int) -> Cost:
    _, chunks, fan_in = _chunks(64)
    count = math.prod(i.shape)
    n_bytes = -(-count // 8)
    levels = and_tree.product_levels(chunks, fan_in)
    opened = sum(sum(sizes) for sizes in levels)
    dealt = sum(len(and_tree.product_node(size).monomials) for sizes in levels for size in sizes)
    n_values = len(i.values)
    return Cost(
        rounds=len(levels) + 1,
        sent=(opened + 1) * n_values * n_bytes * (n_parties - 1),
        dealt=2 * chunks * count + dealt * n_values * n_bytes + 8 * n_values * count,
    )


GATE = Gate("equal", True, deal, evaluate, clear, cost)
