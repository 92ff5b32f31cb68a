"""Running products, maxima and minima."""

from __future__ import annotations

from typing import Any

from torchveil.fixedpoint import FixedPoint
from torchveil.functions import arithmetic as ar
from torchveil.functions import scans
from torchveil.handle import Handle, Public
from torchveil.lowering.table import aten, lowers


@lowers(aten.cumprod.default)
def _cumprod(x: Handle, dim: int, *, dtype: Any = None) -> Handle:
    if not x.shape:
        return x

    def join(a: Any, b: Any) -> Any:
        return [ar.narrow(ar.secret(ar.multiply(a[0], b[0])))]

    return scans.prefixes([ar.narrow(ar.secret(x))], dim % len(x.shape), join)[0]


def _running(relation: str) -> Any:
    def scan(x: Handle, dim: int) -> tuple[Handle, Handle]:
        if not x.shape:
            return x, ar.constant(Public(x.session, (), fill=0.0), 1, FixedPoint(2, 0))
        return scans.extreme(x, dim % len(x.shape), relation)

    return scan


# torch gives the last of equal entries
lowers(aten.cummax.default)(_running("ge"))
lowers(aten.cummin.default)(_running("le"))
