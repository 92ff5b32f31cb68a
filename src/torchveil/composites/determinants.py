"""Determinants with gradients: torch's own formula perturbs an LU decomposition, which there is none of here.

And what would need the rank of a matrix, which is a secret.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import replaces
from torchveil.errors import UnsupportedOperation


@replaces(torch.det, torch.linalg.det, torch.Tensor.det)
def det(x: Tensor) -> Tensor:
    """det A, the product of the pivots, with the gradient det A times that of log |det A|; one elimination for both."""
    value: Tensor = torch.ops.aten._linalg_det.default(x.detach())[0]
    if not (torch.is_grad_enabled() and x.requires_grad):
        return value
    logarithm: Tensor = torch.linalg.slogdet(x).logabsdet
    return value * (1 + (logarithm - logarithm.detach()))


@replaces(torch.logdet, torch.Tensor.logdet)
def logdet(x: Tensor) -> Tensor:
    """log |det A|. Where the determinant is negative torch gives nan, which a share cannot hold."""
    logarithm: Tensor = torch.linalg.slogdet(x).logabsdet
    return logarithm


@replaces(torch.pinverse, torch.linalg.pinv, torch.Tensor.pinverse)
def pinv(x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    """Refused: it differs with the rank, and a wrong rank would give numbers without a meaning."""
    raise UnsupportedOperation(
        "a pseudoinverse depends on the rank of the matrix, which is secret",
        op="linalg.pinv",
        remedy="of a matrix with full column rank it is torch.linalg.solve(x.mT @ x, x.mT)",
    )
