"""The driver of shapes: a plan that ran before leaves the same layouts, openings and cost, without running again."""

from __future__ import annotations

import pytest
import torch

import torchveil
from torchveil import Session
from torchveil.checking.shadow import Shadow
from torchveil.drivers.shapes import ShapesDriver
from torchveil.program import instructions as ins


def state(session: Session, x: torch.Tensor, out: torch.Tensor) -> tuple[object, ...]:
    handle = out.handle
    return session.layout(handle.id), session.has_opening(x.handle), session.has_opening(handle), session.cost().total


def test_a_plan_that_ran_before_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[ins.Instruction] = []
    run = ShapesDriver.run

    def running(driver: ShapesDriver, i: ins.Instruction, clear: torch.Tensor | None = None) -> torch.Tensor | None:
        if not isinstance(i, ins.Free):
            ran.append(i)
        return run(driver, i, clear)

    monkeypatch.setattr(ShapesDriver, "run", running)
    counts, states = [], []
    for session in (Shadow(("alice", "bob"), "james", None, lambda error: None), Session()):
        product = torchveil.compile(lambda x, y: torch.relu(x @ y))
        for size in (3, 3, 3, 5, 3):
            x, y = session.share(torch.ones(2, size)), session.share(torch.ones(size, 4))
            del ran[:]
            out = product(x, y)
            counts.append(len(ran))
            states.append(state(session, x, out))
    recorded, played, again, other, back = counts[:5]
    assert min(recorded, played, other) > 3 and (again, back) == (0, 0)
    assert states[:5] == states[5:]


def test_a_plan_on_the_same_wire_twice_is_another_run() -> None:
    """What opens one of two inputs opens the other if both are one wire, and only then."""
    states = []
    for session in (Shadow(("alice", "bob"), "james", None, lambda error: None), Session()):
        work = torchveil.compile(lambda x, y: (x * x, y + 1))
        x, y = session.share(torch.ones(3)), session.share(torch.ones(3))
        for left, right in ((x, y), (x, y), (y, y), (y, y), (session.share(torch.ones(3)), y)):
            out, _ = work(left, right)
            states.append((state(session, left, out), session.has_opening(right.handle)))
    assert states[:5] == states[5:]
