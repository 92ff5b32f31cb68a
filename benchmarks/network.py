"""A training step and inference with every role a process of its own, beside lockstep in the same run: table and JSON.

    python -m benchmarks.network [--repeats 9] [--parties 2] [--only loopback|wan] [--large] [--page] [--json FILE]

Three daemons (parties and provider) run as processes of this machine; this process is the controller. They talk over
mutual TLS on 127.0.0.1: first directly, in turns with lockstep (A B A B), then through relays that give each role's
link 20 ms each way and 100 Mbit/s (``testing.delays``; the relays are one more process).

What is timed. ``run`` hands a fresh batch to the session and submits the step, whose end this process does not see; so
one number is revealed afterwards, for which all parties must have finished. ``step`` is the time of both, less the
median time of such a reveal alone, measured in the same turns, in lockstep as over the network. ``in a row`` is a
step of several that are submitted one after the other with one reveal in the end, as a training loop does that reads
its loss now and then. ``fastest`` compares the fastest step with what it may take beside the fastest of lockstep: where
other programs use the cores too, four processes that wait for each other lose more than one that waits for nobody.
``CPU`` is processor time of all roles and the controller, which others disturb less.

Floors, from the costs of one run (rounds, bytes that a party sends, bytes that are dealt, bytes of inputs):

    loopback   1.5 x lockstep + 0.3 ms x rounds + (sent + dealt + inputs) / (1 GB/s), which a step may take
    WAN        max(rounds x one-way latency + (sent + inputs) / bandwidth, dealt / bandwidth)

Over a WAN a party's messages and inputs pass links of the parties, what is dealt the provider's link, at the same time:
the provider waits for nobody. So the floor is what the slower of the two takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.inputs import WORKS, Inference, Training, mlp
from benchmarks.report import amount, insert, markdown
from benchmarks.run import machine, milliseconds
from benchmarks.workloads import Run, Workload, variants
from torchveil import Session
from torchveil.gates.base import Cost
from torchveil.network.connect import connect
from torchveil.network.owner_calls import share_data
from torchveil.profiling.network import WAN, Network
from torchveil.testing.clusters import Processes, free_ports, write_cluster
from torchveil.testing.delays import Relay

#: What is run, by kind of work: the net of W4.
NETWORKS: tuple[Workload, ...] = (
    *(workload for work in WORKS if isinstance(work, Training) and work.build is mlp for workload in variants(work)),
    *variants(Inference("784-128-128-10 inference, batch 128", mlp, (128, 784))),
)
#: How much a step over loopback may take: this times lockstep, so much per round, so much per byte.
FACTOR, ROUND_S, BYTES_PER_S = 1.5, 0.0003, 1e9
#: Steps in a row.
ROW = 6
#: Bytes of an owner's data, and of one exchange, of ``--large``.
LARGE_DATA, LARGE_EXCHANGE = 200_000_000, 100_000_000
PROVIDER = "james"
PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "network.md"
_LIMITS = {"deadline_s": 60, "handshake_s": 20}


# --- clusters --------------------------------------------------------------------------------------------------------


def _relays(pipe: Connection, targets: Sequence[str], network: Network) -> None:
    """A process: a relay before each target, until the other end of the pipe closes."""
    with ExitStack() as stack:
        relays = [stack.enter_context(Relay(target, network)) for target in targets]
        pipe.send([relay.address for relay in relays])
        pipe.poll(None)


@contextmanager
def relayed(targets: Sequence[str], network: Network) -> Iterator[list[str]]:
    """Addresses where the targets are found across an emulated network."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_relays, args=(theirs, targets, network), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join(10)


