"""Linear maps with public entries: structure (views, indexing, padding), sums, sums with public integer weights.

A map of this table may be applied to a share, to an opening, to a mask and to a clear value alike: it is linear over
the ring and depends on public arguments only. It is an allow-list; a torch function that is not here is never applied
to a share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
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


def _window_slices(
    out: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Iterator[tuple[slice, ...]]:
    """For each entry of a window, where that entry of all windows lies in the spatial dimensions."""
    for offsets in product(*map(range, kernel)):
        yield tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s) for k, n, s, d in zip(offsets, out, stride, dilation, strict=True)
        )


def _windows(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """[N, C, sizes] -> [entries, N, C, out sizes]: the k-th entry of every pooling window."""
    sizes = zip(x.shape[2:], kernel, stride, dilation, strict=True)
    out = tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in sizes)
    pieces = [x[(slice(None), slice(None), *places)] for places in _window_slices(out, kernel, stride, dilation)]
    return torch.stack(pieces, out=dispatch.empty(x, (len(pieces), *x.shape[:2], *out)))


def _scatter_windows(
    x: Tensor, size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Tensor:
    """The transpose of ``windows``: adds every window entry back to its place."""
    out = x.new_zeros((*x.shape[1:3], *size))
    for entry, places in zip(x, _window_slices(tuple(x.shape[3:]), kernel, stride, dilation), strict=True):
        out[(slice(None), slice(None), *places)] += entry
    return out


def _taps(x: Tensor, dim: int, index: Tensor, weights: Tensor) -> Tensor:
    """Along ``dim``, out[j] = sum over t of weights[j, t] * x[index[j, t]]: a public matrix with few entries a row."""
    out: Tensor | None = None
    shape = [1] * x.dim()
    shape[dim] = -1
    for places, factors in zip(index.unbind(1), weights.unbind(1), strict=True):
        entry = x.index_select(dim, places)
        if not bool((factors == 1).all()):
            entry = entry * factors.view(shape)
        out = entry if out is None else out.add_(entry)
    if out is None:
        return x.new_zeros((*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :]))
    return out


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
    "windows": (_windows, False),
    "scatter_windows": (_scatter_windows, False),
    "taps": (_taps, False),
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
