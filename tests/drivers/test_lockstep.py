"""The lockstep driver: rounds, measurement, debug mode, and errors that leave no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support import PARTIES, Machine, real_driver, ring, same
from torchveil.errors import Desynchronised, PlainDiverged, ProtocolError
from torchveil.gates import GATES
from torchveil.gates.base import Cost, Exchange, Gate, Interaction
from torchveil.program import instructions as ins
from torchveil.roles.party import Party


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
def test_debug_mode_follows_a_program(n: int) -> None:
    m = Machine(driver=real_driver(n, plain=True), follow=False)
    x, y = m.opened(ring(7)), m.opened(ring(7, seed=1))
    z = m.product(x, y)
    m.open(z)
    bit = m.sign(z)
    m.truncate(m.combine((z, 1)), 10, bit)
    m.select(m.map_bit(bit, "flip", [0], flip=True), x)
    m.equal(x, 1)
    same(m.reveal(z), ring(7) * ring(7, seed=1))


def test_debug_mode_sees_a_tampered_share() -> None:
    m = Machine(driver=real_driver(3, plain=True), follow=False)
    x = m.opened(ring(7))
    share = m.driver.share_of(x, 2)
    share[3] += 1
    with pytest.raises(PlainDiverged):
        m.combine((x, 1))


def test_debug_mode_sees_a_tampered_bit() -> None:
    m = Machine(driver=real_driver(2, plain=True), follow=False)
    bit = m.sign(m.opened(ring(7)))
    m.driver.parties[1].bits[bit].secret()[0] += 1
    with pytest.raises(PlainDiverged):
        m.map_bit(bit, "flip", [0])


def test_measured_is_that_of_the_last_instruction() -> None:
    m = Machine(3)
    x = m.opened(ring(5))
    assert m.driver.measured == Cost(rounds=1, sent=80)
    m.product(x, x)
    assert m.driver.measured == Cost(dealt=40)
    m.map(x, "alias")
    assert m.driver.measured == Cost()


def test_numbers_count_executed_instructions_of_every_role() -> None:
    m = Machine(2)
    m.opened(ring(3))
    for role in (*m.driver.parties, m.driver.provider):
        assert role.ledger.number == m.driver.number - 1 == 1


def test_shares_are_uniform_and_not_the_value() -> None:
    m = Machine(2)
    x = m.input(torch.zeros(4096, dtype=torch.int64))
    for rank in range(2):
        share = m.driver.share_of(x, rank)
        ones = sum(int(((share >> bit) & 1).sum()) for bit in range(64))
        assert abs(ones - 32 * 4096) < 6 * (64 * 4096) ** 0.5 / 2


# --- errors ----------------------------------------------------------------------------------------------------------


def _state(m: Machine) -> Any:
    roles = [*m.driver.parties, m.driver.provider]
    return [
        ({x: (w.resolve(), id(w.share)) for x, w in role.wires.items()}, set(role.bits), role.__class__)
        for role in roles
    ]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", [ins.Truncate, ins.Select, ins.Compare, ins.Bilinear])
def test_an_error_leaves_no_trace(kind: type[ins.Instruction], rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    m = Machine(2)
    x = m.opened(ring(9))
    bit = m.sign(x)
    acts = {
        ins.Truncate: lambda: m.truncate(x, 10, bit),
        ins.Select: lambda: m.select(bit, x),
        ins.Compare: lambda: m.sign(x),
        ins.Bilinear: lambda: m.product(x, x),
    }
    before = _state(m)
    original = Party.dealt_piece

    def failing(self: Party, slot: int, shape: tuple[int, ...]) -> Any:
        if self.rank == rank:
            raise KeyboardInterrupt
        return original(self, slot, shape)

    with monkeypatch.context() as patch:
        patch.setattr(Party, "dealt_piece", failing)
        with pytest.raises(KeyboardInterrupt):
            acts[kind]()
    assert _state(m) == before
    acts[kind]()
    m.check()
    m.check_costs()


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_an_interrupted_opening_can_be_made_again(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    m = Machine(3)
    x, y = m.input(ring(9)), m.input(ring(9, seed=1))
    view = m.map(x, "flip", [0])
    original = Party.masked

    def failing(self: Party, slot: int, value: Any) -> Any:
        if self.rank == rank and slot == 1:
            raise KeyboardInterrupt
        return original(self, slot, value)

    with monkeypatch.context() as patch:
        patch.setattr(Party, "masked", failing)
        with pytest.raises(KeyboardInterrupt):
            m.open(x, y)
        with pytest.raises(KeyboardInterrupt):
            m.open(y, view)
    m.open(x, y)
    m.product(x, y)
    if not m.driver.provider.wires[view].resolve():
        m.open(view)
    m.product(view, x)
    m.check()


def test_a_failed_input_leaves_nothing_behind_in_the_reference() -> None:
    driver = real_driver(2, plain=True)
    assert driver.plain is not None
    with pytest.raises(ProtocolError):
        driver.run(ins.Input(1, (3,)), ring(4))
    driver.run(ins.Input(2, (3,)), ring(3))
    assert not driver.plain.inputs and set(driver.plain.wires) == {2}


def _plant(monkeypatch: pytest.MonkeyPatch, evaluate: Any) -> None:
    gate = GATES[ins.Reveal]
    monkeypatch.setitem(GATES, ins.Reveal, Gate("bad", True, gate.deal, evaluate, gate.clear, gate.cost))


def test_parties_at_different_exchanges_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(party: Party, i: ins.Reveal) -> Interaction:
        yield Exchange("sum" if party.first else "reveal", (ring(3),))

    def counts(party: Party, i: ins.Reveal) -> Interaction:
        yield Exchange("sum", (ring(3),) * (1 + party.rank))

    def lengths(party: Party, i: ins.Reveal) -> Interaction:
        yield Exchange("sum", (ring(3),))
        if party.first:
            yield Exchange("sum", (ring(3),))

    m = Machine(2)
    x = m.input(ring(3))
    for bad in (kinds, counts, lengths):
        _plant(monkeypatch, bad)
        with pytest.raises(Desynchronised):
            m.reveal(x)


def test_a_reveal_is_for_the_receiver_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def evaluate(party: Party, i: ins.Reveal) -> Interaction:
        seen.append((yield Exchange("reveal", (party.wires[i.x].value(),))))

    _plant(monkeypatch, evaluate)
    m = Machine(2)
    x = m.input(ring(3))
    same(m.reveal(x), ring(3))
    assert seen == [(), ()]


def test_an_input_without_a_value_is_refused() -> None:
    with pytest.raises(ProtocolError):
        real_driver(2).run(ins.Input(1, ()))
