"""``connect``: a session whose roles run on machines of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchveil.drivers.base import Driver
from torchveil.errors import ConfigurationError
from torchveil.fixedpoint import FixedPoint
from torchveil.network.certificates import Credentials
from torchveil.network.config import ClusterConfig, read_cluster
from torchveil.network.driver import NetworkDriver
from torchveil.network.opening import open_as_controller
from torchveil.session import Session


class NetworkSession(Session):
    """A session with the roles of a cluster. The program is the controller: it sees shapes, and what is revealed to it.

    Raises what a connection raises; see ``connect``.
    """

    def __init__(
        self, cluster: ClusterConfig, credentials: Credentials, *, fixed_point: FixedPoint | None = None
    ) -> None:
        self.cluster = cluster
        self._credentials = credentials
        names = [member.name for member in cluster.parties]
        super().__init__(names, cluster.provider.name, fixed_point=fixed_point, backend="network")

    def _make_driver(self, backend: str, debug: bool) -> Driver:
        if debug:
            raise ConfigurationError(
                "debug mode compares with clear values, which no role of a network has", remedy="use a local session"
            )
        opened = open_as_controller(self.cluster, self._credentials, self.cluster.limits)
        return NetworkDriver(opened, self._credentials, self.cluster.limits, operation=lambda: self.operation)

    def _protection(self) -> str:
        return f"roles of the cluster {self.cluster.name}, mutual TLS 1.3; this program is {self._credentials.role}"


def connect(
    cluster: str | Path | ClusterConfig,
    *,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    fixed_point: FixedPoint | None = None,
) -> NetworkSession:
    """Open a session with the parties and the provider of a cluster file.

    certificate, key: who this program is. Without them the only controller's certificate beside the cluster's file
    (``controller-NAME.pem`` with ``controller-NAME.key``).

    Raises ``ConfigurationError`` for files, ``CertificateError``, ``PeerLost`` when a role cannot be reached,
    ``PeerRejected`` when somebody else answers or the role does not accept this program, ``DeadlineExceeded``.
    """
    config = cluster if isinstance(cluster, ClusterConfig) else read_cluster(cluster)
    credentials = find_credentials(config, certificate, key, "controller")
    return NetworkSession(config, credentials, fixed_point=fixed_point)


def find_credentials(
    config: ClusterConfig, certificate: str | Path | None, key: str | Path | None, kind: str
) -> Credentials:
    """Those of the named files, or the only ones of this kind beside the authority's certificate."""
    if certificate is None:
        found = sorted(config.authority.parent.glob(f"{kind}-*.pem"))
        if len(found) != 1:
            raise ConfigurationError(
                f"there are {len(found)} certificates {kind}-*.pem beside {config.authority}",
                remedy=f"name one: certificate=..., or make one: torchveil certs issue {kind}/NAME",
            )
        certificate = found[0]
    certificate = Path(certificate)
    return Credentials.load(certificate, Path(key) if key else certificate.with_suffix(".key"), config.authority)


__all__: list[Any] = ["NetworkSession", "connect", "find_credentials"]
