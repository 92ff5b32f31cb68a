"""Bit wires: structure, complement, the way into the ring, and selection."""

from __future__ import annotations

import pytest
import torch

from tests.support import PARTIES, SHAPES, Machine, ring, same
from torchveil.errors import ProtocolError


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_select_and_arithmetic(n: int, shape: tuple[int, ...]) -> None:
    a, b = ring(*shape, seed=1), ring(*shape, seed=2)
    m = Machine(n)
    x, y = m.opened(a), m.opened(b)
    bit = m.sign(x)
    below = (a < 0).long()
    for _ in range(2):  # a bit serves any number of selections
        same(m.value(m.select(bit, y)), below * b)
    same(m.value(m.select(bit, x)), below * a)
    same(m.value(m.arithmetic(bit)), below)
    flipped = m.map_bit(bit, "alias", flip=True)
    same(m.bit(flipped), 1 - below)
    same(m.value(m.select(flipped, y)), (1 - below) * b)
    m.check()
    m.check_costs()


@pytest.mark.parametrize("n", PARTIES)
def test_mapped_bits_select_mapped_values(n: int) -> None:
    a, b = ring(3, 4, seed=1), ring(4, 3, 5, seed=2)
    m = Machine(n)
    x, y = m.opened(a), m.opened(b)
    bit = m.sign(x)
    row = m.map_bit(m.map_bit(m.map_bit(bit, "t"), "unsqueeze", 2), "expand", [4, 3, 5], flip=True)
    wanted = (a >= 0).long().t().unsqueeze(2).expand(4, 3, 5)
    same(m.bit(row), wanted)
    same(m.value(m.select(row, y)), wanted * b)
    single = m.map_bit(bit, "select", 0, 1)
    same(m.value(m.select(single, m.map(x, "select", 0, 1))), (a[1] < 0).long() * a[1])
    m.check()
    m.check_costs()


@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_weighted_sum_of_bits(n: int, shape: tuple[int, ...]) -> None:
    a = ring(*shape, seed=1)
    m = Machine(n)
    bits = m.compare(m.opened(a), (0, 2**62, -(2**62)), [((0,), False), ((1,), True), ((2,), False)])
    out = m.weigh(bits, (3, -(2**62), 2**60), constant=-7)
    values = [m.bit(bit) for bit in bits]
    same(m.value(out), 3 * values[0] - 2**62 * values[1] + 2**60 * values[2] - 7)
    m.check()
    m.check_costs()


def test_a_bit_selects_a_derived_value() -> None:
    a = ring(50)
    m = Machine(3)
    x = m.opened(a)
    (positive,) = m.compare(x, negate=True)
    same(m.value(m.select(positive, m.combine((x, -2), constant=3))), m.bit(positive) * (3 - 2 * a))
    m.check()


def test_selecting_a_value_that_was_never_opened_is_refused() -> None:
    m = Machine(2)
    bit = m.sign(m.opened(ring(3)))
    with pytest.raises(ProtocolError):
        m.select(bit, m.input(torch.zeros(3, dtype=torch.int64)))
