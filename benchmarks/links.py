"""Time links between two processes over loopback, mutual TLS 1.3, beside blocking sockets of ``ssl`` in the same run.

    python -m benchmarks.links [--repeats 5]

"blocking" sends a length and bytes with ``sendall`` and reads with ``recv_into`` into a buffer that is already there:
what the standard library does at best, without frames, limits or deadlines. Both alternate; of each the best and the
median of all rounds is shown, since a shared machine only ever adds time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import ssl
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.network.certificates import Authority
from torchveil.network.framing import Frame
from torchveil.network.links import Hub, Link, accept_tls, connect

ROUND_TRIP, ONE_WAY = 1, 2
_LENGTH = struct.Struct("<QB")
SMALL, LARGE = bytes(64), bytes(8 << 20)

Ask = Callable[[int, bytes], None]


def hub_side(sock: ssl.SSLSocket) -> tuple[Ask, Callable[[], None]]:
    """How a hub asks, and how it answers until the other end leaves."""
    hub, link = Hub(), Link(sock, "peer")
    hub.add(link)

    def ask(kind: int, data: bytes) -> None:
        hub.post(link, Frame(kind, body=data))
        hub.receive(link, 30, "answer")

    def answer() -> None:
        while True:
            frame = hub.receive(link, 30, "question")
            hub.post(link, Frame(frame.kind, body=frame.body if frame.kind == ROUND_TRIP else b""))
            if link.queued:
                hub.flush(30, "answer")

    return ask, answer


def blocking_side(sock: ssl.SSLSocket) -> tuple[Ask, Callable[[], None]]:
    """The same with blocking sockets."""
    sock.settimeout(30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(len(LARGE) + _LENGTH.size))

    def read(n: int) -> None:
        at = 0
        while at < n:
            got = sock.recv_into(buffer[at:n])
            if not got:
                raise EOFError
            at += got

    def send(kind: int, data: bytes) -> None:
        header = _LENGTH.pack(len(data), kind)
        if len(data) < 1000:
            sock.sendall(header + data)
        else:
            sock.sendall(header)
            sock.sendall(data)

    def receive() -> tuple[int, int]:
        read(_LENGTH.size)
        n, kind = _LENGTH.unpack(buffer[: _LENGTH.size])
        read(n)
        return n, kind

    def ask(kind: int, data: bytes) -> None:
        send(kind, data)
        receive()

    def answer() -> None:
        while True:
            n, kind = receive()
            send(kind, bytes(buffer[:n]) if kind == ROUND_TRIP else b"")

    return ask, answer


SIDES = {"hub": hub_side, "blocking": blocking_side}


def serve(server: socket.socket, context: ssl.SSLContext, names: list[str]) -> None:
    """Answers one connection after another."""
    for name in names:
        sock = accept_tls(server.accept()[0], context, 5)
        with suppress(EOFError, OSError):
            SIDES[name](sock)[1]()


def timed(ask: Ask, kind: int, data: bytes, times: int) -> list[float]:
    out = []
    for _ in range(times):
        started = time.perf_counter()
        ask(kind, data)
        out.append(time.perf_counter() - started)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    names = [*SIDES] * repeats
    times: dict[tuple[str, int], list[float]] = {(name, kind): [] for name in SIDES for kind in (ROUND_TRIP, ONE_WAY)}
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        authority = Authority(Path(folder))
        arguments = (server, authority.context("server", server=True), names)
        process = multiprocessing.get_context("fork").Process(target=serve, args=arguments, daemon=True)
        process.start()
        ours = authority.context("client", server=False)
        for name in names:
            sock = connect(f"127.0.0.1:{server.getsockname()[1]}", ours, 5)
            ask = SIDES[name](sock)[0]
            timed(ask, ROUND_TRIP, SMALL, 200)
            times[name, ROUND_TRIP] += timed(ask, ROUND_TRIP, SMALL, 2000)
            times[name, ONE_WAY] += timed(ask, ONE_WAY, LARGE, 20)
            sock.close()
        process.join(10)
    table = Table("", "64 bytes there and back, us", "best", "8 MB one way, GB/s", "best")
    for name in SIDES:
        small, large = times[name, ROUND_TRIP], times[name, ONE_WAY]
        table.add_row(
            name,
            f"{statistics.median(small) * 1e6:.0f}",
            f"{min(small) * 1e6:.0f}",
            f"{len(LARGE) / statistics.median(large) / 1e9:.2f}",
            f"{len(LARGE) / min(large) / 1e9:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
