"""What an owner granted, and a controller that wants a little more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.security.attacks.lying import SECRET, watched
from torchveil.errors import ConsentRequired
from torchveil.network.authority import issue
from torchveil.network.connect import NetworkSession, connect, find_credentials
from torchveil.network.consent.grants import encode, new_grant, sign_grant
from torchveil.network.names import Role
from torchveil.network.services import Caller
from torchveil.testing.clusters import LocalCluster

CONTROLLER = "controller/scientist"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with watched(tmp_path_factory.mktemp("consent")) as (running, _):
        yield running


@pytest.fixture
def session(cluster: LocalCluster) -> Iterator[NetworkSession]:
    with connect(cluster.file) as opened:
        yield opened


def grant(cluster: LocalCluster, receiver: str, fingerprint: bytes, bits: int, **changes: object) -> None:
    """A bit budget of the owner, at both parties."""
    owner = find_credentials(cluster.config, None, None, "owner")
    made = new_grant(owner, receiver, fingerprint, quota=bits, now=time.time(), seconds=600, **changes)  # type: ignore[arg-type]
    for role in cluster.config.addresses:
        if role.kind == "party":
            Caller(cluster.config, owner).call(role, "consent/grant", encode(sign_grant(owner, made)))


def fingerprint(cluster: LocalCluster) -> bytes:
    return find_credentials(cluster.config, None, None, "controller").fingerprint


def test_an_exact_budget_pays_once(cluster: LocalCluster, session: NetworkSession) -> None:
    x = session.dataset("hospital-a/x")
    grant(cluster, CONTROLLER, fingerprint(cluster), 3 * 64)
    assert torch.allclose(x.reveal(), SECRET, atol=1e-3)
    for attempt in (x, x + 0, x[:1], x.sum()):
        with pytest.raises(ConsentRequired):
            attempt.reveal()
    with connect(cluster.file) as another, pytest.raises(ConsentRequired):
        another.dataset("hospital-a/x").reveal()


def test_two_sessions_at_once_do_not_both_get_it(cluster: LocalCluster) -> None:
    grant(cluster, CONTROLLER, fingerprint(cluster), 3 * 64)

    def attempt(session: NetworkSession) -> bool:
        try:
            session.dataset("hospital-a/x").reveal()
        except ConsentRequired:
            return False
        return True

    with connect(cluster.file) as one, connect(cluster.file) as other, ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(attempt, (one, other))) <= 1
        assert not attempt(one) and not attempt(other)


def test_one_bit_too_few_pays_nothing(cluster: LocalCluster, session: NetworkSession) -> None:
    grant(cluster, CONTROLLER, fingerprint(cluster), 3 * 64 - 1)
    with pytest.raises(ConsentRequired):
        session.dataset("hospital-a/x").reveal()
    # it is not gone either: two numbers fit
    assert session.dataset("hospital-a/x")[:2].reveal().shape == (2,)


def test_a_grant_for_another_certificate_of_the_same_role(cluster: LocalCluster, session: NetworkSession) -> None:
    """Somebody had a second certificate issued for the same name."""
    own = fingerprint(cluster)
    issue(cluster.directory, Role("controller", "scientist"), renew=True)
    assert fingerprint(cluster) != own
    grant(cluster, CONTROLLER, own, 1 << 20)
    with connect(cluster.file) as renewed, pytest.raises(ConsentRequired):
        renewed.dataset("hospital-a/x").reveal()
    assert session.dataset("hospital-a/x").reveal().shape == (3,), "the certificate that was meant"


def test_a_grant_for_somebody_else(cluster: LocalCluster) -> None:
    grant(cluster, "controller/other", fingerprint(cluster), 1 << 20)
    with connect(cluster.file) as session, pytest.raises(ConsentRequired):
        session.dataset("hospital-a/x").reveal()


def test_another_controller_pays_for_data_of_the_first(cluster: LocalCluster) -> None:
    """Another controller can neither read nor replace what the first one saved."""
    issue(cluster.directory, Role("controller", "rival"))
    paths = [cluster.directory / f"controller-rival.{kind}" for kind in ("pem", "key")]
    try:
        first = cluster.directory / "controller-scientist.pem"
        with connect(cluster.file, certificate=first) as session:
            session.save(cluster.directory / "run", {"x": session.share(torch.ones(3))})
        with connect(cluster.file, certificate=paths[0]) as rival:
            with pytest.raises(Exception, match="TV701"):
                rival.load(cluster.directory / "run")
            rival.save(cluster.directory / "rivals", {"x": rival.share(torch.zeros(3))})
        with connect(cluster.file, certificate=first) as session:
            assert session.load(cluster.directory / "run")["x"].reveal().tolist() == [1.0] * 3
    finally:
        for path in paths:
            path.unlink()
