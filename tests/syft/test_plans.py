"""func2plan: recorded on shared tensors, the plain function elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import syft as sy


def shared(people: SimpleNamespace, values: Any) -> Any:
    return torch.tensor(values).fix_precision().share(people.bob, people.alice, crypto_provider=people.james)


def test_a_plan_runs_on_shares_like_the_function(people: SimpleNamespace) -> None:
    @sy.func2plan()
    def square(x: Any) -> Any:
        """Squares."""
        return x * x + x

    assert not square.is_built
    for value in (1.0, 2.5, -3.0):
        assert square(shared(people, [value])).get().float_precision().item() == value * value + value
    assert square.is_built
    assert square.rounds == 1
    assert repr(square) == "<Plan square built>"
    assert square.__doc__ == "Squares."


def test_built_on_zeros_and_run_in_the_clear(people: SimpleNamespace) -> None:
    @sy.func2plan(args_shape=[(2, 3), (3, 2)])
    def product(x: Any, y: Any) -> Any:
        return x @ y

    assert product.is_built
    assert torch.equal(product(torch.ones(2, 3), torch.ones(3, 2)), torch.full((2, 2), 3.0))
    assert product.send(people.bob) is product
    pointer = product(torch.ones(2, 3).send(people.bob), torch.ones(3, 2).send(people.bob))
    assert torch.equal(pointer.get(), torch.full((2, 2), 3.0))


def test_a_plan_trains(people: SimpleNamespace) -> None:
    torch.manual_seed(0)
    options: Any = dict(crypto_provider=people.james, requires_grad=True)
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    model = model.fix_precision().share(people.bob, people.alice, **options)
    inputs, labels = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([[0.0], [0], [1], [1]])
    data = inputs.fix_precision().share(people.bob, people.alice, **options)
    target = labels.fix_precision().share(people.bob, people.alice, **options)
    opt = torch.optim.SGD(model.parameters(), lr=0.1).fix_precision()

    @sy.func2plan()
    def step(x: Any, y: Any) -> Any:
        opt.zero_grad()
        loss = ((model(x) - y) ** 2).sum()
        loss.backward()
        opt.step()
        return loss

    losses = [step(data, target).get().float_precision().item() for _ in range(12)]
    assert losses[-1] < losses[0] / 2


def test_misuse(people: SimpleNamespace) -> None:
    with pytest.raises(TypeError, match="parentheses"):
        sy.func2plan(lambda x: x)
    plan = sy.func2plan()(lambda x: x * 2)
    with pytest.raises(RuntimeError, match="needs to be built"):
        plan.send(people.bob)
    with pytest.raises(RuntimeError):
        sy.func2plan(args_shape=[(2, 3), (2, 3)])(lambda x, y: x @ y)
