"""Exponential: within 2^-19 of e^x, at any gate and number of parties."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.support import PARTIES, SHAPES, Machine, between, same
from torchveil.gates.exponential import RESULT_BITS, split

UNIT, BITS = 2**16, 20  # x in (-16, 0]
ERROR = 2 ** (RESULT_BITS - 19)


def arguments(*shape: int, unit: int = UNIT, bits: int = BITS, seed: int = 0) -> Tensor:
    x = between(-(2**bits) + 1, 1, *shape, seed=seed)
    flat = x.view(-1)
    edges = torch.tensor([0, 1 - 2**bits, -1, -unit])[: flat.numel()]
    flat[: len(edges)] = edges
    return x


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_gating(n: int, shape: tuple[int, ...]) -> None:
    x = arguments(*shape)
    m = Machine(n)
    wire = m.opened(x)
    (bit,) = m.compare(wire, (-5 * UNIT,), [((0,), True)])
    out, gated = m.exponential(wire, UNIT, BITS), m.exponential(wire, UNIT, BITS, bit)
    wanted = torch.exp(x.double() / UNIT)
    error = (m.value(out).double() / 2.0**RESULT_BITS - wanted).abs()
    assert bool((error <= 2.0**-19).all())
    same(m.value(gated), (x >= -5 * UNIT).long() * m.value(out))
    assert m.ulps(out) <= ERROR and m.ulps(gated) <= ERROR
    m.check()
    m.check_costs()


CASES = [(2**16, 20), (1000, 13), (10**5, 20), (2**20, 24), (2**26, 30), (2**16, 16), (4, 6), (2**16, 19), (1000, 12)]


def declared(unit: int, bits: int) -> float:
    """2^-(factor_bits + 1) + e^R 2^-(mask_bits + 1) + 2^-28 from the tables."""
    mask_bits, factor_bits = split(2**bits / unit)
    return 2.0 ** -(factor_bits + 1) + math.exp(2**bits / unit) * 2.0 ** -(mask_bits + 1) + 2.0**-28


@pytest.mark.parametrize(("unit", "bits"), CASES)
def test_units_and_ranges(unit: int, bits: int) -> None:
    assert 2**bits <= 16 * unit
    x = arguments(50_000, unit=unit, bits=bits)
    m = Machine(2)
    out = m.exponential(m.opened(x), unit, bits)
    error = (m.value(out).double() / 2.0**RESULT_BITS - torch.exp(x.double() / unit)).abs()
    assert float(error.max()) <= declared(unit, bits)
    m.check()


def test_a_derived_opening_is_exponentiated() -> None:
    x = between(0, 2**19, 100)
    m = Machine(3)
    out = m.exponential(m.combine((m.opened(x), -1), constant=-7), UNIT, BITS)
    error = m.value(out).double() / 2.0**RESULT_BITS - torch.exp((-7 - x).double() / UNIT)
    assert float(error.abs().max()) <= 2.0**-19
    m.check()


@pytest.mark.parametrize("reach", [0.5, 1, 4, 8, 12.5, 16])
def test_the_split_fills_the_result_and_fits_the_tables(reach: float) -> None:
    mask_bits, factor_bits = split(reach)
    assert mask_bits + factor_bits == RESULT_BITS
    assert 0 < mask_bits <= 42


def test_the_errors_that_the_docstring_names() -> None:
    assert declared(2**16, 20) <= 2.0**-18.5 and declared(2**16, 19) <= 2.0**-24
