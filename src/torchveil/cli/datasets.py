"""List what owners shared: names, shapes, number formats, names of columns. Never data.

    torchveil datasets [cluster.toml] [--certificate owner-hospital-a.pem] [--prefix hospital-a/] [--json]

The first part of a name is its owner. An owner sees its own data; controllers and parties see all. Exit status: 0, or 1
if the parties do not hold the same.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from torchveil.cli import reaching
from torchveil.errors import DataNotFound
from torchveil.network.datasets import agree
from torchveil.network.owner import by_name, listings, parties_of
from torchveil.network.services import Caller

#: Names of columns that the table shows; JSON has all.
_SHOWN = 8


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    argument = parser.add_argument
    reaching.add(parser)
    argument("--prefix", default="", help="only names that begin so")
    argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Ask every party, compare, print."""
    caller = Caller(*reaching.asking_as(options))
    parties = [str(party) for party in parties_of(caller.cluster)]
    rows = [_row(name, held, parties) for name, held in by_name(listings(caller, options.prefix)).items()]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        _print(rows)
    return 1 if any(row["problem"] for row in rows) else 0


def _row(name: str, held: Any, parties: list[str]) -> dict[str, Any]:
    """What to print of one array; ``problem`` is empty where all parties hold the same."""
    problem = ""
    try:
        agree(name, held, parties)
    except DataNotFound as error:
        problem = error.message
    entry = next(entry for entry in held.values() if entry is not None)
    schema = entry.schema
    return {
        "name": name,
        "owner": entry.owner,
        "shape": list(schema.shape),
        "base": schema.base,
        "digits": schema.digits,
        "columns": None if schema.columns is None else list(schema.columns),
        "problem": problem,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column("name", no_wrap=True), "shape", "digits", "columns", "problem")
    for row in rows:
        digits = "whole" if row["digits"] == 0 else f"{row['digits']} of base {row['base']}"
        shape = " x ".join(map(str, row["shape"]))
        columns = row["columns"] or []
        more = ", ..." if len(columns) > _SHOWN else ""
        cells = row["name"], shape, digits, ", ".join(columns[:_SHOWN]) + more, row["problem"]
        table.add_row(*map(Text, cells))  # as Text: an owner's words are no markup
    Console().print(table)
