"""The integer factors against decimal arithmetic."""

from __future__ import annotations

from decimal import Context, Decimal, localcontext

import pytest
import torch
from torch import Tensor

from torchveil.kernels.tables import (
    EXPONENT_LIMIT,
    TRIG_BITS,
    cos_sin,
    decimal_cos_sin,
    exponential,
    harmonics,
    iterate_harmonics,
)

ONE = 1 << TRIG_BITS
PINNED_COS = [1073741824, 1073741824, 1073741821, 1073721611, -536870916, 0, 1073741824]
PINNED_SIN = [0, 7, 77566, 6588356, -929887694, 1073741824, -7]
PINNED_SUMS = (2199023032320, -2867080006899712)
PINNED_EXP = [0, 227992, 1048560, 1048576, 1048592, 2850325, 4440253894023]
PINNED_EXP_SUM = 67075546197108


def draws(count: int, low: int, high: int, seed: int) -> Tensor:
    return torch.randint(low, high, (count,), generator=torch.Generator().manual_seed(seed))


def true_cos_sin(phase: int, bits: int) -> tuple[Decimal, Decimal]:
    cosine, sine = decimal_cos_sin(Decimal(phase % (1 << bits)) / (1 << bits))
    return cosine * ONE, sine * ONE


@pytest.mark.parametrize(
    ("turns", "cosine", "sine"),
    [
        ("0", "1", "0"),
        ("0.25", "0", "1"),
        ("0.5", "-1", "0"),
        ("0.125", "0.70710678118654752440084436210484903928", "0.70710678118654752440084436210484903928"),
        ("1", "1", "0"),
        ("-0.0833333333333333333333333333333333333333333", "0.86602540378443864676372317075293618347", "-0.5"),
    ],
)
def test_decimal_cos_sin_at_known_angles(turns: str, cosine: str, sine: str) -> None:
    found = decimal_cos_sin(Decimal(turns))
    assert abs(found[0] - Decimal(cosine)) < Decimal("1e-37")
    assert abs(found[1] - Decimal(sine)) < Decimal("1e-37")


@pytest.mark.parametrize("bits", [3, 5, 11, 12, 16, 21, 22, 23, 24, 31, 40, 41, 48, 62])
def test_cos_sin_is_within_its_bound(bits: int) -> None:
    quarter = 1 << (bits - 2)
    edges = [corner * quarter + step for corner in range(4) for step in (-1, 0, 1)]
    phases = torch.cat([draws(200, -(1 << 62), 1 << 62, bits), torch.tensor([*edges, -(1 << 63), (1 << 63) - 1])])
    cosine, sine = cos_sin(phases, bits)
    for phase, c, s in zip(phases.tolist(), cosine.tolist(), sine.tolist(), strict=True):
        true_cos, true_sin = true_cos_sin(phase, bits)
        assert abs(c - true_cos) < Decimal("1.5")
        assert abs(s - true_sin) < Decimal("1.5")


def test_cos_sin_is_pinned() -> None:
    """The integers themselves are part of the protocol: a change would make parties of two versions disagree."""
    phases = torch.tensor([0, 1, 12345, 1 << 20, 715827882, 1 << 28, (1 << 30) - 1])
    cosine, sine = cos_sin(phases, 30)
    assert cosine.tolist() == PINNED_COS
    assert sine.tolist() == PINNED_SIN
    weights = torch.arange(1, 4097)
    wide_cos, wide_sin = cos_sin(weights * 1125899906842597, 62)
    assert int((wide_cos * weights).sum()) == PINNED_SUMS[0]
    assert int((wide_sin * weights).sum()) == PINNED_SUMS[1]


def test_cos_sin_uses_only_the_low_bits() -> None:
    phases = draws(64, 0, 1 << 20, 1)
    for shifted in (phases + (1 << 20), phases - (1 << 20), phases + (1 << 62)):
        assert torch.equal(cos_sin(shifted, 20)[0], cos_sin(phases, 20)[0])
        assert torch.equal(cos_sin(shifted, 20)[1], cos_sin(phases, 20)[1])


@pytest.mark.parametrize("shape", [(), (0,), (3, 1, 2)])
def test_any_shape_and_the_argument_is_kept(shape: tuple[int, ...]) -> None:
    phase = torch.full(shape, 77777, dtype=torch.int64)
    for bits in (8, 20, 33):
        cosine, sine = cos_sin(phase, bits)
        assert cosine.shape == sine.shape == shape
    assert exponential(phase, 1 << 16, 20).shape == shape
    assert exponential(phase.expand(2, *shape), 1 << 24, 20).shape == (2, *shape)
    assert torch.equal(phase, torch.full(shape, 77777, dtype=torch.int64))


def test_views_give_the_same_values() -> None:
    phases = draws(60, 0, 1 << 40, 2).reshape(6, 10)
    assert torch.equal(cos_sin(phases.T, 40)[0], cos_sin(phases, 40)[0].T)
    assert torch.equal(exponential(phases.T >> 20, 1 << 16, 20), exponential(phases >> 20, 1 << 16, 20).T)


@pytest.mark.parametrize("frequencies", [tuple(range(1, 49)), tuple(range(1, 96, 2)), (2, 4, 6), (5, 9, 17), (1,), ()])
def test_harmonics_are_within_their_bound(frequencies: tuple[int, ...]) -> None:
    bits = 33
    phases = draws(40, 0, 1 << bits, 3)
    found = harmonics(*cos_sin(phases, bits), frequencies)
    assert len(found) == len(frequencies)
    for frequency, (cosine, sine) in zip(frequencies, found, strict=True):
        bound = Decimal("2.9") * frequency
        for phase, c, s in zip(phases.tolist(), cosine.tolist(), sine.tolist(), strict=True):
            true_cos, true_sin = true_cos_sin(frequency * phase, bits)
            assert (c - true_cos) ** 2 + (s - true_sin) ** 2 < bound * bound


