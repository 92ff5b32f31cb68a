"""Logs of releases: read one, or check those of all parties against one another and against heads signed before.

    torchveil audit show LOG [--kind reveal]
    torchveil audit verify [alice=LOG bob=LOG ...] [--heads FILE ...] [--ask] [--save FILE]

``--ask`` fetches the heads of the running parties, and those that they hold of one another; ``--save`` keeps all heads
in a file, to be compared another time. Exit status: 0 if nothing is wrong, 1 if something is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from torchveil.cli.owners import add_cluster, parties
from torchveil.cli.usage import UsageError
from torchveil.errors import AuditBroken
from torchveil.network.certificates import Authority
from torchveil.network.config import read_cluster
from torchveil.network.consent.audit import SignedHead, compare, heads_in, records
from torchveil.network.consent.identities import recogniser
from torchveil.network.consent.releases import verify_all


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    actions = parser.add_subparsers(required=True, metavar="action")
    show = actions.add_parser("show", help="print a log of releases")
    show.add_argument("log", type=Path, help="audit.jsonl below the state directory of a party")
    show.add_argument("--kind", help="only lines of this kind, such as reveal or refusal")
    show.set_defaults(action=_show)
    verify = actions.add_parser("verify", help="check logs of releases")
    verify.add_argument("logs", nargs="*", metavar="PARTY=LOG", help="the log of a party, as alice=audit.log")
    verify.add_argument("--heads", type=Path, action="append", default=[], metavar="FILE", help="heads kept before")
    verify.add_argument("--ask", action="store_true", help="also ask the running parties for their heads")
    verify.add_argument("--save", type=Path, metavar="FILE", help="keep the heads")
    add_cluster(verify)
    verify.set_defaults(action=_verify)


def run(options: argparse.Namespace) -> int:
    """Do it; the exit status."""
    status: int = options.action(options)
    return status


def _show(options: argparse.Namespace) -> int:
    for record in records(options.log):
        if options.kind in (None, record.kind):
            said = msgspec.to_builtins(record)
            rest = [f"{name}={_text(said[name])}" for name in said if name not in _FIRST]
            print(f"{record.line:6} {record.time} {record.kind:13} {' '.join(rest)}")
    return 0


#: Fields that have a column of their own, or that nobody reads.
_FIRST = frozenset(("line", "time", "kind", "previous", "head"))


def _text(x: object) -> str:
    return ",".join(map(str, x)) if isinstance(x, (list, tuple)) else str(x)


def _verify(options: argparse.Namespace) -> int:
    cluster = read_cluster(options.cluster)
    recognise = recogniser(Authority.load(cluster.authority))
    logs = dict(_named(text) for text in options.logs)
    known: list[SignedHead] = [head for path in options.heads for head in heads_in(path)]
    problems = []
    if options.ask:
        for heads in parties(options).heads().values():
            known += [heads.own, *heads.others]
    for head in known:
        try:
            head.check(recognise)
        except AuditBroken as error:
            problems.append(error.message)
    if problems:
        print("\n".join(problems))
        return 1
    reports = verify_all(logs, known, cluster=cluster.name, recognise=recognise)
    for report in reports:
        print(f"{report.party}: {report.lines} lines, {'good' if report.good else 'NOT GOOD'}")
        problems += [f"{report.party}: {problem.text}" for problem in report.problems]
        for note in report.notes:
            print(f"  note: {note}")
    everything = [*known, *(head for report in reports for head in report.heads)]
    problems += compare(everything)
    if not everything:
        print("no heads: a tail that was cut off cannot be seen")
    print("\n".join(problems) or "nothing is wrong")
    if options.save is not None:
        options.save.write_bytes(msgspec.json.encode(everything))
    return 1 if problems else 0


def _named(text: str) -> tuple[str, Path]:
    party, equals, path = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r}: say whose log it is, as alice={text}")
    return (party if "/" in party else f"party/{party}"), Path(path)
