"""What a daemon says of itself, and measures on request: the services ``status``, ``probe`` and ``measure``.

    status    who I am, what I run, how much I did: ``Status``
    probe     take these bytes; your clock: ``ProbeReply``
    measure   probe a peer yourself and say what you saw: ``Link``

Any role with a certificate of the cluster may ask; what it learns are the counts that ``metrics`` shows. ``measure``
sends about 10 MiB to the peer and takes some seconds; a daemon does one at a time.

Latency is measured from a question to its answer on a connection that stands already. Bandwidth comes from the
difference between a large and a small body, so that neither the start of a connection nor TCP's slow start counts.

A reply is checked as strictly as a request: its texts are printed on an operator's terminal.
"""

from __future__ import annotations

import threading
import time
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

from torchveil.errors import LimitExceeded, MalformedMessage, PeerRejected, TorchveilError
from torchveil.network.certificates import Credentials
from torchveil.network.config import RoleConfig
from torchveil.network.metrics import Metrics, resident_bytes
from torchveil.network.names import Role
from torchveil.network.services import Caller, Service
from torchveil.version import VERSION

#: Texts of a role: short, and without anything that moves a terminal's cursor.
Word = Annotated[str, Meta(max_length=128, pattern=r"^[A-Za-z0-9_.:/+\[\]-]*\Z")]
Line = Annotated[str, Meta(max_length=300, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Difference = Annotated[float, Meta(ge=-1e12, le=1e12)]
Speed = Annotated[float, Meta(ge=0, le=1e15)]

LARGE_BYTES, SMALL_BYTES = 4 << 20, 1 << 20
_ECHOES = 5
#: A daemon that is well says so within this; a bandwidth may take as long as any other message.
_STATUS_S = 5.0
_TRANSFERS = 2

S = TypeVar("S", bound=Struct)


class StatusRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Who are you and how are you?"""


class Status(Struct, frozen=True, forbid_unknown_fields=True):
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
    """What comes along as the body is thrown away."""


class ProbeReply(Struct, frozen=True, forbid_unknown_fields=True):
    """The answering role's clock, in seconds since 1970."""

    time_s: Seconds


class MeasureRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The peer to measure, ``kind/name``."""

    peer: Word


class Link(Struct, frozen=True, forbid_unknown_fields=True):
    """What one role saw of its way to ``peer``, or the error that it met.

    round_trip_s: the shortest of several small questions; sent_bytes_per_s: of one mebibyte going there, at best.
    clock_ahead_s: by how much the peer's clock is ahead, right within half a round trip.
    """

    peer: Word
    round_trip_s: Seconds = 0.0
    sent_bytes_per_s: Speed = 0.0
    clock_ahead_s: Difference = 0.0
    code: Word = ""
    message: Line = ""

    @property
    def one_way_s(self) -> float:
        """Half a round trip."""
        return self.round_trip_s / 2


class Ask(Protocol):
    """Asks a service of a role and waits: its result, and the seconds from the question to the answer.

    It holds that the other end is that role, by its certificate, and raises our errors.
    """

    def __call__(self, role: str, service: str, arguments: Struct, body: bytes = b"") -> tuple[bytes, float]: ...


def asking(caller: Caller) -> Ask:
    """Questions over connections of the network."""

    def ask(role: str, service: str, arguments: Struct, body: bytes = b"") -> tuple[bytes, float]:
        timeout_s = _STATUS_S if service == "status" else 0
        result, _, seconds = caller.timed(
            Role.parse(role), service, arguments, [body] if body else (), timeout_s=timeout_s
        )
        return result, seconds

    return ask


# --- asking ----------------------------------------------------------------------------------------------------------


def read(kind: type[S], data: bytes | memoryview) -> S:
    """Bytes from outside as a struct. Raises ``MalformedMessage``, which quotes nothing of them."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedMessage(f"what came is no {kind.__name__}", remedy="run the same version everywhere") from None


def ask_status(ask: Ask, role: str) -> Status:
    """The status of a role. Raises ``PeerRejected`` if what it says of itself is another role."""
    status = read(Status, ask(role, "status", StatusRequest())[0])
    if status.role != role:
        raise PeerRejected(f"{status.role} answers in place of {role}", remedy="correct the address in cluster.toml")
    return status


def ask_measure(ask: Ask, role: str, peer: str) -> Link:
    """What ``role`` sees of its way to ``peer``. An error of ours becomes its code."""
    try:
        link = read(Link, ask(role, "measure", MeasureRequest(peer))[0])
        if link.peer != peer or not (link.code or link.sent_bytes_per_s):
            raise MalformedMessage(f"{role} did not measure its way to {peer}")
    except TorchveilError as error:
        return Link(peer, code=error.code, message=one_line(error))
    return link


def measure_link(ask: Ask, peer: str) -> Link:
    """Latency, bandwidth and clock of the way to ``peer``; about 10 MiB go there. An error of ours becomes its code."""
    try:
        return _measured(ask, peer)
    except TorchveilError as error:
        return Link(peer, code=error.code, message=one_line(error))


def one_line(error: TorchveilError) -> str:
    """What an error says, in one line that a terminal shows as it is."""
    text = error.message.partition("\n")[0][:300]
    return "".join(character if character.isprintable() else "?" for character in text)


def _measured(ask: Ask, peer: str) -> Link:
    def took(body: bytes) -> tuple[float, float]:
        """Seconds, and by how much the other clock is ahead if both ways take the same."""
        result, seconds = ask(peer, "probe", ProbeRequest(), body)
        return seconds, read(ProbeReply, result).time_s - (time.time() - seconds / 2)

    round_trip_s, ahead_s = min(took(b"") for _ in range(_ECHOES))
    small_s, large_s = (min(took(bytes(n))[0] for _ in range(_TRANSFERS)) for n in (SMALL_BYTES, LARGE_BYTES))
    if large_s > small_s:
        return Link(peer, round_trip_s, (LARGE_BYTES - SMALL_BYTES) / (large_s - small_s), ahead_s)
    return Link(peer, round_trip_s, LARGE_BYTES / large_s, ahead_s)  # too noisy to tell them apart


# --- answering -------------------------------------------------------------------------------------------------------


class Context(Protocol):
    """What the handlers ask of a daemon."""

    metrics: Metrics

    @property
    def config(self) -> RoleConfig: ...

    @property
    def credentials(self) -> Credentials: ...


def answer_status(context: Context, _peer: Any, arguments: bytes, _body: Any) -> tuple[Status, tuple[()]]:
    """The service ``status``."""
    read(StatusRequest, arguments)
    now = context.metrics.totals()
    status = Status(
        role=str(context.config.role),
        version=VERSION,
        config_digest=context.config.cluster.digest().hex(),
        time_s=time.time(),
        started_at_s=context.metrics.started_at,
        certificate_expires_at_s=context.credentials.identity.not_after.timestamp(),
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
    return status, ()


def answer_probe(_context: Context, _peer: Any, arguments: bytes, _body: Any) -> tuple[ProbeReply, tuple[()]]:
    """The service ``probe``."""
    read(ProbeRequest, arguments)
    return ProbeReply(time.time()), ()


_measuring = threading.Lock()


def answer_measure(context: Context, _peer: Any, arguments: bytes, _body: Any) -> tuple[Link, tuple[()]]:
    """The service ``measure``: probes a role of the cluster's description, nobody else, one at a time.

    Raises ``LimitExceeded`` while another one is measured, ``MalformedMessage`` for a name that is no peer.
    """
    peer = read(MeasureRequest, arguments).peer
    if peer not in map(str, context.config.cluster.addresses):
        raise MalformedMessage("asked to measure a role that is not of this cluster", remedy="compare cluster.toml")
    if not _measuring.acquire(blocking=False):
        raise LimitExceeded("this role is measuring already", remedy="ask again in a few seconds")
    try:
        return measure_link(asking(Caller(context.config.cluster, context.credentials)), peer), ()
    finally:
        _measuring.release()


#: Rows for the table of services.
HEALTH_SERVICES: dict[str, Service] = {
    "status": Service(answer_status),
    "probe": Service(answer_probe, body=LARGE_BYTES),
    "measure": Service(answer_measure),
}
