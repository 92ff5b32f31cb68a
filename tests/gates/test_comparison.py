"""Comparison: exact for all 64-bit values, any thresholds, any number of parties."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.enumeration import small_ring_driver
from tests.support import PARTIES, SHAPES, Machine, ring, same
from torchveil.errors import RangeExceeded
from torchveil.kernels import signed

EDGES = [0, 1, -1, 2, -2, 2**63 - 1, -(2**63), 2**62, -(2**62), 2**63 - 2, 1 - 2**63, 0x0123456789ABCDEF, 7, -8, 15, 16]
int64 = st.integers(-(2**63), 2**63 - 1)


def negative(value: int) -> int:
    """The top bit of value mod 2^64."""
    return value % 2**64 >> 63


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_signs(n: int, shape: tuple[int, ...]) -> None:
    value = ring(*shape)
    m = Machine(n)
    x = m.opened(value)
    same(m.bit(m.sign(x)), (value < 0).long())
    # [x > 0] = msb(-x), but for the one value that is its own negative
    (positive,) = m.compare(x, negate=True)
    same(m.bit(positive), ((value > 0) | (value == -(2**63))).long())
    m.check()
    m.check_costs()


@pytest.mark.parametrize("n", PARTIES)
def test_edge_values_against_edge_thresholds(n: int) -> None:
    values = torch.tensor(EDGES)
    m = Machine(n)
    x = m.opened(values)
    for negate in (False, True):
        bits = m.compare(x, EDGES, [((j,), False) for j in range(len(EDGES))], negate=negate)
        for threshold, bit in zip(EDGES, bits, strict=True):
            wanted = [negative((-v if negate else v) - threshold) for v in EDGES]
            assert m.bit(bit).tolist() == wanted
    m.check()
    m.check_costs()


SHARED = Machine(2)


@given(st.lists(int64, min_size=1, max_size=9), st.lists(int64, min_size=1, max_size=3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_64_bit_value_and_threshold(values: list[int], thresholds: list[int], negate: bool) -> None:
    m = SHARED
    count = len(thresholds)
    subsets = [tuple(j for j in range(count) if pick >> j & 1) for pick in range(1, 1 << count)]
    outputs = [(subset, flip) for subset in subsets for flip in (False, True)]
    bits = m.compare(m.opened(torch.tensor(values)), thresholds, outputs, negate=negate)
    for (subset, flip), bit in zip(outputs, bits, strict=True):
        for found, value in zip(m.bit(bit).tolist(), values, strict=True):
            wanted = int(flip)
            for j in subset:
                wanted ^= negative((-value if negate else value) - thresholds[j])
            assert found == wanted
    m.check()
    m.free_all()


@pytest.mark.parametrize("n", PARTIES)
def test_an_interval_in_one_instruction(n: int) -> None:
    values = torch.arange(-20, 21)
    m = Machine(n)
    (inside,) = m.compare(m.opened(values), (-5, 8), [((0, 1), False)])
    same(m.bit(inside), ((values >= -5) & (values < 8)).long())


@pytest.mark.parametrize("width", [3, 4, 5, 8])
@pytest.mark.parametrize("n", [2, 3])
def test_small_rings_are_exact_for_every_value(width: int, n: int) -> None:
    size = 1 << width
    m = Machine(driver=small_ring_driver(n, width))
    values = torch.arange(size)
    x = m.opened(values)
    thresholds = (0, 1, size // 2, size - 1)
    bits = m.compare(x, thresholds, [((j,), False) for j in range(4)])
    for threshold, bit in zip(thresholds, bits, strict=True):
        same(m.bit(bit), (signed((values - threshold) % size, width) < 0).long())
    m.check()


def _strided() -> list[Tensor]:
    return [ring(6, 4).t(), ring(1, 5).expand(3, 5), ring(9)[::2]]


@pytest.mark.parametrize("value", _strided())
def test_strided_values(value: Tensor) -> None:
    m = Machine(3)
    x = m.opened(value)
    mapped = m.opened(ring(*value.shape, seed=4).contiguous())
    if value.dim() == 2:
        mapped = m.map(mapped, "t")
    same(m.bit(m.sign(x)), (value < 0).long())
    m.sign(mapped)
    m.check()


def test_debug_mode_names_values_that_are_too_far_apart() -> None:
    m = Machine(2)
    assert m.exact is not None
    m.exact.strict = True
    x = m.opened(torch.tensor([0, 2**62]))
    with pytest.raises(RangeExceeded):
        m.sign(x)


@pytest.mark.parametrize(("n", "count"), list(product((2, 3), (1, 8, 9, 4099))))
def test_bytes_that_are_not_full(n: int, count: int) -> None:
    value = ring(count, seed=count)
    m = Machine(n)
    same(m.bit(m.sign(m.opened(value))), (value < 0).long())
    m.check_costs()
