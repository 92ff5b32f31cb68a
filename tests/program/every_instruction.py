"""Instructions of every kind, and what makes two of them the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins

_PLACES = torch.tensor([2, 0, 1])
_TABLE = torch.arange(6).reshape(3, 2)
_MASK = torch.tensor([True, False, True])
_CONVOLUTION = {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 1), "groups": 2}
_VOLUME = {"stride": (2, 1, 1), "padding": (0, 1, 0), "dilation": (1, 1, 1), "groups": 1}

MAPS = [
    LinearMap("view", ((2, -1),)),
    LinearMap("reshape", ((-1,),)),
    LinearMap("_unsafe_view", ((6,),)),
    LinearMap("permute", ([1, 0],)),
    LinearMap("transpose", (0, -1)),
    LinearMap("t"),
    LinearMap("expand", ((4, -1, 3),)),
    LinearMap("expand", ((),)),
    LinearMap("select", (0, -1)),
    LinearMap("slice", (1, 2, 2**63 - 1)),
    LinearMap("slice", (1,)),
    LinearMap("slice", (0, None, None, 2)),
    LinearMap("unsqueeze", (-1,)),
    LinearMap("squeeze"),
    LinearMap("squeeze_dim", (2,)),
    LinearMap("squeeze_dims", ((0, 1),)),
    LinearMap("diagonal"),
    LinearMap("diagonal", (-1, 1, 0)),
    LinearMap("unfold", (1, 3, 2)),
    LinearMap("alias"),
    LinearMap("clone"),
    LinearMap("contiguous"),
    LinearMap("flip", ((0, 1),)),
    LinearMap("roll", ((3,),)),
    LinearMap("roll", ((3, -1), (0, 1))),
    LinearMap("repeat", ((2, 1, 3),)),
    LinearMap("pad", ((1, -1, 0, 2),)),
    LinearMap("tril"),
    LinearMap("triu", (-2,)),
    LinearMap("index", ((None, _PLACES),)),
    LinearMap("index", ((_MASK, _PLACES[:2]),)),
    LinearMap("index_select", (0, _PLACES.to(torch.int32))),
    LinearMap("gather", (1, _TABLE.t())),
    LinearMap("sum", ((0, -1), True)),
    LinearMap("sum", ((), False)),
    LinearMap("cumsum", (0,)),
    LinearMap("scatter_select", ((3, 4), 0, 1)),
    LinearMap("scatter_slice", ((3, 4), 0, None, 2**63 - 1, 1)),
    LinearMap("scatter_index", ((3, 4), (_PLACES, None))),
    LinearMap("scatter_gather", ((3, 4), 0, _TABLE)),
    LinearMap("windows", ((2, 2), (1, 1), (1, 1))),
    LinearMap("scatter_windows", ((5, 5), (2, 2), (1, 1), (1, 1))),
    LinearMap("taps", (0, _TABLE, _TABLE * -(2**40))),
]

PRODUCTS: list[tuple[str, dict[str, Any]]] = [
    ("mul", {}),
    ("mm", {}),
    ("bmm", {}),
    ("conv2d", _CONVOLUTION),
    ("conv2d_weight_grad", {**_CONVOLUTION, "kernel": (3, 3)}),
    ("conv2d_input_grad", {**_CONVOLUTION, "size": (8, 8)}),
    ("conv3d", _VOLUME),
    ("conv3d_weight_grad", {**_VOLUME, "kernel": (3, 3, 1)}),
    ("conv3d_input_grad", {**_VOLUME, "size": (8, 8, 8)}),
]

#: Public tensors of every layout: contiguous, transposed, expanded, with gaps, empty, of one number.
TENSORS = [
    torch.arange(6).reshape(2, 3),
    torch.arange(6).reshape(3, 2).t(),
    torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1),
    torch.tensor(-5),
    torch.tensor([[-(2**63)]]),
    torch.tensor(7).expand(4, 5),
    torch.arange(3).expand(4, 3),
    torch.arange(3).unsqueeze(1).expand(3, 4),
    torch.arange(20)[::3],
    torch.arange(24).reshape(4, 6)[:, 1:3],
    torch.arange(24).reshape(4, 6).t()[::2],
    torch.arange(24)[5:11],
    torch.arange(9).unfold(0, 3, 2),
    torch.empty(0, dtype=torch.int64),
    torch.empty((3, 0, 2), dtype=torch.int64),
    torch.arange(4).reshape(4, 1, 1),
]

INSTRUCTIONS: list[ins.Instruction] = [
    ins.Input(1, (2, 3)),
    ins.Input(2**62, ()),
    ins.Constant(3, (2, 3), -(2**63)),
    ins.Constant(3, (2, 3), 2**63 - 1),
    *(ins.Constant(3, tuple(x.shape), x) for x in TENSORS),
    *(ins.Map(4, 1, linear_map) for linear_map in MAPS),
    ins.Concatenate(5, (1, 2, 3), -1),
    ins.Combine(5, ((1, 2), (2, -(2**62))), 17, True),
    ins.Combine(5, ((1, 1),)),
    *(ins.AddPublic(6, 1, x) for x in TENSORS),
    ins.Write(7, 1, 2, (LinearMap("select", (0, 1)), LinearMap("view", ((3,),)))),
    ins.Write(7, 1, 2, ()),
    ins.Open((1, 2), ((2, 3), ()), True, (64, 17)),
    ins.Open((1,), ((2, 3),)),
    ins.Round(8, 1, 16, (2, 3)),
    ins.Lift(8, 1, None, 16, (2, 3)),
    ins.Lift(8, 1, 9, 16, (2, 3)),
    *(ins.Bilinear(9, 1, 2, function, options, (4, 4)) for function, options in PRODUCTS),
    *(ins.PublicProduct(9, 1, TENSORS[1], function, options, True) for function, options in PRODUCTS),
    ins.Truncate(10, 1, None, 1000, (5,)),
    ins.Truncate(10, 1, 9, 2**40, (5,)),
    ins.Compare((11, 12), 1, True, (0, -5), (((0,), False), ((0, 1), True)), (5,), 16),
    ins.Equal((11, 12), 1, (3, -4), (5,)),
    ins.Winner((11,), 1, -1, None, (4, 5)),
    ins.Winner((11, 12), 1, 0, 2**20, (4, 5), 16),
    ins.MapBit(13, 11, LinearMap("t"), True),
    ins.BitToArithmetic(14, 11),
    ins.WeighBits(15, (11, 12), (5, -6), 7),
    ins.Select(16, 11, 1, (5,)),
    ins.Exponential(17, 1, 11, 2**16, 20, 12, 13, (5,), 16),
    ins.Series(18, 1, None, 20, (1, 3), (5, -6), (7, 8), 9, (5,), 3),
    ins.Refresh(19, 1, (5,)),
    ins.Reveal(1, "hospital-a", (5,)),
    ins.Free((1, 2, 3)),
    ins.Free(()),
]


def same_value(a: Any, b: Any) -> bool:
    """Whether two fields mean the same, down to the strides of tensors that have more than one entry along them."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return (
            isinstance(a, Tensor)
            and isinstance(b, Tensor)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and torch.equal(a, b)
            and (a.is_contiguous() == b.is_contiguous() or not _dense(a))
        )
    if isinstance(a, (tuple, list)):
        return isinstance(b, (tuple, list)) and len(a) == len(b) and all(map(same_value, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_value(a[k], b[k]) for k in a)
    if isinstance(a, LinearMap):
        # what may be left out is written out
        return isinstance(b, LinearMap) and a.name == b.name and same_value(a.args, b.args[: len(a.args)])
    return type(a) is type(b) and bool(a == b)


def _dense(x: Tensor) -> bool:
    span = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return span == x.numel()


def same(a: ins.Instruction, b: ins.Instruction) -> bool:
    return type(a) is type(b) and all(
        same_value(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a)
    )
