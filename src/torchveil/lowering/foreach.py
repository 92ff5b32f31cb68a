"""torch's operations on lists of tensors (``foreach=True``), one tensor after the other: rounds are those of a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.lowering.table import COMPOSED, aten


def _divide(x: Tensor, divisor: Any) -> Tensor:
    if isinstance(divisor, float) and divisor == 0:
        # RAdam writes infinities into a buffer and takes their reciprocal
        raise UnsupportedOperation(
            "a list divided by zero: numbers of a share have no infinities", op="_foreach_div", remedy="foreach=False"
        )
    return torch.div(x, divisor)


def _plus_product(x: Tensor, a: Tensor, b: Any, value: float = 1) -> Tensor:
    # a step size may be a number of its own for each tensor
    return torch.add(x, a, alpha=value * b) if isinstance(b, float) else torch.addcmul(x, a, b, value=value)


#: Of each op what it does to one tensor of a list; the arguments that are lists are taken apart together.
EACH: dict[Any, Callable[..., Tensor]] = {
    aten._foreach_abs: aten.abs,
    aten._foreach_add: aten.add,
    aten._foreach_addcdiv: lambda x, a, b, value=1: torch.addcdiv(x, a, b, value=value),
    aten._foreach_addcmul: _plus_product,
    aten._foreach_clamp_max: aten.clamp_max,
    aten._foreach_clamp_min: aten.clamp_min,
    aten._foreach_copy: lambda _x, other, *_: other.clone(),
    aten._foreach_div: _divide,
    aten._foreach_erf: aten.erf,
    aten._foreach_exp: aten.exp,
    aten._foreach_lerp: aten.lerp,
    aten._foreach_log: aten.log,
    aten._foreach_maximum: aten.maximum,
    aten._foreach_minimum: aten.minimum,
    aten._foreach_mul: aten.mul,
    aten._foreach_neg: aten.neg,
    aten._foreach_norm: aten.linalg_vector_norm,
    aten._foreach_pow: aten.pow,
    aten._foreach_reciprocal: aten.reciprocal,
    aten._foreach_rsqrt: aten.rsqrt,
    aten._foreach_sigmoid: aten.sigmoid,
    aten._foreach_sign: aten.sign,
    aten._foreach_sqrt: aten.sqrt,
    aten._foreach_sub: aten.sub,
    aten._foreach_tanh: aten.tanh,
    aten._foreach_zero: torch.zeros_like,
}

#: The in-place forms that torch has for one tensor: they keep what a step in place saves (``functions.arithmetic``).
_IN_PLACE: dict[Any, Callable[..., Tensor]] = {
    aten._foreach_add: aten.add_,
    aten._foreach_addcdiv: lambda x, a, b, value=1: x.addcdiv_(a, b, value=value),
    aten._foreach_copy: lambda x, other, *_: x.copy_(other),
    aten._foreach_lerp: aten.lerp_,
    aten._foreach_mul: aten.mul_,
    aten._foreach_sub: aten.sub_,
    aten._foreach_zero: aten.zero_,
}


def _one_by_one(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[list[Any], dict[str, Any]]]:
    """The arguments of each call: element k of every list, and what is no list as it is.

    Plain tensors without dimensions are numbers: the step counts and rates that optimizers keep in tensors.
    """
    count = next(len(arg) for arg in args if isinstance(arg, (list, tuple)))

    def pick(arg: Any, k: int) -> Any:
        one = arg[k] if isinstance(arg, (list, tuple)) else arg
        return float(one) if type(one) is Tensor and one.dim() == 0 else one

    return [([pick(a, k) for a in args], {n: pick(a, k) for n, a in kwargs.items()}) for k in range(count)]


def _functional(each: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    def run(*args: Any, **kwargs: Any) -> list[Tensor]:
        return [each(*a, **k) for a, k in _one_by_one(args, kwargs)]

    return run


def _in_place(each: Callable[..., Tensor], packet: Any) -> Callable[..., None]:
    written = _IN_PLACE.get(packet)

    def run(*args: Any, **kwargs: Any) -> None:
        for a, k in _one_by_one(args, kwargs):
            if written is not None:
                written(*a, **k)
            else:
                a[0].copy_(each(*a, **k))

    return run


def _register() -> None:
    for packet, each in EACH.items():
        name = packet._qualified_op_name.split("::")[1]
        for made, form in ((packet, _functional(each)), (getattr(aten, f"{name}_", None), _in_place(each, packet))):
            for overload in [] if made is None else made.overloads():
                if not overload.endswith("out"):
                    COMPOSED[getattr(made, overload)] = form


_register()
