"""A role's daemon: accepts connections, finds out who they are, brings them to sessions and services. It outlives both.

Who connects has ``handshake_s`` to prove who it is and to say what for; a bounded number of connections may be at
that at a time (``lobby``). A session runs in a thread of its own and has its own links; when it ends,
well or not, nothing of it stays.

What a connection may be for (``purpose``) and who may ask for it:
    session     controllers and owners: be the controller of a new session
    link        roles of the cluster: take part in a session that is being opened here
    group       other ranks of this role, if it is a group: take part in a session that is opened in all lanes
    service     whoever the service is for: one question, one answer
"""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from torchveil.errors import (
    ConsentError,
    InvalidArgument,
    LimitExceeded,
    NetworkError,
    PeerRejected,
    ProtocolError,
    SessionAborted,
    StorageError,
    TorchveilError,
)
from torchveil.network import messages as m
from torchveil.network.certificates import Authority, Credentials, Identity, peer_role
from torchveil.network.config import RoleConfig
from torchveil.network.consent.audit import AuditLog
from torchveil.network.consent.identities import recogniser
from torchveil.network.consent.policy import Consent
from torchveil.network.consent.services import swap_heads
from torchveil.network.consent.session import SessionConsent
from torchveil.network.consent.swapping import Swapping
from torchveil.network.dataset_store import DatasetStore
from torchveil.network.group import Group, group_key, rank_name
from torchveil.network.links import Hub, Link, accept_tls
from torchveil.network.lobby import Lobby, Visit
from torchveil.network.logs import failed, log
from torchveil.network.metrics import Metrics
from torchveil.network.names import Role
from torchveil.network.opening import GROUP, STRANGER, Opened, Waiting, abort_raises, check_hello, frame_limits, refuse
from torchveil.network.party import Keeping, PartySession
from torchveil.network.provider import ProviderSession
from torchveil.network.results import ResultStore
from torchveil.network.role_session import RoleSession
from torchveil.network.service_table import SERVICES
from torchveil.network.services import Caller, answer
from torchveil.roles.keys import party_role, provider_role
from torchveil.roles.party import Party
from torchveil.roles.provider import Provider
from torchveil.storage import Holder, ShareStore, load_or_create_key
from torchveil.storage.files import make_directory
from torchveil.version import VERSION

#: Makes the role of a session of its keys; tests with known streams put another one in.
MakeRole = Callable[[RoleConfig, Opened], Party | Provider]


def make_role(config: RoleConfig, opened: Opened) -> Party | Provider:
    """The role with the streams that follow from a session's keys."""
    *parties, provider, controller = opened.halves
    name = config.role.name
    if config.role.kind == "provider":
        return provider_role(name, opened.keys, parties, opened.session_id, tied=True)
    rank = next(rank for rank, half in enumerate(parties) if half.name == str(config.role))
    keys, session_id = opened.keys, opened.session_id
    return party_role(name, rank, keys, parties, provider, controller, session_id, tied=True)


@dataclass(slots=True)
class Running:
    """A session that is being opened or runs here."""

    controller: str
    waiting: Waiting
    session_id: bytes = b""
    #: by which other ranks of this role find it, if they take part
    meeting: bytes = b""


