"""Combining chunk comparisons: a tree of masked multi-input ANDs on packed bit planes.

Theory of operation. Chunk k (0 = least significant) gives XOR-shared bits lt_k = [v_k < l_k] and e_k = [v_k = l_k].
A node over k chunks yields
    LT = lt_{k-1} ^ XOR_i lt_i e_{i+1} ... e_{k-1},     E = e_0 ... e_{k-1}
(the terms exclude each other, so OR is XOR). Every variable u of a product is opened as u^ = u ^ m under a fresh bit m;
the product of the (u^ ^ m) expands into XOR over subsets S of (product of u^ outside S) * (product of m inside S), and
the provider deals the products of two or more masks ("monomials"). The node over the least significant chunks needs no
E. Sources: ABY2.0, eprint 2020/1225, sec. 3.2 (multi-input AND); Boyle et al., Grotto, CCS'23 (prefix parity).

Planes are uint8 arrays [..., bytes], eight elements to a byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np

from torchveil.kernels import drawn
from torchveil.kernels.drawn import BitsPads, BitsPiece
from torchveil.randomness import Bits

Variable = tuple[str, int]


# Both are made once each and are keys of caches: by identity, their hash would be that of hundreds of numbers.


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """The plan of a node: its variables, the dealt monomials, and for each output its product terms."""

    size: int
    variables: tuple[Variable, ...]
    monomials: tuple[frozenset[int], ...]
    less: tuple[frozenset[int], ...]
    equal: frozenset[int] | None


@cache
def node(size: int, with_equal: bool) -> Node:
    """The plan for a node over ``size`` chunks."""
    first_equal = 0 if with_equal else 1
    variables: tuple[Variable, ...] = (
        *(("e", k) for k in range(first_equal, size)),
        *(("lt", k) for k in range(size - 1)),
    )
    place = {variable: position for position, variable in enumerate(variables)}
    less = tuple(frozenset([place["lt", k], *(place["e", j] for j in range(k + 1, size))]) for k in range(size - 1))
    equal = frozenset(place["e", k] for k in range(size)) if with_equal else None
    needed: dict[frozenset[int], None] = {}
    for term in [*less, *([equal] if equal is not None else [])]:
        for count in range(2, len(term) + 1):
            for subset in combinations(sorted(term), count):
                needed.setdefault(frozenset(subset))
    return Node(size, variables, tuple(needed), less, equal)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Groups of equal shape on one level: ``chunks[g]`` are the positions of the chunks of group g.

    ``tops`` are those of their uppermost chunks, ``places`` the positions of the groups on the next level.
    """

    plan: Node
    chunks: tuple[tuple[int, ...], ...]
    tops: tuple[int, ...]
    places: slice


@cache
def levels(chunks: int, fan_in: int) -> tuple[tuple[Group, ...], ...]:
    """The levels of the tree: on each, its groups gathered by plan, lowest first."""
    out = []
    while chunks > 1:
        parts = [tuple(range(start, min(start + fan_in, chunks))) for start in range(0, chunks, fan_in)]
        by_plan: dict[Node, list[int]] = {}
        for position, part in enumerate(parts):
            by_plan.setdefault(node(len(part), position > 0), []).append(position)
        out.append(tuple(_group(plan, positions, parts) for plan, positions in by_plan.items()))
        chunks = len(parts)
    return tuple(out)


def _group(plan: Node, positions: list[int], parts: list[tuple[int, ...]]) -> Group:
    """Only the first and the last part of a level differ from the others, so equal ones lie side by side."""
    chunks = tuple(parts[position] for position in positions)
    return Group(plan, chunks, tuple(part[-1] for part in chunks), slice(positions[0], positions[-1] + 1))


def gather(group: Group, lt: Bits, eq: Bits) -> Bits:
    """The variables of a group: [variables, groups, ...] from planes [chunks, ...]."""
    rows = [(eq if kind == "e" else lt)[[members[k] for members in group.chunks]] for kind, k in group.plan.variables]
    return np.stack(rows) if rows else np.empty((0, len(group.chunks), *lt.shape[1:]), dtype=np.uint8)


def gather_masked(group: Group, lt: Bits, eq: Bits, mask: BitsPiece) -> Bits:
    """The variables of a group under a mask."""
    return gather(group, lt, eq) ^ drawn.bits(mask)


