"""Convolution, its gradients, and pooling. One- and two-dimensional; the ring products are in ``kernels``."""

from __future__ import annotations

from typing import Any

from torchveil.errors import UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions.maximum import maximum
from torchveil.functions.structure import apply
from torchveil.handle import Deferred, Handle
from torchveil.lowering.table import aten, lowers


def _pair(values: Any, default: int) -> tuple[int, int]:
    values = list(values) or [default]
    return (values[0], values[-1]) if len(values) > 1 else (values[0], values[0])


def _options(stride: Any, padding: Any, dilation: Any, transposed: bool, groups: int, flat: bool) -> dict[str, Any]:
    if transposed:
        raise UnsupportedOperation("a transposed convolution", op="convolution", remedy="use Upsample and Conv2d")
    if flat:
        return {"stride": (1, stride[0]), "padding": (0, padding[0]), "dilation": (1, dilation[0]), "groups": groups}
    return {
        "stride": _pair(stride, 1),
        "padding": _pair(padding, 0),
        "dilation": _pair(dilation, 1),
        "groups": groups,
    }


def _lift(x: Handle) -> Handle:
    """[N, C, L] -> [N, C, 1, L]."""
    return apply(x, "unsqueeze", 2)


def _check(x: Handle, w: Handle) -> bool:
    if len(x.shape) not in (3, 4):
        raise UnsupportedOperation(
            f"a convolution over {len(x.shape) - 2} dimensions", op="convolution", remedy="use Conv1d or Conv2d"
        )
    return len(x.shape) == 3


