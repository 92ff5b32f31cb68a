"""Layers that only move entries: shuffles of channels and pixels, windows as columns and back."""

from __future__ import annotations

import math
from typing import Any

from torchveil.functions.structure import apply
from torchveil.handle import Handle
from torchveil.lowering.table import aten, lowers


@lowers(aten.pixel_shuffle.default)
def _pixel_shuffle(x: Handle, factor: int) -> Handle:
    """[.., C r r, H, W] -> [.., C, H r, W r]."""
    lead, (c, h, w) = x.shape[:-3], x.shape[-3:]
    channels, n = c // factor**2, len(lead)
    split = apply(x, "reshape", (*lead, channels, factor, factor, h, w))
    mixed = apply(split, "permute", (*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return apply(mixed, "reshape", (*lead, channels, h * factor, w * factor))


@lowers(aten.pixel_unshuffle.default)
def _pixel_unshuffle(x: Handle, factor: int) -> Handle:
    """[.., C, H r, W r] -> [.., C r r, H, W]."""
    lead, (c, h, w) = x.shape[:-3], x.shape[-3:]
    n = len(lead)
    split = apply(x, "reshape", (*lead, c, h // factor, factor, w // factor, factor))
    mixed = apply(split, "permute", (*range(n + 1), n + 2, n + 4, n + 1, n + 3))
    return apply(mixed, "reshape", (*lead, c * factor**2, h // factor, w // factor))


@lowers(aten.channel_shuffle.default)
def _channel_shuffle(x: Handle, groups: int) -> Handle:
    split = apply(x, "reshape", (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    return apply(apply(split, "transpose", 1, 2), "reshape", x.shape)


@lowers(aten.im2col.default)
def _im2col(x: Handle, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Handle:
    """[N, C, H, W] -> [N, C kh kw, windows]; zeros around."""
    single = len(x.shape) == 3
    x = apply(x, "unsqueeze", 0) if single else x
    x = apply(x, "pad", (padding[1], padding[1], padding[0], padding[0]))
    windows = apply(x, "windows", tuple(kernel), tuple(stride), tuple(dilation))
    n, c = x.shape[:2]
    columns = apply(windows, "permute", (1, 2, 0, 3, 4))
    count = math.prod(windows.shape[3:])
    return apply(columns, "reshape", (*(() if single else (n,)), c * math.prod(kernel), count))


@lowers(aten.col2im.default)
def _col2im(x: Handle, size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Handle:
    """The transpose of ``im2col``: [N, C kh kw, windows] -> [N, C, *size]."""
    single = len(x.shape) == 2
    n = 1 if single else x.shape[0]
    count = math.prod(kernel)
    padded = tuple(s + 2 * p for s, p in zip(size, padding, strict=True))
    rows = zip(padded, kernel, dilation, stride, strict=True)
    outs = tuple((s - d * (k - 1) - 1) // step + 1 for s, k, d, step in rows)
    c = x.shape[-2] // count
    columns = apply(apply(x, "reshape", (n, c, count, *outs)), "permute", (2, 0, 1, 3, 4))
    out = apply(columns, "scatter_windows", padded, tuple(kernel), tuple(stride), tuple(dilation))
    for k in range(2):
        out = apply(out, "slice", 2 + k, padding[k], padding[k] + size[k], 1)
    return apply(out, "reshape", (*(() if single else (n,)), c, *size))
