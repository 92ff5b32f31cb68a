"""Elementwise functions, reductions and products written in torch itself: each line comes back to the table."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.lowering.table import aten, composes

_LN2 = math.log(2.0)

# --- products --------------------------------------------------------------------------------------------------------


@composes(aten.addbmm.default)
def _addbmm(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    # the sum over the batch is part of one matrix product
    rows = a.transpose(0, 1).reshape(a.shape[1], -1)
    return torch.addmm(x, rows, b.reshape(-1, b.shape[2]), beta=beta, alpha=alpha)


@composes(aten.addr.default)
def _addr(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return torch.addmm(x, a.unsqueeze(1), b.unsqueeze(0), beta=beta, alpha=alpha)


@composes(aten.linalg_cross.default)
def _cross(a: Tensor, b: Tensor, *, dim: int = -1) -> Tensor:
    a, b = torch.broadcast_tensors(a, b)
    # one product for both terms of each component
    left = torch.cat([a.roll(-1, dim), a.roll(1, dim)], dim)
    right = torch.cat([b.roll(1, dim), b.roll(-1, dim)], dim)
    forth, back = (left * right).chunk(2, dim)
    return forth - back


@composes(aten._trilinear.default)
def _trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand1: list[int],
    expand2: list[int],
    expand3: list[int],
    sumdim: list[int],
    unroll_dim: int = 1,
) -> Tensor:
    """Two matrix products: products of all entries of both inputs with all weights are never opened."""
    rank = a.dim() + len(expand1)
    letters = "abcdefghijklmnopqrstuvwxyz"[:rank]

    def axes(missing: list[int]) -> str:
        return "".join(letter for dim, letter in enumerate(letters) if dim not in [d % rank for d in missing])

    equation = f"{axes(expand1)},{axes(expand2)},{axes(expand3)}->{axes(sumdim)}"
    return torch.einsum(equation, a, b, c)


# --- elementwise -----------------------------------------------------------------------------------------------------


@composes(aten.exp2.default)
def _exp2(x: Tensor) -> Tensor:
    return torch.exp(x * _LN2)


@composes(aten.expm1.default)
def _expm1(x: Tensor) -> Tensor:
    return torch.exp(x) - 1


@composes(aten.log2.default)
def _log2(x: Tensor) -> Tensor:
    return torch.log(x) * (1 / _LN2)


@composes(aten.log10.default)
def _log10(x: Tensor) -> Tensor:
    return torch.log(x) * (1 / math.log(10.0))


@composes(aten.log1p.default)
def _log1p(x: Tensor) -> Tensor:
    return torch.log(x + 1)


@composes(aten.xlogy.Tensor)
def _xlogy(x: Tensor, y: Tensor) -> Tensor:
    # log 0 is the logarithm of one unit, a number: times 0 it is 0 as torch wants
    return x * torch.log(y)


@composes(aten.special_xlog1py.default)
def _xlog1py(x: Tensor, y: Tensor) -> Tensor:
    return x * torch.log(y + 1)


@composes(aten.special_ndtri.default)
def _ndtri(x: Tensor) -> Tensor:
    return math.sqrt(2.0) * torch.erfinv(2 * x - 1)


@composes(aten.special_entr.default)
def _entr(x: Tensor) -> Tensor:
    return -(x * torch.log(x))


@composes(aten.deg2rad.default)
def _deg2rad(x: Tensor) -> Tensor:
    return x * (math.pi / 180)


@composes(aten.rad2deg.default)
def _rad2deg(x: Tensor) -> Tensor:
    return x * (180 / math.pi)


@composes(aten.hypot.default)
def _hypot(x: Tensor, y: Tensor) -> Tensor:
    # both squares stay at double scale, and so does their root
    return torch.sqrt(x * x + y * y)


@composes(aten.logaddexp.default)
def _logaddexp(x: Tensor, y: Tensor) -> Tensor:
    return y + torch.nn.functional.softplus(x - y)


@composes(aten.logaddexp2.default)
def _logaddexp2(x: Tensor, y: Tensor) -> Tensor:
    return y + torch.nn.functional.softplus(x - y, beta=_LN2)


@composes(aten.nan_to_num.default)
def _nan_to_num(
    x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """A share holds neither nan nor infinity."""
    return x.clone()


@composes(aten.pow.Tensor_Tensor)
def _pow_tensor(x: Tensor, exponent: Tensor) -> Tensor:
    """x^y = e^(y log x) for x > 0; zero and negative bases count as one unit."""
    return torch.exp(exponent * torch.log(x))


@composes(aten.pow_.Tensor)
def _raise(x: Tensor, exponent: Tensor) -> Tensor:
    return x.copy_(_pow_tensor(x, exponent))


@composes(aten.pow.Scalar)
def _pow_base(base: float, exponent: Tensor) -> Tensor:
    if base == 1:
        return torch.ones_like(exponent)
    if base <= 0:
        raise UnsupportedOperation(
            f"the public base {base} to a secret power", op="pow", remedy="use a positive base, or whole public powers"
        )
    return torch.exp(exponent * math.log(base))


@composes(aten.signbit.default)
def _signbit(x: Tensor) -> Tensor:
    return x < 0


def _bitwise_with(logic: Any) -> Any:
    def combine(x: Tensor, other: Any) -> Tensor:
        if x.dtype is not torch.bool or not isinstance(other, bool):
            raise UnsupportedOperation(
                "the bits of whole numbers",
                op="bitwise",
                remedy="for truth values use True or False, or x.bool() first",
            )
        out: Tensor = logic(x, torch.tensor(other))
        return out

    return combine


for _op, _logic in (
    (aten.bitwise_and.Scalar, torch.logical_and),
    (aten.bitwise_or.Scalar, torch.logical_or),
    (aten.bitwise_xor.Scalar, torch.logical_xor),
):
    composes(_op)(_bitwise_with(_logic))


@composes(aten.isin.Tensor_Tensor, aten.isin.Tensor_Scalar)
def _isin(x: Tensor, found: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether any of the others equals it: all pairs."""
    equal = (x.unsqueeze(-1) == found.reshape(-1)).any(-1) if isinstance(found, Tensor) else x == found
    return ~equal if invert else equal


