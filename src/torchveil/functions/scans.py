"""Prefixes of an associative function: ceil(log2 n) levels, each of which joins entries twice as far apart.

Hillis and Steele's scan: n log2 n joins in all, the fewest rounds. What a join costs is its own; the prefixes of a
running maximum also carry places along, so that the winner is known without another comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from torchveil.fixedpoint import FixedPoint
from torchveil.functions.arithmetic import as_number, constant, narrow, secret
from torchveil.functions.comparison import compare, where
from torchveil.functions.structure import apply, concatenate
from torchveil.handle import Handle, Public, Secret

Join = Callable[[Sequence[Handle], Sequence[Handle]], Sequence[Handle]]


def prefixes(parts: Sequence[Handle], dim: int, join: Join) -> Sequence[Handle]:
    """join(.. join(x_0, x_1) .., x_k) for every k along ``dim``; ``parts`` are the components of one entry."""
    size, step = parts[0].shape[dim], 1
    while step < size:
        earlier = [apply(part, "slice", dim, 0, size - step, 1) for part in parts]
        later = [apply(part, "slice", dim, step, size, 1) for part in parts]
        joined = join(earlier, later)
        parts = [
            concatenate([apply(part, "slice", dim, 0, step, 1), new], dim)
            for part, new in zip(parts, joined, strict=True)
        ]
        step *= 2
    return parts


def extreme(x: Handle, dim: int, relation: str) -> tuple[Secret, Secret]:
    """(running extremum, its place); a later entry wins where it stands in ``relation`` to the earlier one."""
    wire = narrow(secret(as_number(x)))
    shape = [1] * len(wire.shape)
    shape[dim] = wire.shape[dim]
    rows = torch.arange(wire.shape[dim]).reshape(shape).expand(wire.shape)
    places = constant(Public(wire.session, wire.shape, tensor=rows), 1, FixedPoint(2, 0))

    def join(earlier: Sequence[Handle], later: Sequence[Handle]) -> Sequence[Handle]:
        wins = compare(later[0], earlier[0], relation)
        return [where(wins, b, a) for a, b in zip(earlier, later, strict=True)]

    value, place = prefixes([wire, places], dim, join)
    return secret(value), secret(place)
