"""Powers: of matrices, whose zeroth torch writes into a tensor of its own; of numbers, which torch takes to float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import replaces
from torchveil.public import public


@replaces(torch.linalg.matrix_power, torch.matrix_power, torch.Tensor.matrix_power)
def matrix_power(input: Tensor, n: int) -> Tensor:
    """torch.linalg.matrix_power; the zeroth power is the identity, with a gradient of zeros."""
    if n:
        out: Tensor = torch.linalg.matrix_power(input, n)
        return out
    return 0 * input + public(torch.eye(input.shape[-1]))


@replaces(torch.float_power, torch.Tensor.float_power)
def float_power(input: Any, exponent: Any) -> Tensor:
    """torch.pow: a secret has the digits of its format, whatever it is called."""
    return torch.pow(input, exponent)
