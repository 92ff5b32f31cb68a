"""Series: within its declared error of the trigonometric sum, at any gate and number of parties."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.support import PARTIES, SHAPES, Machine, ring, same
from torchveil.gates.series import ANGLE_BITS, COEFFICIENT_BITS, RESULT_BITS

BITS = 21
FREQUENCIES = (1, 2, 3, 5, 8)
COSINES = (2**27, 0, -(2**25), 2**20, 0)
SINES = (-(2**28), 2**26, 0, 2**21, 12345)
CONSTANT = 2**57 + 12345


def declared(frequencies: tuple[int, ...], cosines: tuple[int, ...], sines: tuple[int, ...]) -> float:
    """2^-28 sum |coefficients| + frequencies * 2^-28."""
    return 2.0**-28 * (sum(map(abs, (*cosines, *sines))) / 2.0**COEFFICIENT_BITS + len(frequencies))


def reference(x: Tensor) -> Tensor:
    angle = 2 * math.pi * (x % 2**BITS).double() / 2**BITS
    out = torch.full(x.shape, CONSTANT / 2.0**RESULT_BITS, dtype=torch.float64)
    for j, a, b in zip(FREQUENCIES, COSINES, SINES, strict=True):
        out += (a * torch.cos(j * angle) + b * torch.sin(j * angle)) / 2.0**COEFFICIENT_BITS
    return out


@pytest.mark.smoke
@pytest.mark.parametrize("n", PARTIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_gating(n: int, shape: tuple[int, ...]) -> None:
    x = ring(*shape, seed=3)
    m = Machine(n)
    wire = m.opened(x)
    bit = m.sign(wire)
    args = (BITS, FREQUENCIES, COSINES, SINES, CONSTANT)
    out, gated = m.series(wire, *args), m.series(wire, *args, bit)
    bound = declared(FREQUENCIES, COSINES, SINES)
    error = (m.value(out).double() / 2.0**RESULT_BITS - reference(x)).abs()
    assert bool((error <= bound).all())
    same(m.value(gated), (x < 0).long() * m.value(out))
    assert m.ulps(out) <= bound * 2.0**RESULT_BITS
    m.check()
    m.check_costs()


@pytest.mark.parametrize("bits", [3, 11, 20, 22, 30, 40, 52])
def test_every_period(bits: int) -> None:
    x = ring(5000, seed=bits)
    m = Machine(2)
    out = m.series(m.opened(x), bits, (1, 3), (2**28, 0), (0, 2**27), 0)
    angle = 2 * math.pi * (x % 2**bits).double() / 2**bits
    wanted = torch.cos(angle) + torch.sin(3 * angle) / 2
    error = (m.value(out).double() / 2.0**RESULT_BITS - wanted).abs()
    assert float(error.max()) <= declared((1, 3), (2**28, 0), (0, 2**27))
    m.check()


@pytest.mark.parametrize("factor", [3, 37, 2**20 + 1])
def test_a_factor_shortens_the_period(factor: int) -> None:
    x = ring(5000, seed=factor)
    m = Machine(2)
    out = m.series(m.opened(x), 30, (1, 3), (2**28, 0), (0, 2**27), 0, factor=factor)
    angle = 2 * math.pi * (x * factor % 2**30).double() / 2**30
    wanted = torch.cos(angle) + torch.sin(3 * angle) / 2
    error = (m.value(out).double() / 2.0**RESULT_BITS - wanted).abs()
    assert float(error.max()) <= declared((1, 3), (2**28, 0), (0, 2**27))
    assert m.ulps(out) <= declared((1, 3), (2**28, 0), (0, 2**27)) * 2.0**RESULT_BITS
    m.check()
    m.check_costs()


def test_no_frequency_leaves_the_constant() -> None:
    m = Machine(2)
    x = m.opened(ring(5))
    same(m.value(m.series(x, BITS, (), (), (), 77)), torch.full((5,), 77))
    m.check()


def test_scales_add_up() -> None:
    assert ANGLE_BITS + COEFFICIENT_BITS == RESULT_BITS
