"""Gradients of normalisation layers have no error that all elements of a channel share: sums would gather it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchveil import FixedPoint, Session


@pytest.mark.parametrize("digits", [16, 20])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_batch_norm_gradients_have_no_common_error(digits: int, size: float) -> None:
    torch.manual_seed(0)
    session = Session(["alice", "bob"], "james", fixed_point=FixedPoint(2, digits))
    layer = session.encrypt(nn.BatchNorm2d(8))
    x = session.share(0.5 * torch.randn(64, 8, 4, 4)).requires_grad_()
    cotangent = session.share(size * torch.randn(64, 8, 4, 4))
    layer(x).backward(cotangent)

    clear = x.detach().reveal().double().requires_grad_()
    nn.BatchNorm2d(8).double()(clear).backward(cotangent.reveal().double())
    error = (x.grad.reveal().double() - clear.grad) * 2**digits
    assert error.abs().max() < 10
    # single elements are off by a unit or so, 1,024 of them together by a tenth of it, not by one
    assert error.mean((0, 2, 3)).abs().max() < 0.3
    along = (error * clear.detach()).sum((0, 2, 3)) / clear.detach().square().sum((0, 2, 3))
    assert along.abs().max() < 0.8 + 1e-4 * size * 2**digits  # and a relative error of the scale: .4 in some runs


def test_layer_norm_gradients_have_no_common_error() -> None:
    torch.manual_seed(0)
    session = Session(["alice", "bob"], "james")
    layer = session.encrypt(nn.LayerNorm(1024))
    x = session.share(0.5 * torch.randn(8, 1024)).requires_grad_()
    cotangent = session.share(1e-3 * torch.randn(8, 1024))
    layer(x).backward(cotangent)

    clear = x.detach().reveal().double().requires_grad_()
    nn.LayerNorm(1024).double()(clear).backward(cotangent.reveal().double())
    error = (x.grad.reveal().double() - clear.grad) * 2**16
    assert error.abs().max() < 10
    assert error.mean(1).abs().max() < 0.3
