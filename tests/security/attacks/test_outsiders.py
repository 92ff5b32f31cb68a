"""Somebody without a certificate of the cluster, or with one that does not count, against daemons that run."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep

import pytest
import torch

from tests.network.forgery import crafted
from torchveil.errors import LimitExceeded, MalformedMessage, PeerLost, PeerRejected, TorchveilError
from torchveil.network import messages as m
from torchveil.network.authority import create_authority, issue
from torchveil.network.certificates import Credentials
from torchveil.network.connect import connect, find_credentials
from torchveil.network.framing import Frame, pack
from torchveil.network.links import Hub, Link
from torchveil.network.names import Role
from torchveil.network.opening import abort_raises, frame_limits, hello_of
from torchveil.network.services import Caller
from torchveil.testing.clusters import LocalCluster, local_cluster

LIMITS = {"deadline_s": 5, "handshake_s": 2}
ALICE = Role("party", "alice")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("outsiders"), owners=["hospital-a"], limits=LIMITS) as running:
        yield running


def dialled(cluster: LocalCluster) -> socket.socket:
    host, _, port = cluster.config.addresses[ALICE].rpartition(":")
    sock = socket.create_connection((host, int(port)), 5)
    sock.settimeout(5)
    return sock


def said(cluster: LocalCluster, context: ssl.SSLContext | None, data: bytes) -> bytes:
    """What alice answers to bytes, over TLS if there is a context; nothing if she hangs up."""
    sock = dialled(cluster)
    got = b""
    with suppress(OSError), sock:
        end = context.wrap_socket(sock) if context else sock
        end.sendall(data)
        while piece := end.recv(4096):
            got += piece
    return got


def hello(cluster: LocalCluster, purpose: str = "service") -> bytes:
    frame = m.message_of(m.Kind.HELLO, hello_of(cluster.config, purpose))
    return b"".join(map(bytes, pack(frame, b"", 0)))


def client(certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def of(directory: Path, role: Role) -> ssl.SSLContext:
    return client(directory / f"{role.stem}.pem", directory / f"{role.stem}.key")


def nothing(_cluster: LocalCluster, _empty: Path) -> ssl.SSLContext:
    return client()


def of_another_authority(cluster: LocalCluster, empty: Path) -> ssl.SSLContext:
    create_authority(empty, "study")
    issue(empty, Role("controller", "scientist"))
    return of(empty, Role("controller", "scientist"))


def of_another_cluster(cluster: LocalCluster, empty: Path) -> ssl.SSLContext:
    """Signed by the true authority, and it names another cluster."""
    ca = cluster.directory
    uris = ["torchveil://other/controller/scientist"]
    return client(*crafted(ca / "ca.pem", ca / "ca.key", empty, uris=uris))


def expired(cluster: LocalCluster, _empty: Path) -> ssl.SSLContext:
    late = Role("controller", "late")
    issue(cluster.directory, late, days=1, valid_from=datetime.now(UTC) - timedelta(days=3))
    context = of(cluster.directory, late)
    (cluster.directory / "controller-late.pem").unlink()
    return context


def old_tls(cluster: LocalCluster, _empty: Path) -> ssl.SSLContext:
    context = of(cluster.directory, Role("controller", "scientist"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


STRANGERS = [nothing, of_another_authority, of_another_cluster, expired, old_tls]


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.__name__)
def test_who_has_no_certificate_of_the_cluster_is_not_answered(
    cluster: LocalCluster, tmp_path: Path, stranger: Callable[[LocalCluster, Path], ssl.SSLContext]
) -> None:
    answer = said(cluster, stranger(cluster, tmp_path), hello(cluster))
    if answer:  # the handshake was right, what the certificate says was not: told so, and no more
        assert stranger is of_another_cluster and b"TV50" in answer and b"WELCOME" not in answer


def test_with_a_certificate_one_is_answered(cluster: LocalCluster) -> None:
    """The other half of the test above: the same bytes from somebody who may."""
    context = of(cluster.directory, Role("controller", "scientist"))
    sock = dialled(cluster)
    with context.wrap_socket(sock) as end:
        end.sendall(hello(cluster))
        assert end.recv(4096)[:2] == hello(cluster)[:2]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\x16\x03\x01" + bytes(200)])
def test_who_does_not_speak_tls_is_not_answered(cluster: LocalCluster, data: bytes) -> None:
    answer = said(cluster, None, data)
    assert len(answer) < 16  # at most an alert of TLS
    assert not answer or answer[0] == 21


def ask(cluster: LocalCluster, role: Role, frame: Frame) -> Frame:
    """Send a frame as the first one, as ``role``; what comes back. Raises what the answer tells."""
    directory = cluster.directory
    credentials = Credentials.load(directory / f"{role.stem}.pem", directory / f"{role.stem}.key", directory / "ca.pem")
    end = credentials.client_context().wrap_socket(dialled(cluster))
    link, hub = Link(end, ALICE, frame_limits(cluster.config.limits)), Hub(timeout_s=3)
    hub.add(link)
    hub.urgent = abort_raises
    try:
        hub.post(link, frame)
        return hub.receive(link, 5, "an answer")
    finally:
        hub.close()


def refusals(cluster: LocalCluster, code: str) -> int:
    """How many connections alice refused for this reason."""
    sleep(0.1)
    return cluster.daemons["alice"].metrics._refused.get(code, 0)


def test_garbage_after_the_handshake(cluster: LocalCluster) -> None:
    context = of(cluster.directory, Role("controller", "scientist"))
    before = refusals(cluster, "TV504")
    said(cluster, context, b"\x00" * 500)
    assert refusals(cluster, "TV504") == before + 1


def test_a_first_frame_is_small(cluster: LocalCluster) -> None:
    """Red before strangers had limits of their own: the whole frame was taken, and only then found to be no hello."""
    large = Frame(int(m.Kind.STREAM), meta=b"", body=[bytes(1 << 20)])
    before = refusals(cluster, "TV505")
    with pytest.raises((LimitExceeded, PeerLost)):
        ask(cluster, Role("owner", "hospital-a"), large)
    assert refusals(cluster, "TV505") == before + 1


def test_other_first_frames_are_refused(cluster: LocalCluster) -> None:
    with pytest.raises(MalformedMessage):
        ask(cluster, Role("controller", "scientist"), Frame(int(m.Kind.CLOSE)))
    with pytest.raises(PeerRejected, match="purpose"):
        odd = m.message_of(m.Kind.HELLO, hello_of(cluster.config, "administration"))
        ask(cluster, Role("controller", "scientist"), odd)


@pytest.mark.parametrize(
    ("kind", "service"),
    [
        ("controller", "datasets/stage"),
        ("controller", "datasets/remove"),
        ("controller", "results/list"),
        ("controller", "results/fetch"),
        ("controller", "results/forget"),
        ("controller", "audit/swap"),
        ("owner", "audit/swap"),
        ("controller", "no/such"),
    ],
)
def test_services_without_the_right_to_them(cluster: LocalCluster, kind: str, service: str) -> None:
    caller = Caller(cluster.config, find_credentials(cluster.config, None, None, kind))
    with pytest.raises(TorchveilError) as caught:
        caller.call(ALICE, service)
    assert isinstance(caught.value, PeerRejected) or service == "no/such"


def test_the_daemon_has_stayed(cluster: LocalCluster) -> None:
    with connect(cluster.file) as session:
        assert session.share(torch.ones(2)).reveal().tolist() == [1.0, 1.0]
    assert all(daemon.sessions <= 1 for daemon in cluster.daemons.values())
