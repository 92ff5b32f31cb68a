"""Operations on lists: the values of the single operations, the rounds of one tensor for all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchveil import EncryptedTensor, Session, public
from torchveil.handle import Public
from torchveil.lowering import TABLE

aten = torch.ops.aten
#: But those that take one tensor for all, which a test below has.
ROWS = sorted((op for op in TABLE if "_foreach_" in str(op) and op._overloadname != "Tensor"), key=str)
SHAPES = [(2, 3), (4,), (1, 5), ()]


def lists(n: int) -> list[list[Tensor]]:
    """Lists of positive tensors, well inside every function's range."""
    generator = torch.Generator().manual_seed(3)
    return [[(0.6 + 0.3 * torch.rand(s, generator=generator)) for s in SHAPES] for _ in range(n)]


def arguments(op: Any) -> tuple[list[list[Tensor]], list[Any]]:
    """(the lists, what follows them) for a row, by its schema."""
    kinds = [str(a.type) for a in op._schema.arguments if not a.kwarg_only and not a.has_default_value()]
    tensors = [kind for kind in kinds if kind == "List[Tensor]"]
    rest: list[Any] = []
    for kind in kinds[len(tensors) :]:
        rest.append([2.0, 2.0, 3.0, 2.0] if kind.startswith("List") else 2.0)
    return lists(len(tensors)), rest


@pytest.mark.parametrize("op", ROWS, ids=str)
def test_a_list_is_its_single_tensors(op: Any) -> None:
    given, rest = arguments(op)
    session = Session(["alice", "bob"], "james")
    shared = [[session.share(x) for x in xs] for xs in given]
    found = op(*shared, *rest)
    clear = [[y.reveal().double() for y in xs] for xs in [[session.share(x) for x in ys] for ys in given]]
    wanted = op(*clear, *rest)
    if found is None:
        found, wanted = shared[0], clear[0]
    for one, exact in zip(found, wanted, strict=True):
        assert isinstance(one, EncryptedTensor)
        assert one.shape == exact.shape
        assert torch.allclose(one.reveal().double(), exact, atol=1e-3)


@pytest.mark.parametrize("name", ["add", "mul", "div"])
def test_one_number_for_all(name: str) -> None:
    (xs,) = lists(1)
    session = Session(["alice", "bob"], "james")
    number = torch.tensor(1.5)
    found = getattr(aten, f"_foreach_{name}").Tensor([session.share(x) for x in xs], session.share(number))
    for one, exact in zip(found, getattr(torch, f"_foreach_{name}")(xs, number), strict=True):
        assert torch.allclose(one.reveal(), exact, atol=1e-3)


def test_a_list_takes_the_rounds_of_one_tensor() -> None:
    counts = []
    for n in (1, 4):
        session = Session(["alice", "bob"], "james")
        xs = [session.share(x) for x in lists(1)[0][:n]]
        torch._foreach_sqrt(xs)
        counts.append(session.cost().rounds)
    assert counts[0] == counts[1] > 0


def test_shapes_that_broadcast_go_in_turn() -> None:
    session = Session(["alice", "bob"], "james")
    xs, ys = [torch.rand(3, 2), torch.rand(2, 2)], [torch.rand(2), torch.rand(2, 1)]
    found = torch._foreach_add([session.share(x) for x in xs], [session.share(y) for y in ys])
    for one, x, y in zip(found, xs, ys, strict=True):
        assert torch.allclose(one.reveal(), x + y, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "RMSprop", "Adamax", "NAdam"])
def test_optimizers_on_lists_do_what_they_do_one_by_one(optimizer: str) -> None:
    torch.manual_seed(0)
    clear = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(3, 4)
    rounds, ends = [], []
    for foreach in (False, True):
        session = Session(["alice", "bob"], "james")
        net = session.encrypt(copy.deepcopy(clear))
        chosen = getattr(torch.optim, optimizer)(net.parameters(), lr=0.05, foreach=foreach)
        for _ in range(3):
            chosen.zero_grad()
            (net(session.share(x)) ** 2).mean().backward()
            before = session.cost().rounds
            chosen.step()
        rounds.append(session.cost().rounds - before)
        ends.append([p.detach().reveal() for p in net.parameters()])
    for one, other in zip(*ends, strict=True):
        assert torch.allclose(one, other, atol=1e-2)
    assert rounds[1] < (0.8 if optimizer == "SGD" else 0.6) * rounds[0]


def test_one_tensor_for_all() -> None:
    xs = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([4.0, 5.0, -6.0])]
    session = Session(["alice", "bob"], "james")
    for factor in (torch.tensor([3.0, 0.5, -1.0]), torch.tensor([2, 0, 3])):
        found = torch._foreach_mul([session.share(x) for x in xs], public(factor))
        for one, x in zip(found, xs, strict=True):
            assert torch.allclose(one.reveal(), x * factor, atol=1e-3)
    mask = torch.tensor([1.0, -1.0, 1.0])
    found = torch._foreach_mul([session.share(x) for x in xs], session.share(mask) > 0)
    for one, x in zip(found, xs, strict=True):
        assert torch.equal(one.reveal(), x * (mask > 0))


def test_a_constant_has_a_value() -> None:
    with pytest.raises(ValueError, match="without a value"):
        Public(Session(["alice", "bob"], "james"), (2,)).dense()
