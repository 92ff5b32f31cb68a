"""Structural ops: the same map on every share. Views alias; the rest makes new tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchveil.composites.memory import no_copy_on
from torchveil.errors import UnsupportedOperation
from torchveil.functions import rounding, structure
from torchveil.functions.arithmetic import add_scalar, as_number, narrow, number, secret
from torchveil.functions.comparison import compare_scalar
from torchveil.handle import Bit, Excluding, ExcludingAbove, Handle, Secret, contiguous_strides
from torchveil.kernels.linear_maps import LinearMap
from torchveil.lowering.table import TABLE, Kind, Rule, aten, lowers, views, writes


def _named(name: str) -> Any:
    def view(_x: Handle, *args: Any, **kwargs: Any) -> LinearMap:
        return LinearMap(name, tuple(tuple(a) if isinstance(a, list) else a for a in args))

    return view


for _name, _op in {
    "view": aten.view.default,
    "permute": aten.permute.default,
    "transpose": aten.transpose.int,
    "t": aten.t.default,
    "select": aten.select.int,
    "slice": aten.slice.Tensor,
    "unsqueeze": aten.unsqueeze.default,
    "squeeze": aten.squeeze.default,
    "squeeze_dim": aten.squeeze.dim,
    "squeeze_dims": aten.squeeze.dims,
    "diagonal": aten.diagonal.default,
    "unfold": aten.unfold.default,
}.items():
    views(_op)(_named(_name))
TABLE[aten.transpose_.default] = Rule(Kind.RESHAPE, _named("transpose"))


@views(aten.expand.default)
def _expand(_x: Handle, size: list[int], implicit: bool = False) -> LinearMap:
    return LinearMap("expand", (tuple(size),))


@views(aten._reshape_alias.default)
def _reshape_alias(_x: Handle, size: list[int], stride: list[int]) -> LinearMap:
    return LinearMap("view", (tuple(size),))


@views(aten.unbind.int)
def _unbind(x: Handle, dim: int = 0) -> list[LinearMap]:
    return [LinearMap("select", (dim, i)) for i in range(x.shape[dim])]


def _pieces(x: Handle, sizes: list[int], dim: int) -> list[LinearMap]:
    out, start = [], 0
    for size in sizes:
        out.append(LinearMap("slice", (dim, start, start + size, 1)))
        start += size
    return out


def _equal_sizes(x: Handle, size: int, dim: int) -> list[int]:
    total = x.shape[dim]
    return [min(size, total - start) for start in range(0, total, size)] or [0]


@views(aten.split.Tensor)
def _split(x: Handle, size: int, dim: int = 0) -> list[LinearMap]:
    return _pieces(x, _equal_sizes(x, size, dim), dim)


@views(aten.split_with_sizes.default)
def _split_with_sizes(x: Handle, sizes: list[int], dim: int = 0) -> list[LinearMap]:
    return _pieces(x, sizes, dim)


@lowers(aten.unsafe_split.Tensor)
def _unsafe_split(x: Handle, size: int, dim: int = 0) -> list[Handle]:
    return [structure.apply_map(x, step) for step in _split(x, size, dim)]


@lowers(aten.unsafe_split_with_sizes.default)
def _unsafe_split_with_sizes(x: Handle, sizes: list[int], dim: int = 0) -> list[Handle]:
    return [structure.apply_map(x, step) for step in _pieces(x, sizes, dim)]


def _mapped(name: str) -> Any:
    def value(x: Handle, *args: Any, **kwargs: Any) -> Handle:
        return structure.apply(x, name, *(tuple(a) if isinstance(a, list) else a for a in args))

    return value


for _name, _op in {
    "_unsafe_view": aten._unsafe_view.default,
    "flip": aten.flip.default,
    "roll": aten.roll.default,
    "repeat": aten.repeat.default,
    "tril": aten.tril.default,
    "triu": aten.triu.default,
}.items():
    lowers(_op, deferrable=True)(_mapped(_name))


@lowers(aten.constant_pad_nd.default)
def _pad(x: Handle, pad: list[int], value: float = 0) -> Handle:
    if value == 0:
        return structure.apply(x, "pad", tuple(pad))
    return add_scalar(secret(structure.apply(add_scalar(secret(x), -value), "pad", tuple(pad))), value)


@lowers(aten.clone.default)
def _clone(x: Handle, *, memory_format: Any = None) -> Handle:
    strided = isinstance(x, Secret) and x.stride != contiguous_strides(x.shape)
    if memory_format is torch.contiguous_format and strided:
        return structure.apply(x, "contiguous")
    return x


@lowers(aten.lift_fresh.default, aten.lift_fresh_copy.default)
def _lift(x: Handle) -> Handle:
    return x


@lowers(aten.cat.default)
def _cat(xs: list[Handle], dim: int = 0) -> Handle:
    kept = [x for x in xs if x.shape != (0,)]
    return structure.concatenate(kept or xs, dim)


@lowers(aten.stack.default)
def _stack(xs: list[Handle], dim: int = 0) -> Handle:
    dim = dim if dim >= 0 else dim + len(xs[0].shape) + 1
    return structure.concatenate([structure.apply(x, "unsqueeze", dim) for x in xs], dim)


#: Types of whole numbers that hold what a share holds in practice. What torch makes of a number that a smaller one
#: does not hold differs between machines.
_WHOLE = frozenset({torch.int64, torch.int32, torch.int16})


@lowers(aten._to_copy.default, deferrable=True)
def _to_copy(
    x: Handle,
    *,
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    non_blocking: bool = False,
    memory_format: Any = None,
) -> Handle:
    session = x.session
    if device is not None and torch.device(device).type != "cpu":
        raise no_copy_on(device)
    if dtype in (None, torch.float32):
        return x if isinstance(x, (Excluding, ExcludingAbove)) else as_number(x)
    if dtype is torch.bool and isinstance(x, Bit):
        return x
    if dtype in (torch.int64, torch.int32) and isinstance(x, Bit):
        return secret(x)
    if dtype is torch.int64 and isinstance(x, Secret) and x.scale == 1:
        return x
    if dtype in _WHOLE:
        return rounding.towards_zero(narrow(number(x)))
    if dtype is torch.bool:
        return compare_scalar(secret(x), 0, "ne")
    raise UnsupportedOperation(
        f"a secret cannot be converted to {dtype}: its digits are those of its number format",
        op="to",
        remedy=f"keep float32; precision is set when sharing (now {session.fixed_point})",
    )


@writes(aten.copy_.default)
def _copy(target: Handle, source: Handle, non_blocking: bool = False) -> Handle:
    return as_number(source) if isinstance(target, Secret) and target.format.scale > 1 else source


@lowers(aten.select_backward.default)
def _select_backward(grad: Handle, sizes: list[int], dim: int, index: int) -> Handle:
    return structure.apply(grad, "scatter_select", tuple(sizes), dim, index)


@lowers(aten.slice_backward.default)
def _slice_backward(grad: Handle, sizes: list[int], dim: int, start: int, end: int, step: int) -> Handle:
    return structure.apply(grad, "scatter_slice", tuple(sizes), dim, start, end, step)


def _scatter_to(grad: Handle, sizes: list[int], view: Callable[[Tensor], Tensor]) -> Handle:
    """The transpose of a view of a tensor of ``sizes``: every element goes back to where the view took it from."""
    count = torch.Size(sizes).numel()
    places = view(torch.arange(count).reshape(tuple(sizes))).reshape(-1)
    flat = structure.apply(structure.apply(grad, "reshape", (-1,)), "scatter_index", (count,), (places,))
    return structure.apply(flat, "reshape", tuple(sizes))


@lowers(aten.unfold_backward.default)
def _unfold_backward(grad: Handle, sizes: list[int], dim: int, size: int, step: int) -> Handle:
    return _scatter_to(grad, sizes, lambda places: places.unfold(dim, size, step))


@lowers(aten.diagonal_backward.default)
def _diagonal_backward(grad: Handle, sizes: list[int], offset: int, dim1: int, dim2: int) -> Handle:
    return _scatter_to(grad, sizes, lambda places: places.diagonal(offset, dim1, dim2))