class Daemon:
    """A party or the provider of a cluster, listening. ``address`` is where; port 0 in the file finds a free one.

    Raises ``ConfigurationError`` or ``CertificateError`` when its files do not fit, ``PeerLost`` when it cannot listen.
    """

    def __init__(self, config: RoleConfig, *, make_role: MakeRole = make_role) -> None:
        self.config = config
        self.credentials = Credentials.load(config.certificate, config.key, config.cluster.authority)
        if self.credentials.role != config.role or self.credentials.cluster != config.cluster.name:
            raise PeerRejected(
                f"the certificate is that of {self.credentials.role}, not of {config.role}",
                remedy="name the certificate of this role in its file",
            )
        ranks = [rank_name(config.role, lane) for lane in range(config.cluster.lanes) if lane != config.cluster.lane]
        self.metrics = Metrics(
            [*map(str, config.cluster.addresses), *ranks], expires_at_s=self.credentials.identity.not_after.timestamp()
        )
        self.state = Path(config.state)
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_role = make_role
        self.keeping: Keeping | None = None
        self._consent: Consent | None = None
        self._swapping = Swapping(self._swap_heads)
        if config.role.kind == "party":
            self._open_stores()
        self._context = self.credentials.server_context()
        self._sessions: dict[bytes, Running] = {}
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._lock = threading.Lock()
        #: told of every session that begins
        self._begun = threading.Condition(self._lock)
        self._stopped = threading.Event()
        #: Set it, from a signal handler say, to have whoever waits for it call ``stop``.
        self.stopping = threading.Event()
        host, _, port = config.listen.rpartition(":")
        try:
            self._socket = socket.create_server((host, int(port)), backlog=128)
        except OSError as error:
            self._close_stores()
            raise PeerRejected(
                f"{config.role} cannot listen at {config.listen}: {error.strerror}", remedy="choose a free address"
            ) from None
        self.address = "{}:{}".format(*self._socket.getsockname()[:2])
        limits = config.limits
        self._lobby = Lobby(
            self._socket,
            limits.connections,
            limits.handshake_s,
            self._greet,
            partial(self.metrics.connection_refused, LimitExceeded.code),
        )

    # --- running -----------------------------------------------------------------------------------------------------

    def start(self) -> Daemon:
        """Begin to accept; returns at once."""
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        if self._consent is not None:
            self._consent.log.append("start")
        log("daemon started", role=str(self.config.role), version=VERSION)
        self._warn()
        self._lobby.start()
        if self._consent is not None:
            self._threads.add(self._swapping.thread)
            self._swapping.thread.start()
        return self

    def _warn(self) -> None:
        """Of a certificate that ends soon, at the start and at every session: a daemon may run for months."""
        own = self.credentials.identity
        if own.ends_soon:
            log("the certificate ends soon", level="warning", role=str(self.config.role), days_left=own.days_left)

    def stop(self) -> None:
        """End all sessions, with an error to those who take part, and stop listening."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self.stopping.set()
        self._swapping.stop()
        with self._begun:
            self._begun.notify_all()
        self._lobby.close()
        with self._lock:
            running = list(self._sessions.values())
        for session in running:
            if session.waiting.hub is not None:
                session.waiting.hub.cancel(
                    SessionAborted(f"{self.config.role} is shutting down", remedy="try again later")
                )
        # also those that write to the log of releases: sessions that ended a moment ago, a swap of heads
        threads = list(self._threads)
        for thread in threads:
            thread.join(5.0)
        if not any(thread.is_alive() for thread in threads):
            self._close_stores()
        log("daemon stopped", role=str(self.config.role))

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()

    @property
    def sessions(self) -> int:
        """How many sessions are open or being opened."""
        with self._lock:
            return len(self._sessions)

    # --- connections -------------------------------------------------------------------------------------------------

    def _greet(self, visit: Visit) -> None:
        """Find out who connected and what for. Never raises: whoever it was is told, as far as possible."""
        limits = self.config.limits
        hub = Hub(timeout_s=limits.handshake_s)
        try:
            ends = monotonic() + limits.handshake_s
            sock = accept_tls(visit.sock, self._context, limits.handshake_s)
            try:
                identity = peer_role(sock, self.config.cluster.name)
                link = Link(sock, identity.role, STRANGER)
            except BaseException:
                sock.close()
                raise
            hub.add(link)
            hello = m.parse(hub.receive(link, max(ends - monotonic(), 0.0), "its hello"), m.Hello)
            check_hello(hello, self.config.cluster)
            visit.known()
            purpose = _PURPOSES.get(hello.purpose)
            if purpose is None:
                raise PeerRejected("a connection for a purpose that is not known")
            purpose(self, hub, link, identity, hello)
        except TorchveilError as error:
            self.metrics.connection_refused(error.code)
            failed("connection refused", error, level="info", role=str(self.config.role))
            refuse(hub, error, str(self.config.role))
        except BaseException as error:
            failed("connection failed", error, role=str(self.config.role))
            refuse(hub, error, str(self.config.role))
        finally:
            hub.close()

    def _serve(self, hub: Hub, link: Link, identity: Identity, _hello: m.Hello) -> None:
        """One question, one answer."""
        if self.keeping is not None and identity.role.kind == "owner":
            self.keeping.results.meet(identity)
        answer(self, hub, link, identity, SERVICES[self.config.role.kind])

    def _join(self, hub: Hub, link: Link, identity: Identity, hello: m.Hello) -> None:
        """A role of the cluster joins a session that is being opened."""
        if identity.role not in self.config.cluster.addresses:
            raise PeerRejected(f"{identity.role} takes part in no session")
        with self._lock:
            session = self._sessions.get(hello.ticket)
        if session is None or session.session_id:
            raise PeerRejected("there is no session of this ticket that waits for anybody")
        self._hand_over(hub, link, identity, hello, session)

    def _hand_over(self, hub: Hub, link: Link, identity: Identity, hello: m.Hello, session: Running) -> None:
        """A connection goes from the lobby to a session that waits for it."""
        hub.remove(link)
        link.limits = frame_limits(self.config.limits)
        try:
            session.waiting.arrive((link, identity, hello))
        except BaseException:
            hub.add(link)
            raise

    def _join_rank(self, hub: Hub, link: Link, identity: Identity, hello: m.Hello) -> None:
        """Another rank of this role joins; the controller's connection may reach this rank a little later."""
        if identity.role != self.config.role or identity.role.kind != "party":
            raise PeerRejected(f"{identity.role} is no rank of {self.config.role}")

        def found() -> Running | None:
            return next((session for session in self._sessions.values() if session.meeting == hello.ticket), None)

        with self._begun:
            self._begun.wait_for(lambda: found() or self._stopped.is_set(), self.config.limits.handshake_s)
            session = found()
        if session is None or len(hello.ticket) != 16:
            raise PeerRejected(
                "no session here waits for other ranks", remedy="open the session on every rank at the same time"
            )
        self._hand_over(hub, link, identity, hello, session)

    def _open(self, hub: Hub, link: Link, identity: Identity, hello: m.Hello) -> None:
        """A controller opens a session."""
        if identity.role.kind not in ("controller", "owner"):
            raise PeerRejected(f"{identity.role} may not open sessions", remedy="use a controller's certificate")
        config = self.config
        if hello.group and (len(hello.group) != 16 or config.cluster.lanes == 1):
            raise PeerRejected(
                "a session of several ranks", remedy="name the addresses of all ranks in the cluster's file"
            )
        waiting = Waiting(config.role, config.cluster, self.credentials, config.limits, config.group)
        session = Running(str(identity.role), waiting)
        if hello.group:
            session.meeting = group_key(hello.group, str(identity.role))[:16]
        with self._lock:
            if hello.ticket in self._sessions or len(hello.ticket) != 16:
                raise PeerRejected("a session of this ticket exists")
            if len(self._sessions) >= config.limits.sessions:
                raise LimitExceeded(
                    f"{config.role} runs {len(self._sessions)} sessions, as many as it may",
                    remedy="close one, or raise limits.sessions",
                )
            if session.meeting and any(session.meeting == other.meeting for other in self._sessions.values()):
                raise PeerRejected("a session of these ranks exists")
            self._sessions[hello.ticket] = session
            self._begun.notify_all()
        hub.remove(link)
        link.limits = frame_limits(self.config.limits)
        thread = threading.Thread(
            target=self._run, args=(session, link, identity, hello), name="torchveil session", daemon=True
        )
        self._threads.add(thread)
        thread.start()

    # --- sessions ----------------------------------------------------------------------------------------------------

    def _run(self, session: Running, link: Link, identity: Identity, hello: m.Hello) -> None:
        """A session's thread, from its opening to its end."""
        role = str(self.config.role)
        self.metrics.session_opened()
        try:
            opened = session.waiting.open(link, identity, hello)
        except BaseException as error:
            failed("session not opened", error, role=role, controller=session.controller)
            self._ended(hello.ticket, error.code if isinstance(error, TorchveilError) else ProtocolError.code)
            return
        session.session_id = opened.session_id
        run_id = opened.session_id.hex()[:16]
        began = monotonic()
        log("session opened", role=role, session=run_id, controller=session.controller)
        self._warn()
        running: RoleSession | None = None
        try:
            running = self._session(opened, identity)
            running.run()
        except BaseException as error:
            place = None if running is None else running.place
            number, operation = (place.number, place.operation) if place else (None, "")
            where: dict[str, Any] = {
                "session": run_id,
                "instruction": number,
                "op": operation,
                "duration_s": monotonic() - began,
            }
            failed("session failed", error, role=role, **where)
            self._ended(hello.ticket, error.code if isinstance(error, TorchveilError) else ProtocolError.code)
            refuse(opened.hub, error, role, number, operation)
        else:
            self._ended(hello.ticket)
            opened.hub.close()
            log("session closed", role=role, session=run_id, duration_s=monotonic() - began)
        if isinstance(running, PartySession):
            running.consent.end(running.number)
            self._swap_heads()

    def _ended(self, ticket: bytes, code: str = "") -> None:
        """Nothing of a session is left here; whoever sees its connections end may open the next one."""
        with self._lock:
            self._sessions.pop(ticket, None)
        self.metrics.session_ended(code)

    def _session(self, opened: Opened, controller: Identity) -> RoleSession:
        """The session's object, with fresh keys."""
        common: dict[str, Any] = {
            "hub": opened.hub,
            "control": opened.control,
            "session_id": opened.session_id,
            "limits": self.config.limits,
            "silence_s": self.config.cluster.limits.deadline_s,  # the controller's own: it beats in time for that
            "metrics": self.metrics,
            "threads": self.config.threads,
        }
        made = self._make_role(self.config, opened)
        if isinstance(made, Provider):
            opened.hub.timeout_s = self.config.limits.session_s
            return ProviderSession(made, opened.links(), **common)
        names = tuple(member.name for member in self.config.cluster.parties)
        holder = Holder(made.name, made.rank, names, self.config.cluster.name, opened.session_id)
        consent = SessionConsent(self.consent, opened.session_id.hex(), str(controller.role), self._swapping.soon)
        provider = opened.need(opened.provider)
        group = None
        if opened.ranks is not None:
            group = Group(
                opened.hub, self.config.cluster.lane, opened.ranks, self.config.limits.deadline_s, self.metrics
            )
        return PartySession(made, opened.links(), provider, consent, controller, self._kept(), holder, group, **common)

    # --- a party's own -----------------------------------------------------------------------------------------------

    def _kept(self) -> Keeping:
        if self.keeping is None:
            raise InvalidArgument(f"{self.config.role} keeps no data", remedy="ask a party")
        return self.keeping

    @property
    def datasets(self) -> DatasetStore:
        """Data of owners."""
        return self._kept().datasets

    @property
    def results(self) -> ResultStore:
        """Results for owners."""
        return self._kept().results

    @property
    def consent(self) -> Consent:
        """Who may see what."""
        if self._consent is None:
            raise InvalidArgument(f"{self.config.role} releases nothing", remedy="ask a party")
        return self._consent

    def _open_stores(self) -> None:
        """What a party keeps below its state directory: shares at rest, grants, the log of releases."""
        config, state = self.config, self.state
        name, cluster = config.role.name, config.cluster.name
        authority = config.cluster.authority.read_bytes()
        key = load_or_create_key(state / "shares.key")

        def store(folder: str) -> ShareStore:
            make_directory(state / folder)
            return ShareStore(state / folder, key, party=name, cluster=cluster)

        self.keeping = Keeping(
            DatasetStore(store("datasets"), party=name, cluster=cluster, limits=config.datasets),
            store("checkpoints"),
            ResultStore(state / "results", authority),
        )
        log = AuditLog(state / "audit.jsonl", self.credentials)
        self._consent = Consent(
            str(config.role),
            state / "consent",
            cluster=cluster,
            recognise=recogniser(Authority.from_pem(authority)),
            log=log,
            rank=config.cluster.lane,
        )

    def _close_stores(self) -> None:
        """Another daemon of this role may open them then."""
        if self._consent is not None:
            self._consent.log.close()

    def _swap_heads(self, everybody: bool = False) -> None:
        """Tell the parties after this one, or all, how long the log of releases is, and hear of theirs."""
        caller = Caller(self.config.cluster, self.credentials)
        order = [role for role in self.config.cluster.addresses if role.kind == "party"]
        own = order.index(self.config.role)
        for role in order[:own] * everybody + order[own + 1 :]:

            def ask(name: str, data: bytes, role: Role = role) -> bytes:
                return caller.call(role, name, data)[0]

            try:
                swap_heads(self.consent.log, self.consent.recognise, ask)
            except NetworkError:
                continue  # it will be asked again
            except (ConsentError, StorageError) as error:
                failed("the logs of releases do not fit", error, role=str(self.config.role), peer=str(role))


_PURPOSES: dict[str, Callable[[Daemon, Hub, Link, Identity, m.Hello], None]] = {
    "session": Daemon._open,
    "link": Daemon._join,
    GROUP: Daemon._join_rank,
    "service": Daemon._serve,
}

__all__ = ["Daemon", "Running", "abort_raises", "make_role"]
