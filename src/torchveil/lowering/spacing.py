"""Evenly and logarithmically spaced numbers between secret ends: products with public weights, and one exponential."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.lowering.table import aten, composes
from torchveil.public import public


@composes(aten.linspace.Tensor_Tensor, aten.linspace.Tensor_Scalar, aten.linspace.Scalar_Tensor)
def _linspace(start: Any, end: Any, steps: int, *, dtype: torch.dtype | None = None, **_options: Any) -> Tensor:
    """[steps] from start to end, both included; off by less than two units. One truncation."""
    if dtype is not None and not dtype.is_floating_point:
        raise UnsupportedOperation("whole numbers between secret ends", op="linspace", remedy="use a dtype of floats")
    weights = torch.linspace(0, 1, steps, dtype=torch.float64)
    out: Tensor = start * public(1 - weights) + end * public(weights)
    return out


@composes(aten.logspace.Tensor_Tensor, aten.logspace.Tensor_Scalar, aten.logspace.Scalar_Tensor)
def _logspace(
    start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: torch.dtype | None = None, **_options: Any
) -> Tensor:
    """base^linspace, as e^(log base * linspace): relative error below 2^-13, saturating at 65536, for base > 0."""
    if base <= 0:
        raise UnsupportedOperation(
            f"secret powers of {base}", op="logspace", remedy="use a positive base; a power needs its logarithm"
        )
    return torch.exp(_linspace(start, end, steps, dtype=dtype) * math.log(base))
