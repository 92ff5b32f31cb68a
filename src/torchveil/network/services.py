"""Services: questions to a daemon outside of sessions. One connection, one question, one answer.

A service is a row of ``service_table``: who may ask (kinds of roles), how large its body may be, and a handler
    handler(daemon, peer, arguments, body) -> (result struct or bytes, body)
that raises typed errors, which reach whoever asked. Who asks is known from the certificate, never from the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from torchveil.errors import DeadlineExceeded, InvalidArgument, LimitExceeded, PeerRejected
from torchveil.network import messages as m
from torchveil.network.certificates import Credentials, Identity
from torchveil.network.config import ClusterConfig, Limits
from torchveil.network.framing import Frame
from torchveil.network.framing import Limits as FrameLimits
from torchveil.network.links import Hub, Link
from torchveil.network.names import Role
from torchveil.network.opening import abort_raises, dial, frame_limits, hello_of
from torchveil.version import VERSION

if TYPE_CHECKING:
    from torchveil.network.daemon import Daemon

Body = Sequence[bytes | bytearray | memoryview]
Handler = Callable[["Daemon", Identity, bytes, memoryview], tuple[msgspec.Struct | bytes, Body]]

ANYBODY = ("controller", "owner", "party", "provider")


@dataclass(frozen=True, slots=True)
class Service:
    """A row of the table. ``body``: bytes that a question may bring along."""

    handler: Handler
    who: tuple[str, ...] = ANYBODY
    body: int = 0


def answer(daemon: Daemon, hub: Hub, link: Link, peer: Identity, table: Mapping[str, Service]) -> None:
    """Read a question from a connection, answer it by the table.

    The question has to begin within ``handshake_s`` and to be there within ``deadline_s`` more; its body may be as
    large as that of any service of the table, and then of the one that was asked.
    """
    limits = daemon.config.limits
    link.limits = FrameLimits(body=max(service.body for service in table.values()))
    hub.post(link, m.message_of(m.Kind.WELCOME, m.Welcome(VERSION)))
    frame = _question(hub, link, limits)
    link.limits = frame_limits(limits)
    request = m.parse(frame, m.Request)
    service = table.get(request.service)
    if service is None:
        raise InvalidArgument("there is no such service here", remedy="install the same version everywhere")
    if peer.role.kind not in service.who:
        raise PeerRejected(f"{peer.role} may not ask for {request.service}")
    if len(frame.received) > service.body:
        raise LimitExceeded(f"{request.service} takes {service.body} bytes at most", remedy="send less at once")
    result, body = service.handler(daemon, peer, request.arguments, frame.received)
    data = result if isinstance(result, bytes) else msgspec.msgpack.encode(result)
    hub.post(link, m.message_of(m.Kind.REPLY, m.Reply(data), body=list(body)))
    hub.flush(limits.deadline_s, "the answer")
    link.may_close = True


def _question(hub: Hub, link: Link, limits: Limits) -> Frame:
    before = link.bytes_in
    try:
        return hub.receive(link, limits.handshake_s, "its question")
    except DeadlineExceeded:
        if link.bytes_in == before:
            raise
    return hub.receive(link, limits.deadline_s, "the rest of its question")


@dataclass(frozen=True, slots=True)
class Caller:
    """Asks the daemons of a cluster, as the owner of ``credentials``."""

    cluster: ClusterConfig
    credentials: Credentials

    def call(
        self,
        role: Role,
        service: str,
        arguments: msgspec.Struct | bytes = b"",
        body: Body = (),
        *,
        timeout_s: float = 0,
    ) -> tuple[bytes, memoryview]:
        """(result, body) of a question to a role. Raises what the connection or the other end raises."""
        return self.timed(role, service, arguments, body, timeout_s=timeout_s)[:2]

    def timed(
        self,
        role: Role,
        service: str,
        arguments: msgspec.Struct | bytes = b"",
        body: Body = (),
        *,
        timeout_s: float = 0,
    ) -> tuple[bytes, memoryview, float]:
        """As ``call``, and the seconds from the question to its answer, without those of making the connection."""
        limits = self.cluster.limits
        address = self.cluster.addresses[role]
        hello = hello_of(self.cluster, "service")
        size = sum(len(part) for part in body)
        link, _, _ = dial(address, role, self.credentials, self.cluster, hello, limits, question=size)
        hub = Hub(timeout_s=limits.deadline_s)
        hub.add(link)
        hub.urgent = abort_raises
        try:
            data = arguments if isinstance(arguments, bytes) else msgspec.msgpack.encode(arguments)
            began = perf_counter()
            hub.post(link, m.message_of(m.Kind.REQUEST, m.Request(service, data), body=list(body)))
            frame = hub.receive(link, timeout_s or limits.deadline_s, f"{service} of {role}")
            seconds = perf_counter() - began
            return m.parse(frame, m.Reply).result, frame.received, seconds
        finally:
            hub.close()

    def all_parties(self, service: str, arguments: msgspec.Struct | bytes = b"") -> Mapping[Role, bytes]:
        """The results of all parties, in order."""
        return {role: self.call(role, service, arguments)[0] for role in self.cluster.addresses if role.kind == "party"}
