"""A grant for an output of a plan, given before anybody asked: the digest is worked out from the function alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import torchveil
from torchveil import Session
from torchveil.cli import main
from torchveil.errors import ConsentRequired
from torchveil.network.connect import connect
from torchveil.testing.clusters import LocalCluster, local_cluster

FACTOR = torch.tensor([[1.5, 2.0], [0.25, 3.0]])


def function(factor: Tensor = FACTOR) -> Any:
    """Two outputs; the public tensor is a part of the plan."""

    @torchveil.compile
    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        return (x @ torchveil.public(factor)) * x, x.sum()

    return run


def digests(session: Session, factor: Tensor = FACTOR) -> tuple[str, ...]:
    """Of the plans that repeated calls make with numbers that are made up."""
    run, x = function(factor), session.share(torch.zeros(2, 2))
    for _ in range(3):
        run(x)
    return tuple(run.digests())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    limits = {"deadline_s": 20, "handshake_s": 5}
    with local_cluster(tmp_path_factory.mktemp("cluster"), owners=("north",), limits=limits) as running:
        torchveil.share_data(running.file, "north/x", torch.ones(2, 2))
        yield running


def test_a_digest_says_what_is_computed() -> None:
    assert function().digests() == ()
    found = digests(Session())
    assert found == digests(Session()) and len(set(found)) == len(found) > 0
    assert not set(found) & set(digests(Session(), FACTOR + 1))
    assert not set(found) & set(digests(Session(["a", "b", "c"], "p")))


def test_a_grant_ahead_fits_that_output_and_no_other(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    digest = digests(Session())[0]
    here, file = cluster.directory, str(cluster.file)
    receiver = str(here / "controller-scientist.pem")
    assert main(["grant", "--to", receiver, "--plan", digest, "--slot", "0", "--cluster", file, "--yes"]) == 0
    with connect(cluster.file) as session:
        run, x = function(), session.dataset("north/x")
        for _ in range(3):
            product, total = run(x)
        assert run.digests()[0] == digest
        assert product.reveal().tolist() == [[1.75, 5.0], [1.75, 5.0]]
        with pytest.raises(ConsentRequired, match="owner/north did not grant it"):
            total.reveal()
        with pytest.raises(ConsentRequired):
            (product + 1).reveal()  # what is made of it is no output of the plan
    capsys.readouterr()
    assert main(["requests", "--cluster", file]) == 0
    assert f"output 1 of the plan {digest}, once" in capsys.readouterr().out


def test_the_plan_that_ran_last_is_named_first(cluster: LocalCluster) -> None:
    session = Session()
    run: Any = torchveil.compile(lambda x: x * 2 + 1)
    short, long = session.share(torch.ones(2)), session.share(torch.ones(3))
    run(short)
    first = run.digests()
    run(long)
    assert run.digests()[1:] == first
    run(short)
    assert run.digests()[0] == first[0]
