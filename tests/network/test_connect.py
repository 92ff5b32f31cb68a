"""What a user's program sees of a network session: words, costs, profiles, results for owners, and remedies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchveil
from torchveil.errors import (
    CertificateError,
    ConfigurationError,
    DataNotFound,
    InvalidArgument,
    SessionStateError,
    TorchveilError,
)
from torchveil.network.connect import NetworkSession
from torchveil.network.results import names
from torchveil.network.services import Caller
from torchveil.testing.clusters import LocalCluster, local_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    limits = {"deadline_s": 20, "handshake_s": 10}
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=limits, owners=("h",)) as running:
        yield running


@pytest.fixture
def session(cluster: LocalCluster) -> Iterator[NetworkSession]:
    with torchveil.connect(cluster.file) as opened:
        yield opened


def test_what_it_says_of_itself(cluster: LocalCluster) -> None:
    assert repr(cluster.config) == "<ClusterConfig study: parties alice, bob, provider james>"
    with torchveil.connect(str(cluster.file)) as session:
        assert repr(session) == (
            "<NetworkSession as controller/scientist of study: parties alice, bob, provider james>"
        )
        assert "cluster study, mutual TLS 1.3; this program is controller/scientist" in session.describe()
        assert not session.ended
    assert session.ended and repr(session).startswith("<NetworkSession ended of study")


def test_cost_and_profile_of_a_network(session: NetworkSession) -> None:
    local = torchveil.Session()
    for s in (session, local):
        with s.profile() as profile:
            model = s.encrypt(nn.Linear(2, 1))
            model(s.share(torch.ones(3, 2))).sum().backward()
            model.weight.grad.reveal()
        if s is session:
            remote = profile
    assert session.cost().total == local.cost().total == remote.total.cost
    text = str(remote)
    assert "how long each role works is not known here" in " ".join(text.split())
    assert "LAN" not in text and "LAN" in str(profile)
    assert "Estimated between machines" not in remote.to_html() and "Estimated" in profile.to_html()
    assert json.loads(remote.to_json())["networks"] == {}
    assert [row["instructions"] for row in json.loads(remote.to_json())["rows"]]
    with pytest.raises(InvalidArgument, match="only they know"):
        remote.estimate(torchveil.LAN)


def test_results_for_an_owner(cluster: LocalCluster, session: NetworkSession) -> None:
    x = torch.tensor([[0.5, -1.0], [2.0, 4.0]])
    torchveil.share_data(cluster.file, "h/x", x, target=torch.tensor([1, 0]), columns=("a", "b"))
    shared, target = session.dataset("h/x"), session.dataset("h/x.target")
    assert session.datasets()["h/x"].columns == ("a", "b")
    session.deliver(shared @ shared, to="owner/h", name="product")
    session.deliver(shared > 0, to="owner/h", name="positive")
    session.deliver(target + target, to="owner/h", name="twice")
    assert torch.allclose(torchveil.fetch_result(cluster.file, "product"), (x @ x).double(), atol=1e-3)
    assert torch.equal(torchveil.fetch_result(cluster.file, "positive", keep=False), x > 0)
    assert torchveil.fetch_result(cluster.file, "twice").tolist() == [2.0, 0.0]
    assert {record.receiver for record in session.reveals} == {"owner/h"} and len(session.reveals) == 3
    owner = torchveil.network.connect.find_credentials(cluster.config, None, None, "owner")
    assert names(Caller(cluster.config, owner)) == ["product", "twice"]
    with pytest.raises(DataNotFound, match="'positive'"):
        torchveil.fetch_result(cluster.file, "positive")


def test_a_data_set_that_is_a_single_number(cluster: LocalCluster, session: NetworkSession) -> None:
    torchveil.share_data(cluster.file, "h/one", torch.tensor(2.5))
    session.deliver(session.dataset("h/one") * 2, to="owner/h", name="five")
    assert torchveil.fetch_result(cluster.file, "five").tolist() == 5.0


@pytest.mark.parametrize(
    ("x", "to", "name", "said"),
    [
        (None, "h", "r", "write owner/NAME"),
        (None, "party/alice", "r", "write owner/NAME"),
        (None, None, "r", "write owner/NAME"),
        (None, "owner/h", None, "a result has a name"),
        (None, "owner/h h", "r", "1 to 64 letters"),
        (None, "owner/h", "a b", "letters, digits"),
        (None, "owner/h", "", "letters, digits"),
        (torch.ones(1), "owner/h", "r", "send it to the owner"),
    ],
)
def test_what_cannot_be_delivered_ends_nothing(session: NetworkSession, x: Any, to: Any, name: Any, said: str) -> None:
    secret = session.share(torch.ones(2))
    with pytest.raises(TorchveilError) as caught:
        session.deliver(secret if x is None else x, to=to, name=name)
    assert said in str(caught.value)
    assert secret.reveal().tolist() == [1.0, 1.0]


def test_a_reveal_to_somebody_else_names_the_way(session: NetworkSession) -> None:
    with pytest.raises(InvalidArgument, match="deliver"):
        session.share(torch.ones(1)).reveal(to="owner/h")
    with pytest.raises(InvalidArgument, match="deliver"):
        session.decrypt(session.encrypt(nn.Linear(1, 1)), to="owner")


def test_the_cluster_of_this_directory_is_the_default(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cluster.file.parent)
    assert cluster.file.name == "cluster.toml"
    with torchveil.connect() as session:
        assert session.share(torch.ones(1)).reveal().tolist() == [1.0]


def test_missing_files_name_the_remedy(cluster: LocalCluster, tmp_path: Path) -> None:
    nowhere = tmp_path / "cluster.toml"
    for call in (torchveil.connect, lambda file: torchveil.share_data(file, "h/x", torch.ones(1))):
        with pytest.raises(ConfigurationError, match=r"docs/how-to/cluster\.md"):
            call(nowhere)
    nowhere.write_text(cluster.file.read_text())
    with pytest.raises(ConfigurationError, match="torchveil certs init"):
        torchveil.connect(nowhere)
    (tmp_path / "ca.pem").write_bytes((cluster.directory / "ca.pem").read_bytes())
    with pytest.raises(ConfigurationError, match="torchveil certs issue DIRECTORY controller/NAME"):
        torchveil.connect(nowhere)
    with pytest.raises(ConfigurationError, match="torchveil certs issue DIRECTORY owner/NAME"):
        torchveil.fetch_result(nowhere, "x")
    for name in ("controller-a", "controller-b"):
        (tmp_path / f"{name}.pem").write_text("")
    with pytest.raises(ConfigurationError, match="certificate=FILE"):
        torchveil.connect(nowhere)
    with pytest.raises(CertificateError, match="certs issue certificates"):
        torchveil.connect(nowhere, certificate=tmp_path / "none.pem")


def test_nothing_runs_in_a_session_that_ended(cluster: LocalCluster) -> None:
    with torchveil.connect(cluster.file) as session:
        x = session.share(torch.ones(1))
    with pytest.raises(SessionStateError):
        x.reveal()
    with pytest.raises(SessionStateError):
        session.profile().start()
