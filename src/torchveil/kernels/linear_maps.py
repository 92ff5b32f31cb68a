"""Linear maps with entries 0 and 1: structure (views, indexing, padding) and sums.

A map of this table may be applied to a share, to an opening, to a mask and to a clear value alike: it is linear over
the ring and depends on public arguments only. It is an allow-list; a torch function that is not here is never applied
to a share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchveil.kernels import dispatch

aten = torch.ops.aten


def _scatter_select(x: Tensor, sizes: tuple[int, ...], dim: int, index: int) -> Tensor:
    out = x.new_zeros(sizes)
    out.select(dim, index).copy_(x)
    return out


def _scatter_slice(x: Tensor, sizes: tuple[int, ...], dim: int, start: int, end: int, step: int) -> Tensor:
    out = x.new_zeros(sizes)
    aten.slice.Tensor(out, dim, start, end, step).copy_(x)
    return out


def _scatter_index(x: Tensor, sizes: tuple[int, ...], indices: tuple[Tensor | None, ...]) -> Tensor:
    return aten.index_put_.default(x.new_zeros(sizes), indices, x, True)  # type: ignore[no-any-return]


def _gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    return torch.gather(x, dim, index)


def _scatter_gather(x: Tensor, sizes: tuple[int, ...], dim: int, index: Tensor) -> Tensor:
    return x.new_zeros(sizes).scatter_add_(dim, index, x)


def _sum(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    return torch.sum(x, dims, keepdim) if dims else torch.sum(x)


def _index(x: Tensor, indices: tuple[Tensor | None, ...]) -> Tensor:
    out: Tensor = aten.index.Tensor(x, indices)
    return out


def _windows2d(
    x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:
    """[N, C, H, W] -> [kh*kw, N, C, oh, ow]: the k-th entry of every pooling window; padding is zero."""
    if padding != (0, 0):
        x = torch.nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    height = (x.shape[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    width = (x.shape[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    pieces = [
        x[
            :,
            :,
            i * dilation[0] : i * dilation[0] + (height - 1) * stride[0] + 1 : stride[0],
            j * dilation[1] : j * dilation[1] + (width - 1) * stride[1] + 1 : stride[1],
        ]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    out = dispatch.empty(x, (len(pieces), x.shape[0], x.shape[1], height, width))
    return torch.stack(pieces, out=out)


def _scatter_windows2d(
    x: Tensor,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """The transpose of ``windows2d``: adds every window entry back to its place."""
    _, n, c, height, width = x.shape
    out = x.new_zeros((n, c, size[0] + 2 * padding[0], size[1] + 2 * padding[1]))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            out[
                :,
                :,
                i * dilation[0] : i * dilation[0] + (height - 1) * stride[0] + 1 : stride[0],
                j * dilation[1] : j * dilation[1] + (width - 1) * stride[1] + 1 : stride[1],
            ] += x[i * kernel[1] + j]
    return out[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]].contiguous()


#: name -> function(tensor, *arguments). ``True`` where torch returns a view that aliases its input.
MAPS: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "view": (torch.reshape, True),
    "reshape": (torch.reshape, False),
    "_unsafe_view": (aten._unsafe_view.default, False),
    "permute": (aten.permute.default, True),
    "transpose": (aten.transpose.int, True),
    "t": (aten.t.default, True),
    "expand": (aten.expand.default, True),
    "select": (aten.select.int, True),
    "slice": (aten.slice.Tensor, True),
    "unsqueeze": (aten.unsqueeze.default, True),
    "squeeze": (aten.squeeze.default, True),
    "squeeze_dim": (aten.squeeze.dim, True),
    "squeeze_dims": (aten.squeeze.dims, True),
    "diagonal": (aten.diagonal.default, True),
    "unfold": (aten.unfold.default, True),
    "alias": (aten.alias.default, True),
    "clone": (aten.clone.default, False),
    "contiguous": (torch.Tensor.contiguous, False),
    "flip": (aten.flip.default, False),
    "roll": (aten.roll.default, False),
    "repeat": (aten.repeat.default, False),
    "pad": (aten.constant_pad_nd.default, False),
    "tril": (aten.tril.default, False),
    "triu": (aten.triu.default, False),
    "index": (_index, False),
    "index_select": (aten.index_select.default, False),
    "gather": (_gather, False),
    "sum": (_sum, False),
    "cumsum": (aten.cumsum.default, False),
    "scatter_select": (_scatter_select, False),
    "scatter_slice": (_scatter_slice, False),
    "scatter_index": (_scatter_index, False),
    "scatter_gather": (_scatter_gather, False),
    "windows2d": (_windows2d, False),
    "scatter_windows2d": (_scatter_windows2d, False),
}


#: Maps other than views of which every element of the result is an element of the operand.
_PICKING = frozenset(
    ("reshape", "_unsafe_view", "clone", "contiguous", "flip", "roll", "repeat", "index", "index_select", "gather")
)


@dataclass(frozen=True, slots=True, eq=False)
class LinearMap:
    """A map of the table with its public arguments."""

    name: str
    args: tuple[Any, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        return MAPS[self.name][0](x, *self.args)

    @property
    def key(self) -> Any:
        """Equal for two maps that do the same; None if that cannot be told (index tensors)."""
        try:
            hash(self.args)
        except TypeError:
            return None
        return None if any(isinstance(x, Tensor) for x in self.args) else (self.name, self.args)

    @property
    def aliases(self) -> bool:
        """Whether the result is a view of its operand."""
        return MAPS[self.name][1]

    @property
    def picks(self) -> bool:
        """Whether every element of the result is one element of the operand: any function of elements commutes."""
        return self.aliases or self.name in _PICKING
