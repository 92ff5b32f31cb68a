"""Time the workloads against plain torch, and a peer if asked for, in the same run: a table and JSON.

    python -m benchmarks.run [--only W4] [--repeats 5] [--parties 2] [--threads 1] [--peer crypten] [--json FILE]

Encrypted, clear and the peer's runs alternate (A B C A B C), so that a ratio is one run's. Times of a shared machine
are noisy: quote medians and ratios. Bytes and rounds are exact. One torch thread is the default: where other programs
use the cores, two threads that wait for each other at every small operation are many times slower, in clear torch as
well. ``cpu`` is processor time, all roles together, which other programs disturb less than time on the wall.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.peers.client import PEERS, Peer, PeerError
from benchmarks.workloads import WORKLOADS, Run, Workload
from torchveil import Session
from torchveil.kernels import dispatch, native


def timed(run: Run, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call."""
    start = clock()
    run()
    return clock() - start


def processor() -> str:
    """The processor's name as Linux tells it, else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "kernels": f"native ({native.core.level()})" if dispatch.NATIVE else "reference",
    }


def measure(workload: Workload, parties: int, repeats: int, warmup: int, peer: Peer | None = None) -> dict[str, Any]:
    """Alternate encrypted, clear and the peer's runs; the cost is that of one encrypted run."""
    torch.manual_seed(0)
    session = Session([f"party{i}" for i in range(parties)], "provider", fixed_point=workload.fixed_point)
    encrypted, clear = workload.prepare(session), workload.clear()
    beside = PeerRuns(peer, workload.work.name) if peer else None
    for _ in range(warmup):
        encrypted()
        clear()
        if beside:
            beside.warm_up()
    start = session.cost()
    seconds, cpu, plain = [], [], []
    for _ in range(repeats):
        cpu_start = time.process_time()
        seconds.append(timed(encrypted))
        cpu.append(time.process_time() - cpu_start)
        plain.append(timed(clear))
        if beside:
            beside.run()
    end = session.cost()
    before, after = start.total, end.total
    row = {
        "workload": workload.name,
        "work": workload.work.name,
        "parties": parties,
        "seconds": statistics.median(seconds),
        "seconds_all": seconds,
        "cpu_seconds": statistics.median(cpu),
        "plain_seconds": statistics.median(plain),
        "ratio": statistics.median(seconds) / statistics.median(plain),
        "instructions": (end.instructions - start.instructions) // repeats,
        "rounds": (after.rounds - before.rounds) // repeats,
        "sent_bytes": (after.sent - before.sent) // repeats,
        "dealt_bytes": (after.dealt - before.dealt) // repeats,
        "largest_error": workload.error(session) if workload.error else None,
    }
    session.close()
    if beside:
        row["peer"] = beside.result(row["seconds"])
    return row


class PeerRuns:
    """A peer's part in one measurement. The first failure is kept and said in the result; nothing is made up."""

    def __init__(self, peer: Peer, name: str) -> None:
        self._peer, self._name = peer, name
        self._times: list[tuple[float, float]] = []  # seconds, processor seconds
        self._unavailable = peer.unavailable(name)

    def warm_up(self) -> None:
        if self._unavailable is None:
            try:
                self._peer.run(self._name)
            except PeerError as problem:
                self._unavailable = str(problem)

    def run(self) -> None:
        if self._unavailable is None:
            try:
                self._times.append(self._peer.run(self._name))
            except PeerError as problem:
                self._unavailable = str(problem)

    def result(self, ours: float) -> dict[str, Any]:
        """The peer's figures beside ``ours`` seconds, or why there are none."""
        if self._unavailable is not None:
            return {"unavailable": self._unavailable}
        seconds, cpu = ([times[k] for times in self._times] for k in range(2))
        median = statistics.median(seconds)
        return {
            "seconds": median,
            "seconds_all": seconds,
            "cpu_seconds": statistics.median(cpu),
            "ratio": median / ours,
            **self._peer.ask("cost", self._name),
            **self._peer.ask("error", self._name),
            "note": self._peer.note(self._name),
        }


