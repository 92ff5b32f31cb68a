"""Normalisation layers: statistics on shares, one inverse square root per row or channel."""

from __future__ import annotations

import math
from typing import Any

import torch

from torchveil.errors import UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import normalise
from torchveil.functions.structure import apply
from torchveil.handle import Handle, Public, Secret
from torchveil.lowering.reductions import fine_mean, mean, total, variance
from torchveil.lowering.table import Updated, aten, lowers


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
        x_grad = ar.multiply(_centred(g, normal, ar.multiply(g, normal), dims), inverse)
    if output_mask[1]:
        product = ar.multiply(grad, normal)
        w_grad = total(product, rows, False) if rows else product
    if output_mask[2]:
        b_grad = total(grad, rows, False) if rows else grad
    return x_grad, w_grad, b_grad


def _centred(grad: Handle, normal: Handle, weighted: Handle, dims: list[int]) -> Handle:
    """grad less its mean and less what of it goes along ``normal``; ``weighted`` is their product."""
    along = ar.multiply(normal, fine_mean(weighted, dims))
    return ar.add(ar.add(grad, fine_mean(grad, dims), -1), along, -1)


def _rows(x: Handle, groups: int) -> Handle:
    """[N, C, ...] -> [N, groups, the rest]: what one mean and one variance belong to."""
    size = math.prod(x.shape[1:]) // groups
    return apply(x, "reshape", (x.shape[0], groups, size))


@lowers(aten.native_group_norm.default)
def _group_norm(
    x: Handle, weight: Handle | None, bias: Handle | None, n: int, c: int, size: int, groups: int, eps: float
) -> tuple[Handle, Handle, Handle]:
    rows = _rows(x, groups)
    centre = mean(rows, [2], True)
    inverse = normalise.rsqrt(ar.add(variance(rows, [2], 0, True), Public(x.session, (), fill=eps)))
    out = apply(ar.multiply(ar.add(rows, centre, -1), inverse), "reshape", x.shape)
    if weight is not None:
        out = ar.multiply(out, _channels(weight, x))
    if bias is not None:
        out = ar.add(out, _channels(bias, x))
    return out, apply(centre, "squeeze_dim", 2), apply(inverse, "squeeze_dim", 2)


@lowers(aten.native_group_norm_backward.default)
def _group_norm_backward(
    grad: Handle, x: Handle, centre: Handle, inverse: Handle, weight: Handle | None, n: int, c: int, size: int,
    groups: int, output_mask: list[bool],
) -> tuple[Handle | None, Handle | None, Handle | None]:  # fmt: skip
    centre, inverse = apply(centre, "unsqueeze", 2), apply(inverse, "unsqueeze", 2)
    normal = ar.multiply(ar.add(_rows(x, groups), centre, -1), inverse)
    dims = [0, *range(2, len(x.shape))]
    x_grad = w_grad = b_grad = None
    if output_mask[0]:
        g = _rows(grad if weight is None else ar.multiply(grad, _channels(weight, x)), groups)
        x_grad = apply(ar.multiply(_centred(g, normal, ar.multiply(g, normal), [2]), inverse), "reshape", x.shape)
    if output_mask[1]:
        w_grad = total(ar.multiply(grad, apply(normal, "reshape", x.shape)), dims, False)
    if output_mask[2]:
        b_grad = total(grad, dims, False)
    return x_grad, w_grad, b_grad


def _others(x: Handle, dim: int) -> list[int]:
    return [d for d in range(len(x.shape)) if d != dim % len(x.shape)]


@lowers(aten._weight_norm_interface.default)
def _weight_norm(v: Handle, g: Handle, dim: int = 0) -> tuple[Handle, Handle]:
    """(g v / |v|, |v|), one norm for each index of ``dim``; |v| is |v|^2 times its inverse root."""
    squares = total(ar.multiply(v, v), _others(v, dim), True)
    inverse = normalise.rsqrt(squares)
    norms = ar.narrow(ar.secret(ar.multiply(squares, inverse)))
    norms.memo["inverse"] = inverse
    return ar.multiply(v, ar.multiply(g, inverse)), norms


@lowers(aten._weight_norm_interface_backward.default)
def _weight_norm_backward(grad: Handle, v: Handle, g: Handle, norms: Handle, dim: int) -> tuple[Handle, Handle]:
    known = norms.memo.get("inverse") if isinstance(norms, Secret) else None
    inverse = normalise.reciprocal(norms) if known is None else known
    unit = ar.multiply(v, inverse)
    g_grad = total(ar.multiply(grad, unit), _others(v, dim), True)
    rest = ar.add(grad, ar.multiply(unit, g_grad), -1)
    return ar.multiply(rest, ar.multiply(g, inverse)), g_grad


def _count(shape: tuple[int, ...], dims: list[int]) -> int:
    return torch.Size([shape[d] for d in dims]).numel()


def _channels(x: Handle, like: Handle) -> Handle:
    return apply(x, "reshape", (1, -1, *[1] * (len(like.shape) - 2)))


def _flat(x: Handle) -> Handle:
    return apply(x, "reshape", (-1,))


