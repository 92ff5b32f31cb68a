"""Scaled dot-product attention, which torch's CPU asks for as one fused operation, and its gradient.

softmax(q k^T scale + mask) v. Rounds: 2 until query, key and value are truncated and open (one truncation and one
opening for all three), 2 for the scores, those of the softmax, 1 for the probabilities; the result is pending. Its
gradient reuses probabilities and openings: with g = grad v^T, the scores' is p (g - sum(grad out)); 7 rounds. Places
that a mask excludes have probability 0 exactly; a row of which nothing is left gives zeros, as in torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from torchveil.errors import UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import exclusion
from torchveil.functions.structure import apply, concatenate
from torchveil.handle import Deferred, Handle, Public
from torchveil.lowering.reductions import total
from torchveil.lowering.softmax import safe_softmax
from torchveil.lowering.table import aten, lowers


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the gradient reuses: operands, probabilities and result as batches of matrices, and the scale."""

    query: Handle
    key: Handle
    value: Handle
    probabilities: Handle
    out: Handle
    scale: float


def _ready(xs: list[Handle]) -> list[Handle]:
    """All truncated and opened together."""
    secrets = [ar.secret(x) for x in xs if not isinstance(x, Public)]
    if not secrets:
        return xs
    flat = concatenate([apply(x, "reshape", (-1,)) for x in secrets], 0)
    wire = ar.narrow(ar.number(flat))
    wire.session.open(wire)
    out: list[Handle] = []
    start = 0
    for x in xs:
        if isinstance(x, Public):
            out.append(x)
            continue
        stop = start + math.prod(x.shape)
        out.append(apply(apply(wire, "slice", 0, start, stop, 1), "reshape", x.shape))
        start = stop
    return out


def _matrices(x: Handle, like: Handle) -> Handle:
    """[..., rows, columns] -> [batch, rows, columns] for the batch of ``like``: grouped queries become more rows."""
    return apply(x, "reshape", (math.prod(like.shape[:-2]), -1, x.shape[-1]))


def _transposed(x: Handle) -> Handle:
    return apply(x, "transpose", 1, 2)


def _causal(like: Handle, rows: int, columns: int) -> Public:
    later = torch.ones(rows, columns, dtype=torch.bool).triu(1)
    return Public(like.session, (rows, columns), tensor=torch.zeros(rows, columns).masked_fill(later, -torch.inf))


@lowers(aten._scaled_dot_product_flash_attention_for_cpu.default)
def _attention(
    query: Handle, key: Handle, value: Handle, dropout_p: float = 0.0, is_causal: bool = False, *,
    attn_mask: Handle | None = None, scale: float | None = None,
) -> tuple[Handle, Handle]:  # fmt: skip
    if dropout_p:
        raise UnsupportedOperation("dropout inside the fused attention", op="attention", remedy="drop out its result")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    lead = query.shape[:-1]
    q, k, v = (_matrices(x, key) for x in _ready([query, key, value]))
    scores = ar.multiply(ar.bilinear(q, _transposed(k), "bmm"), Public(query.session, (), fill=factor))
    scores = apply(scores, "reshape", (*lead, key.shape[-2]))
    if is_causal:
        scores = exclusion.add(scores, _causal(query, *scores.shape[-2:]))
    if attn_mask is not None:
        scores = exclusion.add(scores, attn_mask)
    probabilities = _matrices(safe_softmax(scores, -1), key)
    out = ar.bilinear(probabilities, v, "bmm")
    kept = _Kept(q, k, v, probabilities, out, factor)

    def unread() -> Handle:
        raise UnsupportedOperation("reading the normaliser of an attention", op="attention", remedy="use its result")

    normaliser = Deferred(query.session, lead, unread, {"attention": kept})
    return apply(out, "reshape", (*lead, value.shape[-1])), normaliser


@lowers(aten._scaled_dot_product_flash_attention_for_cpu_backward.default)
def _attention_backward(
    grad: Handle, query: Handle, key: Handle, value: Handle, out: Handle, logsumexp: Handle, dropout_p: float,
    is_causal: bool, *, attn_mask: Handle | None = None, scale: float | None = None,
) -> tuple[Handle, Handle, Handle]:  # fmt: skip
    kept = logsumexp.attachments.get("attention") if isinstance(logsumexp, Deferred) else None
    if not isinstance(kept, _Kept):
        raise UnsupportedOperation("the gradient of an attention whose forward is gone", op="attention backward")
    (g, result) = _ready([_matrices(grad, key), kept.out])
    p = kept.probabilities
    value_grad = ar.bilinear(_transposed(p), g, "bmm")
    spread = ar.bilinear(g, _transposed(kept.value), "bmm")
    centred = ar.add(spread, total(ar.multiply(g, result), 2, True), -1)
    weighted = ar.multiply(ar.multiply(p, centred), Public(grad.session, (), fill=kept.scale))
    weighted = weighted if isinstance(weighted, Public) else _ready([weighted])[0]
    query_grad = ar.bilinear(weighted, kept.key, "bmm")
    key_grad = ar.bilinear(_transposed(weighted), kept.query, "bmm")
    pairs = zip((query_grad, key_grad, value_grad), (query, key, value), strict=True)
    q, k, v = (apply(x, "reshape", like.shape) for x, like in pairs)
    return q, k, v
