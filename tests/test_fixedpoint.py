"""Fixed point: encoding rounds to nearest, refuses what does not fit; rationals are small and exact enough."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchveil.errors import ConfigurationError, EncodingError, PrecisionLoss
from torchveil.fixedpoint import (
    ENCODABLE,
    SCALAR_PRECISION,
    FixedPoint,
    check_divisor,
    decode,
    encode,
    encode_scalar,
    finer,
    rational,
)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.1, (1, 10)),
        (1 / 3, (1, 3)),
        (1e-3, (1, 1000)),
        (0.3, (3, 10)),
        (-0.3, (-3, 10)),
        (1 / 128, (1, 128)),
        (2.5, (5, 2)),
        (7.0, (7, 1)),
        (-4.0, (-4, 1)),
        (0.0, (0, 1)),
        (1e10, (10**10, 1)),
        (1e-10, (1, 10**10)),
    ],
)
def test_familiar_numbers_have_their_familiar_fractions(value: float, wanted: tuple[int, int]) -> None:
    assert rational(Fraction(value)) == wanted


def close(value: Fraction, numerator: int, divisor: int) -> bool:
    """Whether divisor/numerator is 1/value up to a relative 2^-24."""
    return abs(Fraction(divisor, numerator) * value - 1) <= SCALAR_PRECISION


@pytest.mark.parametrize("value", [3.14159, math.pi, math.e, 0.7, 0.123456789, 99.99, 1 - 2**-10, 1e-5 / 3, 123.456])
def test_no_smaller_numerator_would_do(value: float) -> None:
    exact = Fraction(value)
    numerator, divisor = rational(exact)
    assert close(exact, numerator, divisor)
    for smaller in range(1, numerator):
        nearest = round(smaller / exact)
        assert not any(d > 0 and close(exact, smaller, d) for d in (nearest - 1, nearest, nearest + 1))


@given(st.floats(1e-12, 1e8) | st.floats(-1e8, -1e-12))
@settings(deadline=None)
def test_the_relative_error_is_below_its_bound(value: float) -> None:
    numerator, divisor = rational(Fraction(value))
    assert divisor > 0 and (numerator > 0) == (value > 0)
    error = abs(Fraction(numerator, divisor) / Fraction(value) - 1)
    assert error <= SCALAR_PRECISION * (1 + SCALAR_PRECISION * 2)


@given(st.floats(-(2.0**40), 2.0**40), st.sampled_from([1, 10**3, 2**16, 2**20, 10**6]))
@settings(deadline=None)
def test_encoding_rounds_to_nearest(value: float, scale: int) -> None:
    raw = int(encode(torch.tensor([value], dtype=torch.float64), scale))
    # The product with the scale may itself round when it has more than 53 bits.
    slack = abs(Fraction(value) * scale) / 2**52
    assert abs(Fraction(value) * scale - raw) <= Fraction(1, 2) + slack


@pytest.mark.parametrize(
    ("value", "wanted"), [(0.5, 0), (1.5, 2), (-0.5, 0), (-1.5, -2), (0.49, 0), (0.51, 1), (-0.51, -1)]
)
def test_rounding_of_single_values(value: float, wanted: int) -> None:
    assert int(encode(torch.tensor(value, dtype=torch.float64), 1)) == wanted


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(value: float, dtype: torch.dtype) -> None:
    with pytest.raises(EncodingError) as caught:
        encode(torch.tensor([1.0, value], dtype=dtype), 2**16)
    assert "1 of 2" in str(caught.value)


@pytest.mark.parametrize("value", [1e15, -1e15, 2.0**45, -(2.0**45), 1e300])
def test_values_that_do_not_fit_are_refused(value: float) -> None:
    with pytest.raises(EncodingError):
        encode(torch.tensor([0.0, value], dtype=torch.float64), 2**16)


def test_the_largest_values_that_fit() -> None:
    largest = 2.0**45 - 2.0**-7  # exact in float64
    raw = encode(torch.tensor([largest, -largest], dtype=torch.float64), 2**16)
    assert raw.tolist() == [int(largest * 2**16), -int(largest * 2**16)]
    assert abs(int(raw[0])) < ENCODABLE


@pytest.mark.parametrize("value", [2**45, -(2**45), 2**62, -(2**63)])
def test_whole_numbers_are_checked_without_rounding(value: int) -> None:
    with pytest.raises(EncodingError):
        encode(torch.tensor([value]), 2**16)


def test_whole_numbers_and_bools() -> None:
    assert encode(torch.tensor([2**45 - 1, -3]), 2**16).tolist() == [(2**45 - 1) << 16, -3 << 16]
    assert encode(torch.tensor([True, False]), 1000).tolist() == [1000, 0]


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (4, 5)])
def test_shapes(shape: tuple[int, ...]) -> None:
    values = torch.linspace(-3, 3, math.prod(shape), dtype=torch.float64).reshape(shape)
    raw = encode(values, 2**16)
    assert raw.shape == values.shape and raw.dtype == torch.int64
    assert bool(((decode(raw, 2**16) - values).abs() <= 2.0**-17).all())


def test_an_error_never_quotes_a_value() -> None:
    with pytest.raises(EncodingError) as caught:
        encode(torch.tensor([123456789123456789.0]), 2**16)
    assert "123456789" not in str(caught.value).split("at:")[0]


@pytest.mark.parametrize(("base", "digits"), [(1, 3), (0, 1), (2, -1), (2, 27), (10, 8)])
def test_impossible_formats(base: int, digits: int) -> None:
    with pytest.raises(ConfigurationError):
        FixedPoint(base, digits)


def test_formats() -> None:
    assert FixedPoint(10, 3).scale == 1000 and FixedPoint().scale == 2**16
    assert finer(FixedPoint(10, 3), FixedPoint(2, 16)) == FixedPoint(2, 16)


def test_public_scalars() -> None:
    assert encode_scalar(0.1, 1000, op="add") == 100
    assert encode_scalar(0.0, 1000, op="add") == 0
    assert encode_scalar(-2.5, 2**16, op="add") == -163840
    for bad in (math.nan, math.inf, 1e18):
        with pytest.raises(EncodingError):
            encode_scalar(bad, 1000, op="add")
    with pytest.raises(PrecisionLoss):
        encode_scalar(1e-5, 1000, op="add")


def test_divisors_that_leave_nothing() -> None:
    check_divisor(2**61 - 1, Fraction(1, 2**61 - 1), op="mul")
    with pytest.raises(PrecisionLoss):
        check_divisor(2**61, Fraction(1, 2**61), op="mul")


@pytest.mark.parametrize("shape", [(3, 20_000), (1 << 14,), (5,), (0, 3)])
def test_encoding_in_pieces_is_encoding_at_once(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape) * 1e4
    expected = (values.double() * 65536).round().to(torch.int64)
    assert torch.equal(encode(values, 65536), expected)
    turned = encode(values.t(), 65536) if len(shape) == 2 else encode(values, 65536)
    assert torch.equal(turned, expected.t() if len(shape) == 2 else expected)
    assert turned.is_contiguous() == (len(shape) < 2 or not values.numel())


@pytest.mark.parametrize("place", [0, 40_000, 59_999])
@pytest.mark.parametrize(("bad", "words"), [(float("nan"), "nan"), (float("-inf"), "nan"), (1e30, "does not fit")])
def test_one_bad_value_anywhere_is_found(place: int, bad: float, words: str) -> None:
    values = torch.randn(3, 20_000)
    values.view(-1)[place] = bad
    with pytest.raises(EncodingError, match=words):
        encode(values, 65536)
