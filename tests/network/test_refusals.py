"""A role that refuses or fails while a session opens: everybody hears its own error, whoever agreed on the session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import torch

from torchveil.errors import DeadlineExceeded, MalformedMessage, PeerLost, PeerRejected, SessionAborted, TorchveilError
from torchveil.network import daemon as daemons
from torchveil.network import messages as m
from torchveil.network import opening as sessions_opening
from torchveil.network.connect import connect
from torchveil.network.daemon import Daemon
from torchveil.network.framing import Decoder, Frame, pack
from torchveil.network.links import Hub, Link
from torchveil.network.opening import Waiting
from torchveil.testing.clusters import LocalCluster, free_ports, local_cluster

HANDSHAKE_S = 3.0  # a busy machine opens sessions in that time
ROLES = {"party/alice", "party/bob", "provider/james"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    limits = {"deadline_s": 10, "handshake_s": HANDSHAKE_S}
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=limits) as running:
        yield running


Spoil = Callable[[Frame], Frame]


def before(patch: pytest.MonkeyPatch, kind: m.Kind, receiver: str, spoil: Spoil) -> None:
    """The first frame of this kind to this role becomes what ``spoil`` makes of it."""
    post, done = Hub.post, []

    def posting(hub: Hub, link: Link, frame: Frame, what: str = "") -> None:
        if frame.kind == kind and str(link.peer) == receiver and not done:
            done.append(True)
            frame = spoil(frame)
        post(hub, link, frame, what)

    patch.setattr(Hub, "post", posting)


def not_its_own(_cluster: LocalCluster, patch: pytest.MonkeyPatch) -> None:
    """The controller says that bob contributed something else than it did."""

    def spoil(frame: Frame) -> Frame:
        first, _, *rest = m.parse(frame, m.Begin).contributions
        return m.message_of(m.Kind.BEGIN, m.Begin((first, bytes(16), *rest)))

    before(patch, m.Kind.BEGIN, "party/bob", spoil)


def something_else(_cluster: LocalCluster, patch: pytest.MonkeyPatch) -> None:
    """A role that bob connects to contributes something else than it told the controller; it agrees, bob does not."""

    def spoil(frame: Frame) -> Frame:
        said = m.parse(frame, m.Welcome)
        return m.message_of(m.Kind.WELCOME, msgspec.structs.replace(said, contribution=bytes(16)))

    # the controller's connection comes first, so bob is told a wrong one by whoever it connects to itself
    before(patch, m.Kind.WELCOME, "party/bob", spoil)


def shuts_down(cluster: LocalCluster, patch: pytest.MonkeyPatch) -> None:
    """Bob is asked to stop before it is told to begin."""

    def spoil(frame: Frame) -> Frame:
        *_, running = cluster.daemons["bob"]._sessions.values()
        assert running.waiting.hub is not None
        running.waiting.hub.cancel(SessionAborted("party/bob is shutting down"))
        return frame

    before(patch, m.Kind.BEGIN, "party/bob", spoil)


def begins_late(_cluster: LocalCluster, patch: pytest.MonkeyPatch) -> None:
    """The roles are told to begin when they do not wait for that any more."""

    def spoil(frame: Frame) -> Frame:
        time.sleep(2 * HANDSHAKE_S + 0.2)
        return frame

    before(patch, m.Kind.BEGIN, "party/alice", spoil)


def elsewhere(cluster: LocalCluster, patch: pytest.MonkeyPatch) -> None:
    """Nobody listens where bob's file says that alice does."""
    bob = cluster.daemons["bob"]
    alice, own = bob.config.cluster.parties
    moved = msgspec.structs.replace(alice, address=f"127.0.0.1:{free_ports(1)[0]}")
    others = msgspec.structs.replace(bob.config.cluster, parties=(moved, own))
    patch.setattr(bob, "config", msgspec.structs.replace(bob.config, cluster=others))