def _normalised(x: Handle, centre: Handle, inverse: Handle, weight: Handle | None, bias: Handle | None) -> Handle:
    scale = inverse if weight is None else ar.multiply(inverse, _channels(weight, x))
    out = ar.multiply(ar.add(x, centre, -1), scale)
    return out if bias is None else ar.add(out, _channels(bias, x))


@lowers(aten.native_batch_norm.default, aten._native_batch_norm_legit.default)
def _batch_norm(
    x: Handle, weight: Handle | None, bias: Handle | None, running_mean: Handle | None, running_var: Handle | None,
    training: bool, momentum: float, eps: float,
) -> Any:  # fmt: skip
    dims = [0, *range(2, len(x.shape))]
    small = Public(x.session, (), fill=eps)
    if not training and running_mean is not None and running_var is not None:
        inverse = normalise.rsqrt(ar.add(running_var, small))
        out = _normalised(x, _channels(running_mean, x), _channels(inverse, x), weight, bias)
        nothing = Public(x.session, (0,), fill=0.0)
        return out, nothing, nothing
    centre = mean(x, dims, True)
    spread = variance(x, dims, 0, True)
    inverse = normalise.rsqrt(ar.add(spread, small))
    result = (_normalised(x, centre, inverse, weight, bias), _flat(centre), _flat(inverse))
    writes: dict[int, Handle] = {}
    if running_mean is not None and running_var is not None:
        count = _count(x.shape, dims)
        unbiased = ar.multiply_scalar(ar.secret(_flat(spread)), count / max(1, count - 1))
        writes[3] = ar.add(running_mean, ar.add(_flat(centre), running_mean, -1), momentum)
        writes[4] = ar.add(running_var, ar.add(ar.narrow(unbiased), running_var, -1), momentum)
    return Updated(result, writes)


@lowers(aten._native_batch_norm_legit.no_stats)
def _batch_norm_of_batch(
    x: Handle, weight: Handle | None, bias: Handle | None, training: bool, momentum: float, eps: float
) -> Any:
    return _batch_norm(x, weight, bias, None, None, True, momentum, eps).result


@lowers(aten._batch_norm_with_update.default)
def _batch_norm_with_update(
    x: Handle, weight: Handle | None, bias: Handle | None, running_mean: Handle, running_var: Handle, momentum: float,
    eps: float,
) -> Any:  # fmt: skip
    """The same, with room for what other backends keep for the gradient."""
    done = _batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
    return Updated((*done.result, torch.empty(0, dtype=torch.uint8)), done.writes)


@lowers(aten.batch_norm_backward.default)
def _batch_norm_with_update_backward(
    grad: Handle, x: Handle, weight: Handle | None, running_mean: Handle | None, running_var: Handle | None,
    saved_mean: Handle | None, saved_inverse: Handle | None, update: bool, eps: float, output_mask: list[bool],
    reserve: Handle,
) -> tuple[Handle | None, Handle | None, Handle | None]:  # fmt: skip
    return _batch_norm_backward(
        grad, x, weight, running_mean, running_var, saved_mean, saved_inverse, update, eps, output_mask
    )


@lowers(aten._native_batch_norm_legit_no_training.default)
def _batch_norm_eval(
    x: Handle, weight: Handle | None, bias: Handle | None, running_mean: Handle, running_var: Handle, momentum: float,
    eps: float,
) -> Any:  # fmt: skip
    """What an exported and decomposed program calls."""
    return _batch_norm(x, weight, bias, running_mean, running_var, False, momentum, eps)


@lowers(aten.native_batch_norm_backward.default)
def _batch_norm_backward(
    grad: Handle, x: Handle, weight: Handle | None, running_mean: Handle | None, running_var: Handle | None,
    saved_mean: Handle | None, saved_inverse: Handle | None, training: bool, eps: float, output_mask: list[bool],
) -> tuple[Handle | None, Handle | None, Handle | None]:  # fmt: skip
    dims = [0, *range(2, len(x.shape))]
    if training or running_mean is None or running_var is None:
        if saved_mean is None or saved_inverse is None:
            raise UnsupportedOperation(
                "a batch norm gradient without saved statistics", op="native_batch_norm_backward"
            )
        centre, inverse = _channels(saved_mean, x), _channels(saved_inverse, x)
    else:
        small = Public(x.session, (), fill=eps)
        centre = _channels(running_mean, x)
        inverse = _channels(normalise.rsqrt(ar.add(running_var, small)), x)
    normal = ar.multiply(ar.add(x, centre, -1), inverse)
    weighted = ar.multiply(grad, normal)
    x_grad: Handle | None = None
    if output_mask[0]:
        scale = inverse if weight is None else ar.multiply(inverse, _channels(weight, x))
        inner = grad
        if training:
            inner = _centred(grad, normal, weighted, dims)
        x_grad = ar.multiply(inner, scale)
    w_grad = total(weighted, dims, False) if output_mask[1] else None
    b_grad = total(grad, dims, False) if output_mask[2] else None
    return x_grad, w_grad, b_grad
