"""Owners and parties talk about consent, with real certificates; the commands of owners."""

from __future__ import annotations

import argparse
import io
import time
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from tests.network.consent.cluster import ClusterHere, PartyHere
from torchveil.cli import main
from torchveil.errors import AuditBroken, ConsentError, ConsentRequired, GrantInvalid
from torchveil.network.consent.audit import AuditLog, records
from torchveil.network.consent.grants import encode, new_grant, sign_grant
from torchveil.network.consent.services import Denial, Withdrawal, swap_heads
from torchveil.network.consent.session import SessionConsent
from torchveil.program import instructions as ins

PLAN = bytes(range(32))


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterHere:
    return ClusterHere(tmp_path)


def session(cluster: ClusterHere, party: PartyHere) -> SessionConsent:
    """One in which wire 2 is output 0 of a plan on the hospital's data, wire 3 its double."""
    made = SessionConsent(party.consent, "5e55", "controller/scientist")
    provenance = made.provenance
    provenance.input(1, "owner/hospital-a")
    provenance.follow(ins.Combine(2, ((1, 1),)))
    provenance.mark(2, PLAN, 0)
    provenance.follow(ins.Refresh(3, 2, (5,)))
    provenance.follow(ins.Combine(4, ((2, 2),)))
    return made


def reveal(cluster: ClusterHere, party: PartyHere, wire: int = 3) -> tuple[bytes, ...]:
    i = ins.Reveal(wire, "controller", (5,))
    who = cluster.scientist
    return session(cluster, party).allow(i, 9, str(who.role), who.fingerprint).grants


def refused(cluster: ClusterHere, party: PartyHere, wire: int = 3) -> None:
    with pytest.raises(ConsentRequired):
        reveal(cluster, party, wire)


def command(
    cluster: ClusterHere, monkeypatch: pytest.MonkeyPatch, *arguments: str, says: str = "", lead_s: float = 0.0
) -> int:
    def parties(options: argparse.Namespace) -> Any:
        return cluster.parties(cluster.owner)

    for name in ("grant", "requests", "approve", "deny", "audit"):
        monkeypatch.setattr(f"torchveil.cli.{name}.parties", parties)
    monkeypatch.setattr("torchveil.cli.owners.LEAD_S", lead_s)
    monkeypatch.setattr("sys.stdin", io.StringIO(says))
    return main([*arguments, *([] if arguments[:2] == ("audit", "show") else ["--cluster", str(cluster.file)])])


# --- a session -------------------------------------------------------------------------------------------------------


def test_a_session_asks_with_the_plan_that_made_the_value(cluster: ClusterHere) -> None:
    at = cluster.parties(cluster.owner)
    refused(cluster, cluster.alice)
    (request,) = at.requests().values()
    assert (request.plan, request.slot, request.shape, request.bits) == (PLAN, 0, (5,), 320)
    at.approve(request, now=time.time(), seconds=60)
    refused(cluster, cluster.alice, wire=4)  # not the plan's output any more
    assert len(reveal(cluster, cluster.alice)) == 1
    assert len(reveal(cluster, cluster.bob)) == 1
    refused(cluster, cluster.alice)


def test_a_session_is_in_the_log(cluster: ClusterHere) -> None:
    made = session(cluster, cluster.alice)
    made.end(7)
    assert len(made.provenance) == 0
    assert [record.kind for record in records(cluster.alice.path)] == ["session start", "session end"]


# --- services --------------------------------------------------------------------------------------------------------


def test_an_owner_cannot_act_for_another(cluster: ClusterHere) -> None:
    refused(cluster, cluster.alice)
    other = cluster.issue("owner/hospital-b")
    ask = cluster.alice.asked_by(other)
    theirs = cluster.parties(cluster.owner)
    (name,) = theirs.requests()
    grant = new_grant(
        cluster.owner, "controller/scientist", bytes(32), quota=9, now=time.time(), seconds=60, plan=PLAN, slot=0
    )
    theirs.grant(grant)
    assert cluster.parties(other).requests() == {}
    assert all(not listing.grants for listing in cluster.parties(other).listings().values())
    for service, arguments in (
        ("consent/grant", encode(sign_grant(cluster.owner, grant))),
        ("consent/deny", encode(Denial(name))),
        ("consent/withdraw", encode(Withdrawal(grant.nonce))),
    ):
        with pytest.raises(GrantInvalid):
            ask(service, arguments)


@pytest.mark.parametrize("service", ["consent/grant", "consent/deny", "consent/withdraw", "audit/swap"])
@pytest.mark.parametrize("arguments", [b"", b"\xc0", b"\x80", b"\x91" * 2000, bytes(100_000)], ids=len)
def test_garbage_is_refused(cluster: ClusterHere, service: str, arguments: bytes) -> None:
    role = cluster.bob.credentials if service == "audit/swap" else cluster.owner
    with pytest.raises(GrantInvalid):
        cluster.alice.asked_by(role)(service, arguments)


