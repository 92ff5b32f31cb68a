"""The maximum along a dimension, by either way: same values, indices and gradients; the choice between them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchveil import EncryptedTensor, Session
from torchveil.functions import all_pairs, maximum, tournament
from torchveil.functions.arithmetic import secret
from torchveil.gates import GATES
from torchveil.gates.base import Cost
from torchveil.handle import Secret
from torchveil.program import instructions as ins

#: What a round has to be worth for each way to be taken (where it saves rounds at all).
WAYS = {"all pairs": 2**60, "tournament": 0}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(maximum, "ROUND_BYTES", WAYS[request.param])
    return str(request.param)


class Recording(Session):
    kinds: set[type[ins.Instruction]]

    def submit(self, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        self.__dict__.setdefault("kinds", set()).add(type(i))
        return super().submit(i, clear)


def rows(*shape: int) -> Tensor:
    """Multiples of a quarter in [-2, 2], so that equals abound."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(len(shape))) / 4


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("size", [3, 4, 9, 10, 11])
def test_values_indices_and_gradients(way: str, size: int, n: int) -> None:
    session = Recording([f"p{i}" for i in range(n)], debug=True)
    x = rows(13, size)
    clear = x.clone().requires_grad_()
    wanted, index = clear.max(1)
    weights = torch.linspace(-3, 3, 13)
    (wanted * weights).sum().backward()
    y = session.share(x).requires_grad_()
    value, place = y.max(1)
    assert torch.equal(value.reveal(), wanted.detach())
    assert torch.equal(place.reveal(), index)
    (value * session.share(weights)).sum().backward()
    assert clear.grad is not None
    assert y.grad is not None
    assert bool(((y.grad.reveal() - clear.grad).abs() <= 2.0**-15).all())
    assert (ins.Winner in session.kinds) == (way == "all pairs")


def test_among_equals_the_first_wins(way: str) -> None:
    x = torch.cartesian_prod(*[torch.tensor([-1.0, 2.0])] * 3)
    session = Session(debug=True)
    assert torch.equal(session.share(x).argmax(1).reveal(), x.argmax(1))
    assert torch.equal(session.share(x).argmin(1).reveal(), x.argmin(1))
    assert torch.equal(session.share(x).amin((0, 1)).reveal(), x.amin((0, 1)))


def test_a_product_is_compared_before_it_is_truncated(way: str) -> None:
    session = Session(debug=True)
    x, w = rows(7, 5), rows(5, 6)
    found = (session.share(x) @ session.share(w)).max(1).values
    assert isinstance(found, EncryptedTensor)
    assert secret(found.handle).pending
    assert torch.equal(found.reveal(), (x @ w).max(1).values)


def test_any_dimension_and_a_pooling(way: str) -> None:
    session = Session(debug=True)
    x = rows(2, 3, 6, 6)
    for dim in range(4):
        assert torch.equal(session.share(x).amax(dim).reveal(), x.amax(dim))
    y, clear = session.share(x).requires_grad_(), x.clone().requires_grad_()
    for z in (y, clear):
        torch.nn.functional.max_pool2d(z, 3, 2, 1).sum().backward()
    assert y.grad is not None
    assert clear.grad is not None
    assert torch.equal(y.grad.reveal(), clear.grad)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 11, 16, 21])
@pytest.mark.parametrize("n_rows", [1, 7, 128])
def test_the_costs_that_are_compared_are_what_is_spent(size: int, n_rows: int) -> None:
    ways = {
        "all": (lambda x: all_pairs.maximum(x, 1), all_pairs.cost(size, n_rows, None)),
        "reach": (lambda x: all_pairs.maximum(x, 1, 5), all_pairs.cost(size, n_rows, 5)),
        "tournament": (lambda x: tournament.maximum(x, 1), tournament.cost(size, n_rows)),
    }
    for run, predicted in ways.values():
        session = Session()
        wire = session.share(torch.rand(n_rows, size)).handle
        assert isinstance(wire, Secret)
        session.open(wire)
        before = session.cost().total
        run(wire)
        assert before + predicted == session.cost().total


def test_the_choice() -> None:
    # the rows of a classifier, and a few long rows; not the windows of a pooling, nor a long vector
    assert maximum.all_pairs_pay(10, 128, None)
    assert maximum.all_pairs_pay(10, 128, 2**20)
    assert maximum.all_pairs_pay(100, 1, None)
    assert not maximum.all_pairs_pay(4, 32 * 20 * 12 * 12, None)
    assert not maximum.all_pairs_pay(128, 128, 2**20)
    assert not maximum.all_pairs_pay(10_000, 1, None)
    # two entries take as many rounds either way, but for the comparison with the maximum
    assert not maximum.all_pairs_pay(2, 128, None)
    assert maximum.all_pairs_pay(2, 128, 2**20)


def test_the_figures_that_the_module_states() -> None:
    one, other = all_pairs.cost(10, 128, None), tournament.cost(10, 128)
    assert other.rounds - one.rounds == 11
    assert round((one.sent + one.dealt - other.sent - other.dealt) / 1000) == 296
    assert GATES[ins.Winner].cost(ins.Winner((1,), 0, 0, None, (2, 8)), 2) == Cost(3, 35, 8 * 32 + 97 + 128)
