"""Training on ranks: how much more a role that is a group of machines gets done, across an emulated WAN.

    python -m benchmarks.groups [--ranks 1 2 4] [--repeats 5] [--page] [--json FILE]

Every rank is a machine of each role and a process of the program: for R ranks 3 R daemons and R controllers, processes
of this machine. Each rank trains 784-128-128-10 on a batch of 128 of its own and all average their gradients with
``torch.distributed.all_reduce`` before every step (weak scaling: R times the batch in a step). Every machine has a line
of its own: 20 ms and 100 Mbit/s each way between organisations, 0.1 ms and 1 Gbit/s between the ranks of a party.

A step is one of ``ROW`` that are submitted one after the other, with one reveal in the end whose own time is taken off;
medians over the repeats, the slowest rank counts. ``scaling`` is rows per second over R times those of one rank.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console
from torch import nn

from benchmarks.inputs import mlp
from benchmarks.network import PAGE, PROVIDER, Figures, relayed
from benchmarks.report import insert, markdown
from benchmarks.run import machine, milliseconds
from torchveil.network.connect import connect
from torchveil.profiling.network import LAN, WAN
from torchveil.testing.clusters import Processes, free_ports, write_cluster

PARTIES = ("alice", "bob")
BATCH, ROW = 128, 4
_LIMITS = {"deadline_s": 120, "handshake_s": 30}


def train(rank: int, ranks: int, store: str, file: Path, repeats: int, pipe: Connection) -> None:
    """One rank of the program: sends the seconds of each repeat's steps, and of a reveal alone."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    with connect(file) as session:
        torch.manual_seed(0)
        model = session.encrypt(mlp())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(rank)
        rows = [torch.rand(BATCH, 784) for _ in range(ROW)]
        labels = nn.functional.one_hot(torch.randint(0, 10, (BATCH,)), 10).float()
        probe = session.share(torch.ones(1))

        def step(x: torch.Tensor) -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(session.share(x)), session.share(labels)).backward()
            if ranks > 1:
                for parameter in model.parameters():
                    dist.all_reduce(parameter.grad, op=dist.ReduceOp.AVG)
            optimizer.step()

        def timed(count: int) -> float:
            dist.barrier()
            start = time.perf_counter()
            for k in range(count):
                step(rows[k])
            probe.reveal()
            return time.perf_counter() - start

        timed(2)
        measured = [(timed(0), timed(ROW)) for _ in range(repeats)]
        cost = session.cost().total
    pipe.send((measured, cost.rounds))
    dist.destroy_process_group()


def row(ranks: int, repeats: int) -> dict[str, Any]:
    """What so many ranks take."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        roles = (*PARTIES, PROVIDER)
        listen = [f"127.0.0.1:{port}" for port in free_ports(ranks * len(roles))]
        far = stack.enter_context(relayed(listen, WAN))
        near = stack.enter_context(relayed(listen, LAN))
        places, found, inside = (
            {role: tuple(each[k * ranks : (k + 1) * ranks]) for k, role in enumerate(roles)}
            for each in (listen, far, near)
        )
        write_cluster(
            Path(name), PARTIES, PROVIDER, limits=_LIMITS, listen=places, addresses=found, inside=inside, ranks=ranks
        )
        daemons = stack.enter_context(Processes(Path(name), environment={"OMP_NUM_THREADS": "1"}))
        context = mp.get_context("spawn")
        store = f"tcp://127.0.0.1:{free_ports(1)[0]}"
        pipes, processes = [], []
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=train, args=(rank, ranks, store, daemons.file, repeats, theirs))
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        results = [pipe.recv() for pipe in pipes]
        for process in processes:
            process.join()
    # the slowest rank of every repeat
    reveal = statistics.median(max(each[0] for each in turn) for turn in zip(*(r[0] for r in results), strict=True))
    whole = statistics.median(max(each[1] for each in turn) for turn in zip(*(r[0] for r in results), strict=True))
    step = (whole - reveal) / ROW
    return {"ranks": ranks, "seconds": step, "reveal_seconds": reveal, "rows_per_s": ranks * BATCH / step}


def figures(rows: list[dict[str, Any]]) -> Figures:
    """The table: beside one rank."""
    alone = rows[0]["rows_per_s"] / rows[0]["ranks"]
    found = [
        [
            str(each["ranks"]),
            str(each["ranks"] * BATCH),
            milliseconds(each["seconds"]),
            f"{each['rows_per_s']:.0f}",
            f"{each['rows_per_s'] / (each['ranks'] * alone):.2f}",
        ]
        for each in rows
    ]
    head = ("ranks of each role", "batch of all ranks", "step", "rows per second", "scaling")
    return Figures("network-ranks", "ranks across a WAN; medians", head, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--page", action="store_true", help="write the table into docs/explanation/network.md")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    about = machine() | {"load_start": os.getloadavg()[0], "repeats": options.repeats}
    rows = [row(ranks, options.repeats) for ranks in options.ranks]
    table = figures(rows)
    about["load_end"] = os.getloadavg()[0]
    said = (
        f"{about['processor']}, {about['cores']} cores for all of them, {about['kernels']} kernels; load average "
        f"{about['load_start']:.1f} at the start and {about['load_end']:.1f} at the end"
    )
    console = Console()
    console.print(table.rich())
    console.print(said)
    if options.page:
        block = f"{said}; {table.title}.\n\n{markdown(table.head, table.rows)}"
        PAGE.write_text(insert(PAGE.read_text(), {table.name: block}.get))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
