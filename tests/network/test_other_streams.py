"""A controller that tells roles different things is found out at the first message between them.

Semi-honest roles follow the protocol; these tests are about a broken controller, and about bugs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import torchveil
from torchveil.errors import Desynchronised
from torchveil.network import messages as m
from torchveil.network.connect import NetworkSession, connect
from torchveil.network.driver import Batch
from torchveil.testing.clusters import LocalCluster, local_cluster

LIMITS = {"deadline_s": 3, "handshake_s": 3}
PARTIES = {"party/alice", "party/bob"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=LIMITS) as running:
        yield running


class Other(Batch):
    """Changes the buffers of what one role is told."""

    __slots__ = ("change",)

    def __init__(self, batch: Batch, change: Callable[[Any, Sequence[Any]], Sequence[Any]]) -> None:
        super().__init__(batch.link)
        self.items, self.buffers, self.first, self.n_bytes = batch.items, batch.buffers, batch.first, batch.n_bytes
        self.change = change

    def add(self, item: Any, buffers: Sequence[Any] = (), size: int = 0) -> None:
        super().add(item, self.change(item, buffers), size)


def flipped(kind: type) -> Callable[[Any, Sequence[Any]], Sequence[Any]]:
    """Changes a bit of every public tensor in items of a kind."""

    def change(item: Any, buffers: Sequence[Any]) -> Sequence[Any]:
        if not isinstance(item, kind) or not buffers:
            return buffers
        found = [bytearray(bytes(memoryview(each).cast("B"))) for each in buffers]
        for each in found:
            each[0] ^= 1
        return found

    return change


def product_with_public(session: NetworkSession, x: Any) -> Tensor:
    factor = torchveil.public(torch.tensor([[1.5, 2.0], [0.25, 3.0]]))
    y: Any = (x @ factor) * x
    return y.reveal()


def planned_product(session: NetworkSession, x: Any) -> Tensor:
    factor = torchveil.public(torch.tensor([[1.5, 2.0], [0.25, 3.0]]))

    def run(x: Tensor) -> Tensor:
        y: Tensor = (x @ factor) * x
        return y

    planned = torchveil.compile(run)
    for _ in range(3):  # a plan once the argument's opening is known
        out: Any = planned(x)
    return out.reveal()


@pytest.mark.parametrize(
    ("kind", "program"), [(m.Do, product_with_public), (m.Define, planned_product)], ids=["instruction", "plan"]
)
def test_other_public_tensors(cluster: LocalCluster, kind: type, program: Callable[..., Tensor]) -> None:
    with connect(cluster.file) as session:
        wanted = program(session, session.share(torch.ones(2, 2)))
    session = connect(cluster.file)
    x = session.share(torch.ones(2, 2))
    x.reveal()
    driver: Any = session._driver
    driver._batches[1] = Other(driver._batches[1], flipped(kind))
    with pytest.raises(Desynchronised, match="another stream") as caught:
        program(session, x)
    assert caught.value.at_fault in PARTIES and "test_other_streams.py" in caught.value.line
    with connect(cluster.file) as session:
        assert torch.equal(program(session, session.share(torch.ones(2, 2))), wanted)


@pytest.mark.parametrize("role", [0, 1, -1], ids=["alice", "bob", "james"])
def test_an_item_more_for_one_role(cluster: LocalCluster, role: int) -> None:
    session = connect(cluster.file)
    x = session.share(torch.ones(2, 2))
    y = x + 1
    x.reveal()
    driver: Any = session._driver
    batch = [*driver._batches, driver._dealer][role]
    batch.add(m.Alias(10_001, y.handle.id))
    with pytest.raises(Desynchronised, match="another stream") as caught:
        (x * y).reveal()
    assert caught.value.at_fault in {*PARTIES, "provider/james"}
    assert "test_other_streams.py" in caught.value.line


@pytest.mark.parametrize("role", [0, 1, -1], ids=["alice", "bob", "james"])
def test_a_wrong_number(cluster: LocalCluster, role: int) -> None:
    session = connect(cluster.file)
    x = session.share(torch.ones(2, 2))
    driver: Any = session._driver
    [*driver._batches, driver._dealer][role].first += 1
    with pytest.raises(Desynchronised, match="the controller is at instruction") as caught:
        (x * x).reveal()
    assert caught.value.at_fault == "controller/scientist"