@composes(aten.copysign.Tensor, aten.copysign.Scalar)
def _copysign(x: Tensor, sign: Any) -> Tensor:
    size = x.abs()
    if not isinstance(sign, Tensor):
        return size if math.copysign(1.0, sign) > 0 else -size
    return torch.where(sign < 0, -size, size)


@composes(aten.heaviside.default)
def _heaviside(x: Tensor, values: Tensor) -> Tensor:
    return torch.where(x == 0, values, (x > 0).to(torch.float32))


@composes(aten.ldexp.Tensor)
def _ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    return x * torch.pow(2.0, exponent)


@composes(aten.clamp.Tensor)
def _clamp(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    x = x if min is None else torch.maximum(x, min)
    return x if max is None else torch.minimum(x, max)


@composes(aten.clamp_max.Tensor)
def _clamp_max(x: Tensor, max: Tensor) -> Tensor:
    return torch.minimum(x, max)


@composes(aten.fmax.default)
def _fmax(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


@composes(aten.fmin.default)
def _fmin(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(x, y)


# --- reductions ------------------------------------------------------------------------------------------------------


@composes(aten.var_mean.correction)
def _var_mean(
    x: Tensor, dim: Any = None, *, correction: float | None = 1, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    dims = list(range(x.dim())) if dim is None else dim
    return aten.var.correction(x, dim, correction=correction, keepdim=keepdim), x.mean(dims, keepdim)


@composes(aten.std_mean.correction)
def _std_mean(
    x: Tensor, dim: Any = None, *, correction: float | None = 1, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    dims = list(range(x.dim())) if dim is None else dim
    return aten.std.correction(x, dim, correction=correction, keepdim=keepdim), x.mean(dims, keepdim)


@composes(aten.aminmax.default)
def _aminmax(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    dims = [] if dim is None else [dim]
    return torch.amin(x, dims, keepdim), torch.amax(x, dims, keepdim)


@composes(aten.nansum.default)
def _nansum(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    return x.sum(list(range(x.dim())) if dim is None else dim, keepdim)


@composes(aten.count_nonzero.default, aten.count_nonzero.dim_IntList)
def _count_nonzero(x: Tensor, dim: Any = None) -> Tensor:
    dims = list(range(x.dim())) if dim is None else dim
    return (x if x.dtype is torch.bool else x != 0).sum(dims)


@composes(aten.logsumexp.default)
def _logsumexp(x: Tensor, dim: list[int], keepdim: bool = False) -> Tensor:
    """The maximum, and the logarithm of the sum of what is left: every exponential is at most 1."""
    most = torch.amax(x, dim, keepdim=True)
    total = torch.log(torch.exp(x - most).sum(dim, keepdim=True)) + most
    if keepdim:
        return total
    return total.squeeze([d % max(1, x.dim()) for d in dim]) if x.dim() else total


@composes(aten.prod.default)
def _prod(x: Tensor, *, dtype: Any = None) -> Tensor:
    return _prod_dim(x.reshape(-1), 0)


@composes(aten.prod.dim_int)
def _prod_dim(x: Tensor, dim: int, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """A tree of products: ceil(log2 n) levels of two rounds each."""
    if not x.dim():
        return x.clone()
    if not x.shape[dim]:
        return torch.ones_like(x.sum(dim, keepdim))
    while x.shape[dim] > 1:
        half = x.shape[dim] // 2
        product = x.narrow(dim, 0, half) * x.narrow(dim, half, half)
        x = torch.cat([product, x.narrow(dim, 2 * half, x.shape[dim] - 2 * half)], dim)
    return x.clone() if keepdim else x.squeeze(dim)


@composes(aten.norm.Scalar)
def _norm(x: Tensor, p: float = 2) -> Tensor:
    out: Tensor = torch.linalg.vector_norm(x, p)
    return out


@composes(aten.norm.ScalarOpt_dim)
def _norm_dim(x: Tensor, p: float | None, dim: list[int], keepdim: bool = False) -> Tensor:
    out: Tensor = torch.linalg.vector_norm(x, 2 if p is None else p, dim, keepdim)
    return out


@composes(aten.renorm.default)
def _renorm(x: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    rest = [d for d in range(x.dim()) if d != dim % x.dim()]
    size = torch.linalg.vector_norm(x, p, rest, True)
    # torch adds 1e-7 to the norm, which is less than a unit
    return x * torch.where(size > maxnorm, maxnorm * torch.reciprocal(size), torch.ones_like(size))
