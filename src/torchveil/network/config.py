"""Configuration files: a cluster, which everybody has, and a role, which its operator has. Both TOML.

    cluster.toml                                  alice.toml
    [cluster]                                     role = "party/alice"
    name = "study"                                cluster = "cluster.toml"
    authority = "ca.pem"                          certificate = "party-alice.pem"
    [[party]]                                     key = "party-alice.key"
    name = "alice"                                listen = "0.0.0.0:7001"
    address = "alice.example:7001"                state = "alice"
    [[party]]                                     [limits]
    name = "bob"                                  sessions = 4
    address = "bob.example:7001"
    [provider]
    name = "james"
    address = "james.example:7001"
    [limits]
    deadline_s = 60

Paths are relative to the file that names them. The digest of a cluster covers what all have to agree on: name, roles in
order, how many ranks each has, the authority's certificate, ``deadline_s``; not the other limits, which may differ from
role to role, and not addresses, which may differ behind a gateway. Unknown keys are refused.

A role may be a group of machines, its ranks. Then every role has as many ``addresses`` in place of its ``address``, one
for each rank; the machines of one rank, over all roles, are a *lane* (parties have ranks among themselves too, so the
code calls it that). A role's file says with ``rank`` which one it is for; ``listen``, ``metrics`` and ``log`` may be
lists with one for each rank, so that the ranks of one machine share a file; ``group`` is where the ranks of this role
find each other, if not at the cluster's addresses. Each rank has a state directory of its own below ``state``.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from torchveil.errors import ConfigurationError
from torchveil.network.names import Role

Positive = Annotated[float, Meta(gt=0)]
Number = Annotated[int, Meta(gt=0)]
Port = Annotated[str, Meta(pattern=r"^[^\s]+:[0-9]{1,5}$")]

#: Machines that one role may have.
MAX_LANES = 64


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long to wait and how much to take.

    deadline_s: for another role's next message while one is due; longer than the longest single operation. handshake_s:
    for a connection to say who it is. idle_s: for the next instruction of a controller that shows that it runs.
    session_s: for a whole session. sessions: at a time. connections: that are being accepted at a time. wires: values
    that a session may hold. session_bytes: that these and the public tensors of its plans may take. elements: of one
    value. body: bytes of one message.
    """

    deadline_s: Positive = 60.0
    handshake_s: Positive = 10.0
    idle_s: Positive = 3600.0
    session_s: Positive = 7 * 86400.0
    sessions: Number = 8
    connections: Number = 64
    wires: Number = 1_000_000
    session_bytes: Number = 16 << 30
    elements: Number = 2**31
    body: Number = 2**34


class DatasetLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much one owner may leave at a party, staged and committed together, and for how long without a commit.

    n_bytes_per_owner: of shares, 8 bytes per number. n_arrays_per_owner: targets and masks count. staged_life_s: what
    was sent and not committed is dropped after that.
    """

    n_bytes_per_owner: Number = 16 << 30
    n_arrays_per_owner: Number = 256
    staged_life_s: Positive = 24 * 3600.0


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A party or the provider: its name and where it listens, every rank of it if it is a group."""

    name: str
    address: Port | None = None
    addresses: Annotated[tuple[Port, ...], Meta(max_length=MAX_LANES)] = ()

    @property
    def lanes(self) -> tuple[str, ...]:
        """The addresses of all ranks."""
        return self.addresses if self.address is None else (self.address,)


class _Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    authority: str


class _ClusterFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cluster: _Cluster
    party: Annotated[tuple[Member, ...], Meta(min_length=2, max_length=64)]
    provider: Member
    limits: Limits = Limits()


class ClusterConfig(msgspec.Struct, frozen=True):
    """What a cluster file says, checked, seen from one lane: ``at`` gives another one."""

    name: str
    authority: Path
    parties: tuple[Member, ...]
    provider: Member
    limits: Limits = Limits()
    lane: int = 0

    def __repr__(self) -> str:
        parties = ", ".join(member.name for member in self.parties)
        return f"<ClusterConfig {self.name}: parties {parties}, provider {self.provider.name}>"

    @property
    def lanes(self) -> int:
        """How many machines each role has."""
        return len(self.provider.lanes)

    def at(self, lane: int) -> ClusterConfig:
        """The same cluster seen from another lane. Raises ``ConfigurationError`` if there is none."""
        if not 0 <= lane < self.lanes:
            raise ConfigurationError(
                f"the roles of {self.name} have {self.lanes} rank(s) each, there is no rank {lane}",
                remedy=f"use a rank from 0 to {self.lanes - 1}, or name more addresses in the cluster's file",
            )
        return msgspec.structs.replace(self, lane=lane)

    @property
    def addresses(self) -> dict[Role, str]:
        """Parties in order, then the provider, and where they listen in this lane."""
        out = {Role("party", member.name): member.lanes[self.lane] for member in self.parties}
        out[Role("provider", self.provider.name)] = self.provider.lanes[self.lane]
        return out

    def digest(self) -> bytes:
        """SHA-256 of what all roles have to agree on."""
        agreed = (
            self.name,
            [member.name for member in self.parties],
            self.provider.name,
            self.authority.read_bytes(),
            self.limits.deadline_s,
            self.lanes,
        )
        return hashlib.sha256(msgspec.msgpack.encode(agreed)).digest()


