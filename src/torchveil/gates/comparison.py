"""Comparison with public thresholds: selector bits from one opening, two rounds of ANDs and one round for the bit.

Formula. The ``comparator`` gives XOR shares of m_j = [y - t_j < 0]; the XORs of them that are asked for are opened as
bit wires (``bit_opening``). Exact for all 2^64 values of y - t.
Views. party: uniform XOR pieces and tables, openings under fresh bits; provider: nothing. Cost per element, J
thresholds and K bits: rounds 3; sent (33 J + K)/8 (n-1) bytes; dealt 32 + (96 J + 1)/8 + 8 K bytes (353 bits + 8 bytes
for J = K = 1); with zeros = 16: sent (24 J + K)/8 (n-1), dealt 24 + (64 J + 1)/8 + 8 K. Floors: those of the
comparator, and 8 bytes [r] per bit.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from torchveil.gates.base import Cost, Gate, Interaction
from torchveil.gates.bit_opening import cost_of_bits, deal_bits, open_bits
from torchveil.gates.comparator import cost_of_signs, deal_signs, signs
from torchveil.kernels import signed
from torchveil.program.instructions import Compare
from torchveil.randomness import Bits
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider


def _select_rows(rows: Bits, i: Compare) -> list[Bits]:
    out = []
    for chosen, _ in i.outputs:
        total = rows[chosen[0]].copy()
        for j in chosen[1:]:
            total ^= rows[j]
        out.append(total)
    return out


def deal(provider: Provider, i: Compare) -> None:
    mask = provider.wires[i.x].total_mask().reshape(-1)
    deal_signs(provider, provider.reduce(-mask) if i.negate else mask, len(i.thresholds), i.zeros)
    deal_bits(provider, i.outs, len(i.outs), mask.numel(), lambda bits: bits.reshape(len(i.outs), *i.shape))


def evaluate(party: Party, i: Compare) -> Interaction:
    opened = party.wires[i.x].public().reshape(-1)
    below = yield from signs(party, opened, i.thresholds, negate=i.negate, zeros=i.zeros)
    rows = np.stack(_select_rows(below, i))
    if party.first:
        for k, (_, flip) in enumerate(i.outputs):
            if flip:
                rows[k] ^= 0xFF
    yield from open_bits(party, i.outs, rows, opened.numel(), lambda bits: bits.reshape(len(i.outs), *i.shape))


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
    count = math.prod(i.shape)
    bits = cost_of_bits(len(i.outs), count, n_parties)
    return cost_of_signs(count, -(-count // 8), len(i.thresholds), n_parties, i.zeros) + bits


GATE = Gate("compare", True, deal, evaluate, clear, cost)
