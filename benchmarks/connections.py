"""Ways to carry bytes between roles, in one run: blocking sockets of the standard library, gRPC streams, our links.

    python -m benchmarks.connections [--repeats 15] [--page]

All over loopback, with TLS and a certificate on both sides, server and client in two processes, in turns. Measured are
the round trip of 64 bytes, and messages of 8 MB that are answered by one byte, one after the other. Then the servers
that set up TLS in ways of their own are offered older versions of it. The first way is the best that the standard
library can do: no frames, limits or deadlines, and one buffer for every message. gRPC is no dependency of ours: without
the package ``grpcio`` its columns stay empty.
``--page`` writes the tables into docs/design/0011-one-kind-of-connection.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import ssl
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks.report import insert, markdown
from benchmarks.run import processor
from torchveil.errors import PeerLost
from torchveil.network.certificates import Credentials, Paths, create_authority, issue
from torchveil.network.framing import Frame
from torchveil.network.links import Hub, Link, accept_tls, connect
from torchveil.network.names import Role

try:
    import grpc
except ImportError:
    grpc = None

SMALL, LARGE = 64, 8_000_000  # bytes
PINGS, LOADS = 400, 12  # messages of one turn
WARM = 20  # of them not counted; of the large ones, two
PAGE = Path(__file__).parents[1] / "docs" / "design" / "0011-one-kind-of-connection.md"
TIMEOUT_S = 60
CLIENT, SERVER = Role("party", "alice"), Role("party", "bob")

#: Sends a message and waits for its answer, which is as long as the message, or one byte if that is large.
Ask = Callable[[bytes], int]


@contextmanager
def certificates() -> Iterator[Path]:
    """A directory with an authority, and both roles' files."""
    with tempfile.TemporaryDirectory() as name:
        create_authority(Path(name), "bench")
        for role in (CLIENT, SERVER):
            issue(Path(name), role, addresses=["localhost"])
        yield Path(name)


def answer_to(n_bytes: int) -> int:
    """Bytes of the answer to a message of ``n_bytes``."""
    return n_bytes if n_bytes <= SMALL else 1


# --- sockets of the standard library ---------------------------------------------------------------------------------


def _read(sock: ssl.SSLSocket, room: memoryview) -> bool:
    """Fill ``room``; False at the end of the connection."""
    done = 0
    while done < len(room):
        n = sock.recv_into(room[done:])
        if not n:
            return False
        done += n
    return True


def _send(sock: ssl.SSLSocket, message: bytes | memoryview) -> None:
    head = len(message).to_bytes(8, "big")
    if len(message) <= SMALL:
        sock.sendall(head + bytes(message))
    else:
        sock.sendall(head)
        sock.sendall(message)


def _load(directory: Path, role: Role) -> Credentials:
    paths = Paths.of(directory, role)
    return Credentials.load(paths.certificate, paths.key, paths.authority)


def serve_sockets(directory: Path, told: Connection) -> None:
    """One connection after the other, each until its client is done."""
    context = _load(directory, SERVER).server_context()
    head, room = memoryview(bytearray(8)), memoryview(bytearray(LARGE))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told.send(listening.getsockname()[1])
        while True:
            plain, _ = listening.accept()
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError), context.wrap_socket(plain, server_side=True) as sock:
                while _read(sock, head):
                    message = room[: int.from_bytes(head, "big")]
                    _read(sock, message)
                    _send(sock, message[: answer_to(len(message))])


@contextmanager
def ask_socket(directory: Path, port: int) -> Iterator[Ask]:
    """A connection to ``serve_sockets``."""
    plain = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head, room = memoryview(bytearray(8)), memoryview(bytearray(SMALL))
    with _load(directory, CLIENT).client_context().wrap_socket(plain) as sock:

        def ask(message: bytes) -> int:
            _send(sock, message)
            _read(sock, head)
            n_bytes = int.from_bytes(head, "big")
            _read(sock, room[:n_bytes])
            return n_bytes

        yield ask


# --- gRPC ------------------------------------------------------------------------------------------------------------

_METHOD = "/torchveil.Bench/Stream"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def _pem(directory: Path, role: Role) -> tuple[bytes, bytes, bytes]:
    """Key, certificate and authority; of the key file's two keys the one for TLS."""
    paths = Paths.of(directory, role)
    end = b"-----END PRIVATE KEY-----\n"
    key = paths.key.read_bytes().split(end)[0] + end
    return key, paths.certificate.read_bytes(), paths.authority.read_bytes()


