"""LU decompositions with partial pivoting: pivots are secret, as what they are found by is.

A column at a time: the entry of largest magnitude is found by comparisons, and its row changes places by one-hot
products, so that nobody learns which one it was: about 40 rounds per column. L has entries of at most 1, as LAPACK's.
Error: about a unit per column for well-conditioned matrices; where two entries are equal within a unit either may be
the pivot. A singular matrix cannot be told: L is then large or 0 and means nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchveil.composites.factored import lu_unpack
from torchveil.errors import UnsupportedOperation
from torchveil.lowering.table import aten, composes
from torchveil.public import public


def _exchanged(rows: Tensor, place: Tensor) -> Tensor:
    """The row at a secret place (..., 1) changes places with the first; rows (..., r, n)."""
    chosen = (place == public(torch.arange(rows.shape[-2]))).to(rows.dtype).unsqueeze(-2)
    top = chosen @ rows
    rest = rows[..., 1:, :] + chosen[..., 1:].mT @ (rows[..., :1, :] - top)
    return torch.cat([top, rest], -2)


def _decomposed(x: Tensor, carried: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """(L below and U above the diagonal, right of them what is carried along), and the places of the pivots."""
    rows, columns = x.shape[-2:]
    work = x if carried is None else torch.cat([x, carried], -1)
    places = []
    for k in range(min(rows, columns)):
        done, rest = work[..., :k, :], work[..., k:, :]
        place = rest[..., k].abs().argmax(-1, keepdim=True)
        places.append(place + (k + 1))
        if k < rows - 1:  # the last row stays
            rest = _exchanged(rest, place)
            top, below = rest[..., :1, :], rest[..., 1:, :]
            quotients = below[..., k : k + 1] / top[..., k : k + 1]
            inner = below[..., k + 1 : columns] - quotients * top[..., k + 1 : columns]
            below = torch.cat([below[..., :k], quotients, inner, below[..., columns:]], -1)
            rest = torch.cat([top, below], -2)
        work = torch.cat([done, rest], -2) if k else rest
    return work, places


def _refuse(pivot: bool) -> None:
    if not pivot:
        raise UnsupportedOperation("an LU decomposition without pivots", op="lu", remedy="leave pivot=True")


@composes(aten.linalg_lu.default)
def _lu(x: Tensor, *, pivot: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """P, L, U with x = P L U; P is secret."""
    _refuse(pivot)
    rows, columns = x.shape[-2:]
    size = min(rows, columns)
    eye = public(torch.eye(rows)).expand(*x.shape[:-2], rows, rows)
    if not x.numel():
        return x.new_zeros(eye.shape) + eye, x.new_zeros((*x.shape[:-1], size)), x.clone()[..., :size, :]
    work, _ = _decomposed(x, x.new_zeros(eye.shape) + eye)
    lower = work[..., :size].tril(-1) + public(torch.eye(rows, size))
    return work[..., columns:].mT, lower, work[..., :size, :columns].triu()


@composes(aten.linalg_lu_factor_ex.default)
def _lu_factor(x: Tensor, *, pivot: bool = True, check_errors: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Packed factors, secret pivots (whole numbers, int64) counted from 1, and no word about singular matrices."""
    _refuse(pivot)
    size = min(x.shape[-2:])
    info = torch.zeros(x.shape[:-2], dtype=torch.int32)
    if not x.numel():
        return x.clone(), torch.zeros((*x.shape[:-2], size), dtype=torch.int32), info
    work, places = _decomposed(x, None)
    return work, torch.cat(places, -1), info


@composes(aten.lu_unpack.default)
def _lu_unpack(
    factors: Tensor, pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """As the composite; with secret pivots P is secret, made by their exchanges."""
    plain = type(pivots) is Tensor or not unpack_pivots
    if plain:
        return lu_unpack(factors, pivots, unpack_data, unpack_pivots)
    rows = factors.shape[-2]
    eye = public(torch.eye(rows)).expand(*factors.shape[:-2], rows, rows)
    permuted = factors.new_zeros(eye.shape) + eye
    for k in range(min(pivots.shape[-1], rows - 1)):
        exchanged = _exchanged(permuted[..., k:, :], pivots[..., k : k + 1] - (k + 1))
        permuted = torch.cat([permuted[..., :k, :], exchanged], -2)
    nothing = torch.empty(0)
    parts = lu_unpack(factors, torch.zeros(pivots.shape, dtype=torch.int32), True, False)[1:]
    return (permuted.mT, *(parts if unpack_data else (nothing, nothing)))
