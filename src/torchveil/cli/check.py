"""What of a model runs encrypted, and what it will cost.

    torchveil check model.py:Net --input 1x3x224x224 [--target 1:int64 --loss cross_entropy --optimizer Adam]

Exit status: 0 if the program runs as it is, 1 if something of it does not, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse

from torchveil.cli.program import MODEL, add_program, checked


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    argument = parser.add_argument
    argument("model", help=MODEL)
    add_program(parser)
    argument("--parties", type=int, default=2, help="number of parties")
    by = ("modules", "operations", "gates", "lines")
    argument("--by", choices=by, help="also the cost of the last phase by these")
    argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Check, and print the report."""
    from rich.console import Console

    report = checked(options, options.parties)
    if options.json:
        print(report.to_json())
    else:
        console = Console()
        console.print(report)
        if options.by and report.phases:
            console.print(report.modules(report.phases[-1].name, options.by))
    return 0 if report.ok else 1
