"""The logs of several parties, checked together: each against its heads, and whether all tell of the same releases.

A value needs the shares of all parties, so a release stands in the log of each. One that a log does not have, and says
nothing of, was cut from it, or never asked of that party. The second happens without anybody's fault when a party is
killed, or when a log is copied while its session runs; and a controller can bring it about, by telling parties
different things. So of releases that no grant paid for, which a controller may make as it likes, a missing one is only
noted.

What explains a release that others wrote down: a refusal of the same, or the end of the session before it. Both are the
word of the party whose log it is. That its chain leads to the heads that others hold is what makes it count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torchveil.network.consent.audit import Problem, Record, Report, SignedHead, records, verify
from torchveil.network.consent.identities import Recognise

#: session, number of the instruction, receiver
Release = tuple[str, int, str]


@dataclass(slots=True)
class _Told:
    """What one log tells. ``ended``: by session, the number of the first instruction that was not carried out."""

    released: dict[Release, Record] = field(default_factory=dict)
    refused: set[Release] = field(default_factory=set)
    ended: dict[str, int] = field(default_factory=dict)
    granted: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, record: Record) -> None:
        key = record.session, record.number or 0, record.receiver
        if record.kind == "reveal":
            self.released[key] = record
            if not self.granted.issuperset(record.grants):
                text = f"line {record.line} tells of a release under a grant, and no line before it of that grant"
                self.problems.append(Problem(record.line, text))
        elif record.kind == "refusal":
            self.refused.add(key)
        elif record.kind == "session end" and record.number is not None:
            self.ended[record.session] = record.number
        elif record.kind == "grant":
            self.granted.update(record.grants)

    def lacks(self, release: Release, record: Record, others: str) -> None:
        """This log has no line of a release that ``others`` wrote down."""
        session, number, receiver = release
        what = f"{others} released instruction {number} of session {session[:16]} to {receiver}"
        if release in self.refused:
            self.notes.append(f"{what}; this party says that it refused")
        elif number >= self.ended.get(session, number + 1):
            self.notes.append(f"{what}; this party says that the session had ended for it")
        elif record.grants:
            text = f"{what}, of which this log says nothing: lines were cut off, or this party was never asked"
            self.problems.append(Problem(0, text))
        else:
            self.notes.append(f"{what}, without a grant, and this log says nothing of it")


def verify_all(
    logs: Mapping[str, Path], heads: Iterable[SignedHead], *, cluster: str, recognise: Recognise | None = None
) -> list[Report]:
    """Check the logs of several parties against ``heads``, against the heads that they hold of one another, and what
    they tell of releases against each other."""
    found = [verify(path, (), party=party, cluster=cluster) for party, path in logs.items()]
    known = [*heads, *(head for report in found for head in report.heads)]
    reports = [verify(path, known, party=party, cluster=cluster, recognise=recognise) for party, path in logs.items()]
    told = compare_releases({party: records(path) for party, path in logs.items()})
    return [_joined(report, *told[report.party]) for report in reports]


def _joined(report: Report, problems: Iterable[Problem], notes: Iterable[str]) -> Report:
    return replace(report, problems=(*report.problems, *problems), notes=(*report.notes, *notes))


def compare_releases(logs: Mapping[str, Iterable[Record]]) -> dict[str, tuple[list[Problem], list[str]]]:
    """(problems, notes) of each party's log beside the others."""
    told: dict[str, _Told] = {party: _Told() for party in logs}
    for party, lines in logs.items():
        for record in lines:
            told[party].take(record)
    wrote: dict[Release, list[str]] = {}
    holds: dict[str, list[str]] = {}
    for party, log in told.items():
        for release in log.released:
            wrote.setdefault(release, []).append(party)
        for nonce in log.granted:
            holds.setdefault(nonce, []).append(party)
    for log in told.values():
        for release, parties in wrote.items():
            if release not in log.released:
                log.lacks(release, told[parties[0]].released[release], ", ".join(parties))
        for nonce, parties in holds.items():
            if nonce not in log.granted:
                log.notes.append(
                    f"the grant {nonce} was brought to {', '.join(parties)}, of which this log says nothing"
                )
    return {party: (log.problems, log.notes) for party, log in told.items()}


__all__ = ["compare_releases", "verify_all"]
