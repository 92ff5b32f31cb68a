"""``connect``: a session whose roles run on machines of their own."""

from __future__ import annotations

import atexit
import sys
import warnings
import weakref
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from torchveil.drivers.base import Driver
from torchveil.drivers.ranks import Collective, world_size
from torchveil.errors import ConfigurationError, InvalidArgument, SessionStateError, TorchveilError
from torchveil.fixedpoint import FixedPoint
from torchveil.handle import Bit, Deferred, Handle, Secret
from torchveil.network.certificates import Credentials
from torchveil.network.config import ClusterConfig, read_cluster
from torchveil.network.datasets import Schema
from torchveil.network.driver import NetworkDriver
from torchveil.network.names import Role
from torchveil.network.opening import open_as_controller
from torchveil.network.owner import available, find
from torchveil.network.results import result_of
from torchveil.network.services import Caller
from torchveil.program import instructions as ins
from torchveil.randomness import os_bytes
from torchveil.session import Session
from torchveil.tensor import EncryptedTensor, wrap


class NetworkSession(Session):
    """A session with the roles of a cluster. The program is the controller: it sees shapes, and what is revealed to it.

    group: 16 bytes that all ranks of this program agreed on, if each opens such a session, in the lane of its own that
    ``cluster`` is seen from.

    Raises what a connection raises; see ``connect``.
    """

    def __init__(
        self,
        cluster: ClusterConfig,
        credentials: Credentials,
        *,
        fixed_point: FixedPoint | None = None,
        group: bytes = b"",
    ) -> None:
        self.cluster = cluster
        self._credentials = credentials
        self._group = group
        self._at_exit = partial(_close_at_exit, weakref.ref(self))
        names = [member.name for member in cluster.parties]
        super().__init__(names, cluster.provider.name, fixed_point=fixed_point, backend="network")
        self.home = cluster.name

    def _make_driver(self, backend: str, debug: bool) -> Driver:
        if debug:
            raise ConfigurationError(
                "debug mode compares with clear values, which no role of a network has", remedy="use a local session"
            )
        opened = open_as_controller(self.cluster, self._credentials, self.cluster.limits, self._group)
        if self._group:
            atexit.register(self._at_exit)
        known = weakref.ref(self)  # the driver must not hold the session that holds it
        self._remote = NetworkDriver(
            opened,
            self._credentials,
            self.cluster.limits,
            operation=lambda: "" if (session := known()) is None else session.operation,
            ranks=self.cluster.lanes if self._group else 1,
        )
        return self._remote

    def close(self) -> None:
        """Forget all shares and masks; using the session afterwards raises.

        On several ranks the other ones may still wait for what this one began: that is done first, within the
        cluster's deadline. Elsewhere what nobody waits for is dropped.
        """
        try:
            if self.ranks > 1 and not self.ended and not self.forked and sys.exc_info()[0] is None:
                with suppress(TorchveilError):  # it ends either way; who waits for it hears why
                    self._remote.finish()
        finally:
            atexit.unregister(self._at_exit)
            super().close()

    def datasets(self, prefix: str = "") -> dict[str, Schema]:
        """What owners shared, by name: shape, number format, names of columns where they are told. Never data."""
        return {name: entry.schema for name, entry in available(self._caller, prefix).items()}

    def dataset(self, name: str) -> EncryptedTensor:
        """The data that an owner shared under ``name``, as an encrypted tensor of this session.

        On several ranks all of them ask for it: rank 0 of every party holds it, and hands its share to the other ranks.
        This program learns its schema. What is computed from it is data of its owner too, and revealing that needs the
        owner's consent. Raises ``DataNotFound`` for a name that nobody shared, or that parties hold differently.
        """
        if self.rank and self.ranks == 1:
            raise InvalidArgument(
                f"data of owners is at rank 0 of the parties, this session is with rank {self.rank} alone",
                op="dataset",
                remedy="open the session on all ranks, or with rank 0",
            )
        entry = find(self._caller, name)
        schema = entry.schema
        number_format = FixedPoint(schema.base, schema.digits)

        def found(identifier: int) -> Secret:
            return self.wire(identifier, number_format.scale, number_format, shape=schema.shape, is_input=True)

        held: Secret | None = None
        if self.rank == 0:
            taken = self.new_id()
            self.outside_of("dataset", lambda: self._remote.take_dataset(name, taken, schema.shape, entry.id))
            held = found(taken)
        if self.ranks > 1:
            given, handed_on = None if held is None else held.id, self.new_id()
            handed = Collective("broadcast", schema.shape, 0, f"dataset {entry.id.hex()} {number_format}")
            self.outside_of("dataset", lambda: self._remote.collect(handed_on, given, handed))
            held = found(handed_on)
        if held is None:
            raise SessionStateError("no rank holds data of owners", op="dataset", remedy="open a new session")
        return wrap(held)

    def deliver(self, x: EncryptedTensor, to: str, name: str) -> None:
        """Give a value to an owner, who fetches it: ``torchveil results``. This program does not see it.

        to: the owner's role, ``owner/hospital-a``; name: what the owner will ask for, of letters, digits, ``.``, ``_``
        and ``-``. Costs what a reveal costs, and counts as one. Raises ``ConsentRequired`` if an owner whose data went
        into it has not granted it, ``DataNotFound`` if the parties never met the receiver, ``InvalidArgument``.
        """
        if not isinstance(x, EncryptedTensor):
            raise InvalidArgument("this value is not secret", op="deliver", remedy="send it to the owner as it is")
        if self.rank:
            raise InvalidArgument(
                f"rank {self.rank} of a party keeps no results for owners", op="deliver", remedy="deliver on rank 0"
            )
        if not isinstance(name, str):
            raise InvalidArgument("a result has a name", op="deliver", remedy="write name='mean-age'")
        if not isinstance(to, str) or not to.startswith("owner/"):
            raise InvalidArgument(f"{to!r} is no owner", op="deliver", remedy="write owner/NAME")
        Role.parse(to)
        handle = x.handle
        handle = handle.force() if isinstance(handle, Deferred) else handle
        if not isinstance(handle, (Secret, Bit)):
            raise InvalidArgument("this value is public", op="deliver", remedy="send it to the owner as it is")
        self.own(handle)
        wire = self.bit_to_arithmetic(handle) if isinstance(handle, Bit) else handle
        result = msgspec.msgpack.encode(result_of(name, wire.shape, wire.scale, isinstance(handle, Bit)))
        self.outside_of("deliver", lambda: self._remote.deliver(ins.Reveal(wire.id, to, wire.shape), result))
        self.note_reveal(to, wire.shape)

    @property
    def ended(self) -> bool:
        """Whether the session is over: closed, or ended by an error of any role."""
        return self._closed or self._remote.failed

    @property
    def rank(self) -> int:
        """Which rank of every role this session is with; data, grants and results of owners are at rank 0."""
        return self.cluster.lane

    @property
    def _caller(self) -> Caller:
        return Caller(self.cluster.at(0), self._credentials)

    def reveal_raw(self, handle: Handle, receiver: str = "controller") -> tuple[Tensor, int, bool]:
        if receiver != "controller":
            raise InvalidArgument(
                f"{receiver} is on another machine, and this program is not shown what it gets",
                op="reveal",
                remedy="give it to an owner: session.deliver(x, to='owner/NAME', name=...), who fetches it with "
                "torchveil results",
            )
        return super().reveal_raw(handle, receiver)

    def __repr__(self) -> str:
        state = "ended" if self.ended else f"as {self._credentials.role}"
        return (
            f"<NetworkSession {state} of {self.cluster.name}: parties {', '.join(self.parties)}, "
            f"provider {self.provider}>"
        )

    def _protection(self) -> str:
        return f"roles of the cluster {self.cluster.name}, mutual TLS 1.3; this program is {self._credentials.role}"


