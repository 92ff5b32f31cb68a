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
