"""Activations and their gradients; a gradient reuses the bits and values of its forward."""

from __future__ import annotations

from torchveil.functions import arithmetic as ar
from torchveil.functions import comparison as cmp
from torchveil.functions import exponential, normalise, sigmoidal
from torchveil.functions.series import Ramp
from torchveil.handle import Bit, Handle, Public, Secret
from torchveil.lowering.table import aten, lowers


@lowers(aten.relu.default)
def _relu(x: Handle) -> Handle:
    return cmp.relu(x)


def _sign_bit(x: Handle) -> Bit:
    """[x > 0] of a relu's input or output, from the memo when the forward left it there."""
    return cmp.positive(ar.secret(x))


@lowers(aten.threshold_backward.default)
def _threshold_backward(grad: Handle, x: Handle, threshold: float) -> Handle:
    bit = _sign_bit(x) if threshold == 0 else cmp.compare_scalar(ar.secret(x), threshold, "gt")
    return gate(bit, grad)


def gate(bit: Bit, grad: Handle) -> Handle:
    """bit * grad, also when the gradient is a public constant."""
    if isinstance(grad, Public):
        return ar.multiply(ar.secret(bit), grad)
    return ar.select(bit, grad)


@lowers(aten.leaky_relu.default)
def _leaky_relu(x: Handle, negative_slope: float = 0.01) -> Handle:
    wire = ar.narrow(ar.number(x))
    kept = cmp.relu(wire)
    slope = ar.multiply_scalar(wire, negative_slope)
    return ar.add(ar.multiply_scalar(kept, 1 - negative_slope), slope)


@lowers(aten.leaky_relu_backward.default)
def _leaky_relu_backward(grad: Handle, x: Handle, negative_slope: float, self_is_result: bool) -> Handle:
    kept = gate(_sign_bit(x), grad)
    return ar.add(ar.multiply_scalar(ar.secret(kept), 1 - negative_slope), grad, negative_slope)


@lowers(aten.hardtanh.default)
def _hardtanh(x: Handle, min_val: float = -1, max_val: float = 1) -> Handle:
    return cmp.clamp(x, min_val, max_val)


@lowers(aten.hardtanh_backward.default)
def _hardtanh_backward(grad: Handle, x: Handle, min_val: float, max_val: float) -> Handle:
    wire = ar.secret(x)
    low, high = (round(v * wire.scale) for v in (min_val, max_val))
    _, inside, _ = cmp.inside_bits(wire, low + 1, high)
    return gate(inside, grad)


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


def softplus(x: Secret) -> Secret:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), the logarithm of a number in (1, 2]."""
    bit = cmp.positive(x)
    kept = ar.select(bit, x)
    magnitude = ar.combine([*zip(ar.align(kept, x), (2, -1), strict=True)])
    rest = exponential.exp_nonpositive(ar.secret(ar.negate(magnitude)), 1 << 22)
    one_more = ar.combine([(rest, 1)], 1 << 22, scale=1 << 22)
    tail = normalise.log_between_one_and_four(one_more, x.format.scale)
    out = ar.combine([*zip(ar.align(kept, tail), (1, 1), strict=True)])
    out.format = x.format
    out.nonnegative = True
    return out


@lowers(aten.softplus.default)
def _softplus(x: Handle, beta: float = 1, threshold: float = 20) -> Handle:
    wire = ar.narrow(ar.number(x))
    out = softplus(ar.multiply_scalar(wire, beta))
    return ar.divide_scalar(out, beta) if beta != 1 else out


@lowers(aten.softplus_backward.default)
def _softplus_backward(grad: Handle, x: Handle, beta: float, threshold: float) -> Handle:
    return ar.multiply(grad, sigmoidal.sigmoid(ar.multiply_scalar(ar.narrow(ar.number(x)), beta)))


@lowers(aten.log_sigmoid_forward.default)
def _log_sigmoid(x: Handle) -> tuple[Handle, Handle]:
    out = ar.negate(softplus(ar.narrow(ar.secret(ar.negate(x)))))
    return out, Public(x.session, (0,), fill=0.0)


@lowers(aten.log_sigmoid_backward.default)
def _log_sigmoid_backward(grad: Handle, x: Handle, buffer: Handle) -> Handle:
    return ar.multiply(grad, sigmoidal.sigmoid(ar.negate(x)))
