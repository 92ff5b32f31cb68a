"""The layers of ``torch.nn`` against themselves in float64: results, gradients of inputs and parameters, buffers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.lowering.layers import LAYERS, Layer
from torchveil import EncryptedTensor, Session

SESSION = Session(debug=True)
UNIT = 2.0**-16


def _grid(x: Tensor) -> Tensor:
    return torch.round(x.double() / UNIT) * UNIT


def _inputs(sample: Layer) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    draws = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in sample.shapes]
    return [_grid(draw * (sample.high - sample.low) + sample.low) for draw in draws]


def _close(found: Tensor, wanted: Tensor, units: float, relative: float) -> None:
    assert isinstance(found, EncryptedTensor)
    assert tuple(found.shape) == tuple(wanted.shape) == tuple(found.handle.shape)
    error = (found.reveal(dtype=torch.float64) - wanted).abs() - relative * wanted.abs()
    assert not error.numel() or float(error.max()) <= units * UNIT, f"{float(error.max()) / UNIT:.1f} units"


def _tensors(module: Any) -> dict[str, Tensor]:
    if not isinstance(module, nn.Module):
        return {}
    return {name: x for name, x in module.state_dict().items() if x.is_floating_point()}


def check(sample: Layer, session: Session, *, plain: tuple[Any, ...] | None = None) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        module = sample.make()
    inputs = _inputs(sample)
    clear_module = encrypted = module
    if isinstance(module, nn.Module):
        clear_module = copy.deepcopy(module).double()
        with torch.no_grad():
            for x in [*clear_module.parameters(), *clear_module.buffers()]:
                if x.is_floating_point():
                    x.copy_(_grid(x))
        encrypted = session.encrypt(copy.deepcopy(clear_module))
    clear = [x.clone().requires_grad_(sample.backward) for x in inputs]
    secret = [session.share(x).requires_grad_(sample.backward) for x in inputs]
    wanted = clear_module(*clear, *sample.plain)
    found = encrypted(*secret, *(sample.plain if plain is None else plain))
    _close(found, wanted.detach(), sample.units, sample.relative)
    for name, buffer in _tensors(clear_module).items():
        _close(_tensors(encrypted)[name], buffer, sample.units, sample.relative)
    if not sample.backward:
        return
    seed = _grid(torch.linspace(-1, 1.5, max(1, wanted.numel())).double()[: wanted.numel()]).reshape(wanted.shape)
    wanted.backward(seed)
    found.backward(session.share(seed))
    leaves = list(zip(secret, clear, strict=True))
    if isinstance(module, nn.Module):
        leaves += list(zip(encrypted.parameters(), clear_module.parameters(), strict=True))
    for got, want in leaves:
        assert (got.grad is None) == (want.grad is None)
        if got.grad is not None and want.grad is not None:
            _close(got.grad, want.grad, sample.gradient_units, sample.relative)


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    check(LAYERS[name], SESSION)
