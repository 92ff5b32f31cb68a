"""The plain backend runs the same program; debug mode names the operation that leaves its range."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import torchveil


def _losses(session: torchveil.Session, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[float]:
    encrypted = session.encrypt(copy.deepcopy(model))
    optimizer = torch.optim.Adam(encrypted.parameters(), lr=0.01)
    data, target = session.share(x), session.share(y)
    out = []
    for _ in range(5):
        loss = functional.cross_entropy(encrypted(data), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        out.append(float(loss.reveal()))
    return out


@pytest.mark.smoke
def test_plain_and_lockstep_run_one_program() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(12, 6), torch.arange(12) % 3
    plain, shares = torchveil.Session(backend="plain"), torchveil.Session()
    assert _losses(plain, model, x, y) == pytest.approx(_losses(shares, model, x, y), abs=2e-3)
    assert plain.cost().total == shares.cost().total
    assert plain.cost().instructions == shares.cost().instructions
    assert "NOTHING is protected" in plain.describe()


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(torchveil.ConfigurationError, match="nonesuch"):
        torchveil.Session(backend="nonesuch")


@pytest.mark.parametrize("backend", ["lockstep", "plain"])
def test_debug_names_the_operation_that_leaves_its_range(backend: str) -> None:
    session = torchveil.Session(debug=True, backend=backend)
    x = session.share(torch.tensor([60000.0]))
    with pytest.raises(torchveil.RangeExceeded) as caught:
        (x @ x) + 1.0
    assert "torch operation: aten." in str(caught.value)
    assert "test_backends.py" in str(caught.value)
    assert torch.equal((x + 1.0).reveal(), torch.tensor([60001.0]))
