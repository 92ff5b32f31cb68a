"""Roles of the cluster that claim to be others, or that ask for what is not theirs; controllers that open sessions
as they should not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import msgspec
import pytest
import torch

from tests.security.attacks.lying import NAME, Views, watched
from torchveil.errors import (
    DataNotFound,
    GrantInvalid,
    InvalidArgument,
    NetworkError,
    PeerRejected,
    TorchveilError,
)
from torchveil.network import messages as m
from torchveil.network import opening
from torchveil.network.certificates import Credentials
from torchveil.network.connect import connect
from torchveil.network.consent.grants import encode, new_grant, sign_grant
from torchveil.network.datasets import Schema
from torchveil.network.datasets_service import Discard, Remove, Stage
from torchveil.network.links import Hub, Link
from torchveil.network.names import Role
from torchveil.network.opening import abort_raises, dial, hello_of, open_as_controller
from torchveil.network.owner import available, share
from torchveil.network.results import Forget, fetch
from torchveil.network.results import names as result_names
from torchveil.network.services import Caller
from torchveil.randomness import os_bytes
from torchveil.roles.keys import Identity as KeyPair
from torchveil.roles.keys import PublicHalf, agree_session_id
from torchveil.testing.clusters import LocalCluster

ALICE, BOB = Role("party", "alice"), Role("party", "bob")
HERS, HIS = Role("owner", "hospital-a"), Role("owner", "hospital-b")
SCIENTIST = Role("controller", "scientist")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, Views]]:
    with watched(tmp_path_factory.mktemp("roles"), owners=["hospital-a", "hospital-b"]) as found:
        yield found


@pytest.fixture
def cluster(world: tuple[LocalCluster, Views]) -> LocalCluster:
    return world[0]


def credentials(cluster: LocalCluster, role: Role) -> Credentials:
    here = cluster.directory
    return Credentials.load(here / f"{role.stem}.pem", here / f"{role.stem}.key", here / "ca.pem")


class Halfway:
    """A session that is being opened: the roles were greeted, and wait for BEGIN."""

    def __init__(self, cluster: LocalCluster, **others: KeyPair) -> None:
        """``others``: what single roles are told of the controller instead of the same as everybody."""
        self.cluster, self.ticket, self.keys = cluster, os_bytes(16), KeyPair(str(SCIENTIST))
        self.hub = Hub(timeout_s=5)
        self.links: dict[str, Link] = {}
        self.halves: list[PublicHalf] = []
        mine = credentials(cluster, SCIENTIST)
        for role, address in cluster.config.addresses.items():
            hello = hello_of(cluster.config, "session", self.ticket, others.get(role.name, self.keys).half)
            link, _, welcome = dial(address, role, mine, cluster.config, hello, cluster.config.limits)
            self.hub.add(link)
            self.links[role.name] = link
            self.halves.append(PublicHalf(str(role), welcome.key, welcome.contribution))
        self.hub.urgent = abort_raises

    def begin(self, *contributions: bytes, to: tuple[str, ...] = ("alice", "bob", "james")) -> None:
        """Tell roles what everybody contributed; the truth if nothing is given."""
        truth = tuple(half.contribution for half in (*self.halves, self.keys.half))
        told = contributions or truth
        for name in to:
            self.hub.post(self.links[name], m.message_of(m.Kind.BEGIN, m.Begin(told)))
        for name in to if told == truth else ():
            self.links[name].session = agree_session_id([PublicHalf("", b"", part) for part in told])

    def outcome(self) -> TorchveilError:
        """What the roles say to it; raises ``AssertionError`` if all of them are ready."""
        try:
            for link in self.links.values():
                m.parse(self.hub.receive(link, 5, "ready"), m.Ready)
        except TorchveilError as error:
            return error
        finally:
            self.hub.close()
        raise AssertionError("the session opened")

    def join(self, role: Role, to: Role, ticket: bytes | None = None, contribution: bytes = b"") -> m.Welcome:
        """Connect to a role for this session, with the certificate of another one. Raises what is answered."""
        keys = KeyPair(str(role))
        half = PublicHalf(str(role), keys.half.key, contribution or keys.half.contribution)
        hello = hello_of(self.cluster.config, "link", self.ticket if ticket is None else ticket, half)
        address = self.cluster.config.addresses[to]
        link, _, welcome = dial(
            address, to, credentials(self.cluster, role), self.cluster.config, hello, self.cluster.config.limits
        )
        link.close()
        return welcome


# --- links between roles ---------------------------------------------------------------------------------------------


def test_a_controllers_certificate_on_a_link(cluster: LocalCluster) -> None:
    """It is turned away by itself; the session that it knocked at opens."""
    session = Halfway(cluster)
    with pytest.raises(PeerRejected, match="takes part in no session"):
        session.join(SCIENTIST, ALICE)
    session.begin()
    with pytest.raises(AssertionError, match="opened"):
        session.outcome()


def test_the_providers_certificate_in_bobs_place(cluster: LocalCluster) -> None:
    """Who connects is who the certificate names, not who is awaited: alice waits for bob, and the provider comes."""
    session = Halfway(cluster)
    session.begin(to=("alice", "james"))
    with pytest.raises(PeerRejected, match="provider/james connected twice, or is no role"):
        session.join(Role("provider", "james"), ALICE)
    assert isinstance(session.outcome(), NetworkError)


def test_two_that_claim_one_role(cluster: LocalCluster) -> None:
    """Somebody with a copy of bob's key comes before bob: his half is not what the controller heard of bob."""
    session = Halfway(cluster)
    session.begin(to=("alice", "james"))
    with suppress(TorchveilError):
        session.join(BOB, ALICE)
    error = session.outcome()
    assert isinstance(error, PeerRejected) and "contributed something else" in error.message


