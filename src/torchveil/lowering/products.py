"""Matrix products: all are the bilinear gate."""

from __future__ import annotations

from torchveil.functions import arithmetic as ar
from torchveil.functions import exclusion
from torchveil.functions.structure import apply
from torchveil.handle import Handle
from torchveil.lowering.table import aten, lowers


@lowers(aten.mm.default)
def _mm(x: Handle, y: Handle) -> Handle:
    return ar.bilinear(x, y, "mm")


@lowers(aten.bmm.default)
def _bmm(x: Handle, y: Handle) -> Handle:
    return ar.bilinear(x, y, "bmm")


def _affine(bias: Handle, product: Handle, beta: float, alpha: float) -> Handle:
    if alpha != 1:
        product = ar.multiply_scalar(ar.secret(product), alpha)
    if beta == 0:
        return product
    return exclusion.add(product, bias, beta)


@lowers(aten.addmm.default)
def _addmm(bias: Handle, x: Handle, y: Handle, *, beta: float = 1, alpha: float = 1) -> Handle:
    return _affine(bias, _mm(x, y), beta, alpha)


@lowers(aten.baddbmm.default)
def _baddbmm(bias: Handle, x: Handle, y: Handle, *, beta: float = 1, alpha: float = 1) -> Handle:
    return _affine(bias, _bmm(x, y), beta, alpha)


@lowers(aten.mv.default)
def _mv(x: Handle, y: Handle) -> Handle:
    return apply(_mm(x, apply(y, "unsqueeze", 1)), "squeeze_dim", 1)


@lowers(aten.addmv.default)
def _addmv(bias: Handle, x: Handle, y: Handle, *, beta: float = 1, alpha: float = 1) -> Handle:
    return _affine(bias, _mv(x, y), beta, alpha)


@lowers(aten.dot.default, aten.vdot.default)
def _dot(x: Handle, y: Handle) -> Handle:
    product = _mm(apply(x, "unsqueeze", 0), apply(y, "unsqueeze", 1))
    return apply(product, "reshape", ())
