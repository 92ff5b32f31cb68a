"""Smooth activations and their gradients; a gradient reuses the bits and values of its forward."""

from __future__ import annotations

import math

from torchveil.errors import InvalidArgument, ShapeMismatch, UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import elu, sigmoidal
from torchveil.functions.series import Ramp
from torchveil.functions.structure import apply, concatenate
from torchveil.handle import Handle, Public, Secret
from torchveil.lowering.table import aten, lowers


@lowers(aten.sigmoid.default)
def _sigmoid(x: Handle) -> Handle:
    return sigmoidal.sigmoid(x)


@lowers(aten.sigmoid_backward.default)
def _sigmoid_backward(grad: Handle, output: Handle) -> Handle:
    y = ar.secret(output)
    slope = ar.add(y, ar.product(y, y), -1)
    return ar.multiply(grad, slope)


@lowers(aten.tanh.default)
def _tanh(x: Handle) -> Handle:
    return sigmoidal.tanh(x)


@lowers(aten.tanh_backward.default)
def _tanh_backward(grad: Handle, output: Handle) -> Handle:
    y = ar.secret(output)
    slope = ar.add(Public(y.session, y.shape, fill=1.0), ar.product(y, y), -1)
    return ar.multiply(grad, slope)


@lowers(aten.silu.default)
def _silu(x: Handle) -> Handle:
    return sigmoidal.ramp(x, "silu")


@lowers(aten.silu_backward.default)
def _silu_backward(grad: Handle, x: Handle) -> Handle:
    return ar.multiply(grad, sigmoidal.ramp_slope(x, "silu"))


#: torch's ``approximate`` to the ramp.
_GELUS: dict[str, Ramp] = {"none": "gelu", "tanh": "gelu-tanh"}


@lowers(aten.gelu.default)
def _gelu(x: Handle, approximate: str = "none") -> Handle:
    return sigmoidal.ramp(x, _GELUS[approximate])


@lowers(aten.gelu_backward.default)
def _gelu_backward(grad: Handle, x: Handle, approximate: str = "none") -> Handle:
    return ar.multiply(grad, sigmoidal.ramp_slope(x, _GELUS[approximate]))


@lowers(aten.mish.default)
def _mish(x: Handle) -> Handle:
    return sigmoidal.ramp(x, "mish")


@lowers(aten.mish_backward.default)
def _mish_backward(grad: Handle, x: Handle) -> Handle:
    return ar.multiply(grad, sigmoidal.ramp_slope(x, "mish"))


# --- softplus and log-sigmoid ----------------------------------------------------------------------------------------


def softplus(x: Handle) -> Secret:
    """log(1 + exp(x))."""
    out = sigmoidal.ramp(x, "softplus")
    out.nonnegative = True
    return out


def _check_beta(beta: float) -> None:
    if not 0 < beta < math.inf:
        raise UnsupportedOperation(f"a softplus with beta {beta}", op="softplus", remedy="use a positive beta")


@lowers(aten.softplus.default)
def _softplus(x: Handle, beta: float = 1, threshold: float = 20) -> Handle:
    _check_beta(beta)
    return sigmoidal.ramp(x, "softplus", beta, threshold)


@lowers(aten.softplus_backward.default)
def _softplus_backward(grad: Handle, x: Handle, beta: float, threshold: float) -> Handle:
    _check_beta(beta)
    return ar.multiply(grad, sigmoidal.ramp_slope(x, "softplus", beta, threshold))


@lowers(aten.log_sigmoid_forward.default)
def _log_sigmoid(x: Handle) -> tuple[Handle, Handle]:
    """log sigmoid(x) = x - softplus(x)."""
    wire = ar.narrow(ar.number(x))
    return ar.add(wire, softplus(wire), -1), Public(x.session, (0,), fill=0.0)


@lowers(aten.log_sigmoid_backward.default)
def _log_sigmoid_backward(grad: Handle, x: Handle, buffer: Handle) -> Handle:
    one = Public(x.session, (), fill=1.0)
    return ar.multiply(grad, ar.add(one, sigmoidal.ramp_slope(x, "softplus"), -1))


# --- exponential linear units ----------------------------------------------------------------------------------------


@lowers(aten.elu.default)
def _elu(x: Handle, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Handle:
    return elu.elu(x, elu.Unit(alpha, scale, input_scale))


@lowers(aten.elu_backward.default)
def _elu_backward(grad: Handle, alpha: float, scale: float, input_scale: float, is_result: bool, x: Handle) -> Handle:
    unit = elu.Unit(alpha, scale, input_scale)
    return ar.multiply(grad, elu.slope_at_result(x, unit) if is_result else elu.slope(x, unit))


@lowers(aten.celu.default)
def _celu(x: Handle, alpha: float = 1) -> Handle:
    if alpha == 0:
        raise InvalidArgument("celu divides by alpha", op="celu", remedy="use an alpha other than 0")
    return _elu(x, alpha, 1, 1 / alpha)


# --- gated linear units ----------------------------------------------------------------------------------------------


def _gated_parts(x: Handle, dim: int) -> tuple[Handle, Handle]:
    """(the first half along dim, sigmoid of the second half); remembered for the gradient."""
    wire = ar.narrow(ar.number(x))
    dim = dim % max(1, len(wire.shape))
    if not wire.shape or wire.shape[dim] % 2:
        raise ShapeMismatch(
            f"a gated unit halves an even dimension, not dimension {dim} of {wire.shape}",
            op="glu",
            remedy="check the shape",
        )
    key = f"glu {dim}"
    if key not in wire.memo:
        half = wire.shape[dim] // 2
        wire.memo[key] = sigmoidal.sigmoid(apply(wire, "slice", dim, half, 2 * half, 1))
    return apply(wire, "slice", dim, 0, wire.shape[dim] // 2, 1), wire.memo[key]


@lowers(aten.glu.default)
def _glu(x: Handle, dim: int = -1) -> Handle:
    return ar.multiply(*_gated_parts(x, dim))


@lowers(aten.glu_backward.default)
def _glu_backward(grad: Handle, x: Handle, dim: int) -> Handle:
    first, gate = _gated_parts(x, dim)
    passed = ar.multiply(grad, gate)
    rest = ar.add(Public(x.session, (), fill=1.0), gate, -1)
    return concatenate([passed, ar.multiply(passed, ar.multiply(first, rest))], dim % len(x.shape))
