"""Truncated Fourier series for smooth functions on an interval.

A :class:`TrigSeries` approximates ``f`` on ``[low, high]`` by ::

    f(x) = constant + sum_j cosines[j] cos(2 pi k_j x / period) + sines[j] sin(2 pi k_j x / period)

with harmonics ``k_j`` of a period longer than the interval, so that nothing is asked of the series outside it and it
converges geometrically although ``f`` is not periodic (a "Fourier extension").

The coefficients become public factors, so every party must hold the same ones.  They are therefore fitted in decimal
arithmetic, which its specification fixes, and rounded to multiples of ``2**-40``; binary floating point serves only to
measure the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from torchveil.kernels.tables import PI, decimal_cos_sin

__all__ = [
    "COEFFICIENT_BITS",
    "MAX_HARMONICS",
    "MAX_MAGNITUDE",
    "Parity",
    "TrigSeries",
    "decimal_erf",
    "erf_series",
    "exp_series",
    "fit",
    "log_series",
    "ramp_series",
    "ramp_slope_series",
    "reciprocal_series",
    "rsqrt_series",
    "saturation",
    "sigmoid_series",
    "sqrt_series",
    "tanh_series",
]

Parity: TypeAlias = Literal["none", "odd", "odd-half-wave", "even-half-wave", "half-wave"]
"""Which terms a fit may use.

``none``: cosines and sines of all frequencies.  ``odd``: a constant and sines of all frequencies, for ``f(-x) - c =
c - f(x)``.  ``odd-half-wave``: a constant and sines of odd frequencies, which are also symmetric about a quarter
period, ``s(period/2 - x) = s(x)``: right for a step that saturates within a quarter period.  ``even-half-wave``: a
constant and cosines of odd frequencies, which are antisymmetric about a quarter period: a triangle with rounded
corners, right for an even function that becomes a straight line within a quarter period.  ``half-wave``: a constant,
sines and cosines of odd frequencies, for the sum of both kinds.
"""

Ramp: TypeAlias = Literal["gelu", "gelu-tanh", "silu", "softplus", "mish"]
"""A smooth ramp, 0 far below and x far above. ``ramp(x) - x/2`` is even, but for mish, of which it has an odd part that
vanishes on both sides."""

Array: TypeAlias = npt.NDArray[np.float64]

_Term: TypeAlias = tuple[bool, int]  # (whether a sine, frequency)

COEFFICIENT_BITS = 40
"""Coefficients are whole multiples of ``2**-COEFFICIENT_BITS``."""

MAX_HARMONICS = 48
"""Most harmonics a fit may use."""

MAX_MAGNITUDE = 16.0
"""Bound on the sum of the coefficients' magnitudes, which is what multiplies the error of the dealt factors."""

_PRECISION = 50
_NODES = 256
_GRID = 24001
_RIDGES = tuple(range(-30, -3))  # decimal exponents of the regularisation parameters tried, weakest first


@dataclass(frozen=True, slots=True)
class TrigSeries:
    """A trigonometric series and the interval on which it approximates a function.

    Attributes:
        name: the function's name.
        low: lower end of the interval.
        high: upper end of the interval.
        period: period of the series, in the same unit as the argument.
        frequencies: ascending harmonic numbers.
        constant: constant term.
        cosines: cosine coefficient of each frequency.
        sines: sine coefficient of each frequency.
        max_error: largest absolute error measured on a dense grid of the interval.
    """

    name: str
    low: float
    high: float
    period: float
    frequencies: tuple[int, ...]
    constant: float
    cosines: tuple[float, ...]
    sines: tuple[float, ...]
    max_error: float

    def __call__(self, x: npt.ArrayLike) -> Array:
        """Evaluate the series in double precision, also outside the interval, where it is merely periodic."""
        angle = np.asarray(x, dtype=np.float64) * (2 * math.pi / self.period)
        total = np.full(angle.shape, self.constant, dtype=np.float64)
        for frequency, cosine, sine in zip(self.frequencies, self.cosines, self.sines, strict=True):
            if cosine:
                total += cosine * np.cos(frequency * angle)
            if sine:
                total += sine * np.sin(frequency * angle)
        return total

    @property
    def magnitude(self) -> float:
        """Sum of the magnitudes of all coefficients: the factor from dealt rounding errors to the result's error."""
        return abs(self.constant) + math.fsum(map(abs, self.cosines)) + math.fsum(map(abs, self.sines))


