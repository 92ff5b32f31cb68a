"""Questions to daemons: how much a connection may send before and with its question, and how long that may take."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from torchveil.errors import ConfigurationError, DeadlineExceeded, LimitExceeded, MalformedMessage, PeerRejected
from torchveil.network import messages as m
from torchveil.network import services
from torchveil.network.certificates import Credentials
from torchveil.network.config import Limits, read_role
from torchveil.network.connect import find_credentials
from torchveil.network.daemon import Daemon
from torchveil.network.framing import NO_SESSION, Frame, pack
from torchveil.network.health import ProbeReply, ProbeRequest
from torchveil.network.links import Hub, Link
from torchveil.network.names import Role
from torchveil.network.opening import STRANGER, abort_raises, dial, frame_limits, hello_of
from torchveil.network.owner import share
from torchveil.network.service_table import SERVICES
from torchveil.testing.clusters import LocalCluster, local_cluster

ALICE = Role("party", "alice")
HANDSHAKE_S = 2.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    limits = {"deadline_s": 20, "handshake_s": HANDSHAKE_S}
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=limits, owners=("o",)) as running:
        yield running


def credentials(cluster: LocalCluster, kind: str = "controller") -> Credentials:
    return find_credentials(cluster.config, None, None, kind)


@pytest.fixture
def refusals(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The codes of the connections that alice refuses."""
    codes: list[str] = []
    monkeypatch.setattr(cluster.daemons["alice"].metrics, "connection_refused", codes.append)
    return codes


def test_another_version_is_refused_at_both_ends(
    cluster: LocalCluster, refusals: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is for: shares of data sets move with a question too."""
    address, limits = cluster.config.addresses[ALICE], cluster.config.limits
    for purpose in ("service", "session", "link"):
        hello = msgspec.structs.replace(hello_of(cluster.config, purpose), version="0.0.9")
        with pytest.raises(PeerRejected, match=r"(?s)0\.0\.9.*same version") as caught:
            dial(address, ALICE, credentials(cluster), cluster.config, hello, limits)
        assert caught.value.at_fault == str(ALICE)
    assert refusals == [PeerRejected.code] * 3
    monkeypatch.setattr(services, "VERSION", "0.0.8")
    with pytest.raises(PeerRejected, match=r"(?s)0\.0\.8.*same version") as caught:
        dial(address, ALICE, credentials(cluster), cluster.config, hello_of(cluster.config, "service"), limits)
    assert caught.value.at_fault == str(ALICE)


@pytest.mark.parametrize("version", ["0.1\n", "x" * 65, "\x1b[2J"])
def test_a_version_is_a_word(version: str) -> None:
    for message in (m.Hello(m.PROTOCOL, version, bytes(32), "service"), m.Welcome(version)):
        with pytest.raises(MalformedMessage):
            m.parse_struct(m.pack_meta(message), type(message))


def dialled(cluster: LocalCluster, question: int) -> tuple[Hub, Link]:
    limits = cluster.config.limits
    address = cluster.config.addresses[ALICE]
    hello = hello_of(cluster.config, "service")
    link, _, _ = dial(address, ALICE, credentials(cluster), cluster.config, hello, limits, question=question)
    hub = Hub(timeout_s=20)
    hub.urgent = abort_raises
    hub.add(link)
    return hub, link


def probe(body: bytes) -> Frame:
    return m.message_of(m.Kind.REQUEST, m.Request("probe", msgspec.msgpack.encode(ProbeRequest())), body=[body])


def test_a_question_may_take_longer_than_a_handshake_once_it_began(cluster: LocalCluster) -> None:
    hub, link = dialled(cluster, 1 << 20)
    try:
        link.sock.setblocking(True)
        first, *rest = pack(probe(bytes(1 << 20)), NO_SESSION, 1, link.limits)
        link.sock.sendall(first)
        time.sleep(HANDSHAKE_S + 0.7)
        for piece in rest:
            link.sock.sendall(piece)
        link.sock.setblocking(False)
        reply = m.parse(hub.receive(link, 10, "the answer"), m.Reply)
        assert msgspec.msgpack.decode(reply.result, type=ProbeReply).time_s > 0
    finally:
        hub.close()


def test_a_question_that_never_begins_ends_with_the_handshake(cluster: LocalCluster) -> None:
    began = time.monotonic()
    hub, link = dialled(cluster, 0)
    try:
        with pytest.raises(DeadlineExceeded, match="its question"):
            hub.receive(link, 30, "the answer")
    finally:
        hub.close()
    assert HANDSHAKE_S - 0.1 < time.monotonic() - began < HANDSHAKE_S + 10


def test_a_body_larger_than_any_service_takes_is_refused_when_it_is_announced(
    cluster: LocalCluster, refusals: list[str]
) -> None:
    largest = max(service.body for service in SERVICES["party"].values())
    hub, link = dialled(cluster, largest + 1)
    try:
        link.sock.setblocking(True)
        link.sock.sendall(pack(probe(bytes(largest + 1)), NO_SESSION, 1, link.limits)[0])  # and none of the body
        link.sock.setblocking(False)
        with pytest.raises(LimitExceeded, match="announces"):
            hub.receive(link, 10, "the answer")
    finally:
        hub.close()
    assert refusals == [LimitExceeded.code]


@pytest.mark.parametrize("kind", [m.Kind.EXCHANGE, m.Kind.REPLY, m.Kind.HELLO])
def test_a_stranger_may_send_no_body(cluster: LocalCluster, refusals: list[str], kind: m.Kind) -> None:
    """Before a connection has said what it is for, nothing but a hello is taken."""
    host, _, port = cluster.config.addresses[ALICE].rpartition(":")
    context = credentials(cluster).client_context()
    with context.wrap_socket(socket.create_connection((host, int(port)), 5)) as sock:
        hub, link = Hub(timeout_s=10), Link(sock, ALICE, STRANGER)
        hub.urgent = abort_raises
        hub.add(link)
        try:
            sock.setblocking(True)
            sock.sendall(pack(Frame(int(kind), body=bytes(8)), NO_SESSION, 0)[0])
            sock.setblocking(False)
            with pytest.raises(LimitExceeded, match="announces"):
                hub.receive(link, 10, "the answer")
        finally:
            hub.close()
    assert refusals == [LimitExceeded.code]


def test_the_table_bounds_questions_of_each_kind_of_role() -> None:
    bodies = {kind: max(service.body for service in table.values()) for kind, table in SERVICES.items()}
    assert bodies == {"party": 8 << 20, "provider": 4 << 20}
    assert frame_limits(Limits()).body_of(m.Kind.REQUEST) == 0


def test_an_owner_may_leave_as_much_as_the_role_file_says(tmp_path: Path) -> None:
    with local_cluster(tmp_path, limits={"deadline_s": 20, "handshake_s": 5}, owners=("o",)) as cluster:
        assert cluster.daemons["alice"].config.datasets.n_bytes_per_owner == 16 << 30
        file = tmp_path / "alice.toml"
        file.write_text(file.read_text() + "[datasets]\nn_bytes_per_owner = 100\n")
        cluster.daemons["alice"].stop()
        with Daemon(read_role(file)):
            owner = find_credentials(cluster.config, None, None, "owner")
            share(cluster.config, owner, "o/small", torch.ones(12))
            with pytest.raises(LimitExceeded, match="100 bytes"):
                share(cluster.config, owner, "o/large", torch.ones(1))
        file.write_text(file.read_text().replace("= 100", "= 0"))
        with pytest.raises(ConfigurationError, match="n_bytes_per_owner"):
            read_role(file)
