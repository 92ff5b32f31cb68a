"""Parties in one process for tests of owners: stores, and a transport that calls their handlers directly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import torch
from torch import Tensor

from torchveil.errors import StorageError
from torchveil.network.dataset_store import DatasetLimits, DatasetStore
from torchveil.network.datasets_service import HANDLERS


class MemoryShares:
    """A store of shares that survives what crashes: what was written stays, and writes may be told to fail."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[dict[str, Tensor], dict[str, object]]] = {}
        self.fail: Callable[[str], bool] = lambda name: False

    def write(self, name: str, tensors: Mapping[str, Tensor], manifest: Mapping[str, object]) -> None:
        if self.fail(name):
            raise StorageError("the disk is full")
        self.entries[name] = ({key: x.clone() for key, x in tensors.items()}, copy.deepcopy(dict(manifest)))

    def read(self, name: str) -> tuple[Mapping[str, Tensor], Mapping[str, object]]:
        if name not in self.entries:
            raise StorageError("no such entry")
        return self.entries[name]

    def names(self) -> Iterable[str]:
        return list(self.entries)

    def remove(self, name: str) -> None:
        self.entries.pop(name, None)


@dataclass(frozen=True)
class Member:
    name: str
    address: str


@dataclass(frozen=True)
class Who:
    """Credentials and identity alike: a role."""

    role: str


@dataclass
class Daemon:
    datasets: DatasetStore


@dataclass
class Network:
    """Parties by address; ``call`` has the form of the real one. ``fail`` may raise in place of an answer."""

    daemons: dict[str, Daemon]
    roles: dict[str, str]
    fail: Callable[[str, str], None] = lambda party, name: None
    log: list[tuple[str, str, bytes]] = field(default_factory=list)

    @property
    def parties(self) -> Sequence[Member]:
        return [Member(role.partition("/")[2], address) for address, role in self.roles.items()]

    def call(
        self,
        address: str,
        credentials: Who,
        name: str,
        request: msgspec.Struct | None,
        body: Sequence[bytes | memoryview] = (),
        *,
        expect: str,
    ) -> tuple[bytes, memoryview]:
        assert self.roles[address] == expect
        self.fail(expect, name)
        sent = b"".join(bytes(piece) for piece in body)
        self.log.append((expect, name, sent))
        reply, answer = HANDLERS[name](
            self.daemons[address], credentials, msgspec.msgpack.encode(request), memoryview(sent)
        )
        return msgspec.msgpack.encode(reply), memoryview(b"".join(bytes(piece) for piece in answer))

    def store(self, party: str) -> DatasetStore:
        return next(self.daemons[address].datasets for address, role in self.roles.items() if role == f"party/{party}")

    def total(self, name: str) -> Tensor:
        """The sum of all parties' shares of an array."""
        shares = [daemon.datasets.open(name)[0] for daemon in self.daemons.values()]
        return torch.stack(shares).sum(0)


def network(*names: str, limits: DatasetLimits | None = None) -> Network:
    roles = {f"{name}:1": f"party/{name}" for name in names or ("alice", "bob")}
    return Network({address: Daemon(DatasetStore(MemoryShares(), limits)) for address in roles}, roles)


HOSPITAL_A, HOSPITAL_B = Who("owner/hospital-a"), Who("owner/hospital-b")
SCIENTIST, JAMES, ALICE = Who("controller/ann"), Who("provider/james"), Who("party/alice")
