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
