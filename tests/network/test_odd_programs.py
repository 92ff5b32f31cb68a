"""Programs that nobody wants and somebody writes: interrupted anywhere, sessions dropped, mixed, used from handlers."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import torchveil
from torchveil import Session
from torchveil.errors import PlanError, SessionMismatch, SessionStateError
from torchveil.network import links
from torchveil.network.connect import NetworkSession, connect
from torchveil.testing.clusters import LocalCluster, local_cluster

LIMITS = {"deadline_s": 20, "handshake_s": 10, "sessions": 3}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=LIMITS) as running:
        yield running


def over(cluster: LocalCluster) -> None:
    """No role has a session any more."""
    until = time.monotonic() + 30
    while any(daemon.sessions for daemon in cluster.daemons.values()):
        assert time.monotonic() < until, "a session was left"
        time.sleep(0.02)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def network(cluster: LocalCluster) -> Session:
    return connect(cluster.file)


def lockstep(_cluster: LocalCluster) -> Session:
    return Session()


BACKENDS = pytest.mark.parametrize("make", [lockstep, network], ids=["lockstep", "network"])


# --- compiled functions and sessions ---------------------------------------------------------------------------------


@BACKENDS
def test_a_compiled_function_is_recorded_anew_for_another_session(
    cluster: LocalCluster, make: Callable[[LocalCluster], Session]
) -> None:
    f: Any = torchveil.compile(lambda a: a * a + 1)
    with make(cluster) as one, make(cluster) as other:
        assert f(one.share(torch.tensor([1.0, 2.0]))).reveal().tolist() == [2, 5]
        x = other.share(torch.tensor([10.0, 20.0]))
        found = f(x)
        assert found.handle.session is other and found.reveal().tolist() == [101, 401]
        assert f.recordings == 2
        assert (x * x).reveal().tolist() == [100, 400]
        one.close()
        assert f(x).reveal().tolist() == [101, 401]


@BACKENDS
def test_a_compiled_function_refuses_secrets_of_two_sessions(
    cluster: LocalCluster, make: Callable[[LocalCluster], Session]
) -> None:
    f: Any = torchveil.compile(lambda a, b: a * b)
    with make(cluster) as one, make(cluster) as other:
        a, b = (one.share(torch.tensor([k, 2.0])) for k in (1.0, 4.0))
        assert f(a, b).reveal().tolist() == [4, 4]
        with pytest.raises((PlanError, SessionMismatch)):
            f(a, other.share(torch.tensor([7.0, 8.0])))
        assert f(a, b).reveal().tolist() == [4, 4]


def test_a_compiled_function_does_not_keep_a_session_that_is_over() -> None:
    f: Any = torchveil.compile(lambda a: a * a + 1)
    session = Session()
    f(session.share(torch.ones(2)))
    gone = weakref.ref(session)
    session.close()
    with Session() as other:
        f(other.share(torch.ones(2)))
    del session
    gc.collect()
    assert gone() is None


# --- from handlers and other threads ---------------------------------------------------------------------------------


@BACKENDS
def test_a_handler_that_uses_the_session_in_the_middle_of_an_operation_is_refused(
    cluster: LocalCluster, make: Callable[[LocalCluster], Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its instructions would take the numbers, and with them the masks, of the operation that it interrupted."""
    with make(cluster) as session:
        x: Any = session.share(torch.ones(3))
        driver: Any = session._driver
        run, refused = type(driver).run, []

        def running(self: Any, *arguments: Any) -> Any:
            if self is driver:
                with pytest.raises(SessionStateError) as caught:
                    (x * x).reveal()
                refused.append(str(caught.value))
            return run(self, *arguments)

        monkeypatch.setattr(type(driver), "run", running)
        y = session.share(torch.full((3,), 3.0))
        monkeypatch.undo()
        assert refused and "in the middle of an operation" in refused[0]
        assert (x * y).reveal().tolist() == [3] * 3


