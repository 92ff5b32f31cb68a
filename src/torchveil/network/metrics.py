"""What a role counts, for Prometheus and for ``torchveil status``: sizes and times, never a value.

Counts are plain integers under one lock, and become metrics only when somebody asks: a call takes less than 2 us.
Labels come from fixed sets (peers of the cluster, gates, codes of errors), so that nobody outside can make new series.

Every number here is public by the rules of the protocol: a role's traffic depends on the program and its shapes only.
They do show who computes how much and when; bind the endpoint to an address that operators alone reach.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from itertools import accumulate
from socket import AF_INET, AF_INET6, SHUT_RDWR, SocketType
from socketserver import TCPServer
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from torchveil import errors
from torchveil.errors import ConfigurationError
from torchveil.gates import GATES
from torchveil.network.names import KINDS

#: Upper ends of the buckets of an exchange's latency, in seconds.
BUCKETS_S = (50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

_GATES = frozenset(gate.name for gate in GATES.values())
_CODES = frozenset(
    kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TorchveilError)
)
_REQUEST_TIMEOUT_S = 2.0
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


class Sending(Protocol):
    """What is asked of a link: to whom it goes, and how many bytes wait to be sent."""

    @property
    def peer(self) -> object: ...

    @property
    def queued(self) -> int: ...


@dataclass(slots=True)
class _Peer:
    """Traffic with one peer. ``latencies``: exchanges by bucket, the last one for what took longer than all."""

    sent: int = 0
    received: int = 0
    seconds: float = 0.0
    latencies: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))


@dataclass(frozen=True, slots=True)
class Totals:
    """The counts of a role since it started, over all sessions and peers."""

    sessions: int
    sessions_opened: int
    wires: int
    rounds: int
    instructions: int
    sent_bytes: int
    received_bytes: int
    dealt_bytes: int
    reveals: int
    refusals: int
    last_code: str


class Metrics(Collector):
    """The counts of one daemon, with a registry of its own. Safe from any thread.

    peers: the roles of the cluster, ``kind/name``; traffic with anybody else is counted under its kind (owners and
    controllers come and go). expires_at_s: when this role's certificate ends, seconds since 1970.
    """

    def __init__(self, peers: Iterable[str] = (), *, expires_at_s: float | None = None) -> None:
        self._expires_at_s = expires_at_s
        self.registry = CollectorRegistry()
        self.started_at = time.time()
        self._lock = threading.Lock()
        self._peers = {peer: _Peer() for peer in peers}
        self._gates: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        self._watched: dict[int, Sequence[Sending]] = {}
        self._refused: dict[str, int] = {}
        self._rounds = self._dealt = self._opened = self._sessions = self._wires = 0
        self._reveals = self._refusals = 0
        self._last_code = ""
        self.registry.register(self)

    # --- counting ----------------------------------------------------------------------------------------------------

    def round(self, n_rounds: int = 1) -> None:
        """Exchanges with all other parties."""
        with self._lock:
            self._rounds += n_rounds

    def exchanged(self, peer: str, n_bytes: int, seconds: float, received: int | None = None) -> None:
        """``n_bytes`` went to ``peer``, and ``seconds`` later ``received`` (the same number if not given) had come."""
        with self._lock:
            counts = self._peers.get(peer) or self._other(peer)
            counts.sent += n_bytes
            counts.received += n_bytes if received is None else received
            counts.seconds += seconds
            counts.latencies[bisect_left(BUCKETS_S, seconds)] += 1

    def sent(self, peer: str, n_bytes: int) -> None:
        """Bytes to a peer outside of exchanges."""
        with self._lock:
            (self._peers.get(peer) or self._other(peer)).sent += n_bytes

    def received(self, peer: str, n_bytes: int) -> None:
        """Bytes from a peer outside of exchanges."""
        with self._lock:
            (self._peers.get(peer) or self._other(peer)).received += n_bytes

    def dealt(self, n_bytes: int) -> None:
        """Corrections: sent by the provider, received by a party."""
        with self._lock:
            self._dealt += n_bytes

    def instruction(self, gate: str) -> None:
        """One instruction done; ``gate`` is its gate's name."""
        self.plan({gate: 1})

    def plan(self, gates: Mapping[str, int]) -> None:
        """A plan was carried out; how many instructions of each gate it has."""
        with self._lock:
            for gate, count in gates.items():
                label = gate if gate in _GATES else "other"
                self._gates[label] = self._gates.get(label, 0) + count

    def session_opened(self) -> None:
        """A session began."""
        with self._lock:
            self._opened += 1
            self._sessions += 1

    def session_ended(self, code: str = "") -> None:
        """A session ended: well, or with an error of this code."""
        with self._lock:
            self._sessions -= 1
            label = code if code in _CODES else "other" if code else ""
            self._ended[label] = self._ended.get(label, 0) + 1
            self._last_code = label or self._last_code

    def connection_refused(self, code: str) -> None:
        """A connection that came to nothing, with the code of the reason: port scans, probes of ports, wrong peers."""
        with self._lock:
            label = code if code in _CODES else "other"
            self._refused[label] = self._refused.get(label, 0) + 1

    def revealed(self) -> None:
        """A share was released for a reveal."""
        with self._lock:
            self._reveals += 1

    def refused(self) -> None:
        """A reveal was refused."""
        with self._lock:
            self._refusals += 1

    @contextmanager
    def watching(self, links: Sequence[Sending]) -> Iterator[None]:
        """In such a block what waits on these links is counted: a session's, as it is whenever somebody asks."""
        with self._lock:
            self._watched[id(links)] = links
        try:
            yield
        finally:
            with self._lock:
                del self._watched[id(links)]

    def wires(self, change: int) -> None:
        """So many wires more (or, negative, fewer) are held; a session that ends takes back what it held."""
        with self._lock:
            self._wires += change

    def _other(self, peer: str) -> _Peer:
        """The counts of a peer's kind, under the lock."""
        return self._peers.setdefault(_kind(peer), _Peer())

    # --- reading -----------------------------------------------------------------------------------------------------

    def totals(self) -> Totals:
        """The counts as one consistent record."""
        with self._lock:
            return Totals(
                sessions=self._sessions,
                sessions_opened=self._opened,
                wires=self._wires,
                rounds=self._rounds,
                instructions=sum(self._gates.values()),
                sent_bytes=sum(peer.sent for peer in self._peers.values()),
                received_bytes=sum(peer.received for peer in self._peers.values()),
                dealt_bytes=self._dealt,
                reveals=self._reveals,
                refusals=self._refusals,
                last_code=self._last_code,
            )

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        now = self.totals()
        with self._lock:
            peers = [(name, _Peer(p.sent, p.received, p.seconds, list(p.latencies))) for name, p in self._peers.items()]
            queued: dict[str, float] = dict.fromkeys(self._peers, 0)
            for link in [link for links in self._watched.values() for link in tuple(links)]:
                whom = str(link.peer)
                label = whom if whom in queued else _kind(whom)
                queued[label] = queued.get(label, 0) + link.queued
            gates, ended, refused = dict(self._gates), dict(self._ended), dict(self._refused)
        yield _counter("rounds", "exchanges with all other parties", {"": now.rounds})
        yield _counter("instructions", "instructions done, by gate", gates, "gate")
        yield _counter("sent_bytes", "bytes sent, by peer", {name: peer.sent for name, peer in peers}, "peer")
        yield _counter(
            "received_bytes", "bytes received, by peer", {name: peer.received for name, peer in peers}, "peer"
        )
        yield _counter("dealt_bytes", "corrections of the provider", {"": now.dealt_bytes})
        yield _counter("sessions_opened", "sessions that began", {"": now.sessions_opened})
        yield _counter("sessions_ended", "sessions that ended; code empty: well", ended, "code")
        yield _counter("connections_refused", "connections that came to nothing, by code", refused, "code")
        yield _counter("reveals", "shares released for a reveal", {"": now.reveals})
        yield _counter("refusals", "reveals refused", {"": now.refusals})
        yield _gauge("sessions", "sessions that are open", {"": now.sessions})
        yield _gauge("wires", "values held", {"": now.wires})
        yield _gauge("queued_bytes", "bytes that wait to be sent, by peer", queued, "peer")
        yield _gauge("resident_memory_bytes", "memory of the process", {"": resident_bytes()})
        yield _gauge("start_time_seconds", "when the daemon started, seconds since 1970", {"": self.started_at})
        if self._expires_at_s is not None:
            yield _gauge(
                "certificate_expiry_seconds", "when the certificate ends, seconds since 1970", {"": self._expires_at_s}
            )
        latency = HistogramMetricFamily(
            "torchveil_exchange_seconds", "from sending to having received, by peer", labels=["peer"]
        )
        ends = [*(f"{end:g}" for end in BUCKETS_S), "+Inf"]
        for name, peer in peers:
            latency.add_metric([name], list(zip(ends, accumulate(peer.latencies), strict=True)), peer.seconds)
        yield latency


