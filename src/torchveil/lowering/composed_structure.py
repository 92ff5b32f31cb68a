"""Structure written in torch: diagonals, rotations, writing into copies, public places in flattened tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp.decompositions import _chunk_cat as _torch_chunk_cat

from torchveil.errors import UnsupportedOperation
from torchveil.functions.groups import scattered
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
    "alias", "detach", "diagonal", "expand", "narrow", "permute", "select.int", "slice.Tensor", "split.Tensor",
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
    if type(index) is Tensor:
        hit = torch.zeros(x.shape[dim], dtype=torch.bool).index_fill(0, index, True)
    else:
        hit = (index.reshape(-1, 1) == torch.arange(x.shape[dim])).any(0)
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
    """At public places. Sums are local, products a tree, the largest and smallest a maximum over what meets."""
    if type(index) is not Tensor:
        raise UnsupportedOperation(
            f"scatter_reduce with {reduce} at secret places", op="scatter_reduce", remedy="use public places"
        )
    if reduce not in ("sum", "mean"):
        return _scatter_groups(x, dim, index, source, reduce, include_self)
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


def _scatter_groups(x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, include_self: bool) -> Tensor:
    """Every entry of x with the entries of the source that are scattered to it, as rows of a table."""
    if not index.numel():
        return x.clone()
    found = scattered(x.shape, source.shape, dim, index, include_self)
    rows = torch.cat([x.reshape(-1), source.reshape(-1)])[found.members]
    if reduce == "prod":
        return rows.masked_fill(~found.mask, 1.0).prod(1).reshape(x.shape)
    sign = 1 if reduce == "amax" else -1
    return (sign * (sign * rows).masked_fill(~found.mask, -math.inf).amax(1)).reshape(x.shape)


@composes(aten.index_reduce.default)
def _index_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """A scatter whose places are the same in all rows."""
    if type(index) is not Tensor:
        raise UnsupportedOperation(
            f"index_reduce with {reduce} at secret places", op="index_reduce", remedy="use public places"
        )
    if not x.dim():
        return _index_reduce(x.reshape(1), 0, index, source.reshape(1), reduce, include_self=include_self).reshape(())
    shape = [1] * x.dim()
    shape[dim] = -1
    places = index.reshape(shape).expand(source.shape)
    return _scatter_reduce(x, dim, places, source, reduce, include_self=include_self)


@composes(aten._chunk_cat.default)
def _chunk_cat(tensors: list[Tensor], dim: int, num_chunks: int) -> Tensor:
    return _torch_chunk_cat(tensors, dim, num_chunks)


@composes(aten.masked_scatter_backward.default)
def _masked_scatter_backward(grad: Tensor, mask: Tensor, sizes: list[int]) -> Tensor:
    """What was written under a public mask, in its order; zeros for what was not used."""
    grad, mask = torch.broadcast_tensors(grad, mask)
    taken = grad[mask]
    return torch.nn.functional.pad(taken, (0, math.prod(sizes) - taken.numel())).reshape(sizes)


@composes(aten._unsafe_masked_index.default)
def _masked_index(x: Tensor, mask: Tensor, indices: list[Tensor | None], fill: float) -> Tensor:
    """x at places of which only those under the mask are looked at."""
    return aten.index.Tensor(x, _inside(x, indices)).masked_fill(~mask, fill)  # type: ignore[no-any-return]


@composes(aten._unsafe_masked_index_put_accumulate.default)
def _masked_index_put(x: Tensor, mask: Tensor, indices: list[Tensor | None], values: Tensor) -> Tensor:
    values = values.masked_fill(~mask, 0)
    return aten.index_put.default(x, _inside(x, indices), values, True)  # type: ignore[no-any-return]


def _inside(x: Tensor, indices: list[Tensor | None]) -> list[Tensor | None]:
    return [None if i is None else i.clamp(-size, size - 1) for i, size in zip(indices, x.shape, strict=False)]


@composes(aten.native_dropout_backward.default)
def _dropout_backward(grad: Tensor, mask: Tensor, scale: float) -> Tensor:
    return grad.masked_fill(~mask, 0.0) * scale
