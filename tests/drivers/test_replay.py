"""Replaying plans: the provider's thread changes nothing; an error ends both sides and the session goes on."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import torchveil
from torchveil import Session
from torchveil.drivers import replay
from torchveil.gates import GATES
from torchveil.program import instructions as ins


@pytest.fixture(params=[0, 1 << 60], ids=["ahead", "in turns"])
def threaded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(replay, "THREAD_FROM", request.param)
    return bool(request.param == 0)


def work(x: Tensor, y: Tensor) -> Tensor:
    return torch.relu(torch.relu(x @ y).t() @ x).t() @ x.t()


def clear_values() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 4, generator=generator), torch.randn(4, 4, generator=generator)


def run(session: Session, compiled: Any) -> Tensor:
    out: Tensor = compiled(*(session.share(x) for x in clear_values())).reveal()
    return out


@pytest.mark.parametrize("parties", [("a", "b"), ("a", "b", "c")], ids=["two", "three"])
def test_results(threaded: bool, parties: tuple[str, ...]) -> None:
    with Session(parties) as session:
        compiled = torchveil.compile(work)
        for _ in range(4):
            assert torch.allclose(run(session, compiled), work(*clear_values()), atol=1e-3)
        assert compiled.recordings == 1
        assert session.cost().rounds > 0


class Planted(RuntimeError):
    """An error that a test plants."""


def failing(function: Any, after: int) -> Any:
    calls: Iterator[int] = iter(range(10**9))

    def planted(*args: Any) -> Any:
        if next(calls) == after:
            raise Planted("planted")
        return function(*args)

    return planted


@pytest.mark.parametrize("side", ["deal", "evaluate"])
@pytest.mark.parametrize("kind", [ins.Open, ins.Compare, ins.Bilinear, ins.Map, ins.Lift])
@pytest.mark.parametrize("after", [0, 1])
def test_an_error_leaves_no_trace(
    threaded: bool, side: str, kind: type[ins.Instruction], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session() as session:
        compiled = torchveil.compile(work)
        run(session, compiled)
        run(session, compiled)
        operands = [session.share(x) for x in clear_values()]
        wires = session.n_wires
        gate = GATES[kind]
        broken = dataclasses.replace(gate, **{side: failing(getattr(gate, side), after)})
        with monkeypatch.context() as patch:
            patch.setitem(GATES, kind, broken)
            with pytest.raises(Planted):
                compiled(*operands)
        assert session.n_wires == wires
        assert threading.active_count() <= 2 or all(t.name != "torchveil provider" for t in threading.enumerate())
        # the same operands again, compiled and not: half-made openings were forgotten
        assert torch.allclose(compiled(*operands).reveal(), work(*clear_values()), atol=1e-3)
        assert torch.allclose(work(*operands).reveal(), work(*clear_values()), atol=1e-3)


def test_no_label_serves_twice(threaded: bool) -> None:
    """Every run has numbers of its own, at every role the same."""
    with Session() as session:
        compiled = torchveil.compile(work)
        seen: list[int] = []
        driver: Any = session._driver
        for _ in range(3):
            run(session, compiled)
            numbers = {driver.number - 1} | {role.ledger.number for role in (driver.provider, *driver.parties)}
            assert len(numbers) == 1
            seen.append(numbers.pop())
        assert seen == sorted(set(seen))


def test_what_a_plan_opened_before_it_failed_stays_open() -> None:
    """Debug mode stops a plan after its first openings: the inputs can be used as before, compiled and not."""
    with Session(debug=True) as session:

        @torchveil.compile
        def power(x: Tensor, y: Tensor) -> Tensor:
            return x * y * y * y * y * y

        small, large = torch.full((3,), 1.5), torch.full((3,), 3000.0)
        for _ in range(2):
            power(session.share(small), session.share(small))
        x, y = session.share(large * 10), session.share(large)
        with pytest.raises(torchveil.RangeExceeded):
            power(x, y)
        assert torch.allclose((x * y).reveal(), large * large * 10)
        assert torch.allclose((y * y).reveal(), large * large)
        assert torch.allclose(power(x * 1e-4, y * 1e-3).reveal(), 3 * torch.full((3,), 3.0) ** 5, atol=0.1)


def test_a_plan_that_opens_the_second_of_two_names_leaves_the_first_alone() -> None:
    with Session(debug=True) as session:

        @torchveil.compile
        def second(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x + 1, y * y

        for _ in range(3):
            x = session.share(torch.tensor([2.0, 3.0]))
            y = torchveil.tensor.wrap(x.handle)  # another storage of the same value
            assert [out.reveal().tolist() for out in second(x, y)] == [[3.0, 4.0], [4.0, 9.0]]
            assert (x * y).reveal().tolist() == [4.0, 9.0]
