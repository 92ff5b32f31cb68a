"""Fixed precision in the clear."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import syft as sy
from torchveil import ConfigurationError, EncodingError


def fixed(values: Any, digits: int = 3) -> Any:
    return torch.tensor(values).fix_precision(precision_fractional=digits)


def test_rounds_to_nearest() -> None:
    assert fixed([0.29, -0.29, 0.001], 2).raw.tolist() == [29, -29, 0]
    assert torch.tensor([0.5, 0.25]).fix_prec(base=2, precision_fractional=16).raw.tolist() == [2**15, 2**14]


def test_whole_numbers_are_exact() -> None:
    assert torch.tensor([1, -2]).fix_precision().raw.tolist() == [1000, -2000]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e18])
def test_refuses_what_it_cannot_hold(bad: float) -> None:
    with pytest.raises(EncodingError):
        torch.tensor([1.0, bad], dtype=torch.float64).fix_precision()


def test_refuses_an_impossible_format() -> None:
    with pytest.raises(ConfigurationError):
        torch.tensor([1.0]).fix_precision(precision_fractional=12)
    with pytest.raises(ValueError, match=r"Unsupported arg value for dtype. Use dtype='long' or dtype='int'."):
        torch.tensor([1.0]).fix_precision(dtype="float")
    assert torch.tensor([1.0]).fix_precision(dtype="int", kappa=1).raw.tolist() == [1000]


def test_arithmetic_is_that_of_the_numbers_rounded() -> None:
    x, y = fixed([1.5, -2.25, 3.0]), fixed([0.5, 4.0, -1.25])
    for result, expected in (
        (x + y, [2.0, 1.75, 1.75]),
        (x - y, [1.0, -6.25, 4.25]),
        (x * y, [0.75, -9.0, -3.75]),
        (x / 3, [0.5, -0.75, 1.0]),
        (x * 0.5, [0.75, -1.125, 1.5]),
        (1 - x, [-0.5, 3.25, -2.0]),
        (x @ y, -12.0),
        (x.sum(), 2.25),
        (torch.relu(x), [1.5, 0.0, 3.0]),
    ):
        assert type(result) is sy.FixedPrecisionTensor
        assert result.float_precision().tolist() == expected
    assert (x > y).tolist() == [True, False, True]
    assert (x == x).all()


def test_mixed_precision_and_plain_operands() -> None:
    assert (fixed([0.1234], 4) + fixed([1.0], 3)).raw.tolist() == [11234]
    assert (fixed([1.0]) + torch.tensor([0.25])).raw.tolist() == [1250]


def test_in_place_and_views() -> None:
    x = fixed([[1.0, 2.0], [3.0, 4.0]])
    x[0].mul_(2)
    x.t()[1].add_(0.5)
    assert x.float_prec().tolist() == [[2.0, 4.5], [3.0, 4.5]]


def test_becomes_something_else_in_place() -> None:
    x = torch.tensor([1.5])
    before = x
    x.fix_precision_()
    assert x is before and type(x) is sy.FixedPrecisionTensor
    x.float_prec_()
    assert type(x) is torch.Tensor and x.tolist() == [1.5]


def test_reading_copying_saving() -> None:
    x = fixed([1.5, 2.0])
    assert x.tolist() == [1.5, 2.0]
    assert x.numpy().tolist() == [1.5, 2.0]
    assert x[0].item() == 1.5
    y = copy.deepcopy(x)
    y.zero_()
    assert x.tolist() == [1.5, 2.0]
    stream = io.BytesIO()
    torch.save(x, stream)
    stream.seek(0)
    assert torch.load(stream, weights_only=False).raw.tolist() == [1500, 2000]


def test_changes_of_precision() -> None:
    assert fixed([0.1236], 4).fix_precision().raw.tolist() == [124]
    assert torch.tensor([True, False]).float_precision().tolist() == [1.0, 0.0]


def test_a_model_computes_in_fixed_precision() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    expected = model(x)
    weight = model.weight
    model.fix_precision(precision_fractional=5)
    assert model.weight is weight and type(model.weight.detach()) is sy.FixedPrecisionTensor
    out = model(x.fix_precision(precision_fractional=5))
    assert torch.allclose(out.float_precision(), expected, atol=1e-4)
    out.sum().backward()
    assert model.weight.grad is not None
    model.float_precision()
    assert model.weight is weight and type(model.weight) is nn.Parameter and model.weight.requires_grad
