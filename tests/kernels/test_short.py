"""Kernels of short openings: lanes against the plain way, and what is packed against what is added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import SHAPES, ring, same
from torchveil.kernels import short

BITS, WIDTH = 16, 64


def both_ways(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> tuple[Any, Any]:
    """The result in lanes and in the plain way."""
    lanes = call()
    monkeypatch.setattr(short, "LANES", False)
    plain = call()
    monkeypatch.undo()
    return lanes, plain


def words(rows: int, count: int) -> Any:
    return np.random.default_rng(rows).integers(0, 2**16, (rows, count), dtype=np.uint16)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("first", [True, False])
def test_lanes_are_the_plain_way(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], first: bool) -> None:
    opened = short.round_share(ring(*shape), BITS, False, WIDTH)
    mask, dealt, bit = ring(*shape, seed=1), ring(*shape, seed=2), ring(*shape, seed=3) & 1
    rows = words(3, opened.numel())
    calls: list[Callable[[], Any]] = [
        lambda: short.lifted_share(opened, rows, mask, first, BITS, WIDTH),
        lambda: (short.complete(opened, rows[0], BITS, WIDTH), rows[0]),
        lambda: (short.lift_base(opened, BITS, WIDTH), rows[0]),
        lambda: (short.gated_piece(opened, rows, dealt, BITS, WIDTH), rows[0]),
        lambda: tuple(reversed(short.lift_rows(mask, bit, BITS, WIDTH))),
        lambda: (short.lift_rows(mask, None, BITS, WIDTH)[0].astype(np.int64), rows[0]),
    ]
    for call in calls:
        (value, upper), (wanted, wanted_upper) = both_ways(monkeypatch, call)
        same(torch.as_tensor(value), torch.as_tensor(wanted))
        assert np.array_equal(upper, wanted_upper)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [48, 56, 38, 61, 13])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_what_is_packed_adds_up(shape: tuple[int, ...], bits: int, n: int) -> None:
    values = [ring(*shape, seed=seed) for seed in range(n)]
    pieces = [short.pack_low(value.clone(), bits, WIDTH - bits) for value in values]
    total = torch.stack(values).sum(0) << (WIDTH - bits)
    same(short.add_packed(pieces), total)
    assert pieces[0].nbytes == max(2, -(-bits // 8)) * values[0].numel()


def test_lanes_pack_as_planes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    value = ring(100)
    lanes, plain = both_ways(monkeypatch, lambda: short.pack_low(value.clone(), 48, 16))
    for a, b in zip(lanes.planes, plain.planes, strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize("up", [True, False])
def test_a_share_that_is_a_multiple_is_left_alone(up: bool) -> None:
    whole = ring(100) & ~0xFFFF
    same(short.round_share(whole, BITS, up, WIDTH), whole)
    moved = short.round_share(ring(100), BITS, up, WIDTH) - ring(100)
    assert bool((moved.abs() < 2**16).all()) and bool((moved >= 0).all() if up else (moved <= 0).all())
