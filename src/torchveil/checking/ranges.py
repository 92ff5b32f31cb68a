"""Numbers that may leave the range in which an operation is defined.

Two sources of warnings. An example without numbers: what operations ask of their operands is said where they occur. An
example with numbers: the program runs once in the clear, on the machine that has them anyway, and only what does leave
a range is said, with magnitudes rounded to powers of two.

Bounds are those of the functions (``functions/``): a ring of 2^64, a number format of scale s.

    sums of products    sum of |x y| < 2^62 / s^2, before the truncation
    any number          |x| < 2^61 / s
    exp                 x <= 11.09 (2^16 above)
    division            2^-20 < |divisor| < 2^20
    sqrt, log, rsqrt    x < 2^28; log and rsqrt of 0 and below count as those of 1/s, sqrt as 0
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from torchveil.checking.watch import Reporter
from torchveil.fixedpoint import ENCODABLE, FixedPoint
from torchveil.tensor import EncryptedTensor

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Domain:
    """The numbers (magnitudes, if ``magnitude``) that an operation takes at ``argument``, from low to high."""

    argument: int
    low: float
    high: float
    magnitude: bool
    says: str
    instead: str


_DIVISOR = Domain(
    1, 2.0**-20, 2.0**20, True,
    "a divisor below 2^-20 counts as 2^-20 or as one unit, above 2^20 it gives 0",
    "keep divisors between: clamp them, or divide both sides by a public number first",
)  # fmt: skip
_RECIPROCAL = Domain(0, _DIVISOR.low, _DIVISOR.high, True, _DIVISOR.says, _DIVISOR.instead)
_ROOT = Domain(
    0, 0.0, 2.0**28, False,
    "the root of a number above 2^28 is wrong, that of a negative one is 0",
    "scale the number down first, and the root up by the root of the factor",
)  # fmt: skip
_LOGARITHM = Domain(
    0, 0.0, 2.0**28, False,
    "of a number of 2^28 and more the result is wrong; 0 and below count as the smallest positive number",
    "scale the number first; log_softmax and logsigmoid need no logarithm of a small number",
)  # fmt: skip
DOMAINS: dict[Any, Domain] = {
    aten.exp.default: Domain(
        0, -math.inf, 11.09, False,
        "above 11.09 the result stays at 2^16",
        "subtract a maximum first, or use softmax, log_softmax, logsumexp or sigmoid, which do",
    ),
    aten.div.Tensor: _DIVISOR,
    aten.reciprocal.default: _RECIPROCAL,
    aten.sqrt.default: _ROOT,
    aten.rsqrt.default: _LOGARITHM,
    aten.log.default: _LOGARITHM,
}  # fmt: skip

#: Products: the places of the two factors, and the dimensions of the second that are summed over.
_PRODUCTS: dict[Any, tuple[int, int, tuple[int, ...]]] = {
    aten.mm.default: (0, 1, (0,)),
    aten.addmm.default: (1, 2, (0,)),
    aten.bmm.default: (0, 1, (1,)),
    aten.baddbmm.default: (1, 2, (1,)),
    aten.convolution.default: (0, 1, (1, 2, 3, 4)),
}

#: A sum of products is warned of, without numbers, when both factors must on average stay below this.
_CLOSE = 32.0


def _bound(number_format: FixedPoint) -> float:
    """What a sum of |x y| has to stay below."""
    return 2.0**62 / number_format.scale**2


def _terms(func: Any, args: Any) -> int:
    """How many products one element of the result adds up."""
    _, second, dims = _PRODUCTS[func]
    shape = args[second].shape
    return math.prod(shape[d] for d in dims if d < len(shape))


def _power(x: float) -> str:
    return f"2^{math.log2(x):.0f}" if 0 < x < math.inf else str(x)


_PRODUCT_REMEDY = "share with fewer digits, or scale the factors down (normalise the data, smaller weights)"


class Notes:
    """Says what operations on secrets ask of numbers that are not there."""

    def __init__(self, reporter: Reporter, number_format: FixedPoint) -> None:
        self._reporter = reporter
        self._format = number_format

    def __call__(self, func: Any, args: Any) -> None:
        domain = DOMAINS.get(func)
        written = self._reporter.place.phase in ("forward", "loss")  # the rest is torch's, and keeps its own bounds
        if domain is not None and written and isinstance(args[domain.argument], EncryptedTensor):
            self._reporter.note("range", str(func), domain.says, domain.instead)
        if func in _PRODUCTS and (terms := _terms(func, args)):
            each = math.sqrt(_bound(self._format) / terms)
            if each < _CLOSE:
                text = f"a sum of {terms} products leaves the ring when the factors are above {each:.2g} on average"
                self._reporter.note("range", str(func), text, _PRODUCT_REMEDY)


class Clear(TorchDispatchMode):
    """Watches the program run in the clear, and notes what leaves a range."""

    def __init__(self, reporter: Reporter, number_format: FixedPoint) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reporter = reporter
        self._format = number_format

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        domain = DOMAINS.get(func)
        if domain is not None and isinstance(args[domain.argument], Tensor):
            self._domain(func, domain, args[domain.argument])
        if func in _PRODUCTS:
            self._product(func, args)
        if "empty" not in func.name():  # what lies in fresh memory is no result
            for x in tree_iter(out):
                if isinstance(x, Tensor) and x.dtype.is_floating_point and x.numel():
                    self._result(func, x)
        return out

    def _domain(self, func: Any, domain: Domain, x: Tensor) -> None:
        if not x.numel() or not x.dtype.is_floating_point:
            return
        low, high = (float(v) for v in torch.aminmax(x.detach().abs() if domain.magnitude else x.detach()))
        if low < domain.low or high > domain.high:
            worst = low if low < domain.low else high
            found = f"{domain.says}; here it is {'about ' + _power(worst) if worst > 0 else 'zero or negative'}"
            self._reporter.note("range", str(func), found, domain.instead)

    def _product(self, func: Any, args: Any) -> None:
        first, second, _ = _PRODUCTS[func]
        x, y = args[first].detach(), args[second].detach()
        if not (x.numel() and y.numel() and x.dtype.is_floating_point):
            return
        bound = _bound(self._format)
        if float(x.abs().max()) * float(y.abs().max()) * _terms(func, args) < bound:
            return
        sizes = list(args)
        sizes[first], sizes[second] = x.abs().to(torch.float64), y.abs().to(torch.float64)
        sizes = [v.abs().to(torch.float64) if isinstance(v, Tensor) else v for v in sizes]
        largest = float(func(*sizes).max())
        if largest >= bound:
            text = (
                f"a sum of products reaches about {_power(largest)}; at {self._format.digits} digits it must stay "
                f"below {_power(bound)}"
            )
            self._reporter.note("range", str(func), text, _PRODUCT_REMEDY)

    def _result(self, func: Any, x: Tensor) -> None:
        largest = float(torch.nan_to_num(x.detach(), nan=0.0, posinf=0.0, neginf=0.0).abs().max())
        limit = ENCODABLE / self._format.scale
        if largest >= limit:
            text = f"a number reaches about {_power(largest)}; the ring holds up to {_power(limit)}"
            self._reporter.note("range", str(func), text, "scale the data down, or share with fewer digits")


__all__ = ["Clear", "Notes"]
