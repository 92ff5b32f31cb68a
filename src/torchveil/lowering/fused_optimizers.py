"""torch's fused optimizer steps (``fused=True``) in separate operations: those of its own loops, tensor by tensor.

Sources: ``_single_tensor_sgd``, ``_single_tensor_adam`` and ``_single_tensor_adagrad`` of torch.optim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.lowering.table import COMPOSED, aten

Lists = Sequence[Tensor]


def _refuse_scaler(grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
    if grad_scale is not None or found_inf is not None:
        raise UnsupportedOperation(
            "a gradient scaler: it looks for infinities in secret gradients",
            op="fused optimizer",
            remedy="train without GradScaler; fixed-point numbers have no infinities",
        )


def _number(value: float | Tensor) -> float:
    """A public setting: torch may pass it as a plain tensor."""
    return float(value)


def _sgd(
    params: Lists,
    grads: Lists,
    buffers: Lists,
    *,
    weight_decay: float,
    momentum: float,
    lr: float | Tensor,
    dampening: float,
    nesterov: bool,
    maximize: bool,
    is_first_step: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    _refuse_scaler(grad_scale, found_inf)
    for k, (param, grad) in enumerate(zip(params, grads, strict=True)):
        grad = -grad if maximize else grad
        if weight_decay:
            grad = grad.add(param, alpha=weight_decay)
        if momentum:
            buffer = buffers[k]
            if is_first_step:
                buffer.copy_(grad)
            else:
                buffer.mul_(momentum).add_(grad, alpha=1 - dampening)
            grad = grad.add(buffer, alpha=momentum) if nesterov else buffer
        param.add_(grad, alpha=-_number(lr))


def _adam(
    params: Lists,
    grads: Lists,
    means: Lists,
    squares: Lists,
    largest: Lists,
    steps: Lists,
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    amsgrad: bool,
    maximize: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    decoupled: bool = False,
) -> None:
    _refuse_scaler(grad_scale, found_inf)
    rate = _number(lr)
    for k, (param, grad) in enumerate(zip(params, grads, strict=True)):
        step = _number(steps[k])
        grad = -grad if maximize else grad
        if weight_decay and decoupled:
            param.mul_(1 - rate * weight_decay)
        elif weight_decay:
            grad = grad.add(param, alpha=weight_decay)
        means[k].lerp_(grad, 1 - beta1)
        squares[k].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        second = squares[k]
        if amsgrad:
            second = largest[k].copy_(largest[k].maximum(squares[k]))
        root = (second.sqrt() / math.sqrt(1 - beta2**step)).add_(eps)
        param.addcdiv_(means[k], root, value=-rate / (1 - beta1**step))


def _adamw(*args: Any, **kwargs: Any) -> None:
    _adam(*args, **kwargs, decoupled=True)


def _adagrad(
    params: Lists,
    grads: Lists,
    sums: Lists,
    steps: Lists,
    *,
    lr: float | Tensor,
    lr_decay: float,
    weight_decay: float,
    eps: float,
    maximize: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    _refuse_scaler(grad_scale, found_inf)
    for k, (param, grad) in enumerate(zip(params, grads, strict=True)):
        grad = -grad if maximize else grad
        if weight_decay:
            grad = grad.add(param, alpha=weight_decay)
        rate = _number(lr) / (1 + (_number(steps[k]) - 1) * lr_decay)
        sums[k].addcmul_(grad, grad, value=1)
        param.addcdiv_(grad, sums[k].sqrt().add_(eps), value=-rate)


COMPOSED.update(
    {
        aten._fused_sgd_.default: _sgd,
        aten._fused_sgd_.tensor_lr: _sgd,
        aten._fused_adam_.default: _adam,
        aten._fused_adam_.tensor_lr: _adam,
        aten._fused_adamw_.default: _adamw,
        aten._fused_adamw_.tensor_lr: _adamw,
        aten._fused_adagrad_.default: _adagrad,
        aten._fused_adagrad_.tensor_lr: _adagrad,
    }
)