@pytest.mark.parametrize("ticket", [b"", bytes(16), b"guess-a-ticket.."], ids=["none", "zeros", "guessed"])
def test_tickets_that_nobody_gave(cluster: LocalCluster, ticket: bytes) -> None:
    session = Halfway(cluster)
    with pytest.raises(PeerRejected, match="no session of this ticket"):
        session.join(BOB, ALICE, ticket)
    session.hub.close()


def test_a_recorded_hello_is_of_no_use_later(cluster: LocalCluster) -> None:
    """Played again while its session runs, and when it is over."""
    session = Halfway(cluster)
    session.begin()
    with pytest.raises(AssertionError, match="opened"):
        session.outcome()
    with pytest.raises(PeerRejected, match="no session of this ticket"):
        session.join(BOB, ALICE)


def test_a_party_may_not_open_a_session(cluster: LocalCluster) -> None:
    hello = hello_of(cluster.config, "session", os_bytes(16), KeyPair("party/bob").half)
    address = cluster.config.addresses[ALICE]
    link, hub = None, Hub(timeout_s=3)
    with pytest.raises(PeerRejected, match="may not open sessions"):
        link, _, _ = dial(address, ALICE, credentials(cluster, BOB), cluster.config, hello, cluster.config.limits)
    assert link is None
    hub.close()


