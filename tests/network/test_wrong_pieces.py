"""A role that sends pieces of another length or shape: whoever gets them ends the session and names that role."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import torch

from tests.network.conftest import Ends
from torchveil.drivers.ranks import Collective
from torchveil.errors import (
    DeadlineExceeded,
    Desynchronised,
    LimitExceeded,
    MalformedMessage,
    PeerLost,
    ProtocolError,
    SessionAborted,
    TorchveilError,
)
from torchveil.network import messages as m
from torchveil.network.config import Limits
from torchveil.network.connect import NetworkSession, connect, find_credentials
from torchveil.network.framing import Frame, views
from torchveil.network.group import Group
from torchveil.network.links import Hub, Link
from torchveil.network.metrics import Metrics
from torchveil.network.opening import frame_limits
from torchveil.network.pieces import dealt, dealt_of
from torchveil.randomness import os_bytes
from torchveil.testing.clusters import LocalCluster, local_cluster

Change = Callable[[Frame], Frame]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    limits = {"deadline_s": 5, "handshake_s": 5}
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=limits, role_limits={"sessions": 50}) as running:
        yield running


def body_of(frame: Frame) -> bytes:
    return b"".join(map(bytes, views(frame.body)))


def resized(by: int) -> Change:
    def change(frame: Frame) -> Frame:
        body = body_of(frame)
        return frame._replace(body=body[:by] if by < 0 else body + bytes(by))

    return change


def described(change: Callable[[m.Piece], m.Piece], body: Callable[[bytes], bytes] = bytes) -> Change:
    """Changes what is said of the first piece that is dealt."""

    def changed(frame: Frame) -> Frame:
        first, *rest = m.parse(frame, m.Dealt).pieces
        return frame._replace(meta=m.pack_meta(m.Dealt((change(first), *rest))), body=body(body_of(frame)))

    return changed


def shaped(shape: tuple[int, ...]) -> Callable[[m.Piece], m.Piece]:
    return lambda piece: m.Piece(piece.purpose, piece.slot, piece.dtype, shape)


def words_for_bits(frame: Frame) -> Frame:
    """Of the right shape, of twice the bytes."""
    found = dealt(m.parse(frame, m.Dealt), memoryview(bytearray(body_of(frame))))
    said, body = dealt_of(
        {key: each.astype("u2") if getattr(each, "dtype", None) == "u1" else each for key, each in found.items()}
    )
    return frame._replace(meta=m.pack_meta(said), body=body)


def product(x: Any) -> Any:
    return x * x


def comparison(x: Any) -> Any:
    return (x > 0.5).float()


KINDS: dict[str, tuple[m.Kind, str, Change]] = {
    "exchange, short": (m.Kind.EXCHANGE, "party/bob", resized(-8)),
    "exchange, long": (m.Kind.EXCHANGE, "party/bob", resized(8)),
    "exchange, half an element": (m.Kind.EXCHANGE, "party/bob", resized(-4)),
    "exchange, empty": (m.Kind.EXCHANGE, "party/bob", lambda frame: frame._replace(body=b"")),
    "dealt, short": (m.Kind.DEALT, "provider/james", resized(-8)),
    "dealt, long": (m.Kind.DEALT, "provider/james", resized(8)),
    "dealt, other shape": (m.Kind.DEALT, "provider/james", described(shaped((16, 1)))),
    "dealt, 65 dimensions": (m.Kind.DEALT, "provider/james", described(shaped((1,) * 65))),
    "dealt, overflow": (m.Kind.DEALT, "provider/james", described(shaped((0, 2**40, 2**40)), lambda _: b"")),
    "dealt, nothing": (
        m.Kind.DEALT,
        "provider/james",
        lambda frame: frame._replace(meta=m.pack_meta(m.Dealt(())), body=b""),
    ),
    "dealt, no description": (m.Kind.DEALT, "provider/james", lambda frame: frame._replace(meta=b"\xc1")),
    "dealt, other type": (m.Kind.DEALT, "provider/james", words_for_bits),
}


def of(hub: Hub) -> str:
    """Whose hub it is: the only role that it has no link to, in a session."""
    (own,) = {"party/alice", "party/bob", "provider/james", "controller/scientist"} - {str(l.peer) for l in hub.links}
    return own


def lie(monkeypatch: pytest.MonkeyPatch, kind: m.Kind, sender: str, change: Change) -> list[Frame]:
    """From here on every such message of the sender is changed; what was changed."""
    post, changed = Hub.post, []

    def posting(hub: Hub, link: Link, frame: Frame, what: str = "") -> None:
        if frame.kind == kind and of(hub) == sender:
            changed.append(frame)
            frame = change(frame)
        post(hub, link, frame, what)

    monkeypatch.setattr(Hub, "post", posting)
    return changed


@pytest.mark.parametrize("case", KINDS)
def test_the_sender_is_named(cluster: LocalCluster, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, sender, change = KINDS[case]
    session = connect(cluster.file)
    x = session.share(torch.ones(4, 4))
    program = comparison if "type" in case else product
    changed = lie(monkeypatch, kind, sender, change)
    with pytest.raises((MalformedMessage, ProtocolError)) as caught:
        program(x).reveal()
    assert changed and "unexpected" not in caught.value.message
    assert caught.value.at_fault == sender
    monkeypatch.undo()
    with connect(cluster.file) as session:
        assert torch.equal(session.share(torch.ones(2)).reveal(), torch.ones(2))


@pytest.mark.parametrize("by", [-8, 8, -4, 0], ids=["short", "long", "half an element", "no box"])
def test_a_share_of_another_size_is_no_share(cluster: LocalCluster, by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed as it should be, by a party that reveals more or less than a share."""
    session = connect(cluster.file)
    x = session.share(torch.ones(4))
    driver: Any = session._remote
    controller = driver._credentials.identity

    def change(frame: Frame) -> Frame:
        context = m.seal_context(driver.session_id, frame.number, "party/bob")
        return frame._replace(body=controller.seal(bytes(32 + by), context) if by else bytes(100))

    changed = lie(monkeypatch, m.Kind.REVEALED, "party/bob", change)
    with pytest.raises(MalformedMessage) as caught:
        x.reveal()
    assert changed and caught.value.at_fault == "party/bob"
    assert session.ended


