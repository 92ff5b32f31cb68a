"""Fetch results that a controller had made for an owner.

    torchveil results [--to cluster.toml]                list their names
    torchveil results NAME --out model.npy               add up the parties' sealed shares

Exit status: 0, or 2 if a result was not fetched.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from torchveil.cli.owners import add_certificate, add_file
from torchveil.cli.usage import UsageError
from torchveil.network import results
from torchveil.network.config import read_cluster
from torchveil.network.connect import find_credentials
from torchveil.network.services import Caller
from torchveil.storage.files import replacing, storing


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    argument = parser.add_argument
    argument("name", nargs="?", help="which result; without it their names are listed")
    add_file(parser, "--to", "--cluster")
    argument("--out", type=Path, help="a new file for the numbers, .npy; they are never printed")
    argument("--forget", action="store_true", help="have the parties forget it once it was written")
    add_certificate(parser, "the only owner-*.pem")


def run(options: argparse.Namespace) -> int:
    """List or fetch."""
    cluster = read_cluster(options.cluster)
    caller = Caller(cluster, find_credentials(cluster, options.certificate, options.key, "owner"))
    if options.name is None:
        for name in results.names(caller):
            print(name)
        return 0
    if options.out is None:
        raise UsageError("say where to write it: --out FILE.npy")
    if options.out.exists():
        raise UsageError(f"{options.out} is there already: name another file")
    fetched = results.fetch(caller, options.name)
    with storing(f"writing {options.out}"), replacing(options.out) as file:
        np.save(file, fetched.value.numpy(), allow_pickle=False)
    print(f"{options.name}: {' x '.join(map(str, fetched.value.shape)) or 'one number'}, in {options.out}")
    if options.forget:
        results.forget(caller, fetched)
    return 0