class _Normal:
    """Normal equations of the fit in decimal arithmetic, grown one unknown at a time.

    Nodes are Chebyshev points of the interval with equal weights, so that the fit is close to the best uniform one.
    Products of trigonometric terms reduce to the moments ``mean(cos(m t))`` and ``mean(sin(m t))``.
    """

    def __init__(self, function: Callable[[Decimal], Decimal], low: float, high: float, period: float) -> None:
        start, stop, length = Decimal(low), Decimal(high), Decimal(period)
        self.nodes: list[Decimal] = []
        for index in range(_NODES):
            cosine, _ = decimal_cos_sin(Decimal(2 * index + 1) / (4 * _NODES))
            self.nodes.append((start + stop) / 2 + (stop - start) / 2 * cosine)
        self.values = [function(node) for node in self.nodes]
        self._first = [decimal_cos_sin(node / length) for node in self.nodes]
        self._running = [(Decimal(1), Decimal(0))] * _NODES
        self._cos_moments: list[Decimal] = []
        self._sin_moments: list[Decimal] = []
        self._cos_targets: list[Decimal] = []
        self._sin_targets: list[Decimal] = []

    def _reach(self, multiple: int) -> None:
        while len(self._cos_moments) <= multiple:
            running, values = self._running, self.values
            self._cos_moments.append(sum((c for c, _ in running), Decimal(0)) / _NODES)
            self._sin_moments.append(sum((s for _, s in running), Decimal(0)) / _NODES)
            targets = [(c * f, s * f) for (c, s), f in zip(running, values, strict=True)]
            self._cos_targets.append(sum((c for c, _ in targets), Decimal(0)) / _NODES)
            self._sin_targets.append(sum((s for _, s in targets), Decimal(0)) / _NODES)
            self._running = [
                (a * c - b * d, b * c + a * d) for (a, b), (c, d) in zip(running, self._first, strict=True)
            ]

    def target(self, term: _Term) -> Decimal:
        """Return ``mean(term * f)``."""
        is_sine, frequency = term
        self._reach(frequency)
        return self._sin_targets[frequency] if is_sine else self._cos_targets[frequency]

    def product(self, first: _Term, second: _Term) -> Decimal:
        """Return ``mean(first * second)``."""
        (is_sine, p), (other_is_sine, q) = first, second
        self._reach(p + q)
        if is_sine == other_is_sine:
            near, far = self._cos_moments[abs(p - q)], self._cos_moments[p + q]
            return (near - far) / 2 if is_sine else (near + far) / 2
        if not is_sine:
            p, q = q, p  # now sin(p t) cos(q t)
        near = self._sin_moments[abs(p - q)]
        return (self._sin_moments[p + q] + (near if p >= q else -near)) / 2


class _Ridge:
    """Cholesky factor of the normal matrix plus ``ridge`` on its diagonal, grown row by row."""

    def __init__(self, normal: _Normal, ridge: Decimal) -> None:
        self._normal = normal
        self._ridge = ridge
        self._rows: list[list[Decimal]] = []
        self._forward: list[Decimal] = []

    def solve(self, terms: list[_Term]) -> list[Decimal]:
        """Return the regularised least-squares coefficients of ``terms`` (which extend those of earlier calls)."""
        rows, forward = self._rows, self._forward
        zero = Decimal(0)
        for index in range(len(rows), len(terms)):
            row: list[Decimal] = []
            for other in range(index):
                known = sum((a * b for a, b in zip(row, rows[other], strict=False)), zero)
                row.append((self._normal.product(terms[index], terms[other]) - known) / rows[other][other])
            rest = self._normal.product(terms[index], terms[index]) + self._ridge - sum((a * a for a in row), zero)
            known = sum((a * b for a, b in zip(row, forward, strict=False)), zero)
            row.append(rest.sqrt())
            forward.append((self._normal.target(terms[index]) - known) / row[-1])
            rows.append(row)
        solution = list(forward[: len(terms)])
        for index in reversed(range(len(terms))):
            solution[index] /= rows[index][index]
            for other in range(index):
                solution[other] -= rows[index][other] * solution[index]
        return solution


