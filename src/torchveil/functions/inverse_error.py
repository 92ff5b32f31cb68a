"""The inverse of the error function: x g(w), w = -log(1 - x^2), g a series.

g(w) = erfinv(x) / x is smooth in w, from sqrt(pi) / 2 at 0 to about 3 at 11, where x is the last number below 1 at 16
bits. 1 - x^2 keeps the digits of the square, so that w is as exact near 1 as elsewhere. |x| >= 1 counts as w = 11.
Rounds: those of the logarithm, 4 for the limit, 4. Error < 8 units for |x| < 0.99; beyond, the unit of x itself counts.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from torchveil.functions.arithmetic import add, multiply, narrow, number, product, to_scale
from torchveil.functions.comparison import clamp
from torchveil.functions.normalise import log, series
from torchveil.functions.series import TrigSeries, decimal_erf, fit
from torchveil.handle import Handle, Public, Secret
from torchveil.kernels.tables import PI

_LIMIT = 11.0
_TURN_BITS = 62


def _double(w: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x = np.sqrt(-np.expm1(-np.maximum(w, 1e-12)))
    out: npt.NDArray[np.float64] = torch.special.erfinv(torch.as_tensor(x)).numpy() / x
    return out


def _decimal(w: Decimal) -> Decimal:
    """By Newton's method; where it starts does not matter."""
    if w < Decimal("1e-12"):
        return PI.sqrt() / 2
    x = (1 - (-w).exp()).sqrt()
    y = Decimal(float(_double(np.array([float(w)]))[0])) * x
    for _ in range(4):
        y -= (decimal_erf(y) - x) * (y * y).exp() * PI.sqrt() / 2
    return y / x


@cache
def _fitted() -> TrigSeries:
    return fit("erfinv", _decimal, 0.0, _LIMIT, 2 * _LIMIT, 2.0**-20, "none", _double)


def erfinv(x: Handle) -> Secret:
    """erfinv(x) for |x| < 1."""
    wire = narrow(number(x))
    one = Public(wire.session, wire.shape, fill=1.0)
    w = log(add(one, multiply(wire, wire), -1))
    limited = clamp(add(Public(wire.session, wire.shape, fill=0.0), w, -1), 0, _LIMIT)
    fitted = _fitted()
    factor = round((1 << _TURN_BITS) / (fitted.period * limited.scale))
    slope = to_scale(series(limited, fitted, _TURN_BITS, factor=factor), limited.format.scale)
    slope.format = limited.format
    return product(wire, slope)