# --- ranks of one party ----------------------------------------------------------------------------------------------

SUM = Collective("sum", (3,), 0, "scale 16")
OWNERS = frozenset(("owner/a",))
HONEST = ("sum", (3,), 0, "scale 16", -1, bytes(32), ["owner/a"])

WRONG: dict[str, tuple[Any, int, int, type[TorchveilError]]] = {
    "short": (HONEST, 1, 16, MalformedMessage),
    "long": (HONEST, 1, 32, MalformedMessage),
    "half an element": (HONEST, 1, 20, MalformedMessage),
    "nothing": (HONEST, 1, 0, MalformedMessage),
    "another number": (HONEST, 2, 24, Desynchronised),
    "another collective": (("stack", *HONEST[1:]), 1, 24, Desynchronised),
    "another shape of one size": (("sum", (3, 1), *HONEST[2:]), 1, 24, Desynchronised),
    "another root": (("sum", (3,), 1, *HONEST[3:]), 1, 24, Desynchronised),
    "another format": ((*HONEST[:3], "scale 20", *HONEST[4:]), 1, 24, Desynchronised),
    "another part": ((*HONEST[:4], 0, *HONEST[5:]), 1, 24, Desynchronised),
    "65 dimensions": (("sum", (1,) * 65, *HONEST[2:]), 1, 24, MalformedMessage),
    "a huge root": (("sum", (3,), 2**63, *HONEST[3:]), 1, 24, MalformedMessage),
    "half a digest": ((*HONEST[:5], bytes(16), HONEST[6]), 1, 24, MalformedMessage),
    "a long name": ((*HONEST[:6], ["owner/" + "a" * 200]), 1, 24, MalformedMessage),
    "one owner too many": ((*HONEST[:6], [f"owner/{k}" for k in range(m.OWNERS + 1)]), 1, 24, MalformedMessage),
    "a million owners": ((*HONEST[:6], [f"owner/{k}" for k in range(10**6)]), 1, 24, MalformedMessage),
}


