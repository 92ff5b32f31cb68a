"""A recorded stream with less work in it and the same values: what a plan does once, and what cancels.

Names the wires that are the same value (copies, a map taken twice, a transposition of a transposition), leaves out the
second opening of a wire, takes openings of several wires apart, and makes one combination of a combination of
combinations. Every rewriting is exact in the ring, so results do not change by a unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torchveil.program import instructions as ins
from torchveil.program.wiring import reads, renamed

Placed = tuple[int, ins.Instruction]

#: Maps that undo themselves when they follow directly on one another with the same arguments.
_INVOLUTIONS = frozenset(("t", "transpose"))

#: Factors and constants stay below this, far from where torch takes no integer any more.
_INTEGERS = 1 << 60


def simplified(stream: Iterable[ins.Instruction], outputs: Sequence[int]) -> tuple[list[Placed], dict[int, int]]:
    """(place in ``stream``, instruction) without repetitions, and which wire stands for which.

    ``outputs``: the wires that are wanted; one that does not stand for itself is to be looked up.
    """
    once, stands = _once(stream)
    return _flat_sums(once, {stands.get(x, x) for x in outputs}), stands


def _once(stream: Iterable[ins.Instruction]) -> tuple[list[Placed], dict[int, int]]:
    out: list[Placed] = []
    stands: dict[int, int] = {}
    maps: dict[Any, int] = {}
    made_by: dict[int, ins.Map] = {}
    opened: set[int] = set()
    for place, recorded in enumerate(stream):
        i = renamed(recorded, lambda x: stands.get(x, x))
        if isinstance(i, ins.Open):
            parts = [part for part in i.one_by_one() if part.xs[0] not in opened]
            opened.update(part.xs[0] for part in parts)
            out.extend((place, part) for part in parts)
            continue
        same = _same(i, maps, made_by)
        if same is not None and isinstance(i, (ins.Map, ins.Combine)):
            stands[i.out] = same
            continue
        if isinstance(i, ins.Map):
            made_by[i.out] = i
            if i.map.key is not None:
                maps[i.x, i.map.key] = i.out
        out.append((place, i))
    return out, stands


def _same(i: ins.Instruction, maps: dict[Any, int], made_by: dict[int, ins.Map]) -> int | None:
    """A wire that exists already and is the result of ``i``."""
    if isinstance(i, ins.Combine) and not i.constant and len(i.terms) == 1 and i.terms[0][1] == 1:
        return i.terms[0][0]
    if not isinstance(i, ins.Map):
        return None
    before = made_by.get(i.x)
    if before is not None and i.map.name in _INVOLUTIONS and before.map.key == i.map.key is not None:
        return before.x
    return maps.get((i.x, i.map.key))


def _flat_sums(stream: Sequence[Placed], outputs: set[int]) -> list[Placed]:
    """Combinations that only another combination reads become a part of it; nobody reads them then."""
    uses = Counter(x for _, i in stream for x in reads(i))
    inner: dict[int, ins.Combine] = {}
    out: list[Placed] = []
    for place, i in stream:
        if isinstance(i, ins.Combine):
            i = _with_parts(i, inner)
            if uses[i.out] == 1 and i.out not in outputs:
                inner[i.out] = i
        out.append((place, i))
    return out


def _with_parts(i: ins.Combine, inner: dict[int, ins.Combine]) -> ins.Combine:
    terms: dict[int, int] = {}
    constant = i.constant
    for x, factor in i.terms:
        part = inner.get(x)
        for y, weight in ((x, 1),) if part is None else part.terms:
            terms[y] = terms.get(y, 0) + factor * weight
        constant += 0 if part is None else factor * part.constant
    if max(map(abs, (constant, *terms.values()))) >= _INTEGERS:
        return i
    return replace(i, terms=tuple(terms.items()), constant=constant)
