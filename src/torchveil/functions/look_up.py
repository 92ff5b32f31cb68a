"""Look-ups at secret places: one-hot rows times the table, and their transposes.

An index is compared with all n places at once (one table of equalities: 3 rounds after its opening); the look-up is a
matrix product with those zeros and ones (1 round). A place outside of 0 .. n-1 matches nothing and gives zeros: nobody
can be told. The same rows serve every look-up with the same index.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torchveil.functions import arithmetic as ar
from torchveil.functions import comparison as cmp
from torchveil.functions.structure import apply, concatenate
from torchveil.handle import Handle, Secret, Shape


def one_hot(indices: Handle, count: int) -> Secret:
    """[index == c] for c < count as numbers 0 and 1 along a new last dimension; 3 rounds after one opening."""
    wire = ar.narrow(ar.secret(indices))
    key = f"one-hot {count}"
    if key not in wire.memo:
        wire.memo[key] = _compare_with_all(wire, count)
    rows: Secret = wire.memo[key]
    return rows


def _compare_with_all(wire: Secret, count: int) -> Secret:
    bits = cmp.equal_bits(wire, [c * wire.scale for c in range(count)])
    last = len(wire.shape)
    columns = [apply(ar.secret(bit), "unsqueeze", last) for bit in bits]
    return ar.secret(concatenate(columns, last))


def _rows(index: Handle, count: int, dim: int) -> Handle:
    """The one-hot rows of an index with ``dim`` moved to the end: [all others, places, count]."""
    hot = one_hot(index, count)
    rank = len(index.shape)
    order = [d for d in range(rank) if d != dim] + [dim, rank]
    return apply(apply(hot, "permute", order), "reshape", (-1, index.shape[dim], count))


def _last(x: Handle, dim: int) -> Handle:
    return apply(x, "permute", [d for d in range(len(x.shape)) if d != dim] + [dim])


def _home(x: Handle, shape: Shape, dim: int) -> Handle:
    """The inverse of ``_last`` on a flattened value: ``shape`` is the one with ``dim`` at its place."""
    moved = (*shape[:dim], *shape[dim + 1 :], shape[dim])
    order = list(range(len(shape) - 1))
    order.insert(dim, len(shape) - 1)
    return apply(apply(x, "reshape", moved), "permute", order)


def gather(x: Handle, dim: int, index: Handle) -> Handle:
    """torch.gather at secret places."""
    for d, size in enumerate(index.shape):
        if d != dim and size != x.shape[d]:
            x = apply(x, "slice", d, 0, size, 1)
    table = apply(_last(x, dim), "reshape", (-1, x.shape[dim], 1))
    return _home(ar.bilinear(_rows(index, x.shape[dim], dim), table, "bmm"), index.shape, dim)


def scatter_add(shape: Shape, dim: int, index: Handle, source: Handle) -> Handle:
    """Zeros of ``shape`` with the source added at secret places: the transpose of ``gather``."""
    for d, size in enumerate(index.shape):
        if size != source.shape[d]:
            source = apply(source, "slice", d, 0, size, 1)
    values = apply(_last(source, dim), "reshape", (-1, index.shape[dim], 1))
    rows = apply(_rows(index, shape[dim], dim), "transpose", 1, 2)
    smaller = (*index.shape[:dim], shape[dim], *index.shape[dim + 1 :])
    out = _home(ar.bilinear(rows, values, "bmm"), smaller, dim)
    pad = [n for d in reversed(range(len(shape))) for n in (0, shape[d] - smaller[d])]
    return apply(out, "pad", tuple(pad)) if any(pad) else out


def take_rows(x: Handle, dim: int, index: Handle) -> Handle:
    """x[:, .., index]: the rows along ``dim`` at secret places; the index's dimensions take that one's place."""
    count = x.shape[dim]
    others = (*x.shape[:dim], *x.shape[dim + 1 :])
    table = apply(_first(x, dim), "reshape", (count, -1))
    hot = apply(one_hot(index, count), "reshape", (-1, count))
    rows = apply(ar.bilinear(hot, table, "mm"), "reshape", (*index.shape, *others))
    return apply(rows, "permute", _inserted(len(index.shape), len(others), dim))


def add_rows(shape: Shape, dim: int, index: Handle, source: Handle) -> Handle:
    """The transpose of ``take_rows``: zeros of ``shape`` with rows added at secret places."""
    count, rank = shape[dim], len(index.shape)
    others = (*shape[:dim], *shape[dim + 1 :])
    order = _inserted(rank, len(others), dim)
    back = [order.index(d) for d in range(len(order))]
    rows = apply(apply(source, "permute", back), "reshape", (index_count(index), -1))
    hot = apply(apply(one_hot(index, count), "reshape", (-1, count)), "t")
    out = apply(ar.bilinear(hot, rows, "mm"), "reshape", (count, *others))
    order = list(range(1, len(shape)))
    order.insert(dim, 0)
    return apply(out, "permute", order)


def hits(index: Handle, count: int) -> Handle:
    """How often each of ``count`` places is meant by a whole index; local after its one-hot rows."""
    return apply(one_hot(index, count), "sum", tuple(range(len(index.shape))), False)


def index_count(index: Handle) -> int:
    return torch.Size(index.shape).numel()


def _first(x: Handle, dim: int) -> Handle:
    return apply(x, "permute", [dim, *(d for d in range(len(x.shape)) if d != dim)])


def _inserted(n_index: int, n_others: int, dim: int) -> Sequence[int]:
    """The order that moves the first ``n_index`` dimensions behind ``dim`` others."""
    others = list(range(n_index, n_index + n_others))
    return [*others[:dim], *range(n_index), *others[dim:]]
