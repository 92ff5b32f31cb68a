"""Whole parts and remainders by public divisors."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import InvalidArgument, UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import rounding
from torchveil.handle import Deferred, Handle, Public, Secret
from torchveil.lowering.table import aten, composes, lowers


def _wire(x: Handle) -> Secret:
    """The integers as they are: what is pending is rounded exactly, without a truncation before."""
    return ar.secret(x)


def _divisor(y: Any, op: str) -> Fraction:
    """A public number; what else there is cannot divide exactly."""
    if isinstance(y, Deferred):
        y = y.force()
    if isinstance(y, Public) and (y.fill is not None or y.dense().numel() == 1):
        y = float(y.dense().reshape(-1)[0])
    if not isinstance(y, (int, float)):
        raise UnsupportedOperation(
            "whole quotients of a tensor of divisors", op=op, remedy="divide by a public number, or without rounding"
        )
    if y == 0 or y != y or y in (float("inf"), float("-inf")):
        raise InvalidArgument("a secret divided by 0 or by what is not finite", op=op, remedy="check the divisor")
    return Fraction(y)


def _floor_quotient(x: Handle, divisor: Fraction) -> Handle:
    wire = _wire(x)
    if divisor < 0:
        wire, divisor = ar.combine([(wire, -1)], scale=wire.scale), -divisor
    return rounding.floor_divide(wire, divisor)


@lowers(aten.floor.default)
def _floor(x: Handle) -> Handle:
    return rounding.floor_divide(_wire(x), Fraction(1))


@lowers(aten.ceil.default)
def _ceil(x: Handle) -> Handle:
    return ar.negate(_floor(ar.negate(x)))


@lowers(aten.round.default)
def _round(x: Handle) -> Handle:
    return rounding.nearest(_wire(x), Fraction(1))


@lowers(aten.round.decimals)
def _round_decimals(x: Handle, *, decimals: int) -> Handle:
    unit = Fraction(10) ** -decimals
    whole = rounding.nearest(_wire(x), unit)
    return ar.multiply_scalar(whole, float(unit)) if unit >= 1 else ar.divide_scalar(whole, float(1 / unit))


@lowers(aten.remainder.Scalar, aten.remainder.Tensor)
def _remainder(x: Handle, y: Any) -> Handle:
    divisor = _divisor(y, "remainder")
    wire = _wire(x)
    if divisor > 0:
        return rounding.remainder(wire, divisor)
    return ar.negate(rounding.remainder(ar.combine([(wire, -1)], scale=wire.scale), -divisor))


@lowers(aten.floor_divide.default, aten.floor_divide.Scalar)
def _floor_divide(x: Handle, y: Any) -> Handle:
    return _floor_quotient(x, _divisor(y, "floor_divide"))


@composes(aten.trunc.default)
def _trunc(x: Tensor) -> Tensor:
    whole = torch.floor(x.abs())
    return torch.where(x < 0, -whole, whole)


@composes(aten.frac.default)
def _frac(x: Tensor) -> Tensor:
    return _fmod(x, 1.0)


@composes(aten.fmod.Scalar, aten.fmod.Tensor)
def _fmod(x: Tensor, y: Any) -> Tensor:
    """The remainder of |x|, with x's sign."""
    rest: Tensor = torch.remainder(x.abs(), abs(y))
    return torch.where(x < 0, -rest, rest)


@composes(aten.div.Tensor_mode, aten.div.Scalar_mode)
def _div_mode(x: Tensor, y: Any, *, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode is None:
        quotient: Tensor = x / y
        return quotient
    if rounding_mode == "floor":
        return torch.floor_divide(x, y)
    whole: Tensor = torch.floor_divide(x.abs(), abs(y))
    return torch.where(x < 0, -whole, whole) * (1 if y > 0 else -1)
