"""No label is sent or dealt twice, by any role, in a run of every instruction, and none comes again in a replay."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from torch import Tensor

from tests.support import PARTIES, Machine, real_driver, ring
from torchveil.drivers.lockstep import Lockstep
from torchveil.errors import Desynchronised, LabelReused
from torchveil.gates import GATES
from torchveil.gates.base import Exchange, Gate, Interaction
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins
from torchveil.randomness import Bits, Stream, Words
from torchveil.roles.ledger import Ledger
from torchveil.roles.party import Party

#: (reader, purpose, peer): one stream as one role reads it.
Name = tuple[str, str, int]
Use = tuple[Name, int, int]


class RecordingStream:
    """A stream that remembers which labels were read, and the bytes at the head of each label."""

    def __init__(self, stream: Any, name: Name, uses: list[Use], heads: dict[bytes, set[Any]]) -> None:
        self.stream: Stream = stream
        self.name, self.uses, self.heads = name, uses, heads

    def _record(self, number: int, slot: int, size: int) -> None:
        self.uses.append((self.name, number, slot))
        if size:
            self.heads.setdefault(self.stream.bits(number, slot, (16,)).tobytes(), set()).add((number, slot))

    def ring(self, number: int, slot: int, shape: tuple[int, ...], width: int) -> Tensor:
        out = self.stream.ring(number, slot, shape, width)
        self._record(number, slot, out.numel())
        return out

    def bits(self, number: int, slot: int, shape: tuple[int, ...]) -> Bits:
        out = self.stream.bits(number, slot, shape)
        self._record(number, slot, out.size)
        return out

    def words(self, number: int, slot: int, shape: tuple[int, ...], valid: int) -> Words:
        out = self.stream.words(number, slot, shape, valid)
        self._record(number, slot, out.size)
        return out


def recording_driver(n: int) -> tuple[Lockstep, list[Use], dict[bytes, set[Any]]]:
    """A lockstep driver with real keys whose every stream is recorded."""
    driver = real_driver(n)
    uses: list[Use] = []
    heads: dict[bytes, set[Any]] = {}
    for party in driver.parties:
        for purpose, stream in party._streams.items():
            party._streams[purpose] = RecordingStream(stream, (party.name, purpose, 0), uses, heads)
        for peer, stream in party._zero.items():
            party._zero[peer] = RecordingStream(stream, (party.name, "zero", peer), uses, heads)
    for rank, streams in enumerate(driver.provider._streams):
        for purpose, stream in streams.items():
            streams[purpose] = RecordingStream(stream, ("provider", purpose, rank), uses, heads)
    driver.inputs = [
        RecordingStream(stream, ("owner", "input", rank), uses, heads) for rank, stream in enumerate(driver.inputs)
    ]
    return driver, uses, heads


def repeated(uses: list[Use]) -> list[Use]:
    """The labels that one role used more than once."""
    return [use for use, count in Counter(uses).items() if count > 1]


def everything(m: Machine) -> None:
    """One of each instruction, and several that share operands."""
    x, y = m.input(ring(3, 4)), m.input(ring(3, 4, seed=1))
    m.open(x, y)
    bit = m.sign(x)
    first, second = m.compare(y, (0, 5), [((0, 1), False), ((1,), True)], negate=True)
    m.equal(x, 3, 4)
    m.winner(y, 1, 2**60)
    z = m.product(x, y)
    m.product(x, y)
    m.open(z)
    if m.driver.n_parties == 2:
        rounded(m, z)
    w = m.truncate(z, 1000)
    m.truncate(z, 1000, bit)
    m.select(bit, x)
    m.select(first, z)
    m.series(x, 20, (1, 2), (5, 6), (7, 8), 9)
    m.series(x, 20, (1, 2), (5, 6), (7, 8), 9, second)
    m.exponential(y, 2**16, 20)
    m.exponential(y, 2**16, 20, bit)
    total = m.combine((x, 1), (w, 2))
    m.open(total)
    m.product(m.map(total, "t"), x, "mm")
    m.write(total, w, LinearMap("alias"))
    m.arithmetic(m.map_bit(bit, "t", flip=True))
    m.weigh([bit, first], [1, 2])
    m.public_product(m.add_public(x, ring(4)), ring(4))
    m.cat([x, m.constant(1, (3, 4)), m.refresh(y)])
    m.reveal(w)
    m.reveal(x)
    m.free(x, y)


def rounded(m: Machine, z: int) -> None:
    """What two parties do alone."""
    x = m.round(z, 16)
    m.open(x, bits=(48,))
    out = m.lift(x, 16)
    m.lift(x, 16, m.sign(x, zeros=16))
    m.open(out, m.combine((z, 2), (m.lift(x, 16), 1), follow=True), bits=(16, 64))


@pytest.mark.parametrize("n", PARTIES)
def test_no_label_is_used_twice(n: int) -> None:
    driver, uses, heads = recording_driver(n)
    m = Machine(driver=driver, follow=False)
    for _ in range(3):
        everything(m)
    by_two = set() if n == 2 else {ins.Round, ins.Lift}
    assert {type(i) for i, _ in m.log} == set(GATES) - by_two
    assert not repeated(uses)
    # Different labels or purposes give different bytes, or the keys are not different.
    assert all(len(labels) == 1 for labels in heads.values())


def test_a_replay_of_a_plan_shares_no_label_with_the_first_run() -> None:
    driver, uses, _ = recording_driver(2)
    m = Machine(driver=driver, follow=False)
    everything(m)
    first = set(uses)
    uses.clear()
    everything(m)
    assert first.isdisjoint(uses)


def test_a_failed_instruction_burns_its_label() -> None:
    driver, uses, _ = recording_driver(2)
    m = Machine(driver=driver, follow=False)
    x = m.opened(ring(3))
    with pytest.raises(KeyError):
        m.select(99, x)
    m.truncate(x, 10)
    assert not repeated(uses)


@pytest.mark.smoke
def test_a_gate_that_masks_two_values_with_one_label_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(party: Party, i: ins.Open) -> Interaction:
        pieces = [party.wires[x].value() + party.mask(0, shape) for x, shape in zip(i.xs, i.shapes, strict=True)]
        yield Exchange("sum", tuple(pieces))

    gate = GATES[ins.Open]
    bad = Gate(gate.name, True, gate.deal, evaluate, gate.clear, gate.cost)
    monkeypatch.setitem(GATES, ins.Open, bad)
    m = Machine(2, follow=False)
    x, y = m.input(ring(3)), m.input(ring(3))
    with pytest.raises(LabelReused):
        m.open(x, y)


def test_a_driver_that_replays_a_number_is_stopped() -> None:
    m = Machine(2)
    x, y = m.input(ring(3)), m.input(ring(3))
    m.open(x)
    m.driver.number -= 1
    with pytest.raises(Desynchronised):
        m.open(y)


def test_without_the_ledger_this_test_sees_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Ledger, number: int) -> None:
        self.number = number
        self._used.clear()

    monkeypatch.setattr(Ledger, "begin", forgetful)
    driver, uses, _ = recording_driver(2)
    m = Machine(driver=driver, follow=False)
    x, y = m.input(ring(3)), m.input(ring(3))
    m.open(x)
    driver.number -= 1
    m.open(y)
    assert any(name[1] == "mask" for name, _, _ in repeated(uses))


def test_equal_keys_for_two_parties_are_seen() -> None:
    driver, _, heads = recording_driver(2)
    # What a key derivation without the rank would give: both parties read one stream under one label.
    first, second = driver.parties
    second._streams["mask"] = first._streams["mask"]
    driver.provider._streams[1]["mask"] = driver.provider._streams[0]["mask"]
    m = Machine(driver=driver, follow=False)
    m.opened(ring(3))
    uses = first._streams["mask"].uses  # type: ignore[attr-defined]
    assert repeated(uses)
    assert heads