@lowers(aten.convolution.default)
def _convolution(
    x: Handle, w: Handle, bias: Handle | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Handle:  # fmt: skip
    flat = _check(x, w)
    options = _options(stride, padding, dilation, transposed, groups, flat)
    if flat:
        x, w = _lift(x), _lift(w)
    out = ar.bilinear(x, w, "conv2d", options)
    if bias is not None:
        out = ar.add(out, apply(bias, "reshape", (1, -1, 1, 1)))
    return apply(out, "squeeze_dim", 2) if flat else out


@lowers(aten.convolution_backward.default)
def _convolution_backward(
    grad: Handle, x: Handle, w: Handle, bias_sizes: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, output_mask: list[bool],
) -> tuple[Handle | None, Handle | None, Handle | None]:  # fmt: skip
    flat = _check(x, w)
    options = _options(stride, padding, dilation, transposed, groups, flat)
    bias_grad = apply(grad, "sum", (0, *range(2, len(grad.shape))), False) if output_mask[2] else None
    if flat:
        grad, x, w = _lift(grad), _lift(x), _lift(w)
    x_grad = w_grad = None
    if output_mask[0]:
        x_grad = ar.bilinear(grad, w, "conv2d_input_grad", {**options, "size": x.shape[2:]})
    if output_mask[1]:
        w_grad = ar.bilinear(x, grad, "conv2d_weight_grad", {**options, "kernel": w.shape[2:]})
    if flat:
        x_grad = None if x_grad is None else apply(x_grad, "squeeze_dim", 2)
        w_grad = None if w_grad is None else apply(w_grad, "squeeze_dim", 2)
    return x_grad, w_grad, bias_grad


# --- pooling ---------------------------------------------------------------------------------------------------------


def _batched(x: Handle) -> tuple[Handle, bool]:
    return (apply(x, "unsqueeze", 0), True) if len(x.shape) == 3 else (x, False)


def _windows(x: Handle, kernel: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Any, ...]:
    size = _pair(kernel, 1)
    return size, _pair(stride or kernel, 1), _pair(padding, 0), _pair(dilation, 1)


@lowers(aten.max_pool2d_with_indices.default)
def _max_pool2d(
    x: Handle, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> tuple[Handle, Handle]:
    padding = [padding] if isinstance(padding, int) else padding
    dilation = [dilation] if isinstance(dilation, int) else dilation
    if ceil_mode:
        raise UnsupportedOperation("max_pool2d with ceil_mode", op="max_pool2d", remedy="pad the input instead")
    x, single = _batched(x)
    args = _windows(x, kernel, stride, padding, dilation)
    wire = ar.secret(x)
    low = None
    if args[2] != (0, 0) and not wire.nonnegative:
        # padding must never win: shift so that the padded zeros are the smallest value of the format
        low = -(2.0**20)
        wire = ar.add_scalar(wire, -low)
    entries = ar.secret(apply(ar.due(wire), "windows2d", *args))
    value, winners = maximum(entries, 0)
    out = ar.secret(apply(value, "squeeze_dim", 0))
    if low is not None:
        out = ar.add_scalar(out, low)
    out = ar.secret(apply(out, "squeeze_dim", 0)) if single else out
    out.nonnegative = wire.nonnegative and low is None

    def unread() -> Handle:
        raise UnsupportedOperation("reading the indices of a max pooling", op="max_pool2d", remedy="use its values")

    indices = Deferred(wire.session, out.shape, unread, {"winners": winners})
    indices.whole = True
    return out, indices


@lowers(aten.max_pool2d_with_indices_backward.default)
def _max_pool2d_backward(
    grad: Handle, x: Handle, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, indices: Handle
) -> Handle:
    winners = indices.attachments.get("winners") if isinstance(indices, Deferred) else None
    if winners is None:
        raise UnsupportedOperation("the gradient of a max pooling whose winners are gone", op="max_pool2d_backward")
    single = len(x.shape) == 3
    shape = (1, *x.shape) if single else x.shape
    grad = apply(grad, "unsqueeze", 0) if single else grad
    args = _windows(x, kernel, stride, padding, dilation)
    spread = winners.distribute(ar.secret(apply(grad, "unsqueeze", 0)))
    out = apply(spread, "scatter_windows2d", shape[2:], *args)
    return apply(out, "squeeze_dim", 0) if single else out


@lowers(aten.avg_pool2d.default)
def _avg_pool2d(
    x: Handle, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Handle:  # fmt: skip
    args, divisor = _avg_arguments(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    x, single = _batched(x)
    total = apply(apply(x, "windows2d", *args), "sum", (0,), False)
    out: Handle = ar.divide_scalar(ar.secret(total), divisor)
    return apply(out, "squeeze_dim", 0) if single else out


@lowers(aten.avg_pool2d_backward.default)
def _avg_pool2d_backward(
    grad: Handle, x: Handle, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None,
) -> Handle:  # fmt: skip
    args, divisor = _avg_arguments(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    single = len(x.shape) == 3
    shape = (1, *x.shape) if single else x.shape
    grad = apply(grad, "unsqueeze", 0) if single else grad
    count = args[0][0] * args[0][1]
    scaled = ar.divide_scalar(ar.secret(grad), divisor)
    spread = ar.expand_to(apply(scaled, "unsqueeze", 0), (count, *scaled.shape))
    out = apply(spread, "scatter_windows2d", shape[2:], *args)
    return apply(out, "squeeze_dim", 0) if single else out


def _avg_arguments(
    x: Handle, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, divisor: int | None
) -> tuple[tuple[Any, ...], int]:
    padding = [padding] if isinstance(padding, int) else padding
    args = _windows(x, kernel, stride, padding, [1])
    if ceil_mode or (not count_include_pad and args[2] != (0, 0)):
        raise UnsupportedOperation(
            "avg_pool2d with ceil_mode or uncounted padding", op="avg_pool2d", remedy="pad the input instead"
        )
    return args, divisor or args[0][0] * args[0][1]


@lowers(aten._adaptive_avg_pool2d.default)
def _adaptive_avg_pool2d(x: Handle, size: Any) -> Handle:
    kernel = _adaptive_kernel(x, size)
    return _avg_pool2d(x, kernel, kernel)


@lowers(aten._adaptive_avg_pool2d_backward.default)
def _adaptive_avg_pool2d_backward(grad: Handle, x: Handle) -> Handle:
    kernel = _adaptive_kernel(x, grad.shape[-2:])
    return _avg_pool2d_backward(grad, x, kernel, kernel, [0], False, True, None)


def _adaptive_kernel(x: Handle, size: Any) -> list[int]:
    height, width = x.shape[-2:]
    if height % size[0] or width % size[1]:
        raise UnsupportedOperation(
            f"adaptive pooling of {height}x{width} to {size[0]}x{size[1]}", op="adaptive_avg_pool2d",
            remedy="choose an output size that divides the input size",
        )  # fmt: skip
    return [height // size[0], width // size[1]]
