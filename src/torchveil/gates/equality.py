"""Equality with public values: an AND of chunk equalities, one table for any number of values.

Formula. y = t iff y^ - t = l in the whole ring, chunk by chunk: e_k = [v_k = l_k] from the unary code of the mask's
digit (as in ``gates.comparator``, here over all w bits), then their ``conjunction``, which is opened as a bit wire.
Views. As for the comparison: uniform pieces and openings under fresh bits. Cost per element and J values: 3 rounds;
sent 21 J / 8 (n - 1) bytes; dealt 32 + 55 J / 8 + 8 J bytes. Floors: 240 bits of tables where 256 are dealt; 20 opened
bits per value is what a fan-in of 4 needs (fewer rounds cost more monomials).
Source of the tables: Ishai et al., TCC'13.
"""

from __future__ import annotations

import math

import torch

from torchveil.gates.base import Cost, Gate, Interaction
from torchveil.gates.bit_opening import cost_of_bits, deal_bits, open_bits
from torchveil.gates.comparator import geometry
from torchveil.gates.conjunction import conjunction, cost_of_conjunction, deal_conjunction
from torchveil.kernels import unary_leaf, unary_tables
from torchveil.program.instructions import Equal
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider

_TABLES = 0


def _chunks(width: int) -> tuple[int, int, int]:
    """(bits per chunk, chunks, fan-in) over all bits of the ring."""
    shape = geometry(width)
    return shape.chunk, -(-width // shape.chunk), shape.fan_in


def deal(provider: Provider, i: Equal) -> None:
    chunk, chunks, fan_in = _chunks(provider.width)
    mask = provider.wires[i.x].total_mask().reshape(-1)
    count = mask.numel()
    pads = provider.pads_words(_TABLES, (chunks, count), (1 << chunk) - 1)
    provider.send_words_correction(_TABLES, unary_tables(mask, provider.width + 1, chunk, pads))
    deal_conjunction(provider, chunks, fan_in, (len(i.values), -(-count // 8)))
    deal_bits(provider, i.outs, len(i.outs), count, lambda bits: bits.reshape(len(i.outs), *i.shape))


def evaluate(party: Party, i: Equal) -> Interaction:
    chunk, chunks, fan_in = _chunks(party.width)
    opened, _ = party.wires[i.x].faces()
    opened = opened.reshape(-1)
    count = opened.numel()
    tables = party.dealt_words_piece(_TABLES, (chunks, count), (1 << chunk) - 1)
    _, equal, _ = unary_leaf(opened, tables, i.values, False, party.first, party.width, chunk, whole=True)
    del tables
    rows = yield from conjunction(party, equal, fan_in)
    yield from open_bits(party, i.outs, rows, count, lambda bits: bits.reshape(len(i.outs), *i.shape))


def clear(plain: Plain, i: Equal) -> None:
    y = plain.value(i.x)
    for out, value in zip(i.outs, i.values, strict=True):
        plain.set_bit(out, (y == value % (1 << plain.width) if plain.width < 64 else y == value).to(torch.int64))


def cost(i: Equal, n_parties: int) -> Cost:
    _, chunks, fan_in = _chunks(64)
    count = math.prod(i.shape)
    n_bytes = -(-count // 8) * len(i.values)
    tables = Cost(dealt=2 * chunks * count)
    trees = cost_of_conjunction(chunks, fan_in, n_bytes, n_parties)
    return tables + trees + cost_of_bits(len(i.outs), count, n_parties)


GATE = Gate("equal", True, deal, evaluate, clear, cost)
