"""Pooling: averages are public matrices along each dimension, maxima tournaments over windows; unpooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import InvalidArgument, UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions.look_up import one_hot
from torchveil.functions.maximum import maximum
from torchveil.functions.structure import apply
from torchveil.functions.taps import Taps, apply_axes, of_axis
from torchveil.functions.windows import PlaneWindows, Pooled, Windows, adaptive, fractional, sliding
from torchveil.handle import Deferred, Handle, Public
from torchveil.lowering.convolution import per_dimension
from torchveil.lowering.table import aten, lowers

Shape = tuple[int, ...]

# --- maxima ----------------------------------------------------------------------------------------------------------


def _largest(x: Handle, windows: Windows | PlaneWindows) -> tuple[Handle, Handle]:
    """(maxima, places): the places are evaluated only if somebody reads them."""
    n = len(windows.sizes)
    single = len(x.shape) == n + 1
    x = apply(x, "unsqueeze", 0) if single else x
    wire = ar.due(ar.secret(x))
    value, winners = maximum(ar.secret(windows.gather(wire)), 0)
    pooled = Pooled(windows, winners, wire.shape[:2])
    out = ar.secret(apply(value, "reshape", (*value.shape[1 + single :],)))
    out.nonnegative = wire.nonnegative
    shape = out.shape

    def index() -> Handle:
        return apply(pooled.index(value), "reshape", shape)

    places = Deferred(wire.session, shape, index, {"pooled": pooled})
    places.whole = True
    return out, places


def _largest_backward(grad: Handle, x: Handle, places: Handle) -> Handle:
    pooled = places.attachments.get("pooled") if isinstance(places, Deferred) else None
    if pooled is None:
        raise UnsupportedOperation("the gradient of a max pooling whose winners are gone", op="max_pool_backward")
    grad = apply(grad, "reshape", (*pooled.batch, *pooled.windows.outs))
    return apply(pooled.distribute(grad), "reshape", x.shape)


def _max_pool(n: int) -> Callable[..., tuple[Handle, Handle]]:
    def pool(
        x: Handle, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> tuple[Handle, Handle]:
        kernel = per_dimension(kernel, n, 1)
        rows = zip(
            x.shape[-n:], kernel, per_dimension(stride or kernel, n, 1), per_dimension(padding, n, 0),
            per_dimension(dilation, n, 1), strict=True,
        )  # fmt: skip
        return _largest(x, Windows(tuple(sliding(*row, ceil_mode) for row in rows)))

    return pool


@lowers(aten.max_pool2d_with_indices_backward.default, aten.max_pool3d_with_indices_backward.default)
def _max_pool_backward(
    grad: Handle, x: Handle, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, places: Handle
) -> Handle:
    return _largest_backward(grad, x, places)


@lowers(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def _adaptive_max_pool(x: Handle, outs: Any) -> tuple[Handle, Handle]:
    n = len(outs)
    return _largest(x, Windows(tuple(adaptive(size, out) for size, out in zip(x.shape[-n:], outs, strict=True))))


lowers(aten.adaptive_max_pool2d_backward.default, aten.adaptive_max_pool3d_backward.default)(_largest_backward)
lowers(aten.max_pool2d_with_indices.default)(_max_pool(2))
lowers(aten.max_pool3d_with_indices.default)(_max_pool(3))


@lowers(aten.fractional_max_pool2d.default, aten.fractional_max_pool3d.default)
def _fractional_max_pool(x: Handle, kernel: Any, outs: Any, samples: Handle) -> tuple[Handle, Handle]:
    if not isinstance(samples, Public):
        raise UnsupportedOperation(
            "windows at secret places", op="fractional_max_pool", remedy="pass public samples, or none"
        )
    n = len(outs)
    return _largest(x, fractional(x.shape[-n:], tuple(kernel), tuple(outs), samples.dense()))


@lowers(aten.fractional_max_pool2d_backward.default, aten.fractional_max_pool3d_backward.default)
def _fractional_max_pool_backward(grad: Handle, x: Handle, kernel: Any, outs: Any, places: Handle) -> Handle:
    return _largest_backward(grad, x, places)


# --- unpooling -------------------------------------------------------------------------------------------------------


@lowers(aten.max_unpool2d.default, indices=True)
def _max_unpool2d(x: Handle, places: Any, size: Any) -> Handle:
    return _unpool(x, places, tuple(size))


@lowers(aten.max_unpool3d.default, indices=True)
def _max_unpool3d(x: Handle, places: Any, size: Any, stride: Any, padding: Any) -> Handle:
    return _unpool(x, places, tuple(size))


def _unpool(x: Handle, places: Any, size: Shape) -> Handle:
    """Each number to its place in a plane of ``size``, zeros elsewhere.

    Places that a max pooling with disjoint windows left cost one product with its bits; other secret places one
    comparison for each number and each place of the plane. Numbers that share a place are added up there (torch keeps
    one of them), and what lies outside is lost: nobody can be told.
    """
    lead, length = x.shape[: -len(size)], math.prod(size)
    count = math.prod(x.shape[-len(size) :])
    rows = (math.prod(lead), count)
    if isinstance(places, Tensor):
        flat = places.reshape(rows)
        if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < length:
            raise InvalidArgument("an index lies outside the output", op="max_unpool", remedy="check output_size")
        # of several numbers with one place torch keeps the last
        order = torch.arange(count).expand(rows)
        last = torch.zeros((rows[0], length), dtype=torch.int64).scatter_reduce(1, flat, order, "amax")
        kept = (last.gather(1, flat) == order).to(torch.int64)
        x = apply(x, "reshape", rows)
        x = x if bool(kept.all()) else ar.multiply(x, Public(x.session, rows, tensor=kept))
        out = apply(x, "scatter_gather", (rows[0], length), 1, flat)
        return apply(out, "reshape", (*lead, *size))
    pooled = places.attachments.get("pooled") if isinstance(places, Deferred) else None
    if pooled is not None:
        if not (pooled.serves(x.shape, length) and pooled.windows.disjoint):
            raise UnsupportedOperation(
                "unpooling to planes in which a place may be missing or taken twice", op="max_unpool",
                remedy="pool with windows that do not overlap, and give the output_size that was pooled",
            )  # fmt: skip
        planes = pooled.distribute(apply(x, "reshape", (*pooled.batch, *pooled.windows.outs)))
        return apply(pooled.resized(planes, length), "reshape", (*lead, *size))
    marks = apply(one_hot(places, length), "reshape", (*rows, length))
    out = ar.bilinear(apply(x, "reshape", (rows[0], 1, count)), marks, "bmm")
    return apply(out, "reshape", (*lead, *size))


# --- averages --------------------------------------------------------------------------------------------------------

#: Number of dimensions -> torch's operations, which tell the weights.
_AVERAGE: dict[int, Any] = {2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}
_ADAPTIVE: dict[int, Any] = {2: aten._adaptive_avg_pool2d.default, 3: aten._adaptive_avg_pool3d.default}


@lru_cache(maxsize=256)
def _average_axis(
    n: int,
    k: int,
    size: int,
    kernel: int,
    stride: int,
    padding: int,
    ceil_mode: bool,
    include: bool,
    divisor: int | None,
) -> Taps:
    def at(value: int, other: int) -> list[int]:
        return [value if j == k else other for j in range(n)]

    def average(x: Tensor) -> Tensor:
        ones: Tensor = _AVERAGE[n](
            x, at(kernel, 1), at(stride, 1), at(padding, 0), ceil_mode, include, None if divisor is None else 1
        )
        return ones if divisor is None else ones / divisor

    return of_axis(average, n, k, size)


def _average_axes(
    sizes: Shape, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, include: bool, divisor: int | None
) -> list[Taps]:
    n = len(sizes)
    kernel = per_dimension(kernel, n, 1)
    stride = per_dimension(stride or kernel, n, 1)
    padding = per_dimension(padding, n, 0)
    divisors = [None if divisor is None else divisor if k == 0 else 1 for k in range(n)]
    return [
        _average_axis(n, k, sizes[k], kernel[k], stride[k], padding[k], ceil_mode, include, divisors[k])
        for k in range(n)
    ]


def _transposed(axes: list[Taps]) -> list[Taps]:
    return [axis.transposed() for axis in axes]


def _avg_pool(n: int) -> tuple[Callable[..., Handle], Callable[..., Handle]]:
    def pool(
        x: Handle, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Handle:  # fmt: skip
        axes = _average_axes(x.shape[-n:], kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
        return apply_axes(x, len(x.shape) - n, axes)

    def backward(
        grad: Handle, x: Handle, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool,
        divisor_override: int | None,
    ) -> Handle:  # fmt: skip
        axes = _average_axes(x.shape[-n:], kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
        return apply_axes(grad, len(x.shape) - n, _transposed(axes))

    return pool, backward


for _n, _backward_op in ((2, aten.avg_pool2d_backward.default), (3, aten.avg_pool3d_backward.default)):
    _pool, _backward = _avg_pool(_n)
    lowers(_AVERAGE[_n])(_pool)
    lowers(_backward_op)(_backward)


@lru_cache(maxsize=256)
def _adaptive_axis(n: int, k: int, size: int, out: int) -> Taps:
    outs = [out if j == k else 1 for j in range(n)]
    return of_axis(lambda x: _ADAPTIVE[n](x, outs), n, k, size)


def _adaptive_axes(sizes: Shape, outs: Any) -> list[Taps]:
    return [_adaptive_axis(len(sizes), k, sizes[k], outs[k]) for k in range(len(sizes))]


@lowers(aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default)
def _adaptive_avg_pool(x: Handle, outs: Any) -> Handle:
    n = len(outs)
    return apply_axes(x, len(x.shape) - n, _adaptive_axes(x.shape[-n:], outs))


def _adaptive_avg_backward(n: int) -> Callable[..., Handle]:
    def backward(grad: Handle, x: Handle) -> Handle:
        axes = _adaptive_axes(x.shape[-n:], grad.shape[-n:])
        return apply_axes(grad, len(x.shape) - n, _transposed(axes))

    return backward


lowers(aten._adaptive_avg_pool2d_backward.default)(_adaptive_avg_backward(2))
lowers(aten._adaptive_avg_pool3d_backward.default)(_adaptive_avg_backward(3))
