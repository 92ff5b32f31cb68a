"""Normalisation layers: statistics on shares, one inverse square root per row or channel."""

from __future__ import annotations

from typing import Any

import torch

from torchveil.functions import arithmetic as ar
from torchveil.functions import normalise
from torchveil.functions.structure import apply
from torchveil.handle import Handle, Public
from torchveil.lowering.reductions import mean, total, variance
from torchveil.lowering.table import aten, lowers


@lowers(aten.native_layer_norm.default)
def _layer_norm(
    x: Handle, normalized_shape: list[int], weight: Handle | None, bias: Handle | None, eps: float
) -> tuple[Handle, Handle, Handle]:
    dims = list(range(len(x.shape) - len(normalized_shape), len(x.shape)))
    centre = mean(x, dims, True)
    spread = ar.add(variance(x, dims, 0, True), Public(x.session, (), fill=eps))
    inverse = normalise.rsqrt(spread)
    out = ar.multiply(ar.add(x, centre, -1), inverse)
    if weight is not None:
        out = ar.multiply(out, weight)
    if bias is not None:
        out = ar.add(out, bias)
    return out, centre, inverse


@lowers(aten.native_layer_norm_backward.default)
def _layer_norm_backward(
    grad: Handle, x: Handle, normalized_shape: list[int], centre: Handle, inverse: Handle, weight: Handle | None,
    bias: Handle | None, output_mask: list[bool],
) -> tuple[Handle | None, Handle | None, Handle | None]:  # fmt: skip
    split = len(x.shape) - len(normalized_shape)
    dims, rows = list(range(split, len(x.shape))), list(range(split))
    normal = ar.multiply(ar.add(x, centre, -1), inverse)
    x_grad = w_grad = b_grad = None
    if output_mask[0]:
        g = grad if weight is None else ar.multiply(grad, weight)
        first = ar.add(g, mean(g, dims, True), -1)
        second = ar.multiply(normal, mean(ar.multiply(g, normal), dims, True))
        x_grad = ar.multiply(ar.add(first, second, -1), inverse)
    if output_mask[1]:
        product = ar.multiply(grad, normal)
        w_grad = total(product, rows, False) if rows else product
    if output_mask[2]:
        b_grad = total(grad, rows, False) if rows else grad
    return x_grad, w_grad, b_grad


def _count(shape: tuple[int, ...], dims: list[int]) -> int:
    return torch.Size([shape[d] for d in dims]).numel()


def _channels(x: Handle, like: Handle) -> Handle:
    return apply(x, "reshape", (1, -1, *[1] * (len(like.shape) - 2)))


def _flat(x: Handle) -> Handle:
    return apply(x, "reshape", (-1,))


def batch_statistics(x: Handle, eps: float) -> tuple[Handle, Handle, Handle]:
    """(mean, variance, 1/sqrt(variance + eps)) per channel, with kept dimensions."""
    dims = [0, *range(2, len(x.shape))]
    centre = mean(x, dims, True)
    spread = variance(x, dims, 0, True)
    return centre, spread, normalise.rsqrt(ar.add(spread, Public(x.session, (), fill=eps)))


def normalised(x: Handle, centre: Handle, inverse: Handle, weight: Any, bias: Any) -> Handle:
    """(x - centre) * inverse * weight + bias per channel."""
    scale = inverse if weight is None else ar.multiply(inverse, _channels(weight, x))
    out = ar.multiply(ar.add(x, centre, -1), scale)
    return out if bias is None else ar.add(out, _channels(bias, x))
