"""A release that one log tells of and another does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.network.consent.test_audit import ALICE, BOB, CLUSTER, lines
from torchveil.network.consent.audit import AuditLog, Report
from torchveil.network.consent.releases import verify_all

NONCE = bytes(range(16))
Write = Callable[[AuditLog], None]


def grant(log: AuditLog) -> None:
    log.append("grant", owners=["owner/a"], grants=[NONCE])


def begin(log: AuditLog) -> None:
    log.append("session start", session="5e55", receiver="controller/s")


def reveal(log: AuditLog) -> None:
    log.append("reveal", session="5e55", number=7, receiver="controller/s", owners=["owner/a"], grants=[NONCE])


def free(log: AuditLog) -> None:
    log.append("reveal", session="5e55", number=7, receiver="controller/s", owners=["controller/s"])


def refusal(log: AuditLog) -> None:
    log.append("refusal", session="5e55", number=7, receiver="controller/s", owners=["owner/a"])


def refusal_to_another(log: AuditLog) -> None:
    log.append("refusal", session="5e55", number=7, receiver="controller/t", owners=["owner/a"])


def ended(number: int | None) -> Write:
    return lambda log: log.append("session end", session="5e55", number=number, receiver="controller/s")


def checked(directory: Path, alice: list[Write], bob: list[Write]) -> tuple[Report, Report]:
    paths = {"party/alice": directory / "a", "party/bob": directory / "b"}
    for path, credentials, writes in zip(paths.values(), (ALICE, BOB), (alice, bob), strict=True):
        log = AuditLog(path, credentials, clock=lambda: 1_800_000_000.0)
        for write in writes:
            write(log)
        log.close()
    first, second = verify_all(paths, (), cluster=CLUSTER)
    return first, second


def test_the_same_releases(tmp_path: Path) -> None:
    told = [grant, begin, reveal, ended(8)]
    assert [report.problems for report in checked(tmp_path, told, told)] == [(), ()]


@pytest.mark.parametrize(
    "alice",
    [
        [],
        [grant],
        [grant, begin],
        [grant, begin, ended(8)],
        [grant, begin, ended(None)],
        [grant, begin, refusal_to_another],
        [grant, begin, lambda log: log.append("session end", session="5e56", number=3)],
    ],
)
def test_a_paid_release_that_a_log_does_not_explain(tmp_path: Path, alice: list[Write]) -> None:
    first, second = checked(tmp_path, alice, [grant, begin, reveal, ended(8)])
    (problem,) = first.problems
    assert "party/bob released instruction 7 of session 5e55 to controller/s" in problem.text
    assert second.good


def test_a_grant_that_a_log_does_not_have_is_noted(tmp_path: Path) -> None:
    first, second = checked(tmp_path, [begin], [grant, begin])
    assert first.good and any(f"the grant {NONCE.hex()} was brought to party/bob" in note for note in first.notes)
    assert second.good and not any("grant" in note for note in second.notes)


@pytest.mark.parametrize(
    ("alice", "note"),
    [([grant, begin, refusal], "says that it refused"), ([grant, begin, ended(7)], "had ended for it")],
)
def test_what_explains_it_is_noted(tmp_path: Path, alice: list[Write], note: str) -> None:
    first, _ = checked(tmp_path, alice, [grant, begin, reveal])
    assert first.good and any(note in text for text in first.notes)


def test_a_release_that_no_grant_paid_for_is_noted(tmp_path: Path) -> None:
    """A controller can make as many as it likes, at one party alone."""
    first, _ = checked(tmp_path, [begin], [begin, free])
    assert first.good and any("without a grant" in note for note in first.notes)


def test_a_release_under_a_grant_that_no_line_tells_of(tmp_path: Path) -> None:
    first, second = checked(tmp_path, [grant, begin, reveal], [begin, reveal])
    (problem,) = second.problems
    assert first.good and problem.line == 2 and "under a grant" in problem.text


def test_a_log_that_was_cut_and_goes_on(tmp_path: Path) -> None:
    first, _ = checked(tmp_path, [grant, begin, reveal, ended(8)], [grant, begin, reveal, ended(8)])
    assert first.good
    (tmp_path / "a").write_bytes(b"".join(lines(tmp_path / "a")[:2]))
    first, _ = checked(tmp_path, [ended(8), begin], [])
    assert [problem.line for problem in first.problems] == [0]
