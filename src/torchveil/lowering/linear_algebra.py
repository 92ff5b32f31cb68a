"""torch.linalg for small systems. What torch would report (a singular matrix) is secret; ``info`` is always zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchveil.errors import ShapeMismatch, UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import comparison as cmp
from torchveil.functions import linear_algebra as la
from torchveil.functions import normalise
from torchveil.functions.structure import apply, concatenate
from torchveil.handle import Deferred, Handle, Public, Secret, Shape, contiguous_strides
from torchveil.lowering.table import aten, composes, lowers
from torchveil.public import public


def _square(x: Handle, op: str) -> Secret:
    if len(x.shape) < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeMismatch(f"a matrix of shape {x.shape} is not square", op=op, remedy="check the shape")
    wire = ar.narrow(ar.number(x))
    if "stacked" not in wire.memo:
        wire.memo["stacked"] = la.stacked(wire)
    out: Secret = wire.memo["stacked"]
    return out


def _info(x: Handle) -> Tensor:
    return torch.zeros(x.shape[:-2], dtype=torch.int32)


def _pivots(x: Handle) -> Tensor:
    return torch.zeros(x.shape[:-1], dtype=torch.int32)


def _shaped(x: Handle, shape: Shape) -> Handle:
    return apply(x, "reshape", tuple(shape))


def _factors(x: Handle, inverse: la.Inverse) -> Deferred:
    """In place of an LU decomposition the inverse of what it would be of, for ``linalg_lu_solve``."""

    def refuse() -> Handle:
        raise UnsupportedOperation(
            "the factors of an LU decomposition",
            op="lu",
            remedy="use solve or inv; for the gradient of a determinant sign * exp(logabsdet) of slogdet",
        )

    return Deferred(x.session, x.shape, refuse, {"inverse": inverse})


def _factors_for_determinant(x: Handle, inverse: la.Inverse) -> Deferred:
    """torch's determinants factor the transpose of a contiguous matrix."""
    stride = x.stride if isinstance(x, Secret) else contiguous_strides(x.shape)
    return _factors(x, inverse.transposed if stride == contiguous_strides(x.shape) else inverse)


@lowers(aten.linalg_inv_ex.default)
def _inverse(x: Handle, *, check_errors: bool = False) -> tuple[Handle, Tensor]:
    matrices = _square(x, "inv")
    return (_shaped(la.invert(matrices).value, x.shape) if matrices.numel else x), _info(x)


def _systems(x: Handle, b: Handle) -> tuple[Secret, Secret, Shape]:
    """Matrices and right-hand sides with their batches broadcast, and the shape of the solution."""
    batch = ar.broadcast(x.shape[:-2], b.shape[:-2])
    shape = (*batch, *b.shape[-2:])
    if x.shape[:-2] != batch:
        x = ar.expand_to(x, (*batch, *x.shape[-2:]))
    return _square(x, "solve"), la.stacked(ar.expand_to(b, shape)), shape


def _other(shape: Shape, left: bool) -> Shape:
    """The shape of a transposed solution."""
    return shape if left else (*shape[:-2], shape[-1], shape[-2])


@lowers(aten._linalg_solve_ex.default)
def _solve(
    x: Handle, b: Handle, *, left: bool = True, check_errors: bool = False
) -> tuple[Handle, Handle, Tensor, Tensor]:
    vector = len(b.shape) == 1 or (len(b.shape) + 1 == len(x.shape) and b.shape == x.shape[:-1])
    right = apply(b, "unsqueeze", len(b.shape)) if vector else b
    right = right if left else la.transposed(right)
    matrices, rows, shape = _systems(x, right)
    if not matrices.numel or not rows.numel:
        return Public(x.session, b.shape if vector else _other(shape, left), fill=0.0), x, _pivots(x), _info(x)
    inverse = la.invert(matrices)
    found = _shaped((inverse if left else inverse.transposed).solve(rows), shape)
    found = found if left else la.transposed(found)
    if vector:
        found = apply(found, "squeeze_dim", len(shape) - 1)
    return found, _factors(x, inverse), _pivots(x), _info(x)


@lowers(aten.linalg_lu_solve.default, indices=True)
def _lu_solve(factors: Handle, _pivots: Any, b: Handle, *, left: bool = True, adjoint: bool = False) -> Handle:
    if 0 in b.shape:
        return Public(b.session, b.shape, fill=0.0)
    inverse = factors.attachments.get("inverse") if isinstance(factors, Deferred) else None
    if inverse is None:
        raise UnsupportedOperation("a system given by LU factors", op="lu_solve", remedy="use torch.linalg.solve")
    inverse = inverse.transposed if adjoint is left else inverse
    rows = b if left else la.transposed(b)
    found = _shaped(inverse.solve(la.stacked(rows)), rows.shape)
    return found if left else la.transposed(found)


@lowers(aten._linalg_det.default)
def _det(x: Handle) -> tuple[Handle, Handle, Tensor]:
    matrices = _square(x, "det")
    if not matrices.numel:
        return Public(x.session, x.shape[:-2], fill=1.0), x, _pivots(x)
    inverse = la.invert(matrices)
    out: Handle = _product(ar.multiply(inverse.pivots, inverse.signs))
    return _shaped(out, x.shape[:-2]), _factors_for_determinant(x, inverse), _pivots(x)


