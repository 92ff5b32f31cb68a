"""The tutorial with workers of a cluster, unchanged otherwise; what network workers refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import syft as sy
from syft import network_worker
from syft.registry import registry
from tests.syft.test_tutorial import PRINTED, run_cells
from tests.syft.tutorial import CELLS, INITIALISATION, clear_losses, deviation
from torchveil import ConfigurationError, InvalidArgument, SessionMismatch, SessionStateError
from torchveil.errors import PeerLost
from torchveil.testing.clusters import LocalCluster, local_cluster, write_cluster

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"deadline_s": 30, "handshake_s": 10}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=LIMITS) as running:
        yield running


@pytest.fixture(autouse=True)
def alone(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers and sessions of this test only, and the cluster's file in the environment."""
    workers, sessions = dict(registry.workers), dict(registry.sessions)
    registry.workers = {worker.id: worker for worker in [registry.me()]}
    registry.sessions = {}
    monkeypatch.setenv(network_worker.CLUSTER, str(cluster.file))
    yield
    for session in registry.sessions.values():
        session.close()
    registry.workers, registry.sessions = workers, sessions


def on_a_network(cell: str) -> str:
    return cell.replace("sy.VirtualWorker(", "sy.NetworkWorker(")


def losses_in(printed: str) -> list[float]:
    return [float(number) for number in re.findall(r"^tensor\((\d+\.\d*)\)$", printed, flags=re.M)]


@pytest.fixture
def people(hook: Any) -> SimpleNamespace:
    return SimpleNamespace(**{name: sy.NetworkWorker(id=name, hook=hook) for name in ("alice", "bob", "james")})


def fixed() -> Any:
    return torch.tensor([1.0]).fix_precision()


# --- the tutorial ----------------------------------------------------------------------------------------------------


def test_the_tutorial_with_the_word_exchanged(capsys: pytest.CaptureFixture[str]) -> None:
    """Same form, and losses within the rounding of three digits of those with virtual workers."""
    cells = tuple(cell.replace("nn.Linear(2, 1)\n", f"nn.Linear(2, 1)\n{INITIALISATION}") for cell in CELLS)
    _, local = run_cells(cells, capsys)
    registry.workers = {worker.id: worker for worker in [registry.me()]}
    registry.sessions = {}
    names, remote = run_cells(tuple(map(on_a_network, cells)), capsys)
    for printed in (local, remote):
        shown = PRINTED.match(printed)
        assert shown is not None, printed
        assert len(printed[shown.end() :].splitlines()) == 20
    assert deviation(losses_in(remote), losses_in(local)) <= 0.02
    assert deviation(losses_in(remote), clear_losses()) <= 0.02
    (session,) = registry.sessions.values()
    assert "mutual TLS" in session.describe()
    assert isinstance(names["alice"], sy.NetworkWorker)
    assert len(session.reveals) == 20


