"""Signs of life: a controller that thinks keeps its session, one that stands still does not."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.network.conftest import Ends
from torchveil.errors import DeadlineExceeded, TorchveilError
from torchveil.network import daemon as daemon_of_a_role
from torchveil.network.connect import connect
from torchveil.network.framing import Frame
from torchveil.network.heartbeat import Heartbeat
from torchveil.network.links import Hub
from torchveil.network.messages import Kind
from torchveil.network.opening import heed
from torchveil.testing.clusters import LocalCluster, local_cluster

DEADLINE_S, GRACE_S = 1.0, 2.0


def alive(n: int = 0) -> Frame:
    return Frame(int(Kind.ALIVE), n)


def waits(bob: Hub, link: Any, timeout_s: float, silence_s: float) -> Frame | float:
    """What comes within these limits, or how long it took to give up."""
    began = time.monotonic()
    try:
        return bob.receive(link, timeout_s, "a word", silence_s=silence_s)
    except DeadlineExceeded:
        return time.monotonic() - began


# --- a wait ----------------------------------------------------------------------------------------------------------


def test_a_wait_ends_when_the_other_end_shows_no_sign_of_life(ends: Ends) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"alice showed no sign of life for 0\.2 s") as caught:
        ends.bob.receive(ends.to_alice, 5, "a word", silence_s=0.2)
    assert caught.value.at_fault == "alice" and 0.2 <= time.monotonic() - began < 2


def test_signs_of_life_prolong_a_wait_but_not_beyond_its_deadline(ends: Ends, background: Any) -> None:
    ends.bob.urgent = heed

    def beat() -> None:
        for _ in range(8):
            ends.alice.beat(alive())
            time.sleep(0.1)

    beating = background(beat)
    took = waits(ends.bob, ends.to_alice, 10.0, 0.4)
    assert isinstance(took, float) and took >= 0.7 + 0.4 - 0.1
    beating.result(5)
    beating = background(beat)
    took = waits(ends.bob, ends.to_alice, 0.3, 5.0)
    assert isinstance(took, float) and 0.3 <= took < 0.8
    beating.result(5)


def test_what_is_said_long_before_a_wait_does_not_shorten_it(ends: Ends) -> None:
    """Who carries something out for long does not hear; that is no silence."""
    ends.bob.urgent = heed
    ends.alice.beat(alive())
    ends.bob.poll()
    time.sleep(0.5)
    took = waits(ends.bob, ends.to_alice, 5.0, 0.3)
    assert isinstance(took, float) and took >= 0.3


def test_a_link_that_is_full_is_not_filled_further(make: Any) -> None:
    ends = make()
    while not ends.to_bob.queued:
        ends.alice.post(ends.to_bob, Frame(1, body=bytes(1 << 18)))
    size = ends.to_bob.queued
    for _ in range(3):
        ends.alice.beat(alive())
    assert ends.to_bob.queued == size


def test_a_broken_link_is_left_to_whoever_waits_next(ends: Ends) -> None:
    ends.to_alice.sock.close()
    for _ in range(3):
        ends.alice.beat(alive())
        time.sleep(0.05)
    with pytest.raises(TorchveilError, match="bob"):
        ends.alice.receive(ends.to_bob, 2, "a word")


# --- a heartbeat -----------------------------------------------------------------------------------------------------


def heard(ends: Ends) -> list[float]:
    """When signs of life come, as a list that grows."""
    times: list[float] = []

    def note(_link: Any, frame: Frame) -> bool:
        if frame.kind == Kind.ALIVE:
            times.append(time.monotonic())
        return frame.kind == Kind.ALIVE

    ends.bob.urgent = note
    return times


def test_it_beats_while_nobody_uses_the_hub_and_while_somebody_waits_in_it(ends: Ends, background: Any) -> None:
    times = heard(ends)
    heartbeat = Heartbeat(ends.alice, 0.4)
    waits(ends.bob, ends.to_alice, 1.0, 5.0)
    alone = len(times)

    def wait() -> None:
        with heartbeat.turn, pytest.raises(DeadlineExceeded):
            ends.alice.receive(ends.to_bob, 1.0, "nothing")

    waiting = background(wait)
    waits(ends.bob, ends.to_alice, 0.9, 5.0)
    within = len(times) - alone
    waiting.result(5)
    assert alone >= 3 and within >= 3, (alone, within)


def test_nothing_comes_after_it_was_stopped(ends: Ends, background: Any) -> None:
    """A last word stays the last one, also when the hub was woken for a sign of life before."""
    times = heard(ends)
    heartbeat = Heartbeat(ends.alice, 0.2)
    with heartbeat.turn:
        time.sleep(0.3)  # it cannot have its turn, and wakes the hub
        heartbeat.stop()
        ends.alice.poll()
    waits(ends.bob, ends.to_alice, 0.4, 5.0)
    assert not times


def test_it_ends_with_its_hub() -> None:
    hub = Hub()
    before = threading.active_count()
    Heartbeat(hub, 0.2)
    gone = weakref.ref(hub)
    hub.close()
    del hub
    gc.collect()
    assert gone() is None, "a heartbeat holds its hub, and with it a session that nobody uses"
    ends = time.monotonic() + 5
    while threading.active_count() > before:
        assert time.monotonic() < ends, "its thread goes on"
        time.sleep(0.02)


# --- sessions --------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, time, torch, torchveil
with torchveil.connect(sys.argv[1]) as session:
    x = session.share(torch.ones(4))
    assert (x * x).sum().reveal() == 4
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    limits = {"deadline_s": DEADLINE_S, "handshake_s": 10.0}
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=limits) as running:
        yield running


def test_a_controller_that_thinks_for_longer_than_the_deadline_keeps_its_session(cluster: LocalCluster) -> None:
    with connect(cluster.file) as session:
        x: Any = session.share(torch.ones(4))
        assert (x * x).sum().reveal() == 4
        time.sleep(2.5 * DEADLINE_S)  # thinks
        assert (x * x).sum().reveal() == 4
        until, n = time.monotonic() + 2.5 * DEADLINE_S, 0
        while time.monotonic() < until:  # computes
            n += 1
        assert (x * x).sum().reveal() == 4


def test_a_controller_without_a_heartbeat_is_given_up(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections stand, and it says nothing."""
    monkeypatch.setattr(Hub, "beat", lambda *_: None)
    session = connect(cluster.file)
    assert session.share(torch.ones(4)).sum().reveal() == 4
    began = time.monotonic()
    while any(daemon.sessions for daemon in cluster.daemons.values()):
        assert time.monotonic() - began < DEADLINE_S + GRACE_S, "a session goes on"
        time.sleep(0.02)
    with pytest.raises(DeadlineExceeded, match="showed no sign of life") as caught:
        session.share(torch.ones(4)).sum().reveal()
    assert caught.value.at_fault == "controller/scientist"


def test_a_controller_that_is_stopped_is_named_by_all_within_the_deadline(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: dict[str, tuple[float, Any]] = {}

    def failed(event: str, error: BaseException, *, role: str, **_: Any) -> None:
        ended.setdefault(role, (time.monotonic(), error))

    monkeypatch.setattr(daemon_of_a_role, "failed", failed)
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(cluster.file)], stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None and program.stdout.readline() == "ready\n"
        time.sleep(1.5 * DEADLINE_S)
        assert not ended
        program.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        while len(ended) < 3:
            assert time.monotonic() - began < DEADLINE_S + GRACE_S, f"only {sorted(ended)} ended"
            time.sleep(0.02)
        assert all(error.at_fault == "controller/scientist" for _, error in ended.values()), ended
    finally:
        program.kill()
        program.wait()
    with connect(cluster.file) as session:
        assert session.share(torch.ones(4)).sum().reveal() == 4
