"""Structure written in torch: diagonals, rotations, writing into copies, public places in flattened tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.lowering.table import aten, composes


@composes(aten.trace.default)
def _trace(x: Tensor) -> Tensor:
    return x.diagonal().sum()


@composes(aten.rot90.default)
def _rot90(x: Tensor, k: int = 1, dims: tuple[int, int] = (0, 1)) -> Tensor:
    first, second = dims
    turns = (
        lambda: x.clone(),
        lambda: x.flip(second).transpose(first, second),
        lambda: x.flip(first, second),
        lambda: x.flip(first).transpose(first, second),
    )
    return turns[k % 4]().clone()


@composes(aten.diag_embed.default)
def _diag_embed(x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The transpose of taking a diagonal."""
    rank = x.dim() + 1
    dim1, dim2 = dim1 % rank, dim2 % rank
    side = x.shape[-1] + abs(offset)
    sizes = list(x.shape[:-1])
    for dim in sorted((dim1, dim2)):
        sizes.insert(dim, side)
    return aten.diagonal_backward.default(x, sizes, offset, dim1, dim2)  # type: ignore[no-any-return]


def _copied(view: Any) -> Callable[..., Any]:
    def copy(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = view(x, *args, **kwargs)
        return [part.clone() for part in out] if isinstance(out, (list, tuple)) else out.clone()

    return copy


#: Views that torch also has as copies, with their overloads.
_VIEWS = (
    "alias", "detach", "diagonal", "expand", "permute", "select.int", "slice.Tensor", "split.Tensor",
    "split_with_sizes", "squeeze", "squeeze.dim", "squeeze.dims", "t", "transpose.int", "unbind.int", "unfold",
    "unsqueeze", "view",
)  # fmt: skip

for _name in _VIEWS:
    _base, _, _overload = _name.partition(".")
    _overload = _overload or "default"
    composes(getattr(getattr(aten, f"{_base}_copy"), _overload))(_copied(getattr(getattr(aten, _base), _overload)))


@composes(aten.diagonal_scatter.default)
def _diagonal_scatter(x: Tensor, source: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    out = x.clone()
    out.diagonal(offset, dim1, dim2).copy_(source)
    return out


@composes(aten.select_scatter.default)
def _select_scatter(x: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    out = x.clone()
    out.select(dim, index).copy_(source)
    return out


@composes(aten.slice_scatter.default)
def _slice_scatter(
    x: Tensor, source: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    out = x.clone()
    aten.slice.Tensor(out, dim, start, end, step).copy_(source)
    return out


@composes(aten.block_diag.default)
def _block_diag(blocks: list[Tensor]) -> Tensor:
    matrices = [block if block.dim() == 2 else block.reshape(1, -1) for block in blocks]
    width = sum(m.shape[1] for m in matrices)
    rows, before = [], 0
    for m in matrices:
        rows.append(torch.nn.functional.pad(m, (before, width - before - m.shape[1])))
        before += m.shape[1]
    return torch.cat(rows)


@composes(aten.take.default)
def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.reshape(-1)[index.reshape(-1)].reshape(index.shape)


@composes(aten.put.default)
def _put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    flat = x.reshape(-1).index_put((index.reshape(-1),), source.reshape(-1), accumulate)
    return flat.reshape(x.shape)


@composes(aten.masked_select.default)
def _masked_select(x: Tensor, mask: Tensor) -> Tensor:
    x, mask = torch.broadcast_tensors(x, mask)
    return x[mask]


@composes(aten.masked_scatter.default)
def _masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """Under a public mask; how many values a secret one takes would show in their order."""
    if isinstance(mask, type(x)):
        raise UnsupportedOperation(
            "masked_scatter by a secret mask", op="masked_scatter", remedy="use torch.where with values in their places"
        )
    x, mask = torch.broadcast_tensors(x, mask)
    return x.index_put((mask,), source.reshape(-1)[: int(mask.sum())])


@composes(aten.index_copy.default)
def _index_copy(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    if not x.dim():
        return source.reshape(()).clone()
    places = [*[None] * (dim % x.dim()), index.reshape(-1)]
    return aten.index_put.default(x, places, source)  # type: ignore[no-any-return]


@composes(aten.index_fill.int_Scalar, aten.index_fill.int_Tensor)
def _index_fill(x: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    if not x.dim():
        return x.masked_fill(torch.tensor(index.numel() > 0), value)
    hit = torch.zeros(x.shape[dim], dtype=torch.bool).index_fill(0, index, True)
    shape = [1] * x.dim()
    shape[dim] = -1
    return x.masked_fill(hit.reshape(shape), value)


@composes(aten.scatter.reduce, aten.scatter.value_reduce)
def _scatter_with(x: Tensor, dim: int, index: Tensor, source: Any, *, reduce: str) -> Tensor:
    if reduce != "add":
        raise UnsupportedOperation(f"scatter with {reduce}", op="scatter", remedy="use reduce='add'")
    source = source if isinstance(source, Tensor) else torch.full_like(x, source).gather(dim, index)
    return x.scatter_add(dim, index, source)


@composes(aten.scatter_reduce.two)
def _scatter_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Sums and means at public places."""
    if reduce not in ("sum", "mean") or type(index) is not Tensor:
        raise UnsupportedOperation(
            f"scatter_reduce with {reduce}", op="scatter_reduce", remedy="use sum or mean at public places"
        )
    hits = torch.zeros(x.shape).scatter_add(dim, index, torch.ones(index.shape))
    base = x if include_self else x.masked_fill(hits > 0, 0.0)
    total = base.scatter_add(dim, index, source)
    if reduce == "sum":
        return total
    counts = (hits + include_self).clamp(min=1)
    out = total
    for count in range(2, math.floor(float(counts.max())) + 1 if counts.numel() else 2):
        out = torch.where(counts == count, total / count, out)
    return out
