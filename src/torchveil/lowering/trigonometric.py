"""Sine, cosine and their inverses; the error function."""

from __future__ import annotations

import torch
from torch import Tensor

from torchveil.functions import arithmetic as ar
from torchveil.functions import inverse_error, normalise, sigmoidal
from torchveil.functions import trigonometric as trig
from torchveil.handle import Handle, Public
from torchveil.lowering.table import aten, composes, lowers


@lowers(aten.sin.default)
def _sin(x: Handle) -> Handle:
    return trig.wave(x, trig.SINE)


@lowers(aten.cos.default)
def _cos(x: Handle) -> Handle:
    return trig.wave(x, trig.COSINE)


@composes(aten.tan.default)
def _tan(x: Tensor) -> Tensor:
    return torch.sin(x) / torch.cos(x)


@lowers(aten.sinc.default)
def _sinc(x: Handle) -> Handle:
    return trig.sinc(x)


def _one(x: Handle) -> Public:
    return Public(x.session, x.shape, fill=1.0)


@lowers(aten.atan.default)
def _atan(x: Handle) -> Handle:
    return trig.angle(x, _one(x))


@lowers(aten.atan2.default)
def _atan2(y: Handle, x: Handle) -> Handle:
    shape = ar.broadcast(y.shape, x.shape)
    return trig.angle(ar.expand_to(y, shape), ar.expand_to(x, shape))


def _other_side(x: Handle) -> Handle:
    """sqrt(1 - x^2), from a square with all its digits."""
    wire = ar.narrow(ar.number(x))
    return ar.narrow(normalise.sqrt(ar.add(_one(x), ar.multiply(wire, wire), -1)))


@lowers(aten.asin.default)
def _asin(x: Handle) -> Handle:
    return trig.angle(x, _other_side(x))


@lowers(aten.acos.default)
def _acos(x: Handle) -> Handle:
    return trig.angle(_other_side(x), x)


@lowers(aten.erf.default)
def _erf(x: Handle) -> Handle:
    return sigmoidal.erf(x)


@lowers(aten.erfinv.default)
def _erfinv(x: Handle) -> Handle:
    return inverse_error.erfinv(x)


@composes(aten.erfc.default)
def _erfc(x: Tensor) -> Tensor:
    return 1 - torch.erf(x)
