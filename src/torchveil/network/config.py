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
order, the authority's certificate, limits; not addresses, which may differ behind a gateway. Unknown keys are refused.
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


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long to wait and how much to take.

    deadline_s: for another role's next message while one is due; longer than the longest single operation.
    handshake_s: for a connection to say who it is. idle_s: for the controller's next instruction. session_s: for a
    whole session. sessions: at a time. connections: that are being accepted at a time. wires: values that a session may
    hold. session_bytes: that these and the public tensors of its plans may take. elements: of one value. body: bytes of
    one message.
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
    """A party or the provider: its name and where it listens."""

    name: str
    address: Port


class _Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    authority: str


class _ClusterFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cluster: _Cluster
    party: Annotated[tuple[Member, ...], Meta(min_length=2, max_length=64)]
    provider: Member
    limits: Limits = Limits()


class ClusterConfig(msgspec.Struct, frozen=True):
    """What a cluster file says, checked."""

    name: str
    authority: Path
    parties: tuple[Member, ...]
    provider: Member
    limits: Limits = Limits()

    def __repr__(self) -> str:
        parties = ", ".join(member.name for member in self.parties)
        return f"<ClusterConfig {self.name}: parties {parties}, provider {self.provider.name}>"

    @property
    def addresses(self) -> dict[Role, str]:
        """Parties in order, then the provider, and where they listen."""
        out = {Role("party", member.name): member.address for member in self.parties}
        out[Role("provider", self.provider.name)] = self.provider.address
        return out

    def digest(self) -> bytes:
        """SHA-256 of what all roles have to agree on."""
        agreed = (
            self.name,
            [member.name for member in self.parties],
            self.provider.name,
            self.authority.read_bytes(),
            self.limits.deadline_s,
        )
        return hashlib.sha256(msgspec.msgpack.encode(agreed)).digest()


class _RoleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: str
    cluster: str
    certificate: str
    key: str
    listen: Port
    state: str
    metrics: str = ""
    log: str = ""
    threads: Annotated[int, Meta(ge=0)] = 0
    limits: Limits = Limits()
    datasets: DatasetLimits = DatasetLimits()


class RoleConfig(msgspec.Struct, frozen=True):
    """What a role's file says, checked. ``limits`` are the cluster's where the role's file has none."""

    role: Role
    cluster: ClusterConfig
    certificate: Path
    key: Path
    listen: str
    state: Path
    metrics: str = ""
    log: str = ""
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
    path = Path(path)
    file, _ = _read(path, _ClusterFile)
    names = [member.name for member in file.party]
    if len({*names, file.provider.name}) != len(names) + 1:
        raise ConfigurationError(
            f"{path}: two roles have one name", remedy="give parties and provider a name of their own each"
        )
    config = ClusterConfig(
        file.cluster.name, path.parent / file.cluster.authority, file.party, file.provider, file.limits
    )
    if not config.authority.is_file():
        raise ConfigurationError(
            f"{path}: the authority's certificate {config.authority} is missing",
            remedy="copy it there, or name it in [cluster] authority; torchveil certs init makes one",
        )
    _ = config.addresses  # names that are none raise here
    return config


def read_role(path: str | Path) -> RoleConfig:
    """A role's file with the cluster that it names. Raises ``ConfigurationError`` that names the file and the key."""
    path = Path(path)
    file, raw = _read(path, _RoleFile)
    here = path.parent
    cluster = read_cluster(here / file.cluster)
    role = Role.parse(file.role)
    if role not in cluster.addresses:
        raise ConfigurationError(
            f"{path}: {role} is no member of the cluster {cluster.name}", remedy="name a party or the provider of it"
        )
    given = raw.get("limits", {})
    merged = {**msgspec.to_builtins(cluster.limits), **given}
    return RoleConfig(
        role,
        cluster,
        here / file.certificate,
        here / file.key,
        file.listen,
        here / file.state,
        file.metrics,
        file.log,
        file.threads,
        msgspec.convert(merged, Limits),
        file.datasets,
    )
