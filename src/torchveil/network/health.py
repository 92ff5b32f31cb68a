"""What a daemon says of itself, and measures on request: the services ``status``, ``probe`` and ``measure``.

    status    who I am, what I run, how much I did: ``StatusReply``
    probe     take these bytes and send that many back, with your clock: ``ProbeReply``
    measure   probe those peers yourself and say what you saw: ``MeasureReply``

Any role with a certificate of the cluster may ask; what it learns are the counts that ``metrics`` shows. A handler is
``handler(context, peer, request, body)`` and returns the reply; both are bytes of msgpack, ``body`` is not used. They
block (``measure`` for seconds), so a daemon calls them off the threads of its sessions.

A reply is checked as strictly as a request: its texts are printed on an operator's terminal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

from torchveil.errors import LimitExceeded, MalformedMessage, TorchveilError
from torchveil.network.metrics import Metrics, resident_bytes

#: Texts of a role: short, and without anything that moves a terminal's cursor.
Word = Annotated[str, Meta(max_length=128, pattern=r"^[A-Za-z0-9_.:/+\[\]-]*\Z")]
Line = Annotated[str, Meta(max_length=300, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]

PAYLOAD_BYTES = 1 << 20
MAX_PEERS = 64
_ECHOES = 7
_PAYLOADS = 3

S = TypeVar("S", bound=Struct)


class StatusRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Who are you and how are you?"""


class StatusReply(Struct, frozen=True, forbid_unknown_fields=True):
    """A daemon at one moment; counts since it started, times in seconds since 1970.

    config_digest: of the cluster's description; equal at all roles that can work together.
    """

    role: Word
    version: Word
    config_digest: Word
    time_s: Seconds
    started_at_s: Seconds
    certificate_expires_at_s: Seconds
    sessions: int
    sessions_opened: Count
    wires: int
    rounds: Count
    instructions: Count
    sent_bytes: Count
    received_bytes: Count
    dealt_bytes: Count
    reveals: Count
    refusals: Count
    memory_bytes: Count
    last_code: Word


class ProbeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """``payload`` goes one way, ``reply_bytes`` zeros come back."""

    payload: Annotated[bytes, Meta(max_length=PAYLOAD_BYTES)] = b""
    reply_bytes: Annotated[int, Meta(ge=0, le=PAYLOAD_BYTES)] = 0


class ProbeReply(Struct, frozen=True, forbid_unknown_fields=True):
    """The answering role's clock, in seconds since 1970, and the bytes asked for."""

    time_s: Seconds
    payload: Annotated[bytes, Meta(max_length=PAYLOAD_BYTES)]


class MeasureRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The peers to measure, ``kind/name``."""

    peers: Annotated[list[Word], Meta(max_length=MAX_PEERS)]


class Link(Struct, frozen=True, forbid_unknown_fields=True):
    """What one role saw of its way to ``peer``, or the error that it met.

    round_trip_s: the shortest of several small questions; sent_bytes_per_s: of one mebibyte going there, at best.
    clock_ahead_s: by how much the peer's clock is ahead, right within half a round trip.
    """

    peer: Word
    round_trip_s: Seconds = 0.0
    sent_bytes_per_s: Seconds = 0.0
    clock_ahead_s: float = 0.0
    code: Word = ""
    message: Line = ""

    @property
    def one_way_s(self) -> float:
        """Half a round trip."""
        return self.round_trip_s / 2


class MeasureReply(Struct, frozen=True, forbid_unknown_fields=True):
    """One link per peer asked for, in that order."""

    links: Annotated[list[Link], Meta(max_length=MAX_PEERS)]


class Call(Protocol):
    """Asks a service of the daemon at an address and waits for the answer; raises our errors.

    ``credentials`` say who asks. It should keep the connection to an address open between calls: measured latency would
    otherwise hold the start of a connection.
    """

    def __call__(self, address: str, credentials: Any, service_name: str, request: bytes) -> bytes: ...


class Context(Protocol):
    """What a daemon lets its handlers use. ``peers``: address by role, of the whole cluster."""

    role: str
    version: str
    config_digest: str
    certificate_expires_at_s: float
    metrics: Metrics
    peers: Mapping[str, str]
    credentials: Any
    call: Call


# --- asking ----------------------------------------------------------------------------------------------------------


def read(kind: type[S], data: bytes | memoryview) -> S:
    """Bytes from outside as a struct. Raises ``MalformedMessage``, which quotes nothing of them."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedMessage(f"what came is no {kind.__name__}", remedy="run the same version everywhere") from None


