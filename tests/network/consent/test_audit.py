"""A log that was changed, cut, reordered or written anew is found out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.network.consent.authority import CLUSTER, Authority, Credentials
from torchveil.errors import AuditBroken, StorageError
from torchveil.network.consent.audit import PURPOSE, AuditLog, Report, SignedHead, compare, records, verify
from torchveil.network.consent.releases import verify_all

AUTHORITY = Authority()
ALICE, BOB = AUTHORITY.issue("party/alice"), AUTHORITY.issue("party/bob")


def filled(path: Path, credentials: Credentials = ALICE, n: int = 6) -> AuditLog:
    log = AuditLog(path, credentials, clock=lambda: 1_800_000_000.25)
    for k in range(n):
        log.append("reveal", session="5e55", number=k, receiver="controller/s", owners=["owner/a"], shape=(k,), bits=64)
    return log


def check(path: Path, *heads: SignedHead) -> Report:
    return verify(path, heads, party="party/alice", cluster=CLUSTER, recognise=AUTHORITY.recognise)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_a_good_log(path: Path) -> None:
    log = filled(path)
    report = check(path, log.head())
    assert report.good and report.lines == 6 and report.notes == ()
    assert [record.number for record in records(path)] == list(range(6))
    assert next(records(path)).time == "2027-01-15T08:00:00.250Z"


def test_a_log_goes_on_after_a_restart(path: Path) -> None:
    filled(path).close()
    log = filled(path, n=2)
    assert log.head().lines == 8
    assert check(path, log.head()).good


def changed(text: list[bytes]) -> None:
    text[2] = text[2].replace(b'"bits":64', b'"bits":65')


def removed(text: list[bytes]) -> None:
    del text[2]


def first_removed(text: list[bytes]) -> None:
    del text[0]


def swapped(text: list[bytes]) -> None:
    text[2], text[3] = text[3], text[2]


def inserted(text: list[bytes]) -> None:
    text.insert(2, text[2])


def garbage(text: list[bytes]) -> None:
    text[2] = b"not a record\n"


def blank(text: list[bytes]) -> None:
    text.insert(2, b"\n")


def unknown_field(text: list[bytes]) -> None:
    text[2] = text[2].replace(b'{"line"', b'{"value":3,"line"')


def anew(text: list[bytes]) -> None:
    """Change a line and write all later ones again, so that the chain holds."""
    changed(text)
    for k in range(3, len(text)):
        record = json.loads(text[k])
        record["previous"] = hashlib.sha256(text[k - 1][:-1]).hexdigest()
        text[k] = json.dumps(record).encode() + b"\n"


def last_changed(text: list[bytes]) -> None:
    text[-1] = text[-1].replace(b'"bits":64', b'"bits":65')


def cut(text: list[bytes]) -> None:
    del text[4:]


def emptied(text: list[bytes]) -> None:
    text.clear()


CHAIN = {
    changed: "does not continue",
    removed: "1 before it were removed",
    first_removed: "1 before it were removed",
    swapped: "removed",
    inserted: "inserted, repeated or moved",
    garbage: "is no record",
    blank: "is no record",
    unknown_field: "is no record",
}


@pytest.mark.parametrize("tamper", CHAIN, ids=lambda f: f.__name__)
def test_the_chain_alone_shows_it(path: Path, tamper: Callable[[list[bytes]], None]) -> None:
    filled(path).close()
    text = lines(path)
    tamper(text)
    path.write_bytes(b"".join(text))
    report = check(path)
    assert not report.good
    assert report.problems[0].line in (1, 3, 4)
    assert CHAIN[tamper] in report.problems[0].text
    with pytest.raises(AuditBroken):
        filled(path)


@pytest.mark.parametrize("tamper", [anew, last_changed, cut, emptied], ids=lambda f: f.__name__)
def test_an_earlier_head_shows_it(path: Path, tamper: Callable[[list[bytes]], None]) -> None:
    log = filled(path)
    head = log.head()
    log.close()
    text = lines(path)
    tamper(text)
    path.write_bytes(b"".join(text))
    assert check(path).good, "this one needs a head"
    assert not check(path, head).good


def test_any_changed_byte_is_found(path: Path) -> None:
    log = filled(path, n=3)
    head = log.head()
    log.close()
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert not check(path, head).good, place


def test_growing_after_a_head_is_fine(path: Path) -> None:
    log = filled(path)
    head = log.head()
    log.append("session end", session="5e55")
    report = check(path, head)
    assert report.good and "the last 1 lines" in report.notes[0]


def test_a_cut_tail_is_found_by_the_other_party(tmp_path: Path) -> None:
    paths = {"party/alice": tmp_path / "a", "party/bob": tmp_path / "b"}
    alice, bob = filled(paths["party/alice"]), filled(paths["party/bob"], BOB)
    bob.note_head(alice.head(), AUTHORITY.recognise)
    alice.note_head(bob.head(), AUTHORITY.recognise)
    alice.close()
    bob.close()

    def both() -> list[bool]:
        reports = verify_all(paths, (), cluster=CLUSTER, recognise=AUTHORITY.recognise)
        return [report.good for report in reports]

    assert both() == [True, True]
    text = lines(paths["party/alice"])
    paths["party/alice"].write_bytes(b"".join(text[:5]))
    assert both() == [False, True]


def test_a_head_that_was_overtaken_changes_nothing(tmp_path: Path) -> None:
    alice, bob = filled(tmp_path / "a"), filled(tmp_path / "b", BOB)
    early = alice.head()
    alice.append("session end")
    bob.note_head(alice.head(), AUTHORITY.recognise)
    bob.note_head(early, AUTHORITY.recognise)
    assert bob.head().lines == 7
    assert compare([early, alice.head(), early]) == []


@pytest.mark.parametrize("n", [2, 3], ids=["shorter", "as long"])
def test_a_log_that_was_cut_and_goes_on_is_noticed_at_once(tmp_path: Path, n: int) -> None:
    alice, bob = filled(tmp_path / "a"), filled(tmp_path / "b", BOB)
    bob.note_head(alice.head(), AUTHORITY.recognise)
    alice.close()
    (tmp_path / "a").write_bytes(b"".join(lines(tmp_path / "a")[:3]))
    alice = AuditLog(tmp_path / "a", ALICE, clock=lambda: 1_800_000_001.0)
    for _ in range(n):
        alice.append("session end")
    with pytest.raises(AuditBroken, match="cut or rewritten"):
        bob.note_head(alice.head(), AUTHORITY.recognise)
    bob.close()
    assert [record.kind for record in records(tmp_path / "b")][-2:] == ["head", "head"]
    bob = AuditLog(tmp_path / "b", BOB)
    assert bob.heads()[0].lines == 6


def test_time_never_goes_back(path: Path) -> None:
    times = iter([100.0, 50.0, 50.0])
    log = AuditLog(path, ALICE, clock=lambda: next(times))
    log.append("session start")
    log.append("session end")
    log.close()
    log = AuditLog(path, ALICE, clock=lambda: 20.0)
    log.append("session end")
    assert {record.time for record in records(path)} == {"1970-01-01T00:01:40.000Z"}


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J", "a b"])
def test_what_could_not_be_read_again_is_not_written(path: Path, text: str) -> None:
    log = filled(path)
    with pytest.raises(StorageError):
        log.append("reveal", session=text)
    with pytest.raises(StorageError):
        log.append("reveal", owners=[text])
    assert check(path, log.head()).good and log.head().lines == 6


def test_the_same_head_is_kept_once(tmp_path: Path) -> None:
    alice, bob = filled(tmp_path / "a"), filled(tmp_path / "b", BOB)
    for _ in range(3):
        bob.note_head(alice.head(), AUTHORITY.recognise)
    assert bob.head().lines == 7


@pytest.mark.parametrize(
    "forge",
    [
        lambda head: msgspec.structs.replace(head, lines=head.lines + 1),
        lambda head: msgspec.structs.replace(head, signature=bytes(64)),
        lambda head: msgspec.structs.replace(head, certificate=BOB.certificate_der),
        lambda head: msgspec.structs.replace(head, party="party/bob"),
        lambda head: msgspec.structs.replace(head, certificate=b""),
        lambda head: msgspec.structs.replace(head, cluster="another"),
    ],
)
def test_forged_heads_are_refused(tmp_path: Path, forge: Callable[[SignedHead], SignedHead]) -> None:
    alice, carol = filled(tmp_path / "a"), filled(tmp_path / "c", AUTHORITY.issue("party/carol"))
    with pytest.raises(AuditBroken):
        carol.note_head(forge(alice.head()), AUTHORITY.recognise)
    assert carol.head().lines == 6


def test_a_forged_head_proves_nothing_and_is_reported(path: Path) -> None:
    log = filled(path)
    report = check(path, msgspec.structs.replace(log.head(), signature=bytes(64)))
    assert not report.good and "did not sign" in report.problems[0].text


def test_a_log_of_another_party_does_not_pass(tmp_path: Path) -> None:
    filled(tmp_path / "b", BOB).close()
    assert not check(tmp_path / "b").good


@pytest.mark.parametrize("left", [1, 40, 150])
def test_a_torn_line_is_kept_and_told(path: Path, left: int) -> None:
    log = filled(path)
    head = log.head()
    log.close()
    whole = path.read_bytes()
    last = lines(path)[-1]
    path.write_bytes(whole + last[:left])
    assert "torn" in check(path, head).notes[0]
    log = AuditLog(path, ALICE)
    log.append("session start")
    report = check(path, log.head(), head)
    assert report.good and any("torn" in note or "tore" in note for note in report.notes)
    assert [record.kind for record in records(path)][-2:] == ["torn", "session start"]
    import base64

    assert base64.b64decode([record.torn for record in records(path)][-2]) == last[:left]


def test_a_crash_while_recovering_is_recovered(path: Path) -> None:
    filled(path).close()
    path.write_bytes(path.read_bytes() + b'{"line":7,"ti')
    AuditLog(path, ALICE).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    AuditLog(path, ALICE).close()
    assert check(path).good


def test_a_failed_write_is_no_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = filled(path)

    def fail(file: int, data: bytes, place: int) -> int:
        real(file, data[:10], place)
        raise OSError(28, "No space left on device")

    real = os.pwrite
    monkeypatch.setattr("os.pwrite", fail)
    with pytest.raises(StorageError, match="No space"):
        log.append("session end")
    monkeypatch.undo()
    log.append("session end")
    report = check(path, log.head())
    assert report.good and report.lines == 7


def test_two_processes_cannot_write_one_log(path: Path) -> None:
    filled(path)
    with pytest.raises(StorageError, match="another process"):
        AuditLog(path, ALICE)


def test_an_endless_line_is_no_record(path: Path) -> None:
    filled(path).close()
    path.write_bytes(path.read_bytes() + b"x" * 300_000 + b"\n")
    assert not check(path).good


def test_the_log_has_no_place_for_values() -> None:
    from torchveil.network.consent.audit import Record

    assert set(Record.__struct_fields__) == {
        *("line", "time", "kind", "previous", "session", "number", "receiver", "owners", "shape", "digits", "bits"),
        *("plan", "slot", "grants", "request", "head", "torn"),
    }


def test_a_head_that_another_party_signed_proves_nothing(tmp_path: Path) -> None:
    alice, carol = filled(tmp_path / "a"), filled(tmp_path / "c", AUTHORITY.issue("party/carol"))
    head = alice.head()
    by_bob = msgspec.structs.replace(
        head, signature=BOB.sign(head.signed_bytes(), PURPOSE), certificate=BOB.certificate_der
    )
    with pytest.raises(AuditBroken, match="is signed by party/bob"):
        carol.note_head(by_bob, AUTHORITY.recognise)


def test_only_heads_of_other_parties_of_the_cluster_are_kept(tmp_path: Path) -> None:
    alice = filled(tmp_path / "a")
    elsewhere = filled(tmp_path / "e", AUTHORITY.issue("party/bob", "elsewhere"))
    for head in (alice.head(), elsewhere.head()):
        with pytest.raises(AuditBroken, match="none of another party"):
            alice.note_head(head, AUTHORITY.recognise)
    assert alice.head().lines == 6
