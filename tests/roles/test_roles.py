"""Ledger, wires, party and provider, each on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.enumeration import small_ring_driver
from tests.support import Machine, real_driver, ring, same
from torchveil.errors import Desynchronised, LabelReused, ProtocolError, RangeExceeded
from torchveil.kernels.linear_maps import LinearMap
from torchveil.roles.ledger import Ledger
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import BitWire, Wire

# --- ledger ----------------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_label_is_used_once() -> None:
    ledger = Ledger()
    ledger.begin(0)
    ledger.use("mask", 0)
    ledger.use("mask", 1)
    ledger.use("dealt", 0)
    with pytest.raises(LabelReused):
        ledger.use("mask", 0)
    ledger.begin(1)
    ledger.use("mask", 0)


@pytest.mark.parametrize("number", [1, 0, 3, -1])
def test_a_role_counts_itself(number: int) -> None:
    ledger = Ledger()
    ledger.begin(0)
    ledger.begin(1)
    with pytest.raises(Desynchronised):
        ledger.begin(number)


# --- wires -----------------------------------------------------------------------------------------------------------


def test_a_wire_takes_its_opening_through_a_chain_of_maps() -> None:
    root = Wire(ring(2, 3))
    middle = Wire(None, parent=root, via=LinearMap("t"))
    leaf = Wire(None, parent=middle, via=LinearMap("select", (0, 1)))
    assert not leaf.resolve()
    root.mask, root.opening = ring(2, 3, seed=1), ring(2, 3, seed=2)
    assert leaf.resolve()
    opening, mask = leaf.faces()
    same(opening, ring(2, 3, seed=2).t()[1])
    same(mask, ring(2, 3, seed=1).t()[1])
    assert leaf.parent is None and leaf.via is None and middle.parent is None


def test_a_derived_mask_is_reduced_in_a_small_ring() -> None:
    root = Wire(None, mask=torch.tensor([7, 7, 7]))
    out = Wire(None, parent=root, via=LinearMap("sum", ((0,), False)), width=3)
    assert int(out.total_mask()) == 21 % 8


def test_what_a_wire_lacks_raises() -> None:
    wire = Wire(None)
    for ask in (wire.value, wire.faces, wire.total_mask):
        with pytest.raises(ProtocolError):
            ask()
    only_mask = Wire(None, mask=ring(2))
    with pytest.raises(ProtocolError):
        only_mask.faces()
    same(only_mask.total_mask(), ring(2))
    bit = BitWire(None, None)
    for ask in (bit.public_flip, bit.secret):
        with pytest.raises(ProtocolError):
            ask()


# --- party and provider ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("number", range(5))
def test_dealt_values_add_up_and_the_receiver_rotates(n: int, number: int) -> None:
    driver = real_driver(n)
    provider = driver.provider
    value, bits = ring(3, 4), np.arange(6, dtype=np.uint8).reshape(2, 3)
    words = np.arange(8, dtype=np.uint16).reshape(2, 4)
    for role in (provider, *driver.parties):
        for earlier in range(number + 1):
            role.begin(earlier)
    provider.deal(0, value)
    provider.deal_bits(0, bits)
    provider.deal_words(1, words, 15)
    corrections = provider.collect()
    assert provider.collect() == {}
    assert [party.receiver for party in driver.parties] == [rank == number % n for rank in range(n)]
    driver.parties[number % n].deliver(corrections)
    with pytest.raises(Desynchronised):
        driver.parties[(number + 1) % n].deliver(corrections)
    same(sum((party.dealt(0, (3, 4)) for party in driver.parties), torch.tensor(0)), value)
    assert np.array_equal(np.bitwise_xor.reduce([party.dealt_bits(0, (2, 3)) for party in driver.parties]), bits)
    assert np.array_equal(np.bitwise_xor.reduce([party.dealt_words(1, (2, 4), 15) for party in driver.parties]), words)


def test_masks_are_the_sum_of_their_pieces() -> None:
    driver = real_driver(3)
    for role in (driver.provider, *driver.parties):
        role.begin(0)
    same(sum((party.mask(2, (5,)) for party in driver.parties), torch.tensor(0)), driver.provider.mask(2, (5,)))
    pieces = [party.mask_bits(2, (5,)) for party in driver.parties]
    assert np.array_equal(np.bitwise_xor.reduce(pieces), driver.provider.mask_bits(2, (5,)))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_zero_shares_add_up_to_zero(n: int) -> None:
    driver = real_driver(n)
    for party in driver.parties:
        party.begin(0)
    pieces = [party.zero_share(0, (100,)) for party in driver.parties]
    assert all(isinstance(piece, torch.Tensor) and bool(piece.any()) for piece in pieces)
    same(sum(pieces, torch.tensor(0)), torch.zeros(100, dtype=torch.int64))


def test_a_party_refuses_corrections_that_do_not_fit() -> None:
    driver = real_driver(2)
    party = driver.parties[0]
    party.begin(0)
    party.deliver({("dealt", 0): ring(3), ("dealt-bits", 0): np.zeros(3, dtype=np.uint8), ("input", 0): ring(3)})
    with pytest.raises(Desynchronised):
        party.dealt(0, (4,))
    with pytest.raises(Desynchronised):
        party.dealt_bits(0, (4,))
    with pytest.raises(Desynchronised):
        party.input_correction((4,))
    with pytest.raises(ProtocolError):
        party.dealt(1, (3,))


def test_unread_corrections_are_noticed() -> None:
    party = real_driver(2).parties[0]
    party.begin(0)
    party.deliver({("dealt", 0): ring(3)})
    with pytest.raises(Desynchronised):
        party.begin(1)
    party.abandon(())
    party.begin(1)


def test_a_label_is_dealt_and_masked_once() -> None:
    driver = real_driver(2)
    for role in (driver.provider, *driver.parties):
        role.begin(0)
    driver.provider.deal(0, ring(3))
    with pytest.raises(LabelReused):
        driver.provider.deal(0, ring(3))
    party = driver.parties[1]
    for use in (
        lambda: party.mask(0, (3,)),
        lambda: party.mask_bits(0, (3,)),
        lambda: party.dealt(0, (3,)),
        lambda: party.zero_share(0, (3,)),
        lambda: party.input_piece((3,)),
    ):
        use()
        with pytest.raises(LabelReused):
            use()


def _provider_memory(value: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """All that the provider holds and sends in a program on ``value``, on streams that are always the same."""
    outbox = []
    collect = Provider.collect

    def watched(self: Provider) -> object:
        sent = collect(self)
        outbox.append({label: piece.tolist() for label, piece in sent.items()})
        return sent

    m = Machine(driver=small_ring_driver(3, 64))
    with monkeypatch.context() as patch:
        patch.setattr(Provider, "collect", watched)
        x, y = m.opened(value), m.opened(value.flip(0))
        bit = m.sign(x)
        z = m.product(x, y)
        m.open(z)
        m.truncate(z, 10, bit)
        m.select(bit, m.combine((x, 1), (y, 2)))
        m.equal(x, 3)
        m.reveal(x)
    provider = m.driver.provider
    assert all(wire.share is None and wire.opening is None for wire in provider.wires.values())
    assert all(b.flip is None and b.value is None for b in provider.bits.values())
    masks = {x: wire.total_mask().tolist() for x, wire in provider.wires.items() if wire.resolve()}
    return masks, {b: wire.secret().tolist() for b, wire in provider.bits.items()}, outbox


def test_the_provider_holds_masks_only_and_nothing_depends_on_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _provider_memory(ring(5), monkeypatch) == _provider_memory(ring(5, seed=9), monkeypatch)


def test_reprs_show_no_values() -> None:
    m = Machine(2)
    m.opened(torch.tensor([123456789]))
    for role in (*m.driver.parties, m.driver.provider):
        assert "123456789" not in repr(role) and "tensor" not in repr(role)


# --- plain -----------------------------------------------------------------------------------------------------------


def test_plain_bounds_are_checked_only_in_debug_mode() -> None:
    value = torch.tensor([5, -5])
    Plain().require(value, 0, 4, "op", "remedy")
    strict = Plain(strict=True)
    strict.require(value, -5, 5, "op", "remedy")
    strict.require(value[:0], 0, 0, "op", "remedy")
    for low, high in ((-4, 5), (-5, 4)):
        with pytest.raises(RangeExceeded):
            strict.require(value, low, high, "op", "remedy")


def test_plain_forgets_what_failed() -> None:
    plain = Plain()
    plain.inputs.append(ring(3))
    plain.set(1, ring(3))
    plain.set_bit(2, torch.zeros(3, dtype=torch.int64))
    plain.abandon((1, 2))
    assert not plain.inputs and not plain.wires and not plain.bits
    with pytest.raises(ProtocolError):
        plain.set_bit(3, None)  # type: ignore[arg-type]
        plain.bit(3)
