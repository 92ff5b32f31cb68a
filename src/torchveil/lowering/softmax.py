"""Softmax and log-softmax; their gradients need the probabilities only, and a row of targets makes one linear step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from torchveil.functions import arithmetic as ar
from torchveil.functions import exclusion, exponential
from torchveil.functions.softmax import Softmax, softmax
from torchveil.handle import Deferred, Excluding, Handle, Public
from torchveil.lowering.reductions import total
from torchveil.lowering.table import aten, lowers


@dataclass(frozen=True, slots=True)
class Targets:
    """What a loss adds to its gradient for log-probabilities: ``factor`` * ``rows``, with the sums of the rows.

    ``rows`` are numbers around 1, whatever the factor is; ``sums`` is None where every row sums to 1.
    """

    rows: Handle
    factor: float
    sums: Handle | None


#: The name under which a deferred gradient carries its ``Targets``.
TARGETS = "targets"


def _parts(x: Handle, dim: int) -> Softmax:
    dim = dim % len(x.shape)
    wire = exclusion.lowered(x, dim)[0] if isinstance(x, Excluding) else ar.secret(x)
    key = f"softmax {dim}"
    if key not in wire.memo:
        wire.memo[key] = softmax(wire, dim)
    parts: Softmax = wire.memo[key]
    return parts


@lowers(aten._softmax.default)
def _softmax(x: Handle, dim: int, half_to_float: bool = False) -> Handle:
    if not x.shape:
        return Public(x.session, (), fill=1.0)
    return _parts(x, dim).narrow_probabilities()


@lowers(aten._safe_softmax.default)
def safe_softmax(x: Handle, dim: int, dtype: Any = None) -> Handle:
    """A softmax whose rows are zero where a mask leaves nothing of them."""
    if not isinstance(x, Excluding):
        return _softmax(x, dim)
    wire, empty = exclusion.lowered(x, dim % max(1, len(x.shape)), empty_rows=True)
    out: Handle = _parts(wire, dim).narrow_probabilities()
    if empty is None:
        return out
    return ar.multiply(out, Public(x.session, tuple(empty.shape), tensor=1 - empty.to(torch.int64)))


@lowers(aten._softmax_backward_data.default)
def _softmax_backward(grad: Handle, output: Handle, dim: int, input_dtype: Any) -> Handle:
    weighted = ar.multiply(grad, output)
    summed = total(weighted, dim, True)
    return ar.add(weighted, ar.multiply(output, summed), -1)


@lowers(aten._log_softmax.default)
def _log_softmax(x: Handle, dim: int, half_to_float: bool) -> Handle:
    if not x.shape:
        return Public(x.session, (), fill=0.0)
    parts = _parts(x, dim)
    out = Deferred(x.session, x.shape, parts.log_probabilities, {"softmax": parts})
    return Excluding(out, x.excluded, out.attachments) if isinstance(x, Excluding) else out


@lowers(aten._log_softmax_backward_data.default)
def _log_softmax_backward(grad: Handle, output: Handle, dim: int, input_dtype: Any) -> Handle:
    """grad - p * (the sum of grad's row)."""
    if not grad.shape:
        return Public(grad.session, (), fill=0.0)
    parts = output.attachments.get("softmax") if isinstance(output, Deferred) else None
    if parts is None:
        # the forward is gone: its result was written to
        logarithms = ar.number(output)
        probabilities = fine = exponential.exp_nonpositive(logarithms, logarithms.format.scale)
    else:
        probabilities, fine = parts.narrow_probabilities(), parts.probabilities
    targets = grad.attachments.get(TARGETS) if isinstance(grad, Deferred) else None
    if isinstance(grad, Public):
        targets = _public_targets(grad, dim)
    if targets is not None:
        expected = fine if targets.sums is None else ar.multiply(probabilities, targets.sums)
        return ar.multiply_scalar(ar.secret(ar.add(expected, targets.rows, -1)), -targets.factor)
    return ar.add(grad, ar.multiply_divided(probabilities, ar.secret(total(grad, dim, True))), -1)


def _public_targets(grad: Public, dim: int) -> Targets:
    """A public gradient brought to numbers around 1."""
    dense = grad.dense().to(torch.float64)
    sums = dense.sum(dim, keepdim=True)
    factor = float(sums.reshape(-1)[0]) if sums.numel() else 0.0
    if factor and bool((sums - factor).abs().max() <= 1e-9 * abs(factor)):
        return Targets(Public(grad.session, grad.shape, tensor=dense / factor), factor, None)
    factor = (float(dense.abs().max()) if dense.numel() else 0.0) or 1.0
    rows, weights = (Public(grad.session, tuple(v.shape), tensor=v / factor) for v in (dense, sums))
    return Targets(rows, factor, weights)