def ask_status(call: Call, address: str, credentials: Any) -> StatusReply:
    """The status of the daemon at an address."""
    return read(StatusReply, call(address, credentials, "status", msgspec.msgpack.encode(StatusRequest())))


def ask_measure(call: Call, address: str, credentials: Any, peers: Iterable[str]) -> list[Link]:
    """What the daemon at an address sees of its ways to ``peers``. Raises ``MalformedMessage`` for other peers."""
    asked = list(peers)
    reply = read(MeasureReply, call(address, credentials, "measure", msgspec.msgpack.encode(MeasureRequest(asked))))
    if [link.peer for link in reply.links] != asked:
        raise MalformedMessage("a role measured other peers than asked for", remedy="run the same version everywhere")
    return reply.links


def measure_link(call: Call, peer: str, address: str, credentials: Any) -> Link:
    """Latency, bandwidth and clock of the way to ``peer``; about 3 MiB go there. An error of ours becomes its code."""
    try:
        return _measured(call, peer, address, credentials)
    except TorchveilError as error:
        return Link(peer, code=error.code, message=one_line(error))


def one_line(error: TorchveilError) -> str:
    """What an error says, without its code, in one line that a terminal shows as it is."""
    text = str(error).partition("\n")[0].removeprefix(f"[{error.code}] ")[:300]
    return "".join(character if character.isprintable() else "?" for character in text)


def _measured(call: Call, peer: str, address: str, credentials: Any) -> Link:
    def took(request: bytes) -> tuple[float, float]:
        """Seconds, and by how much the other clock is ahead."""
        wall, began = time.time(), time.perf_counter()
        reply = read(ProbeReply, call(address, credentials, "probe", request))
        seconds = time.perf_counter() - began
        return seconds, reply.time_s - (wall + seconds / 2)

    small, large = (msgspec.msgpack.encode(ProbeRequest(bytes(n))) for n in (0, PAYLOAD_BYTES))
    took(small)  # opens the connection
    round_trip_s, ahead_s = min(took(small) for _ in range(_ECHOES))
    # slow start spoils the first on a long way; what a round trip takes anyway is no transfer
    transfers = [max(took(large)[0] - round_trip_s, 1e-9) for _ in range(_PAYLOADS)]
    return Link(peer, round_trip_s, PAYLOAD_BYTES / min(transfers), ahead_s)


# --- answering -------------------------------------------------------------------------------------------------------


def answer_status(context: Context, _peer: Any, request: bytes, _body: Any = b"") -> bytes:
    """The service ``status``."""
    read(StatusRequest, request)
    now = context.metrics.totals()
    reply = StatusReply(
        role=context.role,
        version=context.version,
        config_digest=context.config_digest,
        time_s=time.time(),
        started_at_s=context.metrics.started_at,
        certificate_expires_at_s=context.certificate_expires_at_s,
        sessions=now.sessions,
        sessions_opened=now.sessions_opened,
        wires=now.wires,
        rounds=now.rounds,
        instructions=now.instructions,
        sent_bytes=now.sent_bytes,
        received_bytes=now.received_bytes,
        dealt_bytes=now.dealt_bytes,
        reveals=now.reveals,
        refusals=now.refusals,
        memory_bytes=resident_bytes(),
        last_code=now.last_code,
    )
    return msgspec.msgpack.encode(reply)


def answer_probe(_context: Context, _peer: Any, request: bytes, _body: Any = b"") -> bytes:
    """The service ``probe``."""
    asked = read(ProbeRequest, request)
    return msgspec.msgpack.encode(ProbeReply(time.time(), bytes(asked.reply_bytes)))


_measuring = threading.Lock()


def answer_measure(context: Context, _peer: Any, request: bytes, _body: Any = b"") -> bytes:
    """The service ``measure``: probes peers of the cluster's description, nobody else, one request at a time.

    Raises ``LimitExceeded`` while another one is measured, ``MalformedMessage`` for a name that is no peer.
    """
    asked = read(MeasureRequest, request).peers
    if not set(asked) <= context.peers.keys():
        raise MalformedMessage("asked to measure a role that is not of this cluster", remedy="compare cluster.toml")
    if not _measuring.acquire(blocking=False):
        raise LimitExceeded("this role is measuring already", remedy="ask again in a few seconds")
    try:
        links = [measure_link(context.call, peer, context.peers[peer], context.credentials) for peer in asked]
    finally:
        _measuring.release()
    return msgspec.msgpack.encode(MeasureReply(links))


#: What a daemon answers with: service -> handler.
SERVICES = MappingProxyType({"status": answer_status, "probe": answer_probe, "measure": answer_measure})
