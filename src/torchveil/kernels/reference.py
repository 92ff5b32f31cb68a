"""Reference kernels: arithmetic of Z_2^w on torch int64 tensors, w = 64 unless a test asks for a small ring.

An element of Z_2^w with w < 64 is stored as its representative in [0, 2^w); for w = 64 it is the int64 with the same
bits. Every function is total on the ring: no range is assumed unless said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from torchveil.kernels.volumes import volume_functions
from torchveil.randomness import Bits


def reduce_ring(x: Tensor, width: int) -> Tensor:
    """x mod 2^width (nothing to do at 64: int64 arithmetic wraps)."""
    return x if width == 64 else x & ((1 << width) - 1)


def top_bit(x: Tensor, width: int) -> Tensor:
    """The most significant bit of each ring element, as int64 0 or 1."""
    return shift_right_logical(x, width - 1, width)


def is_negative(x: Tensor, width: int) -> Tensor:
    """The most significant bit as a bool tensor."""
    return x < 0 if width == 64 else x >= (1 << (width - 1))


def signed(x: Tensor, width: int) -> Tensor:
    """The representative in [-2^(w-1), 2^(w-1))."""
    return x if width == 64 else x - (is_negative(x, width).to(torch.int64) << width)


def shift_right_logical(x: Tensor, bits: int, width: int) -> Tensor:
    """floor(u / 2^bits) of the unsigned value u."""
    if bits == 0:
        return x
    if width == 64:
        return (x >> bits) & ((1 << (64 - bits)) - 1)
    return x >> bits


def divide_unsigned(x: Tensor, divisor: int, width: int) -> Tensor:
    """floor(u / divisor) of the unsigned value u; 0 < divisor < 2^62."""
    if divisor & (divisor - 1) == 0:
        return shift_right_logical(x, divisor.bit_length() - 1, width)
    unsigned = x.contiguous().numpy().view(np.uint64)
    return torch.from_numpy(np.asarray(unsigned // np.uint64(divisor)).view(np.int64).reshape(tuple(x.shape)))


def pack_bits(bits: np.ndarray[Any, Any]) -> Bits:
    """Pack 0/1 values along the last axis, eight to a byte, least significant first."""
    return np.packbits(bits, axis=-1, bitorder="little")


def unpack_bits(packed: Bits, count: int) -> Bits:
    """The inverse of ``pack_bits`` for ``count`` values along the last axis."""
    return np.unpackbits(packed, axis=-1, count=count, bitorder="little")


# --- bilinear functions ------------------------------------------------------------------------------------------


def _windows(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
    """A strided view [N, C, kh, kw, oh, ow] of all windows of x [N, C, H, W]."""
    n, c, h, w = x.shape
    oh = (h - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    ow = (w - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    sn, sc, sh, sw = x.stride()
    return x.as_strided(
        (n, c, kernel[0], kernel[1], oh, ow),
        (sn, sc, sh * dilation[0], sw * dilation[1], sh * stride[0], sw * stride[1]),
    )


def conv2d_output_shape(
    x: tuple[int, ...], w: tuple[int, ...], stride: Any, padding: Any, dilation: Any, groups: int
) -> tuple[int, ...]:
    """Shape [N, O, oh, ow] of a convolution of x [N, C, H, W] with w [O, C/groups, kh, kw]."""
    size = [(x[2 + i] + 2 * padding[i] - dilation[i] * (w[2 + i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    return (x[0], w[0], size[0], size[1])


def _pad(x: Tensor, padding: tuple[int, int]) -> Tensor:
    if padding == (0, 0):
        return x
    return functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))


def _columns(x: Tensor, kernel: tuple[int, int], stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """im2col: [groups, C/g*kh*kw, N*oh*ow]."""
    n, c = x.shape[:2]
    view = _windows(_pad(x, padding), kernel, stride, dilation)
    oh, ow = view.shape[-2:]
    per_group = c // groups
    view = view.reshape(n, groups, per_group * kernel[0] * kernel[1], oh * ow)
    return view.permute(1, 2, 0, 3).reshape(groups, per_group * kernel[0] * kernel[1], n * oh * ow)


def conv2d(x: Tensor, w: Tensor, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """Cross-correlation of x [N, C, H, W] with w [O, C/groups, kh, kw], by im2col and a batched ring product."""
    n, o = x.shape[0], w.shape[0]
    shape = conv2d_output_shape(tuple(x.shape), tuple(w.shape), stride, padding, dilation, groups)
    columns = _columns(x, (w.shape[2], w.shape[3]), stride, padding, dilation, groups)
    out = torch.bmm(w.reshape(groups, o // groups, -1), columns)
    return out.reshape(o, n, shape[2], shape[3]).permute(1, 0, 2, 3).contiguous()


def conv2d_weight_grad(
    x: Tensor, grad: Tensor, *, kernel: tuple[int, int], stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """The gradient of ``conv2d`` with respect to w, bilinear in x and grad [N, O, oh, ow]."""
    n, o, oh, ow = grad.shape
    columns = _columns(x, kernel, stride, padding, dilation, groups)
    flat = grad.permute(1, 0, 2, 3).reshape(groups, o // groups, n * oh * ow)
    out = torch.bmm(flat, columns.transpose(1, 2))
    return out.reshape(o, x.shape[1] // groups, kernel[0], kernel[1])


def conv2d_input_grad(
    grad: Tensor, w: Tensor, *, size: tuple[int, int], stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """The gradient of ``conv2d`` with respect to x of spatial ``size`` (a transposed convolution), bilinear."""
    n, o, oh, ow = grad.shape
    kh, kw = w.shape[2], w.shape[3]
    per_group = w.shape[1]
    flat = grad.permute(1, 0, 2, 3).reshape(groups, o // groups, n * oh * ow)
    columns = torch.bmm(w.reshape(groups, o // groups, -1).transpose(1, 2), flat)
    columns = columns.reshape(groups, per_group, kh, kw, n, oh, ow).permute(4, 0, 1, 2, 3, 5, 6)
    columns = columns.reshape(n, groups * per_group, kh, kw, oh, ow)
    padded = torch.zeros(
        (n, groups * per_group, size[0] + 2 * padding[0], size[1] + 2 * padding[1]),
        dtype=columns.dtype,
        device=columns.device,
    )
    for i in range(kh):
        for j in range(kw):
            top, left = i * dilation[0], j * dilation[1]
            padded[
                :,
                :,
                top : top + (oh - 1) * stride[0] + 1 : stride[0],
                left : left + (ow - 1) * stride[1] + 1 : stride[1],
            ] += columns[:, :, i, j]
    return padded[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]].contiguous()


def _mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


def _mm(x: Tensor, y: Tensor) -> Tensor:
    return torch.mm(x, y)


def _bmm(x: Tensor, y: Tensor) -> Tensor:
    return torch.bmm(x, y)


#: The bilinear functions of the product gate: name -> f(x, y, **options), exact modulo 2^64.
BILINEAR: dict[str, Callable[..., Tensor]] = {
    "mul": _mul,
    "mm": _mm,
    "bmm": _bmm,
    "conv2d": conv2d,
    "conv2d_weight_grad": conv2d_weight_grad,
    "conv2d_input_grad": conv2d_input_grad,
    **volume_functions(conv2d, conv2d_weight_grad, conv2d_input_grad),
}
