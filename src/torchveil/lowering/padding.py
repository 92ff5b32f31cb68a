"""Reflected and replicated borders: the same public places for values and, added up, for gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchveil.lowering.table import aten, composes


def _reflected(size: int, before: int, after: int) -> Tensor:
    places = torch.arange(-before, size + after).abs()
    return (size - 1) - (places - (size - 1)).abs()


def _replicated(size: int, before: int, after: int) -> Tensor:
    return torch.arange(-before, size + after).clamp(0, size - 1)


def _sides(x: Tensor, pad: list[int]) -> list[tuple[int, int, int]]:
    """(dimension, before, after), the last dimension first."""
    return [(x.dim() - 1 - k, pad[2 * k], pad[2 * k + 1]) for k in range(len(pad) // 2)]


def _register(name: str, places: Callable[[int, int, int], Tensor]) -> None:
    def forward(x: Tensor, pad: list[int]) -> Tensor:
        for dim, before, after in _sides(x, pad):
            x = x.index_select(dim, places(x.shape[dim], before, after))
        return x

    def backward(grad: Tensor, x: Tensor, pad: list[int]) -> Tensor:
        for dim, before, after in _sides(x, pad):
            sizes = list(grad.shape)
            sizes[dim] = x.shape[dim]
            grad = grad.new_zeros(sizes).index_add(dim, places(x.shape[dim], before, after), grad)
        return grad

    for dims in (1, 2, 3):
        composes(getattr(aten, f"{name}_pad{dims}d").default)(forward)
        composes(getattr(aten, f"{name}_pad{dims}d_backward").default)(backward)


_register("reflection", _reflected)
_register("replication", _replicated)
