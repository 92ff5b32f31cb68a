"""Two owners, one of whom says no; and an owner who wants the other one's data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.security.attacks.lying import NAME, SECRET, watched
from torchveil.errors import ConsentRequired, DataNotFound, GrantInvalid
from torchveil.fixedpoint import FixedPoint
from torchveil.network.authority import Paths
from torchveil.network.certificates import Credentials
from torchveil.network.commands.consent import Parties
from torchveil.network.connect import NetworkSession, connect, find_credentials
from torchveil.network.consent.grants import new_grant
from torchveil.network.consent.store import MAX_REQUESTS
from torchveil.network.names import Role
from torchveil.network.owner import find, share
from torchveil.network.services import Caller
from torchveil.tensor import wrap
from torchveil.testing.clusters import LocalCluster

OWNERS = ("hospital-a", "hospital-b")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with watched(tmp_path_factory.mktemp("denials"), owners=OWNERS) as (running, _):
        for owner in OWNERS:
            share(running.config, credentials(running, owner), f"{owner}/x", SECRET)
        yield running


@pytest.fixture
def session(cluster: LocalCluster) -> Iterator[NetworkSession]:
    with connect(cluster.file) as opened:
        yield opened


def certificate(cluster: LocalCluster, owner: str) -> Any:
    return Paths.of(cluster.directory, Role("owner", owner)).certificate


def credentials(cluster: LocalCluster, owner: str) -> Credentials:
    return find_credentials(cluster.config, certificate(cluster, owner), None, "owner")


def at(cluster: LocalCluster, owner: str) -> Parties:
    """The parties as this owner reaches them."""
    caller = Caller(cluster.config, credentials(cluster, owner))

    def ask(role: Role, service: str, arguments: bytes) -> bytes:
        return caller.call(role, service, arguments)[0]

    roles = [role for role in cluster.config.addresses if role.kind == "party"]
    return Parties({str(role): partial(ask, role) for role in roles}, caller.credentials)


def refused(value: Any) -> str:
    """The name of the request."""
    with pytest.raises(ConsentRequired) as caught:
        value.reveal()
    return str(caught.value).partition("(request ")[2][:16]


def approve(cluster: LocalCluster, owner: str, name: str) -> None:
    parties = at(cluster, owner)
    parties.approve(parties.request(name), now=time.time(), seconds=600)


def sums(session: NetworkSession) -> tuple[Any, Any]:
    """A number made from the data of both, and one from those of hospital-a alone."""
    mine, theirs = session.dataset("hospital-a/x"), session.dataset("hospital-b/x")
    return (mine + theirs).sum(), mine.sum()


def test_what_is_approved_does_not_pay_for_what_was_denied(cluster: LocalCluster, session: NetworkSession) -> None:
    """Both are one number for the same receiver. Nor does a budget for whatever it likes."""
    both, alone = sums(session)
    denied, allowed = refused(both), refused(alone)
    at(cluster, "hospital-a").deny(denied)
    approve(cluster, "hospital-b", denied)
    approve(cluster, "hospital-a", allowed)
    with pytest.raises(ConsentRequired, match="owner/hospital-a denied it"):
        both.reveal()
    assert alone.reveal().item() == pytest.approx(SECRET.sum().item(), abs=0.01)
    controller = find_credentials(cluster.config, None, None, "controller")
    budget = partial(new_grant, receiver="controller/scientist", fingerprint=controller.fingerprint, now=time.time())
    parties = at(cluster, "hospital-a")
    parties.grant(budget(parties.signer, quota=1 << 20, seconds=600))
    with pytest.raises(ConsentRequired, match="owner/hospital-a denied it"):
        both.reveal()
    with connect(cluster.file) as another, pytest.raises(ConsentRequired, match="owner/hospital-a denied it"):
        sums(another)[0].reveal()
    approve(cluster, "hospital-a", denied)  # a change of mind: this one, once
    assert both.reveal().item() == pytest.approx(2 * SECRET.sum().item(), abs=0.01)


def taken(cluster: LocalCluster, session: NetworkSession) -> Any:
    """The data of hospital-a, of which a party lists nothing to other owners, by their number."""
    controller = find_credentials(cluster.config, None, None, "controller")
    entry = find(Caller(cluster.config, controller), NAME)
    with pytest.raises(DataNotFound):
        session.dataset(NAME)
    wire = session.new_id()
    session._remote.take_dataset(NAME, wire, entry.schema.shape, entry.id)
    number_format = FixedPoint(entry.schema.base, entry.schema.digits)
    return wrap(session.wire(wire, number_format.scale, number_format, shape=entry.schema.shape, is_input=True))


def test_an_owner_as_controller_takes_the_other_ones_data(cluster: LocalCluster) -> None:
    """Owners may open sessions, and tell parties to take whatever data they can name."""
    with connect(cluster.file, certificate=certificate(cluster, "hospital-b")) as session:
        x, mine = taken(cluster, session), session.dataset("hospital-b/x")
        assert mine.reveal().shape == (3,), "one's own needs nobody's grant"
        for attempt in (x, x[:1], x.sum(), x + mine, x * mine, (x > 0).float()):
            with pytest.raises(ConsentRequired, match="owner/hospital-a did not grant it"):
                attempt.reveal()
        with pytest.raises(ConsentRequired):
            session.deliver(x, "owner/hospital-b", "stolen")
        with pytest.raises(GrantInvalid):
            approve(cluster, "hospital-b", refused(x))


def test_a_flood_of_other_requests_does_not_wash_a_denial_away(cluster: LocalCluster) -> None:
    """A party remembers so many requests of one receiver."""
    with connect(cluster.file, certificate=certificate(cluster, "hospital-b")) as session:
        x = taken(cluster, session)
        denied = refused(x.sum())
        at(cluster, "hospital-a").deny(denied)
        for k in range(1, MAX_REQUESTS + 2):
            refused(x.sum().expand(k))
        with pytest.raises(ConsentRequired, match="owner/hospital-a denied it"):
            x.sum().reveal()
        assert denied in at(cluster, "hospital-a").requests(denied=True)
