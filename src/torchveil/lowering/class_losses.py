"""Losses of classes: negative log likelihood and margins, for public or secret classes. Unread values are not computed.

The targets are rows: one-hot, times the weights of the classes, 0 for what is ignored. A mean divides by the sum of
all rows. It is public for public targets and weights, and for secret targets without weights their number; else it is a
secret, and one division by it serves value and gradient.

Secret targets are taken for classes: with torch's default ignore_index of -100 the mean divides by their number, also
if one of them is -100 (its row is 0). Give another ignore_index if some are to be ignored: then how many is a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import InvalidArgument, UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import comparison as cmp
from torchveil.functions import normalise
from torchveil.functions.look_up import one_hot
from torchveil.functions.structure import apply
from torchveil.handle import Deferred, Excluding, Handle, Public, Secret, facade_dtype
from torchveil.lowering.piecewise import gate
from torchveil.lowering.reductions import total
from torchveil.lowering.softmax import TARGETS, Targets
from torchveil.lowering.table import aten, lowers

_NONE, _MEAN, _SUM = 0, 1, 2
#: torch's default, which secret targets are taken not to be.
_NOTHING_IGNORED = -100


def _public(like: Handle, dense: Tensor) -> Public:
    return Public(like.session, tuple(dense.shape), tensor=dense)


def _channel(x: Handle) -> int:
    """The dimension of the classes."""
    return 0 if len(x.shape) == 1 else 1


def _check_whole(target: Handle) -> None:
    """Raise unless secret classes have a whole dtype, as torch does: others may be probabilities."""
    if facade_dtype(target) not in (torch.int64, torch.int32):
        raise InvalidArgument(
            f"class numbers are whole, and these of shape {tuple(target.shape)} have dtype {facade_dtype(target)}",
            op="nll_loss",
            remedy="share them as whole numbers: torch.tensor([...], dtype=torch.int64), or torchveil share "
            "--whole target; or convert them: target.long()",
        )


def _one_hot(target: Any, x: Handle, ignore_index: int = _NOTHING_IGNORED) -> Handle:
    """Rows of x's shape, 1 at the class: public for plain targets, secret for secret ones; 0 for what is ignored."""
    classes, dim = x.shape[_channel(x)], _channel(x)
    if isinstance(target, Public):
        target = target.dense()
    if isinstance(target, Tensor):
        kept = target != ignore_index
        places = torch.where(kept, target, 0).to(torch.int64)
        if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < classes:
            raise InvalidArgument(
                f"a target outside [0, {classes})", op="nll_loss", remedy="check the targets, or set ignore_index"
            )
        dense = torch.nn.functional.one_hot(places, classes) * kept.unsqueeze(-1)
        return _public(x, dense.movedim(-1, dim))
    _check_whole(target)
    rows: Handle = one_hot(target, classes)
    if 0 <= ignore_index < classes:
        rows = ar.multiply(rows, _public(x, (torch.arange(classes) != ignore_index).to(torch.int64)))
    last = len(x.shape) - 1
    order = [*range(dim), last, *range(dim, last)]
    return rows if last == dim else apply(rows, "permute", tuple(order))


def _per_class(weight: Handle, x: Handle) -> Handle:
    """Weights of the classes, to be broadcast along x."""
    return apply(weight, "reshape", (-1, *[1] * (len(x.shape) - 1 - _channel(x))))


@dataclass(frozen=True, slots=True)
class _Rows:
    """``values`` of x's shape; ``plain`` if each of the ``count`` rows sums to 1."""

    values: Handle
    plain: bool
    count: int

    def total(self) -> Handle:
        """The sum of all rows: public if it may be."""
        if self.plain:
            return Public(self.values.session, (), fill=float(self.count))
        summed = total(self.values)
        if isinstance(summed, Public):
            return Public(summed.session, (), fill=float(summed.dense()))
        return summed


def _rows(x: Handle, target: Any, weight: Handle | None, ignore_index: int) -> _Rows:
    rows = _one_hot(target, x, ignore_index)
    count = torch.Size(target.shape).numel()
    if isinstance(rows, Public):
        every = bool(rows.dense().sum() == count)
    else:
        every = ignore_index == _NOTHING_IGNORED
    if weight is None:
        return _Rows(rows, every, count)
    return _Rows(ar.multiply(rows, _per_class(weight, x)), False, count)


# --- negative log likelihood -----------------------------------------------------------------------------------------


@lowers(aten.nll_loss_forward.default, aten.nll_loss2d_forward.default, indices=True)
def _nll_forward(
    x: Handle, target: Any, weight: Handle | None, reduction: int, ignore_index: int
) -> tuple[Handle, Handle]:
    dim = _channel(x)
    shape = (*x.shape[:dim], *x.shape[dim + 1 :]) if reduction == _NONE else ()
    rows = _rows(x, target, weight, ignore_index)
    x = _without_targets_excluded(x, rows.values)
    weighed: Handle = Public(x.session, (), fill=0.0)
    if reduction != _NONE:
        weighed = rows.total()
    if reduction == _MEAN:
        _check_mean(weighed)

    def value() -> Handle:
        lost = ar.negate(total(ar.multiply(ar.secret(x), rows.values), [dim], False))
        if reduction == _NONE:
            return lost
        summed = total(lost)
        return _quotient(summed, weighed) if reduction == _MEAN else summed

    return Deferred(x.session, shape, value), weighed


