"""Every row of the gate table: what the driver measures is what the formula says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.support import PARTIES, Machine, ring
from torchveil.gates import GATES
from torchveil.gates.base import FREE, Cost
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins

SIZES = (0, 1, 7, 8, 13, 1001)


def _prepare(m: Machine, size: int) -> tuple[int, int, int]:
    x, y = m.opened(ring(size)), m.opened(ring(size, seed=1))
    return x, y, m.sign(x)


def _bits(m: Machine, x: int) -> tuple[int, ...]:
    return m.compare(x, (0, 5, -5), [((0, 1), False), ((2,), True)], negate=True)


def _stack(m: Machine, *xs: int) -> int:
    return m.cat([m.map(x, "unsqueeze", 0) for x in xs])


#: One way to run every instruction type (and every optional form), given two opened wires and a bit.
CASES: dict[str, tuple[type[ins.Instruction], Callable[[Machine, int, int, int], object]]] = {
    "input": (ins.Input, lambda m, x, y, b: m.input(ring(*m.shape(x)))),
    "constant": (ins.Constant, lambda m, x, y, b: m.constant(3, m.shape(x))),
    "map": (ins.Map, lambda m, x, y, b: m.map(x, "flip", [0])),
    "concatenate": (ins.Concatenate, lambda m, x, y, b: m.cat([x, y])),
    "combine": (ins.Combine, lambda m, x, y, b: m.combine((x, 2), (y, -3), constant=1)),
    "add public": (ins.AddPublic, lambda m, x, y, b: m.add_public(x, ring(*m.shape(x)))),
    "write": (ins.Write, lambda m, x, y, b: m.write(x, y, LinearMap("alias"))),
    "open": (ins.Open, lambda m, x, y, b: m.open(m.refresh(x), m.refresh(y))),
    "short open": (ins.Open, lambda m, x, y, b: m.rounded(ring(*m.shape(x)), 16)),
    "completed open": (ins.Open, lambda m, x, y, b: m.open(m.lift(m.rounded(ring(*m.shape(x)), 16), 16), bits=(16,))),
    "round": (ins.Round, lambda m, x, y, b: m.round(x, 16)),
    "lift": (ins.Lift, lambda m, x, y, b: m.lift(m.rounded(ring(*m.shape(x)), 16), 16)),
    "gated lift": (ins.Lift, lambda m, x, y, b: m.lift(m.rounded(ring(*m.shape(x)), 16), 16, b)),
    "product": (ins.Bilinear, lambda m, x, y, b: m.product(x, y)),
    "outer product": (ins.Bilinear, lambda m, x, y, b: m.product(m.map(x, "unsqueeze", 1), y)),
    "public product": (ins.PublicProduct, lambda m, x, y, b: m.public_product(x, ring(*m.shape(x)))),
    "truncate": (ins.Truncate, lambda m, x, y, b: m.truncate(x, 10)),
    "gated truncate": (ins.Truncate, lambda m, x, y, b: m.truncate(x, 10, b)),
    "compare": (ins.Compare, lambda m, x, y, b: m.sign(x)),
    "compare rounded": (ins.Compare, lambda m, x, y, b: m.sign(m.rounded(ring(*m.shape(x)), 16), zeros=16)),
    "compare with three thresholds": (ins.Compare, lambda m, x, y, b: _bits(m, x)),
    "equal": (ins.Equal, lambda m, x, y, b: m.equal(x, 5)),
    "equal to three values": (ins.Equal, lambda m, x, y, b: m.equal(x, 0, -1, 2**62)),
    "winner": (ins.Winner, lambda m, x, y, b: m.winner(_stack(m, x, y), 0)),
    "winner of eleven with a reach": (ins.Winner, lambda m, x, y, b: m.winner(_stack(m, *[x, y] * 5, x), 0, 2**40)),
    "map bit": (ins.MapBit, lambda m, x, y, b: m.map_bit(b, "flip", [0], flip=True)),
    "bit to arithmetic": (ins.BitToArithmetic, lambda m, x, y, b: m.arithmetic(b)),
    "weigh bits": (ins.WeighBits, lambda m, x, y, b: m.weigh([b, b], [1, 2])),
    "select": (ins.Select, lambda m, x, y, b: m.select(b, x)),
    "exponential": (ins.Exponential, lambda m, x, y, b: m.exponential(x, 2**16, 20)),
    "gated exponential": (ins.Exponential, lambda m, x, y, b: m.exponential(x, 2**16, 20, b)),
    "series": (ins.Series, lambda m, x, y, b: m.series(x, 20, (1, 3), (1, 0), (5, 6), 7)),
    "gated series": (ins.Series, lambda m, x, y, b: m.series(x, 20, (1, 3), (1, 0), (5, 6), 7, b)),
    "refresh": (ins.Refresh, lambda m, x, y, b: m.refresh(x)),
    "reveal": (ins.Reveal, lambda m, x, y, b: m.reveal(x)),
    "free": (ins.Free, lambda m, x, y, b: m.free(x)),
}


#: What starts with a rounding on shares.
BY_TWO = {"short open", "completed open", "round", "lift", "gated lift", "compare rounded"}


def test_every_instruction_has_a_case() -> None:
    assert {kind for kind, _ in CASES.values()} == set(GATES)


@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize("name", CASES)
def test_measured_is_the_formula(name: str, n: int) -> None:
    kind, act = CASES[name]
    if n > 2 and name in BY_TWO:
        pytest.skip("shares are rounded by two parties")
    for size in SIZES:
        m = Machine(n, follow=False)
        x, y, bit = _prepare(m, size)
        act(m, x, y, bit)
        assert type(m.log[-1][0]) is kind
        m.check_costs()
    if GATES[kind].interactive:
        assert m.log[-1][1].rounds > 0
    else:
        assert m.log[-1][1].rounds == m.log[-1][1].sent == 0


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
def test_the_costs_that_the_docstrings_state(n: int) -> None:
    shape = (8,)
    compare = GATES[ins.Compare].cost(ins.Compare((1,), 0, False, (0,), (((0,), False),), shape), n)
    assert compare == Cost(rounds=3, sent=34 * (n - 1), dealt=8 * 32 + 97 + 64)
    assert GATES[ins.Open].cost(ins.Open((1, 2), (shape, ())), n) == Cost(rounds=1, sent=72 * (n - 1))
    assert GATES[ins.Bilinear].cost(ins.Bilinear(1, 2, 3, "mul", {}, shape), n) == Cost(dealt=64)
    assert GATES[ins.Truncate].cost(ins.Truncate(1, 2, None, 10, shape), n) == Cost(dealt=128)
    assert GATES[ins.Truncate].cost(ins.Truncate(1, 2, 3, 10, shape), n) == Cost(dealt=256)
    assert GATES[ins.Select].cost(ins.Select(1, 2, 3, shape), n) == Cost(dealt=64)
    assert GATES[ins.Reveal].cost(ins.Reveal(1, "owner", shape), n) == Cost(rounds=1, outside=64 * n)
    assert GATES[ins.Refresh].cost(ins.Refresh(1, 2, shape), n) == FREE


def test_costs_add_up() -> None:
    assert Cost(1, 2, 3, 4) + Cost(5, 6, 7, 8) == Cost(6, 8, 10, 12)


def test_a_free_is_measured_as_nothing() -> None:
    m = Machine(2, follow=False)
    x = m.opened(torch.zeros(3, dtype=torch.int64))
    m.free(x)
    assert m.driver.measured == FREE
