"""Every activation of torch.nn, with its options, against float64: values, gradients, and sane far outside."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchveil import Session

UNIT = 2.0**-16
SESSION = Session()

#: Ends of the pieces of the piecewise ones, both neighbours of 0, and numbers far out.
POINTS = torch.cat(
    [
        torch.linspace(-14, 14, 57, dtype=torch.float64) + 0.03125,
        torch.tensor([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0, 3.0, -3.0, 6.0, UNIT, -UNIT]).double(),
        torch.tensor([1e4, -1e4, 100.0, -100.0, 30.0, -30.0]).double(),
    ]
)


@dataclass(frozen=True)
class Case:
    """``units`` bound the error of values, ``gradient_units`` that of gradients; with a part relative to the value."""

    module: nn.Module
    points: Tensor | None = None
    units: float = 2.6
    gradient_units: float = 4.0
    relative: float = 2.0**-16


def rows(*shape: int) -> Tensor:
    return torch.linspace(-4, 4, torch.Size(shape).numel(), dtype=torch.float64).sin().mul(3).reshape(shape)


CASES: dict[str, Case] = {
    "elu": Case(nn.ELU()),
    "elu with alpha": Case(nn.ELU(1.75)),
    "hardshrink": Case(nn.Hardshrink()),
    "hardshrink wide": Case(nn.Hardshrink(1.5)),
    "hardsigmoid": Case(nn.Hardsigmoid()),
    "hardtanh": Case(nn.Hardtanh()),
    "hardtanh with limits": Case(nn.Hardtanh(-2, 0.5)),
    "hardswish": Case(nn.Hardswish()),
    "leaky relu": Case(nn.LeakyReLU()),
    "leaky relu steep": Case(nn.LeakyReLU(0.3)),
    "logsigmoid": Case(nn.LogSigmoid()),
    "prelu": Case(nn.PReLU()),
    "prelu per channel": Case(nn.PReLU(3, 0.4), rows(2, 3, 4)),
    "relu": Case(nn.ReLU()),
    "relu6": Case(nn.ReLU6()),
    "rrelu in eval": Case(nn.RReLU().eval()),
    "selu": Case(nn.SELU()),
    "celu": Case(nn.CELU()),
    "celu with alpha": Case(nn.CELU(0.5)),
    "celu flat": Case(nn.CELU(3.0)),
    "gelu": Case(nn.GELU()),
    "gelu tanh": Case(nn.GELU("tanh")),
    "sigmoid": Case(nn.Sigmoid()),
    "silu": Case(nn.SiLU()),
    "mish": Case(nn.Mish()),
    "softplus": Case(nn.Softplus()),
    "softplus with beta": Case(nn.Softplus(2.5)),
    "softplus with threshold": Case(nn.Softplus(0.5, 3)),
    "softplus negative threshold": Case(nn.Softplus(1, -1)),
    "softshrink": Case(nn.Softshrink()),
    "softshrink wide": Case(nn.Softshrink(1.5)),
    "softsign": Case(nn.Softsign()),
    "tanh": Case(nn.Tanh()),
    "tanhshrink": Case(nn.Tanhshrink()),
    "threshold": Case(nn.Threshold(0.5, -3)),
    "threshold at zero": Case(nn.Threshold(0, 2)),
    # a factor up to 3, and for the gradient a seed up to 1.5, times a slope's error of a unit or so
    "glu": Case(nn.GLU(), rows(3, 6), units=5, gradient_units=8),
    "glu of channels": Case(nn.GLU(1), rows(2, 4, 3), units=5, gradient_units=8),
    "softmin": Case(nn.Softmin(1), rows(3, 4)),
    "softmax": Case(nn.Softmax(-1), rows(3, 5)),
    "softmax 2d": Case(nn.Softmax2d(), rows(2, 3, 2, 2)),
    "logsoftmax": Case(nn.LogSoftmax(1), rows(3, 5)),
}

IN_PLACE: dict[str, nn.Module] = {
    "elu": nn.ELU(1.5, inplace=True),
    "hardsigmoid": nn.Hardsigmoid(inplace=True),
    "hardtanh": nn.Hardtanh(inplace=True),
    "hardswish": nn.Hardswish(inplace=True),
    "leaky relu": nn.LeakyReLU(inplace=True),
    "relu": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(inplace=True),
    "rrelu": nn.RReLU(inplace=True).eval(),
    "selu": nn.SELU(inplace=True),
    "celu": nn.CELU(0.7, inplace=True),
    "silu": nn.SiLU(inplace=True),
    "mish": nn.Mish(inplace=True),
    "threshold": nn.Threshold(0.5, -3, inplace=True),
}


def on_grid(x: Tensor) -> Tensor:
    return torch.round(x / UNIT) * UNIT


def encrypted(module: nn.Module, session: Session) -> nn.Module:
    return session.encrypt(copy.deepcopy(module).float()) if list(module.parameters()) else module


def clear(x: Any) -> Tensor:
    return x.reveal(dtype=torch.float64) if hasattr(x, "reveal") else x.double()


def check(found: Tensor, wanted: Tensor, units: float, relative: float) -> None:
    error = (clear(found) - wanted).abs() - relative * wanted.abs()
    assert float(error.max()) <= units * UNIT, f"{float(error.max()) / UNIT:.2f} units"


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    case = CASES[name]
    x = on_grid(POINTS if case.points is None else case.points)
    # a parameter's gradient adds up what belongs to all points
    if list(case.module.parameters()):
        x = x.clamp(-30, 30)
    module = copy.deepcopy(case.module).double()
    for p in module.parameters():
        p.data = on_grid(p.data)
    secret_module = encrypted(module, SESSION)
    leaf, secret = x.clone().requires_grad_(), SESSION.share(x).requires_grad_()
    out, found = module(leaf), secret_module(secret)
    seed = on_grid(torch.linspace(-1, 1.5, out.numel(), dtype=torch.float64).reshape(out.shape))
    check(found, out.detach(), case.units, case.relative)
    out.backward(seed)
    found.backward(SESSION.share(seed))
    check(secret.grad, leaf.grad, case.gradient_units, case.relative)
    for p, q in zip(module.parameters(), secret_module.parameters(), strict=True):
        check(q.grad, p.grad, 40, 2.0**-12)


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name: str) -> None:
    x = on_grid(POINTS[:60])
    leaf, secret = x.clone().requires_grad_(), SESSION.share(x).requires_grad_()
    out, before = leaf.clone(), secret.clone()
    IN_PLACE[name](out)
    found = IN_PLACE[name](before)
    assert found is before
    check(found, out.detach(), 2.6, 2.0**-16)
    out.sum().backward()
    found.sum().backward()
    check(secret.grad, leaf.grad, 4, 2.0**-16)
