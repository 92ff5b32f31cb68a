"""What the commands of owners have in common: which cluster, as whom, how its parties are reached, asking for a yes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import sleep, time

from cryptography.hazmat.primitives.serialization import Encoding

from torchveil.cli.usage import CLUSTER_FILE, UsageError
from torchveil.network import profile
from torchveil.network.authority import Paths
from torchveil.network.certificates import Authority, Identity
from torchveil.network.commands.consent import Ask, Parties
from torchveil.network.config import read_cluster
from torchveil.network.connect import find_credentials
from torchveil.network.consent.grants import Grant
from torchveil.network.names import Role
from torchveil.network.services import Caller

#: So many seconds before a grant begins it goes to the parties.
LEAD_S = 2.0


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Which cluster, and as whom."""
    add_file(parser, "--cluster")
    add_certificate(parser, "the only owner-*.pem")


def add_file(parser: argparse.ArgumentParser, *flags: str) -> None:
    """The cluster's file, under these names."""
    parser.add_argument(
        *flags,
        dest="cluster",
        default=CLUSTER_FILE,
        metavar="FILE",
        help=f"the cluster's file (default: {CLUSTER_FILE})",
    )


def add_certificate(parser: argparse.ArgumentParser, default: str) -> None:
    """As whom; ``default`` says which certificate is taken if none is named."""
    parser.add_argument("--certificate", metavar="PEM", help=f"who asks (default: {default} beside the authority's)")
    parser.add_argument("--key", metavar="FILE", help="its key (default: the certificate's name with .key)")


def add_days(parser: argparse.ArgumentParser) -> None:
    """How long a grant lives."""
    parser.add_argument("--days", type=float, default=30.0, help="how long the grant lives (default: 30)")
    parser.add_argument("--yes", action="store_true", help="sign without asking")


def seconds_of(options: argparse.Namespace) -> int:
    """The life of a grant."""
    if not 0 < options.days <= 3660:
        raise UsageError(f"--days {options.days:g}: a grant lives more than 0 and at most 3660 days")
    days: float = options.days
    return max(1, round(days * 86400))


def signing_time() -> float:
    """When a grant that is signed now begins: later, so that it lies at all parties before it pays at one of them."""
    return time() + LEAD_S


def begun(grant: Grant) -> None:
    """Wait until a grant that all parties have begins by this machine's clock."""
    sleep(max(0.0, grant.not_before - time()))


def caller_as(options: argparse.Namespace, role: Role) -> Caller:
    """Questions to the roles of the cluster, asked as ``role`` unless ``--certificate`` names somebody else."""
    cluster = read_cluster(options.cluster)
    certificate = options.certificate or Paths.of(cluster.authority.parent, role).certificate
    return Caller(cluster, find_credentials(cluster, certificate, options.key, role.kind))


def parties(options: argparse.Namespace) -> Parties:
    """The parties of the cluster, asked with the owner's certificate. The one place that knows the transport."""
    cluster = read_cluster(options.cluster)
    credentials = find_credentials(cluster, options.certificate, options.key, "owner")
    caller = Caller(cluster, credentials)
    return Parties({str(role): _ask(caller, role) for role in cluster.addresses if role.kind == "party"}, credentials)


def _ask(caller: Caller, role: Role) -> Ask:
    return lambda service, arguments: caller.call(role, service, arguments)[0]


def identity_in(path: Path, cluster_file: str) -> Identity:
    """Who a certificate file is of. Raises ``CertificateError`` unless the cluster's authority issued it."""
    der = profile.read_certificate(path).public_bytes(Encoding.DER)
    return Identity.from_der(der, Authority.load(read_cluster(cluster_file).authority))


def agreed(options: argparse.Namespace, text: str) -> bool:
    """Show what is to be signed; whether the owner says yes. No answer is a no."""
    print(text)
    if options.yes:
        return True
    print("Sign this? Write yes: ", end="", flush=True)
    if sys.stdin.readline().strip() == "yes":
        return True
    print("Nothing was signed.")
    return False
