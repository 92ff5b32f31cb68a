"""Strangers and members that ask for too much: it costs them their connection or their session, and others nothing."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import torchveil
from torchveil.errors import LimitExceeded
from torchveil.network import role_session
from torchveil.network.certificates import Credentials
from torchveil.network.connect import NetworkSession, connect, find_credentials
from torchveil.network.links import connect as dial
from torchveil.network.metrics import resident_bytes
from torchveil.testing.clusters import LocalCluster, local_cluster

HANDSHAKE_S = 3.0  # a busy machine opens sessions in that time
LIMITS = {"deadline_s": 20, "handshake_s": HANDSHAKE_S, "connections": 8}
MANY = 300
SESSION_S = 3.0  # the session after the one that is too long is over before


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=LIMITS) as running:
        yield running


def serves(cluster: LocalCluster) -> None:
    with connect(cluster.file) as session:
        assert (session.share(torch.ones(2)) + 1).reveal().tolist() == [2.0, 2.0]


def to_alice(cluster: LocalCluster) -> socket.socket:
    host, _, port = cluster.daemons["alice"].address.rpartition(":")
    return socket.create_connection((host, int(port)), 5)


def credentials(cluster: LocalCluster) -> Credentials:
    return find_credentials(cluster.config, None, None, "controller")


def is_closed(sock: socket.socket, within_s: float) -> bool:
    sock.settimeout(within_s)
    try:
        return not sock.recv(1)
    except TimeoutError:
        return False
    except OSError:
        return True


# --- strangers -------------------------------------------------------------------------------------------------------


def silent(_sock: socket.socket) -> None:
    """Connects and says nothing."""


def begins(sock: socket.socket) -> None:
    """The first bytes of a handshake that is never finished."""
    sock.sendall(bytes.fromhex("1603010200"))


@pytest.mark.parametrize("stranger", [silent, begins])
def test_many_who_dawdle_keep_nobody_out(cluster: LocalCluster, stranger: Callable[[socket.socket], None]) -> None:
    before = resident_bytes()
    with ExitStack() as stack:
        held = []
        for _ in range(MANY):
            held.append(stack.enter_context(to_alice(cluster)))
            stranger(held[-1])
        began = time.monotonic()
        serves(cluster)
        assert resident_bytes() - before < 64 << 20
        # most made room for others, the rest had their time
        time.sleep(max(0.0, began + HANDSHAKE_S - time.monotonic()))
        assert all(is_closed(sock, 5.0) for sock in held)


def test_a_handshake_byte_by_byte_has_its_time_and_no_more(cluster: LocalCluster) -> None:
    with to_alice(cluster) as sock:
        began = time.monotonic()
        hello = bytes.fromhex("16030100c8010000c40303") + bytes(190)
        with pytest.raises(OSError):
            for byte in hello:
                sock.sendall(bytes([byte]))
                time.sleep(0.05)
            assert is_closed(sock, 1.0)
            raise ConnectionResetError
        assert time.monotonic() - began < len(hello) * 0.05  # all of it would take longer
    serves(cluster)


def test_a_hello_byte_by_byte_has_its_time_and_no_more(cluster: LocalCluster) -> None:
    """Somebody with a certificate, after the handshake."""
    began = time.monotonic()
    sock = dial(cluster.daemons["alice"].address, credentials(cluster).client_context(), 5)
    with sock, pytest.raises(OSError):
        for byte in header(n_meta=100, n_body=0)[:40]:
            sock.sendall(bytes([byte]))
            time.sleep(0.2)
        while sock.recv(4096):
            pass
        raise ConnectionResetError
    assert time.monotonic() - began < 40 * 0.2
    serves(cluster)


# --- members ---------------------------------------------------------------------------------------------------------


def header(*, n_meta: int, n_body: int, kind: int = 1) -> bytes:
    return struct.pack("<3sBB3s8sQQ8sQQ", b"TVL", 1, kind, bytes(3), bytes(8), 0, 0, bytes(8), n_meta, n_body)


@pytest.mark.parametrize(("n_meta", "n_body"), [(2**60, 0), (0, 2**60), (2**23, 0), (2**64 - 1, 2**64 - 1)])
def test_a_huge_announced_length_ends_the_connection(cluster: LocalCluster, n_meta: int, n_body: int) -> None:
    before = resident_bytes()
    sock = dial(cluster.daemons["alice"].address, credentials(cluster).client_context(), 5)
    with sock:
        sock.sendall(header(n_meta=n_meta, n_body=n_body))
        said = b""
        with suppress(OSError):
            while data := sock.recv(4096):
                said += data
    assert b"TV505" in said and b"announces" in said
    assert resident_bytes() - before < 16 << 20
    serves(cluster)


def many_values(session: NetworkSession) -> Any:
    x = session.share(torch.ones(1))
    return [x + k for k in range(200)][-1]


def many_plans(session: NetworkSession) -> Any:
    x: Any = session.share(torch.ones(1))
    for k in range(5):
        run = torchveil.compile(lambda x, k=k: x * 2 + k)
        x = run(run(x))  # a plan from the second call on
    return x


def a_long_time(session: NetworkSession) -> Any:
    time.sleep(SESSION_S + 0.2)
    return session.share(torch.ones(1))


def a_large_value(session: NetworkSession) -> Any:
    return session.share(torch.ones(20_000)) * 2


@pytest.mark.parametrize(
    ("role_limits", "program", "says"),
    [
        ({"wires": 100}, many_values, "more than 100 values"),
        ({}, many_plans, "more than 3 plans"),
        ({"session_s": SESSION_S}, a_long_time, "older than this role allows"),
        ({"elements": 10_000}, a_large_value, "more than the 10000 elements"),
    ],
    ids=["values", "plans", "time", "elements"],
)
def test_a_session_that_asks_for_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role_limits: dict[str, float], program: Any, says: str
) -> None:
    monkeypatch.setattr(role_session, "PLANS", 3)
    with local_cluster(tmp_path, limits={"deadline_s": 20}, role_limits=role_limits) as cluster:
        session = connect(cluster.file)
        with pytest.raises(LimitExceeded, match=says) as caught:
            program(session).reveal()
        assert caught.value.at_fault == "controller/scientist", "who asked for it"
        serves(cluster)
