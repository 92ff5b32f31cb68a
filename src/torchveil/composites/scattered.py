"""Products of what meets at public places, above autograd.

torch's derivative divides the whole product by each factor. Where factors are small, the product has lost digits to
rounding that the quotient then shows, times what it was divided by. Here the table of what meets is a row per place and
the product is ``prod``, so that a factor's gradient is the product of the others. Other reductions stay torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import replaces
from torchveil.functions.groups import scattered


def _product(x: Tensor, dim: int, index: Tensor, source: Tensor, include_self: bool) -> Tensor:
    """x times what the index scatters to each place; x itself only where nothing is, without ``include_self``."""
    found = scattered(x.shape, source.shape, dim, index, include_self)
    rows = torch.cat([x.reshape(-1), source.reshape(-1)])[found.members]
    return rows.masked_fill(~found.mask, 1.0).prod(1).reshape(x.shape)


def _at_public_places(x: Tensor, index: Any) -> bool:
    """Whether there is something to take here: not secret places, which are refused below, and no single number."""
    return type(index) is Tensor and x.dim() > 0 and index.numel() > 0


@replaces(torch.scatter_reduce, torch.Tensor.scatter_reduce)
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """torch.scatter_reduce; its products by rows."""
    if reduce != "prod" or not _at_public_places(input, index):
        return torch.scatter_reduce(input, dim, index, src, reduce, include_self=include_self)
    return _product(input, dim, index, src, include_self)


@replaces(torch.index_reduce, torch.Tensor.index_reduce)
def index_reduce(
    input: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """torch.index_reduce, a scatter whose places are the same in all rows; its products by rows."""
    if reduce != "prod" or not _at_public_places(input, index):
        return torch.index_reduce(input, dim, index, source, reduce, include_self=include_self)
    places = index.reshape([-1 if d == dim % input.dim() else 1 for d in range(input.dim())])
    return _product(input, dim, places.expand(source.shape), source, include_self)
