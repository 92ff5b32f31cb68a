"""Results for owners are there until their owner has them: nothing that goes wrong on the way loses one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import torchveil
from torchveil.cli import main
from torchveil.errors import DataNotFound, TorchveilError
from torchveil.network.connect import find_credentials
from torchveil.network.results import fetch, forget, names
from torchveil.network.services import Caller
from torchveil.testing.clusters import LocalCluster, local_cluster

LIMITS = {"deadline_s": 10, "handshake_s": 5}
NUMBERS = [1.5, -2.0]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=LIMITS, owners=("h",)) as running:
        yield running


@pytest.fixture
def caller(cluster: LocalCluster) -> Iterator[Caller]:
    """An owner with one result, "model"; at the end no party has any of hers."""
    asks = Caller(cluster.config, find_credentials(cluster.config, None, None, "owner"))
    names(asks)  # parties seal to whom they met
    deliver(cluster, NUMBERS)
    yield asks
    for name in names(asks):
        forget(asks, fetch(asks, name))
    assert not list(cluster.directory.rglob("*.box"))


def deliver(cluster: LocalCluster, numbers: list[float]) -> None:
    with torchveil.connect(cluster.file) as session:
        session.deliver(session.share(torch.tensor(numbers)), to="owner/h", name="model")


def results(cluster: LocalCluster, *arguments: str) -> int:
    return main(["results", *arguments, "--to", str(cluster.file)])


def without_bob(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    """From now on bob cannot be asked for ``service``."""
    call = Caller.call

    def away(self: Caller, role: object, asked: str, *arguments: object, **options: object) -> object:
        if str(role) == "party/bob" and asked == service:
            raise TorchveilError("bob is away", at_fault="party/bob")
        return call(self, role, asked, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Caller, "call", away)


def test_a_party_that_is_away_loses_nothing(
    cluster: LocalCluster, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first party removed its share when it had sent it."""
    with monkeypatch.context() as patch:
        without_bob(cluster, patch, "results/fetch")
        with pytest.raises(TorchveilError, match="bob is away"):
            torchveil.fetch_result(cluster.file, "model", keep=False)
    assert torchveil.fetch_result(cluster.file, "model").tolist() == NUMBERS


def test_numbers_that_are_here_are_given_even_if_a_party_cannot_be_told_to_forget(
    cluster: LocalCluster, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = fetch(caller, "model")
    assert repr(kept) == "<Fetched 'model'>"  # no number of it
    with monkeypatch.context() as patch:
        without_bob(cluster, patch, "results/forget")
        with pytest.warns(UserWarning, match="not every party has forgotten 'model'"):
            assert torchveil.fetch_result(cluster.file, "model", keep=False).tolist() == NUMBERS
    with pytest.raises(DataNotFound):
        torchveil.fetch_result(cluster.file, "model")
    forget(caller, kept)  # and once more is no error


def test_a_result_is_forgotten_when_it_is_written(
    cluster: LocalCluster, caller: Caller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert results(cluster, "model", "--out", str(blocked / "model.npy"), "--forget") == 2
    assert results(cluster, "model", "--out", str(blocked), "--forget") == 2
    assert "is there already" in capsys.readouterr().err
    assert blocked.read_text() == "no folder"
    assert names(caller) == ["model"]
    written = tmp_path / "model.npy"
    assert results(cluster, "model", "--out", str(written), "--forget") == 0
    assert np.load(written).tolist() == NUMBERS
    assert names(caller) == []


def test_a_newer_result_of_the_name_is_not_forgotten(cluster: LocalCluster, caller: Caller) -> None:
    first = fetch(caller, "model")
    deliver(cluster, [7.0])
    forget(caller, first)
    assert fetch(caller, "model").value.tolist() == [7.0]
