"""The detectors detect: each classical mistake is planted and must turn its test red."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest

from tests.enumeration import PROVIDER, Bench, Coalition, EnumeratedStream, Key, World, leaks
from torchveil.gates import GATES
from torchveil.gates.base import Exchange, Gate, Interaction
from torchveil.program import instructions as ins
from torchveil.roles.party import Party

PAIRS = [(0, 0), (0, 1), (1, 0), (3, 5), (7, 7)]
TRIPLES = [(0, 0, 0), (1, 1, 0), (1, 2, 3), (3, 1, 2)]


# --- bad sources -----------------------------------------------------------------------------------------------------


class Replayed(EnumeratedStream):
    """Mask reuse by replay: the instruction number is not part of the label."""

    def key(self, number: int, slot: int, row: int) -> Key:
        return (self.identity, 0, slot, row)


class Shifted(EnumeratedStream):
    """The label sits in the low bytes of the counter: neighbouring labels are shifted copies of one stream."""

    def key(self, number: int, slot: int, row: int) -> Key:
        return (self.identity, number, slot + row)


def only(purpose: str, bad: type[EnumeratedStream]) -> Any:
    """``bad`` for the streams of one purpose, the good source for all others."""

    def factory(world: World, identity: Hashable, reader: int) -> EnumeratedStream:
        chosen = isinstance(identity, tuple) and identity[0] == purpose
        return (bad if chosen else EnumeratedStream)(world, identity, reader)

    return factory


def same_keys(world: World, identity: Hashable, reader: int) -> EnumeratedStream:
    """Two parties derive the same keys: the rank is not part of them."""
    if isinstance(identity, tuple) and identity[0] != "zero":
        identity = (identity[0], 0)
    return EnumeratedStream(world, identity, reader)


def two_openings(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x)
    m.open(y)


def one_opening_of_two_rows_each(m: Bench, s: tuple[int, ...]) -> None:
    m.open(m.secret(s[0], s[1]), m.secret(s[0], s[1]))


def product(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    m.product(x, y)


def truncation(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.truncate(x, 2)


def two_products_to_one_receiver(m: Bench, s: tuple[int, ...]) -> None:
    x, y, z = (m.secret(value) for value in s)
    m.open(x, y, z)
    m.product(x, y)
    m.constant(0, ())
    m.product(x, z)


def two_comparisons(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    m.sign(x)
    m.constant(0, ())
    m.sign(y)


def reveal_of_a_product(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    m.reveal(m.product(x, y))


@pytest.mark.smoke
def test_mask_reuse_by_replay() -> None:
    assert not leaks(two_openings, PAIRS)
    assert leaks(two_openings, PAIRS, factory=only("mask", Replayed))


def test_a_shifted_stream() -> None:
    assert not leaks(one_opening_of_two_rows_each, PAIRS[:3], width=2)
    assert leaks(one_opening_of_two_rows_each, PAIRS[:3], width=2, factory=only("mask", Shifted))


@pytest.mark.parametrize("program", [two_openings, product, truncation], ids=lambda program: program.__name__)
def test_the_same_keys_for_two_parties(program: Any) -> None:
    assert leaks(program, PAIRS, factory=same_keys)


def test_one_dealt_piece_for_two_corrections() -> None:
    assert not leaks(two_products_to_one_receiver, TRIPLES, width=2)
    assert leaks(two_products_to_one_receiver, TRIPLES, width=2, factory=only("dealt", Replayed))


@pytest.mark.parametrize("purpose", ["mask-bits", "dealt-bits"])
def test_bits_that_serve_two_comparisons(purpose: str) -> None:
    assert leaks(two_comparisons, [(0, 0), (0, 2), (3, 1)], width=2, factory=only(purpose, Replayed))


# --- bad gates -------------------------------------------------------------------------------------------------------


def plant(monkeypatch: pytest.MonkeyPatch, kind: type[ins.Instruction], evaluate: Any) -> None:
    gate = GATES[kind]
    monkeypatch.setitem(GATES, kind, Gate(gate.name, gate.interactive, gate.deal, evaluate, gate.clear, gate.cost))


def add_in_place(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x)
    m.open(m.combine((x, 1), (y, 1)))


def test_a_sum_sent_under_the_mask_of_its_operand(monkeypatch: pytest.MonkeyPatch) -> None:
    """An in-place add whose opening is refreshed under the mask that the tensor had before."""
    assert not leaks(add_in_place, PAIRS)
    first: dict[int, Any] = {}

    def evaluate(party: Party, i: ins.Open) -> Interaction:
        (x,), (shape,) = i.xs, i.shapes
        fresh = party.mask(0, shape)
        mask = first.setdefault(party.rank, fresh) if x == 1 else first[party.rank]
        first[party.rank] = mask
        (total,) = yield Exchange("sum", (party.reduce(party.wires[x].value() + mask),))
        party.wires[x].mask, party.wires[x].opening = mask, total

    def remember(party: Party, i: ins.Open) -> Interaction:
        if i.xs == (1,):
            first.pop(party.rank, None)
        return evaluate(party, i)

    plant(monkeypatch, ins.Open, remember)
    assert leaks(add_in_place, PAIRS)


def test_an_opening_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(party: Party, i: ins.Open) -> Interaction:
        (x,), (shape,) = i.xs, i.shapes
        mask = party.mask(0, shape) * 0
        (total,) = yield Exchange("sum", (party.wires[x].value(),))
        party.wires[x].mask, party.wires[x].opening = mask, total

    plant(monkeypatch, ins.Open, evaluate)
    assert leaks(two_openings, PAIRS)


def test_an_even_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """y sent under 2a: the lowest bit of y is public."""

    def evaluate(party: Party, i: ins.Open) -> Interaction:
        (x,), (shape,) = i.xs, i.shapes
        mask = party.reduce(2 * party.mask(0, shape))
        (total,) = yield Exchange("sum", (party.reduce(party.wires[x].value() + mask),))
        party.wires[x].mask, party.wires[x].opening = mask, total

    plant(monkeypatch, ins.Open, evaluate)
    found = leaks(two_openings, [(0, 0), (2, 0), (0, 4), (1, 0)])
    assert {secret for _, secret in found} == {(1, 0)}


def test_a_comparison_whose_sign_is_sent_without_its_flip(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Party.mask_bits

    def mask_bits(self: Party, slot: int, shape: tuple[int, ...]) -> Any:
        piece = original(self, slot, shape)
        return np.zeros_like(piece) if slot == 3 else piece

    def program(m: Bench, s: tuple[int, ...]) -> None:
        x = m.secret(s[0])
        m.open(x)
        m.sign(x)

    secrets = [(0,), (1,), (4,)]
    assert not leaks(program, secrets)
    monkeypatch.setattr(Party, "mask_bits", mask_bits)
    assert {secret for _, secret in leaks(program, secrets)} == {(4,)}


def test_a_reveal_without_its_zero_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider dealt the pieces of a product: together with its receiver it would learn the factors."""
    secrets = [(0, 0), (0, 1), (2, 2), (2, 0)]
    together = [Coalition((), receiver=True, others=(PROVIDER,))]
    assert not leaks(reveal_of_a_product, secrets, width=2, among=together)
    monkeypatch.setattr(Party, "zero_share", lambda self, slot, shape: 0)
    assert leaks(reveal_of_a_product, secrets, width=2, among=together)
