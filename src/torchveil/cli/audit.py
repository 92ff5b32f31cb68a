"""Logs of releases: read one, or check those of all parties against one another and against heads signed before.

    torchveil audit show LOG [--kind reveal]
    torchveil audit verify [alice=LOG bob=LOG ...] [--heads FILE ...] [--ask] [--save FILE]

``--ask`` fetches the heads of the running parties, and those that they hold of one another; ``--save`` keeps all heads
in a file, to be compared another time. Without logs the parties are asked anyway.

Exit status: 0 if nothing is wrong; 1 if something is, or if nobody else holds a head of one of the logs, so that its
end was not checked; 2 if nothing was compared with anything.
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


#: Exit statuses.
WRONG, NOTHING_COMPARED = 1, 2


def run(options: argparse.Namespace) -> int:
    """Do it; the exit status."""
    status: int = options.action(options)
    return status


def _show(options: argparse.Namespace) -> int:
    record = None
    for record in records(options.log):
        if options.kind in (None, record.kind):
            said = msgspec.to_builtins(record)
            rest = [f"{name}={_text(said[name])}" for name in said if name not in _FIRST]
            if record.head is not None:
                rest += [f"of={record.head.party}", f"lines={record.head.lines}"]
            print(f"{record.line:6} {record.time} {record.kind:13} {' '.join(rest)}")
    if record is None:
        raise UsageError(f"{options.log} holds no line of a log: name the audit.jsonl of a party's state directory")
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
    foreign = set(known)  # held by somebody else than the party whose log it is, or since another time
    problems = []
    asked = parties(options).heads() if options.ask or not logs else {}
    for party, heads in asked.items():
        known += [heads.own, *heads.others]
        foreign.update(head for head in heads.others if head.party != party)
    for head in known:
        try:
            head.check(recognise)
        except AuditBroken as error:
            problems.append(error.message)
    if problems:
        print("\n".join(problems))
        return WRONG
    reports = verify_all(logs, known, cluster=cluster.name, recognise=recognise)
    for report in reports:
        print(f"{report.party}: {report.lines} lines, {'good' if report.good else 'NOT GOOD'}")
        problems += [f"{report.party}: {problem.text}" for problem in report.problems]
        for note in report.notes:
            print(f"  note: {note}")
    everything = [*known, *(head for report in reports for head in report.heads)]
    problems += compare(everything)
    foreign.update(head for report in reports for head in report.heads if head.party != report.party)
    meant = logs.keys() or asked.keys()
    unseen = sorted(meant - {head.party for head in foreign})
    for party in unseen:
        print(f"{party}: not checked: its end; nobody else holds a head of this log")
    if options.save is not None:
        options.save.write_bytes(msgspec.json.encode(everything))
    if problems:
        print("\n".join(problems))
        return WRONG
    if len(logs) < 2 and len(unseen) == len(meant):
        print("nothing was compared: name the logs of other parties, or heads that were kept, or --ask the parties")
        return NOTHING_COMPARED
    print("nothing is wrong" if not unseen else "nothing is wrong with what was checked")
    return WRONG if unseen else 0


def _named(text: str) -> tuple[str, Path]:
    party, equals, path = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r}: say whose log it is, as alice={text}")
    return (party if "/" in party else f"party/{party}"), Path(path)
