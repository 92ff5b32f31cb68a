"""One or more calls for every row of the lowering table.

``SAMPLES[op]`` are calls of ``torch.ops.aten.<op>``: float64 tensors among the arguments are shared, ``Plain`` ones
stay what they are (indices, masks), ``Label`` and ``Mask`` become secret whole numbers and secret bits. ``BY_GRADIENT``
names rows that only autograd can call, since they reuse what a forward left; ``ELSEWHERE`` says where the rest is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_generator = torch.Generator().manual_seed(7)


@dataclass(frozen=True, eq=False)
class Plain:
    value: Tensor


@dataclass(frozen=True, eq=False)
class Label:
    value: Tensor


@dataclass(frozen=True, eq=False)
class Mask:
    value: Tensor


@dataclass(frozen=True, eq=False)
class Fixed:
    """Secret, but no gradient is asked for."""

    value: Tensor


@dataclass(frozen=True, eq=False)
class Call:
    """``units`` in the last place and ``relative`` bound the error of the result, ``gradient_units`` the gradients'."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    units: float = 3.0
    relative: float = 2.0**-12
    gradient: bool = True
    gradient_units: float = 12.0


def call(
    *args: Any,
    units: float = 3.0,
    relative: float = 2.0**-12,
    gradient: bool = True,
    gradient_units: float = 12.0,
    **kwargs: Any,
) -> Call:
    return Call(args, kwargs, units, relative, gradient, gradient_units)


def x(*shape: int, low: float = -3.0, high: float = 3.0) -> Tensor:
    """Numbers between low and high, always the same ones."""
    return torch.rand(shape, generator=_generator, dtype=torch.float64) * (high - low) + low


def positive(*shape: int) -> Tensor:
    return x(*shape, low=0.25, high=4.0)


def indices(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=_generator)


def bits(*shape: int) -> Tensor:
    return torch.rand(shape, generator=_generator) < 0.5


def strided(*shape: int) -> Tensor:
    """Every second column of a transposed tensor."""
    return x(2 * shape[-1], *shape[:-1]).movedim(0, -1)[..., ::2]


def unary(*, gradient: bool = True, units: float = 3.0, low: float = -3.0, high: float = 3.0) -> list[Call]:
    """Scalar, empty, matrix, non-contiguous and large operands."""
    tensors = [x(low=low, high=high), x(0, 3, low=low, high=high), x(3, 4, low=low, high=high)]
    tensors += [x(4, 3, low=low, high=high).t()[:, ::2], x(1009, low=low, high=high)]
    return [call(t, gradient=gradient, units=units) for t in tensors]


def binary(*, gradient: bool = True, units: float = 3.0) -> list[Call]:
    """Same shapes, broadcasting both ways, scalars, empty and non-contiguous operands."""
    pairs = [
        (x(3, 4), x(3, 4)),
        (x(3, 1), x(4)),
        (x(), x(2, 3)),
        (x(0, 3), x(3)),
        (strided(3, 4), x(4, 3).t()),
    ]
    return [call(a, b, gradient=gradient, units=units) for a, b in pairs]


def even(low: float, high: float, *shape: int) -> Tensor:
    """Evenly spaced numbers."""
    return torch.linspace(low, high, math.prod(shape), dtype=torch.float64).reshape(shape)


def unit(*shape: int) -> Tensor:
    """Numbers between -0.9 and 0.9."""
    return x(*shape, low=-0.9, high=0.9)


def matrix(n: int, *batch: int) -> Tensor:
    """Invertible matrices with condition numbers of 2 to 20 or so, whose largest entries lie off the diagonal."""
    return x(*batch, n, n, low=-1, high=1) + 2 * torch.eye(n, dtype=torch.float64).roll(1, -1)


def definite(n: int, *batch: int) -> Tensor:
    """Positive definite matrices on the grid of every session here (a multiple of 1/8, hence symmetric)."""
    root = torch.round(4 * x(*batch, n, n, low=-1, high=1)) / 4
    return root @ root.mT * 2 + torch.eye(n, dtype=torch.float64)


