"""The table of functions whose error is measured: what is called, on which numbers, and what is promised.

Points lie on the grid of the format and always include the edges of the range: both ends with their neighbours, zero
with its neighbours, and where a function changes its piece, the powers of four with theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from torchveil.fixedpoint import FixedPoint

#: Numbers of the grid beside each edge.
_BESIDE = 64

Points = Callable[[FixedPoint, int], tuple[Tensor, ...]]


def on_grid(x: Tensor, number_format: FixedPoint) -> Tensor:
    """The nearest numbers of the format."""
    return torch.round(x.double() * number_format.scale) / number_format.scale


def _with_edges(x: Tensor, edges: list[float], low: float, high: float, number_format: FixedPoint) -> Tensor:
    """The points, then every edge with its neighbours on the grid, inside [low, high]; as many as there were points."""
    beside = torch.arange(-_BESIDE, _BESIDE + 1, dtype=torch.float64) / number_format.scale
    near = torch.cat([beside + edge for edge in [low, high, *edges]])
    near = near[: x.numel() // 2] if near.numel() > x.numel() // 2 else near
    return on_grid(torch.cat([near, x[near.numel() :]]), number_format).clamp(low, high)


def even(low: float, high: float, edges: tuple[float, ...] = (0.0,)) -> Points:
    """Half of them evenly spaced, half random."""

    def points(number_format: FixedPoint, count: int) -> tuple[Tensor, ...]:
        spread = torch.linspace(low, high, count // 2, dtype=torch.float64)
        free = torch.rand(count - count // 2, dtype=torch.float64) * (high - low) + low
        x = torch.cat([spread, free])[torch.randperm(count)]
        return (_with_edges(x, list(edges), low, high, number_format),)

    return points


def magnitudes(low: float, high: float, *, signed: bool = False) -> Points:
    """All magnitudes alike, from ``low`` (0: one unit) to ``high``."""

    def points(number_format: FixedPoint, count: int) -> tuple[Tensor, ...]:
        first = low or 1 / number_format.scale
        x = torch.exp2(torch.rand(count, dtype=torch.float64) * math.log2(high / first)) * first
        powers = [4.0**k for k in range(-10, 14) if first <= 4.0**k <= high]
        x = _with_edges(x, powers, first, high, number_format)
        return (torch.where(torch.rand(count) < 0.5, -x, x) if signed else x,)

    return points


def rows(length: int, reach: float) -> Points:
    """Rows of random numbers; some of equal entries, some with one far from all others."""

    def points(number_format: FixedPoint, count: int) -> tuple[Tensor, ...]:
        x = (torch.rand(max(4, count // length), length, dtype=torch.float64) * 2 - 1) * reach
        x[0], x[1], x[2] = 0.0, -reach, reach
        x[3, 0], x[3, 1:] = reach, -reach
        return (on_grid(x, number_format),)

    return points


def two(first: Points, second: Points) -> Points:
    """Two operands."""
    return lambda number_format, count: (*first(number_format, count), *second(number_format, count))


def quotients(reach: float, low: float, high: float) -> Points:
    """Dividends for which the quotient stays within ``reach``; divisors of all magnitudes and both signs."""

    def points(number_format: FixedPoint, count: int) -> tuple[Tensor, ...]:
        (divisor,) = magnitudes(low, high, signed=True)(number_format, count)
        quotient = (torch.rand(count, dtype=torch.float64) * 2 - 1) * reach
        return on_grid(quotient * divisor, number_format), divisor

    return points


def matrices(size: int, reach: float) -> Points:
    """Square matrices, as many as make ``count`` numbers of the result."""

    def points(number_format: FixedPoint, count: int) -> tuple[Tensor, ...]:
        number = max(1, count // size**2)
        x = (torch.rand(2, number, size, size, dtype=torch.float64) * 2 - 1) * reach
        x[:, 0] = reach
        return on_grid(x[0], number_format), on_grid(x[1], number_format)

    return points


@dataclass(frozen=True)
class Bar:
    """The largest error allowed: ``absolute``, or ``relative`` to the result where that is more."""

    absolute: float
    relative: float = 0.0

    def holds(self, found: Tensor, wanted: Tensor) -> bool:
        """Whether every number is within the larger of both."""
        return bool(((found - wanted).abs() <= (self.relative * wanted.abs()).clamp(min=self.absolute)).all())


@dataclass(frozen=True)
class Peer:
    """The best other system's largest absolute error (2026-11), on the points ``points``, with ``bits`` or less."""

    error: float
    bits: int
    points: Points


