"""The structure of a state as typed nodes: dictionaries, lists, numbers, texts, and where a tensor belongs.

What ``state_dict()`` of modules, optimizers and schedulers gives goes in and comes out the same: kinds of containers,
orders, keys that are no texts, infinities, and the ``_metadata`` in which modules keep their versions.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from torchveil.errors import CheckpointInvalid, InvalidArgument

#: A tree that is deeper has a loop, or is none that anybody wrote.
_DEPTH = 100

_SEQUENCES: dict[type, Literal["list", "tuple", "size"]] = {list: "list", tuple: "tuple", torch.Size: "size"}
_MAPPINGS: dict[type, Literal["dict", "ordered", "counter"]] = {
    dict: "dict",
    OrderedDict: "ordered",
    Counter: "counter",
}
_MAKERS: dict[str, Callable[[Any], Any]] = {name: kind for kind, name in (_SEQUENCES | _MAPPINGS).items()}


class _Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all nodes."""


class Nothing(_Node, tag="none", frozen=True):
    """None."""


class Truth(_Node, tag="bool", frozen=True):
    """True or False."""

    value: bool


class Whole(_Node, tag="int", frozen=True):
    """An integer."""

    value: int


class Real(_Node, tag="float", frozen=True):
    """A float as ``float.hex`` writes it: exact, infinities and nan included."""

    value: str


class Text(_Node, tag="str", frozen=True):
    """A text."""

    value: str


class Raw(_Node, tag="bytes", frozen=True):
    """Bytes."""

    value: bytes


class Dtype(_Node, tag="dtype", frozen=True):
    """A dtype of torch, by name."""

    value: str


class Leaf(_Node, tag="tensor", frozen=True):
    """A tensor, by its key; one object met twice has one key."""

    key: str


class Sequence(_Node, tag="sequence", frozen=True):
    """A list, a tuple or a ``torch.Size``."""

    kind: Literal["list", "tuple", "size"]
    items: list[Node]


class Mapping(_Node, tag="mapping", frozen=True):
    """A dictionary; ``metadata`` is what modules attach to theirs."""

    kind: Literal["dict", "ordered", "counter"]
    items: list[tuple[Node, Node]]
    metadata: Node | None = None


Node = Nothing | Truth | Whole | Real | Text | Raw | Dtype | Leaf | Sequence | Mapping

_SIMPLE: dict[type, Callable[[Any], Node]] = {
    type(None): lambda _: Nothing(),
    bool: Truth,
    int: Whole,
    str: Text,
    bytes: Raw,
    torch.dtype: lambda x: Dtype(str(x).removeprefix("torch.")),
}


def take_apart(x: Any, leaf: Callable[[Tensor, str], str], place: str = "state", depth: int = 0) -> Node:
    """The node of ``x``; ``leaf`` gives a tensor its key.

    Raises ``InvalidArgument`` naming the place of what is neither a container, a number, a text nor a tensor.
    """
    if depth > _DEPTH:
        raise InvalidArgument(f"{place} is nested more than {_DEPTH} deep", op="save", remedy="does it hold itself?")

    def inner(y: Any, at: str) -> Node:
        return take_apart(y, leaf, f"{place}{at}", depth + 1)

    kind = type(x)
    if kind in _SIMPLE:
        return _SIMPLE[kind](x)
    if isinstance(x, float):  # numpy's float64 is one too
        return Real(float(x).hex())
    if isinstance(x, Tensor):
        return Leaf(leaf(x, place))
    if kind in _SEQUENCES:
        return Sequence(_SEQUENCES[kind], [inner(y, f"[{k}]") for k, y in enumerate(x)])
    if kind in _MAPPINGS:
        items = [(inner(key, f" key {key!r}"), inner(y, f"[{key!r}]")) for key, y in x.items()]
        metadata = getattr(x, "_metadata", None)
        return Mapping(_MAPPINGS[kind], items, None if metadata is None else inner(metadata, "._metadata"))
    raise InvalidArgument(
        f"{place} is a {kind.__module__}.{kind.__qualname__}, which could not be made again",
        op="save",
        remedy="save its state_dict() or its numbers; containers are dict, OrderedDict, Counter, list, tuple",
    )


def put_together(node: Node, tensors: dict[str, Tensor]) -> Any:
    """What ``take_apart`` was given, with the tensors of these keys."""
    match node:
        case Nothing():
            return None
        case Truth() | Whole() | Text() | Raw():
            return node.value
        case Real():
            return float.fromhex(node.value)
        case Dtype():
            found = getattr(torch, node.value, None)
            if not isinstance(found, torch.dtype):
                raise CheckpointInvalid(f"this torch has no dtype {node.value}", remedy="use the torch that saved it")
            return found
        case Leaf():
            return tensors[node.key]
        case Sequence():
            return _MAKERS[node.kind]([put_together(y, tensors) for y in node.items])
        case Mapping():
            out = _MAKERS[node.kind](
                {put_together(key, tensors): put_together(y, tensors) for key, y in node.items},
            )
            if node.metadata is not None:
                out._metadata = put_together(node.metadata, tensors)
            return out


__all__ = ["Leaf", "Node", "put_together", "take_apart"]
