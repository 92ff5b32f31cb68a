"""Equality with public values: exact for all 64-bit values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.enumeration import small_ring_driver
from tests.support import PARTIES, SHAPES, Machine, ring, same

EDGES = [0, 1, -1, 2**63 - 1, -(2**63), 2**62, 15, 16, 2**60, -(2**60)]


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(n: int, shape: tuple[int, ...]) -> None:
    value = ring(*shape)
    m = Machine(n)
    x = m.opened(value)
    for wanted, bit in zip((0, -1, 2**62), m.equal(x, 0, -1, 2**62), strict=True):
        same(m.bit(bit), (value == wanted).long())
    m.check()
    m.check_costs()


@pytest.mark.parametrize("n", PARTIES)
def test_edge_values_against_each_other(n: int) -> None:
    m = Machine(n)
    x = m.opened(torch.tensor(EDGES))
    for value, bit in zip(EDGES, m.equal(x, *EDGES), strict=True):
        assert m.bit(bit).tolist() == [int(value == other) for other in EDGES]
    m.check()


SHARED = Machine(2)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 63))
@settings(max_examples=40, deadline=None)
def test_one_differing_bit_is_seen(value: int, place: int) -> None:
    other = (value ^ (1 << place)) % 2**64
    other -= 2**64 if other >= 2**63 else 0
    m = SHARED
    (bit,) = m.equal(m.opened(torch.tensor([value, other])), value)
    assert m.bit(bit).tolist() == [1, 0]
    m.free_all()


@pytest.mark.parametrize("width", [3, 4, 5])
@pytest.mark.parametrize("n", [2, 3])
def test_small_rings(width: int, n: int) -> None:
    m = Machine(driver=small_ring_driver(n, width))
    values = torch.arange(1 << width)
    x = m.opened(values)
    for value in (0, 1, (1 << width) - 1):
        same(m.bit(m.equal(x, value)[0]), (values == value).long())
    m.check()


def test_strided_values() -> None:
    value = ring(6, 4).t()
    m = Machine(3)
    x = m.map(m.opened(ring(6, 4)), "t")
    same(m.bit(m.equal(x, 1)[0]), (value == 1).long())
