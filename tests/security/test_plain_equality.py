"""The clear reference given the masks is bit-equal to the shares over whole random programs of all instructions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.enumeration import small_ring_driver
from tests.support import Machine, ring
from torchveil.kernels import reduce_ring
from torchveil.kernels.linear_maps import LinearMap

INDEX = st.integers(0, 30)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["input", "constant"]), st.integers(0, 1000)),
        st.tuples(st.sampled_from(["product", "cat", "write", "add"]), INDEX, INDEX),
        st.tuples(st.sampled_from(["flip", "roll", "cumsum", "refresh", "square", "public"]), INDEX),
        st.tuples(st.just("combine"), INDEX, st.integers(-(2**63), 2**63 - 1), INDEX, st.integers(-3, 3)),
        st.tuples(st.sampled_from(["truncate", "gated truncate"]), INDEX, st.integers(1, 2**40), INDEX),
        st.tuples(st.just("compare"), INDEX, st.integers(-(2**63), 2**63 - 1), st.booleans()),
        st.tuples(st.just("equal"), INDEX, st.integers(-(2**63), 2**63 - 1)),
        st.tuples(st.just("winner"), INDEX, st.integers(0, 1), st.one_of(st.none(), st.integers(0, 2**61))),
        st.tuples(st.just("flip bit"), INDEX),
        st.tuples(st.sampled_from(["select", "arithmetic"]), INDEX, INDEX),
        st.tuples(st.sampled_from(["exponential", "series", "gated exponential", "gated series"]), INDEX, INDEX),
    ),
    min_size=4,
    max_size=16,
)
ROWS, COLUMNS = 2, 3
#: Gates whose factors need the real ring.
REAL_RING = {"exponential", "series", "gated exponential", "gated series", "equal"}


def run(m: Machine, steps: list[tuple[Any, ...]]) -> None:
    """Run the drawn steps on values of one shape, opening what a gate needs."""
    width = m.driver.width
    size = 1 << width

    def draw(seed: int) -> Tensor:
        return reduce_ring(ring(ROWS, COLUMNS, seed=seed), width)

    wires = [m.input(draw(1)), m.input(draw(2))]
    bits: list[int] = []

    def opened(place: int) -> int:
        x = wires[place % len(wires)]
        if not m.driver.provider.wires[x].resolve():
            m.open(x)
        return x

    def bit(place: int) -> int:
        if not bits:
            bits.append(m.sign(opened(0)))
        return bits[place % len(bits)]

    for kind, *args in steps:
        if kind in REAL_RING and width < 64:
            continue
        if kind == "input":
            wires.append(m.input(draw(args[0])))
        elif kind == "constant":
            wires.append(m.constant(draw(args[0]), (ROWS, COLUMNS)))
        elif kind == "product":
            wires.append(m.product(opened(args[0]), opened(args[1])))
        elif kind == "square":
            x = opened(args[0])
            wires.append(m.product(x, x))
        elif kind == "public":
            wires.append(m.public_product(wires[args[0] % len(wires)], torch.tensor([3, 1, 2])))
        elif kind == "cat":
            both = m.cat([wires[args[0] % len(wires)], wires[args[1] % len(wires)]], 1)
            wires.append(m.map(both, "slice", 1, 1, 1 + COLUMNS, 1))
        elif kind == "write":
            row = m.map(wires[args[1] % len(wires)], "select", 0, 1)
            wires.append(m.write(wires[args[0] % len(wires)], row, LinearMap("select", (0, 0))))
        elif kind == "add":
            wires.append(m.add_public(wires[args[0] % len(wires)], draw(args[1])[0]))
        elif kind in ("flip", "roll", "cumsum"):
            arguments = {"flip": ([0],), "roll": ([1], [1]), "cumsum": (1,)}[kind]
            wires.append(m.map(wires[args[0] % len(wires)], kind, *arguments))
        elif kind == "refresh":
            wires.append(m.refresh(wires[args[0] % len(wires)]))
        elif kind == "combine":
            terms = (wires[args[0] % len(wires)], args[1]), (wires[args[2] % len(wires)], args[3])
            wires.append(m.combine(*terms, constant=args[3]))
        elif kind == "truncate":
            wires.append(m.truncate(opened(args[0]), args[1] % size or 1))
        elif kind == "gated truncate":
            wires.append(m.truncate(opened(args[0]), args[1] % size or 1, bit(args[2])))
        elif kind == "compare":
            thresholds = (args[1] % size - (size if args[1] % size >= 2**63 else 0), 1)
            bits.extend(m.compare(opened(args[0]), thresholds, [((0, 1), False), ((0,), True)], negate=args[2]))
        elif kind == "equal":
            bits.extend(m.equal(opened(args[0]), args[1], 0))
        elif kind == "winner":
            bits.extend(m.winner(opened(args[0]), args[1], args[2] and args[2] % (size // 4)))
        elif kind == "flip bit":
            bits.append(m.map_bit(bit(args[0]), "flip", [0], flip=True))
        elif kind == "select":
            wires.append(m.select(bit(args[0]), opened(args[1])))
        elif kind == "arithmetic":
            wires.append(m.arithmetic(bit(args[0])))
        elif kind.endswith("exponential"):
            gate = bit(args[1]) if kind.startswith("gated") else None
            wires.append(m.exponential(opened(args[0]), 2**10, 13, gate))
        elif kind.endswith("series"):
            gate = bit(args[1]) if kind.startswith("gated") else None
            wires.append(m.series(opened(args[0]), 20, (1, 4), (2**27, 5), (7, 2**26), 11, gate))
        else:
            raise LookupError(kind)


@given(STEPS, st.sampled_from([2, 3, 4]))
@settings(max_examples=100, deadline=None)
def test_random_programs(steps: list[tuple[Any, ...]], n: int) -> None:
    m = Machine(n)
    run(m, steps)
    m.check()
    m.check_costs()


@given(STEPS, st.sampled_from([2, 3]), st.sampled_from([4, 8, 13]))
@settings(max_examples=40, deadline=None)
def test_random_programs_in_small_rings(steps: list[tuple[Any, ...]], n: int, width: int) -> None:
    m = Machine(driver=small_ring_driver(n, width))
    run(m, steps)
    m.check()


@pytest.mark.smoke
def test_one_program_of_every_instruction() -> None:
    steps: list[tuple[Any, ...]] = [
        ("product", 0, 1),
        ("truncate", 2, 1000, 0),
        ("compare", 0, 7, True),
        ("equal", 1, 7),
        ("winner", 1, 1, 2**40),
        ("select", 0, 2),
        ("gated truncate", 2, 10, 1),
        ("series", 0, 0),
        ("gated exponential", 1, 1),
        ("write", 2, 3),
        ("combine", 0, 5, 1, -1),
        ("square", 9),
    ]
    m = Machine(3)
    run(m, steps)
    m.check()
    m.check_costs()
    assert torch.equal(m.reveal(2), m.value(2))
