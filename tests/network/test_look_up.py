"""Names are looked up within the time that a connection has, however long a name server takes."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from torchveil.errors import DeadlineExceeded, PeerLost
from torchveil.network import links
from torchveil.network.commands.doctor import open_port, resolve_name

TIMEOUT_S = 0.3
Resolver = Callable[..., Any]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A name server that does not answer while the test runs. Addresses need none."""
    answer, real = threading.Event(), socket.getaddrinfo

    def ask(host: str, *arguments: Any, flags: int = 0, **options: Any) -> Any:
        if not flags & socket.AI_NUMERICHOST:
            assert answer.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, *arguments, flags=flags, **options)

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    monkeypatch.setattr(links, "_LOOKUPS", threading.BoundedSemaphore(3))
    yield
    answer.set()
    for thread in threading.enumerate():
        if thread.name == "torchveil name":
            thread.join(5)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: links.connect("role.example:7001", ssl.create_default_context(), TIMEOUT_S), DeadlineExceeded),
        (lambda: resolve_name("role.example", 7001), TimeoutError),
        (lambda: open_port("role.example", 7001), TimeoutError),
    ],
    ids=["connect", "doctor, name", "doctor, port"],
)
def test_a_name_server_that_does_not_answer(
    silent: None, call: Callable[[], object], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchveil.network.commands.doctor.PORT_TIMEOUT_S", TIMEOUT_S)
    began = time.monotonic()
    with pytest.raises(error):
        call()
    assert time.monotonic() - began < 15  # the name server takes longer


def test_few_names_are_looked_up_at_a_time(silent: None) -> None:
    """Those that are given up go on: they must not become more and more."""

    def attempt(_k: int) -> None:
        with pytest.raises(TimeoutError):
            links.look_up("role.example", 7001, TIMEOUT_S)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(attempt, range(8)))
    assert sum(thread.name == "torchveil name" for thread in threading.enumerate()) == 3
    with socket.create_server(("127.0.0.1", 0)) as server:
        links.open_tcp("127.0.0.1", server.getsockname()[1], 5.0).close()


def test_a_name_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_arguments: Any, **_options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    with pytest.raises(PeerLost, match="not known"):
        links.connect("role.example:7001", ssl.create_default_context(), 5.0)


def test_a_name() -> None:
    assert links.look_up("localhost", 7001, 5.0)
