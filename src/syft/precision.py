"""Fixed precision in the clear: ``fix_precision`` and ``float_precision``.

A ``FixedPrecisionTensor`` holds round(x * base**digits) as int64. Operations on it are computed in the clear: the
values are decoded to float64, torch does the work, the result is rounded again, so every operation carries the error of
its own rounding and nothing else. Views share memory with their base as in torch. It is the step before ``share`` and
what ``get`` returns.
"""

from __future__ import annotations

import builtins
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from syft.notes import carry
from syft.protocols import say_once
from torchveil import EncryptedTensor, FixedPoint, RevealRequired
from torchveil.fixedpoint import decode, encode

#: PySyft's defaults: three digits after the decimal point.
BASE = 10
PRECISION_FRACTIONAL = 3

_DTYPES = ("long", "int")


class FixedPrecisionTensor(torch.Tensor):
    """Clear numbers as integers over a power of a base: ``raw`` (int64) and ``fixed_point``. torch sees float32."""

    raw: Tensor
    fixed_point: FixedPoint

    @staticmethod
    def __new__(cls, raw: Tensor, fixed_point: FixedPoint) -> FixedPrecisionTensor:
        out = torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=torch.float32
        )
        out.raw = raw
        out.fixed_point = fixed_point
        return out

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Everything happens in ``__new__``."""

    def decoded(self) -> Tensor:
        """The numbers as float64."""
        return decode(self.raw, self.fixed_point.scale)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        is_parameter = isinstance(self, nn.Parameter)
        start = "Parameter containing:\nParameter" if is_parameter else "(Wrapper)"
        return f"{start}>FixedPrecisionTensor>{self.raw!r}"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def tolist(self) -> Any:
        return self.decoded().tolist()

    def numpy(self, *_args: Any, **_kwargs: Any) -> Any:
        return self.decoded().to(torch.float32).numpy()

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return FixedPrecisionTensor, (self.raw, self.fixed_point)

    def __deepcopy__(self, memo: dict[int, Any]) -> FixedPrecisionTensor:
        out: Tensor = FixedPrecisionTensor(self.raw.clone(), self.fixed_point)
        if isinstance(self, nn.Parameter):
            out = nn.Parameter(out, requires_grad=self.requires_grad)
        memo[builtins.id(self)] = out
        return out  # type: ignore[return-value]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if not all(issubclass(t, (FixedPrecisionTensor, nn.Parameter)) for t in types):
            return NotImplemented  # shares and pointers know what to do with clear numbers
        kwargs = kwargs or {}
        if func.is_view:
            return _view(func, args, kwargs)
        return _compute(func, args, kwargs)


def _view(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    base: FixedPrecisionTensor = args[0]
    raw = func(base.raw, *args[1:], **kwargs)
    if isinstance(raw, Tensor):
        out: Any = FixedPrecisionTensor(raw, base.fixed_point)
    else:
        out = [FixedPrecisionTensor(part, base.fixed_point) for part in raw]
    return return_and_correct_aliasing(func, args, kwargs, out)


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, FixedPrecisionTensor)]
    finest = max((x.fixed_point for x in operands), key=lambda f: f.scale)
    clear = {builtins.id(x): x.decoded() for x in operands}

    def decoded(x: Any) -> Any:
        if isinstance(x, FixedPrecisionTensor):
            return clear[builtins.id(x)]
        plain = isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
        return x.double() if plain and not func._schema.is_mutable else x

    result = func(*tree_map(decoded, args), **tree_map(decoded, kwargs))
    if func._schema.is_mutable:
        for position, argument in enumerate(func._schema.arguments):
            target = args[position] if position < len(args) else kwargs.get(argument.name)
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(target, FixedPrecisionTensor):
                value = clear[builtins.id(target)]
                target.raw.copy_(encode(value, target.fixed_point.scale, op=str(func)))
        if isinstance(result, Tensor):
            for x in operands:
                if result is clear[builtins.id(x)]:
                    return x

    def encoded(x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_floating_point():
            return FixedPrecisionTensor(encode(x, finest.scale, op=str(func)), finest)
        return x

    return tree_map(encoded, result)


def number_format(
    base: int = BASE,
    precision_fractional: int = PRECISION_FRACTIONAL,
    dtype: str | None = None,
    field: int | None = None,
    kappa: int | None = None,
) -> FixedPoint:
    """The format that PySyft's arguments name. ``dtype``, ``field`` and ``kappa`` choose nothing; the ring is 2**64."""
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError("Unsupported arg value for dtype. Use dtype='long' or dtype='int'.")
    if dtype == "int" or field is not None or kappa is not None:
        say_once("dtype, field and kappa of fix_precision are accepted and ignored: the ring is always that of 2**64")
    return FixedPoint(base, precision_fractional)


def fix_precision(x: Tensor, fixed_point: FixedPoint) -> Tensor:
    """round(x * scale) as a ``FixedPrecisionTensor``.

    A tensor that already has a fixed precision is rounded to the new one. Raises ``EncodingError`` for nan, infinities
    and numbers of 2**61 / scale and more, ``TypeError`` for complex and for shared tensors.
    """
    if isinstance(x, EncryptedTensor):
        raise TypeError("the tensor is shared already; use .get() first, or give it its precision before .share()")
    if x.is_complex():
        raise TypeError("complex numbers have no fixed-point form; share real and imaginary parts")
    clear = x.decoded() if isinstance(x, FixedPrecisionTensor) else x.detach()
    raw = encode(clear, fixed_point.scale, op="fix_precision")
    out = FixedPrecisionTensor(raw, fixed_point)
    carry(x, out)
    return out


def float_precision(x: Tensor) -> Tensor:
    """The numbers as a plain float32 tensor. Whole numbers become floats; floats stay what they are.

    Raises ``RevealRequired`` for a shared tensor: ``get`` comes first, because it is a reveal and counted.
    """
    if isinstance(x, EncryptedTensor):
        raise RevealRequired(
            "float_precision() would read a secret",
            op="float_precision",
            remedy="x.get().float_precision(), or x.decrypt(), where the value may be known",
        )
    if isinstance(x, FixedPrecisionTensor):
        out = x.decoded().to(torch.float32)
    else:
        out = x if x.is_floating_point() else x.to(torch.float32)
    if out is not x:
        carry(x, out)
    return out