def test_only_one_encoding_counts(cluster: ClusterHere) -> None:
    grant = new_grant(
        cluster.owner, "controller/scientist", bytes(32), quota=9, now=time.time(), seconds=60, plan=PLAN, slot=0
    )
    signed = msgspec.to_builtins(sign_grant(cluster.owner, grant), builtin_types=(bytes,))
    signed["grant"] = dict(reversed(signed["grant"].items()))
    with pytest.raises(GrantInvalid, match="one way"):
        cluster.alice.asked_by(cluster.owner)("consent/grant", msgspec.msgpack.encode(signed))


def test_a_grant_with_any_byte_changed_is_refused(cluster: ClusterHere) -> None:
    grant = new_grant(
        cluster.owner, "controller/scientist", bytes(32), quota=9, now=time.time(), seconds=60, plan=PLAN, slot=0
    )
    signed = sign_grant(cluster.owner, grant)
    whole = encode(signed)
    ask = cluster.alice.asked_by(cluster.owner)
    # the authority's signature at the end of a certificate can be written in more than one way
    said = x509.load_der_x509_certificate(signed.certificate).tbs_certificate_bytes
    for place in range(whole.index(said) + len(said)):
        for change in (1,) if place % 2 else (0x80,):
            changed = bytearray(whole)
            changed[place] ^= change
            with warnings.catch_warnings(action="ignore"), pytest.raises(GrantInvalid):
                ask("consent/grant", bytes(changed))
    for length in range(0, len(whole), 7):
        with pytest.raises(GrantInvalid):
            ask("consent/grant", whole[:length])
    assert cluster.alice.consent.grants("owner/hospital-a") == []
    ask("consent/grant", whole)


def test_parties_swap_heads(cluster: ClusterHere) -> None:
    alice, bob = cluster.alice, cluster.bob
    session(cluster, alice)
    ask = bob.asked_by(alice.credentials)
    swap_heads(alice.log, alice.consent.recognise, ask)
    assert [head.party for head in alice.log.heads()] == ["party/bob"]
    assert [head.party for head in bob.log.heads()] == ["party/alice"]
    heads = cluster.parties(cluster.owner).heads()
    assert heads["party/bob"].others[0].lines == 1
    with pytest.raises(GrantInvalid, match="brought the head"):
        ask("audit/swap", encode(bob.log.head()))


def test_a_party_whose_log_became_shorter_is_found_by_a_swap(cluster: ClusterHere) -> None:
    alice, bob = cluster.alice, cluster.bob
    session(cluster, bob)
    ask = bob.asked_by(alice.credentials)
    swap_heads(alice.log, alice.consent.recognise, ask)
    bob.log.close()
    bob.path.write_bytes(b"")
    bob.log = AuditLog(bob.path, bob.credentials)
    bob.consent._log = bob.log
    with pytest.raises(AuditBroken, match="a log of 2 lines and later one of 1"):
        swap_heads(alice.log, alice.consent.recognise, ask)


def test_a_party_that_answers_with_an_old_head_is_found_by_a_swap(cluster: ClusterHere) -> None:
    alice, bob = cluster.alice, cluster.bob
    old = bob.log.head()
    session(cluster, bob)
    swap_heads(alice.log, alice.consent.recognise, bob.asked_by(alice.credentials))
    with pytest.raises(AuditBroken, match="its end was cut off"):
        swap_heads(alice.log, alice.consent.recognise, lambda *_: encode(old))


def test_a_party_that_cannot_be_reached_is_named(cluster: ClusterHere) -> None:
    at = cluster.parties(cluster.owner)

    def fails(*_: Any) -> bytes:
        raise ConsentError("is away")

    asks = {**at.asks, "party/bob": fails}
    grant = new_grant(
        cluster.owner, "controller/scientist", bytes(32), quota=9, now=time.time(), seconds=60, plan=PLAN, slot=0
    )
    with pytest.raises(ConsentError, match="party/alice") as caught:
        type(at)(asks, cluster.owner).grant(grant)
    assert "party/bob" in str(caught.value) and "is away" in str(caught.value)


# --- commands --------------------------------------------------------------------------------------------------------


