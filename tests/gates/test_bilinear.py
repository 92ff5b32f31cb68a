"""Products: every bilinear function against torch, and the convolution's gradients against autograd."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.support import PARTIES, Machine, between, ring, same
from torchveil.kernels import BILINEAR, conv2d_output_shape

BROADCASTS = [
    ((), ()),
    ((), (3,)),
    ((0,), (0,)),
    ((0, 3), (1,)),
    ((4, 1), (5,)),
    ((2, 3, 5), (3, 1)),
    ((1009,), (1009,)),
]


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize(("left", "right"), BROADCASTS)
def test_elementwise_products_broadcast(n: int, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = ring(*left, seed=1), ring(*right, seed=2)
    m = Machine(n)
    x, y = m.input(a), m.input(b)
    m.open(x, y)
    same(m.value(m.product(x, y)), a * b)
    same(m.value(m.product(x, x)), a * a)
    m.check()
    m.check_costs()


@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 5, 2), (0, 3, 2), (2, 0, 3), (33, 65, 17)])
def test_matrix_products(n: int, sizes: tuple[int, int, int]) -> None:
    rows, inner, columns = sizes
    a, b = ring(rows, inner, seed=1), ring(inner, columns, seed=2)
    m = Machine(n)
    x, y = m.opened(a), m.opened(b)
    same(m.value(m.product(x, y, "mm")), torch.mm(a, b))
    left, right = ring(3, rows, inner, seed=3), ring(3, inner, columns, seed=4)
    x, y = m.opened(left), m.opened(right)
    same(m.value(m.product(x, y, "bmm")), torch.bmm(left, right))
    m.check()
    m.check_costs()


def test_products_of_small_integers_agree_with_doubles() -> None:
    a, b = between(-(2**20), 2**20, 20, 30), between(-(2**20), 2**20, 30, 10, seed=1)
    m = Machine(2)
    out = m.product(m.opened(a), m.opened(b), "mm")
    same(m.value(out).double(), a.double() @ b.double())


def test_views_and_derived_openings_are_factors() -> None:
    a, b = ring(4, 6, seed=1), ring(4, 6, seed=2)
    m = Machine(3)
    x, y = m.opened(a), m.opened(b)
    transposed = m.map(x, "t")
    total = m.combine((x, 2), (y, -1), constant=5)
    expanded = m.map(m.map(x, "slice", 0, 0, 1, 1), "expand", [4, 6])
    same(m.value(m.product(transposed, y, "mm")), a.t() @ b)
    same(m.value(m.product(total, x)), (2 * a - b + 5) * a)
    same(m.value(m.product(expanded, y)), a[:1] * b)
    m.check()
    m.check_costs()


# --- convolutions ----------------------------------------------------------------------------------------------------

CONVOLUTIONS = [
    # (N, C, H, W), (O, C/groups, kh, kw), stride, padding, dilation, groups
    ((2, 3, 6, 5), (4, 3, 3, 3), (1, 1), (0, 0), (1, 1), 1),
    ((2, 3, 7, 6), (4, 3, 3, 2), (2, 1), (1, 2), (1, 1), 1),
    ((1, 4, 9, 8), (6, 2, 2, 3), (3, 2), (0, 1), (2, 1), 2),
    ((2, 4, 5, 5), (4, 1, 3, 3), (2, 2), (1, 1), (1, 1), 4),
    ((3, 2, 4, 4), (1, 2, 4, 4), (1, 1), (0, 0), (1, 1), 1),
    ((1, 1, 8, 8), (2, 1, 1, 1), (3, 3), (0, 0), (1, 1), 1),
    ((1, 2, 10, 9), (2, 2, 3, 3), (2, 3), (3, 2), (2, 2), 1),
]


def _convolve(case: Any) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    x_shape, w_shape, stride, padding, dilation, groups = case
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    shape = conv2d_output_shape(x_shape, w_shape, **options)
    return between(-99, 99, *x_shape), between(-99, 99, *w_shape, seed=1), between(-99, 99, *shape, seed=2), options


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_and_its_gradients_agree_with_autograd(case: Any) -> None:
    x, w, grad, options = _convolve(case)
    x_float, w_float = x.double().requires_grad_(), w.double().requires_grad_()
    out = functional.conv2d(x_float, w_float, **options)
    out.backward(grad.double())
    assert x_float.grad is not None and w_float.grad is not None
    m = Machine(2)
    xs, ws, gs = m.opened(x), m.opened(w), m.opened(grad)
    kernel, size = tuple(w.shape[2:]), tuple(x.shape[2:])
    same(m.value(m.product(xs, ws, "conv2d", **options)).double(), out.detach())
    same(m.value(m.product(xs, gs, "conv2d_weight_grad", kernel=kernel, **options)).double(), w_float.grad)
    same(m.value(m.product(gs, ws, "conv2d_input_grad", size=size, **options)).double(), x_float.grad)
    m.check()
    m.check_costs()


@pytest.mark.parametrize("n", [3, 4])
def test_convolutions_for_more_parties_over_the_whole_ring(n: int) -> None:
    _, _, grad, options = _convolve(CONVOLUTIONS[1])
    x, w = ring(2, 3, 7, 6, seed=1), ring(4, 3, 3, 2, seed=2)
    g = ring(*grad.shape, seed=3)
    m = Machine(n)
    xs, ws, gs = m.opened(x), m.opened(w), m.opened(g)
    m.product(xs, ws, "conv2d", **options)
    m.product(xs, gs, "conv2d_weight_grad", kernel=(3, 2), **options)
    m.product(gs, ws, "conv2d_input_grad", size=(7, 6), **options)
    m.check()
    m.check_costs()


def test_ring_convolution_equals_a_sum_in_unbounded_integers() -> None:
    x, w = ring(1, 1, 3, 3, seed=5), ring(1, 1, 2, 2, seed=6)
    out = BILINEAR["conv2d"](x, w, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
    for row, column in product(range(2), range(2)):
        total = sum(int(x[0, 0, row + i, column + j]) * int(w[0, 0, i, j]) for i in range(2) for j in range(2))
        assert int(out[0, 0, row, column]) % 2**64 == total % 2**64


@pytest.mark.parametrize("function", ["mul", "mm", "bmm"])
def test_bilinear_functions_accept_strided_operands(function: str) -> None:
    shape = (3, 4, 4) if function == "bmm" else (4, 4)
    a, b = ring(*shape, seed=1).transpose(-1, -2), ring(*shape, seed=2).flip(0)
    m = Machine(2)
    same(m.value(m.product(m.opened(a), m.opened(b), function)), BILINEAR[function](a, b))
    m.check()
