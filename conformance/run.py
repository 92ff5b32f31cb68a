"""Run torch's samples and write what became of them: ``python -m conformance.run --page``.

The record (``docs/reference/conformance.json``) holds one line per operator, and for every sample the first letter of
its outcome; ``conformance.page`` makes the page of it. The tests hold some samples of every operator to the record.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from conformance.judge import Outcome, Verdict, judge
from conformance.opinfo import operators
from conformance.page import page
from torchveil import FixedPoint, Session

BITS = 16

_REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
RECORD = _REFERENCE / "conformance.json"
PAGE = _REFERENCE / "conformance.md"


def torch_version() -> str:
    """torch's version without the name of its build."""
    return str(torch.__version__).partition("+")[0]


def verdicts(name: str, bits: int = BITS, at_most: int | None = None) -> dict[int, Verdict]:
    """What became of the samples of one operator, by number; of ``at_most``, evenly spread, if that is given."""
    operator = operators()[name]
    samples = operator.samples()
    chosen = range(len(samples))
    if at_most is not None and len(samples) > at_most:
        chosen = [k * len(samples) // at_most for k in range(at_most)]
    session = Session(fixed_point=FixedPoint(2, bits))
    return {k: judge(operator, samples[k], session) for k in chosen}


def row(name: str, bits: int = BITS, at_most: int | None = None) -> dict[str, Any]:
    """The line of one operator: a letter per sample, and why those that did not pass did not, with counts."""
    torch.set_num_threads(1)
    found = list(verdicts(name, bits, at_most).values())
    why = Counter((v.outcome.value, v.error, v.what) for v in found if v.outcome is not Outcome.PASS)
    return {
        "name": name,
        "samples": "".join(v.outcome.value[0] for v in found),
        "why": [[*reason, count] for reason, count in why.most_common()],
    }


def _task(task: tuple[str, int, int | None]) -> dict[str, Any]:
    return row(*task)


def rows(names: list[str], bits: int, at_most: int | None, workers: int) -> list[dict[str, Any]]:
    """The lines of several operators, in the order of the database."""
    tasks = [(name, bits, at_most) for name in names]
    if workers == 1:
        return [_task(task) for task in tasks]
    # new processes: a fork would take locks of torch's along
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return list(pool.imap(_task, tasks, chunksize=4))


def write(path: Path, record: dict[str, Any]) -> None:
    """One line per operator, so that a change of one is a change of one line."""
    lines = ",\n".join(json.dumps(line) for line in record["operators"])
    head = json.dumps({key: value for key, value in record.items() if key != "operators"})
    path.write_text(f'{head[:-1]}, "operators": [\n{lines}\n]}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--page", action="store_true", help=f"write {RECORD.name} and {PAGE.name}")
    parser.add_argument("--bits", type=int, default=BITS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--at-most", type=int, help="samples per operator")
    parser.add_argument("names", nargs="*", help="operators; all when none is named")
    options = parser.parse_args()
    lines = rows(options.names or list(operators()), options.bits, options.at_most, options.workers)
    lines = [line for line in lines if line["samples"]]
    record = {"bits": options.bits, "torch": torch_version(), "operators": lines}
    if options.json:
        write(options.json, record)
    if options.page:
        write(RECORD, record)
        PAGE.write_text(page(record))
    if options.names:
        for line in lines:
            print(line)
    print(dict(Counter("".join(line["samples"] for line in lines))))


if __name__ == "__main__":
    main()