def permuted(size: int, *batch: int) -> Tensor:
    """Rows with every value twice, to see which of equal entries comes first."""
    rows = [torch.randperm(size, generator=_generator) // 2 for _ in range(math.prod(batch))]
    return torch.stack(rows).reshape(*batch, size).double() - 1


#: torch's reduction codes
NONE, MEAN, SUM = 0, 1, 2

SAMPLES: dict[str, list[Call]] = {
    # --- elementwise ---------------------------------------------------------------------------------------------
    "add.Tensor": [*binary(), call(x(3), x(3), alpha=0.37), call(x(3), x(3), alpha=-2), call(x(2, 2), 1.5)],
    "add.Scalar": [call(x(2, 3), 0.1), call(x(3), 2, 3), call(x(3), 1e-4)],
    "sub.Tensor": [*binary(), call(x(3), x(3), alpha=0.5), call(x(3), 0.25)],
    "sub.Scalar": [call(x(2, 3), 0.1), call(x(3), 5)],
    "rsub.Scalar": [call(x(2, 3), 1), call(x(3), 0.3)],
    "rsub.Tensor": binary(),
    "neg.default": unary(),
    "mul.Tensor": [*binary(), call(x(3), 0.1), call(x(3), -3), call(x(3), 0.0), call(x(3), 1 / 3), call(x(3), 1e-3)],
    "mul.Scalar": [call(x(2, 3), 0.1), call(x(3), -7), call(x(3), 2.0**-10), call(x(3), 1.0)],
    "div.Tensor": [
        call(x(3, 4), positive(3, 4)),
        call(x(3, 4), -positive(4)),
        call(x(3, 1), positive(4)),
        call(x(3), 3),
        call(x(3), 0.7),
        call(2.0, positive(3), units=5),
    ],
    "div.Scalar": [call(x(2, 3), 3), call(x(3), -0.3), call(x(3), 128), call(x(3), 1)],
    "div.Tensor_mode": [
        call(x(3), positive(3), rounding_mode=None),
        call(x(40), 0.75, rounding_mode="floor", units=0.01, relative=0),
    ],
    "div.Scalar_mode": [
        call(x(3), 3.0, rounding_mode=None),
        call(x(40), -0.75, rounding_mode="floor", units=0.01, relative=0),
        call(x(40), 0.5, rounding_mode="trunc", units=0.01, relative=0),
        call(x(40), -0.5, rounding_mode="trunc", units=0.01, relative=0),
    ],
    "reciprocal.default": [call(positive(3, 4)), call(-positive(5)), call(positive()), call(positive(0, 2))],
    "sqrt.default": [call(positive(3, 4)), call(positive()), call(positive(500), gradient=False)],
    "rsqrt.default": [call(positive(3, 4)), call(positive(0, 2)), call(positive())],
    "exp.default": [call(x(3, 4)), call(x()), call(x(4, 3).t())],
    "log.default": [call(positive(3, 4)), call(positive()), call(positive(3, 2).t())],
    "pow.Tensor_Scalar": [
        call(x(3), 2),
        call(x(3), 3, gradient_units=30),
        call(x(3), 4, units=12, gradient_units=60),
        call(x(3), 1),
        call(x(3), 0),
        call(positive(3), 0.5),
        call(positive(3), -0.5),
        call(positive(3), 1.5, units=20, gradient_units=40),
        call(positive(3), -2.5, gradient=False, units=30),
        call(positive(3), -1),
        call(positive(3), -2, gradient=False, units=20),
        call(x(3, low=1e5, high=3e5), -1),
        call(-positive(3), -3, gradient=False, units=60),
        call(positive(3), 2.3, units=40, gradient_units=40),
        call(positive(3), -0.3, units=6, gradient_units=20),
    ],
    "abs.default": unary(),
    "sgn.default": unary(),
    "sign.default": unary(),
    "addcmul.default": [call(x(2, 3), x(2, 3), x(3), value=0.4), call(x(3), x(3), x(3))],
    "addcdiv.default": [call(x(2, 3), x(2, 3), positive(2, 3), value=-0.1), call(x(3), x(3), positive(3))],
    "lerp.Scalar": [call(x(2, 3), x(2, 3), 0.1), call(x(3), x(3), 0.75)],
    "lerp.Tensor": [call(x(2, 3), x(2, 3), x(3, low=0, high=1))],
    "clamp.default": [call(x(3, 4), -1, 1.5), call(x(5), None, 0.5), call(x(5), -0.25, None), call(x(5), 0, 6)],
    "clamp_min.default": [call(x(3, 4), -0.25), call(x(5), 0)],
    "clamp_max.default": [call(x(3, 4), 0.25), call(x(5), 0)],
    "maximum.default": binary(),
    "minimum.default": binary(),
    # --- activations ---------------------------------------------------------------------------------------------
    "relu.default": unary(),
    "threshold.default": [call(x(3, 4), 0.5, -2), call(x(5), 0, 1), call(x(5), -1, 2.5), call(x(4, 3).t(), 0.25, 0)],
    "threshold_backward.default": [call(x(3, 4), x(3, 4), 0), call(x(3), x(3), 0.5)],
    "leaky_relu.default": [call(x(3, 4)), call(x(5), 0.2)],
    "leaky_relu_backward.default": [call(x(3, 4), x(3, 4), 0.1, False, gradient=False)],
    "hardtanh.default": [call(x(3, 4)), call(x(5), 0, math.inf), call(x(5), -math.inf, 1), call(x(5), 0, 2)],
    "hardtanh_backward.default": [call(x(3, 4), x(3, 4), -1, 1)],
    "hardshrink.default": [call(x(3, 4)), call(x(5), 1.5), call(x(4), -1), call(even(-1, 1, 5), 0.5)],
    "hardshrink_backward.default": [call(x(3, 4), x(3, 4), 0.5, gradient=False)],
    "softshrink.default": [call(x(3, 4)), call(x(5), 1.5), call(x(4), 0)],
    "softshrink_backward.default": [call(x(3, 4), x(3, 4), 0.5, gradient=False)],
    "hardsigmoid.default": [call(x(3, 4, low=-5, high=5)), call(x(2, 3))],
    "hardsigmoid_backward.default": [call(x(3, 4), x(3, 4, low=-5, high=5), gradient=False)],
    "hardswish.default": [call(x(3, 4, low=-5, high=5)), call(torch.tensor([-3.0, 3.0, 1e4, -1e4]).double())],
    "hardswish_backward.default": [call(x(3, 4), x(3, 4, low=-5, high=5), gradient=False, units=6)],
    "_prelu_kernel.default": [call(x(3, 4), x(3, 4)), call(x(2, 3, 4), x(1, 3, 1)), call(x(5), x())],
    "_prelu_kernel_backward.default": [call(x(3, 4), x(3, 4), x(3, 4), gradient=False)],
    "rrelu_with_noise.default": [call(x(3, 4), Fixed(torch.zeros(3, 4).double()), 0.1, 0.5, False)],
    "rrelu_with_noise_backward.default": [
        call(x(3, 4), x(3, 4), x(3, 4), 0.1, 0.5, True, False, gradient=False),
        call(x(3, 4), x(3, 4), x(3, 4), 0.1, 0.5, False, False, gradient=False),
    ],
    "elu.default": [call(x(3, 4)), call(x(5), 2.0, 1.5, 0.5), call(x(4), 0.5, 1, 3), call(x(4), 1e-3), *unary()],
    "elu_backward.default": [
        call(x(3, 4), 1.5, 1, 1, False, x(3, 4), gradient=False, units=6),
        call(x(3, 4), 1.5, 2, 0.5, True, x(3, 4, low=-3, high=3), gradient=False, units=12),
    ],
    "celu.default": [call(x(3, 4)), call(x(5), 2.0), call(x(4), 0.25)],
    "mish.default": [call(x(3, 4, low=-20, high=20)), call(x())],
    "mish_backward.default": [call(x(3, 4), x(3, 4, low=-20, high=20), gradient=False, units=6)],
    # a factor up to 3 times a slope's error of a unit or so, and the product's own rounding
    "glu.default": [call(x(3, 4), units=5), call(x(4, 3), 0, units=5), call(x(2, 6, 2), 1, units=5)],
    "glu_backward.default": [call(x(3, 2), x(3, 4), 1, gradient=False, units=6)],
    "sigmoid.default": unary(low=-20, high=20),
    "sigmoid_backward.default": [call(x(3, 4), x(3, 4, low=0, high=1))],
    "tanh.default": unary(low=-12, high=12),
    "tanh_backward.default": [call(x(3, 4), x(3, 4, low=-1, high=1), units=5, gradient_units=24)],
    "silu.default": [call(x(3, 4, low=-20, high=20)), call(x())],
    "silu_backward.default": [call(x(3, 4), x(3, 4, low=-20, high=20), units=5, gradient=False)],
    "gelu.default": [
        call(even(-8, 8, 3, 4)),
        call(even(-8, 8, 3, 4), approximate="tanh"),
        call(even(-8, 8, 4, 3).t()),
        call(even(-1, 1)),
        call(torch.tensor([1e4, -1e4, 0.0, 2.0**-16, -(2.0**-16)], dtype=torch.float64)),
    ],
    "gelu_backward.default": [
        call(even(-1, 2, 3, 4), even(-8, 8, 3, 4), gradient=False),
        call(even(-1, 2, 3, 4), even(-8, 8, 3, 4), approximate="tanh", gradient=False),
    ],
    "softplus.default": [call(x(3, 4, low=-30, high=30)), call(x(3), 2.0), call(x(3), 0.5), call(x(9), 1, 1)],
    "softplus_backward.default": [
        call(x(3), x(3), 1, 20, gradient=False, units=5),
        call(x(3), x(3), 2, 20, gradient=False, units=5),
    ],
    "log_sigmoid_forward.default": [call(x(3, 4, low=-30, high=30))],
    "logit_backward.default": [call(x(4), x(4, low=0.1, high=0.9), gradient=False, units=20)],
    "logit.default": [call(x(3, 4, low=0.1, high=0.9), units=5), call(x(5, low=0, high=1), 0.1, units=5)],
    # --- comparisons ---------------------------------------------------------------------------------------------
    **{f"{name}.Tensor": binary(gradient=False) for name in ("lt", "le", "gt", "ge", "eq", "ne")},
    **{
        f"{name}.Scalar": [call(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]).double(), value) for value in (0, 0.5, -1)]
        for name in ("lt", "le", "gt", "ge", "eq", "ne")
    },
    "isnan.default": [call(x(3))],
    "isinf.default": [call(x(3))],
    "logical_not.default": [call(Mask(bits(3, 4))), call(torch.tensor([0.0, 1.0, -2.0]).double())],
    "bitwise_not.default": [call(Mask(bits(3, 4)))],
    **{
        name: [
            call(Mask(bits(3, 4)), Mask(bits(3, 4))),
            call(Mask(bits(3, 1)), Mask(bits(4))),
            call(Mask(bits(3, 4)), Plain(bits(4))),
            call(Plain(bits(3, 4)), Mask(bits(3, 4))),
        ]
        for name in (
            "logical_and.default",
            "logical_or.default",
            "logical_xor.default",
            "bitwise_and.Tensor",
            "bitwise_or.Tensor",
            "bitwise_xor.Tensor",
        )
    },
    "where.self": [
        call(Mask(bits(3, 4)), x(3, 4), x(3, 4)),
        call(Mask(bits(3, 1)), x(3, 4), x(4)),
        call(Plain(bits(3, 4)), x(3, 4), x(4)),
        call(Mask(bits(3, 4)), x(3, 4), Plain(torch.tensor(0.1).double())),
        call(Mask(bits(3, 1)), Plain(torch.tensor(2.0).double()), x(3, 4)),
    ],
    "masked_fill.Scalar": [
        call(x(3, 4), Mask(bits(3, 4)), 0.5),
        call(x(3, 4), Plain(bits(4)), -2),
        call(x(3), Mask(bits(3)), 0),
    ],
    "masked_fill.Tensor": [call(x(3, 4), Mask(bits(3, 4)), x()), call(x(3, 4), Plain(bits(4)), x())],
    "any.dim": [call(Mask(bits(3, 4)), 1), call(Mask(bits(3, 4)), -2, True), call(x(3, 4), 0)],
    "any.dims": [call(Mask(bits(2, 3, 4)), [0, 2]), call(Mask(bits(3, 4)), None)],
    "all.dim": [call(Mask(bits(3, 2)), 1), call(Mask(bits(3, 2)), 0, True)],
    "all.dims": [call(Mask(bits(2, 3, 1)), [0, 2], True)],
    "any.default": [call(Mask(bits(5))), call(Mask(torch.zeros(4, dtype=torch.bool))), call(torch.zeros(3).double())],
    "all.default": [call(Mask(bits(5))), call(Mask(torch.ones(4, dtype=torch.bool)))],
    # --- convolution and pooling -----------------------------------------------------------------------------------
    "convolution.default": [
        call(x(2, 3, 5, 6), x(4, 3, 3, 2), x(4), [1, 1], [0, 0], [1, 1], False, [0, 0], 1, gradient_units=20),
        call(x(2, 4, 7, 6), x(4, 2, 3, 3), None, [2, 1], [1, 2], [1, 1], False, [0, 0], 2, gradient_units=20),
        call(x(1, 2, 7, 7), x(2, 1, 3, 3), x(2), [1, 1], [1, 1], [2, 2], False, [0, 0], 2, gradient_units=20),
        call(x(2, 3, 8), x(4, 3, 3), x(4), [2], [1], [1], False, [0], 1, gradient_units=20),
        # output padding of a whole stride and more
        call(x(2, 2, 4, 4), x(2, 3, 2, 3), x(3), [3, 2], [1, 2], [4, 4], True, [2, 3], 1, gradient_units=20),
        call(x(2, 2, 5), x(2, 2, 3), x(2), [1], [1], [4], True, [3], 1, gradient_units=20),
    ],
    "convolution_backward.default": [
        call(
            x(1, 2, 3, 3),
            x(1, 2, 5, 5),
            x(2, 2, 3, 3),
            [2],
            [1, 1],
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            1,
            [True] * 3,
            gradient=False,
        )
    ],
    "max_pool2d_with_indices.default": [
        call(x(2, 3, 6, 6), [2, 2]),
        call(x(1, 2, 7, 6), [3, 2], [2, 2]),
        call(x(1, 2, 6, 6), [3, 3], [2, 2], [1, 1]),
        call(x(2, 6, 6), [2, 2]),
        call(x(1, 1, 7, 7), [2, 2], [1, 1], [0, 0], [2, 2]),
    ],
    "avg_pool2d.default": [
        call(x(2, 3, 6, 6), [2, 2]),
        call(x(1, 2, 7, 6), [3, 2], [2, 2], [1, 1]),
        call(x(2, 6, 6), [3, 3], [1, 1], [0, 0], False, True, 5),
    ],
    "avg_pool2d_backward.default": [call(x(1, 2, 3, 3), x(1, 2, 6, 6), [2, 2], [2, 2], [0, 0], False, True, None)],
    "_adaptive_avg_pool2d.default": [call(x(2, 3, 6, 4), [3, 2]), call(x(2, 3, 6, 4), [1, 1])],
    "_adaptive_avg_pool2d_backward.default": [call(x(2, 3, 3, 2), x(2, 3, 6, 4), gradient=False)],
    # --- factories -----------------------------------------------------------------------------------------------
    "zeros_like.default": [call(x(2, 3))],
    "ones_like.default": [call(x(2, 3)), call(x(2), dtype=torch.bool)],
    "full_like.default": [call(x(2, 3), 0.75), call(x(2), -3)],
    "new_zeros.default": [call(x(2), [3, 2])],
    "new_ones.default": [call(x(2), [3, 2])],
    "new_full.default": [call(x(2), [3, 2], 0.5)],
    "zero_.default": [call(x(2, 3))],
    "fill_.Scalar": [call(x(2, 3), 0.5)],
    "fill_.Tensor": [call(x(2, 3), x())],
    # --- indexing ------------------------------------------------------------------------------------------------
    "index.Tensor": [
        call(x(5, 4), [Plain(indices(5, 3))]),
        call(x(5, 4), [None, Plain(indices(4, 2, 2))]),
        call(x(5, 4), [Plain(indices(5, 6)), Plain(indices(4, 6))]),
        call(x(5, 4), [Plain(torch.tensor([True, False, True, True, False]))]),
        call(x(5, 4), [Plain(torch.zeros(0, dtype=torch.int64))]),
        call(x(5, 4), [Label(indices(5, 3))]),
        call(x(3, 5, 2), [None, Label(indices(5, 2, 4))]),
    ],
    "_unsafe_index.Tensor": [call(x(5, 4), [None, Plain(indices(4, 2, 2))], gradient=False)],
    "index_select.default": [
        call(x(5, 4), 0, Plain(indices(5, 3))),
        call(x(5, 4), 1, Plain(indices(4, 6))),
        call(x(5, 4), 0, Label(indices(5, 3))),
        call(x(2, 4, 3), 1, Label(indices(4, 6))),
    ],
    "gather.default": [
        call(x(5, 4), 1, Plain(indices(4, 5, 2))),
        call(x(5, 4), 0, Plain(indices(5, 3, 4))),
        call(x(5, 4), 1, Label(indices(4, 5, 2))),
        call(x(5, 4), 0, Label(indices(5, 3, 2))),
        call(x(3, 5, 4), -2, Label(indices(5, 2, 6, 4))),
    ],
    "index_put.default": [
        call(x(5, 4), [Plain(torch.tensor([3, 0]))], x(2, 4)),
        call(x(5, 4), [Plain(torch.tensor([3, 3, 0]))], x(3, 4), True),
        call(x(5, 4), [None, Plain(torch.tensor([1]))], x()),
        call(x(5, 4), [Plain(bits(5, 4))], x()),
        call(x(5, 4), [Label(torch.tensor([3, 0]))], x(2, 4)),
        call(x(2, 5, 4), [None, Label(torch.tensor([3, 3]))], x(2, 2, 4), True),
        call(x(5, 4), [Mask(bits(5, 4))], Fixed(x())),
        call(x(5, 4), [Mask(bits(5))], Fixed(x())),
    ],
    "index_add.default": [
        call(x(5, 4), 1, Plain(torch.tensor([3, 3, 0])), x(5, 3), alpha=0.5),
        call(x(5), -1, Plain(torch.tensor([1, 1])), x(2)),
        call(x(5, 4), 1, Label(torch.tensor([3, 3, 0])), x(5, 3), alpha=0.5),
    ],
    "scatter_add.default": [
        call(x(5, 4), 0, Plain(indices(5, 3, 4)), x(3, 4)),
        call(x(5, 4), 0, Label(indices(5, 3, 4)), x(3, 4)),
        call(x(3, 5, 4), 1, Label(indices(5, 2, 6, 3)), x(2, 6, 4), gradient=False),
    ],
    "scatter.src": [
        call(x(5, 4), 1, Plain(torch.tensor([[0, 2], [1, 3]])), x(2, 2)),
        call(x(5, 4), 1, Label(torch.tensor([[0, 2], [1, 3]])), x(2, 2)),
    ],
    "scatter.value": [
        call(x(5, 4), 1, Plain(torch.tensor([[0, 2], [1, 3]])), 1.5),
        call(x(5, 4), 1, Label(torch.tensor([[0, 2], [1, 1]])), 1.5),
        call(x(3, 4), 1, Label(torch.tensor([[0], [1], [3]])), 1.5),
    ],
    "embedding.default": [
        call(x(6, 3), Plain(indices(6, 4))),
        call(x(6, 3), Plain(indices(6, 2, 4)), 2),
        call(x(6, 3), Label(indices(6, 2, 4))),
    ],
    "embedding_dense_backward.default": [
        call(x(4, 3), Plain(indices(6, 4)), 6, -1, False, gradient=False),
        call(x(4, 3), Plain(indices(6, 4)), 6, 2, False, gradient=False),
        call(x(4, 3), Label(indices(6, 4)), 6, -1, False, gradient=False),
        call(x(4, 3), Label(torch.tensor([2, 1, 2, 0])), 6, 2, False, gradient=False),
    ],
    # --- sorting -------------------------------------------------------------------------------------------------
    "sort.default": [
        call(x(3, 5)),
        call(x(7, 2), 0, True),
        call(permuted(9, 2)),
        call(permuted(9, 2), 1, True),
        call(x(1, 3), 0),
        call(x(2)),
        call(x(33)),
        call(x()),
        call(x(0, 3), 1),
    ],
    "sort.stable": [call(permuted(6, 3), stable=True, dim=1, descending=True), call(x(4, 3), stable=True, dim=0)],
    "topk.default": [call(x(3, 6), 2), call(x(5, 3), 3, 0, False), call(x(4), 4), call(permuted(8), 0)],
    "kthvalue.default": [call(x(3, 5), 2), call(x(4, 3), 4, 0, True), call(x(1), 1)],
    "median.dim": [call(x(3, 4), 1), call(x(5, 3), 0, True)],
    "median.default": [call(x(3, 3)), call(x(2, 2))],
    "nanmedian.dim": [call(x(3, 4), 1)],
    "nanmedian.default": [call(x(5))],
    # --- scans ---------------------------------------------------------------------------------------------------
    "cumprod.default": [
        call(x(3, 6, low=0.5, high=1.5), 1, gradient_units=40),
        call(x(5, 2, low=-1, high=1), 0, gradient_units=150),
        call(x(), 0),
    ],
    "cummax.default": [call(x(), 0, gradient=False), call(x(3, 7), 1), call(permuted(8, 2), -1), call(x(5, 2), 0)],
    "cummin.default": [call(x(3, 7), 1), call(permuted(8, 2), -1)],
    # --- rounding ------------------------------------------------------------------------------------------------
    **{
        f"{name}.default": [
            call(even(-4, 4, 65), units=0.01, relative=0),
            call(x(3, 4, low=-300, high=300), units=0.01, relative=0),
            call(x(0), units=0.01),
        ]
        for name in ("floor", "ceil", "round", "trunc")
    },
    "round.decimals": [call(x(3, 40), decimals=1, units=1, relative=0), call(x(9, low=-300, high=300), decimals=-2)],
    "frac.default": [call(even(-4, 4, 65), units=0.01, relative=0)],
    "remainder.Scalar": [
        call(even(-4, 4, 65), 0.75, units=0.01, relative=0),
        call(x(9), -0.5, units=0.01, relative=0),
        call(x(9), 1, units=0.01, relative=0),
    ],
    "fmod.Scalar": [call(even(-4, 4, 65), 0.75, units=0.01, relative=0), call(x(9), -0.5, units=0.01, relative=0)],
    "floor_divide.default": [
        call(even(-4, 4, 65), 0.25, units=0.01, relative=0, gradient=False),
        call(Label(indices(50, 9)), 7, units=0.01, relative=0),
    ],
    "floor_divide.Scalar": [call(even(-4, 4, 65), -0.25, units=0.01, relative=0, gradient=False)],
    # --- angles --------------------------------------------------------------------------------------------------
    "sin.default": [call(x(3, 4)), call(x(50, low=-1000, high=1000)), call(x())],
    "cos.default": [call(x(3, 4)), call(x(50, low=-1000, high=1000))],
    "tan.default": [call(x(3, 4, low=-1.2, high=1.2), units=8, gradient_units=60)],
    "sinc.default": [call(even(-3, 3, 25), units=5, gradient=False)],
    "atan.default": [call(x(3, 4), units=5), call(even(-100, 100, 41), units=5), call(x(0))],
    "atan2.default": [
        call(x(3, 4), x(3, 4), units=6),
        call(x(3, 1), x(4), units=6),
        call(
            torch.tensor([0.0, 0, 0, 1, -1, 1, -1]).double(),
            torch.tensor([0.0, 1, -1, 0, 0, -1, -1]).double(),
            units=5,
            gradient=False,
        ),
    ],
    "asin.default": [call(unit(3, 4), units=6), call(torch.tensor([-1.0, 0, 1]).double(), units=6, gradient=False)],
    "acos.default": [call(unit(3, 4), units=6), call(torch.tensor([-1.0, 0, 1]).double(), units=6, gradient=False)],
    "sinh.default": [call(x(3, 4))],
    "cosh.default": [call(x(3, 4))],
    "asinh.default": [call(x(3, 4), units=6), call(even(-500, 500, 9), units=6)],
    "acosh.default": [call(positive(3, 4) + 1, units=6, gradient_units=24)],
    "atanh.default": [call(unit(3, 4), units=6, gradient_units=24)],
    "erf.default": [call(even(-6, 6, 25)), call(x(3, 4))],
    "erfc.default": [call(even(-6, 6, 25))],
    "erfinv.default": [call(even(-0.99, 0.99, 41), units=12, gradient=False), call(x(4, low=-0.8, high=0.8), units=12)],
    # --- exponentials and powers -----------------------------------------------------------------------------------
    "exp2.default": [call(x(3, 4), units=8)],
    "expm1.default": [call(x(3, 4))],
    "log2.default": [call(positive(3, 4), units=5)],
    "log10.default": [call(positive(3, 4))],
    "log1p.default": [call(positive(3, 4))],
    "xlogy.Tensor": [
        call(x(3, 4), positive(4), units=8),
        call(torch.zeros(2).double(), torch.zeros(2).double(), gradient=False),
    ],
    "special_xlog1py.default": [call(x(3, 4), positive(4), units=8)],
    "special_ndtri.default": [call(x(9, low=0.05, high=0.95), units=16, gradient_units=60)],
    "special_entr.default": [call(positive(3, 4), units=8)],
    "pow.Tensor_Tensor": [call(positive(3, 4), x(4), units=60, relative=2.0**-9, gradient_units=200)],
    "pow_.Tensor": [call(positive(3, 4), x(4), units=60, relative=2.0**-9)],
    "pow_.Scalar": [call(x(3), 2)],
    "pow.Scalar": [call(2.0, x(3, 4), units=6), call(0.5, x(3), units=6), call(1, x(3), gradient=False)],
    "deg2rad.default": [call(x(3, 4, low=-180, high=180))],
    "rad2deg.default": [call(x(3, 4))],
    "hypot.default": binary(),
    "logaddexp.default": [call(x(3, 4, low=-9, high=9), x(4), units=5)],
    "logaddexp2.default": [call(x(3, 4, low=-9, high=9), x(4), units=5)],
    "nan_to_num.default": [call(x(3))],
    "signbit.default": [call(x(3, 4))],
    "copysign.Tensor": [call(x(3, 4), x(3, 4))],
    "copysign.Scalar": [call(x(3, 4), -1.0), call(x(3), 2)],
    "heaviside.default": [call(torch.tensor([-1.0, 0, 0.5, 0]).double(), x(4), gradient=False)],
    "ldexp.Tensor": [call(x(3, 4), x(4, low=-2, high=2), units=12, gradient=False)],
    "clamp.Tensor": [call(x(3, 4), unit(3, 4) - 1, unit(4) + 1), call(x(3), x(3), None), call(x(3), None, x(3))],
    "clamp_min.Tensor": [call(x(3, 4), x(4))],
    "clamp_max.Tensor": [call(x(3, 4), x(4))],
    "fmax.default": binary(),
    "fmin.default": binary(),
    # --- reductions written in torch -------------------------------------------------------------------------------
    "var_mean.correction": [call(x(3, 4), [1]), call(x(3, 4)), call(x(3, 4), [0], correction=0, keepdim=True)],
    "std_mean.correction": [call(x(3, 4), [1], units=6, gradient_units=30)],
    "aminmax.default": [call(x(3, 4), dim=1), call(x(3, 4)), call(x(3, 4), dim=0, keepdim=True)],
    "nansum.default": [call(x(3, 4)), call(x(3, 4), [1], True)],
    "count_nonzero.default": [call(x()), call(torch.tensor([[0.0, 1], [0, -2]]).double()), call(Mask(bits(3, 4)))],
    "count_nonzero.dim_IntList": [call(torch.tensor([[0.0, 1], [0, -2]]).double(), [1])],
    "logsumexp.default": [
        call(x(3, 4, low=-50, high=50), [1]),
        call(x(2, 3, 4), [0, 2], True),
        call(x(2, 3, 4), [-1, 0]),
        call(x(), [0]),
    ],
    "prod.default": [call(x(2, 3), units=10, gradient_units=60), call(x(0)), call(x(1))],
    "prod.dim_int": [call(x(3, 5, low=-1.5, high=1.5), 1, units=8, gradient_units=60), call(x(2, 3), 0, True)],
    "norm.Scalar": [call(x(3, 4)), call(x(3, 4), 1)],
    "norm.ScalarOpt_dim": [call(x(3, 4), 2, [1]), call(x(3, 4), None, [0], True)],
    "renorm.default": [call(x(3, 4), 2, 0, 1.5, gradient=False, units=6)],
    "bucketize.Tensor": [
        call(torch.tensor([-2.0, -1, 0, 0.5, 3]).double(), torch.tensor([-1.0, 0, 0.5]).double(), right=right)
        for right in (False, True)
    ],
    "searchsorted.Tensor": [
        call(torch.tensor([-1.0, 0, 0.5]).double(), torch.tensor([[-2.0, -1], [0.5, 3]]).double(), side="right"),
        call(x(2, 5).sort().values, x(2, 3)),
    ],
    "searchsorted.Scalar": [
        call(x(5).sort().values, 0.5),
        call(torch.tensor([-1.0, 0, 0.5]).double(), 0.5, right=True),
    ],
    "histc.default": [
        call(x(3, 9), 4, -2, 2),
        call(torch.tensor([0.0, 1, 2, 4, 4, 5]).double(), 4, 0, 4),
        call(x(3, 9), 4, gradient=False),
        call(torch.full((3,), 0.75).double(), 4, gradient=False),
    ],
    "histogram.bin_ct": [
        call(x(3, 9), 4, range=[-2.0, 2.0], gradient=False),
        call(torch.tensor([-2.0, -1.5, -0.25, 0.5, 1.75, 2.5]).double(), 3, gradient=False),
        call(torch.full((3,), 0.75).double(), 2, density=True, gradient=False),
        call(x(0), 2, gradient=False),
    ],
    "histogram.bins_tensor": [
        call(torch.tensor([-3.0, -1, 0, 1, 3, 4]).double(), torch.tensor([-1.0, 0, 3]).double(), gradient=False),
        call(x(3, 9), even(-2, 2, 4), density=True, gradient=False),
    ],
    "_histogramdd_bin_edges.default": [call(x(7, 2), [2, 3], gradient=False)],
    "_histogramdd_from_bin_cts.default": [
        call(x(7, 2), [2, 3], gradient=False),
        call(x(7, 2), [2, 3], range=[-2.0, 2.0, -1.0, 3.0], density=True, gradient=False),
    ],
    "_histogramdd_from_bin_tensors.default": [call(x(7, 2), [even(-2, 2, 3), even(-3, 2, 4)], gradient=False)],
    # --- distances -------------------------------------------------------------------------------------------------
    "_euclidean_dist.default": [
        call(x(3, 4), x(5, 4), gradient_units=30),
        call(x(2, 3, 4), x(2, 5, 4), gradient_units=30),
    ],
    "_cdist_forward.default": [
        call(x(3, 4), x(5, 4), p, None, units=12, gradient_units=30) for p in (0.0, 1.0, 2.0, math.inf, 3.0, 1.5)
    ]
    + [
        # halves: far apart, since slopes grow without a limit where numbers meet
        call(x(3, 4, low=1), x(2, 4, high=-1), 0.5, None, units=40, gradient_units=80),
    ],
    "_cdist_backward.default": [call(x(3, 2), x(3, 4), x(2, 4), 1.0, positive(3, 2), gradient=False)],
    "_pdist_forward.default": [call(x(4, 3), p, gradient_units=40) for p in (1.0, 2.0)],
    "dist.default": [call(x(3, 4), x(3, 4)), call(x(3), x(3), 1)],
    # --- linear algebra --------------------------------------------------------------------------------------------
    "linalg_inv_ex.default": [call(matrix(n), units=6, gradient_units=60) for n in (1, 2, 5)]
    + [call(matrix(3, 2), units=6, gradient_units=60)],
    "_linalg_solve_ex.default": [
        call(matrix(4), x(4, 2), units=6, gradient_units=60),
        call(matrix(4), x(4), units=6, gradient_units=60),
        call(matrix(3, 2), x(2, 3, 1), units=6, gradient_units=60),
        call(matrix(3).t(), x(2, 3), left=False, units=6, gradient_units=60),
    ],
    "_linalg_det.default": [call(matrix(3), units=30, gradient=False), call(matrix(2, 3), units=30, gradient=False)],
    "_linalg_slogdet.default": [
        call(matrix(3), units=12, gradient_units=60),
        call(matrix(4, 2), units=12, gradient_units=60),
    ],
    "linalg_cholesky_ex.default": [
        call(definite(4), units=12, gradient_units=120),
        call(definite(2, 3), units=12, gradient_units=120),
        call(definite(3), upper=True, units=12, gradient_units=120),
    ],
    "cholesky.default": [call(definite(3), units=12, gradient_units=120)],
    "linalg_solve_triangular.default": [
        call(x(3, 3).tril(-1) + 2 * torch.eye(3).double(), x(3, 2), upper=False, units=12, gradient_units=80),
        call(x(3, 3).triu(1) + 2 * torch.eye(3).double(), x(3, 2), upper=True, units=12, gradient_units=80),
        call(x(3, 3).triu(1), x(3, 2), upper=True, unitriangular=True, units=30, gradient_units=200),
        call(
            x(3, 3).tril(-1) + 2 * torch.eye(3).double(), x(2, 3), upper=False, left=False, units=12, gradient_units=80
        ),
    ],
    "linalg_lu.default": [
        call(matrix(3).flip(0), units=12, gradient_units=120),
        call(torch.cat([x(2, 3, low=-0.5, high=0.5), matrix(3)]), units=12, gradient_units=120),
        call(torch.cat([matrix(2).flip(0), x(2, 1)], 1), units=12, gradient_units=120),
    ],
    "linalg_lu_factor_ex.default": [call(matrix(3, 2).flip(-2), units=12, gradient_units=120)],
    "lu_unpack.default": [
        call(x(4, 3), Plain(torch.tensor([3, 3, 4], dtype=torch.int32))),
        call(x(3, 4), Label(torch.tensor([3, 3, 3], dtype=torch.int32)), gradient=False),
    ],
    "geqrf.default": [call(x(4, 3), units=12, gradient=False), call(x(2, 2, 4), units=12, gradient=False)],
    "linalg_qr.default": [
        call(matrix(3), units=12, gradient_units=120),
        call(torch.cat([matrix(3), x(2, 3)]), units=12, gradient_units=120),
        call(torch.cat([matrix(2), x(2, 3)], 1), "complete", units=12, gradient_units=120),
    ],
    "cholesky_solve.default": [
        call(x(3, 2), x(3, 3, low=-0.5, high=0.5).tril(-1) + torch.eye(3).double(), units=12, gradient_units=80)
    ],
    "cholesky_inverse.default": [
        call(x(3, 3, low=-0.5, high=0.5).tril(-1) + torch.eye(3).double(), units=12, gradient_units=80)
    ],
    "linalg_lstsq.default": [
        call(torch.cat([matrix(3), x(2, 3)]), x(5, 2), units=12, gradient_units=120),
        call(torch.cat([matrix(3), x(3, 2)], 1), x(3, 1), units=12, gradient_units=120),
    ],
    **{
        f"{name}.{ends}": [call(a, b, 7, gradient=False, units=4), call(a, b, 1, gradient=False, units=4)]
        for name in ("linspace", "logspace")
        for ends, a, b in (
            ("Tensor_Tensor", x(low=-1, high=1), x(low=-1, high=1)),
            ("Tensor_Scalar", x(low=-1, high=1), 0.75),
            ("Scalar_Tensor", -0.5, x(low=-1, high=1)),
        )
    },
    # --- structure written in torch --------------------------------------------------------------------------------
    "trace.default": [call(x(4, 4)), call(x(3, 5))],
    "rot90.default": [call(x(2, 3), k, [0, 1]) for k in (0, 1, 2, 3, -1)],
    "diag_embed.default": [call(x(3, 4)), call(x(3), 1), call(x(2, 3), -1, 0, 2)],
    **{
        f"{name}_copy.{overload}": [call(x(2, 1, 3), *args, gradient=name not in ("alias", "detach"))]
        for name, overload, args in (
            ("alias", "default", ()),
            ("detach", "default", ()),
            ("diagonal", "default", (0, 0, 2)),
            ("expand", "default", ([2, 4, 3],)),
            ("permute", "default", ([2, 0, 1],)),
            ("select", "int", (2, 1)),
            ("slice", "Tensor", (2, 1, 3)),
            ("split", "Tensor", (2, 2)),
            ("split_with_sizes", "default", ([1, 2], 2)),
            ("squeeze", "default", ()),
            ("squeeze", "dim", (1,)),
            ("squeeze", "dims", ([1],)),
            ("transpose", "int", (0, 2)),
            ("unbind", "int", (2,)),
            ("unfold", "default", (2, 2, 1)),
            ("unsqueeze", "default", (1,)),
            ("view", "default", ([3, 2],)),
        )
    },
    "t_copy.default": [call(x(2, 3))],
    "diagonal_scatter.default": [call(x(4, 4), x(4))],
    "select_scatter.default": [call(x(3, 4), x(4), 0, 1)],
    "slice_scatter.default": [call(x(5, 4), x(2, 4), 0, 1, 4, 2)],
    "block_diag.default": [call([x(2, 3), x(3), x(2, 1)])],
    "take.default": [call(x(3, 4), Plain(indices(12, 2, 3)))],
    "put.default": [
        call(x(3, 4), Plain(torch.tensor([5, 0])), x(2)),
        call(x(3), Plain(torch.tensor([1, 1])), x(2), True),
    ],
    "masked_select.default": [call(x(3, 4), Plain(bits(3, 4)))],
    "masked_scatter.default": [call(x(3, 4), Plain(bits(3, 4)), x(12), gradient=False)],
    "index_copy.default": [
        call(x(3, 4), 1, Plain(torch.tensor([0, 2])), x(3, 2)),
        call(x(), 0, Plain(torch.tensor([0])), x(1), gradient=False),
    ],
    "index_fill.int_Scalar": [
        call(x(3, 4), 1, Plain(torch.tensor([0, 2])), 1.5),
        call(x(), 0, Plain(torch.tensor([0])), 1.5),
    ],
    "index_fill.int_Tensor": [call(x(3, 4), 0, Plain(torch.tensor([0, 2])), x())],
    "scatter.reduce": [call(x(5, 4), 0, Plain(indices(5, 3, 4)), x(3, 4), reduce="add", gradient=False)],
    "scatter.value_reduce": [call(x(5, 4), 0, Plain(indices(5, 3, 4)), 1.5, reduce="add", gradient=False)],
    "scatter_reduce.two": [
        call(x(5, 4), 0, Plain(indices(5, 3, 4)), x(3, 4), reduce, include_self=own)
        for reduce in ("sum", "mean", "amax", "amin")
        for own in (True, False)
    ]
    + [
        call(positive(4, 4), 1, Plain(indices(4, 3, 2)), positive(3, 2), "prod", include_self=own, gradient_units=80)
        for own in (True, False)
    ],
    "index_reduce.default": [
        call(
            positive(3, 4),
            1,
            Plain(torch.tensor([2, 0, 2])),
            positive(3, 3),
            reduce,
            include_self=own,
            units=8,
            gradient_units=80,
        )
        for reduce in ("prod", "mean", "amax", "amin")
        for own in (True, False)
    ]
    + [call(x(), 0, Plain(torch.tensor([0])), x(), "amax")],
    "_chunk_cat.default": [
        call([x(2, 3), x(4, 3)], 0, 2, gradient=False),
        call([x(1, 2, 3), x(1, 2, 5)], -1, 2, gradient=False),
    ],
    "masked_scatter_backward.default": [call(x(3, 4), Plain(bits(3, 4)), [3, 5], gradient=False)],
    "_unsafe_masked_index.default": [call(x(5, 2), Plain(bits(4, 2)), [Plain(indices(5, 4))], 0.5)],
    "_unsafe_masked_index_put_accumulate.default": [
        call(x(5, 2), Plain(bits(4, 2)), [Plain(indices(5, 4))], x(4, 2)),
    ],
    "isin.Tensor_Tensor": [
        call(torch.tensor([[1.0, 2.5], [3.0, 0.0]]).double(), torch.tensor([0.0, 2.5, 7.0]).double(), invert=invert)
        for invert in (False, True)
    ],
    "isin.Tensor_Scalar": [call(torch.tensor([1.0, 2.5]).double(), 2.5)],
    "fill.Scalar": [call(x(2, 3), 1.5, gradient=False)],
    "isposinf.default": [call(x(3))],
    "isneginf.default": [call(x(3))],
    "native_dropout_backward.default": [call(x(3, 4), Plain(bits(3, 4)), 1.25, gradient=False)],
    "narrow_copy.default": [call(x(5, 4), 0, 1, 3, gradient=False)],
    **{f"{name}_pad1d.default": [call(x(2, 5), [2, 1])] for name in ("reflection", "replication")},
    **{f"{name}_pad2d.default": [call(x(2, 4, 5), [2, 1, 0, 3])] for name in ("reflection", "replication")},
    **{f"{name}_pad3d.default": [call(x(1, 2, 3, 4, 5), [2, 1, 0, 3, 1, 1])] for name in ("reflection", "replication")},
    # --- losses --------------------------------------------------------------------------------------------------
    "_softmax.default": [
        call(x(3, 4), 1, False),
        call(x(3, 4), 0, False),
        call(x(6), -1, False),
        call(x(2, 9, 2), 1, False),
        call(x(), 0, False),
    ],
    "_safe_softmax.default": [call(x(3, 4), 1)],
    "_scaled_dot_product_flash_attention_for_cpu.default": [
        call(x(1, 2, 3, 4), x(1, 2, 5, 4), x(1, 2, 5, 4), units=12, gradient_units=60)
    ],
    "_softmax_backward_data.default": [call(x(3, 4), torch.softmax(x(3, 4), 1), 1, torch.float64, gradient=False)],
    "_log_softmax.default": [
        call(x(3, 4), 1, False),
        call(x(3, 6), 0, False),
        call(x(6), -1, False),
        call(x(), 0, False),
    ],
    "nll_loss_forward.default": [
        call(x(5, 3), target, weight, reduction, -100)
        for weight in (None, Fixed(positive(3)))
        for target in (Plain(torch.tensor([0, 2, 1, 1, 0])), Label(torch.tensor([0, 2, 1, 1, 0])))
        for reduction in (NONE, MEAN, SUM)
    ]
    + [call(x(3), Plain(torch.tensor(2)), None, MEAN, -100), call(x(3), Label(torch.tensor(2)), None, MEAN, -100)],
    "nll_loss2d_forward.default": [
        call(x(2, 3, 2, 2), target(torch.tensor([[[0, 2], [1, 1]], [[2, 0], [0, 1]]])), Fixed(positive(3)), MEAN, 1)
        for target in (Plain, Label)
    ],
    "multi_margin_loss.default": [
        call(x(3, 4), target(torch.tensor([0, 3, 1])), p, 0.75, Fixed(positive(4)), reduction)
        for target in (Plain, Label)
        for p, reduction in ((1, MEAN), (2, NONE))
    ],
    "multi_margin_loss_backward.default": [
        call(x(), x(3, 4), target(torch.tensor([0, 3, 1])), 1, 1, None, MEAN, gradient=False)
        for target in (Plain, Label)
    ],
    "multilabel_margin_loss_forward.default": [
        call(x(2, 4), Plain(torch.tensor([[3, 0, -1, 1], [2, -1, 0, 0]])), reduction) for reduction in (NONE, MEAN, SUM)
    ],
    "huber_loss.default": [call(x(3, 4), x(3, 4), reduction, 0.7) for reduction in (NONE, MEAN, SUM)],
    "huber_loss_backward.default": [call(x(), x(3, 4), x(3, 4), MEAN, 0.7, gradient=False)],
    "smooth_l1_loss.default": [call(x(3, 4), x(3, 4), reduction, 0.7) for reduction in (NONE, MEAN, SUM)],
    "smooth_l1_loss_backward.default": [call(x(), x(3, 4), x(3, 4), MEAN, 0.7, gradient=False)],
    "soft_margin_loss.default": [call(x(3, 4), Fixed(x(3, 4)), reduction) for reduction in (NONE, MEAN, SUM)],
    "soft_margin_loss_backward.default": [call(x(3), x(3), x(3), NONE, gradient=False, units=8)],
    "mse_loss.default": [call(x(3, 4), x(3, 4), reduction) for reduction in (NONE, MEAN, SUM)],
    "mse_loss_backward.default": [
        call(x(), x(3, 4), x(3, 4), MEAN, gradient=False, units=4),
        call(x(3), x(3), x(3), NONE, gradient=False, units=6),
    ],
    "binary_cross_entropy_with_logits.default": [
        *[call(x(3, 4), x(3, 4, low=0, high=1), None, None, reduction, units=6) for reduction in (NONE, MEAN, SUM)],
        call(
            x(3, 4), x(3, 4, low=0, high=1), Fixed(positive(4)), Fixed(positive(4)), NONE, units=12, gradient_units=40
        ),
    ],
    "binary_cross_entropy.default": [
        call(x(3, 4, low=0.1, high=0.9), x(3, 4, low=0, high=1), None, reduction, units=12, gradient_units=30)
        for reduction in (NONE, MEAN, SUM)
    ],
    "binary_cross_entropy_backward.default": [
        call(x(), x(3, 4, low=0.1, high=0.9), x(3, 4, low=0, high=1), None, MEAN, gradient=False, units=12),
        call(x(4), x(4, low=0.1, high=0.9), x(4, low=0, high=1), positive(4), NONE, gradient=False, units=40),
    ],
    # --- normalisation -------------------------------------------------------------------------------------------
    "native_layer_norm.default": [
        call(x(3, 6), [6], x(6), x(6), 1e-5, units=6, gradient_units=30),
        call(x(2, 3, 4), [3, 4], None, None, 1e-5, units=6, gradient_units=30),
    ],
    "native_batch_norm.default": [
        call(x(6, 3), x(3), x(3), Fixed(x(3)), Fixed(positive(3)), True, 0.1, 1e-5, units=8, gradient_units=40),
        call(x(4, 2, 3, 3), x(2), x(2), Fixed(x(2)), Fixed(positive(2)), False, 0.1, 1e-5, units=8, gradient_units=40),
        call(x(4, 2, 5), None, None, None, None, True, 0.1, 1e-5, units=8, gradient_units=40),
    ],
    "_native_batch_norm_legit.default": [
        call(x(6, 3), x(3), x(3), Fixed(x(3)), Fixed(positive(3)), True, 0.1, 1e-5, units=8, gradient_units=40),
    ],
    "_native_batch_norm_legit.no_stats": [call(x(6, 3), x(3), x(3), True, 0.1, 1e-5, units=8, gradient_units=40)],
    "_batch_norm_with_update.default": [
        call(x(6, 3), x(3), x(3), Fixed(x(3)), Fixed(positive(3)), 0.1, 1e-5, units=8, gradient_units=40),
    ],
    "_native_batch_norm_legit_no_training.default": [
        call(x(4, 2, 3, 3), x(2), x(2), Fixed(x(2)), Fixed(positive(2)), 0.1, 1e-5, units=16, gradient=False),
    ],
    # --- products ------------------------------------------------------------------------------------------------
    "mm.default": [
        call(x(3, 4), x(4, 2)),
        call(x(4, 3).t(), strided(4, 2)),
        call(x(0, 4), x(4, 2)),
        call(x(3, 0), x(0, 2)),
    ],
    "bmm.default": [call(x(2, 3, 4), x(2, 4, 2)), call(x(2, 4, 3).transpose(1, 2), x(2, 4, 2))],
    "addmm.default": [
        call(x(2), x(3, 4), x(4, 2)),
        call(x(3, 2), x(3, 4), x(4, 2), beta=0.5, alpha=-0.3),
        call(x(2), x(3, 4), x(4, 2), beta=0),
    ],
    "baddbmm.default": [
        call(x(2, 3, 2), x(2, 3, 4), x(2, 4, 2), beta=0.5, alpha=2),
        call(x(2), x(2, 3, 4), x(2, 4, 2)),
    ],
    "addbmm.default": [
        call(x(3, 2), x(2, 3, 4), x(2, 4, 2), beta=0.5, alpha=2),
    ],
    "addr.default": [call(x(3, 2), x(3), x(2), beta=0.5, alpha=2)],
    "linalg_cross.default": [call(x(4, 3), x(4, 3)), call(x(3, 2), x(3, 1), dim=0)],
    "mv.default": [call(x(3, 4), x(4))],
    "addmv.default": [call(x(3), x(3, 4), x(4), beta=2, alpha=0.25)],
    "dot.default": [call(x(5), x(5)), call(x(0), x(0))],
    "vdot.default": [call(x(5), x(5))],
    # --- reductions ----------------------------------------------------------------------------------------------
    "sum.default": unary(),
    "sum.dim_IntList": [
        call(x(3, 4, 2), [1]),
        call(x(3, 4), [0, 1], True),
        call(x(3, 4), [-1]),
        call(x(0, 4), [0]),
        call(x(), [0]),
    ],
    "mean.default": [call(x(3, 4)), call(x()), call(x(7))],
    "mean.dim": [call(x(3, 4, 2), [1]), call(x(3, 4), [0, 1], True), call(x(3, 4), [-1]), call(x(), [0])],
    "cumsum.default": [call(x(3, 4), 1), call(x(5), 0)],
    "var.correction": [
        call(x(3, 4), [1]),
        call(x(7)),
        call(x(3, 4), [0], correction=0, keepdim=True),
        call(x(), 0, correction=0),
    ],
    "std.correction": [call(x(3, 4), [1], units=6, gradient_units=30), call(x(7)), call(x(3, 4), None, correction=0)],
    "linalg_vector_norm.default": [
        call(x(3, 4)),
        call(x(3, 4), 2, [1]),
        call(x(3, 4), 2, [0], True),
        *[call(x(3, 4), order, [1], units=12, gradient_units=40) for order in (0, 1, 3, 4, math.inf, -math.inf)],
        call(x(3, 4), 6, [1], units=12, gradient_units=400),
        *[call(positive(3, 4), order, [1], units=40, gradient_units=200) for order in (0.5, -1, -2)],
        call(x(2, 3, 2), 4, [0, 2], True, units=12, gradient_units=40),
        call(x(3, 2), 1),
    ],
    **{
        name: [
            call(x(3, 4), 1),
            call(x(3, 7), 0, True),
            call(x(5), 0),
            call(x(3, 1), 1),
            call(x(2, 3, 5), -1),
            call(x(), 0),
        ]
        for name in ("max.dim", "min.dim")
    },
    "max.default": [call(x(3, 4)), call(x()), call(x(1))],
    "min.default": [call(x(3, 4)), call(x(13))],
    **{
        name: [call(x(3, 4), [1]), call(x(3, 4), [0, 1]), call(x(3, 5), [0], True), call(x(3)), call(x(), [0])]
        for name in ("amax.default", "amin.default")
    },
    **{
        name: [
            call(x(3, 4)),
            call(x(3, 7), 1),
            call(x(3, 4), 0, True),
            call(torch.ones(2, 5).double(), 1),
            call(x(1, 1), 1),
            call(x(), 0),
        ]
        for name in ("argmax.default", "argmin.default")
    },
    # --- structure -----------------------------------------------------------------------------------------------
    "view.default": [call(x(3, 4), [2, 6]), call(x(3, 4), [-1]), call(x(), [1, 1]), call(x(0, 4), [0, 2, 2])],
    "_unsafe_view.default": [call(x(3, 4), [12])],
    "_reshape_alias.default": [call(x(3, 4), [6, 2], [2, 1], gradient=False)],
    "permute.default": [call(x(2, 3, 4), [2, 0, 1])],
    "transpose_.default": [call(x(2, 3), 0, 1)],
    "transpose.int": [call(x(2, 3, 4), 0, -1)],
    "t.default": [call(x(3, 4)), call(x(3))],
    "expand.default": [call(x(3, 1), [2, 3, 4]), call(x(), [3]), call(x(3, 1), [-1, 5])],
    "select.int": [call(x(3, 4), 1, 2), call(x(3, 4), 0, -1)],
    "slice.Tensor": [
        call(x(5, 4), 0, 1, 4),
        call(x(5, 4), 1, 0, 4, 2),
        call(x(5), 0, -3, 9223372036854775807),
        call(x(5), 0, 3, 1),
    ],
    "unsqueeze.default": [call(x(3), 0), call(x(3), -1), call(x(), 0)],
    "squeeze.default": [call(x(1, 3, 1))],
    "squeeze.dim": [call(x(1, 3, 1), 0), call(x(1, 3), 1)],
    "squeeze.dims": [call(x(1, 3, 1), [0, 2])],
    "diagonal.default": [call(x(3, 4)), call(x(3, 4), 1), call(x(2, 3, 3), 0, 1, 2)],
    "unfold.default": [call(x(7), 0, 3, 2), call(x(2, 5), 1, 2, 1)],
    "unfold_backward.default": [call(x(3, 3), [7], 0, 3, 2)],
    "unbind.int": [call(x(3, 4)), call(x(3, 4), 1)],
    "split.Tensor": [call(x(5, 4), 2), call(x(5, 4), 3, 1)],
    "split_with_sizes.default": [call(x(5, 4), [2, 3]), call(x(5, 4), [1, 3], 1)],
    "unsafe_split.Tensor": [call(x(5, 4), 2)],
    "unsafe_split_with_sizes.default": [call(x(5, 4), [2, 3])],
    "flip.default": [call(x(3, 4), [0]), call(x(3, 4), [0, 1])],
    "roll.default": [call(x(3, 4), [1], [1]), call(x(5), [2])],
    "repeat.default": [call(x(3), [2, 2]), call(x(2, 1), [1, 3])],
    "tril.default": [call(x(3, 4)), call(x(3, 4), 1)],
    "triu.default": [call(x(3, 4)), call(x(3, 4), -1)],
    "constant_pad_nd.default": [call(x(2, 3), [1, 2]), call(x(2, 3), [1, 0, 0, 1], 0.5), call(x(3), [-1, 1])],
    "clone.default": [call(x(3, 4)), call(x(4, 3).t(), memory_format=torch.contiguous_format)],
    "diagonal_backward.default": [call(x(3), [3, 4], 1, 0, 1)],
    "detach.default": [call(x(3), gradient=False)],
    "alias.default": [call(x(3), gradient=False)],
    "lift_fresh.default": [call(x(3))],
    "lift_fresh_copy.default": [call(x(3))],
    "cat.default": [
        call([x(3, 4), x(2, 4)]),
        call([x(3, 1), x(3, 2), x(3, 4)], 1),
        call([x(3), x(0)]),
        call([x(2, 3), x(2, 3)], -1),
    ],
    "stack.default": [call([x(3), x(3)]), call([x(3), x(3)], 1), call([x(3), x(3)], -1)],
    "_to_copy.default": [call(x(3), dtype=torch.float32)],
    "copy_.default": [call(x(3, 4), x(3, 4)), call(x(3, 4), x(4))],
    "select_backward.default": [call(x(3), [3, 4], 1, 2)],
    "slice_backward.default": [call(x(2, 4), [5, 4], 0, 1, 5, 2)],
}

