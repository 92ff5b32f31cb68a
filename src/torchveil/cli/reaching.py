"""Arguments of commands that ask the roles of a cluster, and how these then reach them."""

from __future__ import annotations

import argparse
import dataclasses

from msgspec.structs import replace

from torchveil.cli.usage import CLUSTER_FILE, UsageError
from torchveil.errors import ConfigurationError
from torchveil.network.certificates import Credentials
from torchveil.network.commands.reach import Reach
from torchveil.network.config import ClusterConfig, RoleConfig, read_cluster, read_role
from torchveil.network.connect import find_credentials
from torchveil.network.health import asking
from torchveil.network.services import Caller
from torchveil.version import VERSION

#: A daemon that is well answers within this.
PROBE_S = 5.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1", "[::]": "[::1]"}  # noqa: S104


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    argument = parser.add_argument
    argument("--cluster", metavar="FILE", help=f"the cluster's file (default: {CLUSTER_FILE})")
    # without a default of its own: if it is left out, --cluster stays as it was given
    argument("cluster", nargs="?", default=argparse.SUPPRESS, help="the same without --cluster")
    argument("--role", metavar="FILE", help="a role's file such as alice.toml: ask as this role, of its cluster")
    argument(
        "--certificate",
        metavar="PEM",
        help="who asks; else the only controller-*.pem beside ca.pem",
    )
    argument("--key", metavar="FILE", help="its key; else the file beside it that ends in .key")
    argument(
        "--rank", type=int, help="which rank of roles that are groups; else the first, or the one of the role's file"
    )


def reach_of(options: argparse.Namespace) -> Reach:
    """The cluster that the arguments name. Raises what ``asking_as`` raises."""
    return _reach(*asking_as(options))


def asking_as(options: argparse.Namespace) -> tuple[ClusterConfig, Credentials]:
    """The cluster that the arguments name, and who asks. Raises ``UsageError``, or our errors about the files."""
    if options.role is not None:
        if options.cluster is not None:
            raise UsageError("a role's file names its cluster: give --role or the cluster's file, not both")
        role = _role(options.role, options.rank)
        return role.cluster, Credentials.load(role.certificate, role.key, role.cluster.authority)
    cluster = read_cluster(options.cluster or CLUSTER_FILE).at(options.rank or 0)
    return cluster, find_credentials(cluster, options.certificate, options.key, "controller")


def _role(file: str, rank: int | None) -> RoleConfig:
    """A role's file; of a group that shares one the rank that was asked for, else the first."""
    try:
        return read_role(file, rank=rank)
    except ConfigurationError:
        if rank is not None:
            raise
        return read_role(file, rank=0)


def reach_itself(file: str, rank: int | None = None) -> Reach:
    """The one daemon of a role's file, at this machine, asked as itself."""
    role = _role(file, rank)
    cluster = replace(role.cluster, limits=replace(role.cluster.limits, handshake_s=PROBE_S))
    here = (_here(role),) * cluster.lanes
    members = [replace(member, address=None, addresses=here) for member in (*cluster.parties, cluster.provider)]
    cluster = replace(cluster, parties=tuple(members[:-1]), provider=members[-1])
    reach = _reach(cluster, Credentials.load(role.certificate, role.key, cluster.authority))
    return dataclasses.replace(reach, addresses={str(role.role): _here(role)})


def _here(role: RoleConfig) -> str:
    host, _, port = role.listen.rpartition(":")
    return f"{_EVERYWHERE.get(host, host)}:{port}"


def _reach(cluster: ClusterConfig, credentials: Credentials) -> Reach:
    return Reach(
        addresses={str(role): address for role, address in cluster.addresses.items()},
        config_digest=cluster.digest().hex(),
        version=VERSION,
        expires_at_s=credentials.identity.not_after.timestamp(),
        ask=asking(Caller(cluster, credentials)),
    )