@contextmanager
def cluster(parties: Sequence[str], network: Network | None, threads: int, **options: Any) -> Iterator[Processes]:
    """Daemons as processes. With a network every connection to a role passes a relay before it."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        roles = (*parties, PROVIDER)
        listen = [f"127.0.0.1:{port}" for port in free_ports(len(roles))]
        found = listen if network is None else stack.enter_context(relayed(listen, network))
        places = dict(zip(roles, listen, strict=True)), dict(zip(roles, found, strict=True))
        write_cluster(Path(name), parties, PROVIDER, limits=_LIMITS, listen=places[0], addresses=places[1], **options)
        yield stack.enter_context(Processes(Path(name), environment={"OMP_NUM_THREADS": str(threads)}))


# --- measuring -------------------------------------------------------------------------------------------------------


def processor_s(pid: int) -> float:
    """Processor time of a process so far; 0 where Linux does not tell."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@dataclass
class Side:
    """One session's runs of a workload, and what they took in seconds; ``pids``: the roles that are other processes."""

    session: Session
    run: Run
    probe: Tensor
    pids: Sequence[int]
    steps: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    reveals: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, workload: Workload, session: Session, pids: Sequence[int] = ()) -> Side:
        torch.manual_seed(0)
        return cls(session, workload.prepare(session), session.share(torch.ones(1)), pids)

    def _timed(self, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            self.run()
        self.probe.reveal()
        return time.perf_counter() - start

    def turn(self) -> None:
        """A reveal alone, a step, steps in a row."""
        before = self._processor_s()
        self.reveals.append(self._timed(0))
        self.steps.append(self._timed(1))
        self.rows.append(self._timed(ROW))
        self.processor.append((self._processor_s() - before) / (1 + ROW))

    def _processor_s(self) -> float:
        """Processor time of this process and of the roles that are others."""
        return time.process_time() + sum(map(processor_s, self.pids))

    def forget(self) -> None:
        self.steps, self.rows, self.reveals, self.processor = [], [], [], []

    def cost(self) -> Cost:
        """What one run costs."""
        before = self.session.cost().total
        self.run()
        after = self.session.cost().total
        return Cost(*(getattr(after, name) - getattr(before, name) for name in ("rounds", "sent", "dealt", "outside")))

    def fastest(self) -> float:
        """The fastest step, which other programs disturbed least."""
        return min(self.steps) - min(self.reveals)

    def seconds(self) -> tuple[float, float, float]:
        """Medians: a step, a step of several in a row, a reveal alone."""
        reveal = statistics.median(self.reveals)
        return statistics.median(self.steps) - reveal, (statistics.median(self.rows) - reveal) / ROW, reveal


def measure(
    workload: Workload, sessions: Sequence[tuple[Session, Sequence[int]]], repeats: int, warmup: int
) -> tuple[list[Side], Cost]:
    """The workload in each of the sessions, in turns; each comes with the processes of its roles."""
    sides = [Side.of(workload, *session) for session in sessions]
    for _ in range(warmup):
        for side in sides:
            side.turn()
    cost = sides[0].cost()
    sides[0].probe.reveal()
    for side in sides:
        side.forget()
    for _ in range(repeats):
        for side in sides:
            side.turn()
    return sides, cost


def floor_s(cost: Cost, network: Network) -> float:
    """What one run cannot take less of across a network."""
    bandwidth = network.bandwidth_bytes_per_s
    parties = cost.rounds * network.latency_s + (cost.sent + cost.outside) / bandwidth
    return max(parties, cost.dealt / bandwidth)


def loopback_row(
    workload: Workload, local: Session, remote: Session, repeats: int, pids: Sequence[int] = ()
) -> dict[str, Any]:
    (inside, outside), cost = measure(workload, ((local, ()), (remote, pids)), repeats, warmup=2)
    lockstep, lockstep_row, _ = inside.seconds()
    step, row, reveal = outside.seconds()
    network_s = ROUND_S * cost.rounds + (cost.sent + cost.dealt + cost.outside) / BYTES_PER_S
    allowed = FACTOR * lockstep + network_s
    fastest, fastest_allowed = outside.fastest(), FACTOR * inside.fastest() + network_s
    return {
        "workload": workload.name,
        "network": "loopback",
        "rounds": cost.rounds,
        "sent_bytes": cost.sent,
        "dealt_bytes": cost.dealt,
        "outside_bytes": cost.outside,
        "lockstep_seconds": lockstep,
        "lockstep_row_seconds": lockstep_row,
        "seconds": step,
        "row_seconds": row,
        "reveal_seconds": reveal,
        "seconds_all": outside.steps,
        "lockstep_seconds_all": inside.steps,
        "bar_seconds": allowed,
        "of_bar": step / allowed,
        "cpu_seconds": statistics.median(outside.processor),
        "lockstep_cpu_seconds": statistics.median(inside.processor),
        "fastest_seconds": fastest,
        "fastest_bar_seconds": fastest_allowed,
    }


def wan_row(workload: Workload, remote: Session, repeats: int) -> dict[str, Any]:
    (side,), cost = measure(workload, ((remote, ()),), repeats, warmup=2)
    step, row, reveal = side.seconds()
    floor = floor_s(cost, WAN)
    return {
        "workload": workload.name,
        "network": WAN.name,
        "rounds": cost.rounds,
        "sent_bytes": cost.sent,
        "dealt_bytes": cost.dealt,
        "outside_bytes": cost.outside,
        "seconds": step,
        "row_seconds": row,
        "reveal_seconds": reveal,
        "seconds_all": side.steps,
        "floor_seconds": floor,
        "ratio": step / floor,
        "row_ratio": row / floor,
    }


# --- large values ----------------------------------------------------------------------------------------------------


def memory(pid: int, line_of: str = "VmRSS") -> int:
    """Bytes of memory that a process has, or had at most (``VmHWM``); 0 where Linux does not tell."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(line_of):
                return int(line.split()[1]) * 1024
    return 0


def large_rows(names: Sequence[str], threads: int) -> Iterator[dict[str, Any]]:
    """Data of 200 MB from an owner to a session, and a product whose only exchange has 100 MB: seconds and memory.

    ``memory``: of each role when it is done, and at most so far.
    """
    with cluster(names, None, threads, owners=("hospital",)) as daemons:

        def row(what: str, work: Callable[[], object]) -> dict[str, Any]:
            start = time.perf_counter()
            work()
            seconds = time.perf_counter() - start
            held = {name: (memory(pid), memory(pid, "VmHWM")) for name, pid in pids.items()}
            return {"what": what, "seconds": seconds, "memory": held}

        pids = {name: daemons.pid(name) for name in (*names, PROVIDER)}
        yield row("nothing", lambda: None)
        data = torch.rand(LARGE_DATA // 8 // 100, 100)
        yield row("200 MB shared by an owner", lambda: share_data(daemons.file, "hospital/x", data))
        with connect(daemons.file) as session:
            yield row("opened by a session", lambda: session.dataset("hospital/x"))
        with connect(daemons.file) as session:
            values, probe = session.share(torch.rand(LARGE_EXCHANGE // 8)), session.share(torch.ones(1))
            yield row("a value of 100 MB shared", probe.reveal)
            factor = session.share(torch.ones(1))
            yield row("exchange of 100 MB", lambda: (values * factor, probe.reveal()))
        time.sleep(1)
        yield row("sessions closed", lambda: None)


# --- the tables ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """A table under its name on the page."""

    name: str
    title: str
    head: tuple[str, ...]
    rows: list[list[str]]

    def rich(self) -> Table:
        found = Table(*self.head, title=self.title)
        for row in self.rows:
            found.add_row(*row)
        return found


_COST = ("workload", "rounds", "sent by a party", "dealt", "inputs")
_HEADS = {
    "loopback": (
        *_COST,
        "lockstep",
        "step",
        "may take",
        "fastest, may take",
        "CPU, of lockstep",
        "in a row, of lockstep",
        "reveal",
    ),
    WAN.name: (*_COST, "floor", "step", "step / floor", "in a row", "in a row / floor", "reveal"),
}


def figures(rows: Sequence[dict[str, Any]]) -> Iterator[Figures]:
    """One table of loopback, one of the emulated network."""
    for network, head in _HEADS.items():
        found: list[list[str]] = []
        for row in (row for row in rows if row["network"] == network):
            cells = [row["workload"], str(row["rounds"])]
            cells += [amount(row[key]) for key in ("sent_bytes", "dealt_bytes", "outside_bytes")]
            step, in_a_row, reveal = (milliseconds(row[key]) for key in ("seconds", "row_seconds", "reveal_seconds"))
            if network == WAN.name:
                cells += [milliseconds(row["floor_seconds"]), step, f"{row['ratio']:.2f}"]
                cells += [in_a_row, f"{row['row_ratio']:.2f}", reveal]
            else:
                cells += [milliseconds(row["lockstep_seconds"]), step]
                cells += [f"{milliseconds(row['bar_seconds'])} ({row['of_bar']:.2f})"]
                cells += [f"{milliseconds(row['fastest_seconds'])}, {milliseconds(row['fastest_bar_seconds'])}"]
                cells += [f"{milliseconds(row['cpu_seconds'])}, {milliseconds(row['lockstep_cpu_seconds'])}"]
                cells += [f"{in_a_row}, {milliseconds(row['lockstep_row_seconds'])}", reveal]
            found.append(cells)
        if found:
            yield Figures(f"network-{network.lower()}", f"{network}; medians", head, found)


def large_figures(rows: Sequence[dict[str, Any]]) -> Figures:
    """Times and memory of large values."""
    head = ("", "time", *rows[0]["memory"])
    found = [
        [row["what"], f"{row['seconds']:.1f} s"]
        + [f"{now / 1e6:.0f}, {most / 1e6:.0f} MB" for now, most in row["memory"].values()]
        for row in rows
    ]
    return Figures("network-large", "large values; memory now and at most", head, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--parties", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads, of every role and of lockstep")
    parser.add_argument("--only", choices=("loopback", "wan"), help="one of the two networks")
    parser.add_argument("--match", default="", help="workloads whose name holds this")
    parser.add_argument("--large", action="store_true", help="data of 200 MB and an exchange of 100 MB, nothing else")
    parser.add_argument("--page", action="store_true", help="write the tables into docs/explanation/network.md")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    if not console.is_terminal:
        console.width = 200
    names = [f"party{k}" for k in range(options.parties)]
    about = machine() | {"load_start": os.getloadavg()[0], "repeats": options.repeats, "parties": options.parties}
    chosen = [workload for workload in NETWORKS if options.match in workload.name]
    rows: list[dict[str, Any]] = []
    if options.large:
        found = [large_figures(list(large_rows(names, options.threads)))]
    else:
        if options.only != "wan":
            with cluster(names, None, options.threads) as daemons, connect(daemons.file) as remote:
                local, pids = Session(names, PROVIDER), [daemons.pid(name) for name in (*names, PROVIDER)]
                rows += [loopback_row(workload, local, remote, options.repeats, pids) for workload in chosen]
        if options.only != "loopback":
            with cluster(names, WAN, options.threads) as daemons, connect(daemons.file) as remote:
                rows += [wan_row(workload, remote, options.repeats) for workload in chosen]
        found = list(figures(rows))
    about["load_end"] = os.getloadavg()[0]
    said = (
        f"{about['processor']}, {about['cores']} cores, {about['threads']} thread(s) for each role, {about['kernels']} "
        f"kernels, {options.parties} parties; load average {about['load_start']:.1f} at the start and "
        f"{about['load_end']:.1f} at the end"
    )
    for each in found:
        console.print(each.rich())
    console.print(said)
    if options.page:
        blocks = {each.name: f"{said}; {each.title}.\n\n{markdown(each.head, each.rows)}" for each in found}
        suffix = "" if options.parties == 2 else f"-{options.parties}"
        blocks = {name + suffix: block for name, block in blocks.items()}
        PAGE.write_text(insert(PAGE.read_text(), blocks.get))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
