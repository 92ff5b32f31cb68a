"""Outside the stated ranges every function has a documented value of its own: never garbage."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchveil import FixedPoint, Session

FORMATS = [FixedPoint(2, 16), FixedPoint(10, 3), FixedPoint(2, 20)]
HUGE = 2.0**38

#: function, input, wanted (units of the format as ``None``-free callables of the scale), relative tolerance
TABLE = [
    (torch.exp, -600.0, lambda s: 0.0),
    (torch.exp, -HUGE, lambda s: 0.0),
    (torch.exp, 0.0, lambda s: 1.0),
    (torch.exp, 600.0, lambda s: 65536.0),
    (torch.exp, HUGE, lambda s: 65536.0),
    (torch.sigmoid, -50.0, lambda s: 0.0),
    (torch.sigmoid, 50.0, lambda s: 1.0),
    (torch.sigmoid, -HUGE, lambda s: 0.0),
    (torch.sigmoid, HUGE, lambda s: 1.0),
    (torch.tanh, -50.0, lambda s: -1.0),
    (torch.tanh, HUGE, lambda s: 1.0),
    (F.gelu, -50.0, lambda s: 0.0),
    (F.gelu, HUGE, lambda s: HUGE),
    (F.silu, -HUGE, lambda s: 0.0),
    (F.silu, 600.0, lambda s: 600.0),
    (F.softplus, -600.0, lambda s: 0.0),
    (F.softplus, HUGE, lambda s: HUGE),
    (torch.erf, -HUGE, lambda s: -1.0),
    (F.mish, -HUGE, lambda s: 0.0),
    (F.mish, HUGE, lambda s: HUGE),
    (F.elu, -HUGE, lambda s: -1.0),
    (F.elu, HUGE, lambda s: HUGE),
    (F.logsigmoid, HUGE, lambda s: 0.0),
    (F.logsigmoid, -HUGE, lambda s: -HUGE),
    (F.hardsigmoid, -HUGE, lambda s: 0.0),
    (F.hardtanh, HUGE, lambda s: 1.0),
    (F.softshrink, -HUGE, lambda s: -HUGE),
    (torch.log, 0.0, lambda s: -math.log(s)),
    (torch.log, -3.0, lambda s: -math.log(s)),
    (torch.log, HUGE, lambda s: -math.log(s)),
    (torch.reciprocal, 0.0, float),
    (torch.reciprocal, HUGE, lambda s: 0.0),
    (torch.reciprocal, -HUGE, lambda s: 0.0),
    (torch.sqrt, 0.0, lambda s: 0.0),
    (torch.sqrt, -1.0, lambda s: 0.0),
    (torch.sqrt, -HUGE, lambda s: 0.0),
    (torch.rsqrt, 0.0, math.sqrt),
    (torch.rsqrt, -4.0, math.sqrt),
]


@pytest.mark.parametrize("number_format", FORMATS, ids=lambda f: f"{f.base}^{f.digits}")
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0].__name__}({row[1]:g})")
def test_saturation(row: tuple, number_format: FixedPoint) -> None:
    function, value, wanted = row
    session = Session(debug=True, fixed_point=number_format)
    scale = number_format.scale
    found = float(function(session.share(torch.tensor(value, dtype=torch.float64))).reveal(dtype=torch.float64))
    expected = wanted(scale)
    assert abs(found - expected) <= 2 / scale + 2.0**-10 * abs(expected)


@pytest.mark.parametrize("dividend", [0.0, 1.0, -1.0, 15.0])
@pytest.mark.parametrize("number_format", FORMATS, ids=lambda f: f"{f.base}^{f.digits}")
def test_division_by_a_secret_zero_divides_by_one_unit(number_format: FixedPoint, dividend: float) -> None:
    session = Session(debug=True, fixed_point=number_format)
    quotient = session.share(torch.tensor([dividend])) / session.share(torch.zeros(1))
    assert float(quotient.reveal()) == pytest.approx(dividend * number_format.scale, rel=2**-15, abs=2e-3)


DIVIDENDS = [0.0, 1.0, -1.0, 15.0, -300.0, 300.0, 1e4, -1e4, 1e6, -1e6, 2.0**30, -(2.0**30)]
#: In units of the format, then real numbers.
DIVISOR_UNITS = [0, 1, -1, 2, -2, 17, -17, 1000, -1000]
DIVISORS = [1.0, -1.0, 3.0, -100.0, 1000.0, -(2.0**17)]


@pytest.mark.parametrize("copies", [1, 20])
@pytest.mark.parametrize("number_format", [*FORMATS, FixedPoint(2, 26)], ids=lambda f: f"{f.base}^{f.digits}")
def test_a_quotient_that_is_too_large_is_cut_off_with_its_sign(number_format: FixedPoint, copies: int) -> None:
    """Never garbage: exact between the limits, the limit beyond; in one level and in two, in debug mode as well."""
    scale = number_format.scale
    dividends = DIVIDENDS if scale < 2**21 else [value for value in DIVIDENDS if abs(value) < 2**26]
    divisors = [value / scale for value in DIVISOR_UNITS] + DIVISORS
    pairs = torch.cartesian_prod(*(torch.tensor(v, dtype=torch.float64) for v in (dividends, divisors)))
    pairs = torch.round(pairs * scale).repeat(copies, 1)
    a, b = pairs[:, 0], pairs[:, 1]
    session = Session(debug=True, fixed_point=number_format)
    found = (session.share(a / scale) / session.share(b / scale)).reveal(dtype=torch.float64)
    # as the docstring of ``divide`` has it; 2**-20 is added to what lies below it in the finest format
    lowest = 4 ** max(0, math.ceil((math.log2(scale) - 20) / 2))
    tiny = b.abs() < lowest
    size = torch.where(tiny, b.abs() + lowest, b.abs())
    most = 2.0**24 - 2.0**9
    cut = 2.0 ** (62 - 2 * math.ceil((math.log2(scale) + 20) / 2))
    cut = min(cut, most if cut > most else most / 4)
    quotient = a / size
    inside = quotient.abs() <= torch.where(b == 0, min(most, 4 * cut if lowest == 1 else 3 * cut), cut)
    error = (found - quotient * torch.where(b < 0, -1.0, 1.0)).abs()
    assert bool((error <= 2.0**-17 * quotient.abs() + 2 / scale)[inside].all())
    beyond = found[~inside]
    assert beyond.numel() > 10
    assert bool((beyond.sign() == (a.sign() * torch.where(b < 0, -1.0, 1.0))[~inside]).all())
    assert float(beyond.abs().min()) >= cut * (1 - 2.0**-16)
    assert float(beyond.abs().max()) <= min(most, 4 * cut) * (1 + 2.0**-16)
    # beyond the limit nothing depends on the dividend but the sign
    for divisor in b[~inside & ~tiny].unique():
        assert float(found[~inside & (b == divisor)].abs().std(correction=0)) <= 2.0**-17 * cut


@pytest.mark.parametrize("count", [3, 3000])
def test_beyond_the_top_a_quotient_is_zero(count: int) -> None:
    session = Session()
    divisor = torch.full((count,), 2.0**44).mul_(torch.tensor([1.0, -1.0, 0.5]).repeat(count // 3))
    quotient = session.share(torch.full((count,), 2.0**40)) / session.share(divisor)
    assert float(quotient.reveal().abs().max()) == 0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 17, 250, 1_000, 10_000])
def test_softmax_of_equal_logits(count: int) -> None:
    x = Session(debug=count < 2000).share(torch.full((2, count), 7.25))
    found = torch.softmax(x, 1).reveal(dtype=torch.float64)
    assert float((found - 1 / count).abs().max()) <= 1.5 * 2**-16
    found = torch.log_softmax(x, 1).reveal(dtype=torch.float64)
    assert float((found + math.log(count)).abs().max()) <= 3 * 2**-16


@pytest.mark.parametrize(
    "logits", [[100.0, -100.0, 99.0], [-100.0] * 5, [1000.0, 0.0], [2.0**30, -(2.0**30), 0.0], [0.0, -16.0, -17.0]]
)
def test_softmax_far_apart(logits: list[float]) -> None:
    clear = torch.tensor([logits], dtype=torch.float64)
    x = Session(debug=True).share(clear)
    found: Tensor = torch.softmax(x, 1).reveal(dtype=torch.float64)
    assert float((found - torch.softmax(clear, 1)).abs().max()) <= 2 * 2**-16
    logs = torch.log_softmax(x, 1).reveal(dtype=torch.float64)
    assert float((logs - torch.log_softmax(clear, 1)).abs().max()) <= 3 * 2**-16
