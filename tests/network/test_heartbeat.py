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
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.network.conftest import Ends
from torchveil.errors import DeadlineExceeded, MalformedMessage, TorchveilError
from torchveil.network import daemon as daemon_of_a_role
from torchveil.network.connect import connect
from torchveil.network.framing import Frame, pack
from torchveil.network.heartbeat import Heartbeat
from torchveil.network.links import Hub
from torchveil.network.messages import Kind
from torchveil.network.opening import Waiting, heed
from torchveil.testing.clusters import LocalCluster, local_cluster

DEADLINE_S, GRACE_S = 3.0, 3.0


ALIVE = Frame(int(Kind.ALIVE))


def gives_up(ends: Ends, timeout_s: float, silence_s: float) -> float:
    """Bob waits for alice in vain; when he gives up."""
    with pytest.raises(DeadlineExceeded):
        ends.bob.receive(ends.to_alice, timeout_s, "a word", silence_s=silence_s)
    return time.monotonic()


# --- a wait ----------------------------------------------------------------------------------------------------------


def test_a_wait_ends_when_nothing_comes(ends: Ends) -> None:
    """Who is silent is the cause, whomever it said it waits for: to show that one runs one needs nobody else."""
    ends.to_alice.waits_for = "james"
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"alice showed no sign of life for 0\.2 s, during: a word") as caught:
        ends.bob.receive(ends.to_alice, 30, "a word", silence_s=0.2)
    assert caught.value.at_fault == "alice" and 0.2 <= time.monotonic() - began < 20


def test_signs_of_life_prolong_a_wait(ends: Ends, background: Any) -> None:
    ends.bob.urgent = heed
    sent: list[float] = []

    def beat() -> None:
        for _ in range(8):
            sent.append(time.monotonic())
            ends.alice.push(ends.to_bob, ALIVE)
            time.sleep(0.1)

    beating = background(beat)
    ended = gives_up(ends, 30, 2.0)
    beating.result(30)
    assert len(sent) == 8 and ended - sent[-1] >= 2.0 - 0.01


def test_signs_of_life_do_not_prolong_a_wait_beyond_its_deadline(ends: Ends, background: Any) -> None:
    ends.bob.urgent = heed
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.05):
            ends.alice.push(ends.to_bob, ALIVE)

    beating = background(beat)
    began = time.monotonic()
    assert 0.5 <= gives_up(ends, 0.5, 10.0) - began < 9
    stop.set()
    beating.result(30)


def test_a_part_of_a_frame_is_a_sign_of_life(ends: Ends, background: Any) -> None:
    """One that takes longer than the deadline comes through, if it comes at all."""
    whole = b"".join(bytes(piece) for piece in pack(Frame(1, body=bytes(8 << 14)), bytes(8), 0))
    ends.to_bob.sock.setblocking(True)

    def trickle() -> None:
        for at in range(0, len(whole), 1 << 14):
            ends.to_bob.sock.sendall(whole[at : at + (1 << 14)])
            time.sleep(0.4)

    trickling = background(trickle)
    began = time.monotonic()
    assert len(ends.bob.receive(ends.to_alice, 60, "a large frame", silence_s=2.0).body) == 8 << 14
    assert time.monotonic() - began > 2.0
    trickling.result(30)


def test_what_was_heard_long_before_a_wait_does_not_shorten_it(ends: Ends) -> None:
    """Who carries something out for long does not hear; that is no silence."""
    ends.bob.urgent = heed
    ends.alice.push(ends.to_bob, ALIVE)
    ends.bob.poll()
    time.sleep(0.5)
    began = time.monotonic()
    assert gives_up(ends, 30, 0.3) - began >= 0.3


def test_a_sign_of_life_says_nothing_else(ends: Ends) -> None:
    ends.bob.urgent = heed
    ends.alice.push(ends.to_bob, Frame(int(Kind.ALIVE), meta=b"a secret"))
    with pytest.raises(MalformedMessage, match="alice") as caught:
        ends.bob.receive(ends.to_alice, 30, "a word")
    assert caught.value.at_fault == "alice" and "secret" not in str(caught.value)


# --- a heartbeat -----------------------------------------------------------------------------------------------------


def test_a_link_that_is_full_is_not_filled_further_and_flows_again(ends: Ends) -> None:
    n = 0
    while not ends.to_bob.queued:
        ends.alice.post(ends.to_bob, Frame(1, n, body=bytes(1 << 18)))
        n += 1
    queued = ends.to_bob.queued
    for _ in range(3):
        ends.alice.push(ends.to_bob, ALIVE)
    assert ends.to_bob.queued <= queued
    heartbeat = Heartbeat(ends.alice, 0.2)
    with heartbeat.turn:
        heartbeat.links.append(ends.to_bob)
    # nobody uses alice's hub from here on
    assert [ends.bob.receive(ends.to_alice, 30, "frames").number for _ in range(n)] == list(range(n))
    assert ends.bob.receive(ends.to_alice, 30, "a sign of life").kind == Kind.ALIVE
    with heartbeat.turn:
        heartbeat.stop()


