"""Convolutions in one, two and three dimensions, transposed ones, and their gradients: one bilinear gate each.

A transposed convolution is the gradient of a convolution with respect to its input, and the gradient of that is a
convolution again, so three ring products per number of dimensions serve all of them. One dimension is an image of
height 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torchveil.errors import ShapeMismatch, UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions.structure import apply
from torchveil.handle import Handle
from torchveil.lowering.table import aten, lowers

#: Number of spatial dimensions -> name of the ring product (its gradients end in _input_grad and _weight_grad).
_PRODUCTS = {1: "conv2d", 2: "conv2d", 3: "conv3d"}


def per_dimension(values: Any, count: int, default: int) -> tuple[int, ...]:
    """One number for each spatial dimension; torch gives one for all, or none for the default."""
    listed = [values] if isinstance(values, int) else list(values)
    listed = listed or [default]
    return tuple(listed) if len(listed) == count else (listed[0],) * count


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Options with one entry per spatial dimension, and how the operands become those of the ring product."""

    dimensions: int
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int

    @property
    def function(self) -> str:
        return _PRODUCTS[self.dimensions]

    @property
    def options(self) -> dict[str, Any]:
        flat = self.dimensions == 1
        return {
            "stride": (1, *self.stride) if flat else self.stride,
            "padding": (0, *self.padding) if flat else self.padding,
            "dilation": (1, *self.dilation) if flat else self.dilation,
            "groups": self.groups,
        }

    def lift(self, x: Handle) -> Handle:
        """[N, C, L] -> [N, C, 1, L]; others as they are."""
        return apply(x, "unsqueeze", 2) if self.dimensions == 1 else x

    def lower(self, x: Handle) -> Handle:
        return apply(x, "squeeze_dim", 2) if self.dimensions == 1 else x

    def spatial(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *size) if self.dimensions == 1 else size

    def transposed_size(self, size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial size of a transposed convolution's result."""
        rows = zip(size, kernel, self.stride, self.padding, self.dilation, self.output_padding, strict=True)
        return tuple((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in rows)

    def reached(self, grad: Handle, size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[_Geometry, Handle]:
        """The gradient of a transposed convolution's result, as exactly the places that its windows reached.

        As it is where a convolution finds ``size`` windows in it; output padding of a stride or more would make it
        find others.
        """
        if all(o < s for o, s in zip(self.output_padding, self.stride, strict=True)):
            return self, grad
        pads: list[int] = []
        rows = zip(size, kernel, self.stride, self.padding, self.dilation, grad.shape[2:], strict=True)
        for n, k, s, p, d, have in reversed(list(rows)):
            pads += [p, (n - 1) * s + d * (k - 1) + 1 - have - p]
        return replace(self, padding=(0,) * self.dimensions), apply(grad, "pad", tuple(pads))


def _geometry(
    x: Handle, w: Handle, stride: Any, padding: Any, dilation: Any, output_padding: Any, transposed: bool, groups: int
) -> _Geometry:
    n = len(x.shape) - 2
    if n not in _PRODUCTS or len(w.shape) != n + 2:
        raise UnsupportedOperation(
            f"a convolution over {n} dimensions", op="convolution", remedy="use Conv1d, Conv2d or Conv3d"
        )
    if x.shape[1] != (w.shape[0] if transposed else w.shape[1] * groups):
        raise ShapeMismatch(
            f"{x.shape[1]} channels do not fit weights of shape {w.shape} in {groups} groups", op="convolution",
            remedy="check in_channels",
        )  # fmt: skip
    return _Geometry(
        n, per_dimension(stride, n, 1), per_dimension(padding, n, 0), per_dimension(dilation, n, 1),
        per_dimension(output_padding, n, 0), groups,
    )  # fmt: skip


def _forward(g: _Geometry, x: Handle, w: Handle) -> Handle:
    return g.lower(ar.bilinear(g.lift(x), g.lift(w), g.function, g.options))


def _input_gradient(g: _Geometry, grad: Handle, w: Handle, size: tuple[int, ...]) -> Handle:
    options = {**g.options, "size": g.spatial(size)}
    return g.lower(ar.bilinear(g.lift(grad), g.lift(w), f"{g.function}_input_grad", options))


def _weight_gradient(g: _Geometry, x: Handle, grad: Handle, kernel: tuple[int, ...]) -> Handle:
    options = {**g.options, "kernel": g.spatial(kernel)}
    return g.lower(ar.bilinear(g.lift(x), g.lift(grad), f"{g.function}_weight_grad", options))


@lowers(aten.convolution.default)
def _convolution(
    x: Handle, w: Handle, bias: Handle | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Handle:  # fmt: skip
    g = _geometry(x, w, stride, padding, dilation, output_padding, transposed, groups)
    if not transposed:
        out = _forward(g, x, w)
    else:
        out = _input_gradient(g, x, w, g.transposed_size(x.shape[2:], w.shape[2:]))
    return out if bias is None else ar.add(out, apply(bias, "reshape", (1, -1, *[1] * g.dimensions)))


@lowers(aten.convolution_backward.default)
def _convolution_backward(
    grad: Handle, x: Handle, w: Handle, bias_sizes: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, output_mask: list[bool],
) -> tuple[Handle | None, Handle | None, Handle | None]:  # fmt: skip
    g = _geometry(x, w, stride, padding, dilation, output_padding, transposed, groups)
    bias_grad = apply(grad, "sum", (0, *range(2, len(grad.shape))), False) if output_mask[2] else None
    x_grad = w_grad = None
    if not transposed:
        x_grad = _input_gradient(g, grad, w, x.shape[2:]) if output_mask[0] else None
        w_grad = _weight_gradient(g, x, grad, w.shape[2:]) if output_mask[1] else None
        return x_grad, w_grad, bias_grad
    g, grad = g.reached(grad, x.shape[2:], w.shape[2:])
    x_grad = _forward(g, grad, w) if output_mask[0] else None
    w_grad = _weight_gradient(g, grad, x, w.shape[2:]) if output_mask[1] else None
    return x_grad, w_grad, bias_grad
