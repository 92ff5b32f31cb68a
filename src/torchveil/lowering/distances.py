"""Distances between rows: the Euclidean ones from products whose digits are all kept, the others from differences."""

from __future__ import annotations

import torch
from torch import Tensor

from torchveil.lowering.table import aten, composes


@composes(aten._euclidean_dist.default)
def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|^2 = |a|^2 - 2 a b + |b|^2 at double scale, where no digit is lost; then one root."""
    squares: Tensor = (a * a).sum(-1, keepdim=True) + (b * b).sum(-1).unsqueeze(-2) - 2 * (a @ b.transpose(-1, -2))
    return torch.sqrt(squares)


@composes(aten._cdist_forward.default)
def _cdist(a: Tensor, b: Tensor, p: float, compute_mode: int | None) -> Tensor:
    if p == 2:
        return _euclidean(a, b)
    out: Tensor = torch.linalg.vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)
    return out


@composes(aten._cdist_backward.default)
def _cdist_backward(grad: Tensor, a: Tensor, b: Tensor, p: float, distance: Tensor) -> Tensor:
    """The gradient of the first operand; torch swaps both for the other."""
    if p == 2:
        ratio = torch.where(distance == 0, torch.zeros_like(grad), grad / distance)
        return a * ratio.sum(-1, keepdim=True) - ratio @ b
    difference = a.unsqueeze(-2) - b.unsqueeze(-3)
    if p == 1:
        return (grad.unsqueeze(-1) * difference.sgn()).sum(-2)
    if p == float("inf"):
        largest = difference.abs() == distance.unsqueeze(-1)
        return (grad.unsqueeze(-1) * (difference.sgn() * largest)).sum(-2)
    if p == 0:
        return a * 0
    # |difference| / distance to the power p - 1, of whichever quotient has the digits; sgn is 0 where both are
    apart, size = distance.unsqueeze(-1), difference.abs()
    slope = (
        (apart / size) ** (1 - p) if p < 1 else torch.where(apart == 0, torch.zeros_like(size), size / apart) ** (p - 1)
    )
    return (grad.unsqueeze(-1) * (difference.sgn() * slope)).sum(-2)


@composes(aten._pdist_forward.default)
def _pdist(x: Tensor, p: float = 2) -> Tensor:
    first, second = torch.triu_indices(len(x), len(x), 1)
    out: Tensor = torch.linalg.vector_norm(x[first] - x[second], p, -1)
    return out


@composes(aten._pdist_backward.default)
def _pdist_backward(grad: Tensor, x: Tensor, p: float, distance: Tensor) -> Tensor:
    n = len(x)
    first, second = torch.triu_indices(n, n, 1)
    square = torch.zeros_like(x[:, :1] @ x[:, :1].t())
    full, length = (
        square.index_put((first, second), t) + square.index_put((second, first), t) for t in (grad, distance)
    )
    return _cdist_backward(full, x, x, p, length)


@composes(aten.dist.default)
def _dist(a: Tensor, b: Tensor, p: float = 2) -> Tensor:
    out: Tensor = torch.linalg.vector_norm(a - b, p)
    return out
