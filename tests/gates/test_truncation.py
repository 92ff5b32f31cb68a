"""Truncation: never off by a unit, for any divisor, any value below 2^62 and any number of parties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support import PARTIES, SHAPES, Machine, between, real_driver, same
from torchveil.errors import RangeExceeded
from torchveil.gates.truncation import ERROR_ULPS

LIMIT = 2**62 - 1
DIVISORS = (1, 2, 3, 10, 100, 1000, 2**16, 2**26, 10**12 + 39, 2**40, 2**61 - 1)


def wide(*shape: int, seed: int = 0) -> Tensor:
    """Values of all magnitudes below 2^62, with the extremes."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randint(-LIMIT, LIMIT + 1, shape, generator=generator)
    value = value >> torch.randint(0, 62, shape, generator=generator)
    flat = value.view(-1)
    edges = torch.tensor([LIMIT, -LIMIT, 0, 1, -1, LIMIT - 1, 1 - LIMIT])[: flat.numel()]
    flat[: len(edges)] = edges
    return value


def below_one_unit(out: Tensor, z: Tensor, divisor: int) -> bool:
    """|out - z/d| < 1, in integers: z and out * d are below 2^62 + d <= 2^63."""
    error = out * divisor - z
    return bool((error.abs() < divisor).all())


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize("divisor", DIVISORS)
def test_the_error_is_below_one_unit(n: int, divisor: int) -> None:
    z = wide(1001, seed=n)
    m = Machine(n)
    out = m.truncate(m.opened(z), divisor)
    assert below_one_unit(m.value(out), z, divisor)
    assert m.ulps(out) <= ERROR_ULPS
    m.check()
    m.check_costs()


@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(n: int, shape: tuple[int, ...]) -> None:
    z = wide(*shape)
    m = Machine(n)
    x = m.opened(z)
    bit = m.sign(x)
    out, gated = m.truncate(x, 1000), m.truncate(x, 1000, bit)
    assert below_one_unit(m.value(out), z, 1000)
    assert m.ulps(out) <= ERROR_ULPS and m.ulps(gated) <= ERROR_ULPS
    same(m.value(gated)[z >= 0], torch.zeros_like(z)[z >= 0])
    assert below_one_unit(m.value(gated)[z < 0], z[z < 0], 1000)
    m.check()
    m.check_costs()


SHARED = Machine(2)


@given(st.lists(st.integers(-LIMIT, LIMIT), min_size=1, max_size=8), st.integers(2, 2**40))
@settings(max_examples=60, deadline=None)
def test_any_value_by_any_divisor(values: list[int], divisor: int) -> None:
    m = SHARED
    x = m.opened(torch.tensor(values))
    out = m.truncate(x, divisor)
    for found, z in zip(m.value(out).tolist(), values, strict=True):
        assert abs(found * divisor - z) < divisor
    assert m.ulps(out) <= ERROR_ULPS
    m.check()
    m.free_all()


@pytest.mark.parametrize("divisor", [7, 1000, 2**16])
def test_exact_multiples_stay_exact(divisor: int) -> None:
    whole = wide(1000) // divisor
    m = Machine(3)
    same(m.value(m.truncate(m.opened(whole * divisor), divisor)), whole)


def test_rounding_goes_both_ways_in_the_right_proportion() -> None:
    m = Machine(2)
    z = torch.full((40_000,), 250)
    out = m.value(m.truncate(m.opened(z), 1000))
    assert set(out.tolist()) == {0, 1}
    assert 0.23 < out.double().mean() < 0.27  # sigma is .0022


def test_derived_openings_truncate_as_well() -> None:
    z = wide(100) // 4
    m = Machine(3)
    x = m.opened(z)
    out = m.truncate(m.combine((x, 3), constant=-5), 1000)
    assert below_one_unit(m.value(out), 3 * z - 5, 1000)
    constant = m.value(m.truncate(m.constant(999_999, (4,)), 1000))
    assert below_one_unit(constant, torch.full((4,), 999_999), 1000)
    m.check()


def test_the_reference_without_masks_rounds_to_nearest_up_to_the_limit() -> None:
    z = torch.tensor([LIMIT, -LIMIT, 1499, 1500, -1500, -1501])
    m = Machine(2)
    assert m.nearest is not None
    for divisor in (1000, 10**12 + 39, 2**16):
        out = m.truncate(m.opened(z), divisor)
        found = m.nearest.value(out).tolist()
        assert found == [(2 * value + divisor) // (2 * divisor) for value in z.tolist()]


def test_debug_mode_names_a_value_out_of_range() -> None:
    driver = real_driver(2, plain=True)
    assert driver.plain is not None
    driver.plain.strict = True
    m = Machine(driver=driver, follow=False)
    x = m.opened(torch.tensor([2**62]))
    with pytest.raises(RangeExceeded):
        m.truncate(x, 10)
    assert all(x + 1 not in party.wires for party in driver.parties)


@pytest.mark.parametrize("n", PARTIES)
def test_ten_million_values(n: int) -> None:
    """10^7 values of magnitude up to 2^62 - 1, both signs: no error reaches one unit, the mean is near zero."""
    divisors = (2**16, 10, 100, 1000)
    chunk, chunks = 500_000, 20
    m = Machine(driver=real_driver(n), follow=False)
    total = dict.fromkeys(divisors, 0.0)
    for seed in range(chunks):
        z = between(-LIMIT, LIMIT + 1, chunk, seed=seed)
        if seed % 2:
            z >>= torch.arange(chunk) % 62
        z[0], z[1] = LIMIT, -LIMIT
        x = m.opened(z)
        for divisor in divisors:
            out = m.truncate(x, divisor)
            error = m.value(out).mul_(divisor).sub_(z)
            assert -divisor < int(error.min()) and int(error.max()) < divisor
            total[divisor] += float(error.double().mean()) / divisor
            m.free(out)
        m.free(x)
    for divisor in divisors:
        assert abs(total[divisor] / chunks) < 0.15