def _without_targets_excluded(x: Handle, rows: Handle) -> Handle:
    """The log-probabilities where no (public) target lies in a place of minus infinity, whose loss is infinite."""
    if not isinstance(x, Excluding):
        return x
    if not isinstance(rows, Public) or bool((rows.dense().bool() & x.excluded).any()):
        raise UnsupportedOperation(
            "the loss of a target that may lie where the mask excludes it, and would be infinite",
            op="nll_loss",
            remedy="give targets as plain indices that the mask leaves, or mask with a finite number",
        )
    return x.finite


def _check_mean(weighed: Handle) -> None:
    if isinstance(weighed, Public) and weighed.fill == 0:
        raise InvalidArgument(
            "the mean over no target: all are ignored, or have the weight 0",
            op="nll_loss",
            remedy="use reduction='sum', or skip this batch",
        )


def _quotient(x: Handle, divisor: Handle) -> Handle:
    if isinstance(divisor, Public):
        return ar.divide_scalar(ar.secret(x), float(divisor.dense()))
    return normalise.divide(x, divisor)


@lowers(aten.nll_loss_backward.default, aten.nll_loss2d_backward.default, indices=True)
def _nll_backward(
    grad: Handle, x: Handle, target: Any, weight: Handle | None, reduction: int, ignore_index: int, weighed: Handle
) -> Handle:
    dim = _channel(x)
    found = _rows(x, target, weight, ignore_index)
    rows, factor = found.values, -1.0
    if reduction == _MEAN and isinstance(weighed, Public):
        factor = -1.0 / float(weighed.dense())
    elif reduction == _MEAN:
        # rows keep numbers around 1: the public count is left for last
        ratio = normalise.divide(Public(x.session, (), fill=float(found.count)), weighed)
        rows, factor = ar.multiply(rows, ratio), -1.0 / found.count
    if isinstance(grad, Public) and grad.fill is not None:
        factor *= grad.fill
        if isinstance(rows, Public):
            return ar.multiply(rows, Public(x.session, (), fill=factor))

        def value() -> Handle:
            return ar.multiply_scalar(ar.secret(rows), factor)

        sums = None if found.plain else total(rows, [dim], True)
        return Deferred(x.session, x.shape, value, {TARGETS: Targets(rows, factor, sums)})
    if reduction == _NONE:
        grad = apply(grad, "unsqueeze", dim)
    return ar.multiply(ar.multiply(rows, grad), Public(x.session, (), fill=factor))


# --- margins between classes -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Margins:
    """``over`` = margin - x[class] + x; ``rows`` one-hot, ``others`` = 1 - rows, ``weights`` of the samples."""

    over: Secret
    rows: Handle
    others: Handle
    weights: Handle | None


def _margins(x: Handle, target: Any, margin: float, weight: Handle | None) -> _Margins:
    rows, dim = _one_hot(target, x), _channel(x)
    wire = ar.narrow(ar.number(x))
    if isinstance(target, Tensor):
        index = target.to(torch.int64).reshape(*x.shape[:dim], 1)
        own: Handle = apply(wire, "gather", dim, index)
    else:
        own = total(ar.multiply(wire, rows), dim, True)
    one = Public(x.session, (), fill=1.0)
    over = ar.add(ar.add(wire, own, -1), one, margin)
    weights = None if weight is None else total(ar.multiply(rows, _per_class(weight, x)), dim, True)
    return _Margins(ar.narrow(ar.secret(over)), rows, ar.add(one, rows, -1), weights)


def _check_power(p: float) -> None:
    if p not in (1, 2):
        raise InvalidArgument(f"a margin loss with p = {p}", op="multi_margin_loss", remedy="p is 1 or 2")


def _check_classes(x: Handle, op: str) -> None:
    if not x.shape:
        raise UnsupportedOperation("a margin between the classes of one number", op=op, remedy="give rows of classes")


@lowers(aten.multi_margin_loss.default, indices=True)
def _multi_margin(
    x: Handle, target: Any, p: float = 1, margin: float = 1, weight: Handle | None = None, reduction: int = 1
) -> Handle:
    _check_power(p)
    _check_classes(x, "multi_margin_loss")
    dim = _channel(x)
    if isinstance(target, Tensor):
        target = target.reshape(x.shape[:dim])
        _one_hot(target, x)  # refuses what is out of range
    elif not isinstance(target, Public):
        _check_whole(target)

    def value() -> Handle:
        m = _margins(x, target, margin, weight)
        kept: Handle = cmp.relu(m.over)
        kept = ar.multiply(kept, kept) if p == 2 else kept
        kept = ar.multiply(kept, m.others)
        kept = kept if m.weights is None else ar.multiply(kept, m.weights)
        lost = ar.divide_scalar(ar.secret(total(kept, [dim], False)), x.shape[dim])
        return lost if reduction == _NONE else _reduced(lost, reduction)

    shape = x.shape[:dim] if reduction == _NONE else ()
    return Deferred(x.session, shape, value)


