"""Workers on machines of their own: ``sy.NetworkWorker(id="alice", address="alice.example:7001")``.

A network worker takes the place of a virtual one in ``share(...)`` and ``crypto_provider=``; nothing else of a program
changes. It is a member of a cluster, whose file names everybody's address, the authority, and so who is let in. Tensors
in the clear are never sent to it.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from torch import Tensor

from syft.workers import VirtualWorker
from torchveil import ConfigurationError, FixedPoint, InvalidArgument
from torchveil.network.config import ClusterConfig, Member, read_cluster
from torchveil.network.connect import NetworkSession, connect

if TYPE_CHECKING:
    from syft.torch_hook import TorchHook

#: The environment's name for the cluster's file; without it ``cluster.toml`` in the working directory.
CLUSTER = "TORCHVEIL_CLUSTER"


class NetworkWorker(VirtualWorker):
    """A party or the provider of a cluster.

    id: its name in the cluster. address: ``host:port`` in place of the one in the cluster's file. cluster: that file;
    without it the one that ``TORCHVEIL_CLUSTER`` names, or ``cluster.toml``. certificate, key: who this program is; see
    ``torchveil.network.connect``. Raises the core's ``ConfigurationError`` for a name that is no member.
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
        super().__init__(hook, id)
        self.cluster = read_cluster(Path(cluster or os.environ.get(CLUSTER, "cluster.toml")))
        members = [*self.cluster.parties, self.cluster.provider]
        if str(id) not in [member.name for member in members]:
            raise ConfigurationError(
                f"{id!r} is no member of the cluster {self.cluster.name}",
                remedy="choose one of " + ", ".join(member.name for member in members),
            )
        self.address = address
        self.credentials = certificate, key

    def register_obj(self, x: Tensor) -> None:
        """Refused: a tensor in the clear would be sent to another organisation."""
        raise InvalidArgument(
            f"{self.id} is on another machine: a tensor in the clear is not sent there",
            op="send",
            remedy="split it: x.fix_precision().share(alice, bob, crypto_provider=james)",
        )

    def load_data(self, data: Iterable[Tensor]) -> None:
        """Refused, as ``register_obj`` is."""
        for x in data:
            self.register_obj(x)


def open_session(
    workers: Sequence[VirtualWorker], provider: VirtualWorker, fixed_point: FixedPoint
) -> NetworkSession | None:
    """A session between network workers, or None if all of them are virtual.

    Raises ``ConfigurationError`` for a mixture, for workers of two clusters, and unless they are all of their cluster.
    """
    everybody = [*workers, provider]
    remote = [worker for worker in everybody if isinstance(worker, NetworkWorker)]
    if not remote:
        return None
    if len(remote) != len(everybody):
        local = ", ".join(str(worker.id) for worker in everybody if worker not in remote)
        raise ConfigurationError(
            f"{local} is a virtual worker and the others are not", remedy="make all of them network workers"
        )
    cluster = remote[0].cluster
    names = {member.name for member in cluster.parties}
    given = {str(worker.id) for worker in workers}
    if any(worker.cluster.digest() != cluster.digest() for worker in remote):
        raise ConfigurationError("workers of two clusters", remedy="share between workers of one cluster")
    if given != names or str(provider.id) != cluster.provider.name:
        raise ConfigurationError(
            f"the cluster {cluster.name} is of the parties {', '.join(sorted(names))} and the provider "
            f"{cluster.provider.name}",
            remedy="share between all of its parties, with its provider, or write a cluster file of fewer",
        )
    certificate, key = remote[0].credentials
    return connect(
        _with_addresses(cluster, remote),
        certificate=None if certificate is None else Path(certificate),
        key=None if key is None else Path(key),
        fixed_point=fixed_point,
    )


def _with_addresses(cluster: ClusterConfig, workers: Sequence[NetworkWorker]) -> ClusterConfig:
    """The cluster at the addresses that workers were made with."""
    given = {str(worker.id): worker.address for worker in workers}

    def at(member: Member) -> Member:
        return Member(member.name, given.get(member.name) or member.address)

    return msgspec.structs.replace(cluster, parties=tuple(map(at, cluster.parties)), provider=at(cluster.provider))
