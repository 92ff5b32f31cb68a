"""How the roles of a cluster are: a live table, one look, or the health of one daemon.

    torchveil status [cluster.toml] [--once | --json] [--interval 2]
    torchveil status --role alice.toml --probe

Exit status: 0; with ``--once``, ``--json`` and ``--probe`` 1 if a role does not answer. ``--probe`` asks the daemon of
a role's file at this machine, as itself, and says one line: for containers and supervisors.
"""

from __future__ import annotations

import argparse
import time

from torchveil.cli import reaching
from torchveil.cli.usage import UsageError
from torchveil.network.commands.reach import Reach
from torchveil.network.commands.status import ask, gather, table, to_json


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    reaching.add(parser)
    parser.add_argument("--probe", action="store_true", help="only this machine's daemon of --role; prints one line")
    parser.add_argument("--once", action="store_true", help="one table, then end")
    parser.add_argument("--json", action="store_true", help="one look as JSON")
    parser.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="between two looks (default 2)")


def run(options: argparse.Namespace) -> int:
    """Ask and show."""
    if options.probe:
        return _probe(options)
    if not 0.1 <= options.interval <= 3600:
        raise UsageError("--interval is between 0.1 and 3600 seconds")
    reach = reaching.reach_of(options)
    if not (options.once or options.json):
        return _watch(reach, options.interval)
    rows = gather(reach)
    if options.json:
        print(to_json(rows))
    else:
        from rich.console import Console

        Console().print(table(rows))
    return 0 if all(row.ok for row in rows) else 1


def _probe(options: argparse.Namespace) -> int:
    if options.role is None:
        raise UsageError("--probe needs the daemon's own file: --role alice.toml")
    reach = reaching.reach_itself(options.role, options.rank)
    row = ask(reach, *reach.roles)
    print(f"{row.role} is up" if row.ok else f"{row.role} at {row.address}: {row.code} {row.message}")
    return 0 if row.ok else 1


def _watch(reach: Reach, interval_s: float) -> int:
    """Draw the table again and again, until interrupted."""
    from rich.live import Live

    before = gather(reach)
    try:
        with Live(table(before), auto_refresh=False) as live:
            while True:
                time.sleep(interval_s)
                rows = gather(reach)
                live.update(table(rows, before), refresh=True)
                before = rows
    except KeyboardInterrupt:
        return 0
