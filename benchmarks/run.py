"""Time the workloads against plain torch in the same run: medians, bytes and rounds; a table and JSON.

    python benchmarks/run.py [--only W4] [--repeats 5] [--parties 2] [--threads 1] [--json out/bench.json]

Encrypted and clear runs alternate (A B A B), so that a ratio is one run's. Times of a shared machine are noisy: quote
medians and ratios. Bytes and rounds are exact. One torch thread is the default: where other programs use the cores, two
threads that wait for each other at every small operation are many times slower, in clear torch as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.workloads import WORKLOADS, Run, Workload
from torchveil import Session


def timed(run: Run) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(workload: Workload, parties: int, repeats: int, warmup: int) -> dict[str, Any]:
    """Alternate encrypted and clear runs; the cost is that of one encrypted run."""
    torch.manual_seed(0)
    session = Session([f"party{i}" for i in range(parties)], "provider", fixed_point=workload.fixed_point)
    encrypted, clear = workload.prepare(session), workload.clear()
    for _ in range(warmup):
        encrypted()
        clear()
    before = session.cost().total
    seconds, plain = [], []
    for _ in range(repeats):
        seconds.append(timed(encrypted))
        plain.append(timed(clear))
    after = session.cost().total
    session.close()
    return {
        "workload": workload.name,
        "parties": parties,
        "seconds": statistics.median(seconds),
        "seconds_all": seconds,
        "plain_seconds": statistics.median(plain),
        "ratio": statistics.median(seconds) / statistics.median(plain),
        "rounds": (after.rounds - before.rounds) // repeats,
        "sent_bytes": (after.sent - before.sent) // repeats,
        "dealt_bytes": (after.dealt - before.dealt) // repeats,
    }


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print a table."""
    table = Table(title="all roles in one process; medians")
    for column in ("workload", "encrypted", "clear torch", "ratio", "rounds", "sent/party", "dealt"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for row in rows:
        table.add_row(
            row["workload"],
            f"{row['seconds'] * 1e3:.1f} ms",
            f"{row['plain_seconds'] * 1e3:.2f} ms",
            f"{row['ratio']:.0f}",
            str(row["rounds"]),
            f"{row['sent_bytes'] / 1e6:.3f} MB",
            f"{row['dealt_bytes'] / 1e6:.3f} MB",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run the workloads whose name starts with this")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--parties", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    load = os.getloadavg()[0]
    console.print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, load {load:.2f}"
    )
    rows = []
    for workload in WORKLOADS:
        if workload.name.startswith(options.only):
            rows.append(measure(workload, options.parties, options.repeats, options.warmup))
            console.print(f"  {rows[-1]['workload']}: {rows[-1]['seconds'] * 1e3:.1f} ms")
    show(rows, console)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"load": load, "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