def _quantised(value: Decimal) -> float:
    """Round to a multiple of ``2**-40``, which a double holds exactly up to 2**13."""
    return int((value * (1 << COEFFICIENT_BITS)).to_integral_value(rounding=ROUND_HALF_EVEN)) / (1 << COEFFICIENT_BITS)


#: Of each parity the distance of its frequencies, and whether their terms are sines.
_TERMS: dict[Parity, tuple[int, tuple[bool, ...]]] = {
    "none": (1, (False, True)),
    "odd": (1, (True,)),
    "odd-half-wave": (2, (True,)),
    "even-half-wave": (2, (False,)),
    "half-wave": (2, (False, True)),
}


def _terms(parity: Parity, harmonics: int) -> tuple[tuple[int, ...], list[_Term]]:
    """Return the frequencies of a fit with ``harmonics`` harmonics and its terms, the constant first."""
    step, kinds = _TERMS[parity]
    frequencies = tuple(range(1, step * harmonics + 1, step))
    return frequencies, [(False, 0), *((is_sine, frequency) for frequency in frequencies for is_sine in kinds)]


@cache
def fit(
    name: str,
    function: Callable[[Decimal], Decimal],
    low: float,
    high: float,
    period: float,
    max_error: float,
    parity: Parity = "none",
    reference: Callable[[Array], Array] | None = None,
) -> TrigSeries:
    """Fit the series with the fewest harmonics whose error on ``[low, high]`` is at most ``max_error``.

    Least squares over 256 Chebyshev nodes with a ridge on the coefficients; for each number of harmonics the weakest
    ridges are tried first and the first fit within both bounds is taken.  The error is measured on 24001 equidistant
    points.  Calls are cached by their arguments.

    Args:
        name: name recorded in the series.
        function: the function in decimal arithmetic; it decides the coefficients, so it must be built from
            ``Decimal`` operations only.  It runs in a context of 50 digits.
        low: lower end of the interval.
        high: upper end of the interval.
        period: period of the series; at least ``high - low``.
        max_error: largest absolute error allowed.
        parity: which terms to use, see :data:`Parity`.
        reference: the same function in double precision, for the error measurement; ``function`` if left out, which
            is slower.

    Raises:
        ValueError: the interval or period is unsuitable, or the error cannot be reached with 48 harmonics and
            coefficients whose magnitudes sum to at most 16.
    """
    if not low < high:
        raise ValueError(f"empty interval [{low}, {high}]")
    if period < high - low:
        raise ValueError(f"period {period} is shorter than the interval [{low}, {high}]")
    if max_error <= 0:
        raise ValueError(f"max_error must be positive, got {max_error}")
    with localcontext(Context(prec=_PRECISION, rounding=ROUND_HALF_EVEN)):
        normal = _Normal(function, low, high, period)
        ridges = [_Ridge(normal, Decimal(10) ** exponent) for exponent in _RIDGES]
        nodes = np.array([float(node) for node in normal.nodes])
        values = np.array([float(value) for value in normal.values])
        grid = np.linspace(low, high, _GRID)
        expected: Array | None = None
        best = math.inf
        for harmonics in range(MAX_HARMONICS + 1):
            frequencies, terms = _terms(parity, harmonics)
            for ridge in ridges:
                coefficients = dict(zip(terms, map(_quantised, ridge.solve(terms)), strict=True))
                series = TrigSeries(
                    name=name,
                    low=low,
                    high=high,
                    period=period,
                    frequencies=frequencies,
                    constant=coefficients[False, 0],
                    cosines=tuple(coefficients.get((False, frequency), 0.0) for frequency in frequencies),
                    sines=tuple(coefficients.get((True, frequency), 0.0) for frequency in frequencies),
                    max_error=max_error,
                )
                if series.magnitude > MAX_MAGNITUDE:
                    continue
                error = float(np.max(np.abs(series(nodes) - values)))
                best = min(best, error)
                if error > max_error:
                    break  # a stronger ridge only makes it worse
                if expected is None:
                    expected = (
                        np.array([float(function(Decimal(float(point)))) for point in grid])
                        if reference is None
                        else reference(grid)
                    )
                error = float(np.max(np.abs(series(grid) - expected)))
                if error <= max_error:
                    return replace(series, max_error=error)
                break
    raise ValueError(
        f"{name} on [{low}, {high}] with period {period}: error {max_error:.3g} is out of reach with "
        f"{MAX_HARMONICS} harmonics (best {best:.3g})"
    )


