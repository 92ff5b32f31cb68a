"""The rank test: of all messages o = M s + L a, every row u with u L = 0 has u M = 0 modulo 2^64.

The matrices are not written down by hand: the real gates run on probe worlds. World 0 has all variables zero, world j
has variable j equal to one, and since linear instructions are affine over the ring, the difference of the messages in
world j and in world 0 is column j.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.enumeration import (
    Bench,
    Coalition,
    EnumeratedStream,
    Key,
    RecordingParty,
    Variable,
    World,
    coalitions,
    recording_driver,
)
from torchveil.gates import GATES
from torchveil.gates.base import Exchange, Gate, Interaction
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins
from torchveil.roles.party import Party

Matrix = npt.NDArray[np.uint64]


# --- modules over Z_2^64 ---------------------------------------------------------------------------------------------


def _valuation(x: Matrix) -> npt.NDArray[np.int64]:
    """How often 2 divides each entry; 64 for zero."""
    low = x & (~x + np.uint64(1))
    return np.where(x == 0, 64, np.log2(np.maximum(low, 1).astype(np.float64))).astype(np.int64)


def hides(M: Matrix, L: Matrix) -> bool:
    """Whether every u with u L = 0 has u M = 0 (mod 2^64); the same as M = L T for some T.

    Rows are eliminated with the pivot of the lowest power of 2, which divides all that is left of its row and column.
    """
    M, L = M.copy(), L.copy()
    while L.size:
        valuation = _valuation(L)
        place = int(valuation.argmin())
        row, column = divmod(place, L.shape[1])
        power = int(valuation[row, column])
        if power == 64:
            break
        shift = np.uint64(power)
        inverse = np.uint64(pow(int(L[row, column]) >> power, -1, 2**64))
        L[row] *= inverse
        M[row] *= inverse
        if (M[row] & np.uint64((1 << power) - 1)).any():
            return False
        # The unit may have left high bits beside the power in the pivot itself: 2^power * unit * inverse = 2^power.
        factors = L[:, column] >> shift
        factors[row] = 0
        L -= factors[:, None] * L[row][None, :]
        M -= factors[:, None] * M[row][None, :]
        L, M = np.delete(L, row, axis=0), np.delete(M, row, axis=0)
    return not M.any()


def _matrix(rows: Any) -> Matrix:
    return np.array([[value % 2**64 for value in row] for row in rows], dtype=np.uint64).reshape(len(rows), -1)


#: The cases of the rule, one party's masks a, b: (name, M over (x, y), L over (a, b), safe).
KNOWN = [
    ("x + a", [[1, 0]], [[1, 0]], True),
    ("x + a, 2x + 2a", [[1, 0], [2, 0]], [[1, 0], [2, 0]], True),
    ("x + a, -x - a", [[1, 0], [-1, 0]], [[1, 0], [-1, 0]], True),
    ("x + a, y + b, x + y + a + b", [[1, 0], [0, 1], [1, 1]], [[1, 0], [0, 1], [1, 1]], True),
    ("x twice under independent masks", [[1, 0], [1, 0]], [[1, 0], [0, 1]], True),
    ("x + a, x + y + a", [[1, 0], [1, 1]], [[1, 0], [1, 0]], False),
    ("y + 2a", [[0, 1]], [[2, 0]], False),
    ("2y + 2a", [[0, 2]], [[2, 0]], True),
    ("4y + 2a", [[0, 4]], [[2, 0]], True),
    ("2y + 4a", [[0, 2]], [[4, 0]], False),
    (
        "x + a, y + b, third value under a + b",
        [[1, 0], [0, 1], [0, 0], [1, 0]],
        [[1, 0], [0, 1], [0, 0], [1, 1]],
        False,
    ),
    ("x", [[1, 0]], [[0, 0]], False),
    ("2^63 x + 2^63 a", [[2**63, 0]], [[2**63, 0]], True),
    ("2^62 x + 2^63 a", [[2**62, 0]], [[2**63, 0]], False),
    ("3x + 6a, x + 2a", [[3, 0], [1, 0]], [[6, 0], [2, 0]], False),
]


@pytest.mark.parametrize(("name", "M", "L", "safe"), KNOWN, ids=[case[0] for case in KNOWN])
def test_the_criterion_on_known_cases(name: str, M: Any, L: Any, safe: bool) -> None:
    assert hides(_matrix(M), _matrix(L)) == safe


@given(st.lists(st.tuples(*[st.integers(0, 7)] * 4), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_the_criterion_against_all_rows_in_z8(rows: list[tuple[int, int, int, int]]) -> None:
    """In Z_8 all u can be tried; 2^61 times a matrix over Z_8 is a matrix over Z_2^64 with the same relations."""
    M, L = [row[:2] for row in rows], [row[2:] for row in rows]

    def times(u: tuple[int, ...], matrix: list[tuple[int, ...]]) -> list[int]:
        return [sum(a * row[k] for a, row in zip(u, matrix, strict=True)) % 8 for k in range(2)]

    safe = all(any(times(u, L)) or not any(times(u, M)) for u in product(range(8), repeat=len(rows)))
    lifted = 2**61
    assert (
        hides(_matrix([[lifted * v for v in row] for row in M]), _matrix([[lifted * v for v in row] for row in L]))
        == safe
    )


# --- probing ---------------------------------------------------------------------------------------------------------


class ProbeWorld(World):
    """World j has variable j equal to one and all others zero; secrets are variables too."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[Key, int] = {}

    def column(self, key: Key, bits: int, reader: int) -> Tensor:
        out = torch.zeros(self.size, dtype=torch.int64)
        variable = self.variables.setdefault(key, Variable(bits))
        variable.readers.add(reader)
        if not self.learning:
            out[self.places[key]] = 1
        return out

    def probe(self) -> None:
        self.learning = False
        self.places = {key: place + 1 for place, key in enumerate(self.variables)}
        self.size = len(self.variables) + 1


