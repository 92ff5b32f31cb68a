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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from common import PROVIDER, Clear, Options, Run, check_reveals, prepare_torch, table
from hospitals import EPOCHS, Hospital, hospitals, network, program, shared
from safetensors.torch import save_file
from torch.nn.utils import parameters_to_vector

import torchveil
from torchveil import NetworkSession, Session
from torchveil.testing.clusters import Processes, write_cluster

OWNERS = ("northside", "southside")
PARTIES = ("alice", "bob")
#: What a revealed number may tell at most.
BITS = 64


class Teller:
    """Says on stderr what happens, and when; nothing with ``--json``."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._began = time.perf_counter()

    def step(self, number: int, title: str) -> None:
        self.say(f"\n[{time.perf_counter() - self._began:5.1f} s] {number}. {title}")

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)


def command(*words: object) -> str:
    """Run a command of torchveil as a process of its own; what it printed."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "torchveil.cli", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise SystemExit(f"torchveil {words[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def owner_shares(directory: Path, owner: str, part: Hospital, grants: dict[str, int]) -> str:
    """What a hospital does: split its records, sign how many numbers made from them each receiver may see.

    The file of records stays with it. Returns what ``torchveil share`` says that others can see.
    """
    file = directory / f"{owner}.safetensors"
    save_file({name: getattr(part, name).contiguous() for name in Hospital.__slots__}, file)
    cluster = directory / "cluster.toml"
    told = command("share", file, "--as", f"{owner}/records", "--to", cluster)
    for receiver, n_numbers in grants.items():
        words = ("--cluster", cluster, "--certificate", directory / f"owner-{owner}.pem", "--yes")
        command("grant", "--to", directory / f"{receiver}.pem", "--bits", BITS * n_numbers, *words)
    return told


def find(session: NetworkSession, owner: str) -> Hospital:
    """The records of an owner, as the controller finds them: encrypted."""
    return Hospital(*(session.dataset(f"{owner}/records.{name}") for name in Hospital.__slots__))


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


def in_one_process(parts: Sequence[Hospital], options: Options) -> tuple[Run, Run]:
    """The same program in the clear, and in lockstep."""
    clear = program(Clear(), list(parts), network(options.seed), options)
    session = Session(PARTIES, PROVIDER)
    return clear, program(session, [shared(session, part) for part in parts], network(options.seed), options)


def train(cluster: Processes, options: Options, tell: Teller) -> tuple[Run, dict[str, int]]:
    """What the controller does; its figures, and the reveals by receiver."""
    with torchveil.connect(cluster.file) as session:
        for name, schema in session.datasets().items():
            tell.say(f"   sees {name}: {' x '.join(map(str, schema.shape))} numbers, no value of them")
        model = network(options.seed)
        remote = program(session, [find(session, owner) for owner in OWNERS], model, options)
        session.deliver(parameters_to_vector(model.parameters()), to="owner/northside", name="model")
        reveals = check_reveals(session, {"controller": len(remote.losses) + 1, "owner/northside": 1})
    return remote, reveals


def fetch_model(directory: Path, options: Options) -> torch.Tensor:
    """What the northside hospital does in the end; the parameters of the model."""
    file = directory / "model.npy"
    words = ("--certificate", directory / "owner-northside.pem")
    command("results", "model", "--out", file, "--to", directory / "cluster.toml", *words)
    found = torch.from_numpy(np.load(file))
    initial = parameters_to_vector(network(options.seed).parameters()).detach()
    if found.shape != initial.shape or torch.allclose(found.float(), initial, atol=1e-3):
        raise SystemExit("the model that was delivered is not a trained one")
    return found


def run(directory: Path, options: Options) -> dict[str, object]:
    """In a directory that has no cluster yet."""
    tell = Teller(options.json)
    prepare_torch()
    parts = hospitals(options.seed)
    n_parameters = sum(p.numel() for p in network(options.seed).parameters())

    tell.step(1, "Certificates, cluster.toml and a file for each role")
    write_cluster(directory, PARTIES, PROVIDER, name="hospitals", owners=OWNERS)
    tell.say(f"   in {directory}; on real machines each key is on the machine of its role alone")

    tell.step(2, f"Three daemons start: {', '.join(PARTIES)} (torchveil worker), {PROVIDER} (torchveil provider)")
    with Processes(directory) as cluster:
        for role, address in cluster.config.addresses.items():
            tell.say(f"   {role} listens at {address}, process {cluster.pid(role.name)}")

        tell.step(3, "The hospitals split their records and sign what may be seen (torchveil share, torchveil grant)")
        numbers = {"controller-scientist": options.epochs + 4}
        grants = ({**numbers}, {**numbers, "owner-northside": n_parameters})
        with ThreadPoolExecutor() as pool:
            for told in pool.map(owner_shares, [directory] * len(OWNERS), OWNERS, parts, grants):
                tell.say("   " + told.rstrip().replace("\n", "\n   "))
        tell.say("   alice and bob each hold one share, which alone is random; the provider holds nothing")

        tell.step(4, "The controller trains; it sees losses and the confusion matrix, which both hospitals granted")
        remote, reveals = train(cluster, options, tell)
        tell.say(f"   {sum(reveals.values())} reveals, by receiver: {reveals}")

        tell.step(5, "The northside hospital fetches the model (torchveil results); nobody else can open it")
        model = fetch_model(directory, options)
        tell.say(f"   {model.numel()} parameters")

        tell.step(6, "What the parties wrote down about releases is compared (torchveil audit verify)")
        logs = [f"{party}={directory / party / 'audit.jsonl'}" for party in PARTIES]
        words = ("--ask", "--cluster", directory / "cluster.toml", "--certificate", directory / "owner-northside.pem")
        tell.say("   " + command("audit", "verify", *logs, *words).rstrip().replace("\n", "\n   "))
    statuses = cluster.statuses()
    if set(statuses.values()) != {0}:
        raise SystemExit(f"a role did not stop cleanly: {statuses}")

    tell.step(7, "For comparison the same program in this process alone: in the clear, and in lockstep")
    clear, local = in_one_process(parts, options)
    summary: dict[str, object] = {
        "clear": clear.as_json(),
        "lockstep": local.as_json(),
        "cluster": {**remote.as_json(), "reveals": reveals},
        "difference_points": 100 * ((remote.accuracy or 0) - (local.accuracy or 0)),
        "statuses": statuses,
    }
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        from rich.console import Console

        console = Console()
        console.print(table("One process (lockstep)", clear, local))
        console.print(table("Three daemons over mutual TLS", clear, remote))
        points = summary["difference_points"]
        console.print(f"All roles stopped with status 0. Accuracy differs from lockstep's by {points:.2f} points.")
    return summary


if __name__ == "__main__":
    main()
