"""Comparing a module on shares with the same module in float64: outputs, and gradients of inputs and parameters."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import torchveil
from torchveil import EncryptedTensor, Session

UNIT = 2.0**-16


def leaves(out: Any) -> list[Tensor]:
    """The tensors of nested tuples, without what was not asked for."""
    if isinstance(out, (tuple, list)):
        return [x for part in out for x in leaves(part)]
    return [] if out is None else [out]


class Called(nn.Module):
    """A module with arguments that are not shared (masks, lengths)."""

    def __init__(self, module: nn.Module, **options: Any) -> None:
        super().__init__()
        self.module = module
        self.options = options

    def forward(self, *inputs: Tensor) -> Any:
        def suited(x: Any) -> Any:
            wide = isinstance(x, Tensor) and x.is_floating_point() and not isinstance(inputs[0], EncryptedTensor)
            return x.double() if wide else x

        return self.module(*inputs, **{name: suited(x) for name, x in self.options.items()})


def check_compiled(session: Session, module: nn.Module, x: Tensor) -> None:
    """Replayed plans give the gradients that the program gives."""
    secret, shared = session.encrypt(module), session.share(x)

    def gradients(batch: Tensor) -> Tensor:
        secret.zero_grad()
        out = leaves(secret(batch))[0]
        loss = (out * out).sum()
        loss.backward()
        return loss

    def revealed() -> list[Tensor]:
        return [p.grad.reveal() for p in secret.parameters() if p.grad is not None]

    gradients(shared)
    wanted = revealed()
    compiled = torchveil.compile(gradients)
    for _ in range(4):
        compiled(shared)
        for a, b in zip(wanted, revealed(), strict=True):
            assert torch.allclose(a, b, atol=100 * UNIT)
    assert compiled.rounds > 0 and compiled.recordings <= 2  # the first call opens what later ones find open


def grid(x: Tensor) -> Tensor:
    return torch.round(x.double() / UNIT) * UNIT


def compare(
    session: Session, module: nn.Module, *inputs: Tensor, units: float = 12.0, gradient_units: float = 60.0
) -> None:
    """Values and gradients within so many units of the last place."""
    clear, secret = copy.deepcopy(module).double(), session.encrypt(copy.deepcopy(module))
    with torch.no_grad():
        for p in clear.parameters():
            p.copy_(grid(p))
    clear_inputs = [grid(x).requires_grad_() for x in inputs]
    secret_inputs = [session.share(grid(x)).requires_grad_() for x in inputs]
    wanted, found = leaves(clear(*clear_inputs)), leaves(secret(*secret_inputs))
    assert len(wanted) == len(found)
    for a, b in zip(wanted, found, strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        assert float((b.detach().reveal(dtype=torch.float64) - a.detach()).abs().max()) <= units * UNIT
    seeds = [grid(torch.linspace(-1, 1.5, a.numel())).reshape(a.shape) for a in wanted]
    torch.autograd.backward(wanted, seeds)
    torch.autograd.backward(found, [session.share(seed) for seed in seeds])
    pairs = zip([*clear_inputs, *clear.parameters()], [*secret_inputs, *secret.parameters()], strict=True)
    for a, b in pairs:
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            error = float((b.grad.reveal(dtype=torch.float64) - a.grad).abs().max())
            assert error <= gradient_units * UNIT, f"{error / UNIT:.1f} units"
