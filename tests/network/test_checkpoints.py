"""Checkpoints of roles that share no memory: each party's own disk, the controller's part with the controller."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchveil import Session
from torchveil.errors import CheckpointInvalid, ConsentRequired, MalformedMessage, NetworkError, TorchveilError
from torchveil.fixedpoint import FixedPoint
from torchveil.network import messages as m
from torchveil.network.connect import connect, find_credentials
from torchveil.network.datasets import Array, prepare
from torchveil.network.driver import NetworkDriver
from torchveil.network.owner import share_parts
from torchveil.network.services import Caller
from torchveil.storage import ShareStore, load_key
from torchveil.testing.clusters import LocalCluster, Processes, local_cluster, write_cluster

LIMITS = {"deadline_s": 20, "handshake_s": 5}
FEATURES = torch.randn(48, 4, generator=torch.Generator().manual_seed(1))
LABELS = (FEATURES.sum(1) > 0).long()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=LIMITS, owners=("hospital",)) as running:
        yield running


def start(session: Session) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(2)
    model = session.encrypt(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    return model, torch.optim.Adam(model.parameters(), lr=0.05)


def train(session: Session, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    x, y = session.share(FEATURES), session.share(LABELS)
    for _ in range(epochs):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def outputs(session: Session, model: nn.Module) -> torch.Tensor:
    out: torch.Tensor = model(session.share(FEATURES)).reveal()
    return out


def stored(directory: Path, party: str) -> ShareStore:
    return ShareStore(directory / party / "checkpoints", load_key(directory / party / "shares.key"))


def test_training_goes_on_in_another_session(cluster: LocalCluster, tmp_path: Path) -> None:
    with connect(cluster.file) as session:
        model, optimizer = start(session)
        train(session, model, optimizer, 3)
        session.save(tmp_path / "run", {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3})
        train(session, model, optimizer, 3)
        through = outputs(session, model)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["controller.sealed", "keys"]
    assert [path.name for path in (tmp_path / "run" / "keys").iterdir()] == ["controller.key"]
    with connect(cluster.file) as session:
        state = session.load(tmp_path / "run")
        assert (state["epoch"], session.epoch, len(session.reveals)) == (3, 1, 0)
        model, optimizer = start(session)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        train(session, model, optimizer, 3)
        assert float((outputs(session, model) - through).abs().max()) < 0.02


def test_a_party_stores_its_shares_and_whose_data_went_in(cluster: LocalCluster, tmp_path: Path) -> None:
    values = torch.tensor([12345.678910, -2.0])
    with connect(cluster.file) as session:
        x = session.share(values)
        session.save(tmp_path / "mine", {"x": x, "product": x * x})
    (name,) = [
        name for name in stored(cluster.directory, "alice").names() if name.startswith("controller/scientist/mine_")
    ]
    parts = [stored(cluster.directory, party).read(name) for party in ("alice", "bob")]
    assert torch.equal(parts[0][0]["w0"] + parts[1][0]["w0"], (values.double() * 2**16).round().long())
    for rank, (_, manifest) in enumerate(parts):
        assert (manifest.rank, manifest.parties, manifest.cluster) == (rank, ("alice", "bob"), "study")
        assert [entry.provenance for entry in manifest.entries.values()] == [("controller/scientist",)] * 2
    assert parts[0][1].session == parts[1][1].session != ""


def test_consent_outlives_the_session(cluster: LocalCluster, tmp_path: Path) -> None:
    """Data of an owner stay hers in a checkpoint: what is loaded is not released to the controller."""
    owner = Caller(cluster.config, find_credentials(cluster.config, None, None, "owner"))
    share_parts(owner, "hospital/x", prepare({"": Array(torch.ones(2))}, FixedPoint()))
    with connect(cluster.file) as session:
        session.save(tmp_path / "run", {"x": session.dataset("hospital/x") + 1, "mine": session.share(torch.ones(1))})
    with connect(cluster.file) as session:
        state = session.load(tmp_path / "run")
        assert state["mine"].reveal().tolist() == [1.0]
        for loaded in (state["x"], state["x"] * state["mine"], state["x"].sum() * 0.5):
            with pytest.raises(ConsentRequired):
                loaded.reveal()


def test_a_party_that_fell_back_is_named_and_the_session_goes_on(cluster: LocalCluster, tmp_path: Path) -> None:
    with connect(cluster.file) as session:
        x = session.share(torch.ones(2))
        session.save(tmp_path / "run", {"x": x})
        shutil.copytree(cluster.directory / "bob" / "checkpoints", tmp_path / "backup")
        for k in (2, 3):
            session.save(tmp_path / "run", {"x": x * k})
        assert session.load(tmp_path / "run")["x"].reveal().tolist() == [3.0, 3.0]
        shutil.rmtree(cluster.directory / "bob" / "checkpoints")
        shutil.copytree(tmp_path / "backup", cluster.directory / "bob" / "checkpoints")
        with pytest.raises(
            CheckpointInvalid, match=r"bob is behind: .* is of generation 3, bob holds generations \[1\]"
        ):
            session.load(tmp_path / "run")
        assert (x + 1).reveal().tolist() == [2.0, 2.0]
        session.save(tmp_path / "run", {"x": x})
        assert session.load(tmp_path / "run")["x"].reveal().tolist() == [1.0, 1.0]


def test_a_disk_that_refuses_leaves_the_save_before(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(cluster.file) as session:
        x = session.share(torch.ones(2))
        session.save(tmp_path / "run", {"x": x})
        calls = []

        def refuse(self: Path, _target: Path) -> None:
            calls.append(self)
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", refuse)
            with pytest.raises(TorchveilError, match="No space left"):
                session.save(tmp_path / "run", {"x": x * 2})
        assert len(calls) == 2  # both parties; the controller's part was not tried
        assert session.load(tmp_path / "run")["x"].reveal().tolist() == [1.0, 1.0]


def test_a_checkpoint_of_a_lockstep_session_is_of_another_home(cluster: LocalCluster, tmp_path: Path) -> None:
    """Its shares carry no provenance: they would be nobody's data here."""
    local = Session()
    local.save(tmp_path / "run", {"x": local.share(torch.ones(2))})
    with connect(cluster.file) as session, pytest.raises(CheckpointInvalid, match="cluster"):
        session.load(tmp_path / "run")