def _decimal_tanh(x: Decimal) -> Decimal:
    power = (2 * x).exp()
    return (power - 1) / (power + 1)


def _float_tanh(x: Array) -> Array:
    return np.tanh(x)


def _decimal_sigmoid(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


def _float_sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def decimal_erf(x: Decimal) -> Decimal:
    """Return ``2/sqrt(pi) e**(-x**2) sum_n 2**n x**(2n+1) / (1 3 5 .. (2n+1))``, whose terms all have one sign."""
    square = 2 * x * x
    term = total = x
    index = 1
    while abs(term) > abs(total).scaleb(-_PRECISION):
        index += 2
        term = term * square / index
        total += term
    return 2 / PI.sqrt() * (-x * x).exp() * total


def _float_erf(x: Array) -> Array:
    return np.array([math.erf(value) for value in x.tolist()])


# Of each ramp r the pair (r(x) - x/2, r'(x) - 1/2).
# gelu: x (1 + erf(x / sqrt 2)) / 2;  gelu-tanh: x (1 + tanh(a (x + b x**3))) / 2;  silu: x / (1 + e**-x);
# softplus: ln(1 + e**x);  mish: x t, t = tanh(softplus(x)) = 1 - 2 / ((1 + e**x)**2 + 1).

_CUBE = Decimal("0.044715")


def _decimal_gelu(x: Decimal) -> tuple[Decimal, Decimal]:
    step = decimal_erf(x / Decimal(2).sqrt()) / 2
    return x * step, step + x * (-x * x / 2).exp() / (2 * PI).sqrt()


def _float_gelu(x: Array) -> tuple[Array, Array]:
    step = _float_erf(x / math.sqrt(2)) / 2
    return x * step, step + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _decimal_gelu_tanh(x: Decimal) -> tuple[Decimal, Decimal]:
    inner = (2 / PI).sqrt()
    step = _decimal_tanh(inner * (x + _CUBE * x**3)) / 2
    return x * step, step + x * (1 - 4 * step * step) / 2 * inner * (1 + 3 * _CUBE * x * x)


def _float_gelu_tanh(x: Array) -> tuple[Array, Array]:
    inner, cube = math.sqrt(2 / math.pi), float(_CUBE)
    step = np.tanh(inner * (x + cube * x**3)) / 2
    return x * step, step + x * (1 - 4 * step * step) / 2 * inner * (1 + 3 * cube * x * x)


def _decimal_silu(x: Decimal) -> tuple[Decimal, Decimal]:
    step = _decimal_tanh(x / 2) / 2
    return x * step, step + x * (1 - 4 * step * step) / 4


def _float_silu(x: Array) -> tuple[Array, Array]:
    step = np.tanh(x / 2) / 2
    return x * step, step + x * (1 - 4 * step * step) / 4


def _decimal_softplus(x: Decimal) -> tuple[Decimal, Decimal]:
    return (1 + (-abs(x)).exp()).ln() + abs(x) / 2, _decimal_tanh(x / 2) / 2


def _float_softplus(x: Array) -> tuple[Array, Array]:
    return np.log1p(np.exp(-np.abs(x))) + np.abs(x) / 2, np.tanh(x / 2) / 2


def _decimal_mish(x: Decimal) -> tuple[Decimal, Decimal]:
    power = x.exp()
    step = 1 - 2 / ((1 + power) ** 2 + 1)
    return x * (step - Decimal("0.5")), step - Decimal("0.5") + x * (1 - step * step) * power / (1 + power)


def _float_mish(x: Array) -> tuple[Array, Array]:
    power = np.exp(x)
    step = 1 - 2 / ((1 + power) ** 2 + 1)
    return x * (step - 0.5), step - 0.5 + x * (1 - step * step) * power / (1 + power)


_DecimalRamp: TypeAlias = Callable[[Decimal], tuple[Decimal, Decimal]]
_FloatRamp: TypeAlias = Callable[[Array], tuple[Array, Array]]

#: Of each ramp its two functions, in decimal and in double precision, and the parities of their series.
_RAMPS: dict[Ramp, tuple[_DecimalRamp, _FloatRamp, Parity, Parity]] = {
    "gelu": (_decimal_gelu, _float_gelu, "even-half-wave", "odd-half-wave"),
    "gelu-tanh": (_decimal_gelu_tanh, _float_gelu_tanh, "even-half-wave", "odd-half-wave"),
    "silu": (_decimal_silu, _float_silu, "even-half-wave", "odd-half-wave"),
    "softplus": (_decimal_softplus, _float_softplus, "even-half-wave", "odd-half-wave"),
    "mish": (_decimal_mish, _float_mish, "half-wave", "half-wave"),
}


def _decimal_exp(x: Decimal) -> Decimal:
    return x.exp()


def _float_exp(x: Array) -> Array:
    return np.exp(x)


def _decimal_reciprocal(x: Decimal) -> Decimal:
    return 1 / x


def _float_reciprocal(x: Array) -> Array:
    return 1 / x


def _decimal_log(x: Decimal) -> Decimal:
    return x.ln()


def _float_log(x: Array) -> Array:
    return np.log(x)


def _decimal_sqrt(x: Decimal) -> Decimal:
    return x.sqrt()


def _float_sqrt(x: Array) -> Array:
    return np.sqrt(x)


def _decimal_rsqrt(x: Decimal) -> Decimal:
    return 1 / x.sqrt()


def _float_rsqrt(x: Array) -> Array:
    return 1 / np.sqrt(x)


@cache
def saturation(name: Literal["tanh", "sigmoid", "erf"] | Ramp, tail: float) -> float:
    """Return the least multiple of ``1/64`` from which on the function is within ``tail`` of its limit 1.

    ``1 - tanh L = 2 / (e**(2L) + 1)``, ``1 - sigmoid L = 1 / (e**L + 1)``; ``erf`` by search.  Of a ramp it is the
    slope that comes near 0 below, past its minimum; above it is as near to 1, or nearer.  The ramp itself is as near
    to 0 and x, but for mish, whose distance is a tenth more.

    Raises:
        ValueError: ``tail`` is not between ``2**-60`` and ``1/4``.
    """
    if not 2.0**-60 <= tail <= 0.25:
        raise ValueError(f"tail must be from 2**-60 to 1/4, got {tail}")
    with localcontext(Context(prec=_PRECISION, rounding=ROUND_HALF_EVEN)):
        if name == "tanh":
            return math.ceil(32 * (2 / Decimal(tail) - 1).ln()) / 64
        if name == "sigmoid":
            return math.ceil(64 * (1 / Decimal(tail) - 1).ln()) / 64
        if name == "erf":
            step = 1
            while 1 - decimal_erf(Decimal(step) / 64) > Decimal(tail):
                step += 1
            return step / 64
        both = _RAMPS[name][0]
        step = _PEAKS_BELOW * 64
        while abs(both(Decimal(-step) / 64)[1] + Decimal("0.5")) > Decimal(tail):
            step += 1
        return step / 64


#: The negative of an x below which the slope of each ramp is past its minimum.
_PEAKS_BELOW = 3


def _step_series(
    name: Literal["tanh", "sigmoid", "erf"],
    function: Callable[[Decimal], Decimal],
    reference: Callable[[Array], Array],
    period: float,
    max_error: float,
    tail: float,
) -> TrigSeries:
    limit = saturation(name, tail)
    parity: Parity = "odd-half-wave" if period >= 4 * limit else "odd"
    return fit(name, function, -limit, limit, period, max_error, parity, reference)


@cache
def tanh_series(period: float = 32.0, max_error: float = 2.0**-20, tail: float = 2.0**-18) -> TrigSeries:
    """Return a series for ``tanh`` on ``[-L, L]``, ``L = saturation("tanh", tail)``; clip to +-1 outside.

    With ``period >= 4 L`` it uses sines of odd frequencies, otherwise sines of all frequencies; these need
    ``period >= 2.5 L`` or so, and then cost as many harmonics as the odd ones at twice the period.
    """
    return _step_series("tanh", _decimal_tanh, _float_tanh, period, max_error, tail)


@cache
def sigmoid_series(period: float = 64.0, max_error: float = 2.0**-20, tail: float = 2.0**-18) -> TrigSeries:
    """Return a series for ``1 / (1 + e**-x)`` on ``[-L, L]``, ``L = saturation("sigmoid", tail)``; see tanh_series."""
    return _step_series("sigmoid", _decimal_sigmoid, _float_sigmoid, period, max_error, tail)


@cache
def erf_series(period: float = 16.0, max_error: float = 2.0**-20, tail: float = 2.0**-18) -> TrigSeries:
    """Return a series for ``erf`` on ``[-L, L]``, ``L = saturation("erf", tail)``; see :func:`tanh_series`."""
    return _step_series("erf", decimal_erf, _float_erf, period, max_error, tail)


@cache
def ramp_series(name: Ramp, limit: float, period: float, max_error: float = 2.0**-20) -> TrigSeries:
    """Return a series for ``ramp(x) - x/2`` on ``[-limit, limit]``; ``period`` is at least 4 limits.

    A half-wave series needs the fewest terms where a quarter period is just the limit: 8 for gelu, 21 for silu.
    """
    both, both_float, parity, _ = _RAMPS[name]
    return fit(name, lambda x: both(x)[0], -limit, limit, period, max_error, parity, lambda x: both_float(x)[0])


@cache
def ramp_slope_series(name: Ramp, limit: float, period: float, max_error: float = 2.0**-20) -> TrigSeries:
    """Return a series for the slope of a ramp on ``[-limit, limit]``, 0 below and 1 above; see :func:`ramp_series`."""
    both, both_float, _, parity = _RAMPS[name]
    half = Decimal("0.5")
    return fit(
        f"{name} slope",
        lambda x: half + both(x)[1],
        -limit,
        limit,
        period,
        max_error,
        parity,
        lambda x: 0.5 + both_float(x)[1],
    )


@cache
def exp_series(
    low: float = 0.0, high: float = 1.390625, period: float = 4.0, max_error: float = 2.0**-22
) -> TrigSeries:
    """Return a series for ``e**x`` on ``[low, high]``, by default just over ``[0, ln 4]``."""
    return fit("exp", _decimal_exp, low, high, period, max_error, "none", _float_exp)


@cache
def reciprocal_series(base: int = 4, period: float | None = None, max_error: float = 2.0**-22) -> TrigSeries:
    """Return a series for ``1 / m`` on ``[1, base]``; the period is twice the base unless given."""
    length = float(2 * base) if period is None else period
    return fit("reciprocal", _decimal_reciprocal, 1.0, float(base), length, max_error, "none", _float_reciprocal)


@cache
def log_series(base: int = 4, period: float | None = None, max_error: float = 2.0**-22) -> TrigSeries:
    """Return a series for ``ln m`` on ``[1, base]``; the period is twice the base unless given."""
    length = float(2 * base) if period is None else period
    return fit("log", _decimal_log, 1.0, float(base), length, max_error, "none", _float_log)


@cache
def sqrt_series(base: int = 4, period: float | None = None, max_error: float = 2.0**-22) -> TrigSeries:
    """Return a series for ``sqrt(m)`` on ``[1, base]``; the period is twice the base unless given."""
    length = float(2 * base) if period is None else period
    return fit("sqrt", _decimal_sqrt, 1.0, float(base), length, max_error, "none", _float_sqrt)


@cache
def rsqrt_series(base: int = 4, period: float | None = None, max_error: float = 2.0**-22) -> TrigSeries:
    """Return a series for ``1 / sqrt(m)`` on ``[1, base]``; the period is twice the base unless given."""
    length = float(2 * base) if period is None else period
    return fit("rsqrt", _decimal_rsqrt, 1.0, float(base), length, max_error, "none", _float_rsqrt)
