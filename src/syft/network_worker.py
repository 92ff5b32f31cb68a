"""Workers on machines of their own: ``sy.NetworkWorker(id="alice", address="alice.example:7001")``.

A network worker takes the place of a virtual one in ``share(...)`` and ``crypto_provider=``; nothing else of a program
changes. It is a member of a cluster, whose file names everybody's address, the authority, and so who is let in. Tensors
in the clear are never sent to it.
"""

from __future__ import annotations

import atexit
import os
import re
import weakref
from collections.abc import Hashable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from torch import Tensor

from syft.workers import ObjectStore, VirtualWorker
from torchveil import ConfigurationError, FixedPoint, InvalidArgument, NetworkSession, TorchveilError, connect
from torchveil.network.config import ClusterConfig, Member, read_cluster

if TYPE_CHECKING:
    from syft.torch_hook import TorchHook

#: The environment's name for the cluster's file; without it ``cluster.toml`` in the working directory.
CLUSTER = "TORCHVEIL_CLUSTER"
_ADDRESS = re.compile(r"\S+:[0-9]{1,5}")


class _Remote(ObjectStore):
    """What this program holds of a worker on another machine: which shares there are, and no tensor."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def set_obj(self, identifier: Hashable, x: Tensor) -> None:
        """Refused: a tensor in the clear would be sent to another organisation."""
        raise InvalidArgument(
            f"{self._name} is on another machine: a tensor in the clear is not sent there",
            op="send",
            remedy="split it: x.fix_precision().share(alice, bob, crypto_provider=james)",
        )


class NetworkWorker(VirtualWorker):
    """A party or the provider of a cluster.

    id: its name in the cluster. address: ``host:port`` in place of the one in the cluster's file. cluster: that file;
    without it the one that ``TORCHVEIL_CLUSTER`` names, or ``cluster.toml``. certificate, key: who this program is; see
    ``torchveil.connect``. Nothing is connected before the first ``share``.

    Raises the core's ``ConfigurationError`` for a file that is missing or wrong and a name that is no member,
    ``RuntimeError`` for the id of a worker of another type.
    """

    def __init__(
        self,
        hook: TorchHook | None = None,
        id: Hashable = 0,
        address: str | None = None,
        *,
        cluster: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
    ) -> None:
        found = _cluster_of(cluster)
        members = {member.name: member for member in (*found.parties, found.provider)}
        if str(id) not in members:
            raise ConfigurationError(
                f"{id!r} is no member of the cluster {found.name}", remedy="choose one of " + ", ".join(members)
            )
        if address is not None and not _ADDRESS.fullmatch(address):
            raise ConfigurationError(f"the address {address!r} is not host:port", remedy="write alice.example:7001")
        super().__init__(hook, id)
        self.cluster = found
        self.cluster_digest = found.digest()
        self.address = address or members[str(id)].lanes[found.lane]
        self.credentials = certificate, key

    def _new_store(self) -> ObjectStore:
        return _Remote(str(self.id))

    def __str__(self) -> str:
        return f"<{type(self).__name__} id:{self.id} at {self.address} of {self.cluster.name}>"


def _cluster_of(given: str | os.PathLike[str] | None) -> ClusterConfig:
    path = Path(given or os.environ.get(CLUSTER) or "cluster.toml")
    if not path.is_file():
        raise ConfigurationError(
            f"there is no cluster file {path.absolute()}",
            remedy=f"name it: sy.NetworkWorker(..., cluster=FILE), or set {CLUSTER}; see docs/how-to/cluster.md",
        )
    return read_cluster(path)


def cluster_of(workers: Sequence[VirtualWorker], provider: VirtualWorker) -> bytes:
    """The digest of the cluster that these workers are, or nothing if all of them are virtual.

    Raises ``ConfigurationError`` for a mixture, for workers of two clusters, and unless they are all of their cluster.
    """
    everybody = [*workers, provider]
    remote = [worker for worker in everybody if isinstance(worker, NetworkWorker)]
    if not remote:
        return b""
    if len(remote) != len(everybody):
        local = [str(worker.id) for worker in everybody if not isinstance(worker, NetworkWorker)]
        raise ConfigurationError(
            f"{', '.join(local)} is a virtual worker and the others are not",
            remedy="make all of them network workers, the crypto_provider too",
        )
    clusters = {worker.cluster_digest: worker.cluster.name for worker in remote}
    if len(clusters) != 1:
        raise ConfigurationError(
            f"workers of two clusters: {', '.join(sorted(clusters.values()))}",
            remedy="share between workers of one cluster",
        )
    cluster = remote[0].cluster
    names = [member.name for member in cluster.parties]
    if {str(worker.id) for worker in workers} != set(names) or str(provider.id) != cluster.provider.name:
        raise ConfigurationError(
            f"the cluster {cluster.name} is of the parties {', '.join(sorted(names))} and the provider "
            f"{cluster.provider.name}",
            remedy="share between all of its parties, with its provider, or write a cluster file of fewer",
        )
    return remote[0].cluster_digest


def open_session(workers: Sequence[VirtualWorker], provider: VirtualWorker, fixed_point: FixedPoint) -> NetworkSession:
    """A session between the network workers of one cluster; it is closed when the program ends."""
    remote = [worker for worker in (*workers, provider) if isinstance(worker, NetworkWorker)]
    certificate, key = remote[0].credentials
    session = connect(
        _with_addresses(remote[0].cluster, remote),
        certificate=None if certificate is None else Path(certificate),
        key=None if key is None else Path(key),
        fixed_point=fixed_point,
    )
    atexit.register(_close, weakref.ref(session))
    return session


def _close(session: weakref.ref[NetworkSession]) -> None:
    found = session()
    if found is not None and not found.ended:
        with suppress(TorchveilError):
            found.close()


def _with_addresses(cluster: ClusterConfig, workers: Sequence[NetworkWorker]) -> ClusterConfig:
    """The cluster at the addresses that workers were made with."""
    given = {str(worker.id): worker.address for worker in workers}

    def at(member: Member) -> Member:
        lanes = list(member.lanes)
        lanes[cluster.lane] = given[member.name]
        return Member(member.name, addresses=tuple(lanes))

    return msgspec.structs.replace(cluster, parties=tuple(map(at, cluster.parties)), provider=at(cluster.provider))