def serve_grpc(directory: Path, told: Connection) -> None:
    """A bidirectional stream of bytes, without protocol buffers."""

    def stream(messages: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        for message in messages:
            yield message[: answer_to(len(message))]

    handler = grpc.stream_stream_rpc_method_handler(stream)
    service, method = _METHOD[1:].split("/")
    key, certificate, authority = _pem(directory, SERVER)
    server = grpc.server(ThreadPoolExecutor(2), options=_OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    secure = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    told.send(server.add_secure_port("127.0.0.1:0", secure))
    server.start()
    server.wait_for_termination()


@contextmanager
def ask_grpc(directory: Path, port: int) -> Iterator[Ask]:
    """A stream to ``serve_grpc``."""
    key, certificate, authority = _pem(directory, CLIENT)
    secure = grpc.ssl_channel_credentials(authority, key, certificate)
    named = [*_OPTIONS, ("grpc.ssl_target_name_override", "localhost")]
    outgoing: SimpleQueue[bytes | None] = SimpleQueue()
    with grpc.secure_channel(f"127.0.0.1:{port}", secure, named) as channel:
        answers = channel.stream_stream(_METHOD)(iter(outgoing.get, None), timeout=10 * TIMEOUT_S)

        def ask(message: bytes) -> int:
            outgoing.put(message)
            return len(next(answers))

        try:
            yield ask
        finally:
            outgoing.put(None)


# --- links -----------------------------------------------------------------------------------------------------------


def serve_links(directory: Path, told: Connection) -> None:
    """One link after the other, each until its client is done."""
    context = _load(directory, SERVER).server_context()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told.send(listening.getsockname()[1])
        while True:
            hub, link = Hub(), Link(accept_tls(listening.accept()[0], context, TIMEOUT_S), CLIENT)
            hub.add(link)
            with suppress(PeerLost):
                while True:
                    message = hub.receive(link, TIMEOUT_S, "a message").received
                    hub.post(link, Frame(0, body=message[: answer_to(len(message))]))
            hub.close()


@contextmanager
def ask_link(directory: Path, port: int) -> Iterator[Ask]:
    """A link to ``serve_links``."""
    context = _load(directory, CLIENT).client_context()
    hub, link = Hub(), Link(connect(f"127.0.0.1:{port}", context, TIMEOUT_S), SERVER)
    hub.add(link)

    def ask(message: bytes) -> int:
        hub.post(link, Frame(0, body=message))
        return len(hub.receive(link, TIMEOUT_S, "an answer").received)

    try:
        yield ask
    finally:
        hub.close()


# --- all ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One way to connect, its server and its client, and whether it sets up TLS in a way of its own."""

    name: str
    serve: Callable[[Path, Connection], None]
    connect: Callable[[Path, int], Any]
    own_tls: bool = True


WAYS = (
    Way("sockets, standard library", serve_sockets, ask_socket),
    *([Way(f"gRPC stream, grpcio {grpc.__version__}", serve_grpc, ask_grpc)] if grpc else []),
    Way("links of ours, on such sockets", serve_links, ask_link, own_tls=False),
)


@contextmanager
def serving(way: Way, directory: Path) -> Iterator[int]:
    """The port of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=way.serve, args=(directory, there), daemon=True)
    process.start()
    try:
        if not here.poll(TIMEOUT_S):
            raise TimeoutError(f"{way.name}: the server does not start")
        yield here.recv()
    finally:
        process.kill()
        process.join(TIMEOUT_S)


def turn(ask: Ask, n_bytes: int, messages: int, warm: int) -> list[float]:
    """Seconds of each of ``messages`` questions with their answers."""
    message = bytes(n_bytes)
    out = []
    for _ in range(warm + messages):
        begin = time.perf_counter()
        got = ask(message)
        out.append(time.perf_counter() - begin)
        if got != answer_to(n_bytes):
            raise RuntimeError("an answer is not as long as it should be")
    return out[warm:]


def measure(directory: Path, ports: dict[str, int], repeats: int) -> list[list[str]]:
    """The rows of the table: medians over all messages of all turns."""
    small: dict[str, list[float]] = {way.name: [] for way in WAYS}
    large: dict[str, list[float]] = {way.name: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            with way.connect(directory, ports[way.name]) as ask:
                small[way.name] += turn(ask, SMALL, PINGS, WARM)
                large[way.name] += turn(ask, LARGE, LOADS, 2)
    rows = []
    for way in WAYS:
        trip, load = statistics.median(small[way.name]), statistics.median(large[way.name])
        worst = statistics.quantiles(small[way.name], n=100)[-1]
        cells = (
            f"{trip * 1e6:.0f} µs",
            f"{worst * 1e6:.0f} µs",
            f"{load * 1e3:.1f} ms",
            f"{LARGE / load / 1e9:.2f} GB/s",
        )
        rows.append([way.name, *cells])
    return rows


# --- older versions of TLS -------------------------------------------------------------------------------------------

_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # preface, empty settings


def offer(directory: Path, port: int, version: ssl.TLSVersion) -> str:
    """What a server with a certificate asked for answers to a client with a good one that speaks ``version`` alone."""
    paths = Paths.of(directory, CLIENT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(paths.authority)
    context.load_cert_chain(paths.certificate, paths.key)
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # or OpenSSL itself would not speak the old ones
    context.set_alpn_protocols(["h2"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    try:
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), TIMEOUT_S)) as sock:
            ours = sock.selected_alpn_protocol() is None  # gRPC's server chose HTTP/2
            sock.sendall(SMALL.to_bytes(8, "big") + bytes(SMALL) if ours else _HTTP2)
            return "accepted" if sock.recv(1) else "refused"
    except OSError:
        return "refused"


def versions(directory: Path, ports: dict[str, int]) -> list[list[str]]:
    """The rows of the second table."""
    offered = {"TLS 1.1": ssl.TLSVersion.TLSv1_1, "TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}
    return [
        [name, *(offer(directory, ports[way.name], old) for way in WAYS if way.own_tls)]
        for name, old in offered.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, or write into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    with certificates() as directory, ExitStack() as servers:
        ports = {way.name: servers.enter_context(serving(way, directory)) for way in WAYS}
        rows, accepted = measure(directory, ports, options.repeats), versions(directory, ports)
    machine = f"{processor()}, {os.cpu_count()} cores, load average {load:.1f} to {os.getloadavg()[0]:.1f}"
    taken = f"{options.repeats} turns of {PINGS} small and {LOADS} large messages each"
    head = "", "64 B and back, median", "99th percentile", "8 MB, median", "rate"
    blocks = {
        "connections": f"{machine}, {ssl.OPENSSL_VERSION}; {taken}:\n\n{markdown(head, rows)}",
        "versions": markdown(("a client of", *(way.name for way in WAYS if way.own_tls)), accepted),
    }
    print("\n\n".join(blocks.values()))
    if options.page:
        PAGE.write_text(insert(PAGE.read_text(), blocks.get))


if __name__ == "__main__":
    main()
