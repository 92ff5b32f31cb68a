"""The hospitals example with every role a process of its own: two parties, a provider, two owners, a controller.

    1  certificates and configuration files are made for everybody
    2  the daemons start: torchveil worker, torchveil provider
    3  each hospital splits its records between the parties (torchveil share), and signs what it lets be seen
       (torchveil grant): a bit budget for the controller, who is to see losses and the confusion matrix, and one for
       the other hospital, which is to get the model
    4  the controller trains on what it finds by name; it never had a record
    5  the northside hospital fetches the model (torchveil results)
    6  the parties' logs of releases are compared (torchveil audit verify), and everything stops

The processes talk over mutual TLS on 127.0.0.1. Whoever runs this machine could read them all: it shows how things are
done on three machines, and that they give what a session of one process gives.

    python examples/hospitals_cluster.py [--epochs N] [--seed N] [--json] [--directory DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import PROVIDER, Clear, Options, prepare_torch, table
from hospitals import EPOCHS, Hospital, hospitals, network, program, shared

import torchveil
from torchveil import NetworkSession, Session
from torchveil.testing.clusters import Processes, write_cluster

OWNERS = ("northside", "southside")
PARTIES = ("alice", "bob")
#: What a revealed number may tell at most.
BITS = 64


def command(*words: object) -> str:
    """Run a command of torchveil as a process of its own; what it printed."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "torchveil.cli", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise SystemExit(f"torchveil {words[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def share(directory: Path, owner: str, part: Hospital) -> None:
    """An owner splits its records, a row each with the diagnosis last; the files stay with it."""
    for name, x, y in (("train", part.x, part.y), ("test", part.x_test, part.y_test)):
        file = directory / f"{owner}-{name}.npy"
        np.save(file, torch.cat([x, y[:, None]], 1).numpy())
        command("share", file, "--as", f"{owner}/{name}", "--to", directory / "cluster.toml")


def find(session: NetworkSession, owner: str) -> Hospital:
    """The records of an owner, as the controller finds them: encrypted."""
    train, test = (session.dataset(f"{owner}/{name}") for name in ("train", "test"))
    return Hospital(train[:, :-1], train[:, -1], test[:, :-1], test[:, -1])


def grant(directory: Path, owner: str, to: str, n_numbers: int) -> None:
    """An owner lets ``to`` see so many numbers made from its data."""
    words = ("--cluster", directory / "cluster.toml", "--certificate", directory / f"owner-{owner}.pem", "--yes")
    command("grant", "--to", directory / f"{to}.pem", "--bits", BITS * n_numbers, *words)


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run it all; returns the summary that ``--json`` prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the training data")
    parser.add_argument("--seed", type=int, default=0, help="initial weights, split and batch order; all public")
    parser.add_argument("--json", action="store_true", help="print a summary in JSON and nothing else")
    parser.add_argument("--directory", type=Path, help="where certificates and state go (default: a temporary one)")
    given = parser.parse_args(argv)
    options = Options(given.epochs, given.seed, False, given.json, True, len(PARTIES), Path("out"))
    with tempfile.TemporaryDirectory() as temporary:
        return run(given.directory or Path(temporary), options)


def run(directory: Path, options: Options) -> dict[str, object]:
    """In a directory that has no cluster yet."""

    def say(text: str) -> None:
        if not options.json:
            print(text, file=sys.stderr)

    prepare_torch()
    parts = hospitals(options.seed)
    clear = program(Clear(), parts, network(options.seed), options)
    local_session = Session(PARTIES, PROVIDER)
    local = program(local_session, [shared(local_session, part) for part in parts], network(options.seed), options)

    write_cluster(directory, PARTIES, PROVIDER, name="hospitals", owners=OWNERS)
    parameters = list(network(options.seed).parameters())
    n_parameters = sum(p.numel() for p in parameters)
    with Processes(directory) as cluster:
        say(f"{', '.join(PARTIES)} and {PROVIDER} listen; the hospitals share their records")
        for owner, part in zip(OWNERS, parts, strict=True):
            share(directory, owner, part)
            grant(directory, owner, "controller-scientist", options.epochs + 4)
        grant(directory, "southside", "owner-northside", n_parameters)

        start = time.perf_counter()
        with torchveil.connect(cluster.file) as session:
            say(session.describe())
            model = network(options.seed)
            remote = program(session, [find(session, owner) for owner in OWNERS], model, options)
            for k, parameter in enumerate(model.parameters()):
                session.deliver(parameter, to="owner/northside", name=f"parameter-{k}")
            reveals = len(session.reveals)
        seconds = time.perf_counter() - start

        file = directory / "parameter-0.npy"
        words = ("--to", directory / "cluster.toml", "--certificate", directory / "owner-northside.pem")
        command("results", "parameter-0", "--out", file, *words)
        weights = torch.from_numpy(np.load(file))
        if weights.shape != parameters[0].shape or torch.allclose(weights.float(), parameters[0], atol=1e-3):
            raise SystemExit("the model that was delivered is not a trained one")
        say("the northside hospital has the model")
        say(command("audit", "verify", "--cluster", directory / "cluster.toml", *words[2:]).strip())
    statuses = cluster.statuses()
    if set(statuses.values()) != {0}:
        raise SystemExit(f"a role did not stop cleanly: {statuses}")
    summary: dict[str, object] = {
        "clear": clear.as_json(),
        "lockstep": local.as_json(),
        "cluster": remote.as_json(),
        "difference_points": 100 * ((remote.accuracy or 0) - (local.accuracy or 0)),
        "reveals": reveals,
        "seconds": seconds,
    }
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        from rich.console import Console

        console = Console()
        console.print(table("One process (lockstep)", clear, local))
        console.print(table("Three daemons over mutual TLS", clear, remote))
        points = summary["difference_points"]
        console.print(f"all roles stopped cleanly; accuracy differs from lockstep's by {points:.2f} points")
    return summary


if __name__ == "__main__":
    main()
