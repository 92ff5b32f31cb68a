"""Conjunction: the AND of many XOR-shared bits by a tree of masked multi-input products.

Formula. A node of f bits opens each as u^ = u ^ m under a fresh bit m and expands the product of the (u^ ^ m); the
provider deals the products of two and more m's (``kernels.and_tree``). Views. Openings under fresh bits, uniform
pieces. Cost per element and tree over b bits: ceil(log_f b) rounds; b + ceil(b / f) + ... bits sent to each other one;
2^f - 1 - f bits dealt per full node. Floor: an opened bit per input of a node; a larger f trades rounds for monomials.
Source: ABY2.0, eprint 2020/1225, sec. 3.2 (multi-input AND).
"""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from itertools import accumulate, count
from typing import Any

import numpy as np

from torchveil.gates.base import Cost, Exchange
from torchveil.kernels import and_tree, dealt_monomials, evaluate_product
from torchveil.randomness import Bits
from torchveil.roles.party import Party
from torchveil.roles.provider import Provider

_FIRST_SLOT = 256


@cache
def _levels(n_factors: int, fan_in: int) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """The nodes of each level of the tree: (slot, first factor, number of factors)."""
    slots = count(_FIRST_SLOT)
    return tuple(
        tuple((next(slots), start, size) for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False))
        for sizes in and_tree.product_levels(n_factors, fan_in)
    )


def deal_conjunction(provider: Provider, n_factors: int, fan_in: int, planes: tuple[int, ...]) -> None:
    """Deal what ``conjunction`` reads for ``n_factors`` packed bits of shape ``planes`` each."""
    for level in _levels(n_factors, fan_in):
        for slot, _, size in level:
            plan = and_tree.product_node(size)
            masks = provider.mask_bits_pieces(slot, (size, *planes))
            pads = provider.pads_bits(slot, (len(plan.monomials), *planes))
            provider.send_bits_correction(slot, dealt_monomials(plan, masks, pads))


def conjunction(party: Party, factors: Bits, fan_in: int) -> Generator[Exchange, tuple[Any, ...], Bits]:
    """This party's XOR share of the AND over the first axis of XOR-shared packed bits."""
    for level in _levels(len(factors), fan_in):
        masks = [party.mask_bits(slot, (size, *factors.shape[1:])) for slot, _, size in level]
        masked = [factors[start : start + size] ^ mask for mask, (_, start, size) in zip(masks, level, strict=True)]
        totals = yield Exchange("xor", tuple(masked))
        rows = []
        for mask, total, (slot, _, size) in zip(masks, totals, level, strict=True):
            plan = and_tree.product_node(size)
            dealt = party.dealt_bits_piece(slot, (len(plan.monomials), *mask.shape[1:]))
            rows.append(evaluate_product(plan, total, mask, dealt, party.first))
        factors = np.stack(rows)
    out: Bits = factors[0]
    return out


def cost_of_conjunction(n_factors: int, fan_in: int, n_bytes: int, n_parties: int) -> Cost:
    """The cost of one tree whose every bit plane has ``n_bytes`` bytes."""
    levels = and_tree.product_levels(n_factors, fan_in)
    opened = sum(sum(sizes) for sizes in levels)
    dealt = sum(len(and_tree.product_node(size).monomials) for sizes in levels for size in sizes)
    return Cost(rounds=len(levels), sent=opened * n_bytes * (n_parties - 1), dealt=dealt * n_bytes)
