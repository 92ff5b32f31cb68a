"""The winner along a dimension: the first of the largest, and who lies within reach of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.enumeration import small_ring_driver
from tests.support import PARTIES, Machine, between, ring, same
from torchveil.errors import RangeExceeded
from torchveil.gates import conjunction

FAR = 2**61
#: (shape, dim): two entries, a row of odd length, no row at all, more rows than a byte, a dimension in the middle.
CASES = [((2,), 0), ((5,), 0), ((3, 0), 0), ((4, 9), 0), ((17, 10), 1), ((2, 3, 5), 1), ((3, 12), 1), ((600, 3), 1)]


def first_largest(x: Tensor, dim: int) -> Tensor:
    """One-hot, the first among equals; in integers, so that values beyond 2^53 stay apart."""
    largest = x == x.amax(dim, keepdim=True)
    return (largest & (largest.cumsum(dim) == 1)).long()


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize(("shape", "dim"), CASES)
def test_the_largest_wins(n: int, shape: tuple[int, ...], dim: int) -> None:
    value = between(-FAR, FAR, *shape, seed=n)
    m = Machine(n)
    x = m.opened(value)
    (won,) = m.winner(x, dim)
    same(m.bit(won), first_largest(value, dim))
    reach = FAR // 3
    again, near = m.winner(x, dim, reach)
    same(m.bit(again), first_largest(value, dim))
    same(m.bit(near), (value.amax(dim, keepdim=True) - value <= reach).long())
    m.check()
    m.check_costs()


@pytest.mark.parametrize("n", PARTIES)
def test_among_equals_the_first_wins(n: int) -> None:
    values = torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 4)
    m = Machine(n)
    won, near = m.winner(m.opened(values), 1, 1)
    same(m.bit(won), first_largest(values, 1))
    same(m.bit(won).sum(1), torch.ones(len(values), dtype=torch.int64))
    same(m.bit(near), (values.amax(1, keepdim=True) - values <= 1).long())
    m.check()


@pytest.mark.parametrize("reach", [0, 1, 6, 2**40])
def test_the_border_of_the_reach(reach: int) -> None:
    values = torch.tensor([[0, -reach, -reach - 1, reach, reach - 1], [5, 5 - reach, 4 - reach, 5, 4]])
    m = Machine(3)
    _, near = m.winner(m.opened(values), 1, reach)
    same(m.bit(near), (values.amax(1, keepdim=True) - values <= reach).long())
    m.check()


SHARED = Machine(2)


@given(st.lists(st.lists(st.integers(-FAR, FAR), min_size=3, max_size=3), min_size=1, max_size=9), st.integers(0, FAR))
@settings(max_examples=40, deadline=None)
def test_any_rows(rows: list[list[int]], reach: int) -> None:
    m = SHARED
    values = torch.tensor(rows)
    won, near = m.winner(m.opened(values), 1, reach)
    same(m.bit(won), first_largest(values, 1))
    same(m.bit(near), (values.amax(1, keepdim=True) - values <= reach).long())
    m.check()
    m.free_all()


def test_values_anywhere_in_the_ring_equal_the_clear_reference() -> None:
    m = Machine(3)
    m.winner(m.opened(ring(11, 7)), 1, 2**62)
    m.check()


@pytest.mark.parametrize("width", [4, 5, 8])
@pytest.mark.parametrize("n", [2, 3])
def test_small_rings(width: int, n: int) -> None:
    m = Machine(driver=small_ring_driver(n, width))
    quarter = 1 << (width - 2)
    values = torch.cartesian_prod(*[torch.arange(-quarter // 2, quarter // 2)] * 2)
    values = torch.cat([values, values.flip(0)[:, :1]], 1)
    won, near = m.winner(m.opened(values % (1 << width)), 1, 1)
    same(m.bit(won), first_largest(values, 1))
    same(m.bit(near), (values.amax(1, keepdim=True) - values <= 1).long())
    m.check()


def test_derived_and_strided_openings() -> None:
    value = between(-FAR, FAR, 6, 4)
    m = Machine(3)
    x = m.map(m.opened(value), "t")
    same(m.bit(m.winner(x, 0)[0]), first_largest(value.t(), 0))
    wide = m.map(m.opened(value), "unsqueeze", 1)
    same(m.bit(m.winner(m.map(wide, "expand", [6, 5, 4]), 2)[0])[:, 3], first_largest(value, 1))
    m.check()


def test_debug_mode_names_values_that_are_too_far_apart() -> None:
    m = Machine(2)
    assert m.exact is not None
    m.exact.strict = True
    x = m.opened(torch.tensor([0, 2**61]))
    m.winner(x, 0, 2**60)
    with pytest.raises(RangeExceeded):
        m.winner(x, 0, 2**61)


@pytest.mark.parametrize(("size", "rounds"), [(2, 3), (3, 4), (10, 4), (11, 5), (17, 5), (18, 6)])
def test_rounds(size: int, rounds: int) -> None:
    m = Machine(2)
    m.winner(m.opened(between(-FAR, FAR, 3, size)), 1)
    assert m.log[-1][1].rounds == rounds
    m.check_costs()


def test_every_node_of_a_large_product_has_a_label_of_its_own() -> None:
    levels = conjunction._levels(5000, 4)
    slots = [slot for level in levels for slot, _, _ in level]
    assert len(set(slots)) == len(slots)
    assert [len(level) for level in levels] == [1250, 313, 79, 20, 5, 2, 1]