# --- the table -------------------------------------------------------------------------------------------------------


def milliseconds(seconds: float) -> str:
    """Three significant digits."""
    value = seconds * 1e3
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.3f} MB"


_Column = tuple[str, Callable[[dict[str, Any]], str]]

_COLUMNS: tuple[_Column, ...] = (
    ("workload", lambda row: row["workload"]),
    ("encrypted", lambda row: milliseconds(row["seconds"])),
    ("cpu", lambda row: milliseconds(row["cpu_seconds"])),
    ("clear torch", lambda row: milliseconds(row["plain_seconds"])),
    ("ratio", lambda row: f"{row['ratio']:.0f}"),
    ("rounds", lambda row: str(row["rounds"])),
    ("sent/party", lambda row: megabytes(row["sent_bytes"])),
    ("dealt", lambda row: megabytes(row["dealt_bytes"])),
)

_PEER_COLUMNS: tuple[_Column, ...] = (
    ("peer", lambda row: milliseconds(row["peer"]["seconds"])),
    ("peer cpu", lambda row: milliseconds(row["peer"]["cpu_seconds"])),
    ("peer/ours", lambda row: f"{row['peer']['ratio']:.1f}"),
    ("peer sent", lambda row: megabytes(row["peer"]["sent_bytes"])),
    ("peer rounds", lambda row: str(row["peer"]["rounds"])),
)


def table(rows: list[dict[str, Any]], peer: str | None) -> Table:
    """The rows; a peer's cells say "not available" where it has none."""
    title = "all roles in one process; medians" + (f"; peer: {peer}" if peer else "")
    found = Table(title=title)
    for name, _ in _COLUMNS + (_PEER_COLUMNS if peer else ()):
        found.add_column(name, justify="left" if name == "workload" else "right")
    for row in rows:
        cells = [cell(row) for _, cell in _COLUMNS]
        if peer and "unavailable" in row["peer"]:
            cells += ["not available"] + [""] * (len(_PEER_COLUMNS) - 1)
        elif peer:
            cells += [cell(row) for _, cell in _PEER_COLUMNS]
        found.add_row(*cells)
    return found


def remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Why the peer has no figure, and what to know about those it has."""
    found = []
    for row in rows:
        peer = row.get("peer", {})
        if "unavailable" in peer:
            found.append(f"{row['workload']}: not available, {peer['unavailable']}")
        elif peer.get("note"):
            found.append(f"{row['workload']}: {peer['note']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run the workloads whose name starts with this")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--parties", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads, also of each of the peer's parties")
    parser.add_argument("--peer", choices=sorted(PEERS), help="run this system in turn; it is installed if need be")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    if not console.is_terminal:
        console.width = 180
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(PEERS[options.peer](options.threads)) if options.peer else None
        about = machine() | {"load_start": os.getloadavg()[0], "repeats": options.repeats}
        console.print(
            f"{about['processor']}, {about['cores']} cores, torch {about['torch']}, {about['threads']} thread(s), "
            f"{about['kernels']} kernels, load {about['load_start']:.2f}"
        )
        if peer:
            about["peer"], about["peer_mode"] = peer.name, peer.mode
            console.print(f"peer: {peer.name}, {peer.mode}")
        rows = []
        for workload in WORKLOADS:
            if workload.name.startswith(options.only):
                rows.append(measure(workload, options.parties, options.repeats, options.warmup, peer))
                console.print(f"  {rows[-1]['workload']}: {milliseconds(rows[-1]['seconds'])}")
    about["load_end"] = os.getloadavg()[0]
    console.print(table(rows, about.get("peer")))
    for remark in remarks(rows):
        console.print(f"  {remark}")
    console.print(f"load at the end {about['load_end']:.2f}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
