"""torch's fused cells of LSTM and GRU; the workspace carries a step from its forward to its backward."""

from __future__ import annotations

from typing import Any

from torchveil.errors import UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import recurrent
from torchveil.functions.structure import apply
from torchveil.handle import Deferred, Handle
from torchveil.lowering.table import aten, lowers


def _workspace(like: Handle, shape: tuple[int, ...], kept: tuple[Any, Any]) -> Deferred:
    """What torch keeps for the backward: a tensor that nobody may read."""

    def unread() -> Handle:
        raise UnsupportedOperation("reading the workspace of a recurrent cell", op="workspace", remedy="use its states")

    return Deferred(like.session, shape, unread, {"step": kept})


def _kept(workspace: Handle, op: str) -> tuple[Any, Any]:
    kept: tuple[Any, Any] | None = workspace.attachments.get("step") if isinstance(workspace, Deferred) else None
    if kept is None:
        raise UnsupportedOperation("the gradient of a recurrent cell whose forward is gone", op=op)
    return kept


def _with_biases(gates: Handle, *biases: Handle | None) -> Handle:
    for bias in biases:
        gates = gates if bias is None else ar.add(gates, bias)
    return gates


def _bias_gradient(grad: Handle, has_bias: bool) -> Handle | None:
    return apply(grad, "sum", (0,), False) if has_bias else None


@lowers(aten._thnn_fused_lstm_cell.default)
def _lstm_cell(
    input_gates: Handle, hidden_gates: Handle, cx: Handle, input_bias: Handle | None = None,
    hidden_bias: Handle | None = None,
) -> tuple[Handle, Handle, Handle]:  # fmt: skip
    sums = ar.secret(_with_biases(ar.add(input_gates, hidden_gates), input_bias, hidden_bias))
    out, after, *kept = recurrent.lstm_cell(sums, cx)
    return out, after, _workspace(sums, sums.shape, (kept[0], kept[1]))


@lowers(aten._thnn_fused_lstm_cell_backward_impl.default)
def _lstm_cell_backward(
    grad_hy: Handle | None, grad_cy: Handle | None, cx: Handle, cy: Handle, workspace: Handle, has_bias: bool
) -> tuple[Handle, Handle, Handle | None]:
    kept = _kept(workspace, "_thnn_fused_lstm_cell_backward")
    grad_gates, grad_cx = recurrent.lstm_cell_backward(grad_hy, grad_cy, *kept)
    return grad_gates, grad_cx, _bias_gradient(grad_gates, has_bias)


@lowers(aten._thnn_fused_gru_cell.default)
def _gru_cell(
    input_gates: Handle, hidden_gates: Handle, hx: Handle, input_bias: Handle | None = None,
    hidden_bias: Handle | None = None,
) -> tuple[Handle, Handle]:  # fmt: skip
    input_gates, hidden_gates = _with_biases(input_gates, input_bias), _with_biases(hidden_gates, hidden_bias)
    out, *kept = recurrent.gru_cell(input_gates, hidden_gates, hx)
    return out, _workspace(out, (out.shape[0], 5 * out.shape[1]), (kept[0], kept[1]))


@lowers(aten._thnn_fused_gru_cell_backward.default)
def _gru_cell_backward(
    grad: Handle, workspace: Handle, has_bias: bool
) -> tuple[Handle, Handle, Handle, Handle | None, Handle | None]:
    kept = _kept(workspace, "_thnn_fused_gru_cell_backward")
    input_side, hidden_side, grad_hx = recurrent.gru_cell_backward(grad, *kept)
    biases = _bias_gradient(input_side, has_bias), _bias_gradient(hidden_side, has_bias)
    return input_side, hidden_side, grad_hx, *biases
