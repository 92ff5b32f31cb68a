"""Arguments that commands about a cluster have in common: its file, and who asks."""

from __future__ import annotations

import argparse
from pathlib import Path

from torchveil.network.authority import Paths
from torchveil.network.config import ClusterConfig, read_cluster
from torchveil.network.connect import find_credentials
from torchveil.network.names import Role
from torchveil.network.services import Caller


def add_credentials(parser: argparse.ArgumentParser) -> None:
    """Who asks."""
    parser.add_argument("--certificate", type=Path, help="default: KIND-NAME.pem beside the cluster's ca.pem")
    parser.add_argument("--key", type=Path, help="default: the certificate's name with .key")


def caller_as(options: argparse.Namespace, role: Role) -> Caller:
    """Questions to the roles of the file ``options.cluster`` as ``role``, or as whom ``--certificate`` names."""
    config: ClusterConfig = read_cluster(options.cluster)
    certificate = options.certificate or Paths.of(config.authority.parent, role).certificate
    return Caller(config, find_credentials(config, certificate, options.key, role.kind))
