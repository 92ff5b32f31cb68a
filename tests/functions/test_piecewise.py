"""Piecewise linear functions: their rounds, empty and infinite pieces, and gradients that compare nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchveil import Session
from torchveil.functions.piecewise import Knot, Line, piecewise
from torchveil.tensor import wrap

ROUNDS: dict[str, tuple[Callable[[Tensor], Tensor], int, int]] = {
    "relu6": (F.relu6, 4, 0),
    "hardshrink": (F.hardshrink, 4, 0),
    "softshrink": (F.softshrink, 4, 0),
    "hardsigmoid": (F.hardsigmoid, 4, 0),
    "threshold": (lambda x: F.threshold(x, 0.5, 2), 4, 0),
    "hardswish": (F.hardswish, 5, 0),
    "elu": (F.elu, 5, 1),
    "softplus": (F.softplus, 5, 1),
}


@pytest.mark.parametrize("name", ROUNDS)
def test_rounds_forward_and_backward(name: str) -> None:
    function, forward, backward = ROUNDS[name]
    session = Session()
    x = session.share(torch.linspace(-4, 4, 33)).requires_grad_()
    out = function(x)
    assert session.cost().total.rounds == forward
    out.sum().backward()
    assert session.cost().gates["compare"].rounds == 3
    assert session.cost().total.rounds - forward == backward


def of(x: Tensor, knots: list[Knot], lines: list[Line]) -> Tensor:
    secret = Session(debug=True).share(x)
    return wrap(piecewise(secret.handle, knots, lines)).reveal(dtype=torch.float64)


def test_knots_belong_to_the_piece_they_name() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).double()
    lines = [Line(0, 10), Line(2), Line(0, 20)]
    assert of(x, [Knot(-1), Knot(1)], lines).tolist() == [10, -2, 0, 20, 20]
    assert of(x, [Knot(-1, closed=True), Knot(1, closed=True)], lines).tolist() == [10, 10, 0, 2, 20]


def test_pieces_out_of_order_are_empty_and_infinite_ones_have_no_end() -> None:
    x = torch.tensor([-2.0, 0.0, 2.0]).double()
    assert of(x, [Knot(1), Knot(-1)], [Line(1), Line(0, 7), Line(-1)]).tolist() == [-2, 0, -2]
    assert of(x, [Knot(-math.inf), Knot(math.inf)], [Line(0), Line(1, 1), Line(0)]).tolist() == [-1, 1, 3]


def test_a_knot_between_two_numbers_of_the_format() -> None:
    unit = 2.0**-16
    x = torch.tensor([0.0, unit, 2 * unit]).double()
    for closed in (False, True):
        assert of(x, [Knot(1.5 * unit, closed)], [Line(0), Line(0, 1)]).tolist() == [0, 0, 1]


def test_constants_and_lines_need_no_comparison() -> None:
    session = Session()
    x = session.share(torch.ones(3))
    piecewise(x.handle, [Knot(0)], [Line(1, 2), Line(1, 2)])
    piecewise(x.handle, [Knot(0)], [Line(0, 2), Line(0, 2)])
    assert session.cost().total.rounds == 0
