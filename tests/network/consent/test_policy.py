"""Every way to a value is tried without the grant that it needs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.network.consent.authority import Authority, Credentials
from tests.network.consent.world import DAY, NOW, PLAN, World
from torchveil.errors import ConsentRequired, GrantInvalid, StorageError
from torchveil.network.consent.audit import records
from torchveil.network.consent.grants import (
    PURPOSE,
    Grant,
    SignedGrant,
    answer,
    decode,
    encode,
    new_grant,
    sign_grant,
)
from torchveil.network.consent.policy import Consent

BOTH = frozenset(["owner/hospital-a", "owner/hospital-b"])
BUDGET: dict[str, Any] = {"plan": None, "slot": None, "shape": None, "digits": None}


def refused(world: World, **changes: Any) -> str:
    with pytest.raises(ConsentRequired) as caught:
        world.consent.decide(world.release(**changes))
    return str(caught.value)


def kinds(world: World) -> list[str]:
    return [record.kind for record in records(world.log_path)]


# --- what needs no grant ---------------------------------------------------------------------------------------------


def test_ones_own_data_and_public_constants_need_no_grant(world: World) -> None:
    assert world.consent.decide(world.release(owners=frozenset([world.scientist.role]))).grants == ()
    assert world.consent.decide(world.release(owners=frozenset())).grants == ()
    assert kinds(world) == ["reveal", "reveal"]


def test_the_default_is_no(world: World) -> None:
    text = refused(world)
    assert "owner/hospital-a" in text and "torchveil approve" in text
    assert kinds(world) == ["refusal"]


# --- grants ----------------------------------------------------------------------------------------------------------


def test_a_grant_releases_once_and_is_used_up(world: World) -> None:
    signed = world.give()
    assert world.consent.decide(world.release()).grants == (signed.grant.nonce,)
    refused(world)
    assert kinds(world) == ["grant", "reveal", "refusal"]


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": bytes(32)},
        {"receiver": "controller/other"},
        {"receiver": "owner/hospital-b"},
        {"plan": bytes(32)},
        {"plan": None, "slot": None},
        {"slot": 1},
        {"shape": (2, 3)},
        {"shape": (6,)},
        {"digits": 15},
        {"digits": None},
        {"owners": BOTH},
        {"owners": frozenset(["owner/hospital-b"])},
        {"owners": frozenset(["owner/hospital-a", "controller/other"])},
    ],
    ids=lambda change: " ".join(f"{k}={sorted(v) if isinstance(v, frozenset) else v}" for k, v in change.items()),
)
def test_a_grant_for_something_else_does_not_do(world: World, change: dict[str, Any]) -> None:
    signed = world.give(quota=5)
    refused(world, **change)
    assert world.consent.grants("owner/hospital-a") == [(signed.grant, 5)]
    world.consent.decide(world.release())


def test_time(world: World) -> None:
    world.give(now=NOW + 100, quota=9)
    refused(world)
    world.now = NOW + 100
    world.consent.decide(world.release())
    world.now = NOW + 100 + DAY - 1
    world.consent.decide(world.release())
    world.now = NOW + 100 + DAY
    refused(world)
    with pytest.raises(GrantInvalid, match="expired"):
        world.give(now=NOW - 5, seconds=5)


def test_a_quota_survives_a_restart_and_a_clock_set_back(world: World) -> None:
    signed = world.give(quota=2)
    world.consent.decide(world.release())
    world.restart()
    world.consent.decide(world.release())
    world.restart()
    refused(world)
    world.now = NOW + 2 * DAY
    refused(world)  # forgets the grant
    world.now = NOW
    with pytest.raises(GrantInvalid, match="nonce"):
        world.consent.add(signed)
    refused(world)


def test_taking_a_grant_twice_does_not_refill_it(world: World) -> None:
    signed = world.give()
    world.consent.decide(world.release())
    world.consent.add(signed)
    refused(world)


def test_another_grant_under_a_known_nonce_is_refused(world: World) -> None:
    signed = world.give()
    more = msgspec.structs.replace(signed.grant, quota=1000)
    with pytest.raises(GrantInvalid, match="nonce"):
        world.consent.add(sign_grant(world.hospital_a, more))
    world.consent.decide(world.release())
    refused(world)


@pytest.mark.parametrize("sessions", [1, 2], ids=["one session", "two stores on one directory"])
def test_threads_cannot_use_a_quota_twice(world: World, sessions: int) -> None:
    world.give(quota=5)
    second = Consent(
        "party/alice",
        world.directory / "consent",
        cluster=world.alice.cluster,
        recognise=world.authority.recognise,
        log=world.log,
        clock=world.clock,
    )
    consents = [world.consent, second][:sessions]
    allowed: list[bool] = []
    gate = threading.Barrier(8)

    def work(k: int) -> None:
        gate.wait(60)
        for _ in range(3):
            try:
                consents[k % sessions].decide(world.release())
                allowed.append(True)
            except ConsentRequired:
                allowed.append(False)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert (allowed.count(True), allowed.count(False)) == (5, 19)


def test_all_owners_or_none_pay(world: World) -> None:
    first = world.give(quota=1)
    text = refused(world, owners=BOTH)
    assert "owner/hospital-b did not" in text and "owner/hospital-a" not in text
    assert world.consent.grants("owner/hospital-a") == [(first.grant, 1)]
    second = world.give(world.hospital_b)
    assert set(world.consent.decide(world.release(owners=BOTH)).grants) == {first.grant.nonce, second.grant.nonce}
    refused(world, owners=BOTH)


def test_the_receivers_own_part_needs_no_grant(world: World) -> None:
    owners = frozenset(["owner/hospital-a", "controller/scientist"])
    world.give()
    world.consent.decide(world.release(owners=owners))


def test_the_name_of_an_owner_is_not_a_prefix(world: World) -> None:
    refused(world, owners=frozenset(["controller/scientist-2"]))
    refused(world, owners=frozenset(["controller/scientis"]) | BOTH)


# --- forgeries -------------------------------------------------------------------------------------------------------


def forgeries(world: World) -> dict[str, Callable[[], Any]]:
    good = sign_grant(world.hospital_a, world.grant())
    replace = msgspec.structs.replace
    stranger = Authority().issue("owner/hospital-a")
    theirs = sign_grant(world.hospital_b, world.grant(world.hospital_b))
    return {
        "signature": lambda: replace(good, signature=bytes(64)),
        "no signature": lambda: replace(good, signature=b""),
        "field": lambda: replace(good, grant=replace(good.grant, quota=2)),
        "receiver": lambda: replace(good, grant=replace(good.grant, receiver="controller/other")),
        "other certificate": lambda: replace(good, certificate=world.hospital_b.certificate_der),
        "other owner": lambda: replace(theirs, grant=replace(theirs.grant, owner="owner/hospital-a")),
        "other authority": lambda: sign_grant(stranger, world.grant(stranger)),
        "garbage certificate": lambda: replace(good, certificate=b"no"),
        "purpose": lambda: replace(good, signature=world.hospital_a.sign(b"", "something else")),
    }


@pytest.mark.parametrize(
    "name",
    [
        "signature",
        "no signature",
        "field",
        "receiver",
        "other certificate",
        "other owner",
        "other authority",
        "garbage certificate",
        "purpose",
    ],
)
def test_forged_grants_are_refused(world: World, name: str) -> None:
    with pytest.raises(GrantInvalid):
        world.consent.add(forgeries(world)[name]())
    refused(world)


def test_the_list_of_forgeries_is_complete(world: World) -> None:
    assert len(forgeries(world)) == 9


def test_a_grant_of_another_cluster_is_refused(world: World) -> None:
    elsewhere = world.authority.issue("owner/hospital-a", "other-cluster")
    with pytest.raises(GrantInvalid, match="cluster"):
        world.consent.add(sign_grant(elsewhere, world.grant(elsewhere)))
    with pytest.raises(GrantInvalid):
        sign_grant(elsewhere, world.grant())
    refused(world)


def signed_by(signer: Credentials, grant: Grant) -> SignedGrant:
    """What ``sign_grant`` refuses to sign."""
    return SignedGrant(grant=grant, signature=signer.sign(encode(grant), PURPOSE), certificate=signer.certificate_der)


def test_another_owners_signature_does_not_do(world: World) -> None:
    world.consent.add(signed_by(world.hospital_a, world.grant()))  # the same way, by the right one
    with pytest.raises(GrantInvalid, match="in the name of"):
        world.consent.add(signed_by(world.hospital_b, world.grant()))


def test_grant_and_certificate_are_of_this_cluster(world: World) -> None:
    elsewhere = world.authority.issue("owner/hospital-a", "other-cluster")
    theirs = msgspec.structs.replace(world.grant(), cluster="other-cluster")
    for signed in (signed_by(elsewhere, world.grant()), signed_by(world.hospital_a, theirs)):
        with pytest.raises(GrantInvalid, match="cluster"):
            world.consent.add(signed)


def test_the_life_of_a_grant(world: World) -> None:
    grant = world.grant(now=NOW, seconds=10)
    assert [grant.valid_at(NOW + t) for t in (-0.1, 0, 9.9, 10)] == [False, True, True, False]
    with pytest.raises(GrantInvalid, match="before it begins"):
        sign_grant(world.hospital_a, world.grant(seconds=0))


def test_too_many_bytes_are_not_read(world: World) -> None:
    whole = encode(sign_grant(world.hospital_a, world.grant()))
    assert decode(whole, SignedGrant, len(whole)).grant.owner == "owner/hospital-a"
    with pytest.raises(GrantInvalid, match="too many"):
        decode(whole, SignedGrant, len(whole) - 1)


def test_one_cannot_sign_for_another_owner(world: World) -> None:
    with pytest.raises(GrantInvalid, match="cannot grant"):
        sign_grant(world.hospital_b, world.grant())


def test_a_grant_ends_with_its_owners_certificate(world: World) -> None:
    world.give(quota=2)
    world.consent.decide(world.release())
    world.authority.ended[world.hospital_a.certificate_der] = NOW
    refused(world)


def test_a_grant_edited_on_disk_is_refused(world: World) -> None:
    world.give()
    path = world.directory / "consent" / "consent.msgpack"
    whole = path.read_bytes()
    assert whole.count(PLAN) == 1
    path.write_bytes(whole.replace(PLAN, bytes(32)))
    refused(world, plan=bytes(32))


def test_a_damaged_file_releases_nothing(world: World) -> None:
    world.give()
    path = world.directory / "consent" / "consent.msgpack"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError):
        world.consent.decide(world.release())


@pytest.mark.parametrize(
    "change",
    [{"slot": None}, {"plan": None}, {"quota": -1}, {"seconds": 0}, {"plan": b"short"}, {"receiver": "nobody"}],
    ids=str,
)
def test_impossible_grants_cannot_be_signed(world: World, change: dict[str, Any]) -> None:
    with pytest.raises(GrantInvalid):
        world.give(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 0},
        {"bits": -64},
        {"slot": None},
        {"plan": None},
        {"bits": 1 << 70},
        {"shape": (-3, -2)},
        {"plan": b"short"},
        {"receiver": "controller/two\nlines"},
        {"owners": frozenset(["hospital"])},
    ],
    ids=str,
)
def test_a_release_that_makes_no_sense_is_refused(world: World, change: dict[str, Any]) -> None:
    world.give(quota=10)
    with pytest.raises(GrantInvalid):
        world.consent.decide(world.release(**change))
    world.consent.decide(world.release())  # nothing that could not be read again was kept


@pytest.mark.parametrize(
    "change",
    [
        {"cluster": "another"},
        {"owner": "owner/hospital-b"},
        {"receiver": "controller/other"},
        {"fingerprint": bytes(32)},
        {"plan": bytes(32)},
        {"slot": 1},
        {"shape": (6,)},
        {"digits": 3},
        {"request": "0123456789abcdef"},
    ],
    ids=str,
)
def test_every_field_of_a_grant_counts(world: World, change: dict[str, Any]) -> None:
    grant, request = world.grant(), world.consent._request(world.release())
    assert grant.fits(request)
    assert not msgspec.structs.replace(grant, **change).fits(request)


# --- bit budgets -----------------------------------------------------------------------------------------------------


def test_a_bit_budget_is_exact_to_the_bit(world: World) -> None:
    world.give(**BUDGET, quota=3 * 384 - 1)
    world.consent.decide(world.release())
    world.consent.decide(world.release(plan=None, slot=None, number=8))
    refused(world)
    world.consent.decide(world.release(shape=(383,), bits=383))
    refused(world, shape=(1,), bits=1)


def test_a_budget_of_exactly_the_size_does(world: World) -> None:
    world.give(**BUDGET, quota=384)
    world.consent.decide(world.release())
    refused(world, shape=(1,), bits=1)


def test_a_plan_is_preferred_to_a_budget(world: World) -> None:
    budget = world.give(**BUDGET, quota=384)
    plan = world.give(seconds=2 * DAY)
    assert world.consent.decide(world.release()).grants == (plan.grant.nonce,)
    assert world.consent.decide(world.release()).grants == (budget.grant.nonce,)


def test_two_small_budgets_do_not_add_up(world: World) -> None:
    world.give(**BUDGET, quota=383)
    world.give(**BUDGET, quota=383)
    refused(world)


# --- requests --------------------------------------------------------------------------------------------------------


def test_approving_a_request_releases_it_once(world: World) -> None:
    text = refused(world, owners=BOTH)
    for owner in (world.hospital_a, world.hospital_b):
        (entry,) = world.consent.requests(owner.role)
        assert entry.request.id in text
        world.consent.add(sign_grant(owner, answer(owner, entry.request, now=NOW, seconds=DAY)))
        assert world.consent.requests(owner.role) == []
    world.restart()
    assert world.consent._store.look().asked == {}
    refused(world, owners=BOTH, shape=(2, 3))
    world.consent.decide(world.release(owners=BOTH))
    refused(world, owners=BOTH)


def test_approving_a_request_without_a_plan_gives_its_bits(world: World) -> None:
    refused(world, plan=None, slot=None)
    (entry,) = world.consent.requests("owner/hospital-a")
    grant = answer(world.hospital_a, entry.request, now=NOW, seconds=DAY)
    assert (grant.quota, grant.shape) == (384, (3, 2))
    world.consent.add(sign_grant(world.hospital_a, grant))
    world.consent.decide(world.release(plan=None, slot=None, session="another"))
    refused(world, plan=None, slot=None)


def test_repeats_are_one_request(world: World) -> None:
    refused(world)
    refused(world, session="another", number=99)
    (entry,) = world.consent.requests("owner/hospital-a")
    assert entry.times == 2


def approve(world: World, owner: Credentials, request_id: str) -> SignedGrant:
    (request,) = [
        entry.request
        for entry in (*world.consent.requests(owner.role), *world.consent.denials(owner.role))
        if entry.request.id == request_id
    ]
    signed = sign_grant(owner, answer(owner, request, now=NOW, seconds=DAY))
    world.consent.add(signed)
    return signed


def test_denied_stays_denied_until_approved(world: World) -> None:
    refused(world)
    (entry,) = world.consent.requests("owner/hospital-a")
    world.consent.deny("owner/hospital-a", entry.request.id)
    world.restart()
    assert "denied" in refused(world, session="another")
    assert world.consent.requests("owner/hospital-a") == []
    with pytest.raises(GrantInvalid):
        world.consent.deny("owner/hospital-b", entry.request.id)
    approve(world, world.hospital_a, entry.request.id)
    assert [entry.request.id for entry in world.consent.denials("owner/hospital-a")] == [entry.request.id]
    world.consent.decide(world.release())
    assert world.consent.denials("owner/hospital-a") == []
    assert "denied" not in refused(world)


@pytest.mark.parametrize("ahead", [BUDGET | {"quota": 1 << 20}, {"quota": 5}], ids=["budget", "plan"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_nothing_that_is_granted_ahead_passes_a_denial(world: World, ahead: dict[str, Any], before: bool) -> None:
    # hospital-b has granted nothing, so that there is something to deny
    refused(world, owners=BOTH)
    (entry,) = world.consent.requests("owner/hospital-a")
    if before:
        world.give(**ahead)
    world.consent.deny("owner/hospital-a", entry.request.id)
    if not before:
        world.give(**ahead)
    world.give(world.hospital_b)
    assert "owner/hospital-a denied it" in refused(world, owners=BOTH)
    world.consent.decide(world.release())  # another request, which nobody denied
    approve(world, world.hospital_a, entry.request.id)
    world.consent.decide(world.release(owners=BOTH))


def test_an_approval_pays_for_nothing_but_its_request(world: World) -> None:
    """Of two values of one shape for one receiver, one is denied and the other approved."""
    budget: dict[str, Any] = {"plan": None, "slot": None}
    refused(world, **budget, owners=BOTH)
    refused(world, **budget)
    both, alone = world.consent.requests("owner/hospital-a")
    world.consent.deny("owner/hospital-a", both.request.id)
    approve(world, world.hospital_b, both.request.id)
    approve(world, world.hospital_a, alone.request.id)
    assert "owner/hospital-a denied it" in refused(world, **budget, owners=BOTH)
    world.consent.decide(world.release(**budget))
    refused(world, **budget)
    assert "owner/hospital-a denied it" in refused(world, **budget, owners=BOTH)


def test_an_approval_answers_no_other_request(world: World) -> None:
    for shape in ((3, 2), (2, 3)):
        refused(world, plan=None, slot=None, shape=shape)
    refused(world)
    first, *others = world.consent.requests("owner/hospital-a")
    approve(world, world.hospital_a, first.request.id)
    assert [entry.request.id for entry in world.consent.requests("owner/hospital-a")] == [
        entry.request.id for entry in others
    ]


def test_a_denial_ends_what_was_approved_before(world: World) -> None:
    refused(world, owners=BOTH)
    (entry,) = world.consent.requests("owner/hospital-a")
    signed = approve(world, world.hospital_a, entry.request.id)
    world.consent.deny("owner/hospital-a", entry.request.id)
    approve(world, world.hospital_b, entry.request.id)
    assert "owner/hospital-a denied it" in refused(world, owners=BOTH)
    with pytest.raises(GrantInvalid, match="withdrawn"):
        world.consent.add(signed)


def test_an_approval_of_what_was_denied_can_be_taken_back(world: World) -> None:
    refused(world)
    (entry,) = world.consent.requests("owner/hospital-a")
    world.consent.deny("owner/hospital-a", entry.request.id)
    signed = approve(world, world.hospital_a, entry.request.id)
    world.consent.withdraw("owner/hospital-a", signed.grant.nonce)
    world.give(**BUDGET, quota=1 << 20)
    assert "denied" in refused(world)


def test_a_request_that_a_grant_paid_for_waits_no_more(world: World) -> None:
    refused(world)
    world.give()
    world.consent.decide(world.release())
    assert world.consent.requests("owner/hospital-a") == []


def test_a_withdrawn_grant_stays_dead(world: World) -> None:
    signed = world.give(quota=5)
    with pytest.raises(GrantInvalid):
        world.consent.withdraw("owner/hospital-b", signed.grant.nonce)
    world.consent.decide(world.release())
    world.consent.withdraw("owner/hospital-a", signed.grant.nonce)
    refused(world)
    world.restart()
    with pytest.raises(GrantInvalid, match="withdrawn"):
        world.consent.add(signed)
    refused(world)


def test_a_grant_that_was_withdrawn_before_its_first_use_is_dead(world: World) -> None:
    signed = world.give(quota=5)
    world.consent.withdraw("owner/hospital-a", signed.grant.nonce)
    with pytest.raises(GrantInvalid, match="withdrawn"):
        world.consent.add(signed)
    refused(world)


def test_a_flood_of_requests_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchveil.network.consent.store.MAX_REQUESTS", 10)
    refused(world, receiver="controller/quiet")
    for k in range(15):
        refused(world, shape=(k + 1,), bits=64 * (k + 1))
    entries = world.consent.requests("owner/hospital-a")
    assert [entry.request.receiver for entry in entries].count("controller/scientist") == 10
    assert [entry.request.receiver for entry in entries].count("controller/quiet") == 1


def test_a_flood_of_requests_washes_no_denial_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchveil.network.consent.store.MAX_REQUESTS", 4)
    refused(world)
    (entry,) = world.consent.requests("owner/hospital-a")
    world.consent.deny("owner/hospital-a", entry.request.id)
    for k in range(9):
        refused(world, shape=(k + 1,), bits=64 * (k + 1))
    world.give(**BUDGET, quota=1 << 20)
    assert "denied" in refused(world)
    for waiting in world.consent.requests("owner/hospital-a"):
        world.consent.deny("owner/hospital-a", waiting.request.id)
    assert len(world.consent.denials("owner/hospital-a")) == 4
    text = refused(world, shape=(50,), bits=3200, owners=BOTH)
    assert "not kept" in text and "torchveil approve" not in text
    assert len(world.consent._store.look().asked) == 4
    refused(world, receiver="controller/quiet")
    assert len(world.consent._store.look().asked) == 5


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_a_crash_after_counting_loses_the_release(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.give()

    def fail(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(world.log, "append", fail)
    with pytest.raises(StorageError):
        world.consent.decide(world.release())
    monkeypatch.undo()
    world.restart()
    refused(world)


def test_nothing_is_released_when_the_count_cannot_be_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.give()

    def fail(*_: Any) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="power cut"):
        world.consent.decide(world.release())
    monkeypatch.undo()
    assert kinds(world) == ["grant"]
    world.consent.decide(world.release())
    refused(world)


def test_files_are_private(world: World) -> None:
    (world.directory / "consent").chmod(0o755)
    world.restart()
    world.give()
    directory: Path = world.directory / "consent"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in [*directory.iterdir(), world.log_path])


def test_a_new_certificate_of_the_receiver_needs_a_new_grant(world: World) -> None:
    world.give()
    again = world.authority.issue("controller/scientist")
    refused(world, fingerprint=again.fingerprint)


def test_grants_have_names_of_their_own(world: World) -> None:
    nonces = {
        new_grant(world.hospital_a, "controller/x", bytes(32), quota=1, now=NOW, seconds=1).nonce for _ in range(50)
    }
    assert len(nonces) == 50