def test_somebody_else_at_a_partys_address(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A man in the middle with a certificate of the cluster: bob's machine answers where alice should."""
    dialling = opening.connect
    there = {cluster.config.addresses[ALICE]: cluster.config.addresses[BOB]}
    monkeypatch.setattr(opening, "connect", lambda address, *rest: dialling(there.get(address, address), *rest))
    with pytest.raises(PeerRejected, match="party/bob answers at the address of party/alice"):
        open_as_controller(cluster.config, credentials(cluster, SCIENTIST), cluster.config.limits)


# --- the session id --------------------------------------------------------------------------------------------------


def test_a_session_id_that_was_used_before(cluster: LocalCluster) -> None:
    """BEGIN of an earlier session, so that keystream would come again: each role looks for its own fresh bytes."""
    first = Halfway(cluster)
    old = tuple(half.contribution for half in (*first.halves, first.keys.half))
    first.hub.close()
    second = Halfway(cluster)
    second.begin(*old)
    error = second.outcome()
    assert isinstance(error, PeerRejected) and "own contribution" in error.message


def test_wrong_contributions_of_others(cluster: LocalCluster) -> None:
    session = Halfway(cluster)
    alice, bob, james = (half.contribution for half in session.halves)
    mine = session.keys.half.contribution
    session.begin(alice, os_bytes(16), james, mine, to=("alice",))
    session.begin(alice, bob, james, mine, to=("bob", "james"))
    assert isinstance(session.outcome(), NetworkError)


@pytest.mark.parametrize("wrong", ["repeated", "too few", "of the controller"])
def test_contributions_that_are_none(cluster: LocalCluster, wrong: str) -> None:
    session = Halfway(cluster)
    alice, bob, james = (half.contribution for half in session.halves)
    mine = session.keys.half.contribution
    told = {
        "repeated": (alice, bob, bob, mine),
        "too few": (alice, bob, james),
        "of the controller": (alice, bob, james, os_bytes(16)),
    }[wrong]
    session.begin(*told)
    assert isinstance(session.outcome(), NetworkError)


def test_another_half_of_the_controller_for_each_role(cluster: LocalCluster) -> None:
    """Two session ids in one session: the roles' frames are not taken by one another."""
    session = Halfway(cluster, alice=KeyPair(str(SCIENTIST)))
    alice, bob, james = (half.contribution for half in session.halves)
    other = session.keys.half.contribution
    session.begin(alice, bob, james, other)
    assert isinstance(session.outcome(), NetworkError)


# --- owners among each other -----------------------------------------------------------------------------------------


def test_an_owner_sees_and_changes_nothing_of_another(cluster: LocalCluster) -> None:
    share(cluster.config, credentials(cluster, HERS), NAME, torch.ones(3))
    his = Caller(cluster.config, credentials(cluster, HIS))
    assert available(his) == {}
    with pytest.raises(InvalidArgument, match="may not share as"):  # his own program
        share(cluster.config, credentials(cluster, HIS), NAME, torch.zeros(3))
    theirs = Stage(os_bytes(16), Schema(NAME, (1,), 2, 16, ("party/alice", "party/bob")), 0)
    with pytest.raises(PeerRejected):  # and the party, whatever his program does
        his.call(ALICE, "datasets/stage", msgspec.msgpack.encode(theirs), [bytes(8)])
    with pytest.raises(PeerRejected):
        his.call(ALICE, "datasets/remove", msgspec.msgpack.encode(Remove(NAME)))
    with connect(cluster.file) as session:
        entry = session.datasets()[NAME]
        assert entry.shape == (3,)
        with suppress(TorchveilError):
            his.call(ALICE, "datasets/discard", msgspec.msgpack.encode(Discard(bytes(16))))
        assert session.dataset(NAME).shape == (3,)


def test_an_owner_gets_no_results_of_another(cluster: LocalCluster) -> None:
    hers, his = (Caller(cluster.config, credentials(cluster, role)) for role in (HERS, HIS))
    assert result_names(hers) == []
    with connect(cluster.file) as session:
        session.deliver(session.share(torch.ones(2)), "owner/hospital-a", "answer")
    assert result_names(hers) == ["answer"] and result_names(his) == []
    for name in ("answer", "../hospital-a=answer", "x/../../audit.jsonl"):
        with pytest.raises(TorchveilError) as caught:
            his.call(ALICE, "results/fetch", msgspec.msgpack.encode({"name": name}))
        assert caught.value.code in (DataNotFound.code, "TV108")
    kept = fetch(hers, "answer").kept
    his.call(ALICE, "results/forget", msgspec.msgpack.encode(Forget("answer", kept.session, kept.number)))
    assert result_names(hers) == ["answer"] and fetch(hers, "answer").value.tolist() == [1.0, 1.0]


def test_an_owner_grants_and_denies_for_itself_alone(cluster: LocalCluster) -> None:
    hers, his = credentials(cluster, HERS), credentials(cluster, HIS)
    grant = new_grant(hers, "controller/scientist", bytes(32), quota=1, now=time.time(), seconds=60)
    his_caller = Caller(cluster.config, his)
    with pytest.raises(GrantInvalid):  # hers, brought by him
        his_caller.call(ALICE, "consent/grant", encode(sign_grant(hers, grant)))
    forged = sign_grant(hers, grant)
    mine = msgspec.structs.replace(forged, certificate=his.certificate_der, signature=his.sign(encode(grant), "x"))
    with pytest.raises(GrantInvalid):
        Caller(cluster.config, hers).call(ALICE, "consent/grant", encode(mine))
