"""Both ends of a link in one process, over what the conformance suite is run on."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from tests.network.certificates import Authority
from torchveil.network import links
from torchveil.network.framing import Limits

Sockets = tuple[socket.socket, socket.socket]
Dials = dict[str, Callable[[], Sockets]]


class Ends(NamedTuple):
    """Alice's hub with her link to bob, and bob's with his to alice. One thread at a time drives a hub."""

    alice: links.Hub
    to_bob: links.Link
    bob: links.Hub
    to_alice: links.Link


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def contexts(authority: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's."""
    return authority.context("bob", server=True), authority.context("alice", server=False)


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Any]]]:
    """Runs a function beside the test, for at most as long as its own deadlines allow."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


@pytest.fixture
def dial(contexts: tuple[ssl.SSLContext, ssl.SSLContext], background: Any) -> Iterator[Dials]:
    """How to make a pair of connected sockets, per kind of transport."""
    server = socket.create_server(("127.0.0.1", 0))

    def tls() -> Sockets:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        near = background(links.connect, address, contexts[1], 60.0)
        far = links.accept_tls(server.accept()[0], contexts[0], 60.0)
        return near.result(60), far

    yield {"plain": socket.socketpair, "tls": tls}
    server.close()


@pytest.fixture(params=["plain", "tls"])
def pair(request: pytest.FixtureRequest, dial: Dials) -> Callable[[], Sockets]:
    """Makes a pair of connected sockets."""
    return dial[request.param]


@pytest.fixture
def make(pair: Callable[[], Sockets]) -> Iterator[Callable[..., Ends]]:
    """Makes the two ends of a link, with these limits; closes them after the test."""
    hubs = []

    def ends(limits: Limits | None = None) -> Ends:
        near, far = pair()
        made = Ends(links.Hub(), links.Link(near, "bob", limits), links.Hub(), links.Link(far, "alice", limits))
        made.alice.add(made.to_bob)
        made.bob.add(made.to_alice)
        hubs.extend((made.alice, made.bob))
        return made

    yield ends
    for hub in hubs:
        hub.close()


@pytest.fixture
def ends(make: Callable[..., Ends]) -> Ends:
    return make()
