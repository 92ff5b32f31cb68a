"""Operations on lists of tensors (``foreach=True`` in optimizers): all tensors of a list in one evaluation.

An optimizer's square root and division take as many rounds for one parameter as for all, so the operands of a list are
laid end to end, go through the rule of the single operation, and are taken apart. Rounds: those of one tensor, bytes:
those of all together. Tensors of another kind (scale, width) or with another number beside them go in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from torchveil.functions.structure import apply, concatenate
from torchveil.handle import Deferred, Handle, Public, Secret
from torchveil.lowering.table import COMPOSED, TABLE, Kind, Rule, Updated, aten

#: Elementwise operations that torch has for lists; one is served if its single form has a row.
_NAMES = (
    "abs", "acos", "add", "addcdiv", "addcmul", "asin", "atan", "ceil", "clamp_max", "clamp_min", "copy", "cos", "cosh",
    "div", "erf", "erfc", "exp", "expm1", "floor", "frac", "lerp", "lgamma", "log", "log10", "log1p", "log2", "maximum",
    "minimum", "mul", "neg", "pow", "reciprocal", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "sub",
    "tan", "tanh", "trunc", "zero",
)  # fmt: skip

#: The overload of the single operation, by that of the list operation; the first that has a row.
_SINGLE = {
    "default": ("default", "int"),
    "List": ("Tensor", "Tensor_Tensor", "default"),
    "Scalar": ("Scalar", "Tensor_Scalar", "Tensor", "default"),
    "ScalarList": ("Scalar", "Tensor_Scalar", "Tensor", "default"),
    "Tensor": ("Tensor", "default"),
}

#: Where the single operation has another name: bounds by tensors are maxima, maxima with numbers are bounds.
_OTHER_NAMES = {
    ("clamp_max", True): "minimum",
    ("clamp_min", True): "maximum",
    ("maximum", False): "clamp_min",
    ("minimum", False): "clamp_max",
}

#: Operations whose number comes by a name of its own in the single form.
_VALUE = {"addcdiv", "addcmul"}


def _settled(x: Any) -> Any:
    return x.force() if isinstance(x, Deferred) else x


def _filled(x: Any, like: Handle) -> Any:
    """A public number (a rate that an optimizer keeps in a tensor) as a constant of its tensor's shape."""
    if isinstance(x, Public) and not x.shape and x.tensor is not None:
        return Public(x.session, like.shape, fill=float(x.tensor))
    return x


def _kind(x: Any, place: int) -> Hashable:
    """Operands of one kind may be laid end to end; those that cannot be have a kind of their own."""
    if isinstance(x, Secret):
        return "secret", x.scale, x.format, x.wide, x.stretched, x.zeros
    if isinstance(x, Public):
        return ("public", x.fill) if x.tensor is None else ("tensor", x.tensor.dtype)
    if isinstance(x, (int, float)):
        return "number", x
    return "alone", place


def _joined(xs: Sequence[Any], sizes: Sequence[int]) -> Any:
    first = xs[0]
    if isinstance(first, Secret):
        return concatenate([apply(x, "reshape", (-1,)) for x in xs], 0)
    if isinstance(first, Public) and first.tensor is not None:
        return Public(first.session, (sum(sizes),), tensor=torch.cat([x.dense().reshape(-1) for x in xs]))
    return Public(first.session, (sum(sizes),), fill=first.fill) if isinstance(first, Public) else first


def _apart(x: Handle, shapes: Sequence[tuple[int, ...]]) -> Iterator[Handle]:
    start = 0
    for shape in shapes:
        end = start + math.prod(shape)
        yield apply(apply(x, "slice", 0, start, end, 1), "reshape", shape)
        start = end


def _groups(columns: Sequence[Sequence[Any]]) -> Iterator[list[int]]:
    """Places of the lists whose operands can be laid end to end."""
    found: dict[Hashable, list[int]] = {}
    for place, operands in enumerate(zip(*columns, strict=True)):
        shapes = {x.shape for x in operands if isinstance(x, (Secret, Public))}
        same = len(shapes) == 1 and 0 not in next(iter(shapes))
        key: Hashable = tuple(_kind(x, place) for x in operands) if same else place
        found.setdefault(key, []).append(place)
    yield from found.values()


def _each(single: Callable[..., Handle], columns: Sequence[Sequence[Any]]) -> list[Handle]:
    """``single`` of every row of the columns."""
    columns = [[_settled(x) for x in column] for column in columns]
    columns = [[_filled(x, like) for x, like in zip(column, columns[0], strict=True)] for column in columns]
    out: list[Handle | None] = [None] * len(columns[0])
    for group in _groups(columns):
        if len(group) == 1:
            out[group[0]] = single(*[column[group[0]] for column in columns])
            continue
        shapes = [columns[0][place].shape for place in group]
        sizes = [math.prod(shape) for shape in shapes]
        # a square stays one: the product of a handle with itself
        joined: dict[tuple[int, ...], Any] = {}
        operands = []
        for column in columns:
            parts = [column[place] for place in group]
            key = tuple(id(x) for x in parts)
            if key not in joined:
                joined[key] = _joined(parts, sizes)
            operands.append(joined[key])
        whole = single(*operands)
        for place, part in zip(group, _apart(whole, shapes), strict=True):
            out[place] = part
    return [x for x in out if x is not None]


def _rule(single: Any, name: str, *, in_place: bool) -> Callable[..., Any]:
    """The rule of a list operation from that of the single one."""

    def listwise(first: list[Any], *rest: Any, **named: Any) -> Any:
        columns = [first, *(x if isinstance(x, list) else [x] * len(first) for x in rest)]
        function = TABLE[single].function
        number = columns.pop() if name in _VALUE and len(columns) == 4 else None

        def one(*operands: Any) -> Handle:
            if number is None:
                return function(*operands, **named)  # type: ignore[no-any-return]
            return function(*operands[:-1], value=operands[-1], **named)  # type: ignore[no-any-return]

        results = _each(one, columns if number is None else [*columns, number])
        return Updated(None, {0: results}) if in_place else results

    return listwise


def register() -> None:
    """Add the rows of lists; to be called once all single operations have theirs."""
    for name in _NAMES:
        for suffix in ("", "_"):
            packet = getattr(aten, f"_foreach_{name}{suffix}", None)
            for overload in packet.overloads() if packet is not None else ():
                single = _single(name, overload)
                if single is not None:
                    in_place = bool(suffix)
                    rule = _rule(single, name, in_place=in_place)
                    TABLE[getattr(packet, overload)] = Rule(Kind.VALUE, rule, TABLE[single].indices)


def _single(name: str, overload: str) -> Any:
    name = _OTHER_NAMES.get((name, overload == "List"), name)
    for form in (f"{name}", f"{name}_"):
        packet = getattr(aten, form, None)
        for candidate in _SINGLE.get(overload, ()):
            op = None if packet is None else getattr(packet, candidate, None)
            if isinstance(op, torch._ops.OpOverload) and op in TABLE and TABLE[op].kind in (Kind.VALUE, Kind.INPLACE):
                return op
    return None


def _norms(xs: list[Tensor], ord: float = 2, dtype: Any = None) -> list[Tensor]:
    """The norm of each tensor; one square root for all 2-norms."""
    if ord != 2:
        return [torch.linalg.vector_norm(x, ord) for x in xs]
    return list(torch.stack([(x * x).sum() for x in xs]).sqrt().unbind())


COMPOSED[aten._foreach_norm.Scalar] = _norms
