"""Hyperbolic functions and their inverses, from exponentials and logarithms."""

from __future__ import annotations

import torch
from torch import Tensor

from torchveil.lowering.table import aten, composes


@composes(aten.sinh.default)
def _sinh(x: Tensor) -> Tensor:
    """For |x| < 11, where the exponential saturates."""
    return (torch.exp(x) - torch.exp(-x)) / 2


@composes(aten.cosh.default)
def _cosh(x: Tensor) -> Tensor:
    return (torch.exp(x) + torch.exp(-x)) / 2


@composes(aten.asinh.default)
def _asinh(x: Tensor) -> Tensor:
    """sign x log(|x| + sqrt(x^2 + 1)): no digits cancel."""
    return torch.sign(x) * torch.log(x.abs() + torch.sqrt(x * x + 1))


@composes(aten.acosh.default)
def _acosh(x: Tensor) -> Tensor:
    return torch.log(x + torch.sqrt(x * x - 1))


@composes(aten.atanh.default)
def _atanh(x: Tensor) -> Tensor:
    return (torch.log(1 + x) - torch.log(1 - x)) / 2