@BACKENDS
def test_counting_values_from_another_thread_sends_nothing(
    cluster: LocalCluster, make: Callable[[LocalCluster], Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would free is told in the middle of the operation that another thread is at."""
    with make(cluster) as session:
        kept: list[Any] = [session.share(torch.ones(3))]
        driver: Any = session._driver
        run, told, counts = type(driver).run, [], []

        def running(self: Any, i: Any, *more: Any) -> Any:
            if self is driver:
                told.append(type(i).__name__)
                if kept:
                    kept.clear()  # now there is something to free
                    watching = threading.Thread(target=lambda: counts.append(session.n_wires))
                    watching.start()
                    watching.join(30)
            return run(self, i, *more)

        monkeypatch.setattr(type(driver), "run", running)
        y: Any = session.share(torch.full((3,), 3.0))
        assert told == ["Input"] and counts
        monkeypatch.undo()
        assert y.reveal().tolist() == [3] * 3
        assert session.n_wires == 1


# --- interrupted -----------------------------------------------------------------------------------------------------


class Interruption(BaseException):
    """As Ctrl-C, from some call in the middle of things."""


PLACES = ["post", "poll", "push", "receive_any", "_drive"]


def use(session: Session) -> float:
    x: Any = session.share(torch.ones(8, 8))
    return float(((x @ x) * x).relu().sum().reveal())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("nth", [1, 2, 3, 5])
def test_an_interrupted_session_is_over_and_blames_nobody_else(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, place: str, nth: int
) -> None:
    session = connect(cluster.file)
    assert use(session) == 512
    whole: Any = getattr(links.Hub, place)
    calls = [0]
    mine = threading.get_ident()

    def interrupted(hub: Any, *arguments: Any, **options: Any) -> Any:
        if hub is driver.hub and threading.get_ident() == mine:
            calls[0] += 1
            if calls[0] == nth:
                out = whole(hub, *arguments, **options) if nth % 2 else None
                raise Interruption(str(out)[:0])
        return whole(hub, *arguments, **options)

    driver: Any = session._driver
    monkeypatch.setattr(links.Hub, place, interrupted)
    try:
        for _ in range(3):
            assert use(session) == 512
    except Interruption:
        assert session.ended
        with pytest.raises(SessionStateError, match="interrupted in the middle of an operation"):
            use(session)
    monkeypatch.undo()
    session.close()
    session.close()
    assert not driver.hub._selector.get_map()
    over(cluster)


@pytest.mark.parametrize("nth", range(1, 8))
def test_an_interrupted_close_may_be_repeated(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    session = connect(cluster.file)
    assert use(session) == 512
    drive: Any = links.Hub._drive
    calls = [0]

    def interrupted(hub: Any, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            raise Interruption
        return drive(hub, *arguments)

    monkeypatch.setattr(links.Hub, "_drive", lambda hub, *a: interrupted(hub, *a) if hub is mine else drive(hub, *a))
    mine = session._remote.hub
    with suppress(Interruption):
        session.close()
    monkeypatch.undo()
    session.close()
    assert session.ended
    over(cluster)


# --- dropped ---------------------------------------------------------------------------------------------------------


def test_a_session_that_nobody_holds_ends_at_once_and_leaves_no_descriptor(cluster: LocalCluster) -> None:
    """More of them than a role may have at a time."""

    def forget() -> weakref.ref[NetworkSession]:
        session = connect(cluster.file)
        x: Any = session.share(torch.ones(2))
        assert (x * x).sum().reveal() == 2
        return weakref.ref(session)

    forget()
    gc.collect()
    over(cluster)
    time.sleep(0.3)
    before = descriptors()
    gc.disable()
    try:
        for _ in range(5):
            gone = forget()
            assert gone() is None, "something holds it until a collector runs"
            over(cluster)
    finally:
        gc.enable()
    until = time.monotonic() + 30  # a role closes its connections after it forgot the session
    while descriptors() > before:
        assert time.monotonic() < until, f"{descriptors()} descriptors, before {before}"
        time.sleep(0.02)


def test_a_program_may_change_its_directory(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cluster.directory)
    with connect("cluster.toml") as session:
        monkeypatch.chdir(Path("/"))
        assert session.datasets() == {}
        assert session.share(torch.ones(2)).sum().reveal() == 2
