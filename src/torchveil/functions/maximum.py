"""Maximum along a dimension: a tournament of comparisons; the winner bits serve the gradient and the index.

Cost for k entries: ceil(log2 k) levels of 4 rounds (3 for the bits, 1 to open the winners; the last winners are opened
only if somebody needs them). Equal entries: the first wins, as in torch. The way back distributes a gradient (or a one,
giving the one-hot winner) along the same bits: one opening per level and no comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from torchveil.functions.arithmetic import (
    add_tensor,
    align,
    combine,
    constant,
    narrow,
    round_shares,
    secret,
    select_raw,
)
from torchveil.functions.comparison import positive
from torchveil.functions.structure import apply, concatenate
from torchveil.handle import Bit, Public, Secret


@dataclass(frozen=True, slots=True)
class Tournament:
    """The winner bits of each level, first level first: [right > left] for neighbours along ``dim`` of ``size``."""

    dim: int
    size: int
    levels: tuple[Bit, ...]


def _slice(x: Secret, dim: int, start: int, end: int, step: int = 1) -> Secret:
    return secret(apply(x, "slice", dim, start, end, step))


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


def distribute(tournament: Tournament, value: Secret) -> Secret:
    """value (dimension kept, size 1) times the one-hot winner: the gradient of the maximum."""
    dim = tournament.dim
    sizes = [tournament.size]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2 + sizes[-1] % 2)
    current = narrow(value)
    for bit, size in zip(reversed(tournament.levels), reversed(sizes[:-1]), strict=True):
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


def winner_index(tournament: Tournament, like: Secret) -> Secret:
    """The index of the winner as a whole number (dimension kept, size 1)."""
    dim, size = tournament.dim, tournament.size
    shape = [1] * len(like.shape)
    shape[dim] = size
    places = torch.arange(size).reshape(shape)
    if not tournament.levels:
        return add_tensor(combine([(like, 0)], scale=1), places)
    session = like.session
    first = tournament.levels[0]
    half = size // 2
    lows = places.narrow(dim, 0, 2 * half).unflatten(dim, (half, 2)).select(dim + 1, 0)
    arithmetic = session.bit_to_arithmetic(first)
    current = add_tensor(arithmetic, lows)
    if size % 2:
        tail = (*current.shape[:dim], 1, *current.shape[dim + 1 :])
        rest = constant(Public(session, tail, fill=float(size - 1)), 1, arithmetic.format)
        current = secret(concatenate([current, rest], dim))
    for bit in tournament.levels[1:]:
        half = current.shape[dim] // 2
        left, right = _slice(current, dim, 0, 2 * half, 2), _slice(current, dim, 1, 2 * half, 2)
        chosen = select_raw(bit, combine([(right, 1), (left, -1)], scale=1))
        left, chosen = align(left, chosen)
        winners = combine([(left, 1), (chosen, 1)], scale=1)
        if current.shape[dim] % 2:
            winners = secret(concatenate([winners, _slice(current, dim, 2 * half, current.shape[dim])], dim))
        current = winners
    return current
