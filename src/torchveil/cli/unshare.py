"""Delete what was shared, at every party: the array, its target and its mask.

    torchveil unshare hospital-a/x [--from cluster.toml]

Exit status: 0, or 2 if something could not be deleted. Sessions that opened the data before keep their copy.
"""

from __future__ import annotations

import argparse

from torchveil.cli.owners import add_certificate, add_file, caller_as
from torchveil.network.datasets import owner_of
from torchveil.network.names import Role
from torchveil.network.owner import parties_of, unshare


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("name", help="as it was shared: hospital-a/x")
    add_file(parser, "--from", "--cluster")
    add_certificate(parser, "owner-NAME.pem")


def run(options: argparse.Namespace) -> int:
    """Delete; say where."""
    caller = caller_as(options, Role.parse(owner_of(options.name)))
    unshare(caller, options.name)
    print(f"deleted {options.name} at {', '.join(map(str, parties_of(caller.cluster)))}")
    return 0