def test_the_notebook_with_the_word_exchanged(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """All cells of the notebook but the one with two more workers, which the cluster does not have."""
    notebook = json.loads((ROOT / "notebooks" / "part-12.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    (more,) = [cell for cell in cells if "theo" in cell]
    names, printed = run_cells(tuple(on_a_network(cell) for cell in cells if cell is not more), capsys)
    assert "never printed" not in printed and "reveal" in printed
    assert len(losses_in(printed)) >= 20
    assert names["deviation"] and names["deviation"][3] <= 0.02 and names["deviation"][4] <= 0.01
    with pytest.raises(ConfigurationError, match="theo"):
        exec(on_a_network(more), names)


def test_an_address_in_place_of_the_files(cluster: LocalCluster, hook: Any, tmp_path: Path) -> None:
    text = cluster.file.read_text().replace('authority = "ca.pem"', f'authority = "{cluster.directory / "ca.pem"}"')
    wrong = tmp_path / "cluster.toml"
    wrong.write_text(re.sub(r'address = "[^"]*"', 'address = "nowhere.invalid:1"', text))
    at = {role.name: address for role, address in cluster.config.addresses.items()}
    workers = {
        name: sy.NetworkWorker(id=name, hook=hook, address=address, cluster=wrong) for name, address in at.items()
    }
    x = torch.tensor([0.5, -2.0]).fix_precision()
    shared = x.share(workers["bob"], workers["alice"], crypto_provider=workers["james"])
    assert (shared + shared).get().float_precision().tolist() == [1.0, -4.0]
    assert repr(workers["alice"]) == f"<NetworkWorker id:alice at {at['alice']} of study>"
    with pytest.raises(ConfigurationError, match="address 'alice'"):
        sy.NetworkWorker(id="alice", hook=hook, address="alice", cluster=wrong)


def test_a_worker_that_is_made_again_is_the_same_one(hook: Any, cluster: LocalCluster) -> None:
    first = sy.NetworkWorker(id="alice", hook=hook)
    again = sy.NetworkWorker(id="alice", hook=hook)
    assert first == again and again.address == first.address


def test_after_an_error_of_a_role_the_next_share_opens_a_new_session(hook: Any, people: SimpleNamespace) -> None:
    x = fixed().share(people.alice, people.bob, crypto_provider=people.james)
    ended = x.session
    ended._remote.hub.cancel(PeerLost("a failure of the test"))
    with pytest.raises(PeerLost, match="a failure of the test"):
        x.get()
    with pytest.raises(SessionStateError, match="the session ended with an error"):
        x.get()
    y = fixed().share(people.alice, people.bob, crypto_provider=people.james)
    assert y.session is not ended and y.get().float_precision().tolist() == [1.0]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_an_unknown_name(hook: Any) -> None:
    with pytest.raises(ConfigurationError, match="'eve' is no member of the cluster study") as caught:
        sy.NetworkWorker(id="eve", hook=hook)
    assert "alice, bob, james" in str(caught.value)
    assert "eve" not in registry.workers  # and nothing of it stays
    sy.VirtualWorker(id="eve", hook=hook)


def test_virtual_and_network_workers_do_not_mix(hook: Any, people: SimpleNamespace) -> None:
    carl = sy.VirtualWorker(id="carl", hook=hook)
    with pytest.raises(ConfigurationError, match="carl is a virtual worker and the others are not"):
        fixed().share(people.alice, carl, crypto_provider=people.james)
    with pytest.raises(ConfigurationError, match="me is a virtual worker"):
        fixed().share(people.alice, people.bob)  # no provider named: this program would be it


def test_an_id_is_that_of_one_worker(hook: Any, people: SimpleNamespace) -> None:
    """A virtual worker does not become one of a cluster, nor the other way round, without a word."""
    with pytest.raises(RuntimeError, match="'alice' is the id of a NetworkWorker already"):
        sy.VirtualWorker(id="alice", hook=hook)
    registry.workers.pop("alice")
    alice = sy.VirtualWorker(id="alice", hook=hook)
    with pytest.raises(RuntimeError, match="'alice' is the id of a VirtualWorker already") as caught:
        sy.NetworkWorker(id="alice", hook=hook)
    assert "remove_worker_from_local_worker_registry" in str(caught.value)
    alice.remove_worker_from_local_worker_registry()
    assert isinstance(sy.NetworkWorker(id="alice", hook=hook), sy.NetworkWorker)


def test_sessions_of_virtual_workers_are_not_taken_for_those_of_a_cluster(hook: Any) -> None:
    virtual = {name: sy.VirtualWorker(id=name, hook=hook) for name in ("alice", "bob", "james")}
    x = fixed().share(virtual["alice"], virtual["bob"], crypto_provider=virtual["james"])
    for worker in virtual.values():
        worker.remove_worker_from_local_worker_registry()
    remote = {name: sy.NetworkWorker(id=name, hook=hook) for name in virtual}
    y = fixed().share(remote["alice"], remote["bob"], crypto_provider=remote["james"])
    assert "mutual TLS" in y.session.describe() and y.session is not x.session
    with pytest.raises(SessionMismatch):
        x + y


def test_tensors_in_the_clear_are_not_sent(people: SimpleNamespace) -> None:
    for send in (
        lambda: torch.ones(2).send(people.alice),
        lambda: people.alice.load_data([torch.ones(2)]),
        lambda: people.alice.register_obj(torch.ones(2)),
        lambda: fixed().share(people.alice, people.bob, crypto_provider=people.james).reconstruct(),
    ):
        with pytest.raises(InvalidArgument, match="another machine"):
            send()
    assert people.alice.tensors_count() == 0


def test_workers_of_two_clusters(hook: Any, people: SimpleNamespace, tmp_path: Path) -> None:
    other = write_cluster(tmp_path, ["carl", "dora"], "eve", name="other")
    assert other.name == "other"
    carl = sy.NetworkWorker(id="carl", hook=hook, cluster=tmp_path / "cluster.toml")
    with pytest.raises(ConfigurationError, match="two clusters: other, study"):
        fixed().share(people.alice, carl, crypto_provider=people.james)


def test_a_party_that_is_left_out(hook: Any, people: SimpleNamespace) -> None:
    with pytest.raises(ConfigurationError, match="parties alice, bob and the provider james"):
        fixed().share(people.alice, people.james, crypto_provider=people.bob)


def test_no_cluster_file(hook: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(network_worker.CLUSTER)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"cluster\.toml") as caught:
        sy.NetworkWorker(id="alice", hook=hook)
    assert "TORCHVEIL_CLUSTER" in str(caught.value) and "cluster=" in str(caught.value)
    monkeypatch.setenv(network_worker.CLUSTER, "elsewhere.toml")
    with pytest.raises(ConfigurationError, match=r"elsewhere\.toml"):
        sy.NetworkWorker(id="alice", hook=hook)
    assert "alice" not in registry.workers
