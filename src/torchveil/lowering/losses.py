"""Softmax and the losses. Values that nobody reads are not computed; gradients are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import exclusion, normalise
from torchveil.functions.look_up import one_hot
from torchveil.functions.softmax import Softmax, softmax
from torchveil.functions.structure import apply
from torchveil.handle import Deferred, Excluding, Handle, Public, Secret
from torchveil.lowering.activations import softplus
from torchveil.lowering.reductions import mean, total
from torchveil.lowering.table import aten, lowers

_NONE, _MEAN, _SUM = 0, 1, 2


def reduce(x: Handle, reduction: int) -> Handle:
    """torch's reduction codes: 0 none, 1 mean, 2 sum."""
    if reduction == _NONE:
        return x
    return mean(x) if reduction == _MEAN else total(x)


def _reduced_shape(shape: tuple[int, ...], reduction: int) -> tuple[int, ...]:
    return shape if reduction == _NONE else ()


def _normaliser(count: int, reduction: int) -> float:
    return 1.0 / count if reduction == _MEAN else 1.0


# --- softmax ---------------------------------------------------------------------------------------------------------


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
        return _parts(x, dim).narrow_probabilities()
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
    if not grad.shape:
        return Public(grad.session, (), fill=0.0)
    parts = output.attachments.get("softmax") if isinstance(output, Deferred) else None
    if parts is None:
        raise UnsupportedOperation("the gradient of a log-softmax whose forward is gone", op="log_softmax backward")
    sparse = grad.attachments.get("one_hot") if isinstance(grad, Deferred) else None
    if sparse is not None:
        # grad = factor * one-hot: the rows sum to the factor
        rows, factor = sparse
        return ar.multiply_scalar(ar.secret(ar.add(parts.probabilities, rows, -1)), -factor)
    if isinstance(grad, Public):
        sums = grad.dense().to(torch.float64).sum(dim, keepdim=True)
        factor = float(sums.reshape(-1)[0]) if sums.numel() else 0.0
        if factor and bool((sums - factor).abs().max() <= 1e-9 * abs(factor)):
            share = Public(grad.session, grad.shape, tensor=grad.dense().to(torch.float64) / factor)
            return ar.multiply_scalar(ar.secret(ar.add(parts.probabilities, share, -1)), -factor)
        return ar.add(
            grad, ar.multiply(parts.narrow_probabilities(), Public(grad.session, tuple(sums.shape), tensor=sums)), -1
        )
    return ar.add(grad, ar.multiply_divided(parts.narrow_probabilities(), ar.secret(total(grad, dim, True))), -1)


# --- negative log likelihood -----------------------------------------------------------------------------------------


def _flat_classes(x: Handle) -> tuple[int, ...]:
    return x.shape[:1] if len(x.shape) > 1 else ()


@lowers(aten.nll_loss_forward.default, indices=True)
def _nll_forward(x: Handle, target: Any, weight: Any, reduction: int, ignore_index: int) -> tuple[Handle, Handle]:
    _check_nll(weight, target, ignore_index)
    x = _without_targets_excluded(x, target)
    shape = _reduced_shape(_flat_classes(x), reduction)
    count = x.shape[0] if len(x.shape) > 1 else 1

    def value() -> Handle:
        wire = ar.secret(x)
        picked = ar.multiply(wire, _targets(target, wire))
        lost = ar.negate(total(picked, [len(wire.shape) - 1], False))
        return reduce(lost, reduction)

    weighed = 0.0 if reduction == _NONE else float(count)
    return Deferred(x.session, shape, value), Public(x.session, (), fill=weighed)


def _check_nll(weight: Any, target: Any, ignore_index: int) -> None:
    if weight is not None:
        raise UnsupportedOperation("class weights", op="nll_loss", remedy="weight the samples, or one-hot targets")
    if isinstance(target, Tensor) and bool((target == ignore_index).any()):
        raise UnsupportedOperation("ignored targets", op="nll_loss", remedy="drop the samples before the loss")


def _without_targets_excluded(x: Handle, target: Any) -> Handle:
    """The log-probabilities where no (public) target lies in a place of minus infinity, whose loss is infinite."""
    if not isinstance(x, Excluding):
        return x
    if not isinstance(target, Tensor) or bool(x.excluded.gather(-1, target.to(torch.int64).unsqueeze(-1)).any()):
        raise UnsupportedOperation(
            "the loss of a target that may lie where the mask excludes it, and would be infinite",
            op="nll_loss",
            remedy="give targets as plain indices that the mask leaves, or mask with a finite number",
        )
    return x.finite