def test_approve(cluster: ClusterHere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    refused(cluster, cluster.alice)
    (name,) = cluster.parties(cluster.owner).requests()
    assert command(cluster, monkeypatch, "requests") == 0
    assert name in capsys.readouterr().out
    assert command(cluster, monkeypatch, "approve", name, says="no\n") == 1
    refused(cluster, cluster.alice)
    assert command(cluster, monkeypatch, "approve", name, says="yes\n") == 0
    said = capsys.readouterr().out
    assert PLAN.hex() in said and "controller/scientist" in said and cluster.scientist.fingerprint.hex() in said
    reveal(cluster, cluster.alice)
    assert command(cluster, monkeypatch, "approve", name, "--yes") == 2


@pytest.mark.parametrize("kind", ["approve", "grant"])
def test_a_grant_begins_when_it_lies_at_all_parties(
    cluster: ClusterHere, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Else somebody who asks again and again has it paid at one party and refused at the next."""
    refused(cluster, cluster.alice)
    (name,) = cluster.parties(cluster.owner).requests()
    to = str(cluster.directory / "controller-scientist.pem")
    words = [name] if kind == "approve" else ["--to", to, "--plan", PLAN.hex()]
    waited = []

    def sleep(seconds: float) -> None:
        for party in (cluster.alice, cluster.bob):
            assert party.consent.grants("owner/hospital-a")
            refused(cluster, party)
        waited.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr("torchveil.cli.owners.sleep", sleep)
    assert command(cluster, monkeypatch, kind, *words, "--yes", lead_s=2.0) == 0
    assert 0.5 < waited[0] <= 2
    reveal(cluster, cluster.alice)
    reveal(cluster, cluster.bob)


def test_deny(cluster: ClusterHere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    refused(cluster, cluster.alice)
    (name,) = cluster.parties(cluster.owner).requests()
    assert command(cluster, monkeypatch, "deny", name) == 0
    with pytest.raises(ConsentRequired, match="denied"):
        reveal(cluster, cluster.alice)
    capsys.readouterr()
    assert command(cluster, monkeypatch, "requests") == 0
    assert name not in capsys.readouterr().out
    assert command(cluster, monkeypatch, "requests", "--denied") == 0
    assert name in capsys.readouterr().out
    assert command(cluster, monkeypatch, "deny", name) == 2
    assert command(cluster, monkeypatch, "deny", "nonsense") == 2
    assert command(cluster, monkeypatch, "approve", name, "--yes") == 0
    reveal(cluster, cluster.alice)


def test_a_budget_says_what_it_is(
    cluster: ClusterHere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = str(cluster.directory / "controller-scientist.pem")
    assert command(cluster, monkeypatch, "grant", "--to", to, "--bits", "640", says="") == 1
    assert "a bit budget: may disclose any function of your data, up to 640 bits" in capsys.readouterr().out
    refused(cluster, cluster.alice, wire=4)
    assert command(cluster, monkeypatch, "requests") == 0
    assert "a bit budget: may disclose any function of your data, up to 320 bits" in capsys.readouterr().out
    assert command(cluster, monkeypatch, "grant", "--to", to, "--bits", "640", "--yes") == 0
    reveal(cluster, cluster.alice, wire=4)
    reveal(cluster, cluster.alice)
    refused(cluster, cluster.alice)
    capsys.readouterr()
    assert command(cluster, monkeypatch, "requests", "--grants") == 0
    said = capsys.readouterr().out
    assert "0 of 640 left" in said and "640 of 640 left" in said
    assert command(cluster, monkeypatch, "deny", said.split()[0]) == 0
    refused(cluster, cluster.bob)


@pytest.mark.parametrize("days", ["0", "-1", "3661", "inf"])
def test_the_life_of_a_grant_has_its_limits_told(
    cluster: ClusterHere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], days: str
) -> None:
    to = str(cluster.directory / "controller-scientist.pem")
    assert command(cluster, monkeypatch, "grant", "--to", to, "--bits", "64", "--days", days, "--yes") == 2
    told = f"torchveil: --days {days}: a grant lives more than 0 and at most 3660 days\n"
    assert capsys.readouterr().err == told


def test_grant_for_a_plan(cluster: ClusterHere, monkeypatch: pytest.MonkeyPatch) -> None:
    to = str(cluster.directory / "controller-scientist.pem")
    arguments = ("grant", "--to", to, "--plan", PLAN.hex(), "--slot", "0", "--releases", "2", "--shape", "5", "--yes")
    assert command(cluster, monkeypatch, *arguments) == 0
    for _ in range(2):
        reveal(cluster, cluster.alice)
    refused(cluster, cluster.alice)
    assert command(cluster, monkeypatch, "grant", "--to", to, "--bits", "64", "--slot", "0", "--yes") == 2
    assert command(cluster, monkeypatch, "grant", "--to", to, "--bits", "64", "--days", "nan", "--yes") == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--bits", "0"), "'0' is no whole number from 1 on"),
        (("--bits", "-64"), "'-64' is no whole number from 1 on"),
        (("--bits", "many"), "is no whole number from 1 on"),
        (("--plan", PLAN.hex(), "--releases", "0"), "is no whole number from 1 on"),
        (("--plan", PLAN.hex(), "--slot", "-1"), "is no whole number from 0 on"),
        (("--bits", "64", "--shape", "3x"), "write 3x2 for a matrix"),
        (("--bits", "64", "--shape", "big"), "write 3x2 for a matrix"),
        (("--bits", "64", "--shape", "-3"), "write 3x2 for a matrix"),
        (("--bits", "64", "--shape", "9" * 19), "write 3x2 for a matrix"),
    ],
)
def test_a_grant_of_nothing(
    cluster: ClusterHere,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    says: str,
) -> None:
    to = str(cluster.directory / "controller-scientist.pem")
    words = tuple(f"{name}={value}" for name, value in zip(words[::2], words[1::2], strict=True))
    with pytest.raises(SystemExit) as caught:
        command(cluster, monkeypatch, "grant", "--to", to, *words, "--yes")
    assert caught.value.code == 2 and says in capsys.readouterr().err
    assert all(not listing.grants for listing in cluster.parties(cluster.owner).listings().values())


def test_audit(cluster: ClusterHere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    alice, bob = cluster.alice, cluster.bob
    refused(cluster, alice)
    swap_heads(alice.log, alice.consent.recognise, bob.asked_by(alice.credentials))
    assert command(cluster, monkeypatch, "audit", "show", str(alice.path)) == 0
    said = capsys.readouterr().out
    assert "refusal" in said and "of=party/bob lines=1" in said
    logs, kept = (f"alice={alice.path}", f"bob={bob.path}"), str(cluster.directory / "heads.json")
    assert command(cluster, monkeypatch, "audit", "verify", *logs, "--ask", "--save", kept) == 0
    for path in (alice.path, bob.path):
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert command(cluster, monkeypatch, "audit", "verify", *logs, "--heads", kept) == 1
    assert "cut off" in capsys.readouterr().out
    assert command(cluster, monkeypatch, "audit", "verify", "--heads", str(alice.path)) == 2
    forged = Path(kept).read_text().replace("party/alice", "party/carol")
    Path(kept).write_text(forged)
    assert command(cluster, monkeypatch, "audit", "verify", *logs, "--heads", kept) == 1


def test_audit_verify_sees_a_cut_tail_by_the_other_log_alone(
    cluster: ClusterHere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alice, bob = cluster.alice, cluster.bob
    refused(cluster, alice)
    swap_heads(alice.log, alice.consent.recognise, bob.asked_by(alice.credentials))
    logs = (f"alice={alice.path}", f"bob={bob.path}")
    assert command(cluster, monkeypatch, "audit", "verify", *logs) == 0
    alice.path.write_bytes(alice.path.read_bytes().splitlines(keepends=True)[0])
    assert command(cluster, monkeypatch, "audit", "verify", *logs) == 1
    assert "party/alice" in capsys.readouterr().out


def test_audit_verify_does_not_praise_what_it_did_not_check(
    cluster: ClusterHere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alice, bob = cluster.alice, cluster.bob
    both = (f"alice={alice.path}", f"bob={bob.path}")

    def verified(*words: str) -> tuple[int, str]:
        status = command(cluster, monkeypatch, "audit", "verify", *words)
        said = capsys.readouterr().out
        assert (status == 0) == ("nothing is wrong\n" in said), said
        return status, said

    refused(cluster, alice)
    status, said = verified(both[0])
    assert status == 2 and "party/alice: not checked: its end" in said and "nothing was compared" in said
    status, said = verified()  # the parties are asked, and none has heard of the other
    assert status == 2 and "party/alice: not checked: its end" in said and "party/bob: not checked" in said
    assert verified(*both)[0] == 1
    kept = cluster.directory / "heads.json"
    assert verified(*both, "--ask", "--save", str(kept))[0] == 1, "what a party says of itself is no check"
    assert verified(*both, "--heads", str(kept))[0] == 0
    swap_heads(alice.log, alice.consent.recognise, bob.asked_by(alice.credentials))
    assert verified()[0] == 0
    assert verified(*both)[0] == 0
    assert verified(both[0])[0] == 2, "alice's log holds a head of bob's, which is not here"
    assert verified(both[0], "--ask")[0] == 0
    mute = bob.path.read_bytes().splitlines(keepends=True)
    bob.path.write_bytes(b"")
    assert verified(*both)[0] == 1
    bob.path.write_bytes(b"".join(mute))
    assert verified(*both)[0] == 0