class ProbeBench(Bench):
    """A machine whose every secret element is a variable."""

    def __init__(self, world: ProbeWorld, driver: Any) -> None:
        super().__init__(world, driver)
        self.secrets = 0

    def vector(self, rows: int) -> int:
        columns = [self.world.column(("secret", self.secrets + row), 64, -3) for row in range(rows)]
        self.secrets += rows
        return self.input(torch.stack(columns))


LinearProgram = Callable[[ProbeBench], None]
Factory = Callable[[World, Hashable, int], Any]


def leaking(program: LinearProgram, n: int = 2, factory: Factory = EnumeratedStream) -> list[Coalition]:
    """The coalitions of n - 1 parties for which some combination of what they see depends on a secret alone."""
    world = ProbeWorld()

    def run() -> Any:
        driver = recording_driver(n, 64, lambda identity, reader: factory(world, identity, reader))
        program(ProbeBench(world, driver))
        return driver

    run()
    world.probe()
    driver = run()
    keys = list(world.variables)
    secret = np.array([key[0] == "secret" for key in keys])
    out = []
    for coalition in coalitions(n):
        rows: list[Tensor] = []
        for rank in coalition.ranks:
            party = driver.parties[rank]
            assert isinstance(party, RecordingParty)
            rows += [piece.reshape(-1, world.size) for _, piece in party.received]
        for kind, pieces in driver.messages:
            assert kind == "sum"
            rows += [piece.reshape(-1, world.size) for rank, piece in enumerate(pieces) if rank not in coalition.ranks]
        own = [place for place, key in enumerate(keys) if coalition.reads(world.variables[key])]
        seen = torch.cat(rows)
        matrix = (seen[:, 1:] - seen[:, :1]).numpy().view(np.uint64)
        known = np.zeros((len(own), len(keys)), dtype=np.uint64)
        known[np.arange(len(own)), own] = 1
        whole = np.concatenate([matrix, known])
        if not hides(whole[:, secret], whole[:, ~secret]):
            out.append(coalition)
    return out


# --- programs --------------------------------------------------------------------------------------------------------


def _is_open(m: ProbeBench, x: int) -> bool:
    return m.driver.provider.wires[x].resolve()


def _open_missing(m: ProbeBench, xs: list[int]) -> None:
    missing = [x for x in xs if not _is_open(m, x)]
    if missing:
        m.open(*missing)


