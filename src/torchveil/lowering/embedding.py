"""Embeddings and bags of them: rows of a secret table at public or secret places, and their gradients.

Public places make public matrices: a look-up picks rows, a bag adds them up or averages them, its gradient is the
transpose; all local. Secret places are compared with every row once (``look_up.one_hot``); a bag of them adds its
one-hot rows up first, so that one matrix product reads the whole bag.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import InvalidArgument, UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions.look_up import one_hot
from torchveil.functions.maximum import Winners, maximum
from torchveil.functions.structure import apply
from torchveil.functions.taps import Taps, apply_taps, from_entries, picking
from torchveil.handle import Deferred, Handle, Public
from torchveil.lowering.table import aten, composes, lowers, session_of


def frequencies(places: Tensor, sources: Tensor, values: Tensor | None, count: int) -> Taps:
    """Entries that add sources[l] (times values[l]) to row places[l] of ``count``, over how often that row occurs."""
    often = torch.bincount(places, minlength=count)[places].to(torch.float64)
    weights = (torch.ones_like(often) if values is None else values) / often
    width = int(sources.max()) + 1 if sources.numel() else 0
    return from_entries(places, sources, weights, (count, width))


@composes(aten.embedding_renorm.default)
def _embedding_renorm(weight: Tensor, indices: Tensor, max_norm: float, norm_type: float) -> Tensor:
    """Rows at public places, shortened to ``max_norm`` where they are longer."""
    if type(indices) is not Tensor:
        raise UnsupportedOperation(
            "max_norm with secret words: which rows were shortened would show them", op="embedding_renorm",
            remedy="max_norm=None",
        )  # fmt: skip
    words = indices.unique()
    rows = weight[words]
    norms = torch.linalg.vector_norm(rows, norm_type, dim=1, keepdim=True)
    factor = torch.where(norms > max_norm, max_norm / norms, 1.0)
    return weight.index_put((words,), rows * factor)


@lowers(aten.embedding.default, indices=True)
def _embedding(
    weight: Any, indices: Any, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Handle:
    if isinstance(indices, Tensor):
        return apply(weight, "index", (indices,))
    session = session_of(weight, indices)
    if isinstance(weight, Tensor):
        raise ar.refuse_plain(session.operation)
    table = weight
    rows = one_hot(indices, table.shape[0])
    flat = apply(rows, "reshape", (-1, table.shape[0]))
    out = ar.bilinear(flat, table, "mm")
    return apply(out, "reshape", (*indices.shape, table.shape[1]))


@lowers(aten.embedding_dense_backward.default, indices=True)
def _embedding_backward(
    grad: Handle, indices: Any, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Handle:
    if scale_grad_by_freq and not isinstance(indices, Tensor):
        raise UnsupportedOperation(
            "an embedding scaled by the frequency of secret words", op="embedding", remedy="scale_grad_by_freq=False"
        )
    flat = apply(grad, "reshape", (-1, grad.shape[-1]))
    if isinstance(indices, Tensor):
        places = indices.reshape(-1)
        if padding_idx >= 0:
            kept = (places != padding_idx).nonzero().reshape(-1)
            flat, places = apply(flat, "index", (kept,)), places[kept]
        if scale_grad_by_freq:
            return apply_taps(flat, 0, frequencies(places, torch.arange(places.numel()), None, num_weights))
        return apply(flat, "scatter_index", (num_weights, grad.shape[-1]), (places,))
    rows = apply(one_hot(indices, num_weights), "reshape", (-1, num_weights))
    out = ar.bilinear(apply(rows, "t"), flat, "mm")
    if padding_idx < 0:
        return out
    kept = (torch.arange(num_weights) != padding_idx).to(torch.int64).unsqueeze(1)
    return ar.multiply(out, Public(out.session, tuple(kept.shape), tensor=kept))


# --- bags ------------------------------------------------------------------------------------------------------------

_SUM, _MEAN, _MAX = 0, 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class _Bags:
    """Which places make which bag: ``bag[l]`` of place l, -1 if it counts for none; ``sizes`` of the ``count`` bags."""

    bag: Tensor
    sizes: Tensor

    @property
    def count(self) -> int:
        return int(self.sizes.numel())

    def sums(self, mode: int) -> Taps:
        """[bags, places]: the sum or the mean of each bag."""
        places = (self.bag >= 0).nonzero().reshape(-1)
        bag = self.bag[places]
        values = 1 / self.sizes[bag].to(torch.float64) if mode == _MEAN else torch.ones(bag.numel()).double()
        return from_entries(bag, places, values, (self.count, self.bag.numel()))

    def rows(self, places: Tensor, mode: int, rows: int) -> Taps:
        """[bags, rows of the table]: the same, for public places."""
        inside = self.bag >= 0
        bag = self.bag[inside]
        values = 1 / self.sizes[bag].to(torch.float64) if mode == _MEAN else torch.ones(bag.numel()).double()
        return from_entries(bag, places[inside], values, (self.count, rows))

    @property
    def members(self) -> Tensor:
        """[bags, largest size]: the places of each bag, the last one repeated; 0 in an empty bag."""
        out = torch.zeros((self.count, max(1, int(self.sizes.max()) if self.count else 1)), dtype=torch.int64)
        for k in range(self.count):
            found = (self.bag == k).nonzero().reshape(-1)
            if found.numel():
                out[k, : found.numel()], out[k, found.numel() :] = found, found[-1]
        return out


def _bags(length: int, offsets: Tensor, last: bool, kept: Tensor | None) -> _Bags:
    """Bags that start at ``offsets``; with ``last`` their end is listed too."""
    starts = offsets[:-1] if last else offsets
    if starts.numel() and int(starts[0]) != 0:
        raise InvalidArgument("the first bag does not start at 0", op="embedding_bag", remedy="check the offsets")
    places = torch.arange(length)
    bag = torch.searchsorted(starts.contiguous(), places, right=True) - 1
    if last and offsets.numel():
        bag[places >= offsets[-1]] = -1
    if kept is not None:
        bag[~kept] = -1
    return _Bags(bag, torch.bincount(bag[bag >= 0], minlength=starts.numel()))


@lowers(aten._embedding_bag.default, aten._embedding_bag_forward_only.default, indices=True)
def _embedding_bag(
    table: Any, words: Any, offsets: Any, scale_grad_by_freq: bool = False, mode: int = 0, sparse: bool = False,
    weights: Handle | None = None, include_last_offset: bool = False, padding_idx: int = -1,
) -> tuple[Handle, Tensor, Tensor, Handle]:  # fmt: skip
    session = session_of(table, words, weights, offsets)
    if not isinstance(offsets, Tensor):
        raise UnsupportedOperation("bags that start at secret places", op="embedding_bag", remedy="use public offsets")
    if isinstance(table, Tensor):
        raise ar.refuse_plain(session.operation)
    public = isinstance(words, Tensor)
    kept = words.reshape(-1) != padding_idx if public and padding_idx >= 0 else None
    length = words.numel() if public else words.shape[0]
    bags = _bags(length, offsets, include_last_offset, kept)
    if not public and padding_idx >= 0 and mode != _SUM:
        raise UnsupportedOperation(
            "a mean or maximum of secret words without the padding among them", op="embedding_bag",
            remedy="use mode='sum', or padding_idx=None",
        )  # fmt: skip
    nothing = Public(session, (0,), fill=0.0)
    if mode == _MAX:
        out, places = _largest(table, words, bags)
        return out, bags.bag, bags.sizes, places
    if public and weights is None:
        out = apply_taps(table, 0, bags.rows(words, mode, table.shape[0]))
    elif public:
        out = apply_taps(ar.multiply(apply(table, "index", (words,)), _column(weights)), 0, bags.sums(mode))
    else:
        out = ar.bilinear(_bag_rows(words, bags, mode, weights, table.shape[0], padding_idx), table, "mm")
    return out, bags.bag, bags.sizes, nothing


def _column(x: Handle | None) -> Handle:
    if x is None:
        raise TypeError("no weights")
    return apply(x, "unsqueeze", 1)


def _bag_rows(words: Handle, bags: _Bags, mode: int, weights: Handle | None, count: int, padding_idx: int) -> Handle:
    """[bags, count]: how much of each row of the table a bag of secret words holds."""
    rows: Handle = _used_rows(words, count, padding_idx)
    rows = rows if weights is None else ar.multiply(rows, _column(weights))
    return apply_taps(rows, 0, bags.sums(mode))


def _used_rows(words: Handle, count: int, padding_idx: int) -> Handle:
    """One-hot rows; those of the padding are zero."""
    rows = one_hot(words, count)
    if padding_idx < 0:
        return rows
    kept = (torch.arange(count) != padding_idx).to(torch.int64)
    return ar.multiply(rows, Public(rows.session, (count,), tensor=kept))


@dataclass(frozen=True, slots=True, eq=False)
class _LargestOfBags:
    """What a maximum over bags left: winners [bags, members, width], the place of each member."""

    winners: Winners
    members: Tensor


def _largest(table: Handle, words: Any, bags: _Bags) -> tuple[Handle, Handle]:
    """(maxima [bags, width], the words they belong to); zeros for an empty bag."""
    members = bags.members
    if isinstance(words, Tensor):
        rows = apply(table, "index", (words[members],))
    else:
        looked_up = ar.bilinear(one_hot(words, table.shape[0]), table, "mm")
        rows = apply(looked_up, "index", (members,))
    value, winners = maximum(ar.secret(rows), 1)
    out: Handle = apply(value, "squeeze_dim", 1)
    if bool((bags.sizes == 0).any()):
        full = (bags.sizes > 0).to(torch.int64).unsqueeze(1)
        out = ar.multiply(out, Public(out.session, tuple(full.shape), tensor=full))
    shape = out.shape

    def index() -> Handle:
        if not isinstance(words, Tensor):
            raise UnsupportedOperation("which secret word was the largest of its bag", op="embedding_bag")
        return apply(winners.index(value, words[members].unsqueeze(2)), "reshape", shape)

    places = Deferred(out.session, shape, index, {"bags": _LargestOfBags(winners, members)})
    places.whole = True
    return out, places


@lowers(aten._embedding_bag_backward.default, indices=True)
def _embedding_bag_backward(
    grad: Handle, words: Any, offsets: Tensor, offset2bag: Tensor, sizes: Tensor, places: Any, count: int,
    scale_grad_by_freq: bool, mode: int, sparse: bool, weights: Handle | None, padding_idx: int = -1,
) -> Handle:  # fmt: skip
    public = isinstance(words, Tensor)
    if scale_grad_by_freq and (not public or mode == _MAX):
        raise UnsupportedOperation(
            "a bag scaled by frequency, of secret words or its maximum", op="embedding_bag",
            remedy="scale_grad_by_freq=False",
        )  # fmt: skip
    bags = _Bags(offset2bag, sizes)
    if mode == _MAX:
        return _largest_backward(grad, words, bags, places, count)
    if not public:
        rows = _bag_rows(words, bags, mode, weights, count, padding_idx)
        return ar.bilinear(apply(rows, "t"), grad, "mm")
    inside = (offset2bag >= 0).nonzero().reshape(-1)
    if weights is not None:
        each = apply_taps(grad, 0, bags.sums(mode).transposed())
        grad, sources = ar.multiply(each, _column(weights)), inside
        values = torch.ones(inside.numel(), dtype=torch.float64)
    else:
        sources = offset2bag[inside]
        values = 1 / sizes[sources].to(torch.float64) if mode == _MEAN else torch.ones(sources.numel()).double()
    if scale_grad_by_freq:
        values = values / torch.bincount(words, minlength=count)[words[inside]]
    return apply_taps(grad, 0, from_entries(words[inside], sources, values, (count, grad.shape[0])))


def _largest_backward(grad: Handle, words: Any, bags: _Bags, places: Any, count: int) -> Handle:
    left = places.attachments.get("bags") if isinstance(places, Deferred) else None
    if left is None:
        raise UnsupportedOperation("the gradient of a maximum whose winners are gone", op="embedding_bag_backward")
    if bool((bags.sizes == 0).any()):
        full = (bags.sizes > 0).to(torch.int64).unsqueeze(1)
        grad = ar.multiply(grad, Public(grad.session, tuple(full.shape), tensor=full))
    spread = left.winners.distribute(ar.secret(apply(grad, "unsqueeze", 1)))
    flat = apply(spread, "reshape", (-1, grad.shape[-1]))
    members = left.members.reshape(-1)
    if isinstance(words, Tensor):
        return apply_taps(flat, 0, picking(words[members], count).transposed())
    each = apply_taps(flat, 0, picking(members, words.shape[0]).transposed())
    return ar.bilinear(apply(one_hot(words, count), "t"), each, "mm")


@lowers(aten._embedding_bag_per_sample_weights_backward.default, indices=True)
def _embedding_bag_weights_backward(
    grad: Handle, table: Handle, words: Any, offsets: Tensor, offset2bag: Tensor, mode: int, padding_idx: int = -1
) -> Handle:
    sizes = torch.bincount(offset2bag[offset2bag >= 0], minlength=grad.shape[0])
    each = apply_taps(grad, 0, _Bags(offset2bag, sizes).sums(mode).transposed())
    if isinstance(words, Tensor):
        rows = apply(table, "index", (words,))
    else:
        rows = ar.bilinear(_used_rows(words, table.shape[0], padding_idx), table, "mm")
    return apply(ar.multiply(each, rows), "sum", (1,), False)
