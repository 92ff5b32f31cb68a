"""Covariances with secret weights: torch looks whether weights are negative, which would reveal it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import replaces


@replaces(torch.cov, torch.Tensor.cov)
def cov(input: Tensor, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Tensor:
    """torch.cov. Secret weights must not be negative and must have a sum above the correction; nobody checks it."""
    if aweights is None or type(aweights) is Tensor:
        return torch.cov(input, correction=correction, fweights=fweights, aweights=aweights)
    rows = input if input.dim() > 1 else input.reshape(1, -1)
    weights = aweights if fweights is None else aweights * fweights
    total = weights.sum()
    # weights of mean 1 keep the digits of small ones
    share = weights / total
    rest = rows - (rows * share).sum(1, keepdim=True)
    norm = 1 - correction * (share * aweights).sum() / total if correction else None
    out = rest @ (rest * share).mT
    scaled: Tensor = out if norm is None else out / norm
    return scaled.squeeze()
