"""What a plain tensor costs and does when it meets a share never depends on the numbers in it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture
def x(people: SimpleNamespace) -> Any:
    values = torch.tensor([1.0, 3.0, 2.0]).fix_precision()
    return values.share(people.bob, people.alice, crypto_provider=people.james, requires_grad=True)


def cost(x: Any, program: Callable[[], Any]) -> tuple[Any, ...]:
    """Instructions, rounds and bytes of a program, after a run that fills the caches of its operands."""
    program()
    before = x.session.cost()
    program()
    after = x.session.cost()
    return after.instructions - before.instructions, after.rounds - before.rounds, after.sent_bytes - before.sent_bytes


def test_a_factor_of_zero_is_shared_like_any_other(x: Any) -> None:
    zero, two = (cost(x, lambda number=number: x * torch.tensor(number)) for number in (0.0, 2.0))
    assert zero == two


def test_zeros_of_a_gradient_hook_are_shared_like_other_numbers(x: Any) -> None:
    def backward(added: torch.Tensor) -> Callable[[], Any]:
        y = x.clone()
        y.register_hook(lambda grad: grad + added)
        return lambda: y.sum().backward(retain_graph=True)

    zeros, twos = (cost(x, backward(torch.full((3,), number))) for number in (0.0, 2.0))
    assert zeros == twos


def test_zeros_of_torch_are_shared_in_derivatives(x: Any) -> None:
    x.cummax(0).values.sum().backward()
    assert x.grad.get().float_precision().tolist() == [1.0, 2.0, 0.0]
    x.index_put((torch.tensor([0]),), (x * 2)[:1]).sum().backward()
    assert x.grad.get().float_precision().tolist() == [3.0, 3.0, 1.0]