def _targets(target: Any, like: Handle) -> Handle:
    """One-hot targets: public for plain indices, secret for secret ones."""
    classes = like.shape[-1]
    if isinstance(target, Tensor):
        dense = torch.nn.functional.one_hot(target.to(torch.int64), classes)
        return Public(like.session, tuple(dense.shape), tensor=dense)
    return one_hot(target, classes)


@lowers(aten.nll_loss_backward.default, indices=True)
def _nll_backward(
    grad: Handle, x: Handle, target: Any, weight: Any, reduction: int, ignore_index: int, total_weight: Handle
) -> Handle:
    _check_nll(weight, target, ignore_index)
    count = x.shape[0] if len(x.shape) > 1 else 1
    factor = -_normaliser(count, reduction)
    rows = _targets(target, x)
    if isinstance(grad, Public) and grad.fill is not None:
        factor *= grad.fill
        if isinstance(rows, Public):
            return ar.multiply(rows, Public(x.session, (), fill=factor))

        def value() -> Handle:
            return ar.multiply_scalar(ar.secret(rows), factor)

        return Deferred(x.session, x.shape, value, {"one_hot": (rows, factor)})
    if reduction == _NONE:
        grad = apply(grad, "unsqueeze", len(x.shape) - 1)
    return ar.multiply(rows, ar.multiply(grad, Public(x.session, (), fill=factor)))


# --- squared and absolute errors ------------------------------------------------------------------------------------


@lowers(aten.mse_loss.default)
def _mse(x: Handle, target: Handle, reduction: int = 1) -> Handle:
    difference = ar.add(x, target, -1)
    if isinstance(difference, Secret):
        difference = ar.narrow(difference)

    def value() -> Handle:
        return reduce(ar.multiply(difference, difference), reduction)

    return Deferred(x.session, _reduced_shape(difference.shape, reduction), value)


@lowers(aten.mse_loss_backward.default)
def _mse_backward(grad: Handle, x: Handle, target: Handle, reduction: int) -> Handle:
    difference = ar.add(x, target, -1)
    count = torch.Size(difference.shape).numel()
    return ar.multiply(difference, ar.multiply(grad, Public(x.session, (), fill=2.0 * _normaliser(count, reduction))))


# --- binary cross-entropy --------------------------------------------------------------------------------------------


@lowers(aten.binary_cross_entropy_with_logits.default)
def _bce_logits(
    x: Handle, target: Handle, weight: Handle | None = None, pos_weight: Handle | None = None, reduction: int = 1
) -> Handle:
    def value() -> Handle:
        wire = ar.narrow(ar.number(x))
        # log(1 + e^x) - t x, and with a weight w of the positives: + (w - 1) t log(1 + e^-x)
        soft = softplus(wire)
        lost: Handle = ar.add(soft, ar.multiply(target, wire), -1)
        if pos_weight is not None:
            extra = ar.multiply(ar.add(pos_weight, Public(wire.session, (), fill=-1.0)), target)
            lost = ar.add(lost, ar.multiply(extra, ar.add(soft, wire, -1)))
        if weight is not None:
            lost = ar.multiply(lost, weight)
        return reduce(lost, reduction)

    return Deferred(x.session, _reduced_shape(ar.broadcast(x.shape, target.shape), reduction), value)


@lowers(aten.binary_cross_entropy.default)
def _bce(x: Handle, target: Handle, weight: Handle | None = None, reduction: int = 1) -> Handle:
    def value() -> Handle:
        one = Public(x.session, (), fill=1.0)
        yes = ar.multiply(target, normalise.log(x))
        no = ar.multiply(ar.add(one, target, -1), normalise.log(ar.add(one, x, -1)))
        lost = ar.negate(ar.add(yes, no))
        return reduce(lost if weight is None else ar.multiply(lost, weight), reduction)

    return Deferred(x.session, _reduced_shape(x.shape, reduction), value)


@lowers(aten.binary_cross_entropy_backward.default)
def _bce_backward(grad: Handle, x: Handle, target: Handle, weight: Handle | None = None, reduction: int = 1) -> Handle:
    wire = ar.narrow(ar.number(x))
    spread = ar.add(wire, ar.multiply(wire, wire), -1)
    slope = normalise.divide(ar.add(wire, target, -1), spread)
    count = torch.Size(x.shape).numel()
    out = ar.multiply(slope, ar.multiply(grad, Public(x.session, (), fill=_normaliser(count, reduction))))
    return out if weight is None else ar.multiply(out, weight)