def _close_at_exit(session: weakref.ref[NetworkSession]) -> None:
    """A program that ends on one rank is no failure of the others'."""
    found = session()
    if found is not None and not found.ended:
        found.close()


def connect(
    cluster: str | Path | ClusterConfig = "cluster.toml",
    *,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    fixed_point: FixedPoint | None = None,
) -> NetworkSession:
    """Open a session with the parties and the provider of a cluster file; ``cluster.toml`` here if none is named.

    certificate, key: who this program is. Without them the only controller's certificate beside the cluster's file
    (``controller-NAME.pem`` with ``controller-NAME.key``).

    Where the roles are groups of machines and this program runs under ``torchrun``, with ``init_process_group`` called
    before, every rank opens a session with that rank of each role, and ``torch.distributed.all_reduce``, ``broadcast``
    and ``all_gather`` combine secrets of all ranks. Without a process group the session is with rank 0 of each role.

    Raises ``ConfigurationError`` for files, ``CertificateError``, ``PeerLost`` when a role cannot be reached,
    ``PeerRejected`` when somebody else answers or the role does not accept this program, ``DeadlineExceeded``.
    """
    config = cluster if isinstance(cluster, ClusterConfig) else read_cluster(cluster)
    credentials = find_credentials(config, certificate, key, "controller")
    config, group = _lane(config)
    return NetworkSession(config, credentials, fixed_point=fixed_point, group=group)


def _lane(config: ClusterConfig) -> tuple[ClusterConfig, bytes]:
    """The cluster as this rank of the program has to see it, and what all ranks agreed on; called by all of them."""
    ranks = world_size()
    if config.lanes == 1 or ranks == 1:
        return config, b""
    if ranks != config.lanes:
        raise ConfigurationError(
            f"this program runs on {ranks} ranks, the roles of {config.name} have {config.lanes} each",
            remedy=f"start it with torchrun --nproc-per-node {config.lanes}, or change the cluster's file",
        )
    agreed = torch.frombuffer(bytearray(os_bytes(16)), dtype=torch.uint8)
    dist.broadcast(agreed, 0)
    return config.at(dist.get_rank()), bytes(agreed.tolist())


def find_credentials(
    config: ClusterConfig, certificate: str | Path | None, key: str | Path | None, kind: str
) -> Credentials:
    """Those of the named files, or the only ones of this kind beside the authority's certificate.

    Warns of a certificate that ends within 30 days. Raises ``ConfigurationError`` if there is none or more than one,
    ``CertificateError``.
    """
    if certificate is None:
        files = sorted(config.authority.parent.glob(f"{kind}-*.pem"))
        if len(files) != 1:
            raise ConfigurationError(
                f"there are {len(files)} certificates {kind}-*.pem beside {config.authority}",
                remedy="say who you are: --certificate FILE, or certificate=FILE in Python"
                if files
                else f"make one where the authority is: torchveil certs issue DIRECTORY {kind}/NAME; or name it",
            )
        certificate = files[0]
    certificate = Path(certificate)
    found = Credentials.load(certificate, Path(key) if key else certificate.with_suffix(".key"), config.authority)
    if found.identity.ends_soon:
        warnings.warn(
            f"the certificate of {found.role} ends on {found.identity.not_after.date()}: issue a new one "
            "(torchveil certs issue --renew)",
            stacklevel=3,
        )
    return found


__all__: list[Any] = ["NetworkSession", "connect", "find_credentials"]
