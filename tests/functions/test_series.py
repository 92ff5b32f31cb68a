"""Fitted series against double-precision functions."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pytest

from torchveil.functions.series import (
    COEFFICIENT_BITS,
    MAX_MAGNITUDE,
    Ramp,
    TrigSeries,
    erf_series,
    exp_series,
    fit,
    log_series,
    ramp_series,
    ramp_slope_series,
    reciprocal_series,
    rsqrt_series,
    saturation,
    sigmoid_series,
    sqrt_series,
    tanh_series,
)

Array = npt.NDArray[np.float64]


def erf(x: Array) -> Array:
    return np.array([math.erf(value) for value in x.tolist()])


def gelu(x: Array) -> Array:
    return x * (1 + erf(x / math.sqrt(2))) / 2


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def silu_slope(x: Array) -> Array:
    step = 1 / (1 + np.exp(-x))
    return step * (1 + x * (1 - step))


def mish_even_and_odd(x: Array) -> Array:
    return x * np.tanh(np.log1p(np.exp(x))) - x / 2


CASES: list[tuple[str, Callable[[], TrigSeries], Callable[[Array], Array], float, int]] = [
    ("tanh", tanh_series, np.tanh, 2.0**-20, 23),
    ("tanh-1000", lambda: tanh_series(32.768), np.tanh, 2.0**-20, 24),
    ("tanh-16", lambda: tanh_series(16.0, 2.0**-18, 2.0**-17), np.tanh, 2.0**-18, 20),
    ("sigmoid", sigmoid_series, lambda x: 1 / (1 + np.exp(-x)), 2.0**-20, 22),
    ("erf", erf_series, erf, 2.0**-20, 9),
    ("exp", exp_series, np.exp, 2.0**-22, 6),
    ("reciprocal", reciprocal_series, lambda x: 1 / x, 2.0**-22, 10),
    ("log", log_series, np.log, 2.0**-22, 7),
    ("sqrt", sqrt_series, np.sqrt, 2.0**-22, 7),
    ("rsqrt", rsqrt_series, lambda x: 1 / np.sqrt(x), 2.0**-22, 7),
    ("reciprocal-2", lambda: reciprocal_series(2), lambda x: 1 / x, 2.0**-22, 5),
    ("gelu", lambda: ramp_series("gelu", 5.0, 20.0), lambda x: gelu(x) - x / 2, 2.0**-20, 8),
    ("silu", lambda: ramp_series("silu", 15.0, 61.0), lambda x: silu(x) - x / 2, 2.0**-20, 23),
    ("silu-slope", lambda: ramp_slope_series("silu", 15.0, 60.0), silu_slope, 2.0**-20, 25),
    ("softplus", lambda: ramp_series("softplus", 12.0, 48.0), lambda x: np.log1p(np.exp(x)) - x / 2, 2.0**-20, 15),
    ("mish", lambda: ramp_series("mish", 15.0, 60.0), mish_even_and_odd, 2.0**-20, 30),
    ("sqrt-8", lambda: sqrt_series(4, 8.0, 2.0**-26), np.sqrt, 2.0**-26, 8),
]

PINNED = {
    "tanh": "9ed834361fff51a9",
    "sigmoid": "a5f48099920ebe1b",
    "erf": "18509077efc625fa",
    "reciprocal": "1013876e0ea27de8",
    "log": "ea0d12342f22ac93",
}


@pytest.mark.parametrize(("build", "function", "bound", "most"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_error_size_and_length(
    build: Callable[[], TrigSeries], function: Callable[[Array], Array], bound: float, most: int
) -> None:
    series = build()
    assert len(series.frequencies) <= most
    assert series.magnitude <= MAX_MAGNITUDE
    assert series.max_error <= bound
    points = np.linspace(series.low, series.high, 30011)
    error = float(np.max(np.abs(series(points) - function(points))))
    assert error <= bound * 1.001
    assert error == pytest.approx(series.max_error, rel=0.02)


def test_coefficients_are_multiples_of_the_stated_unit() -> None:
    for series in (tanh_series(), reciprocal_series()):
        for value in (series.constant, *series.cosines, *series.sines):
            assert (value * 2**COEFFICIENT_BITS).is_integer()
        assert len(series.frequencies) == len(series.cosines) == len(series.sines)


def test_coefficients_are_pinned() -> None:
    """The coefficients are public factors: they may not depend on the platform."""
    digests = {
        name: hashlib.sha256(
            repr((series.constant.hex(), [c.hex() for c in series.cosines], [s.hex() for s in series.sines])).encode()
        ).hexdigest()[:16]
        for name, series in (
            ("tanh", tanh_series()),
            ("sigmoid", sigmoid_series()),
            ("erf", erf_series()),
            ("reciprocal", reciprocal_series()),
            ("log", log_series()),
        )
    }
    assert digests == PINNED


def test_steps_use_odd_sines_where_the_period_allows() -> None:
    wide = tanh_series()
    assert set(wide.cosines) == {0.0}
    assert wide.constant == 0.0
    assert wide.frequencies == tuple(range(1, 2 * len(wide.frequencies), 2))
    narrow = tanh_series(16.0, 2.0**-18, 2.0**-17)
    assert narrow.frequencies == tuple(range(1, len(narrow.frequencies) + 1))
    assert sigmoid_series().constant == 0.5


@pytest.mark.parametrize("name", ["gelu", "gelu-tanh", "silu", "softplus", "mish"])
def test_ramps_use_odd_cosines_and_stay_in_range(name: Ramp) -> None:
    limit = saturation(name, 2.0**-17)
    series = ramp_series(name, limit, 4 * limit, 2.0**-19)
    # mish alone has an odd part
    assert (set(series.sines) == {0.0}) == (name != "mish")
    assert series.frequencies == tuple(range(1, 2 * len(series.frequencies), 2))
    points = np.linspace(0, series.period, 20001)
    # the truncation that follows takes 2**62 / 2**58, inside with x/2 and outside without
    assert float(np.max(np.abs(series(points)))) < 16
    assert limit < 16


def test_evaluation_is_periodic_and_takes_scalars() -> None:
    series = sqrt_series()
    assert float(series(2.0)) == pytest.approx(math.sqrt(2), abs=2e-7)
    assert float(series(2.0 + series.period)) == pytest.approx(float(series(2.0)), abs=1e-12)
    assert series(np.ones((2, 3))).shape == (2, 3)


def test_results_are_cached_and_frozen() -> None:
    assert tanh_series() is tanh_series()
    assert reciprocal_series(4, 8.0) == reciprocal_series(4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tanh_series().constant = 1.0  # type: ignore[misc]


def test_a_constant_needs_no_harmonics() -> None:
    series = fit("half", lambda _: Decimal("0.5"), 0.0, 1.0, 2.0, 1e-9)
    assert series.frequencies == ()
    assert series(0.3) == 0.5


def test_a_function_given_only_in_decimal_is_measured_too() -> None:
    series = fit("square", lambda x: x * x, -1.0, 1.0, 4.0, 1e-5)
    points = np.linspace(-1, 1, 1001)
    assert float(np.max(np.abs(series(points) - points**2))) <= 1e-5


@pytest.mark.parametrize("tail", [2.0**-10, 2.0**-17, 2.0**-21])
def test_saturation_is_the_least_sixty_fourth(tail: float) -> None:
    for name, gap in (
        ("tanh", lambda x: 2 / (math.exp(2 * x) + 1)),
        ("sigmoid", lambda x: 1 / (math.exp(x) + 1)),
        ("erf", math.erfc),
        ("silu", lambda x: abs(float(silu_slope(np.array(x))) - 1)),
    ):
        limit = saturation(name, tail)
        assert (64 * limit).is_integer()
        assert gap(limit) <= tail < gap(limit - 1 / 64)


def test_unsuitable_requests_are_rejected() -> None:
    with pytest.raises(ValueError, match="out of reach"):
        tanh_series(1024.0, 2.0**-20)
    with pytest.raises(ValueError, match="shorter"):
        tanh_series(8.0)
    with pytest.raises(ValueError, match="empty"):
        fit("identity", lambda x: x, 1.0, 1.0, 2.0, 1e-3)
    with pytest.raises(ValueError, match="positive"):
        fit("identity", lambda x: x, 0.0, 1.0, 2.0, 0.0)
    with pytest.raises(ValueError, match="tail"):
        saturation("tanh", 0.5)
