"""What is wrong with a cluster and what to do about it, how fast its links are, and how long a program will take.

    torchveil doctor [cluster.toml]
    torchveil doctor --program model.py:Net --input 128x784 --target 128:int64 --loss cross_entropy \\
        --optimizer SGD [--compute-ms 40]

The program's arguments are those of ``torchveil check``. Exit status: 0, 1 if a check failed or the program does not
run, 2 for wrong arguments or files. Warnings change no status.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from torchveil.cli import reaching
from torchveil.cli.program import MODEL, add_program, checked
from torchveil.cli.usage import UsageError
from torchveil.network.commands.doctor import FAILED, OK, WARNING, Diagnosis, Prediction, examine, predictions
from torchveil.profiling.units import duration, size

if TYPE_CHECKING:
    from rich.table import Table

_STATES = {OK: "green", WARNING: "yellow", FAILED: "red"}


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    reaching.add(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--program", dest="model", metavar="FILE:NAME", help=f"predict its steps: {MODEL}")
    parser.add_argument(
        "--compute-ms", type=float, default=0.0, help="work of a party's machine per phase, to be added (see profile)"
    )
    add_program(parser)


def run(options: argparse.Namespace) -> int:
    """Examine, predict, and print."""
    if options.compute_ms < 0:
        raise UsageError("--compute-ms is not negative")
    reach = reaching.reach_of(options)
    parties = sum(role.startswith("party/") for role in reach.roles)
    report = checked(options, parties) if options.model else None
    diagnosis = examine(reach)
    expected = predictions(diagnosis, reach.roles, report.phases if report else (), options.compute_ms / 1000)
    if options.json:
        print(to_json(diagnosis, expected))
    else:
        _print(diagnosis, expected)
        if report is not None and not report.ok:
            print(report)
        elif report is not None and not expected:
            print("No prediction: not all links between the roles could be measured.")
    return 0 if diagnosis.ok and (report is None or report.ok) else 1


def to_json(diagnosis: Diagnosis, expected: tuple[Prediction, ...]) -> str:
    """JSON text: ``ok``, ``checks``, ``links`` and ``predictions``."""
    links = [
        {
            "from": ends[0],
            "to": ends[1],
            "one_way_s": link.one_way_s,
            "bytes_per_s": link.sent_bytes_per_s,
        }
        for ends, link in diagnosis.links.items()
    ]
    phases = [
        {
            "phase": p.phase,
            "if_provider_ahead_s": p.estimate.overlapped_s,
            "if_provider_first_s": p.estimate.sequential_s,
        }
        for p in expected
    ]
    document = {
        "ok": diagnosis.ok,
        "checks": [asdict(check) for check in diagnosis.checks],
        "links": links,
        "predictions": phases,
    }
    return json.dumps(document, indent=1)


def _print(diagnosis: Diagnosis, expected: tuple[Prediction, ...]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(_checks(diagnosis))
    if diagnosis.links:
        console.print(_links(diagnosis))
    if expected:
        console.print(_predictions(expected))
    bad = [check for check in diagnosis.checks if check.state != OK]
    for check in bad:
        console.print(Text(f"\n{check.state}: {check.name} of {check.subject}: {check.seen}", style="bold"))
        console.print(Text(f"  {check.remedy}"))
    if not bad:
        console.print("\nEverything is well.")


def _checks(diagnosis: Diagnosis) -> Table:
    """What is well and what is not, by role; links have a table of their own."""
    from rich.table import Table

    found = [check for check in diagnosis.checks if check.name != "link"]
    out = Table(title="checks")
    out.add_column("role", no_wrap=True)
    for state, colour in _STATES.items():
        out.add_column(state, style=colour, overflow="fold")
    for subject in dict.fromkeys(check.subject for check in found):
        names = [[c.name for c in found if (c.subject, c.state) == (subject, state)] for state in _STATES]
        out.add_row(subject, *(", ".join(row) for row in names))
    return out


def _links(diagnosis: Diagnosis) -> Table:
    from rich.table import Table

    out = Table(title="links")
    out.add_column("from", no_wrap=True)
    out.add_column("to", no_wrap=True)
    out.add_column("one way", justify="right", no_wrap=True)
    out.add_column("bandwidth", justify="right", no_wrap=True)
    for (role, peer), link in diagnosis.links.items():
        out.add_row(role, peer, duration(link.one_way_s), f"{size(int(link.sent_bytes_per_s))}/s")
    return out


def _predictions(expected: tuple[Prediction, ...]) -> Table:
    from rich.table import Table
    from rich.text import Text

    caption = "the network's time, and --compute-ms; the provider works ahead of the parties, or deals first"
    out = Table(title="predicted time", caption=caption, caption_justify="left")
    out.add_column("phase", no_wrap=True)
    for column in ("rounds", "sent/party", "dealt", "ahead", "first"):
        out.add_column(column, justify="right", no_wrap=True)
    for row in expected:
        amounts = (str(row.cost.rounds), size(row.cost.sent), size(row.cost.dealt))
        times = (duration(row.estimate.overlapped_s), duration(row.estimate.sequential_s))
        out.add_row(Text(row.phase), *amounts, *times)
    return out
