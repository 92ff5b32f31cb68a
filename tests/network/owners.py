"""Parties in one process for tests of owners: stores, and a transport that calls their handlers directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import msgspec
import torch
from torch import Tensor

from torchveil.errors import LimitExceeded, PeerRejected
from torchveil.network.config import DatasetLimits
from torchveil.network.dataset_store import DatasetStore
from torchveil.network.datasets_service import DATASET_SERVICES
from torchveil.network.names import Role
from torchveil.storage import Manifest, ShareStore


class Disk(ShareStore):
    """A store of shares that may be told to fail before it writes or deletes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, bytes(32), party="party/alice", cluster="study")
        self.fail: Callable[[str], None] = lambda name: None

    def write(self, name: str, tensors: Mapping[str, Tensor], manifest: Manifest) -> Manifest:
        self.fail(name)
        return super().write(name, tensors, manifest)

    def delete(self, name: str) -> None:
        self.fail(name)
        super().delete(name)


def opened(disk: ShareStore, limits: DatasetLimits | None = None) -> DatasetStore:
    """The data sets on a disk, as a daemon opens them when it starts."""
    return DatasetStore(disk, party="party/alice", cluster="study", limits=limits)


@dataclass(frozen=True)
class Who:
    """Credentials and identity alike: a role."""

    role: Role


@dataclass(frozen=True)
class Cluster:
    """Names and addresses, as a cluster's file says them."""

    addresses: dict[Role, str]


@dataclass
class Daemon:
    datasets: DatasetStore


@dataclass
class Network:
    """The parties of a cluster. ``fail`` may raise in place of an answer; ``log`` is what crossed."""

    daemons: dict[Role, Daemon]
    fail: Callable[[str, str], None] = lambda party, service: None
    log: list[tuple[str, str, bytes]] = field(default_factory=list)

    @property
    def cluster(self) -> Cluster:
        return Cluster({**{role: f"{role.name}:1" for role in self.daemons}, Role("provider", "james"): "james:1"})

    def store(self, party: str) -> DatasetStore:
        return self.daemons[Role("party", party)].datasets

    def total(self, name: str) -> Tensor:
        """The sum of all parties' shares of an array."""
        shares = [daemon.datasets.open(name)[0] for daemon in self.daemons.values()]
        return torch.stack(shares).sum(0)

    def by(self, who: Who) -> Caller:
        return Caller(self, who)


@dataclass
class Caller:
    """In the form of ``services.Caller``, and with the checks that a daemon makes before it calls a handler."""

    network: Network
    credentials: Who

    @property
    def cluster(self) -> Cluster:
        return self.network.cluster

    def call(
        self, role: Role, service: str, arguments: msgspec.Struct, body: Sequence[bytes | memoryview] = ()
    ) -> tuple[bytes, memoryview]:
        self.network.fail(str(role), service)
        sent = b"".join(bytes(piece) for piece in body)
        self.network.log.append((str(role), service, sent))
        row = DATASET_SERVICES[service]
        if self.credentials.role.kind not in row.who:
            raise PeerRejected("not for this role")
        if len(sent) > row.body:
            raise LimitExceeded("the body is too large")
        encoded = msgspec.msgpack.encode(arguments)
        reply, answer = row.handler(self.network.daemons[role], self.credentials, encoded, memoryview(sent))
        return msgspec.msgpack.encode(reply), memoryview(b"".join(bytes(piece) for piece in answer))


def network(directory: Path, *names: str, limits: DatasetLimits | None = None) -> Network:
    """Parties (alice and bob) that keep their shares in new folders of ``directory``."""
    roles = [Role("party", name) for name in names or ("alice", "bob")]
    return Network({role: Daemon(opened(Disk(Path(mkdtemp(dir=directory))), limits)) for role in roles})


HOSPITAL_A, HOSPITAL_B = Who(Role("owner", "hospital-a")), Who(Role("owner", "hospital-b"))
SCIENTIST, JAMES = Who(Role("controller", "ann")), Who(Role("provider", "james"))
ALICE = Who(Role("party", "alice"))