def dealt_monomials(plan: Node, masks: BitsPads, pads: BitsPads) -> Bits:
    """The monomials of the XOR of all parties' ``masks``, XORed with every pad."""
    total = masks[0].held()
    for mask in masks[1:]:
        total = np.bitwise_xor(total, mask.held())
    out = monomials(plan, total)
    for pad in pads:
        np.bitwise_xor(out, pad.held(), out=out)
    return out


def monomials(plan: Node, masks: Bits) -> Bits:
    """The dealt products of mask bits: [monomials, groups, ...] from masks [variables, groups, ...]."""
    out = np.empty((len(plan.monomials), *masks.shape[1:]), dtype=np.uint8)
    place: dict[frozenset[int], int] = {}
    for row, subset in enumerate(plan.monomials):
        ordered = sorted(subset)
        rest = frozenset(ordered[:-1])
        left = out[place[rest]] if rest in place else masks[ordered[0]]
        if len(ordered) > 2 and rest not in place:
            left = np.bitwise_and.reduce(masks[ordered[:-1]], axis=0)
        np.bitwise_and(left, masks[ordered[-1]], out=out[row])
        place[subset] = row
    return out


def _product(term: frozenset[int], opened: Bits, masks: Bits, dealt: Bits, plan: Node, first: bool) -> Bits:
    """A party's XOR share of the product of all variables of ``term``."""
    ordered = sorted(term)
    place = {subset: row for row, subset in enumerate(plan.monomials)}
    public: dict[frozenset[int], Bits | None] = {frozenset(): None}
    for count in range(1, len(ordered) + 1):
        for subset in combinations(ordered, count):
            rest = public[frozenset(subset[:-1])]
            last = opened[subset[-1]]
            public[frozenset(subset)] = last if rest is None else rest & last
    out = np.zeros(opened.shape[1:], dtype=np.uint8)
    for outside, factor in public.items():
        inside = term - outside
        if not inside:
            if first and factor is not None:
                out ^= factor
            continue
        share = masks[next(iter(inside))] if len(inside) == 1 else dealt[place[inside]]
        out ^= share if factor is None else share & factor
    return out


def evaluate_node(
    plan: Node, lt_top: Bits, opened: Bits, masks: BitsPiece, dealt: BitsPiece, first: bool
) -> tuple[Bits, Bits | None]:
    """A party's shares of (LT, E) of every group of a plan."""
    masks, dealt = drawn.bits(masks), drawn.bits(dealt)
    less = lt_top.copy()
    for term in plan.less:
        less ^= _product(term, opened, masks, dealt, plan, first)
    if plan.equal is None:
        return less, None
    return less, _product(plan.equal, opened, masks, dealt, plan, first)


def bits_per_comparison(chunks: int, fan_in: int) -> tuple[int, int, int]:
    """(rounds, opened planes, dealt planes) of a whole tree."""
    opened = dealt = 0
    plan_levels = levels(chunks, fan_in)
    for level in plan_levels:
        for group in level:
            opened += len(group.plan.variables) * len(group.chunks)
            dealt += len(group.plan.monomials) * len(group.chunks)
    return len(plan_levels), opened, dealt


# --- products alone (equality) ---------------------------------------------------------------------------------------


@cache
def product_node(size: int) -> Node:
    """The plan for the product of ``size`` bits."""
    variables: tuple[Variable, ...] = tuple(("e", k) for k in range(size))
    needed = tuple(frozenset(subset) for count in range(2, size + 1) for subset in combinations(range(size), count))
    return Node(size, variables, needed, (), frozenset(range(size)))


@cache
def product_levels(chunks: int, fan_in: int) -> tuple[tuple[int, ...], ...]:
    """The sizes of the groups on each level of a tree of products."""
    out = []
    while chunks > 1:
        sizes = tuple(min(fan_in, chunks - start) for start in range(0, chunks, fan_in))
        out.append(sizes)
        chunks = len(sizes)
    return tuple(out)


def evaluate_product(plan: Node, opened: Bits, masks: BitsPiece, dealt: BitsPiece, first: bool) -> Bits:
    """A party's share of the product of all variables of a plan of ``product_node``."""
    return _product(frozenset(range(plan.size)), opened, drawn.bits(masks), drawn.bits(dealt), plan, first)
