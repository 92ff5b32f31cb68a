"""How a session opens: who connects to whom, what they tell each other, keys.

    1. The controller connects to every role: HELLO with a ticket, its public half; WELCOME with theirs.
    2. It tells every role everybody's contribution to the session id: BEGIN. A role finds its own among them, so the id
       is fresh, whatever the controller did.
    3. Roles connect to each other, a party to every party before it and to the provider: HELLO with the ticket and
       their public half, WELCOME. Whoever is at the other end must be the role that its certificate says, be expected
       in this session, and have contributed what the controller said.
    4. READY with the session id, from every role to the controller.

Every public half comes over the connection of the two roles that will share keys. From here on every frame carries the
session's id. Whoever fails before it has agreed on one says so without (``Link.agree``).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import msgspec

from torchveil.errors import (
    DeadlineExceeded,
    Desynchronised,
    MalformedMessage,
    NetworkError,
    PeerRejected,
    TorchveilError,
)
from torchveil.network import messages as m
from torchveil.network.certificates import Credentials, Identity, peer_role
from torchveil.network.config import ClusterConfig, Limits
from torchveil.network.framing import Frame
from torchveil.network.framing import Limits as FrameLimits
from torchveil.network.group import group_key, in_lane, lane_of, rank_name
from torchveil.network.heartbeat import Heartbeat
from torchveil.network.links import Hub, Link, blamed, connect
from torchveil.network.names import Role
from torchveil.randomness import os_bytes
from torchveil.roles.keys import Identity as KeyPair
from torchveil.roles.keys import PublicHalf, agree_session_id
from torchveil.version import VERSION

#: How long, after a connection broke or was refused, to listen for what others know of it.
_REASONS_S = 0.3

#: How much longer than a role a controller waits: a role that waits in vain itself knows better for whom.
_MARGIN_S = 1.0

#: How often somebody who waits for a connection looks after the links that stand.
_LOOK_S = 0.02

#: How long a session that fails tries to tell others why, and then waits for them to have heard.
LAST_WORDS_S = 0.5


#: What a connection between ranks of one role is for.
GROUP = "group"

_SAME_VERSION = "install the same version of torchveil everywhere"

#: What a connection takes before it has said what it is for: a hello.
STRANGER = FrameLimits(meta=4096, body=0, queued=4096)

T = TypeVar("T")

_EMPTY = (
    m.Kind.HELLO,
    m.Kind.WELCOME,
    m.Kind.BEGIN,
    m.Kind.READY,
    m.Kind.PROGRESS,
    m.Kind.WAITING,
    m.Kind.ALIVE,
    m.Kind.ABORT,
)
_NO_BODY = dict.fromkeys(map(int, _EMPTY), 0)


def frame_limits(limits: Limits, *, question: int = 0) -> FrameLimits:
    """What a link takes. Streams of instructions and descriptions are larger than other structs.

    question: bytes of the largest body that a question may bring along on this link; in a session nobody asks any.
    """
    return FrameLimits(meta=1 << 24, body=limits.body, kinds={**_NO_BODY, int(m.Kind.REQUEST): question})


def abort_raises(link: Link, frame: Frame) -> bool:
    """For ``Hub.urgent``: the end of a session is heard at once, whoever is awaited."""
    if frame.kind == m.Kind.ABORT:
        failure = m.parse(frame, m.Failure)
        lane = lane_of(link)
        if lane is not None:  # what it names are machines of its lane, and instructions of another program
            role, at_fault = in_lane(failure.role, lane), in_lane(failure.at_fault or failure.role, lane)
            failure = msgspec.structs.replace(failure, role=role, at_fault=at_fault, number=None)
        raise m.told(failure)
    return False


def heed(link: Link, frame: Frame) -> bool:
    """For ``Hub.urgent`` in a session: as ``abort_raises``, and notes whom the other end waits for, or that it runs."""
    if frame.kind == m.Kind.ALIVE:
        if frame.meta:
            raise blamed(MalformedMessage(f"{link.peer} says more than that it runs"), link)
        return True
    if frame.kind == m.Kind.WAITING:
        link.waits_for, link.waits_at = m.parse(frame, m.Waits).peer, frame.number
        lane = lane_of(link)
        if lane is not None and link.waits_for:
            link.waits_for, link.waits_at = in_lane(link.waits_for, lane), 0
        return True
    return abort_raises(link, frame)


def attend(hub: Hub, deadline_s: float) -> None:
    """From here on a wait of half of the deadline is told to the others, in time before their own deadline.

    For roles. A controller that waits has sent all that it has: whoever waits for it then has lost its connection.
    """

    def tell(whom: str) -> None:
        frame = m.message_of(m.Kind.WAITING, m.Waits(whom), number=hub.position())
        for link in hub.links:
            if str(link.peer) != whom and link.queued < link.limits.queued:
                with suppress(TorchveilError):  # a link that broke is found by who waits
                    hub.post(link, frame, "waiting")

    hub.on_wait = tell
    hub.notice_s = deadline_s / 2


@dataclass(slots=True)
class Opened:
    """A session's links and keys. ``halves``: parties in order, provider, controller.

    ``ranks``: links to the other ranks of this party, by rank, if the controller opened a session in every lane.
    ``heartbeat``: the controller's, which runs.
    """

    hub: Hub
    session_id: bytes
    keys: KeyPair
    halves: tuple[PublicHalf, ...]
    control: Link | None = None
    parties: dict[int, Link] | None = None
    provider: Link | None = None
    ranks: dict[int, Link] | None = None
    heartbeat: Heartbeat | None = None

    def links(self) -> dict[int, Link]:
        """The links to parties, by rank."""
        return self.parties or {}

    def need(self, part: T | None) -> T:
        if part is None:
            raise Desynchronised("a link is missing")
        return part


def dial(
    address: str,
    role: Role,
    credentials: Credentials,
    cluster: ClusterConfig,
    hello: m.Hello,
    limits: Limits,
    *,
    question: int = 0,
) -> tuple[Link, Identity, m.Welcome]:
    """Connect to a role, say hello, hear welcome. The link belongs to no hub yet. ``question``: see ``frame_limits``.

    Raises ``PeerLost``, ``DeadlineExceeded``, ``PeerRejected`` when somebody else than ``role`` answers, and whatever
    the other end says.
    """
    try:
        sock = connect(address, credentials.client_context(), limits.handshake_s)
    except NetworkError as error:
        raise type(error)(f"{role}: {error.message}", remedy=error.remedy, at_fault=str(role)) from error
    hub = Hub(timeout_s=limits.handshake_s)
    try:
        identity = peer_role(sock, cluster.name)
        if identity.role != role:
            raise PeerRejected(
                f"{identity.role} answers at the address of {role}", remedy="check the addresses in the cluster's file"
            )
        link = Link(sock, identity.role, frame_limits(limits, question=question))
        hub.add(link)
        hub.post(link, m.message_of(m.Kind.HELLO, hello))
        welcome = m.parse(hub.receive(link, limits.handshake_s, f"the welcome of {role}"), m.Welcome)
        _require_version(welcome.version, str(role))
        hub.remove(link)
    except BaseException:
        sock.close()
        raise
    finally:
        hub.close()
    return link, identity, welcome


def hello_of(
    cluster: ClusterConfig, purpose: str, ticket: bytes = b"", half: PublicHalf | None = None, group: bytes = b""
) -> m.Hello:
    """What this end says first."""
    key, contribution = (half.key, half.contribution) if half is not None else (b"", b"")
    return m.Hello(
        m.PROTOCOL, VERSION, cluster.digest(), purpose, ticket, key, contribution, lane=cluster.lane, group=group
    )


def check_hello(hello: m.Hello, cluster: ClusterConfig) -> None:
    """Raise ``PeerRejected`` unless the other end speaks this protocol about this cluster, and is of this version."""
    if hello.protocol != m.PROTOCOL:
        raise PeerRejected(
            f"the other end speaks protocol {hello.protocol} (version {hello.version}), this one {m.PROTOCOL} "
            f"(version {VERSION})",
            remedy=_SAME_VERSION,
        )
    _require_version(hello.version)
    if hello.cluster != cluster.digest():
        raise PeerRejected(
            "the other end has another cluster file: names, their order, authority or deadline differ",
            remedy="give every role the same cluster.toml and ca.pem",
        )
    if hello.lane != cluster.lane and hello.purpose != GROUP:
        raise PeerRejected(
            f"rank {hello.lane} of the other end came to rank {cluster.lane} of this role",
            remedy="name the addresses of all roles in the order of their ranks, in every file",
        )


def _require_version(theirs: str, whom: str = "") -> None:
    """Two versions may carry out one instruction differently, though they understand each other."""
    if theirs != VERSION:
        raise PeerRejected(
            f"{whom or 'the other end'} runs version {theirs} of torchveil, this one {VERSION}",
            remedy=_SAME_VERSION,
            at_fault=whom,
        )


def open_as_controller(cluster: ClusterConfig, credentials: Credentials, limits: Limits, group: bytes = b"") -> Opened:
    """Open a session with all roles of the cluster. Raises what a connection raises; nothing stays open then.

    group: 16 bytes that the controller's ranks agreed on, if every one of them opens a session, in a lane of its own.
    """
    keys = KeyPair(str(credentials.role))
    ticket = os_bytes(16)
    hub = Hub(timeout_s=limits.deadline_s)
    hub.urgent = heed
    links: list[Link] = []
    halves: list[PublicHalf] = []
    heartbeat = Heartbeat(hub, limits.deadline_s)
    with heartbeat.turn:
        try:
            for role, address in cluster.addresses.items():
                hello = hello_of(cluster, "session", ticket, keys.half, group)
                link, _, welcome = dial(address, role, credentials, cluster, hello, limits)
                hub.add(link)
                links.append(link)
                halves.append(PublicHalf(str(role), welcome.key, welcome.contribution))
            halves.append(keys.half)
            session_id = agree_session_id(halves)
            begin = m.Begin(tuple(half.contribution for half in halves))
            for link in links:
                hub.post(link, m.message_of(m.Kind.BEGIN, begin))
            for link in links:
                link.agree(session_id)
            _until_ready(hub, links, heartbeat, session_id, 2 * limits.handshake_s + _MARGIN_S)
        except BaseException as error:
            heartbeat.stop()
            refuse(hub, error, str(credentials.role))
            raise
    *parties, provider = links
    return Opened(hub, session_id, keys, tuple(halves), None, dict(enumerate(parties)), provider, heartbeat=heartbeat)


def _until_ready(hub: Hub, links: Sequence[Link], heartbeat: Heartbeat, session_id: bytes, timeout_s: float) -> None:
    """Until every role is. One that is ready waits for instructions, so it has to hear that the controller runs."""
    missing = list(links)
    while missing:
        names = ", ".join(str(link.peer) for link in missing)
        link, frame = hub.receive_any(missing, timeout_s, f"{names} to be ready")
        if m.parse(frame, m.Ready).session != session_id:
            raise Desynchronised(f"{link.peer} agreed on another session")
        missing.remove(link)
        heartbeat.links.append(link)


#: A connection of another role to a session of this one: its link, who it is, what it said.
Arrival = tuple[Link, Identity, m.Hello]


class Waiting:
    """A session that is being opened at a role; the daemon brings it the connections of others (``arrive``)."""

    def __init__(
        self,
        role: Role,
        cluster: ClusterConfig,
        credentials: Credentials,
        limits: Limits,
        group: Sequence[str] = (),
    ) -> None:
        self.role = role
        self.cluster = cluster
        self.credentials = credentials
        self.limits = limits
        #: where the ranks of this role listen for each other
        self.group = group
        self.keys = KeyPair(str(role))
        self.order = list(cluster.addresses)
        #: the session's links, once it is being opened; other threads may cancel it
        self.hub: Hub | None = None
        self._arrived: queue.Queue[Arrival] = queue.Queue(len(self.order) + 1)
        self._ranks: queue.Queue[Arrival] = queue.Queue(cluster.lanes)
        self._over = False
        self._lock = threading.Lock()

    def arrive(self, arrival: Arrival) -> None:
        """From another thread: a role connected for this session. Raises ``PeerRejected`` if nobody waits for it."""
        with self._lock:
            if self._over:
                raise PeerRejected("the session is open, or could not be opened", remedy="open a new session")
            try:
                (self._ranks if arrival[2].purpose == GROUP else self._arrived).put_nowait(arrival)
            except queue.Full:
                raise PeerRejected("more connections for a session than it has roles") from None

    def open(self, control: Link, controller: Identity, hello: m.Hello) -> Opened:
        """Open the session that ``hello`` asked for."""
        self.hub = hub = Hub(timeout_s=self.limits.deadline_s)
        hub.urgent = heed
        hub.add(control)
        try:
            return self._open(hub, control, PublicHalf(str(controller.role), hello.key, hello.contribution), hello)
        except BaseException as error:
            refuse(hub, error, str(self.role))
            raise
        finally:
            self._end()

    def _end(self) -> None:
        """Nobody is waited for any more; who came all the same goes."""
        with self._lock:
            self._over = True
            for arrived in (self._arrived, self._ranks):
                while not arrived.empty():
                    arrived.get_nowait()[0].close()

    def _open(self, hub: Hub, control: Link, controller: PublicHalf, hello: m.Hello) -> Opened:
        mine = self.keys.half
        hub.post(control, m.message_of(m.Kind.WELCOME, m.Welcome(VERSION, mine.key, mine.contribution)))
        begin = m.parse(hub.receive(control, 2 * self.limits.handshake_s, "the session to begin"), m.Begin)
        contributions = begin.contributions
        own = self.order.index(self.role)
        if len(contributions) != len(self.order) + 1 or contributions[own] != mine.contribution:
            raise PeerRejected("a session id without this role's own contribution")
        if contributions[-1] != controller.contribution or len(set(contributions)) != len(contributions):
            raise PeerRejected("a session id with somebody else's contribution")
        session_id = agree_session_id([PublicHalf("", b"", part) for part in contributions])
        control.agree(session_id)
        links: dict[Role, Link] = {}
        halves: dict[Role, PublicHalf] = {self.role: mine}
        for rank, role in enumerate(self.order):
            if role == self.role or not self._dials(own, rank):
                continue
            address = self.cluster.addresses[role]
            said = hello_of(self.cluster, "link", hello.ticket, mine)
            link, welcome = self._dial(hub, address, role, said)
            hub.add(link)
            self._accept(link, role, PublicHalf(str(role), welcome.key, welcome.contribution), links, halves, begin)
            link.agree(session_id)
        self._wait(hub, links, halves, begin, session_id)
        ranks = None
        if hello.group and self.role.kind == "party":
            ranks = self._meet(hub, group_key(hello.group, controller.name))
        hub.post(control, m.message_of(m.Kind.READY, m.Ready(session_id)))
        attend(hub, self.limits.deadline_s)
        parties = {
            rank: links[role] for rank, role in enumerate(self.order) if role.kind == "party" and role != self.role
        }
        provider = links.get(self.order[-1])
        return Opened(
            hub,
            session_id,
            self.keys,
            (*(halves[role] for role in self.order), controller),
            control,
            parties,
            provider,
            ranks,
        )

    def _dials(self, own: int, other: int) -> bool:
        """Whether this role connects to the other: parties to those before them and to the provider."""
        last = len(self.order) - 1
        return own != last and (other < own or other == last)

    def _dial(self, hub: Hub, address: str, role: Role, said: m.Hello) -> tuple[Link, m.Welcome]:
        """Connect to a role that is being waited for; if it turns this one away, what others know of that."""
        try:
            link, _, welcome = dial(address, role, self.credentials, self.cluster, said, self.limits)
        except NetworkError as error:
            raise reason(hub, error) from None
        return link, welcome

    def _accept(
        self,
        link: Link,
        role: Role,
        half: PublicHalf,
        links: dict[Role, Link],
        halves: dict[Role, PublicHalf],
        begin: m.Begin,
    ) -> None:
        if role not in self.order or role in links or role == self.role:
            raise PeerRejected(f"{role} connected twice, or is no role of this session")
        if half.contribution != begin.contributions[self.order.index(role)]:
            raise PeerRejected(f"{role} contributed something else than the controller said")
        links[role] = link
        halves[role] = half

    def _wait(
        self,
        hub: Hub,
        links: dict[Role, Link],
        halves: dict[Role, PublicHalf],
        begin: m.Begin,
        session_id: bytes,
    ) -> None:
        """Until every role that connects to this one has come."""
        ends = monotonic() + 2 * self.limits.handshake_s
        mine = self.keys.half
        while len(links) < len(self.order) - 1:
            missing = [str(role) for role in self.order if role not in links and role != self.role]
            link, identity, hello = self._next(hub, self._arrived, missing, ends)
            hub.add(link)
            half = PublicHalf(str(identity.role), hello.key, hello.contribution)
            self._accept(link, identity.role, half, links, halves, begin)
            hub.post(link, m.message_of(m.Kind.WELCOME, m.Welcome(VERSION, mine.key, mine.contribution)))
            link.agree(session_id)

    def _next(self, hub: Hub, arrived: queue.Queue[Arrival], missing: Sequence[str], ends: float) -> Arrival:
        """The next connection of those that are missing."""
        while True:
            hub.poll("waiting for the other roles")
            try:
                return arrived.get(timeout=_LOOK_S)
            except queue.Empty:
                if monotonic() > ends:
                    raise DeadlineExceeded(
                        f"{', '.join(missing)} did not connect", remedy="see torchveil doctor", at_fault=missing[0]
                    ) from None

    def _meet(self, hub: Hub, key: bytes) -> dict[int, Link]:
        """Links to the other ranks of this role: to those before this one, then from those after it."""
        own, ends = self.cluster.lane, monotonic() + self.limits.handshake_s  # before the controller gives up
        links: dict[int, Link] = {}
        said = hello_of(self.cluster, GROUP, key[:16])
        for lane in range(own):
            link, _ = self._dial(hub, self.group[lane], self.role, said)
            self._take(hub, link, lane, key, links)
        while len(links) < self.cluster.lanes - 1:
            missing = [rank_name(self.role, lane) for lane in range(own + 1, self.cluster.lanes) if lane not in links]
            link, _, hello = self._next(hub, self._ranks, missing, ends)
            if not own < hello.lane < self.cluster.lanes or hello.lane in links:
                link.close()
                raise PeerRejected(
                    f"rank {hello.lane} of {self.role} came to rank {own}, which does not wait for it",
                    remedy="give every rank of a role a number of its own",
                )
            self._take(hub, link, hello.lane, key, links)
            hub.post(link, m.message_of(m.Kind.WELCOME, m.Welcome(VERSION)))
            link.session = key
        return links

    def _take(self, hub: Hub, link: Link, lane: int, key: bytes, links: dict[int, Link]) -> None:
        link.peer = rank_name(self.role, lane)
        link.may_close = True  # a rank of the program that is done closes its session; who dies is told of in its lane
        hub.add(link)
        links[lane] = link
        if lane < self.cluster.lane:
            link.session = key


def reason(hub: Hub, error: TorchveilError) -> TorchveilError:
    """What others tell of a connection that broke or was refused, which may be a deeper cause; ``error`` if they tell
    nothing for a moment."""
    try:
        hub.listen(_REASONS_S)
    except TorchveilError as told:
        return told
    return error


def refuse(hub: Hub, error: BaseException, role: str, number: int | None = None, operation: str = "") -> m.Failure:
    """End a session: tell everybody why, as far as they can still be told, and close."""
    failure = m.told_by(error) or m.failure_of(error, role, number, operation)
    hub.urgent = None
    hub.tell(m.message_of(m.Kind.ABORT, failure))
    with suppress(TorchveilError):
        hub.flush(LAST_WORDS_S, "the end of the session")
    hub.part(LAST_WORDS_S)
    hub.close()
    return failure
