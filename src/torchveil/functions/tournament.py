"""Maximum by a tournament: half as many comparisons in each level; the winner bits serve the gradient and the index.

Cost for k entries: k - 1 comparisons in ceil(log2 k) levels of 4 rounds (3 for the bits, 1 to open the winners; the
last winners are opened only if somebody needs them). The way back distributes a gradient along the same bits: one
opening per level and no comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from torchveil.functions.arithmetic import (
    add_tensor,
    align,
    combine,
    constant,
    multiply,
    narrow,
    round_shares,
    secret,
    select_raw,
)
from torchveil.functions.comparison import BELOW, positive
from torchveil.functions.structure import apply, concatenate
from torchveil.gates import GATES
from torchveil.gates.base import Cost
from torchveil.handle import Bit, Public, Secret
from torchveil.program import instructions as ins


def _slice(x: Secret, dim: int, start: int, end: int, step: int = 1) -> Secret:
    return secret(apply(x, "slice", dim, start, end, step))


def _sizes(size: int) -> list[int]:
    """How many entries are left at the start of each level, and one at the end."""
    sizes = [size]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2 + sizes[-1] % 2)
    return sizes


@dataclass(frozen=True, slots=True)
class Tournament:
    """The winner bits of each level, first level first: [right > left] for neighbours along ``dim`` of ``size``."""

    dim: int
    size: int
    levels: tuple[Bit, ...]

    @property
    def near(self) -> None:
        """A tournament does not know which entries lie near the largest one."""

    def distribute(self, value: Secret) -> Secret:
        """value (dimension kept, size 1) times the one-hot winner."""
        dim = self.dim
        current = narrow(value)
        for bit, size in zip(reversed(self.levels), reversed(_sizes(self.size)[:-1]), strict=True):
            half = size // 2
            pairs = _slice(current, dim, 0, half)
            right = select_raw(bit, pairs)
            left = combine([(pairs, 1), (right, -1)], scale=current.scale)
            both = concatenate(
                [secret(apply(left, "unsqueeze", dim + 1)), secret(apply(right, "unsqueeze", dim + 1))], dim + 1
            )
            shape = (*current.shape[:dim], 2 * half, *current.shape[dim + 1 :])
            joined = apply(both, "reshape", shape)
            current = (
                secret(joined)
                if size % 2 == 0
                else secret(concatenate([joined, _slice(current, dim, half, half + 1)], dim))
            )
        return current

    def index(self, like: Secret, places: Tensor | None = None) -> Secret:
        """The index of the winner as a whole number (dimension kept, size 1).

        ``places`` are the numbers to tell in place of 0, 1, 2, ... (broadcast to the rows).
        """
        dim, size = self.dim, self.size
        if places is None:
            shape = [1] * len(like.shape)
            shape[dim] = size
            places = torch.arange(size).reshape(shape)
        if not self.levels:
            return add_tensor(combine([(like, 0)], scale=1), places)
        session = like.session
        first = self.levels[0]
        half = size // 2
        pairs = places.narrow(dim, 0, 2 * half).unflatten(dim, (half, 2))
        lows, highs = pairs.unbind(dim + 1)
        arithmetic = session.bit_to_arithmetic(first)
        if not bool((highs - lows == 1).all()):
            steps = Public(session, tuple(lows.shape), tensor=highs - lows)
            arithmetic = secret(multiply(arithmetic, steps))
        current = add_tensor(arithmetic, lows)
        if size % 2:
            tail = (*current.shape[:dim], 1, *current.shape[dim + 1 :])
            last = places.narrow(dim, size - 1, 1).expand(tail)
            rest = constant(Public(session, tail, tensor=last), 1, arithmetic.format)
            current = secret(concatenate([current, rest], dim))
        for bit in self.levels[1:]:
            half = current.shape[dim] // 2
            left, right = _slice(current, dim, 0, 2 * half, 2), _slice(current, dim, 1, 2 * half, 2)
            chosen = select_raw(bit, combine([(right, 1), (left, -1)], scale=1))
            left, chosen = align(left, chosen)
            winners = combine([(left, 1), (chosen, 1)], scale=1)
            if current.shape[dim] % 2:
                winners = secret(concatenate([winners, _slice(current, dim, 2 * half, current.shape[dim])], dim))
            current = winners
        return current

    def pick(self, entries: Secret) -> Secret:
        """Of other rows of the same shape the entry where the winner was (dimension kept, size 1)."""
        dim = self.dim
        current = narrow(entries)
        for bit in self.levels:
            half = current.shape[dim] // 2
            left, right = _slice(current, dim, 0, 2 * half, 2), _slice(current, dim, 1, 2 * half, 2)
            step = select_raw(bit, combine([(right, 1), (left, -1)], scale=current.scale))
            winners = combine([(left, 1), (step, 1)], scale=current.scale)
            if current.shape[dim] % 2:
                winners = secret(concatenate([winners, _slice(current, dim, 2 * half, current.shape[dim])], dim))
            current = winners
        return current


def maximum(x: Secret, dim: int) -> tuple[Secret, Tournament]:
    """(max along dim with the dimension kept, the tournament). A pending x is compared as it is, untruncated.

    A rounded x stays a multiple of 2^zeros, so the shares of winners are rounded again at no loss.
    """
    size = x.shape[dim]
    levels: list[Bit] = []
    current = x
    while current.shape[dim] > 1:
        half = current.shape[dim] // 2
        current.session.open(current)
        left, right = _slice(current, dim, 0, 2 * half, 2), _slice(current, dim, 1, 2 * half, 2)
        difference = combine([(right, 1), (left, -1)], scale=current.scale)
        bit = positive(difference)
        winners = combine([(left, 1), (select_raw(bit, difference), 1)], scale=current.scale)
        if current.shape[dim] % 2:
            rest = _slice(current, dim, 2 * half, current.shape[dim])
            winners = secret(concatenate([winners, rest], dim))
        if x.zeros:
            winners = round_shares(winners, x.zeros)
        winners.nonnegative = x.nonnegative
        winners.wide = x.wide
        levels.append(bit)
        current = winners
    return current, Tournament(dim, size, tuple(levels))


def cost(size: int, rows: int) -> Cost:
    """The cost for two parties of ``rows`` maxima of ``size`` opened entries, by the formulas of the gates."""
    total = Cost()
    for level, (entries, _) in enumerate(pairwise(_sizes(size))):
        shape = (rows, entries // 2)
        if level:
            total += GATES[ins.Open].cost(ins.Open((0,), ((rows, entries),)), 2)
        total += GATES[ins.Compare].cost(ins.Compare((0,), 0, True, (0,), (BELOW,), shape), 2)
        total += GATES[ins.Select].cost(ins.Select(0, 0, 0, shape), 2)
    return total
