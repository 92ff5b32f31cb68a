"""Run torch's samples and write what became of them as JSON: ``python -m conformance.run --json out/conformance.json``."""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from conformance.judge import Outcome, judge
from conformance.opinfo import operators
from torchveil import FixedPoint, Session


def run_operator(name: str, bits: int = 16, at_most: int | None = None) -> dict[str, Any]:
    """Counts and reasons of one operator; of ``at_most`` samples, evenly spread, where that is given."""
    torch.set_num_threads(1)
    operator = operators()[name]
    try:
        samples = operator.samples()
    except Exception as error:
        return {"name": name, "samples": 0, "outcomes": {}, "reasons": [], "error": type(error).__name__}
    if at_most is not None and len(samples) > at_most:
        samples = [samples[k * len(samples) // at_most] for k in range(at_most)]
    counts: Counter[str] = Counter()
    reasons: Counter[tuple[str, str, str]] = Counter()
    slowest = 0.0
    session = Session(fixed_point=FixedPoint(2, bits))
    for sample in samples:
        start = perf_counter()
        verdict = judge(operator, sample, session)
        slowest = max(slowest, perf_counter() - start)
        counts[verdict.outcome.value] += 1
        if verdict.outcome is not Outcome.PASS:
            reasons[verdict.outcome.value, verdict.error, verdict.what] += 1
    listed = [[*reason, count] for reason, count in reasons.most_common()]
    return {
        "name": name,
        "samples": len(samples),
        "outcomes": dict(counts),
        "reasons": listed,
        "slowest_s": round(slowest, 2),
    }


def _task(task: tuple[str, int, int | None]) -> dict[str, Any]:
    return run_operator(*task)


def run_all(names: list[str], bits: int, at_most: int | None, jobs: int) -> list[dict[str, Any]]:
    tasks = [(name, bits, at_most) for name in names]
    if jobs == 1:
        rows = []
        for task in tasks:
            print(task, flush=True)
            rows.append(_task(task))
        return rows
    # fresh processes: a session belongs to the process that opened it
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=60) as pool:
        return list(pool.imap(_task, tasks, chunksize=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bits", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--at-most", type=int, help="samples per operator")
    parser.add_argument("names", nargs="*", help="operators; all when none is named")
    options = parser.parse_args()
    rows = run_all(options.names or list(operators()), options.bits, options.at_most, options.jobs)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps({"bits": options.bits, "torch": torch.__version__, "operators": rows}, indent=1)
        )
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["outcomes"])
        if options.names:
            print(row)
    print(dict(total))


if __name__ == "__main__":
    main()