@pytest.mark.parametrize(
    ("spoil", "kind", "at_fault", "says"),
    [
        (not_its_own, PeerRejected, "party/bob", "party/bob: a session id without this role's own contribution"),
        (something_else, PeerRejected, "party/bob", "contributed something else than the controller said"),
        (shuts_down, SessionAborted, "party/bob", "party/bob: party/bob is shutting down"),
        (begins_late, DeadlineExceeded, "controller/scientist", "during: the session to begin"),
        (elsewhere, PeerLost, "party/alice", "party/bob: party/alice: no connection to 127.0.0.1"),
    ],
)
def test_the_controller_gets_the_roles_own_error(
    cluster: LocalCluster,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Any,
    kind: type[TorchveilError],
    at_fault: str,
    says: str,
) -> None:
    ended: dict[str, str] = {}
    end = Daemon._ended

    def ending(daemon: Daemon, ticket: bytes, code: str = "") -> None:
        ended[str(daemon.config.role)] = code
        end(daemon, ticket, code)

    with monkeypatch.context() as patch:
        spoil(cluster, patch)
        patch.setattr(Daemon, "_ended", ending)
        with pytest.raises(kind, match=says) as caught:
            connect(cluster.file)
        assert caught.value.at_fault == at_fault
        until = time.monotonic() + 5 * HANDSHAKE_S
        while ended.keys() != ROLES:
            assert time.monotonic() < until, f"a session is left: only {ended} ended"
            time.sleep(0.01)
    assert MalformedMessage.code not in ended.values(), ended
    with connect(cluster.file) as session:
        assert session.share(torch.ones(2)).reveal().tolist() == [1.0, 1.0]


# --- what frames outside of the session are let through meanwhile ----------------------------------------------------

SESSION, OTHER = b"session-and-more", b"another-session!"


def packed(kind: int, counter: int, session: bytes = b"") -> bytes:
    return b"".join(pack(Frame(kind), session, counter))


def opening(session: bytes = SESSION) -> Decoder:
    decoder = Decoder(session)
    decoder.opening = True
    return decoder


def test_frames_outside_of_the_session_are_seen_while_it_opens_and_handed_out_never() -> None:
    decoder = opening()
    decoder.feed(packed(m.Kind.ABORT, 0))
    assert [frame.kind for _, frame in decoder.ready] == [m.Kind.ABORT]
    with pytest.raises(MalformedMessage, match="another session"):
        decoder.next()


def test_the_first_frame_of_the_session_ends_its_opening() -> None:
    decoder = opening()
    decoder.feed(packed(1, 0, SESSION))
    with pytest.raises(MalformedMessage, match="another session"):
        decoder.feed(packed(m.Kind.ABORT, 1))


def test_frames_of_another_session_never_come_in() -> None:
    with pytest.raises(MalformedMessage, match="another session"):
        opening().feed(packed(m.Kind.ABORT, 0, OTHER))


def test_a_role_that_is_turned_away_by_one_that_ended_says_why_it_ended(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alice ended the session for a cause that bob does not know, so she has none that waits for him."""
    refused: list[tuple[str, str, str]] = []
    cause = PeerLost("provider/james: the connection broke", at_fault="provider/james")
    turned_away = threading.Event()

    joined, waited = Daemon._join, Waiting._wait

    def join(daemon: Daemon, *arguments: Any) -> None:
        if daemon.config.role.name != "alice":
            joined(daemon, *arguments)
            return
        turned_away.set()
        raise PeerRejected("there is no session of this ticket that waits for anybody")

    def ended(self: Waiting, *arguments: Any) -> None:
        if self.role.name != "alice":
            waited(self, *arguments)
            return
        assert turned_away.wait(30)
        time.sleep(0.05)
        raise cause

    done = sessions_opening.refuse

    def refuse(hub: Hub, error: BaseException, role: str, *more: Any) -> m.Failure:
        failure = done(hub, error, role, *more)
        refused.append((role, failure.code, failure.at_fault))
        return failure

    monkeypatch.setitem(daemons._PURPOSES, "link", join)
    monkeypatch.setattr(Waiting, "_wait", ended)
    monkeypatch.setattr(sessions_opening, "refuse", refuse)
    monkeypatch.setattr(sessions_opening, "_REASONS_S", 30.0)  # the first who tells ends it
    with pytest.raises(PeerLost) as caught:
        connect(cluster.file)
    assert caught.value.at_fault == "provider/james"
    ends = time.monotonic() + 30
    while not any(role == "party/bob" for role, _, _ in refused):
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert ("party/bob", "TV501", "provider/james") in refused