def test_iterating_gives_the_same_harmonics_and_keeps_the_arguments() -> None:
    phases = draws(32, 0, 1 << 30, 4)
    cosine, sine = cos_sin(phases, 30)
    kept = cosine.clone(), sine.clone()
    frequencies = (1, 3, 4, 9, 11, 30)
    whole = harmonics(cosine, sine, frequencies)
    for expected, (frequency, c, s), wanted in zip(
        whole, iterate_harmonics(cosine, sine, frequencies), frequencies, strict=True
    ):
        assert frequency == wanted
        assert torch.equal(c, expected[0])
        assert torch.equal(s, expected[1])
    assert torch.equal(cosine, kept[0])
    assert torch.equal(sine, kept[1])


@pytest.mark.parametrize("frequencies", [(0, 1), (2, 1), (1, 1), (-1,)])
def test_harmonics_reject_frequencies_out_of_order(frequencies: tuple[int, ...]) -> None:
    one = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="ascending"):
        harmonics(one, one, frequencies)
    with pytest.raises(ValueError, match="ascending"):
        iterate_harmonics(one, one, frequencies)


def test_harmonics_reject_different_shapes() -> None:
    with pytest.raises(ValueError, match="shape"):
        harmonics(torch.zeros(1, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), (1,))


@pytest.mark.parametrize("unit", [1, 3, 85, 86, 1000, 1 << 16, 100_000, (1 << 18) + 1, 1 << 24, 1 << 32])
@pytest.mark.parametrize(
    ("fraction_bits", "low", "high"),
    [(42, -24, 0), (26, -24, 24), (30, -24, 1), (1, -24, 0), (42, -5, 13), (19, 0, 24)],
)
def test_exponential_is_within_its_bound(unit: int, fraction_bits: int, low: int, high: int) -> None:
    edges = [low * unit, low * unit + 1, high * unit - 1, high * unit, (low + high) * unit // 2]
    exponents = torch.cat([draws(60, low * unit, high * unit + 1, unit), torch.tensor(edges)])
    found = exponential(exponents, unit, fraction_bits, low=low, high=high)
    with localcontext(Context(prec=40)):
        for exponent, value in zip(exponents.tolist(), found.tolist(), strict=True):
            true = (Decimal(exponent) / unit).exp() * (1 << fraction_bits)
            assert abs(value - true) <= max(Decimal(1), true / (1 << 28))
            assert abs(value - true) <= Decimal("0.51") + true / Decimal(2) ** Decimal("29.3")


def test_exponential_of_zero_is_one() -> None:
    for unit in (1, 1000, 1 << 16, 1 << 24):
        assert abs(int(exponential(torch.tensor(0), unit, 20)) - (1 << 20)) <= 1


def test_exponential_clamps_to_its_range() -> None:
    outside = torch.tensor([-(1 << 60), -25 << 16, 2 << 16, 1 << 60])
    found = exponential(outside, 1 << 16, 20, low=-24, high=1)
    assert found[0] == found[1] == exponential(torch.tensor(-24 << 16), 1 << 16, 20, low=-24, high=1)
    assert found[2] == found[3] == exponential(torch.tensor(1 << 16), 1 << 16, 20, low=-24, high=1)


def test_exponential_is_pinned() -> None:
    exponents = torch.tensor([-24 << 16, -100_000, -1, 0, 1, 65536, 1_000_000])
    assert exponential(exponents, 1 << 16, 20).tolist() == PINNED_EXP
    weights = torch.arange(1, 4097)
    total = (exponential(-weights * 4001, 1_000_003, 30, high=0) * weights).sum()
    assert int(total) == PINNED_EXP_SUM


@pytest.mark.parametrize(
    ("unit", "fraction_bits", "low", "high"),
    [
        (0, 20, -24, 24),
        ((1 << 32) + 1, 20, -24, 24),
        (1 << 16, 0, -24, 24),
        (1 << 16, 43, -24, 0),
        (1 << 16, 27, -24, 24),
        (1 << 16, 20, -EXPONENT_LIMIT - 1, 0),
        (1 << 16, 20, 0, EXPONENT_LIMIT + 1),
        (1 << 16, 20, 1, 1),
    ],
)
def test_exponential_rejects_arguments_out_of_range(unit: int, fraction_bits: int, low: int, high: int) -> None:
    with pytest.raises(ValueError, match=r"must be|must satisfy|reaches"):
        exponential(torch.zeros(1, dtype=torch.int64), unit, fraction_bits, low=low, high=high)


@pytest.mark.parametrize("bits", [2, 63, -1])
def test_cos_sin_rejects_bits_out_of_range(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        cos_sin(torch.zeros(1, dtype=torch.int64), bits)


def test_other_types_are_rejected() -> None:
    for wrong in (torch.zeros(1), torch.zeros(1, dtype=torch.int32)):
        with pytest.raises(TypeError, match="int64"):
            cos_sin(wrong, 20)
        with pytest.raises(TypeError, match="int64"):
            exponential(wrong, 1 << 16, 20)
        with pytest.raises(TypeError, match="int64"):
            harmonics(wrong, wrong, (1,))