class _RoleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: str
    cluster: str
    certificate: str
    key: str
    listen: Port | tuple[Port, ...]
    state: str
    metrics: str | tuple[str, ...] = ""
    log: str | tuple[str, ...] = ""
    rank: Annotated[int, Meta(ge=0)] | None = None
    group: tuple[Port, ...] = ()
    threads: Annotated[int, Meta(ge=0)] = 0
    limits: Limits = Limits()
    datasets: DatasetLimits = DatasetLimits()


class RoleConfig(msgspec.Struct, frozen=True):
    """What a role's file says, checked, for the rank that ``cluster.lane`` names.

    ``limits`` are the cluster's where the role's file has none. ``group``: where the ranks of this role listen for each
    other.
    """

    role: Role
    cluster: ClusterConfig
    certificate: Path
    key: Path
    listen: str
    state: Path
    metrics: str = ""
    log: str = ""
    group: tuple[str, ...] = ()
    threads: int = 0
    limits: Limits = Limits()
    datasets: DatasetLimits = DatasetLimits()


T = TypeVar("T")


def _read(path: Path, kind: type[T]) -> tuple[T, dict[str, Any]]:
    try:
        found = tomllib.loads(path.read_text())
        return msgspec.convert(found, kind), found
    except OSError as error:
        raise ConfigurationError(
            f"{path.absolute()} cannot be read: {error.strerror}",
            remedy="name the file where it is, or write one: docs/how-to/cluster.md",
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is no TOML: {error}", remedy="see docs/how-to/cluster.md") from None
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {error}", remedy="see docs/how-to/cluster.md") from None


def read_cluster(path: str | Path) -> ClusterConfig:
    """A cluster file. Raises ``ConfigurationError`` that names the file and the key."""
    path = Path(path).absolute()  # its authority is read at every hello, from wherever the program is by then
    file, _ = _read(path, _ClusterFile)
    names = [member.name for member in file.party]
    if len({*names, file.provider.name}) != len(names) + 1:
        raise ConfigurationError(
            f"{path}: two roles have one name", remedy="give parties and provider a name of their own each"
        )
    config = ClusterConfig(
        file.cluster.name, path.parent / file.cluster.authority, file.party, file.provider, file.limits
    )
    for member in (*file.party, file.provider):
        if (member.address is None) == (not member.addresses):
            raise ConfigurationError(
                f"{path}: {member.name} has no address, or both address and addresses",
                remedy="write address = ..., or addresses = [...] with one for each rank",
            )
        if len(member.lanes) != config.lanes:
            raise ConfigurationError(
                f"{path}: {member.name} has {len(member.lanes)} addresses, {file.provider.name} has {config.lanes}",
                remedy="give every role as many ranks: rank 0 of one works with rank 0 of the others",
            )
    if not config.authority.is_file():
        raise ConfigurationError(
            f"{path}: the authority's certificate {config.authority} is missing",
            remedy="copy it there, or name it in [cluster] authority; torchveil certs init makes one",
        )
    _ = config.addresses  # names that are none raise here
    return config


def _rank_of(path: Path, file: _RoleFile, lanes: int, rank: int | None) -> int:
    """Which rank a role's file is read for. What is said twice has to agree."""
    said = {value for value in (rank, file.rank) if value is not None}
    if len(said) > 1:
        raise ConfigurationError(
            f"{path} is for rank {file.rank}, and rank {rank} was asked for", remedy="leave one of them away"
        )
    if not said and lanes > 1:
        raise ConfigurationError(
            f"{path} does not say which of the {lanes} ranks of {file.role} it is for",
            remedy="write rank = N into it, use --rank N, or start all ranks of a machine with torchrun",
        )
    return said.pop() if said else 0


def _for_rank(path: Path, key: str, value: str | tuple[str, ...], cluster: ClusterConfig) -> str:
    """The one of this rank, where there is a list."""
    if isinstance(value, str):
        return value
    if len(value) != cluster.lanes:
        raise ConfigurationError(
            f"{path}: {key} has {len(value)} entries for {cluster.lanes} ranks", remedy="write one for each rank"
        )
    return value[cluster.lane]


def read_role(path: str | Path, *, rank: int | None = None) -> RoleConfig:
    """A role's file with the cluster that it names. Raises ``ConfigurationError`` that names the file and the key.

    rank: of a role that is a group; needed unless the file says it.
    """
    path = Path(path).absolute()
    file, raw = _read(path, _RoleFile)
    here = path.parent
    cluster = read_cluster(here / file.cluster)
    cluster = cluster.at(_rank_of(path, file, cluster.lanes, rank))
    role = Role.parse(file.role)
    if role not in cluster.addresses:
        raise ConfigurationError(
            f"{path}: {role} is no member of the cluster {cluster.name}", remedy="name a party or the provider of it"
        )
    if file.group and len(file.group) != cluster.lanes:
        raise ConfigurationError(
            f"{path}: group has {len(file.group)} addresses for {cluster.lanes} ranks", remedy="write one for each rank"
        )
    given = raw.get("limits", {})
    merged = {**msgspec.to_builtins(cluster.limits), **given}
    state = here / file.state
    return RoleConfig(
        role,
        cluster,
        here / file.certificate,
        here / file.key,
        _for_rank(path, "listen", file.listen, cluster),
        state if cluster.lanes == 1 else state / f"rank-{cluster.lane}",
        _for_rank(path, "metrics", file.metrics, cluster),
        _for_rank(path, "log", file.log, cluster),
        file.group or tuple(cluster.at(lane).addresses[role] for lane in range(cluster.lanes)),
        file.threads,
        msgspec.convert(merged, Limits),
        file.datasets,
    )