def test_a_load_that_names_other_values(cluster: LocalCluster, tmp_path: Path) -> None:
    session = connect(cluster.file)
    session.save(tmp_path / "run", {"x": session.share(torch.ones(2))})
    driver = session._driver
    assert isinstance(driver, NetworkDriver)
    sent = []

    def other(item: m.Message, what: str) -> None:
        assert isinstance(item, m.Load)
        sent.append(item)
        NetworkDriver._ask(driver, msgspec.structs.replace(item, wires={"another": 99}), what)

    driver._ask = other  # type: ignore[method-assign]
    with pytest.raises(MalformedMessage):
        session.load(tmp_path / "run")
    assert sent


@pytest.mark.slow
def test_training_resumes_after_a_kill(tmp_path: Path) -> None:
    """kill -9 of a party and of the provider in the middle of training; they come back, training goes on."""
    write_cluster(tmp_path / "cluster", limits=LIMITS)
    with Processes(tmp_path / "cluster", environment={"OMP_NUM_THREADS": "1"}) as roles:
        session = connect(roles.file)
        model, optimizer = start(session)
        train(session, model, optimizer, 10)
        session.save(tmp_path / "run", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        saved = outputs(session, model)
        for victim in ("alice", "james"):
            train(session, model, optimizer, 2)
            roles.kill(victim, signal.SIGKILL)
            with pytest.raises(NetworkError):
                for _ in range(100):
                    train(session, model, optimizer, 1)
                    outputs(session, model)
            roles.start(victim)
            session = connect(roles.file)
            state = session.load(tmp_path / "run")
            model, optimizer = start(session)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            assert float((outputs(session, model) - saved).abs().max()) < 0.01
        train(session, model, optimizer, 15)
        assert float((outputs(session, model).argmax(1) == LABELS).float().mean()) > 0.9
        session.close()