@dataclass(frozen=True)
class Function:
    """A row: ``extent`` and ``outside`` are what the page says of the range and of what lies beyond it."""

    call: Callable[..., Tensor]
    points: Points
    extent: str
    outside: str = "the same for every number of the format"
    gradient: bool = True
    bar: Bar | None = None
    peer: Peer | None = None


_ANY = "defined for every number of the format"
_STEP = Bar(4e-5)
_ROOT = Bar(2.0**-14, 2.0**-14)
_PRODUCT = "products must stay below 2^62 / scale^2 before truncation (2^30 at 16 bits, 2^22 at 20); debug mode raises"


def _last(function: Callable[..., Tensor], **options: object) -> Callable[[Tensor], Tensor]:
    return partial(function, dim=-1, **options)


def _layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


def _normalized(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def _largest(x: Tensor) -> Tensor:
    return x.max(-1).values


FUNCTIONS: dict[str, Function] = {
    # --- steps and ramps ---------------------------------------------------------------------------------------------
    "sigmoid": Function(
        torch.sigmoid, even(-60, 60), "[-60, 60]", _ANY, bar=_STEP, peer=Peer(4.8e-5, 16, even(-10, 10))
    ),
    "tanh": Function(torch.tanh, even(-60, 60), "[-60, 60]", _ANY, bar=_STEP, peer=Peer(5.7e-3, 16, even(-5, 5))),
    "gelu": Function(F.gelu, even(-20, 20), "[-20, 20]", _ANY, bar=_STEP, peer=Peer(8e-3, 20, even(-6, 6))),
    "gelu (tanh)": Function(partial(F.gelu, approximate="tanh"), even(-20, 20), "[-20, 20]", _ANY, bar=_STEP),
    "silu": Function(F.silu, even(-20, 20), "[-20, 20]", _ANY, bar=_STEP),
    "erf": Function(torch.erf, even(-10, 10), "[-10, 10]", _ANY, bar=_STEP),
    "softplus": Function(F.softplus, even(-60, 60), "[-60, 60]", _ANY),
    "logsigmoid": Function(F.logsigmoid, even(-60, 60), "[-60, 60]", _ANY),
    "mish": Function(F.mish, even(-20, 20), "[-20, 20]", _ANY),
    "elu": Function(F.elu, even(-20, 20), "[-20, 20]", _ANY),
    "selu": Function(F.selu, even(-20, 20), "[-20, 20]", _ANY),
    "hardswish": Function(F.hardswish, even(-20, 20, (-3.0, 3.0)), "[-20, 20]", _ANY),
    # --- exponentials and powers -------------------------------------------------------------------------------------
    "exp": Function(
        torch.exp,
        even(-30, 11),
        "[-30, 11]",
        "0 below -20, 65536 above 11.09",
        bar=_ROOT,
        peer=Peer(1.85e-3, 16, even(-8, 4)),
    ),
    "expm1": Function(torch.expm1, even(-30, 11), "[-30, 11]", "-1 below, 65535 above 11.09"),
    "log": Function(
        torch.log,
        magnitudes(0, 2.0**20),
        "[1 unit, 2^20]",
        "log of one unit for 0, negative numbers, and from 2^27 on",
        bar=_ROOT,
        peer=Peer(4.4e-2, 16, even(0.01, 64)),
    ),
    "log1p": Function(torch.log1p, magnitudes(0, 2.0**20), "[1 unit, 2^20]", "as log of 1 + x"),
    "reciprocal": Function(
        torch.reciprocal,
        magnitudes(0, 2.0**19, signed=True),
        "1 unit to 2^19, both signs",
        "1 / unit for 0; 0 for larger numbers",
        bar=_ROOT,
        peer=Peer(2.4e-4, 20, even(0.1, 100)),
    ),
    "division": Function(
        torch.div,
        quotients(2.0, 2.0**-6, 2.0**14),
        "divisors 2^-6 to 2^14, both signs; quotients to 2",
        "divided by one unit for 0; quotients that are too large are cut off, with their sign",
    ),
    "sqrt": Function(
        torch.sqrt,
        magnitudes(0, 2.0**27),
        "[1 unit, 2^27]",
        "0 for negative numbers and beyond",
        bar=_ROOT,
        peer=Peer(4e-4, 20, even(0.01, 100)),
    ),
    "rsqrt": Function(
        torch.rsqrt,
        magnitudes(0, 2.0**27),
        "[1 unit, 2^27]",
        "that of one unit for 0 and negative numbers; 0 beyond",
        bar=_ROOT,
        peer=Peer(1.5e-2, 16, even(0.1, 64)),
    ),
    "pow 2": Function(lambda x: x**2, even(-100, 100), "[-100, 100]", _PRODUCT),
    "pow 3": Function(lambda x: x**3, even(-20, 20), "[-20, 20]", _PRODUCT),
    "pow 0.5": Function(lambda x: x**0.5, magnitudes(0, 2.0**27), "[1 unit, 2^27]", "as sqrt"),
    "pow -1": Function(
        lambda x: x**-1, magnitudes(2.0**-8, 2.0**19, signed=True), "2^-8 to 2^19, both signs", "as reciprocal"
    ),
    # --- trigonometry ------------------------------------------------------------------------------------------------
    "sin": Function(torch.sin, even(-100, 100), "[-100, 100]", _ANY),
    "cos": Function(torch.cos, even(-100, 100), "[-100, 100]", _ANY),
    "atan": Function(torch.atan, even(-100, 100), "[-100, 100]", _ANY),
    # --- pieces ------------------------------------------------------------------------------------------------------
    "abs": Function(torch.abs, even(-1000, 1000), "[-1000, 1000]", _ANY),
    "sign": Function(torch.sign, even(-1000, 1000), "[-1000, 1000]", _ANY, gradient=False),
    "relu": Function(torch.relu, even(-1000, 1000), "[-1000, 1000]", _ANY),
    "leaky_relu": Function(F.leaky_relu, even(-1000, 1000), "[-1000, 1000]", _ANY),
    "clamp": Function(
        lambda x: torch.clamp(x, -1.5, 2.25), even(-1000, 1000, (-1.5, 0.0, 2.25)), "[-1000, 1000]", _ANY
    ),
    "maximum": Function(torch.maximum, two(even(-100, 100), even(-100, 100)), "[-100, 100]", _ANY),
    "max of 10": Function(_largest, rows(10, 100), "[-100, 100]", "differences below 2^63 / scale"),
    "less than": Function(
        lambda x, y: x < y, two(even(-1, 1), even(-1, 1)), "[-1, 1]", "differences below 2^63 / scale", gradient=False
    ),
    "equal": Function(
        lambda x: x == 0, even(-0.01, 0.01), "[-0.01, 0.01]", "differences below 2^63 / scale", gradient=False
    ),
    # --- sums and products -------------------------------------------------------------------------------------------
    "add": Function(torch.add, two(even(-1000, 1000), even(-1000, 1000)), "[-1000, 1000]", "sums below 2^63 / scale"),
    "mul": Function(torch.mul, two(even(-30, 30), even(-30, 30)), "[-30, 30]", _PRODUCT),
    "matmul 128": Function(torch.matmul, matrices(128, 1.0), "128x128, [-1, 1]", _PRODUCT),
    "sum of 100": Function(_last(torch.sum), rows(100, 10), "[-10, 10]", "sums below 2^63 / scale"),
    "mean of 100": Function(_last(torch.mean), rows(100, 10), "[-10, 10]", "sums below 2^62 / scale"),
    "cumsum of 100": Function(_last(torch.cumsum), rows(100, 10), "[-10, 10]", "sums below 2^63 / scale"),
    "prod of 4": Function(_last(torch.prod), rows(4, 3), "[-3, 3]", _PRODUCT),
    "var of 100": Function(_last(torch.var), rows(100, 10), "[-10, 10]", _PRODUCT),
    "norm of 100": Function(_last(torch.linalg.vector_norm), rows(100, 10), "[-10, 10]", _PRODUCT, gradient=False),
    # --- rows --------------------------------------------------------------------------------------------------------
    "softmax of 10": Function(
        _last(torch.softmax), rows(10, 10), "[-10, 10]", _ANY, bar=_STEP, peer=Peer(4e-5, 16, rows(10, 10))
    ),
    "softmax of 128": Function(
        _last(torch.softmax), rows(128, 10), "[-10, 10]", _ANY, bar=_STEP, peer=Peer(4e-5, 16, rows(128, 10))
    ),
    "log_softmax of 10": Function(_last(torch.log_softmax), rows(10, 10), "[-10, 10]", _ANY),
    "logsumexp of 10": Function(_last(torch.logsumexp), rows(10, 10), "[-10, 10]", _ANY),
    "layer_norm of 64": Function(_layer_norm, rows(64, 10), "[-10, 10]", "rows of equal entries give 0"),
    "rms_norm of 64": Function(_rms_norm, rows(64, 10), "[-10, 10]", "rows of zeros give 0"),
    "normalize of 64": Function(_normalized, rows(64, 10), "[-10, 10]", "rows of zeros give 0"),
}
