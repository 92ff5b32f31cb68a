"""Sorting networks: a fixed sequence of comparisons and swaps, whatever the values are.

Theory of operation. Batcher's merge exchange (Knuth 5.2.2, algorithm M) sorts n entries in t (t + 1) / 2 layers,
t = ceil(log2 n), each of disjoint pairs (i, j). Values travel together with their places; the pair is ordered by
(value, place), that is by the sign of n (difference of values) + (difference of places): no two entries are equal, so
the order is torch's stable one, and one comparison decides both. A swap is two selections of opened differences.

Cost of a layer, n entries in all: 4 rounds (opening both, then the comparison), 16 bytes to open an entry, half a
comparison per entry. The gradient goes back through the same swaps: 1 round per layer, no comparison.
Range: n times the difference of any two values below 2^62 units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchveil.fixedpoint import FixedPoint
from torchveil.functions.arithmetic import combine, constant, narrow, secret, select_raw
from torchveil.functions.comparison import negative
from torchveil.functions.structure import apply, concatenate
from torchveil.handle import Bit, Public, Secret


@dataclass(frozen=True, slots=True)
class Pairs:
    """The disjoint pairs of a layer; ``back`` undoes the order (left, right, rest)."""

    left: Tensor
    right: Tensor
    rest: Tensor
    back: Tensor


def layers(size: int) -> list[Pairs]:
    """The network for ``size`` entries."""
    out = []
    top = 1 << max(0, math.ceil(math.log2(size)) - 1) if size > 1 else 0
    p = top
    while p:
        q, r, distance = top, 0, p
        while True:
            left = [i for i in range(size - distance) if i & p == r]
            right = [i + distance for i in left]
            rest = sorted(set(range(size)) - set(left) - set(right))
            places = torch.tensor([*left, *right, *rest])
            out.append(Pairs(torch.tensor(left), torch.tensor(right), torch.tensor(rest), places.argsort()))
            if q == p:
                break
            distance, q, r = q - p, q // 2, p
        p //= 2
    return out


def _at(x: Secret, dim: int, places: Tensor) -> Secret:
    return secret(apply(x, "index_select", dim, places))


def _swap(x: Secret, dim: int, pairs: Pairs, swapped: Bit) -> Secret:
    """x with the pairs exchanged where the bit is set; its own transpose."""
    left, right = _at(x, dim, pairs.left), _at(x, dim, pairs.right)
    moved = select_raw(swapped, combine([(right, 1), (left, -1)], scale=x.scale))
    parts = [combine([(left, 1), (moved, 1)], scale=x.scale), combine([(right, 1), (moved, -1)], scale=x.scale)]
    if pairs.rest.numel():
        parts.append(_at(x, dim, pairs.rest))
    return _at(secret(concatenate(list(parts), dim)), dim, pairs.back)


@dataclass(frozen=True, slots=True)
class Order:
    """The swaps of a sort along ``dim`` of ``size``, of which ``count`` results from ``start`` on are used."""

    dim: int
    size: int
    swaps: tuple[tuple[Pairs, Bit], ...]
    start: int
    count: int

    def distribute(self, value: Secret) -> Secret:
        """value (``count`` entries along dim) at the places that they were taken from, zeros elsewhere."""
        after = self.size - self.start - self.count
        current = narrow(value)
        if self.start or after:
            pad = [0, 0] * (len(value.shape) - 1 - self.dim) + [self.start, after]
            current = secret(apply(current, "pad", tuple(pad)))
        for pairs, swapped in reversed(self.swaps):
            current = _swap(current, self.dim, pairs, swapped)
        return current

    def part(self, start: int, count: int) -> Order:
        return Order(self.dim, self.size, self.swaps, start, count)


def sort(x: Secret, dim: int, *, descending: bool = False) -> tuple[Secret, Secret, Order]:
    """(sorted values, the places they came from, the order): ascending or descending, equals in their old order."""
    values, size = narrow(x), x.shape[dim]
    shape = [1] * len(x.shape)
    shape[dim] = size
    rows = torch.arange(size).reshape(shape).expand(x.shape)
    places = constant(Public(x.session, x.shape, tensor=rows), 1, FixedPoint(2, 0))
    sign = -size if descending else size
    swaps = []
    for pairs in layers(size):
        x.session.open(values, places)
        by_value, by_place = (
            combine([(_at(wire, dim, pairs.right), factor), (_at(wire, dim, pairs.left), -factor)], scale=1)
            for wire, factor in ((values, sign), (places, 1))
        )
        swapped = negative(combine([(by_value, 1), (by_place, 1)], scale=1))
        swaps.append((pairs, swapped))
        values, places = (_swap(wire, dim, pairs, swapped) for wire in (values, places))
    values.nonnegative = x.nonnegative
    return values, places, Order(dim, size, tuple(swaps), 0, size)