def _product(x: Handle) -> Handle:
    """[batch, n] -> [batch]: the product of the rows' entries, a tree."""
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        pairs = ar.multiply(apply(x, "slice", 1, 0, half, 1), apply(x, "slice", 1, half, 2 * half, 1))
        rest = apply(x, "slice", 1, 2 * half, x.shape[1], 1)
        x = concatenate([ar.narrow(ar.secret(pairs)), rest], 1) if rest.shape[1] else pairs
    return apply(x, "squeeze_dim", 1)


@lowers(aten._linalg_slogdet.default)
def _slogdet(x: Handle) -> tuple[Handle, Handle, Handle, Tensor]:
    matrices = _square(x, "slogdet")
    if not matrices.numel:
        batch = x.shape[:-2]
        return Public(x.session, batch, fill=1.0), Public(x.session, batch, fill=0.0), x, _pivots(x)
    inverse = la.invert(matrices)
    below = cmp.negative(inverse.pivots)
    signs = ar.multiply(ar.combine([(ar.secret(below), -2)], 1, scale=1), inverse.signs)
    logs = apply(normalise.log(cmp.absolute(inverse.pivots)), "sum", (1,), False)
    batch = x.shape[:-2]
    return (
        _shaped(ar.as_number(_product(signs)), batch),
        _shaped(logs, batch),
        _factors_for_determinant(x, inverse),
        _pivots(x),
    )


@lowers(aten.linalg_cholesky_ex.default)
def _cholesky(x: Handle, *, upper: bool = False, check_errors: bool = False) -> tuple[Handle, Tensor]:
    matrices = _square(x, "cholesky")
    if not matrices.numel:
        return x, _info(x)
    lower = la.cholesky(la.transposed(matrices) if upper else matrices)
    return _shaped(la.transposed(lower) if upper else lower, x.shape), _info(x)


@composes(aten.cholesky.default)
def _old_cholesky(x: Tensor, upper: bool = False) -> Tensor:
    out: Tensor = torch.linalg.cholesky(x, upper=upper)
    return out


@lowers(aten.linalg_solve_triangular.default)
def _solve_triangular(x: Handle, b: Handle, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Handle:
    if not left:
        flipped = _solve_triangular(
            la.transposed(x), la.transposed(b), upper=not upper, left=True, unitriangular=unitriangular
        )
        return la.transposed(flipped)
    matrices, rows, shape = _systems(x, b)
    if not matrices.numel or not rows.numel:
        return Public(x.session, shape, fill=0.0)
    if upper:
        matrices, rows = ar.secret(apply(matrices, "flip", (1, 2))), ar.secret(apply(rows, "flip", (1,)))
    found: Handle = la.forward_substitution(matrices, rows, unit=unitriangular)
    return _shaped(apply(found, "flip", (1,)) if upper else found, shape)


@composes(aten.cholesky_solve.default)
def _cholesky_solve(b: Tensor, factor: Tensor, upper: bool = False) -> Tensor:
    lower = factor.mT if upper else factor
    middle = torch.linalg.solve_triangular(lower, b, upper=False)
    out: Tensor = torch.linalg.solve_triangular(lower.mT, middle, upper=True)
    return out


@composes(aten.cholesky_inverse.default)
def _cholesky_inverse(factor: Tensor, upper: bool = False) -> Tensor:
    size = factor.shape[-1]
    lower = factor.mT if upper else factor
    root: Tensor = torch.linalg.solve_triangular(lower, public(torch.eye(size)).expand(factor.shape), upper=False)
    return root.mT @ root


@composes(aten.linalg_pinv.atol_rtol_tensor)
def _pinv(x: Tensor, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Tensor:
    """For matrices of full rank: what the gradient of ``lstsq`` asks for (users are refused in ``composites``)."""
    tall = x if x.shape[-2] >= x.shape[-1] else x.mT
    out: Tensor = torch.linalg.solve(tall.mT @ tall, tall.mT)
    return out if tall is x else out.mT


@composes(aten.linalg_lstsq.default)
def _lstsq(
    x: Tensor, b: Tensor, rcond: float | None = None, *, driver: str | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By the normal equations, for matrices of full rank, as the driver ``gels``; nobody is told a rank."""
    if driver not in (None, "gels"):
        raise UnsupportedOperation(
            f"the driver {driver}, which finds the rank of a secret", op="lstsq", remedy="driver='gels' for full rank"
        )
    tall = x.shape[-2] >= x.shape[-1]
    solution = torch.linalg.solve(x.mT @ x, x.mT @ b) if tall else x.mT @ torch.linalg.solve(x @ x.mT, b)
    residuals = torch.empty(0)
    if driver == "gels" and x.shape[-2] > x.shape[-1]:
        rest = b - x @ solution
        residuals = (rest * rest).sum(-2)
    return solution, residuals, torch.empty(0, dtype=torch.int64), torch.empty(0)
