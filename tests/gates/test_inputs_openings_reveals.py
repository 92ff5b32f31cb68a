"""Values come in, are opened under masks, are refreshed and go out."""

from __future__ import annotations

import pytest
import torch

from tests.support import PARTIES, SHAPES, Machine, ring, same
from torchveil.errors import ProtocolError
from torchveil.program import instructions as ins


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_input_open_refresh_reveal(n: int, shape: tuple[int, ...]) -> None:
    value = ring(*shape)
    m = Machine(n)
    x = m.input(value)
    same(m.value(x), value)
    m.open(x)
    y = m.refresh(x)
    assert not m.driver.provider.wires[y].resolve()
    same(m.reveal(x), value)
    same(m.reveal(y), value)
    m.check()
    m.check_costs()


@pytest.mark.parametrize("rank", range(3))
def test_a_refresh_changes_every_share(rank: int) -> None:
    m = Machine(3)
    x = m.input(ring(64))
    y = m.refresh(x)
    assert not torch.equal(m.driver.share_of(x, rank), m.driver.share_of(y, rank))


@pytest.mark.parametrize("offset", range(3))
def test_every_party_may_be_the_receiver_of_an_input(offset: int) -> None:
    m = Machine(3)
    for _ in range(offset):
        m.constant(0, ())
    value = ring(9, seed=offset)
    same(m.value(m.input(value)), value)


def test_a_non_contiguous_input_keeps_its_values() -> None:
    value = ring(6, 4).t()[::2]
    expanded = ring(3, 1).expand(3, 5)
    m = Machine(2)
    x, y = m.opened(value), m.opened(expanded)
    same(m.value(x), value)
    same(m.value(y), expanded)
    m.check()
    m.check_costs()


def test_several_wires_open_in_one_round() -> None:
    m = Machine(4)
    xs = [m.input(ring(*shape, seed=k)) for k, shape in enumerate(SHAPES)]
    m.open(*xs)
    assert m.driver.measured.rounds == 1
    m.check()


def test_opening_twice_is_refused_and_leaves_no_trace() -> None:
    m = Machine(2)
    x, y = m.input(ring(3)), m.opened(ring(3, seed=1))
    for xs in ((x, y), (x, x)):
        with pytest.raises(ProtocolError):
            m.open(*xs)
    view = m.map(y, "flip", [0])
    with pytest.raises(ProtocolError):
        m.open(view)
    m.open(x)
    m.check()


def test_the_provider_cannot_receive() -> None:
    m = Machine(2)
    x = m.input(ring(3))
    with pytest.raises(ProtocolError):
        m.reveal(x, m.driver.provider.name)


@pytest.mark.parametrize("clear", [None, torch.zeros(1, dtype=torch.int64), torch.zeros(3)])
def test_an_input_of_another_shape_or_type_is_refused(clear: torch.Tensor | None) -> None:
    m = Machine(2)
    with pytest.raises(ProtocolError):
        m.driver.run(ins.Input(1, (3,)), clear)
    assert all(1 not in party.wires for party in m.driver.parties)


def test_a_free_forgets_the_wire_everywhere() -> None:
    m = Machine(2)
    x = m.opened(ring(3))
    b = m.sign(x)
    m.free(x, b)
    for role in (*m.driver.parties, m.driver.provider):
        assert not role.wires and not role.bits
    assert m.driver.measured.sent == 0


@pytest.mark.parametrize("half", [False, True])
def test_two_names_of_one_wire_are_not_opened_at_once(half: bool) -> None:
    """The second would be taken for a whole opening where the first is completed."""
    m = Machine(2)
    x = m.input(ring(8) >> 20)
    if half:
        x = m.lift(m.rounded(ring(8) >> 20, 16), 16)
    m.driver.alias(other := m.new(), x)
    with pytest.raises(ProtocolError, match="twice"):
        m.run(ins.Open((x, other), ((8,), (8,)), bits=(16, 16) if half else ()))
    m.run(ins.Open((x,), ((8,),), bits=(16,) if half else ()))
    assert m.driver.is_open(other)
    same(m.value(other), m.value(x))