def groups(ends: Ends) -> tuple[Group, Group]:
    return (
        Group(ends.alice, 0, {1: ends.to_bob}, 30.0, Metrics()),
        Group(ends.bob, 1, {0: ends.to_alice}, 30.0, Metrics()),
    )


def test_ranks_agree(ends: Ends, background: Any) -> None:
    alice, bob = groups(ends)
    there = background(bob.make, SUM, torch.tensor([1, 2, 3]), frozenset(("owner/b",)), bytes(32))
    made, owners = alice.make(SUM, torch.tensor([10, 20, 30]), OWNERS, bytes(32))
    assert made.tolist() == there.result(60)[0].tolist() == [11, 22, 33]
    assert owners == there.result(5)[1] == {"owner/a", "owner/b"}


@pytest.mark.parametrize("case", WRONG)
def test_a_rank_that_sends_something_else(ends: Ends, case: str, background: Any) -> None:
    said, number, n_bytes, error = WRONG[case]
    alice, _ = groups(ends)
    ends.to_bob.limits = ends.to_alice.limits = frame_limits(Limits())
    frame = Frame(int(m.Kind.COLLECTED), number, meta=msgspec.msgpack.encode(said), body=bytes(n_bytes))
    ends.bob.post(ends.to_alice, frame)
    background(ends.bob.flush, 30.0, "a lie")
    with pytest.raises(error) as caught:
        alice.make(SUM, torch.ones(3, dtype=torch.int64), OWNERS, bytes(32))
    assert caught.value.at_fault == "bob"


def test_a_list_of_owners_takes_no_memory_before_it_is_counted() -> None:
    meta = msgspec.msgpack.encode(WRONG["a million owners"][0])
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            m.parse(Frame(int(m.Kind.COLLECTED), meta=meta), m.Collected)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_rank_that_says_nothing(make: Callable[..., Ends]) -> None:
    ends = make()
    alice = Group(ends.alice, 0, {1: ends.to_bob}, 0.3, Metrics())
    with pytest.raises(DeadlineExceeded) as caught:
        alice.make(SUM, torch.ones(3, dtype=torch.int64), OWNERS, bytes(32))
    assert caught.value.at_fault == "bob"


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    limits = {"deadline_s": 5, "handshake_s": 5}
    small = {"elements": 100, "sessions": 50}
    with local_cluster(tmp_path_factory.mktemp("lanes"), limits=limits, role_limits=small, ranks=2) as running:
        yield running


@pytest.mark.parametrize(
    ("collective", "own", "error"),
    [
        (Collective("stack", (60,), 0, ""), True, LimitExceeded),
        (Collective("broadcast", (2**40,), 0, ""), False, LimitExceeded),
        (Collective("sum", (59,), 0, ""), True, ProtocolError),
        (Collective("sum", (60,), 2, ""), True, MalformedMessage),
        (Collective("sum", (60,), 0, ""), False, MalformedMessage),
    ],
    ids=["too large", "too large to get", "another shape", "no such root", "no value"],
)
def test_what_a_controller_may_have_ranks_make(
    lanes: LocalCluster, collective: Collective, own: bool, error: type[TorchveilError], background: Any
) -> None:
    credentials = find_credentials(lanes.config, None, None, "controller")
    group = os_bytes(16)
    opening = [background(NetworkSession, lanes.config.at(lane), credentials, group=group) for lane in (0, 1)]
    sessions = [each.result(20) for each in opening]

    def attempt(session: NetworkSession) -> None:
        x = session.share(torch.ones(60))
        driver = session._remote
        driver._item(
            m.Collect(collective.how, 10**6, x.handle.id if own else None, collective.shape, collective.root, "")
        )
        driver.number += 1
        x.reveal()

    for attempted in [background(attempt, session) for session in sessions]:
        with pytest.raises((error, PeerLost, SessionAborted)) as caught:
            attempted.result(20)
        assert isinstance(caught.value, error)
