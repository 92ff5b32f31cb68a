"""Real TLS connections over a pair of sockets, with a deadline on every wait."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

TIMEOUT_S = 60.0

Wrap = Callable[[socket.socket], socket.socket]


def served(context: ssl.SSLContext) -> Wrap:
    return lambda plain: context.wrap_socket(plain, server_side=True)


def connected(context: ssl.SSLContext) -> Wrap:
    return lambda plain: context.wrap_socket(plain)


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(TIMEOUT_S)
    try:
        yield ends
    finally:
        for end in ends:
            with suppress(OSError):
                end.close()


@contextmanager
def connection(server: ssl.SSLContext, client: ssl.SSLContext) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Both ends of a connection whose handshake went well: the server's, the client's."""
    with pair() as (left, right), ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(served(server), left)
        there = connected(client)(right)
        here = accepting.result(TIMEOUT_S)
        assert isinstance(here, ssl.SSLSocket) and isinstance(there, ssl.SSLSocket)
        with here, there:
            yield here, there


def attempt(server: ssl.SSLContext, client: Wrap) -> tuple[object, object]:
    """What each end comes to, the server's first: the bytes that it reads from the other one, or what it raises."""
    with pair() as (left, right), ThreadPoolExecutor(2) as pool:
        accepting = pool.submit(_outcome, served(server), left, b"from the server")
        calling = pool.submit(_outcome, client, right, b"from the client")
        return accepting.result(2 * TIMEOUT_S), calling.result(2 * TIMEOUT_S)


def _outcome(wrap: Wrap, plain: socket.socket, words: bytes) -> object:
    try:
        with wrap(plain) as end:
            end.sendall(words)
            return end.recv(100)
    except OSError as error:  # an ssl.SSLError is one
        return error
    finally:
        plain.close()
