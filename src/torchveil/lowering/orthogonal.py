"""Orthogonal factors: QR by Householder reflections, eigenvalues and singular values by Jacobi rotations.

QR. One reflection per column, with LAPACK's signs: beta = -sign(alpha) |x|, the vector v is x / (alpha - beta), tau is
2 / v.v, so that the factor is orthogonal even where a column is zero or noise. No number grows. The last column of a
square or wide matrix is left as it is, as LAPACK leaves it. About 45 rounds per column.

Eigenvalues and singular values. A fixed number of sweeps of rotations (Jacobi 1846; parallel order by round robin,
Brent and Luk 1985), n / 2 disjoint pairs of columns at a time: for eigenvalues the columns of A V and of V, for
singular values those of A V (Hestenes 1958), whose entries p . q and p . p - q . q give the tangent of the angle. The
cosine is made of the tangent, so that a rotation is a rotation however inexact its angle is. Of the two angles that
make p . q vanish the one that puts the larger number first is taken: the numbers come out sorted. Columns are scaled to
norm 1 in the end, and the numbers taken from the original matrix. About 50 rounds per step, n - 1 steps per sweep (n if
n is odd), 3 + ceil(log2 n) sweeps.

Range and error at 16 bits: norms of columns up to 2^6 for singular values (fourth powers are summed), eigenvalues up to
2^12; beyond, results mean nothing. Numbers to 2^-12 (tested with up to 12 columns and norms of 8); vectors to that over
the gap to the next number, so those of equal numbers are some orthonormal basis. Signs of vectors are arbitrary, as
torch's are. Gradients are torch's formulas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchveil.composites.factored import householder_product, reflect
from torchveil.lowering.table import aten, composes
from torchveil.public import public

UNIT = 2.0**-16


# --- QR ----------------------------------------------------------------------------------------------------------


@composes(aten.geqrf.default)
def _geqrf(x: Tensor) -> tuple[Tensor, Tensor]:
    """R above and reflectors below the diagonal (..., m, n), and their factors (..., min(m, n))."""
    rows, columns = x.shape[-2:]
    size = min(rows, columns)
    if not x.numel():
        return x.clone(), x.new_zeros((*x.shape[:-2], size))
    packed, factors, work = [], [], x
    top: list[Tensor] = []
    for k in range(size):
        column = work[..., :1]
        rest = work[..., 1:]
        alpha = column[..., :1, :]
        if k == rows - 1:
            column_out, tau = alpha, alpha * 0.0
        else:
            norm = torch.linalg.vector_norm(column, dim=-2, keepdim=True)
            below = alpha < 0
            beta = torch.where(below, norm, -norm)
            tail = column[..., 1:, :] / (alpha - beta)
            # of this v: so that it is a reflection however inexact v is
            tau = 2 / (1 + (tail * tail).sum(-2, keepdim=True))
            vector = torch.cat([tail.new_ones(alpha.shape), tail], -2)
            if rest.shape[-1]:
                rest = rest - (tau * vector) @ (vector.mT @ rest)
            column_out = torch.cat([beta, tail], -2)
        packed.append(torch.cat([*(row[..., :1] for row in top), column_out], -2))
        top = [row[..., 1:] for row in top]
        top.append(rest[..., :1, :])
        factors.append(tau.squeeze(-1))
        work = rest[..., 1:, :]
    if columns > size:
        packed.append(torch.cat(top, -2))
    return torch.cat(packed, -1), torch.cat(factors, -1)


@composes(aten.linalg_qr.default)
def _qr(x: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    rows, columns = x.shape[-2:]
    size = min(rows, columns)
    width = rows if mode == "complete" else size
    if not x.numel():
        q = x.new_zeros((*x.shape[:-2], rows, width)) + public(torch.eye(rows, width))
        r = x.new_zeros((*x.shape[:-2], width, columns))
        return (torch.empty(0) if mode == "r" else q), r
    packed, factors = _geqrf(x)
    r = packed[..., :width, :].triu()
    if mode == "r":
        return torch.empty(0), r
    if mode == "reduced":
        return householder_product(packed[..., :size], factors), r
    start = public(torch.eye(rows)).expand(*x.shape[:-2], rows, rows)
    return reflect(packed, factors, start), r


# --- rotations ---------------------------------------------------------------------------------------------------


def _steps(size: int) -> list[tuple[list[int], list[int]]]:
    """A sweep: every pair of columns once, disjoint pairs together; (the earlier ones, the later ones)."""
    order = list(range(size + size % 2))
    out = []
    for _ in range(len(order) - 1):
        pairs = [sorted((order[k], order[-1 - k])) for k in range(len(order) // 2)]
        pairs = [pair for pair in pairs if pair[1] < size]
        out.append(([a for a, _ in pairs], [b for _, b in pairs]))
        order = [order[0], order[-1], *order[1:-1]]
    return out


def _dots(x: Tensor, y: Tensor, rows: int, crossed: bool) -> Tensor:
    """Column products over the first rows; ``crossed``: of the first rows of x with the last ones of y."""
    return (x[..., :rows, :] * (y[..., -rows:, :] if crossed else y[..., :rows, :])).sum(-2, keepdim=True)


def _rotated(x: Tensor, rows: int, crossed: bool) -> Tensor:
    """The columns (..., rows + n, n) after all sweeps."""
    size = x.shape[-1]
    for _ in range((3 + (size - 1).bit_length()) if size > 1 else 0):
        for first, second in _steps(size):
            p, q = x[..., first], x[..., second]
            difference = _dots(q, q, rows, crossed) - _dots(p, p, rows, crossed)
            double = 2 * _dots(p, q, rows, crossed)
            tangent = double / (difference.abs() + torch.hypot(difference, double) + UNIT)
            cosine = torch.rsqrt(1 + tangent * tangent)
            sine = tangent * cosine
            # the larger one comes first
            ahead = difference <= 0
            u = torch.where(ahead, cosine, sine)
            w = cosine + sine - u
            turned = torch.cat([p * u + q * w, q * u - p * w], -1)
            idle = [k for k in range(size) if k not in first and k not in second]
            order = [*first, *second, *idle]
            x = torch.cat([turned, x[..., idle]], -1)[..., [order.index(k) for k in range(size)]]
    return x


def _basis(x: Tensor, rows: int, crossed: bool) -> Tensor:
    """V (..., n, n) whose columns make A V orthogonal (``crossed``: V^T A V diagonal), for A (..., rows, n)."""
    size = x.shape[-1]
    eye = public(torch.eye(size)).expand(*x.shape[:-2], size, size)
    found = _rotated(torch.cat([x, eye], -2), rows, crossed)[..., rows:, :]
    return found * torch.rsqrt((found * found).sum(-2, keepdim=True))


@composes(aten._linalg_eigh.default)
def _eigh(x: Tensor, UPLO: str = "L", compute_v: bool = True) -> tuple[Tensor, Tensor]:
    size = x.shape[-1]
    if not x.numel():
        return x.new_zeros(x.shape[:-1]), x.clone()
    half = x.tril(-1) if UPLO.upper() == "L" else x.triu(1).mT
    x = half + half.mT + torch.diag_embed(x.diagonal(0, -2, -1))
    vectors = _basis(x, size, True).flip(-1)
    return ((x @ vectors) * vectors).sum(-2), (vectors if compute_v else torch.empty(0))


@composes(aten._linalg_svd.default)
def _svd(
    x: Tensor, full_matrices: bool = False, compute_uv: bool = True, *, driver: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = x.shape[-2:]
    batch = x.shape[:-2]
    if rows < columns:
        u, s, vh = _svd(x.mT, full_matrices, compute_uv)
        return (vh.mT, s, u.mT) if compute_uv else (u, s, vh)
    width = rows if full_matrices else columns
    if not x.numel():
        u = x.new_zeros((*batch, rows, width)) + public(torch.eye(rows, width))
        s, vh = x.new_ones((*batch, columns)), x.new_zeros((*batch, columns, columns))
        return (u, s, vh) if compute_uv else (torch.empty(0), s, torch.empty(0))
    v = _basis(x, rows, False)
    scaled = x @ v
    s = torch.linalg.vector_norm(scaled, dim=-2)
    if not compute_uv:
        return torch.empty(0), s, torch.empty(0)
    u, r = _qr(scaled, "complete" if full_matrices else "reduced")
    return _along(u, r.diagonal(0, -2, -1)), s, v.mT


def _along(q: Tensor, numbers: Tensor) -> Tensor:
    """Columns with the signs of R's diagonal: Q R with a diagonal R >= 0. What a reflection made of 0 was turned."""
    size = numbers.shape[-1]
    turned = min(size, q.shape[-2] - 1)
    minus = torch.cat([numbers[..., :turned] <= 0, numbers[..., turned:] < 0], -1)
    signs = (1 - 2.0 * minus).unsqueeze(-2)
    return torch.cat([q[..., :size] * signs, q[..., size:]], -1)
