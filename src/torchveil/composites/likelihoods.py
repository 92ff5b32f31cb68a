"""Likelihoods of which torch looks at secret signs first, or that it takes through kernels of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from torchveil.composites.table import replaces
from torchveil.errors import InvalidArgument

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda loss: loss, "mean": torch.mean, "sum": torch.sum}


def _spread(variance: Tensor, shape: torch.Size) -> Tensor:
    """The variances as torch lets them meet means of this shape: one for each, or one for a row."""
    if variance.shape == shape:
        return variance
    if variance.shape == shape[:-1]:
        return variance.unsqueeze(-1)
    if variance.dim() == len(shape) and sum(b for a, b in zip(shape, variance.shape, strict=True) if a != b) == 1:
        return variance
    raise InvalidArgument("variances of another shape", op="gaussian_nll_loss", remedy="one for each mean, or each row")


@replaces(nnf.gaussian_nll_loss)
def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor | float, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """(log v + (x - y)^2 / v) / 2 with v = max(var, eps); an eps below a unit is one unit.

    torch refuses negative variances. Whether a secret one is negative is not looked at: it counts as eps. As in torch
    the gradient goes through the limit.
    """
    if reduction not in _REDUCTIONS:
        raise InvalidArgument(f"the reduction {reduction}", op="gaussian_nll_loss", remedy="none, mean or sum")
    if not isinstance(var, Tensor):
        if var < 0:
            raise InvalidArgument("a negative variance", op="gaussian_nll_loss", remedy="check var")
        var = torch.full_like(input, var)
    variance = _spread(var, input.shape).clone()
    with torch.no_grad():
        variance.clamp_(min=eps)
    loss = 0.5 * (torch.log(variance) + (input - target) ** 2 / variance)
    return _REDUCTIONS[reduction](loss + 0.5 * math.log(2 * math.pi) if full else loss)


if hasattr(nnf, "linear_cross_entropy"):  # torch 2.13

    @replaces(nnf.linear_cross_entropy)
    def linear_cross_entropy(*args: Any, options: Any = None, **named: Any) -> Tensor:
        """torch's own without ``options``: chunks of the batch save memory in the clear, and cost rounds on shares."""
        out: Tensor = nnf.linear_cross_entropy(*args, **named)
        return out
