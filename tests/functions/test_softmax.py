"""Softmax on rows of every length near the border of short rows, with entries far from the largest."""

from __future__ import annotations

from decimal import Decimal

import pytest
import torch
from torch import Tensor

from torchveil import FixedPoint, Session
from torchveil.functions import maximum
from torchveil.functions import softmax as module
from torchveil.functions.series import MAX_MAGNITUDE, log_series, reciprocal_series
from torchveil.handle import Secret

UNIT = 2.0**-16


def rows(size: int) -> Tensor:
    """Even rows, one entry far above, far below, all far apart, and random ones."""
    gen = torch.Generator().manual_seed(size)
    special = torch.zeros(4, size, dtype=torch.float64)
    special[1, -1], special[2, 0] = 1000.0, -1000.0
    special[3] = torch.arange(size) * 16.0
    random = torch.round((torch.rand(200, size, generator=gen, dtype=torch.float64) - 0.5) * 24 / UNIT) * UNIT
    return torch.cat([special, random])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 10, 12, 13, 17])
@pytest.mark.parametrize("worth", [0, 2**60], ids=["tournament", "all pairs"])
def test_rows_of_any_length(size: int, worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maximum, "ROUND_BYTES", worth)
    session = Session(debug=True)
    x = rows(size)
    found = torch.softmax(session.share(x), 1).reveal(dtype=torch.float64)
    assert float((found - torch.softmax(x, 1)).abs().max()) <= 1.5 * UNIT
    logs = torch.log_softmax(session.share(x), 1).reveal(dtype=torch.float64)
    assert float((logs - torch.log_softmax(x, 1)).abs().max()) <= 2.5 * UNIT


@pytest.mark.parametrize("number_format", [FixedPoint(10, 3), FixedPoint(2, 20)], ids=lambda f: f"{f.base}^{f.digits}")
def test_logits_that_are_pending_products(number_format: FixedPoint) -> None:
    session = Session(debug=True, fixed_point=number_format)
    x, w = torch.randn(50, 6, dtype=torch.float64), torch.randn(6, 10, dtype=torch.float64)
    found = torch.softmax(session.share(x) @ session.share(w), 1).reveal(dtype=torch.float64)
    rounded = [torch.round(v * number_format.scale) / number_format.scale for v in (x, w)]
    wanted = torch.softmax(rounded[0] @ rounded[1], 1)
    assert float((found - wanted).abs().max()) <= 1.5 / number_format.scale + 2.0**-17


@pytest.mark.parametrize(("size", "expected"), [(1, 7), (2, 8), (4, 9), (10, 9), (11, 10), (12, 10)])
def test_rounds_of_short_rows(size: int, expected: int) -> None:
    """All pairs (3 to 5; a lone entry: 3), the maximum unless alone, e, the inverse, its truncation, that of p."""
    session = Session()
    x = session.share(torch.rand(9, size))
    assert isinstance(x.handle, Secret)
    session.open(x.handle)
    before = session.cost().rounds
    torch.softmax(x, 1)
    assert session.cost().rounds - before == expected


@pytest.mark.parametrize("size", range(1, module._SHORT_ROW + 1))
def test_the_series_of_short_rows_exist_and_their_sums_fit(size: int) -> None:
    base, turn = max(4, size), module._turn(size)
    for make in (reciprocal_series, log_series):
        fit = make(base, float(1 << turn), module._ROW_ERROR)
        assert fit.magnitude <= MAX_MAGNITUDE
        assert len(fit.frequencies) <= 19
    # sums of size numbers up to 1 stay within the turn and below what a truncation takes
    assert size < 1 << turn
    assert size * Decimal(2) ** (module._TURN_BITS - turn) < 2**62
