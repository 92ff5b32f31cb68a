"""Matrices given by factors: LU with pivots, Householder reflectors; pivots are public, as indices are, or secret.

``lu_solve`` is a permutation and two triangular systems, ``householder_product`` and ``ormqr`` one reflection after the
other, applied to what stands right of them: 2 products per reflector, no inverse of any. All are above autograd, so
that gradients are those of these few operations. A reflection rounds twice: errors of about a unit for each.

Shapes are torch's. Secret pivots, as ``lu_factor`` of a secret gives them, are looked up: see ``lowering/pivoted.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import replaces
from torchveil.public import public


def _known(pivots: Any) -> Tensor | None:
    """Pivots that are plain or declared public; none where they are secret."""
    plain = getattr(pivots, "plain", pivots)
    return plain if type(plain) is Tensor else None


def _permutations(pivots: Tensor, batch: tuple[int, ...], rows: int) -> Tensor:
    """P (..., rows, rows) as a plain tensor, from torch's pivots."""
    matrix = torch.zeros(*pivots.shape[:-1], rows, pivots.shape[-1])
    out: Tensor = torch.lu_unpack(matrix, pivots, unpack_data=False)[0]
    return out.expand(*batch, rows, rows)


def _permuted(x: Tensor, ones: Tensor, dim: int) -> Tensor:
    """x (..., n, k) with its rows where the ``ones`` (..., n, n) of a permutation stand along ``dim``."""
    if type(ones) is not Tensor:
        return (ones if dim == -1 else ones.mT) @ x
    return x.gather(-2, ones.argmax(dim).unsqueeze(-1).expand(x.shape)) if x.numel() else x


@replaces(torch.linalg.lu_solve)
def lu_solve(factors: Tensor, pivots: Tensor, b: Tensor, *, left: bool = True, adjoint: bool = False) -> Tensor:
    """X with P L U X = B; ``adjoint``: for the transpose; not ``left``: X P L U = B, which is a transpose again."""
    if not left:
        return lu_solve(factors, pivots, b.mT, adjoint=not adjoint).mT
    batch = torch.broadcast_shapes(factors.shape[:-2], b.shape[:-2])
    b = b.expand(*batch, *b.shape[-2:])
    known = _known(pivots)
    if known is None:
        swaps = torch.ops.aten.lu_unpack.default(factors.detach(), pivots, False, True)[0]
    else:
        swaps = _permutations(known, batch, factors.shape[-1])
    if adjoint:
        middle = torch.linalg.solve_triangular(factors.mT, b, upper=False)
        last = torch.linalg.solve_triangular(factors.mT, middle, upper=True, unitriangular=True)
        return _permuted(last, swaps, -1)
    middle = torch.linalg.solve_triangular(factors, _permuted(b, swaps, -2), upper=False, unitriangular=True)
    out: Tensor = torch.linalg.solve_triangular(factors, middle, upper=True)
    return out


@replaces(torch.lu_solve, torch.Tensor.lu_solve)
def _old_lu_solve(b: Tensor, LU_data: Tensor, LU_pivots: Tensor) -> Tensor:
    return lu_solve(LU_data, LU_pivots, b)


@replaces(torch.lu_unpack)
def lu_unpack(
    LU_data: Tensor,
    LU_pivots: Tensor,
    unpack_data: bool = True,
    unpack_pivots: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """P (public), L and U of packed factors (..., m, n); what is not asked for is empty."""
    rows, columns = LU_data.shape[-2:]
    size = min(rows, columns)
    nothing, known = torch.empty(0), _known(LU_pivots)
    if known is None:
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.lu_unpack.default(
            LU_data, LU_pivots, unpack_data, unpack_pivots
        )
        return found
    permutation = _permutations(known, tuple(LU_data.shape[:-2]), rows) if unpack_pivots else nothing
    if not unpack_data:
        return public(permutation), nothing, nothing
    lower = LU_data[..., :size].tril(-1) + public(torch.eye(rows, size))
    return public(permutation), lower, LU_data[..., :size, :].triu()


def _vectors(x: Tensor, count: int) -> Tensor:
    """The reflectors' vectors (..., m, count): ones on the diagonal, what is stored below."""
    return x[..., :count].tril(-1) + public(torch.eye(x.shape[-2], count))


def reflect(x: Tensor, tau: Tensor, other: Tensor, *, transpose: bool = False) -> Tensor:
    """H_1 ... H_k other, H_i = 1 - tau_i v_i v_i^T with v_i stored in x (..., m, n), or its transpose times other."""
    count = tau.shape[-1]
    vectors = _vectors(x, count)
    for k in range(count) if transpose else reversed(range(count)):
        vector = vectors[..., k : k + 1]
        scaled = vector * tau[..., k : k + 1].unsqueeze(-1)
        other = other - scaled @ (vector.mT @ other)
    return other


@replaces(torch.linalg.householder_product, torch.orgqr, torch.Tensor.orgqr)
def householder_product(input: Tensor, tau: Tensor) -> Tensor:
    """The first columns of the product of the reflectors, as many as the input (..., m, n) has."""
    start = public(torch.eye(*input.shape[-2:])).expand(input.shape)
    if not tau.numel():
        return input * 0.0 + start  # still a function of the input, for its gradient
    return reflect(input, tau, start)


@replaces(torch.ormqr, torch.Tensor.ormqr)
def ormqr(input: Tensor, tau: Tensor, other: Tensor, left: bool = True, transpose: bool = False) -> Tensor:
    """Q other, or other Q, of the whole square Q (``transpose``: of its transpose)."""
    if not other.numel():
        return other + 0.0
    if left:
        return reflect(input, tau, other, transpose=transpose)
    return reflect(input, tau, other.mT, transpose=not transpose).mT


@replaces(torch.triangular_solve, torch.Tensor.triangular_solve)
def triangular_solve(
    b: Tensor,
    A: Tensor,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> Any:
    """torch's old form of ``linalg.solve_triangular``: (solution, a copy of the matrix)."""
    matrix, upper = (A.mT, not upper) if transpose else (A, upper)
    solution = torch.linalg.solve_triangular(matrix, b, upper=upper, unitriangular=unitriangular)
    return torch.return_types.triangular_solve((solution, A + 0.0))