def _kind(peer: str) -> str:
    """Under which label traffic with somebody else than the roles of the cluster is counted."""
    kind = peer.partition("/")[0]
    return kind if kind in KINDS else "other"


def resident_bytes() -> int:
    """Memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE_SIZE


def _counter(name: str, text: str, values: dict[str, int], label: str = "") -> CounterMetricFamily:
    family = CounterMetricFamily(f"torchveil_{name}", text, labels=[label] if label else None)
    for value_of, value in values.items():
        family.add_metric([value_of] if label else [], value)
    return family


def _gauge(name: str, text: str, values: dict[str, float], label: str = "") -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"torchveil_{name}", text, labels=[label] if label else None)
    for value_of, value in values.items():
        family.add_metric([value_of] if label else [], value)
    return family


# --- the endpoint ----------------------------------------------------------------------------------------------------


class Endpoint:
    """``GET /metrics`` over plain HTTP on one address, one request at a time, in a thread of its own."""

    def __init__(self, host: str, port: int, text: Callable[[], bytes]) -> None:
        handler = type("_Handler", (_Scrape,), {"text": staticmethod(text)})
        family = AF_INET6 if ":" in host else AF_INET
        kind = type("_Server", (_Server,), {"address_family": family})
        try:
            self._server: TCPServer = kind((host, port), handler, bind_and_activate=False)
            self._server.allow_reuse_address = True
            self._server.server_bind()
            self._server.server_activate()
        except OSError as error:
            raise ConfigurationError(
                f"metrics cannot be served at {host}:{port}: {error.strerror}",
                remedy="name an address of this machine and a free port, or leave metrics out",
            ) from None
        self.address: tuple[str, int] = self._server.server_address[:2]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and close the port; returns when that is done, a request under way included."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(TCPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a client that hung up is no event, and would be printed."""


class _Scrape(BaseHTTPRequestHandler):
    """Answers one request; a client that has not had its answer after two seconds is dropped."""

    timeout = _REQUEST_TIMEOUT_S
    text: Callable[[], bytes]
    request: SocketType

    def handle(self) -> None:
        ends = threading.Timer(self.timeout, self._hang_up)  # the timeout of a socket begins anew with every byte
        ends.daemon = True
        ends.start()
        try:
            super().handle()
        finally:
            ends.cancel()

    def _hang_up(self) -> None:
        with suppress(OSError):
            self.request.shutdown(SHUT_RDWR)

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        body = self.text()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_arguments: object) -> None:
        """Nothing: a scrape is no event."""


def serve(metrics: Metrics, address: str) -> Endpoint:
    """Serve metrics at ``host:port``, ``[ipv6]:port`` or ``:port`` (then at 127.0.0.1); port 0 takes a free one.

    Off unless called. There is no authentication: name an address that operators alone reach. Raises
    ``ConfigurationError`` for an address that is none or cannot be bound.
    """
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(
            f"{address!r} is no address for metrics", remedy="write host:port, as in 127.0.0.1:9464"
        )
    return Endpoint(host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port), metrics.text)
