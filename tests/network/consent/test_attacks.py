"""A controller that wants an owner's data without a grant, against real daemons; and the way that is meant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import torchveil
from torchveil.errors import ConsentRequired, TorchveilError
from torchveil.network.commands.consent import Parties
from torchveil.network.connect import NetworkSession, connect, find_credentials
from torchveil.network.consent.audit import records, verify
from torchveil.network.owner import share
from torchveil.network.services import Caller
from torchveil.program import instructions as ins
from torchveil.testing.clusters import LocalCluster, local_cluster

SECRET = torch.tensor([17.0, -4.0, 42.0])
LIMITS = {"deadline_s": 10, "handshake_s": 5}
ROLE_LIMITS = {"sessions": 50}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    directory = tmp_path_factory.mktemp("cluster")
    with local_cluster(directory, owners=["hospital-a"], limits=LIMITS, role_limits=ROLE_LIMITS) as running:
        share(running.config, find_credentials(running.config, None, None, "owner"), "hospital-a/x", SECRET)
        yield running


@pytest.fixture
def session(cluster: LocalCluster) -> Iterator[NetworkSession]:
    with connect(cluster.file) as opened:
        yield opened


def parties(cluster: LocalCluster) -> Parties:
    """As the owner reaches them."""
    credentials = find_credentials(cluster.config, None, None, "owner")
    caller = Caller(cluster.config, credentials)

    def ask(role: Any, service: str, arguments: bytes) -> bytes:
        return caller.call(role, service, arguments)[0]

    roles = [role for role in cluster.config.addresses if role.kind == "party"]
    return Parties({str(role): partial(ask, role) for role in roles}, credentials)


def reveal(session: NetworkSession, wire: int, shape: tuple[int, ...] = (3,)) -> Tensor | None:
    return session.submit(ins.Reveal(wire, "controller", shape))


def own(session: NetworkSession) -> int:
    x = session.share(torch.tensor([1.0, -1.0, 2.0]))
    session.held = x  # type: ignore[attr-defined]  # else its wire is freed
    return x.handle.id


# --- what a controller may try ---------------------------------------------------------------------------------------


def plainly(session: NetworkSession, wire: int) -> None:
    reveal(session, wire)


def refreshed(session: NetworkSession, wire: int) -> None:
    session.submit(ins.Refresh(wire + 100, wire, (3,)))
    reveal(session, wire + 100)


def times_zero_plus(session: NetworkSession, wire: int) -> None:
    session.submit(ins.Combine(wire + 100, ((wire, 0), (own(session), 1))))
    reveal(session, wire + 100)


def by_a_bit(session: NetworkSession, wire: int) -> None:
    session.submit(ins.Open((wire,), ((3,),)))
    session.submit(ins.Compare((wire + 100,), wire, False, (0,), (((0,), False),), (3,)))
    session.submit(ins.BitToArithmetic(wire + 101, wire + 100))
    reveal(session, wire + 101)


def by_another_name(session: NetworkSession, wire: int) -> None:
    session._remote.alias(wire + 100, wire)
    reveal(session, wire + 100)


def by_one_element(session: NetworkSession, wire: int) -> None:
    x = session.dataset("hospital-a/x")
    x[0].reveal()


REFUSED = [plainly, refreshed, times_zero_plus, by_a_bit, by_another_name, by_one_element]


@pytest.mark.parametrize("attack", REFUSED, ids=lambda attack: attack.__name__)
def test_what_is_refused(session: NetworkSession, attack: Callable[[NetworkSession, int], None]) -> None:
    x = session.dataset("hospital-a/x")
    with pytest.raises(ConsentRequired, match="owner/hospital-a") as caught:
        attack(session, x.handle.id)
    assert all(number not in str(caught.value) for number in ("17.0", "42.0", str(17 << 16), str(42 << 16)))
    assert session.share(torch.ones(2)).sum().reveal() == 2, "the session goes on"


def name_of_a_bit(session: NetworkSession, wire: int) -> None:
    """Name a bit of one's own data like the owner's wire: parties keep the two apart."""
    mine = own(session)
    session.submit(ins.Open((mine,), ((3,),)))
    session.submit(ins.Compare((wire,), mine, False, (0,), (((0,), False),), (3,)))
    reveal(session, wire)


def name_of_a_constant(session: NetworkSession, wire: int) -> None:
    session.submit(ins.Constant(wire, (3,), 0))
    reveal(session, wire)


def name_of_ones_own_input(session: NetworkSession, wire: int) -> None:
    session.submit(ins.Input(wire, (3,)), torch.zeros(3, dtype=torch.int64))
    reveal(session, wire)


def name_of_a_slot(session: NetworkSession, wire: int) -> None:
    """Name the owner's wire like a slot of a plan that has not run yet."""
    session._remote.alias(-3, wire)
    compiled = torchveil.compile(lambda x: torch.relu(x) + 1)
    x = session.share(torch.ones(3))
    for _ in range(3):
        compiled(x).reveal()


ENDED = [name_of_a_bit, name_of_a_constant, name_of_ones_own_input, name_of_a_slot]


@pytest.mark.parametrize("attack", ENDED, ids=lambda attack: attack.__name__)
def test_what_ends_the_session(cluster: LocalCluster, attack: Callable[[NetworkSession, int], None]) -> None:
    session = connect(cluster.file)
    x = session.dataset("hospital-a/x")
    with pytest.raises(TorchveilError) as caught:
        attack(session, x.handle.id)
    assert not isinstance(caught.value, ConsentRequired)
    assert caught.value.code in ("TV401", "TV504", "TV506"), caught.value
    session.close()


# --- the way that is meant -------------------------------------------------------------------------------------------


def test_a_request_is_approved(cluster: LocalCluster, session: NetworkSession) -> None:
    mean = session.dataset("hospital-a/x").mean()
    with pytest.raises(ConsentRequired) as caught:
        mean.reveal()
    assert "torchveil approve" in caught.value.remedy
    at = parties(cluster)
    (request,) = [request for request in at.requests().values() if request.id in str(caught.value)]
    assert (request.owners, request.shape) == (("owner/hospital-a",), ())
    at.approve(request, now=time.time(), seconds=600)
    assert mean.reveal().item() == pytest.approx(SECRET.mean().item(), abs=1e-3)
    with pytest.raises(ConsentRequired):
        mean.reveal()


def test_logs_hold(cluster: LocalCluster) -> None:
    with connect(cluster.file) as session, pytest.raises(ConsentRequired):
        session.dataset("hospital-a/x").sum().reveal()
    for name in ("alice", "bob"):
        log = cluster.daemons[name].consent.log
        path: Path = log._path
        until = time.monotonic() + 60  # heads are swapped in the background
        while not log.heads():
            assert time.monotonic() < until, f"no head of the other party came to {name}"
            time.sleep(0.1)
        heads = [head.others for party, head in parties(cluster).heads().items() if party != f"party/{name}"]
        report = verify(path, [log.head(), *heads[0]], party=f"party/{name}", cluster="study")
        assert report.good, report.problems
        kinds = {record.kind for record in records(path)}
        assert {"session start", "refusal", "head"} <= kinds
