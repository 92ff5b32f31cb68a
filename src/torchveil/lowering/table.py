"""The table itself: which function an aten op becomes, and how its result reaches torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import torch

from torchveil.functions.arithmetic import refuse_plain
from torchveil.handle import Bit, Deferred, Handle, Public, Secret

aten = torch.ops.aten
F = TypeVar("F", bound=Callable[..., Any])


class Kind(Enum):
    """How the result of a rule reaches torch."""

    VALUE = "a new tensor"
    VIEW = "an alias of the first argument; the function returns the map"
    INPLACE = "written into the first argument"
    RESHAPE = "the first argument becomes another view of its storage; the function returns the map"


@dataclass(frozen=True, slots=True)
class Rule:
    """A row: the function on handles, and what it takes.

    ``indices``: plain whole numbers and truth values are public places. ``masks``: plain truth values are public masks.
    ``deferrable``: an unread operand may wait.
    """

    kind: Kind
    function: Callable[..., Any]
    indices: bool = False
    deferrable: bool = False
    masks: bool = False


@dataclass(frozen=True, slots=True)
class Updated:
    """A result together with what the op writes into its arguments, by position: a value, or one for each of a list."""

    result: Any
    writes: dict[int, Any]


TABLE: dict[Any, Rule] = {}

#: Ops that are written in torch itself: functions of tensors, whose own operations come back to the table.
COMPOSED: dict[Any, Callable[..., Any]] = {}


def lowers(*ops: Any, indices: bool = False, deferrable: bool = False, masks: bool = False) -> Callable[[F], F]:
    """Register a function for functional ops; for each, its in-place form follows when torch has one."""

    def register(function: F) -> F:
        for op in ops:
            TABLE[op] = Rule(Kind.VALUE, function, indices, deferrable, masks)
            inplace = _inplace_form(op)
            if inplace is not None and inplace not in TABLE:
                TABLE[inplace] = Rule(Kind.INPLACE, function, indices, masks=masks)
        return function

    return register


def writes(*ops: Any, indices: bool = False) -> Callable[[F], F]:
    """Register a function whose result is written into the first argument."""

    def register(function: F) -> F:
        for op in ops:
            TABLE[op] = Rule(Kind.INPLACE, function, indices)
        return function

    return register


def views(*ops: Any) -> Callable[[F], F]:
    """Register a function that returns the linear map (or a list of them) of a view op, and its in-place form."""

    def register(function: F) -> F:
        for op in ops:
            TABLE[op] = Rule(Kind.VIEW, function)
            inplace = _inplace_form(op)
            if inplace is not None:
                TABLE[inplace] = Rule(Kind.RESHAPE, function)
        return function

    return register


def composes(*ops: Any) -> Callable[[F], F]:
    """Register a function of *tensors* for functional ops, and with it their in-place forms."""

    def register(function: F) -> F:
        def written(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return x.copy_(function(x, *args, **kwargs))

        for op in ops:
            COMPOSED[op] = function
            inplace = _inplace_form(op)
            if inplace is not None and inplace not in TABLE:
                COMPOSED[inplace] = written
        return function

    return register


def _inplace_form(op: Any) -> Any:
    if str(op._schema.arguments[0].type) != "Tensor":
        return None  # pow_.Scalar is not the form of pow.Scalar, whose base is a number
    packet = getattr(aten, f"{op._schema.name.split('::')[1]}_", None)
    return None if packet is None else getattr(packet, op._overloadname, None)


def session_of(*values: Any) -> Any:
    """The session of the first handle among the arguments."""
    for value in values:
        if isinstance(value, (Secret, Bit, Public, Deferred)):
            return value.session
    raise TypeError("no handle among the arguments")


def operand(x: Any, like: Handle) -> Handle:
    """A handle or a Python number as a handle."""
    if isinstance(x, (Secret, Bit, Public, Deferred)):
        return x
    if isinstance(x, torch.Tensor) and x.dim():
        raise refuse_plain(like.session.operation)
    return Public(like.session, (), fill=float(x))
