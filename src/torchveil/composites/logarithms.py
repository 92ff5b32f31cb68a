"""Running log-sums as torch's own additions of logarithms: torch's gradient of the whole would need infinities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import replaces


@replaces(torch.logcumsumexp, torch.Tensor.logcumsumexp)
def logcumsumexp(x: Tensor, dim: int, **_kwargs: Any) -> Tensor:
    """Prefixes in ceil(log2 n) levels, each as exact as ``softplus``."""
    size, step = x.shape[dim] if x.dim() else 1, 1
    while step < size:
        joined = torch.logaddexp(x.narrow(dim, 0, size - step), x.narrow(dim, step, size - step))
        x = torch.cat([x.narrow(dim, 0, step), joined], dim)
        step *= 2
    return x.clone()