def test_a_broken_link_is_left_to_whoever_waits_next(ends: Ends) -> None:
    ends.to_alice.sock.close()
    for _ in range(3):
        ends.alice.push(ends.to_bob, ALIVE)
        time.sleep(0.05)
    with pytest.raises(TorchveilError, match="bob"):
        ends.alice.receive(ends.to_bob, 30, "a word")


def beating(ends: Ends, deadline_s: float) -> tuple[Heartbeat, list[float]]:
    """A heartbeat of alice, and when bob heard it, as a list that grows."""
    times: list[float] = []

    def note(_link: Any, frame: Frame) -> bool:
        assert frame.kind == Kind.ALIVE
        times.append(time.monotonic())
        return True

    ends.bob.urgent = note
    heartbeat = Heartbeat(ends.alice, deadline_s)
    with heartbeat.turn:
        heartbeat.links.append(ends.to_bob)
    return heartbeat, times


def test_it_beats_while_nobody_uses_the_hub_and_while_somebody_waits_in_it(ends: Ends, background: Any) -> None:
    heartbeat, times = beating(ends, 0.4)

    def wait() -> None:
        with heartbeat.turn, pytest.raises(DeadlineExceeded):
            ends.alice.receive(ends.to_bob, 2.0, "nothing")

    def hear(n: int) -> None:
        before, until = len(times), time.monotonic() + 30
        while len(times) < before + n:
            assert time.monotonic() < until, f"no {n} signs of life"
            ends.bob.poll()
            time.sleep(0.01)

    hear(3)
    waiting = background(wait)
    while heartbeat.turn.acquire(blocking=False):
        heartbeat.turn.release()
        time.sleep(0.01)
    hear(3)
    assert not waiting.done(), "it beat only after the wait"
    waiting.result(30)
    with heartbeat.turn:
        heartbeat.stop()


def test_nothing_comes_after_it_was_stopped(ends: Ends) -> None:
    """A last word stays the last one, also when the hub was woken for a sign of life before."""
    heartbeat, times = beating(ends, 0.2)
    with heartbeat.turn:
        time.sleep(0.3)  # it cannot have its turn, and wakes the hub
        heartbeat.stop()
        ends.alice.post(ends.to_bob, ALIVE)
        last = ends.to_bob.bytes_out
        ends.alice.poll()
    gives_up(ends, 0.4, 30)
    assert times and ends.to_bob.bytes_out == last


def test_it_ends_with_its_hub() -> None:
    """What it held would hold a session that nobody uses."""

    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "torchveil heartbeat"]

    before = len(threads())
    hub = Hub()
    heartbeat = Heartbeat(hub, 0.2)
    gone = weakref.ref(hub), weakref.ref(heartbeat)
    hub.close()
    del hub, heartbeat
    gc.collect()
    until = time.monotonic() + 30
    while len(threads()) > before or any(found() is not None for found in gone):
        assert time.monotonic() < until
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
        time.sleep(1.5 * DEADLINE_S)  # thinks
        assert (x * x).sum().reveal() == 4
        until, n = time.monotonic() + 1.5 * DEADLINE_S, 0
        while time.monotonic() < until:  # computes
            n += 1
        assert (x * x).sum().reveal() == 4


def test_what_was_too_much_to_send_at_once_is_sent_while_a_controller_thinks(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    post, queued = Hub.post, []

    def posting(hub: Hub, link: Any, *arguments: Any) -> None:
        post(hub, link, *arguments)
        if hub is driver.hub:
            queued.append(link.queued)  # before the heartbeat has its turn

    with connect(cluster.file) as session:
        driver: Any = session._driver
        monkeypatch.setattr(Hub, "post", posting)
        x: Any = session.share(torch.ones(4_000_000))
        assert any(queued), "it was not too much"
        time.sleep(1.5 * DEADLINE_S)
        until = time.monotonic() + 30
        while any(link.queued for link in driver.hub.links):
            assert time.monotonic() < until, "it still waits"
            time.sleep(0.02)
        assert x.sum().reveal() == 4_000_000


def test_a_role_that_is_ready_long_before_another_one_waits(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = Waiting._wait

    def late(self: Waiting, *arguments: Any) -> None:
        waited(self, *arguments)
        if self.role.name == "alice":
            time.sleep(1.5 * DEADLINE_S)

    monkeypatch.setattr(Waiting, "_wait", late)
    with connect(cluster.file) as session:
        assert session.share(torch.ones(4)).sum().reveal() == 4


def test_a_role_whose_own_deadline_is_short_waits_as_the_cluster_agreed(tmp_path: Path) -> None:
    limits = {"limits": {"deadline_s": 8.0}, "role_limits": {"deadline_s": 1.0}}
    with local_cluster(tmp_path, **limits) as running, connect(running.file) as session:
        assert session.share(torch.ones(4)).sum().reveal() == 4
        time.sleep(1.8)  # a sign of life is due every 2 s
        assert session.share(torch.ones(4)).sum().reveal() == 4


def test_a_controller_without_a_heartbeat_is_given_up(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections stand, and it says nothing."""
    monkeypatch.setattr(Hub, "push", lambda *_: None)
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
        if event == "session failed":
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
