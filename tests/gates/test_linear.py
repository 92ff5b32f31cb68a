"""Linear gates: shares, openings and masks go through one map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import PARTIES, SHAPES, Machine, ring, same
from torchveil.kernels.linear_maps import MAPS, LinearMap

X = ring(4, 6)
INDEX = torch.tensor([2, 0, 2])

#: One application of every map of the table, on a [4, 6] tensor unless the shape is given.
CASES: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {
    "view": ((4, 6), ([24],)),
    "reshape": ((4, 6), ((3, 8),)),
    "_unsafe_view": ((4, 6), ([2, 12],)),
    "permute": ((4, 6), ([1, 0],)),
    "transpose": ((4, 6), (0, 1)),
    "t": ((4, 6), ()),
    "expand": ((1, 6), ([5, 6],)),
    "select": ((4, 6), (1, 2)),
    "slice": ((4, 6), (1, 1, 6, 2)),
    "unsqueeze": ((4, 6), (1,)),
    "squeeze": ((1, 6), ()),
    "squeeze_dim": ((1, 6), (0,)),
    "squeeze_dims": ((1, 6, 1), ([0, 2],)),
    "diagonal": ((4, 6), ()),
    "unfold": ((4, 6), (1, 3, 2)),
    "alias": ((4, 6), ()),
    "clone": ((4, 6), ()),
    "contiguous": ((4, 6), ()),
    "flip": ((4, 6), ([0],)),
    "roll": ((4, 6), ([2], [1])),
    "repeat": ((4, 6), ([2, 1],)),
    "pad": ((4, 6), ([1, 2, 0, 1],)),
    "tril": ((4, 6), ()),
    "triu": ((4, 6), (1,)),
    "index": ((4, 6), ((INDEX, None),)),
    "index_select": ((4, 6), (0, INDEX)),
    "gather": ((4, 6), (0, INDEX.view(1, 3))),
    "sum": ((4, 6), ((1,), True)),
    "cumsum": ((4, 6), (1,)),
    "scatter_select": ((6,), ((4, 6), 0, 2)),
    "scatter_slice": ((2, 6), ((4, 6), 0, 1, 4, 2)),
    "scatter_index": ((3, 6), ((4, 6), (INDEX,))),
    "scatter_gather": ((1, 3), ((4, 6), 0, INDEX.view(1, 3))),
    "windows": ((1, 2, 5, 4), ((2, 3), (2, 1), (1, 1))),
    "scatter_windows": ((6, 1, 2, 2, 2), ((5, 4), (2, 3), (2, 1), (1, 1))),
    "taps": ((4, 6), (0, torch.tensor([[0, 1], [3, 3]]), torch.tensor([[2, -1], [1, 0]]))),
}


def test_every_map_of_the_table_has_a_case() -> None:
    assert set(CASES) == set(MAPS)


@pytest.mark.parametrize("name", CASES)
def test_a_map_commutes_with_opening(name: str) -> None:
    shape, args = CASES[name]
    value = ring(*shape, seed=3)
    m = Machine(3)
    x = m.input(value)
    before = m.map(x, name, *args)
    m.open(x)
    after = m.map(x, name, *args)
    for out in (before, after):
        same(m.value(out), LinearMap(name, args)(value))
        assert m.driver.provider.wires[out].resolve()
    m.check()
    m.check_costs()


@pytest.mark.parametrize("name", CASES)
def test_a_map_is_linear_over_the_ring(name: str) -> None:
    shape, args = CASES[name]
    function = LinearMap(name, args)
    x, y = ring(*shape, seed=4), ring(*shape, seed=5)
    same(function(x * 7 - y), function(x) * 7 - function(y))


@pytest.mark.parametrize("name", [name for name, (_, aliases) in MAPS.items() if aliases])
def test_a_map_that_is_said_to_alias_does(name: str) -> None:
    shape, args = CASES[name]
    value = ring(*shape, seed=3)
    assert LinearMap(name, args)(value).untyped_storage().data_ptr() == value.untyped_storage().data_ptr()


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
def test_combinations_are_exact_in_the_ring(n: int) -> None:
    m = Machine(n)
    a, b = ring(4, 1, seed=1), ring(5, seed=2)
    x, y = m.input(a), m.input(b)
    early = m.combine((x, 3), (y, -1), constant=2**62)
    m.open(x, y)
    late = m.combine((x, 3), (y, -1), (x, 1), constant=2**62)
    same(m.value(early), a * 3 - b + 2**62)
    same(m.value(late), a * 4 - b + 2**62)
    assert not m.driver.provider.wires[early].resolve()
    assert m.driver.provider.wires[late].resolve()
    m.check()


@pytest.mark.parametrize("shape", SHAPES)
def test_negation_doubling_and_zero_factors(shape: tuple[int, ...]) -> None:
    value = ring(*shape)
    m = Machine(3)
    x = m.opened(value)
    same(m.value(m.combine((x, -1))), -value)
    same(m.value(m.combine((x, 1), (x, 1))), 2 * value)
    same(m.value(m.combine((x, 0), constant=5)), torch.full_like(value, 5))
    same(m.value(m.combine((x, 1))), value)
    m.check()


@pytest.mark.parametrize("opened", [False, True])
def test_adding_a_public_tensor_may_broadcast_up(opened: bool) -> None:
    value, public = ring(3, 1), ring(2, 1, 4, seed=9)
    m = Machine(3)
    x = m.opened(value) if opened else m.input(value)
    out = m.add_public(x, public)
    same(m.value(out), value + public)
    assert m.driver.provider.wires[out].resolve() == opened
    m.check()


def test_concatenation_keeps_openings_only_if_all_have_one() -> None:
    a, b = ring(2, 3), ring(2, 2, seed=1)
    m = Machine(2)
    x, y = m.opened(a), m.input(b)
    half = m.cat([x, y], 1)
    m.open(y)
    whole = m.cat([x, y, x], 1)
    same(m.value(half), torch.cat([a, b], 1))
    same(m.value(whole), torch.cat([a, b, a], 1))
    assert not m.driver.provider.wires[half].resolve()
    assert m.driver.provider.wires[whole].resolve()
    m.check()


@pytest.mark.parametrize("value", [7, ring(2, 3)])
def test_a_constant_is_its_own_opening(value: int | Tensor) -> None:
    m = Machine(3)
    c, x = m.constant(value, (2, 3)), m.opened(ring(2, 3, seed=8))
    wanted = torch.full((2, 3), value) if isinstance(value, int) else value
    same(m.value(c), wanted)
    same(m.value(m.product(c, x)), wanted * ring(2, 3, seed=8))
    m.check()


def test_a_write_makes_a_new_value_without_an_opening() -> None:
    base, value = ring(4, 5), ring(2, seed=6)
    m = Machine(3)
    x, y = m.opened(base), m.opened(value)
    out = m.write(x, y, LinearMap("select", (0, 1)), LinearMap("slice", (0, 0, 4, 2)))
    wanted = base.clone()
    wanted[1, 0:4:2] = value
    same(m.value(out), wanted)
    same(m.value(x), base)
    assert not m.driver.provider.wires[out].resolve()
    m.check()


@pytest.mark.parametrize("n", PARTIES)
def test_a_public_product_is_exact_and_drops_the_opening(n: int) -> None:
    value, public = ring(3, 4), ring(4, 2, seed=2)
    m = Machine(n)
    x = m.opened(value)
    right = m.public_product(x, public, "mm")
    left = m.public_product(x, public.t().contiguous()[:, :3], "mm", left=True)
    same(m.value(right), value @ public)
    same(m.value(left), public.t()[:, :3] @ value)
    assert not m.driver.provider.wires[right].resolve()
    m.check()