def _reduced(lost: Handle, reduction: int) -> Handle:
    count = max(1, torch.Size(lost.shape).numel()) if reduction == _MEAN else 1
    return ar.divide_scalar(ar.secret(total(lost)), count)


@lowers(aten.multi_margin_loss_backward.default, indices=True)
def _multi_margin_backward(
    grad: Handle,
    x: Handle,
    target: Any,
    p: float,
    margin: float,
    weight: Handle | None = None,
    reduction: int = 1,
) -> Handle:
    _check_power(p)
    dim = _channel(x)
    if isinstance(target, Tensor):
        target = target.reshape(x.shape[:dim])
    m = _margins(x, target, margin, weight)
    slope: Handle = ar.secret(cmp.positive(m.over)) if p == 1 else ar.multiply_scalar(cmp.relu(m.over), 2)
    pushed = ar.multiply(slope, m.others)
    pushed = pushed if m.weights is None else ar.multiply(pushed, m.weights)
    out = ar.add(pushed, ar.multiply(m.rows, total(pushed, [dim], True)), -1)
    count = torch.Size(x.shape[:dim]).numel() if reduction == _MEAN else 1
    if reduction == _NONE and dim:
        grad = apply(grad, "unsqueeze", dim)
    factor = Public(x.session, (), fill=1.0 / (count * x.shape[dim]))
    return ar.multiply(ar.multiply(out, grad), factor)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Places in the flattened input: each target beside each class of its sample that is none."""

    targets: Tensor
    others: Tensor
    samples: Tensor
    mask: Tensor


def _pairs(x: Handle, target: Any) -> _Pairs:
    """What a public target says; its rows end at the first -1."""
    if not isinstance(target, Tensor):
        raise UnsupportedOperation(
            "secret sets of labels",
            op="multilabel_margin_loss",
            remedy="use public labels, or MultiLabelSoftMarginLoss",
        )
    rows, classes = target.reshape(-1, x.shape[-1]), x.shape[-1]
    mask = torch.zeros_like(rows)
    a, b, samples = [], [], []
    for n, row in enumerate(rows.tolist()):
        labels = row[: row.index(-1)] if -1 in row else row
        if any(not 0 <= label < classes for label in labels):
            raise InvalidArgument(
                f"a label outside [0, {classes})", op="multilabel_margin_loss", remedy="end each row by -1"
            )
        mask[n, labels] = 1
        rest = [j for j in range(classes) if j not in labels]
        for label in labels:
            a += [n * classes + label] * len(rest)
            b += [n * classes + j for j in rest]
            samples += [n] * len(rest)
    places = [torch.tensor(v, dtype=torch.int64) for v in (a, b, samples)]
    return _Pairs(places[0], places[1], places[2], mask.reshape(target.shape))


def _over(x: Handle, pairs: _Pairs) -> Secret:
    """1 - x[target] + x[other] for each pair."""
    flat = apply(ar.narrow(ar.number(x)), "reshape", (-1,))
    difference = ar.add(apply(flat, "index", (pairs.others,)), apply(flat, "index", (pairs.targets,)), -1)
    return ar.secret(ar.add(difference, Public(x.session, (), fill=1.0)))


@lowers(aten.multilabel_margin_loss_forward.default, indices=True)
def _multi_label_margin(x: Handle, target: Any, reduction: int) -> tuple[Handle, Handle]:
    _check_classes(x, "multilabel_margin_loss")
    pairs = _pairs(x, target)
    batch = x.shape[:-1]

    def value() -> Handle:
        count = torch.Size(batch).numel()
        per_sample = apply(cmp.relu(_over(x, pairs)), "scatter_index", (count,), (pairs.samples,))
        lost = ar.divide_scalar(ar.secret(apply(per_sample, "reshape", batch)), x.shape[-1])
        return lost if reduction == _NONE else _reduced(lost, reduction)

    return Deferred(x.session, batch if reduction == _NONE else (), value), _public(x, pairs.mask)


@lowers(aten.multilabel_margin_loss_backward.default, indices=True)
def _multi_label_margin_backward(grad: Handle, x: Handle, target: Any, reduction: int, is_target: Any) -> Handle:
    pairs = _pairs(x, target)
    count = torch.Size(x.shape[:-1]).numel()
    bit = cmp.positive(_over(x, pairs))
    if reduction == _NONE:
        grad = apply(apply(grad, "reshape", (-1,)), "index", (pairs.samples,))
    gated = ar.secret(gate(bit, ar.expand_to(grad, bit.shape)))
    size = (torch.Size(x.shape).numel(),)
    pushed = apply(gated, "scatter_index", size, (pairs.others,))
    pulled = apply(gated, "scatter_index", size, (pairs.targets,))
    out = apply(ar.add(pushed, pulled, -1), "reshape", x.shape)
    return ar.divide_scalar(ar.secret(out), x.shape[-1] * (count if reduction == _MEAN else 1))
