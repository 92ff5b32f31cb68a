"""Factories: constants shaped like a secret are public until something secret is added to them."""

from __future__ import annotations

from typing import Any

import torch

from torchveil import public_randomness
from torchveil.errors import UnsupportedOperation
from torchveil.functions.arithmetic import expand_to
from torchveil.handle import Handle, Public
from torchveil.lowering.table import aten, lowers, writes


def _constant(x: Handle, shape: tuple[int, ...], value: float, dtype: Any = None, **_kwargs: Any) -> Handle:
    """A public constant: truth values where torch is asked for them, else numbers."""
    if dtype is torch.bool:
        return Public(x.session, shape, tensor=torch.full(shape, bool(value)))
    return Public(x.session, shape, fill=float(value))


def _filled(value: float) -> Any:
    def like(x: Handle, **kwargs: Any) -> Handle:
        return _constant(x, x.shape, value, **kwargs)

    return like


lowers(aten.zeros_like.default, aten.empty_like.default)(_filled(0.0))
lowers(aten.ones_like.default)(_filled(1.0))


@lowers(aten.full_like.default)
def _full_like(x: Handle, value: float, **kwargs: Any) -> Handle:
    return _constant(x, x.shape, value, **kwargs)


def _new(value: float) -> Any:
    def new(x: Handle, size: Any, *_stride: Any, **kwargs: Any) -> Handle:
        return _constant(x, tuple(size), value, **kwargs)

    return new


lowers(aten.new_zeros.default, aten.new_empty.default, aten.new_empty_strided.default)(_new(0.0))
lowers(aten.new_ones.default)(_new(1.0))


@lowers(aten.new_full.default)
def _new_full(x: Handle, size: Any, value: float, **kwargs: Any) -> Handle:
    return _constant(x, tuple(size), value, **kwargs)


@writes(aten.zero_.default)
def _zero(x: Handle) -> Handle:
    return Public(x.session, x.shape, fill=0.0)


@lowers(aten.fill.Scalar)
@writes(aten.fill_.Scalar)
def _fill(x: Handle, value: float) -> Handle:
    return Public(x.session, x.shape, fill=float(value))


@writes(aten.fill_.Tensor, indices=True)
def _fill_tensor(x: Handle, value: Any) -> Handle:
    if isinstance(value, Handle):
        return expand_to(value, x.shape)
    return Public(x.session, x.shape, fill=float(value))


@writes(aten.bernoulli_.float)
def _bernoulli(x: Handle, p: float = 0.5, *, generator: Any = None) -> Handle:
    if generator is not None:
        raise UnsupportedOperation("dropout with its own generator", op="bernoulli_", remedy="use torch.manual_seed")
    return Public(x.session, x.shape, tensor=public_randomness.bernoulli(x.shape, p))


def _refuse_random(name: str) -> Any:
    def refuse(*_args: Any, **_kwargs: Any) -> Handle:
        raise UnsupportedOperation(
            f"{name} would fill a secret with public random numbers",
            op=name,
            remedy="draw the numbers in a plain tensor and share it, or declare it public(...)",
        )

    return refuse


for _op in (aten.rand_like.default, aten.randn_like.default, aten.bernoulli.default):
    lowers(_op)(_refuse_random(str(_op)))
for _op in (aten.normal_.default, aten.uniform_.default, aten.random_.default):
    writes(_op)(_refuse_random(str(_op)))
