"""The clock of the roles tells apart what the provider and each party do; a failed instruction leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import torchveil
from torchveil.drivers import clock as module
from torchveil.drivers.clock import RoleClock
from torchveil.gates import GATES
from torchveil.gates.base import FREE, Exchange, Gate


class Time:
    """A clock that goes on only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    found = Time()
    monkeypatch.setattr(module, "perf_counter", lambda: found.now)
    return found


def gate(time: Time, *, interactive: bool, fails: bool = False) -> Gate:
    """The provider works 1 s; party k works 2 + k s before an exchange and 4 s after it (all of it when local)."""

    def deal(_provider: Any, _i: Any) -> None:
        time.work(1)

    def local(party: Any, _i: Any) -> None:
        time.work(2 + party.rank)
        if fails:
            raise RuntimeError("no")

    def steps(party: Any, _i: Any) -> Iterator[Exchange]:
        time.work(2 + party.rank)
        yield Exchange("sum", ())
        if fails:
            raise RuntimeError("no")
        time.work(4)

    return Gate("test", interactive, deal, steps if interactive else local, deal, lambda _i, _n: FREE)


def run(timed: Gate, time: Time) -> None:
    timed.deal(None, None)
    parties = [SimpleNamespace(rank=0), SimpleNamespace(rank=1)]
    if not timed.interactive:
        for party in parties:
            timed.evaluate(party, None)
        return
    running = [timed.evaluate(party, None) for party in parties]
    for steps in running:
        assert next(steps).kind == "sum"
    time.work(100)  # combining messages is nobody's time
    for steps in running:
        with pytest.raises(StopIteration):
            steps.send(())


@pytest.mark.parametrize(
    ("interactive", "expected"), [(False, (1, 3, 5)), (True, (1, 7, 13))], ids=["local", "interactive"]
)
def test_work_is_counted_under_the_role_that_does_it(
    time: Time, interactive: bool, expected: tuple[float, float, float]
) -> None:
    clock = RoleClock()
    timed = clock.timed({int: gate(time, interactive=interactive)})[int]
    run(timed, time)
    assert clock.take() == expected
    assert clock.take() == (0, 0, 0)
    run(timed, time)
    run(timed, time)
    assert clock.take() == expected  # of the last instruction


@pytest.mark.parametrize("interactive", [False, True])
def test_a_failed_instruction_leaves_nothing(time: Time, interactive: bool) -> None:
    clock = RoleClock()
    table = clock.timed({int: gate(time, interactive=interactive, fails=True), str: gate(time, interactive=False)})
    with pytest.raises(RuntimeError, match="no"):
        run(table[int], time)
    run(table[str], time)
    assert clock.take() == (1, 3, 5)


def test_a_lockstep_run_is_timed_only_while_it_is_watched() -> None:
    session = torchveil.Session()
    driver: Any = session._driver
    x = session.share(torch.ones(3))
    clock = RoleClock()
    x * x
    assert clock.take() == (0, 0, 0) and driver.gates is GATES
    driver.watch(clock)
    x * x
    provider_s, slowest_s, parties_s = clock.take()
    assert provider_s > 0 and 0 < slowest_s < parties_s
    driver.watch(None)
    x * x
    assert clock.take() == (0, 0, 0) and driver.gates is GATES


def test_what_roles_receive_is_the_same_when_timed() -> None:
    session = torchveil.Session(("a", "b", "c"), debug=True)  # debug mode compares every instruction with clear values
    session._driver.watch(RoleClock())
    x = session.share(torch.tensor([[1.5, -2.0], [0.5, 3.0]]))
    assert torch.equal(torch.relu(x @ x).reveal(), torch.tensor([[1.25, 0.0], [2.25, 8.0]], dtype=torch.float64))