FACTORS = st.sampled_from([1, -1, 2, -2, 3, 0, 2**62, -(2**63)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("input"), st.integers(1, 2)),
        st.tuples(st.just("open"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("combine"), st.integers(0, 9), FACTORS, st.integers(0, 9), FACTORS),
        st.tuples(st.just("flip"), st.integers(0, 9)),
        st.tuples(st.just("first"), st.integers(0, 9)),
        st.tuples(st.just("sum"), st.integers(0, 9)),
        st.tuples(st.just("double"), st.integers(0, 9)),
        st.tuples(st.just("add public"), st.integers(0, 9)),
        st.tuples(st.just("cat"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("refresh"), st.integers(0, 9)),
        st.tuples(st.just("write"), st.integers(0, 9), st.integers(0, 9)),
    ),
    min_size=3,
    max_size=14,
)


def _step(m: ProbeBench, wires: list[int], step: tuple[Any, ...]) -> int | None:
    """Run one drawn step; the new wire, if there is one."""
    kind, *args = step
    if kind == "input":
        return m.vector(args[0])
    x = wires[args[0] % len(wires)]
    rows = m.shape(x)[0]
    if kind == "open":
        _open_missing(m, sorted({x, wires[args[1] % len(wires)]}))
        return None
    if kind == "combine":
        y = wires[args[2] % len(wires)]
        if len({rows, m.shape(y)[0]} - {1}) > 1:
            return None
        return m.combine((x, args[1]), (y, args[3]), constant=7)
    if kind == "cat":
        y = wires[args[1] % len(wires)]
        return m.cat([x, y]) if rows + m.shape(y)[0] <= 4 else None
    if kind == "write":
        y = wires[args[1] % len(wires)]
        return m.write(x, y, LinearMap("slice", (0, 0, 1, 1))) if m.shape(y)[0] == 1 else None
    if kind == "refresh":
        return m.refresh(x)
    if kind == "add public":
        return m.add_public(x, torch.full((rows, 1), 5))
    name, *map_args = {
        "flip": ("flip", [0]),
        "first": ("slice", 0, 0, 1, 1),
        "sum": ("sum", (0,), True),
        "double": ("repeat", [2, 1]) if rows == 1 else ("roll", [1], [0]),
    }[kind]
    return m.map(x, name, *map_args)


@given(STEPS, st.sampled_from([2, 2, 3]))
@settings(max_examples=60, deadline=None)
def test_random_linear_programs_hide_their_inputs(steps: list[tuple[Any, ...]], n: int) -> None:
    def program(m: ProbeBench) -> None:
        wires = [m.vector(2), m.vector(1)]
        for step in steps:
            out = _step(m, wires, step)
            if out is not None:
                wires.append(out)
        _open_missing(m, wires)

    assert not leaking(program, n)


def in_place_add(m: ProbeBench) -> None:
    x, y = m.vector(2), m.vector(2)
    m.open(x)
    m.open(m.combine((x, 1), (y, 1)))


def two_openings(m: ProbeBench) -> None:
    x, y = m.vector(2), m.vector(2)
    m.open(x)
    m.open(y)


def one_opening_of_two(m: ProbeBench) -> None:
    m.open(m.vector(2), m.vector(2))


PROGRAMS = [in_place_add, two_openings, one_opening_of_two]


@pytest.mark.smoke
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.parametrize("n", [2, 3])
def test_fixed_programs_hide_their_inputs(program: LinearProgram, n: int) -> None:
    assert not leaking(program, n)


# --- planted ---------------------------------------------------------------------------------------------------------


class Replayed(EnumeratedStream):
    def key(self, number: int, slot: int, row: int) -> Key:
        return (self.identity, 0, slot, row)


class Shifted(EnumeratedStream):
    def key(self, number: int, slot: int, row: int) -> Key:
        return (self.identity, number, slot + row)


def same_keys(world: World, identity: Hashable, reader: int) -> EnumeratedStream:
    return EnumeratedStream(world, (identity[0], 0) if isinstance(identity, tuple) else identity, reader)


def masks(bad: type[EnumeratedStream]) -> Factory:
    def factory(world: World, identity: Hashable, reader: int) -> EnumeratedStream:
        chosen = isinstance(identity, tuple) and identity[0] == "mask"
        return (bad if chosen else EnumeratedStream)(world, identity, reader)

    return factory


@pytest.mark.parametrize(
    ("program", "factory"),
    [(two_openings, masks(Replayed)), (one_opening_of_two, masks(Shifted)), (two_openings, same_keys)],
    ids=["replay", "shifted stream", "same keys"],
)
def test_bad_streams_are_found(program: LinearProgram, factory: Factory) -> None:
    assert leaking(program, factory=factory)


def _plant_open(monkeypatch: pytest.MonkeyPatch, evaluate: Any) -> None:
    gate = GATES[ins.Open]
    monkeypatch.setitem(GATES, ins.Open, Gate(gate.name, True, gate.deal, evaluate, gate.clear, gate.cost))


def test_an_in_place_add_under_the_old_mask_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(party: Party, i: ins.Open) -> Interaction:
        (x,), (shape,) = i.xs, i.shapes
        mask = party.mask(0, shape) if x == 1 else party.wires[1].faces()[1]
        (total,) = yield Exchange("sum", (party.wires[x].value() + mask,))
        party.wires[x].mask, party.wires[x].opening = mask, total

    _plant_open(monkeypatch, evaluate)
    assert leaking(in_place_add)


def test_an_even_mask_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(party: Party, i: ins.Open) -> Interaction:
        (x,), (shape,) = i.xs, i.shapes
        mask = 2 * party.mask(0, shape)
        (total,) = yield Exchange("sum", (party.wires[x].value() + mask,))
        party.wires[x].mask, party.wires[x].opening = mask, total

    _plant_open(monkeypatch, evaluate)
    assert leaking(two_openings)
