"""Convolutions in three dimensions, made of those in two: the depth of a window is folded into the channels.

Each output depth sees ``kd`` input depths; as ``C kd`` channels of an image they are one batched convolution in two
dimensions, N times the output depth images at once. Whatever is fast for images is fast for volumes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Kernel = Callable[..., Tensor]


def _fold(x: Tensor, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """[N, C, D, H, W] -> [N*od, C*kd, H, W]: the depths of every window as channels."""
    n, c, d, h, w = x.shape
    if padding:
        padded = x.new_zeros((n, c, d + 2 * padding, h, w))
        padded[:, :, padding : padding + d] = x
        x = padded
    view = x.unfold(2, dilation * (kernel - 1) + 1, stride)[..., ::dilation]  # [N, C, od, H, W, kd]
    return view.permute(0, 2, 1, 5, 3, 4).reshape(n * view.shape[2], c * kernel, h, w)


def _unfold(folded: Tensor, n: int, depth: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """The transpose of ``_fold``: [N*od, C*kd, H, W] -> [N, C, D, H, W], depths of several windows added up."""
    od, c = folded.shape[0] // n, folded.shape[1] // kernel
    pieces = folded.reshape(n, od, c, kernel, *folded.shape[2:]).permute(3, 0, 2, 1, 4, 5)
    out = folded.new_zeros((n, c, depth + 2 * padding, *folded.shape[2:]))
    for i in range(kernel):
        out[:, :, i * dilation : i * dilation + (od - 1) * stride + 1 : stride] += pieces[i]
    return out[:, :, padding : padding + depth].contiguous()


def _images(x: Tensor) -> Tensor:
    """[N, C, D, H, W] -> [N*D, C, H, W]."""
    return x.transpose(1, 2).reshape(x.shape[0] * x.shape[2], x.shape[1], *x.shape[3:])


def _volume(images: Tensor, n: int) -> Tensor:
    """The inverse of ``_images`` for n volumes."""
    return images.reshape(n, images.shape[0] // n, *images.shape[1:]).transpose(1, 2).contiguous()


def volume_functions(conv: Kernel, weight_grad: Kernel, input_grad: Kernel) -> dict[str, Kernel]:
    """The three bilinear functions on volumes, from those on images."""

    def rest(stride: Any, padding: Any, dilation: Any, groups: int) -> dict[str, Any]:
        return {
            "stride": tuple(stride[1:]), "padding": tuple(padding[1:]), "dilation": tuple(dilation[1:]),
            "groups": groups,
        }  # fmt: skip

    def conv3d(x: Tensor, w: Tensor, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        """Cross-correlation of x [N, C, D, H, W] with w [O, C/groups, kd, kh, kw]."""
        folded = _fold(x, w.shape[2], stride[0], padding[0], dilation[0])
        out = conv(folded, w.flatten(1, 2), **rest(stride, padding, dilation, groups))
        return _volume(out, x.shape[0])

    def conv3d_weight_grad(
        x: Tensor, grad: Tensor, *, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:
        """The gradient of ``conv3d`` with respect to w, bilinear in x and grad [N, O, od, oh, ow]."""
        folded = _fold(x, kernel[0], stride[0], padding[0], dilation[0])
        out = weight_grad(folded, _images(grad), kernel=tuple(kernel[1:]), **rest(stride, padding, dilation, groups))
        return out.reshape(out.shape[0], x.shape[1] // groups, *kernel)

    def conv3d_input_grad(
        grad: Tensor, w: Tensor, *, size: Any, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:
        """The gradient of ``conv3d`` with respect to x of spatial ``size``, bilinear."""
        folded = input_grad(
            _images(grad), w.flatten(1, 2), size=tuple(size[1:]), **rest(stride, padding, dilation, groups)
        )
        return _unfold(folded, grad.shape[0], size[0], w.shape[2], stride[0], padding[0], dilation[0])

    return {"conv3d": conv3d, "conv3d_weight_grad": conv3d_weight_grad, "conv3d_input_grad": conv3d_input_grad}