#: Rows that reuse what their forward left behind: (the sample whose gradient calls them).
BY_GRADIENT: dict[str, str] = {
    "linalg_lu_solve.default": "_linalg_solve_ex.default",
    "_pdist_backward.default": "_pdist_forward.default",
    **{
        f"{name}_pad{dims}d_backward.default": f"{name}_pad{dims}d.default"
        for name in ("reflection", "replication")
        for dims in (1, 2, 3)
    },
    "_scaled_dot_product_flash_attention_for_cpu_backward.default": (
        "_scaled_dot_product_flash_attention_for_cpu.default"
    ),
    "log_sigmoid_backward.default": "log_sigmoid_forward.default",
    "native_batch_norm_backward.default": "native_batch_norm.default",
    "batch_norm_backward.default": "_batch_norm_with_update.default",
    "max_pool2d_with_indices_backward.default": "max_pool2d_with_indices.default",
    "_log_softmax_backward_data.default": "_log_softmax.default",
    "nll_loss_backward.default": "nll_loss_forward.default",
    "nll_loss2d_backward.default": "nll_loss2d_forward.default",
    "multilabel_margin_loss_backward.default": "multilabel_margin_loss_forward.default",
    "native_layer_norm_backward.default": "native_layer_norm.default",
}

#: Rows without a value to compare: where they are tested.
ELSEWHERE: dict[str, str] = {
    **{f"bitwise_{name}.Scalar": "tests/lowering/test_truth_values.py" for name in ("and", "or", "xor")},
    **{
        f"_fused_{name}_.{overload}": "tests/tensor/test_optimizers.py"
        for name in ("sgd", "adam", "adamw", "adagrad")
        for overload in ("default", "tensor_lr")
    },
    **{
        f"_thnn_fused_{name}.default": "torch has none for CPU: tests/tensor/test_recurrent.py"
        for name in ("lstm_cell", "lstm_cell_backward_impl", "gru_cell", "gru_cell_backward")
    },
    **{
        f"{name}.default": "refused: test_tensor_functions.py"
        for name in ("_unique2", "unique_dim", "unique_consecutive", "nonzero", "mode", "bincount")
    },
    "_linalg_eigh.default": "signs of vectors are arbitrary: test_tensor_functions.py",
    "_linalg_svd.default": "signs of vectors are arbitrary: test_tensor_functions.py",
    "remainder.Tensor": "public divisors: test_tensor_functions.py",
    "fmod.Tensor": "public divisors: test_tensor_functions.py",
    "_trilinear.default": "torch.nn.functional.bilinear: test_tensor_functions.py",
    "linalg_pinv.atol_rtol_tensor": "refused: test_tensor_functions.py; the gradient of linalg_lstsq",
    "maximum.out": "tests/tensor/test_training.py, amsgrad",
    "embedding_renorm.default": "its in-place form: layers.py, embedding norm",
    "_embedding_bag_forward_only.default": "the same function: layers.py, embedding_bag",
    "empty_like.default": "contents are undefined",
    "new_empty.default": "contents are undefined",
    "new_empty_strided.default": "contents are undefined",
    "bernoulli_.float": "random: test_lowering.py, dropout",
    "rand_like.default": "refused: test_lowering.py",
    "randn_like.default": "refused: test_lowering.py",
    "bernoulli.default": "refused: test_lowering.py",
    "normal_.default": "refused: test_lowering.py",
    "uniform_.default": "refused: test_lowering.py",
    "random_.default": "refused: test_lowering.py",
}
