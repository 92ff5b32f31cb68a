"""Whose data went into a value, over real programs: the driver of a session tells provenance what it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchveil
from torchveil import Session, public
from torchveil.errors import ProtocolError
from torchveil.network.consent.provenance import PlanFlow, Provenance
from torchveil.program import instructions as ins
from torchveil.program.plan import Plan
from torchveil.program.wiring import WIRING, defines, reads
from torchveil.tensor import EncryptedTensor

A, B, ME = "owner/hospital-a", "owner/hospital-b", "controller/scientist"


class Follower:
    """Stands before a session's driver, as the session of a party will call provenance."""

    def __init__(self, session: Session) -> None:
        self.driver: Any = session._driver
        self.provenance = Provenance()
        self.slow: dict[int, frozenset[str]] = {}  # the plain meaning: a set of owners for each wire and slot
        self.owner = ME
        self.seen: list[ins.Instruction] = []
        session._driver = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.driver, name)

    def run(self, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        self.seen.append(i)
        if isinstance(i, ins.Input):
            self.provenance.input(i.out, self.owner)
            self.slow[i.out] = frozenset([self.owner])
        else:
            self.follow(i)
        self.provenance.follow(i)
        result: Tensor | None = self.driver.run(i, clear)
        return result

    def run_plan(self, plan: Plan, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        self.provenance.follow_plan(PlanFlow(plan), inputs, outputs)
        self.slow.update((slot, self.slow[wire]) for slot, wire in zip(plan.inputs, inputs, strict=True))
        for stage in plan.stages:
            for k in (*stage.local, *stage.starts):
                self.follow(plan.instructions[k])
        self.slow.update((wire, self.slow[slot]) for slot, wire in zip(plan.outputs, outputs, strict=True))
        self.driver.run_plan(plan, inputs, outputs)

    def follow(self, i: ins.Instruction) -> None:
        """As one would say it on paper."""
        united = frozenset(owner for x in reads(i) for owner in self.slow[x])
        self.slow.update((out, united) for out in defines(i))

    def alias(self, new: int, old: int, *, apart: bool = False) -> None:
        self.provenance.alias(new, old)
        self.slow[new] = self.slow[old]
        self.driver.alias(new, old, apart=apart)

    @contextmanager
    def of(self, owner: str) -> Iterator[None]:
        before, self.owner = self.owner, owner
        yield
        self.owner = before

    def owners(self, x: Any) -> frozenset[str]:
        """Of a tensor, in the way that a reveal would ask: the wire that ``Reveal`` names."""
        self.seen.clear()
        x.reveal()
        (reveal,) = [i for i in self.seen if isinstance(i, ins.Reveal)]
        assert self.provenance.of(reveal.x) == self.slow[reveal.x]
        return self.provenance.of(reveal.x)


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as session:
        yield session


@pytest.fixture
def follower(session: Session) -> Follower:
    return Follower(session)


def share(session: Session, follower: Follower, owner: str, *values: float) -> EncryptedTensor:
    with follower.of(owner):
        return session.share(torch.tensor(values))


def test_an_input_is_its_owners(session: Session, follower: Follower) -> None:
    assert follower.owners(share(session, follower, A, 1.0)) == {A}


def test_what_two_owners_made_is_both_owners(session: Session, follower: Follower) -> None:
    x, y = share(session, follower, A, 1.0, 2.0), share(session, follower, B, 3.0, 4.0)
    assert follower.owners(x + y) == {A, B}
    assert follower.owners(x * y) == {A, B}
    assert follower.owners(torch.cat([x, y])) == {A, B}
    assert follower.owners(x * 2 + 1) == {A}


def test_a_public_tensor_has_no_owner(session: Session, follower: Follower) -> None:
    x = share(session, follower, A, 1.0, 2.0)
    assert follower.owners(x + public(torch.tensor([1.0, 2.0]))) == {A}
    assert follower.owners(x * public(torch.tensor([1.0, 2.0]))) == {A}


def test_times_zero_and_minus_itself_keep_the_owner(session: Session, follower: Follower) -> None:
    x, y = share(session, follower, A, 1.0, 2.0), share(session, follower, B, 3.0, 4.0)
    zeros = public(torch.zeros(2))  # the number 0 is no test: what it makes is public before any party hears of it
    assert follower.owners(x * zeros) == {A}
    assert follower.owners(x - x) == {A}
    assert follower.owners(y + x * zeros) == {A, B}
    provenance = follower.provenance
    provenance.input(1001, A)
    provenance.follow(ins.Combine(1002, ((1001, 0),)))
    assert provenance.of(1002) == {A}


def test_selector_bits_count(session: Session, follower: Follower) -> None:
    x, y = share(session, follower, A, 1.0, -2.0), share(session, follower, B, 3.0, 4.0)
    assert follower.owners(x > 0) == {A}
    assert follower.owners(torch.where(x > 0, y, 0 * y)) == {A, B}
    assert follower.owners((x > y).float()) == {A, B}
    assert follower.owners(torch.relu(x)) == {A}


def test_secret_places_count(session: Session, follower: Follower) -> None:
    x, y = share(session, follower, A, 1.0, 5.0, 2.0), share(session, follower, B, 3.0, 4.0, 7.0)
    assert follower.owners(y.gather(0, x.argmax(0, keepdim=True))) == {A, B}


def test_writing_into_a_view_unites(session: Session, follower: Follower) -> None:
    x, y = share(session, follower, A, 1.0, 2.0), share(session, follower, B, 3.0, 4.0)
    x[0] = y[1]
    assert follower.owners(x) == {A, B}
    assert follower.owners(x[1]) == {A, B}  # the whole tensor is one value


def test_training_on_two_owners_data(session: Session, follower: Follower) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    before = torch.zeros(1)
    session.encrypt(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    with follower.of(A):
        x, t = session.share(torch.randn(5, 3)), session.share(torch.randn(5, 2))
    with follower.of(B):
        u, v = session.share(torch.randn(5, 3)), session.share(torch.randn(5, 2))
    assert follower.owners(model[0].weight) == {ME}
    for step, (features, target, expected) in enumerate([(x, t, {A, ME}), (u, v, {A, B, ME})]):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(features), target)
        loss.backward()
        optimizer.step()
        assert follower.owners(loss) == expected, step
    assert follower.owners(model[0].weight) == {A, B, ME}
    assert follower.owners(model[2].bias) == {A, B, ME}
    assert follower.owners(x.mean()) == {A}
    assert before.item() == 0


def test_plans(session: Session, follower: Follower) -> None:
    x, y, z = (share(session, follower, owner, 1.0, -2.0) for owner in (A, B, ME))

    def function(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.where(a > 0, b, c), a - a, b * c

    compiled = torchveil.compile(function)
    for _ in range(3):
        outs = compiled(x, y, z)
        assert [follower.owners(out) for out in outs] == [{A, B, ME}, {A}, {B, ME}]
    outs = compiled(y, y, z)
    assert [follower.owners(out) for out in outs] == [{B, ME}, {B}, {B, ME}]


# --- instruction by instruction --------------------------------------------------------------------------------------


def an_instruction(kind: type[ins.Instruction]) -> Any:
    """One that reads wires 1, 2, ... and makes 101, ...; other fields are left out: nobody may look at them."""
    i = object.__new__(kind)
    read, made = WIRING[kind]
    place = 0
    for fields, base in ((read, 0), (made, 100)):
        for name, shape in fields.items():
            wire = base + place + 1
            value = {"one": wire, "maybe": wire, "many": (wire, wire + 1), "terms": ((wire, 3), (wire + 1, 0))}[shape]
            object.__setattr__(i, name, value)
            place += 2
    return i


DERIVING = [kind for kind in WIRING if kind not in (ins.Input, ins.Free)]


@pytest.mark.parametrize("kind", DERIVING, ids=lambda kind: kind.__name__)
def test_all_that_is_read_counts(kind: type[ins.Instruction]) -> None:
    i = an_instruction(kind)
    provenance = Provenance()
    for x in reads(i):
        provenance.input(x, f"owner/{x}")
    provenance.follow(i)
    for out in defines(i):
        assert provenance.of(out) == {f"owner/{x}" for x in reads(i)}
    if reads(i):
        provenance.release(reads(i)[-1:])
        with pytest.raises(ProtocolError):
            provenance.follow(i)


def test_free_forgets_and_what_is_unknown_raises() -> None:
    provenance = Provenance()
    provenance.input(1, A)
    provenance.follow(ins.Free((1, 2)))
    assert len(provenance) == 0
    for action in (
        lambda: provenance.of(1),
        lambda: provenance.alias(2, 1),
        lambda: provenance.follow(ins.Input(3, (2,))),
        lambda: provenance.follow(ins.Reveal(1, "controller", (2,))),
    ):
        with pytest.raises(ProtocolError):
            action()


def test_a_checkpoint_brings_its_owners_back() -> None:
    provenance = Provenance()
    provenance.restore(1, [A, B])
    provenance.restore(2, [])
    provenance.follow(ins.Combine(3, ((1, 1), (2, 1))))
    assert provenance.of(3) == {A, B} and provenance.of(2) == frozenset()


def test_a_hundred_owners() -> None:
    provenance = Provenance()
    for k in range(1, 101):
        provenance.input(k, f"owner/{k}")
    provenance.follow(ins.Concatenate(200, tuple(range(1, 101)), 0))
    assert len(provenance.of(200)) == 100


def test_following_is_cheap() -> None:
    provenance = Provenance()
    provenance.input(1, A)
    provenance.input(2, B)
    i = ins.Bilinear(3, 1, 2, "mul", {}, (2,))
    start = perf_counter()
    for _ in range(20_000):
        provenance.follow(i)
        provenance.release((3,))
    assert (perf_counter() - start) / 20_000 < 20e-6


# --- results of plans ------------------------------------------------------------------------------------------------

PLAN = bytes(32)


def marked() -> Provenance:
    """Wire 1 is output 5 of a plan, wire 2 is not."""
    provenance = Provenance()
    provenance.input(1, A)
    provenance.input(2, B)
    provenance.mark(1, PLAN, 5)
    return provenance


def test_a_result_of_a_plan_stays_one_while_it_is_the_same_value() -> None:
    provenance = marked()
    provenance.follow(ins.Refresh(3, 1, (2,)))
    provenance.follow(ins.Truncate(4, 3, None, 10, (2,)))
    provenance.alias(5, 4)
    provenance.follow(ins.Open((5,), ((2,),)))
    for wire in (1, 3, 4, 5):
        assert provenance.origin(wire) == (PLAN, 5)
    assert provenance.origin(2) is None


@pytest.mark.parametrize("kind", DERIVING, ids=lambda kind: kind.__name__)
def test_any_other_instruction_makes_another_value(kind: type[ins.Instruction]) -> None:
    i = an_instruction(kind)
    provenance = Provenance()
    for x in reads(i):
        provenance.input(x, A)
        provenance.mark(x, PLAN, 5)
    provenance.follow(i)
    whole = kind in (ins.Refresh, ins.BitToArithmetic)
    for out in defines(i):
        assert provenance.origin(out) == ((PLAN, 5) if whole else None)


def test_a_name_that_comes_back_is_another_value() -> None:
    for change in (
        lambda p: p.release([1]),
        lambda p: p.forget(),
        lambda p: p.follow(ins.Free((1,))),
    ):
        provenance = marked()
        change(provenance)
        provenance.input(1, A)
        assert provenance.origin(1) is None


@pytest.mark.parametrize("name", [1, 2, 0, -1])
def test_a_name_is_given_once_and_is_no_slot(name: int) -> None:
    """Else a bit wire of one owner could stand for a wire of another, which a reveal of the name would give away."""
    flow = PlanFlow(a_plan())
    for action in (
        lambda p: p.input(name, ME),
        lambda p: p.restore(name, []),
        lambda p: p.alias(name, 2),
        lambda p: p.follow(ins.Compare((name,), 2, False, (0,), (((0,), False),), (2,))),
        lambda p: p.follow(ins.Constant(name, (2,), 0)),
        lambda p: p.follow(ins.Winner((7, name), 2, 0, 3, (2,))),
        lambda p: p.follow_plan(flow, [2], [name]),
    ):
        provenance = marked()
        with pytest.raises(ProtocolError, match="given to a second"):
            action(provenance)
        assert provenance.of(1) == {A} and provenance.of(2) == {B}
    with pytest.raises(ProtocolError, match="given to a second"):
        marked().follow_plan(PlanFlow(a_plan(2)), [2], [7, 7])


def a_plan(outputs: int = 1) -> Plan:
    """One that doubles its input."""
    return Plan((ins.Combine(-2, ((-1, 2),)),), (None,), (), (-1,), (-2,) * outputs, (0,), frozenset(), 0)


def test_a_plan_of_many_inputs() -> None:
    n = 200
    i = ins.Combine(-n - 1, tuple((-k, 1) for k in range(1, n + 1, 2)))
    plan = Plan((i,), (None,), (), tuple(range(-1, -n - 1, -1)), (-n - 1,), (0,), frozenset(), 0)
    provenance = Provenance()
    for k in range(1, n + 1):
        provenance.input(k, f"owner/{k % 7}" if k % 2 else "owner/even")
    provenance.follow_plan(PlanFlow(plan), range(1, n + 1), [n + 1])
    assert provenance.of(n + 1) == {f"owner/{k}" for k in range(7)}
