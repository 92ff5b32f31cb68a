"""Run by torchrun with two ranks: collectives of torch.distributed on secrets, and a training on halves of each batch.

torchrun --nproc-per-node 2 ranks_program.py [cluster.toml]
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

import torchveil
from torchveil import Session
from torchveil.errors import (
    InvalidArgument,
    ShapeMismatch,
    TorchveilError,
    UnsupportedOperation,
    WouldBePublished,
)


def average_gradients(model: nn.Module) -> None:
    """As in PyTorch's tutorial on writing distributed applications."""
    size = float(dist.get_world_size())
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad.data, op=dist.ReduceOp.SUM)  # type: ignore[union-attr]
        parameter.grad.data /= size  # type: ignore[union-attr]


def train(model: nn.Module, x: Tensor, y: Tensor, average: Callable[[nn.Module], None]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        average(model)
        optimizer.step()


def training(session: Session, rank: int, ranks: int) -> None:
    """All ranks together do what one does alone with all rows, and weights stay together but for roundings."""
    torch.manual_seed(0)
    clear = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    model = session.encrypt(copy.deepcopy(clear))
    x = torch.randn(32, 4)
    y = x.sum(1, keepdim=True)
    train(model, session.share(x[rank::ranks]), session.share(y[rank::ranks]), average_gradients)
    train(clear, x, y, lambda _: None)
    for found, wanted in zip(model.parameters(), clear.parameters(), strict=True):
        assert torch.allclose(found.reveal(), wanted, atol=2e-3)  # type: ignore[operator]
        dist.broadcast(found.data, src=0)
        everywhere = [torch.zeros_like(found.data) for _ in range(ranks)]
        dist.all_gather(everywhere, found.data)
        first, *others = [part.reveal() for part in everywhere]  # type: ignore[attr-defined]
        assert all(part.equal(first) for part in others)


def values(session: Session, rank: int, ranks: int) -> None:
    def mine(x: float = 1.0) -> Tensor:
        return session.share(torch.tensor([x + rank, 2.0 * x, -rank * x]))

    clear = [torch.tensor([1.0 + k, 2.0, -1.0 * k]) for k in range(ranks)]
    stacked = torch.stack(clear)
    for op, wanted in {
        "SUM": stacked.sum(0),
        "AVG": stacked.mean(0),
        "MAX": stacked.amax(0),
        "MIN": stacked.amin(0),
        "PRODUCT": stacked.prod(0),
    }.items():
        x = mine()
        assert dist.all_reduce(x, op=getattr(dist.ReduceOp, op)) is None
        assert torch.allclose(x.reveal(), wanted, atol=1e-4), op  # type: ignore[attr-defined]
    # what is still to be truncated: the number of ranks goes into its scale
    x = mine() * mine(0.5)
    dist.all_reduce(x, op=dist.ReduceOp.AVG)
    products = [torch.tensor([(1.0 + k) * (0.5 + k), 2.0, 0.5 * k * k]) for k in range(ranks)]
    assert torch.allclose((x * 3).reveal(), 3 * torch.stack(products).mean(0), atol=2e-4)  # type: ignore[attr-defined]
    # a value of this rank's is never negative, those of others may be
    x = torch.relu(mine()) if rank == 0 else mine(-2.0)
    dist.broadcast(x, 1)
    assert (x < 0).reveal().tolist() == [True, True, False]  # type: ignore[attr-defined]
    # means of means, as of weights that are averaged after every step: the scale stays
    x = mine(100.0)
    for _ in range(60):
        dist.all_reduce(x, op=dist.ReduceOp.AVG)
    wanted = torch.stack([torch.tensor([100.0 + k, 200.0, -100.0 * k]) for k in range(ranks)]).mean(0)
    assert torch.allclose(x.reveal(), wanted, atol=1e-2)  # type: ignore[attr-defined]
    # what is still to be truncated, into what is not
    x = mine() * mine() if rank == 0 else mine()
    dist.broadcast(x, 0)
    assert torch.allclose(x.reveal(), clear[0] ** 2, atol=1e-4)  # type: ignore[attr-defined]
    x = mine()
    work = dist.all_reduce(x, async_op=True)
    assert work.wait()
    assert work.is_completed()
    x = mine()
    dist.reduce(x, 1)
    assert torch.allclose(x.reveal(), stacked.sum(0) if rank == 1 else clear[rank], atol=1e-4)  # type: ignore[attr-defined]
    whole = session.share(torch.zeros(ranks * 3))
    dist.all_gather_into_tensor(whole, mine())
    assert torch.allclose(whole.reveal(), stacked.view(-1), atol=1e-4)
    x = mine()
    x.data += 1.0  # the same storage
    assert torch.allclose(x.reveal(), clear[rank] + 1, atol=1e-4)  # type: ignore[attr-defined]
    # written into a view, as torch does
    table = session.share(torch.zeros(2, 3))
    dist.broadcast(table[1], 1)
    labels = session.share(torch.tensor([1, 2 + rank]))
    dist.all_reduce(labels)
    assert labels.reveal().tolist() == [2, 5]


def refusals(session: Session, rank: int, ranks: int) -> None:
    """What is refused is refused before anything is sent, on every rank alike, and the session goes on."""
    x = session.share(torch.tensor([1.0, 2.0]))
    alone = dist.new_group([0]), dist.new_group([1])
    plain = [torch.zeros(2) for _ in range(ranks)]
    compiled = torchveil.compile(lambda x: (dist.all_reduce(x), x)[1])
    model = session.encrypt(nn.Linear(2, 1))
    cases: list[tuple[type[Exception], Callable[[], object]]] = [
        (WouldBePublished, lambda: dist.all_gather(plain, x)),
        (ShapeMismatch, lambda: dist.all_gather([session.share(torch.zeros(3)) for _ in range(ranks)], x)),
        (InvalidArgument, lambda: dist.all_gather([torch.zeros_like(x)], x)),
        (UnsupportedOperation, lambda: dist.all_reduce(x, op=dist.ReduceOp.BXOR)),
        (UnsupportedOperation, lambda: dist.all_reduce(x > 1)),
        (UnsupportedOperation, lambda: dist.all_reduce(session.share(torch.tensor([1])), op=dist.ReduceOp.AVG)),
        (UnsupportedOperation, lambda: dist.send(x, 1 - rank)),
        (InvalidArgument, lambda: dist.all_reduce(x, group=alone[rank])),
        (TorchveilError, lambda: compiled(x)),
        (UnsupportedOperation, lambda: nn.parallel.DistributedDataParallel(model)),
    ]
    for expected, wrong in cases:
        try:
            wrong()
        except expected:
            continue
        raise AssertionError(f"{expected.__name__} was due")
    dist.all_reduce(x)
    assert x.reveal().tolist() == [2.0, 4.0]


def main() -> None:
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    with torchveil.connect(sys.argv[1]) if len(sys.argv) > 1 else Session() as session:
        for part in (values, training, refusals):
            part(session, rank, ranks)
    print(f"rank {rank}: as it should be\n", end="", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
