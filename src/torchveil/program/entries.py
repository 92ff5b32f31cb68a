"""The entries of an instruction's array: how each field is written and read, and what must hold between fields.

The schema has checked types and ranges before anything is read here. Limits come from the role that reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from torch import Tensor

from torchveil.errors import InvalidArgument
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins
from torchveil.program.schema import (
    MAP_ARGUMENTS,
    MAP_SIZES,
    MAPS_WITH_TENSORS,
    NAME_OF,
    OPCODES,
    PRODUCT_OPTIONS,
    fields_of,
)
from torchveil.program.tensors import (
    PLACES,
    RING,
    Buffer,
    Reader,
    elements,
    pack_tensor,
    refuse,
    require_count,
    require_elements,
)
from torchveil.program.wiring import WIRING

Buffers = list[memoryview]


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a role takes.

    elements: of one tensor, and of those that one instruction compares or opens at once; items: the longest list of
    wires, terms or thresholds of one instruction, inputs and outputs of a plan; instructions: of one plan; ancestry:
    steps to find out in which order a plan runs, at worst its length times that of its longest chain of linear
    instructions.
    """

    elements: int = 1 << 31
    items: int = 1 << 20
    instructions: int = 1 << 17
    ancestry: int = 1 << 22


DEFAULT_LIMITS = DecodeLimits()


# --- fields that are more than numbers -------------------------------------------------------------------------------


def _pack_argument(x: Any, buffers: Buffers) -> Any:
    if isinstance(x, Tensor):
        return pack_tensor(x, buffers)
    return tuple(_pack_argument(part, buffers) for part in x) if isinstance(x, (tuple, list)) else x


def _pack_map(linear_map: LinearMap, buffers: Buffers) -> tuple[Any, ...]:
    name, args = linear_map.name, linear_map.args
    arguments = MAP_ARGUMENTS[name]
    if name in MAPS_WITH_TENSORS:
        args = tuple(_pack_argument(x, buffers) for x in args)
    left_out = arguments[len(args) :]
    return (name, *args, *[entry.default for entry in left_out]) if left_out else (name, *args)


def _unpack_map(message: Any, reader: Reader, limits: DecodeLimits) -> LinearMap:
    name = NAME_OF[type(message)]
    args = msgspec.structs.astuple(message)
    for k in MAP_SIZES[name]:
        require_elements(args[k], limits.elements)
    if name in MAPS_WITH_TENSORS:
        # the last of two tensors are weights
        allowed = [PLACES] * (len(args) - 1) + [RING if name == "taps" else PLACES]
        args = tuple(_unpack_argument(x, reader, kinds) for x, kinds in zip(args, allowed, strict=True))
    return LinearMap(name, args)


def _unpack_argument(x: Any, reader: Reader, allowed: frozenset[str]) -> Any:
    if isinstance(x, Struct):
        return reader.tensor(x, allowed)  # type: ignore[arg-type]
    return tuple(_unpack_argument(part, reader, allowed) for part in x) if isinstance(x, tuple) else x


def _pack_value(value: Any, buffers: Buffers) -> Any:
    return pack_tensor(value, buffers) if isinstance(value, Tensor) else value


def _pack_product(i: Any, _buffers: Buffers) -> tuple[Any, ...]:
    options, wanted = i.options, PRODUCT_OPTIONS[i.function]
    if len(options) != len(wanted):
        raise KeyError(i.function)
    return (i.function, *[options[name] for name in wanted])


class _Special(NamedTuple):
    """A field that needs more than msgpack: how it is written, and the fields of the instruction that it becomes."""

    pack: Callable[[Any, Buffers], Any]
    unpack: Callable[[Any, Reader, DecodeLimits], tuple[Any, ...]]


_SPECIAL: dict[str, _Special] = {
    "map": _Special(lambda i, b: _pack_map(i.map, b), lambda m, r, most: (_unpack_map(m, r, most),)),
    "path": _Special(
        lambda i, b: tuple(_pack_map(step, b) for step in i.path),
        lambda path, r, most: (tuple(_unpack_map(step, r, most) for step in path),),
    ),
    "value": _Special(lambda i, b: _pack_value(i.value, b), lambda m, r, _most: (_unpack_argument(m, r, RING),)),
    "function": _Special(_pack_product, lambda m, _r, _most: (NAME_OF[type(m)], msgspec.structs.asdict(m))),
}

# --- rules between the fields of an instruction ----------------------------------------------------------------------


def _some(*lists: tuple[Any, ...]) -> bool:
    """Whether lists are as long as one another and not empty."""
    return len({len(x) for x in lists}) == 1 and bool(lists[0])


def _compare(i: ins.Compare) -> bool:
    places = range(len(i.thresholds))
    return _some(i.outs, i.outputs) and bool(i.thresholds) and all(k in places for ks, _ in i.outputs for k in ks)


#: What must hold between fields; a kind that is not here has no such rule.
_RULES: dict[type[ins.Instruction], Callable[[Any], bool]] = {
    ins.Constant: lambda i: not isinstance(i.value, Tensor) or i.value.shape == i.shape,
    ins.Concatenate: lambda i: bool(i.xs),
    ins.Combine: lambda i: bool(i.terms),
    ins.Open: lambda i: _some(i.xs, i.shapes) and len(i.bits) in (0, len(i.xs)) and 0 not in i.bits,
    ins.Round: lambda i: 0 < i.bits < 64,
    ins.Lift: lambda i: 0 < i.bits <= 16,  # what travels of it are words
    ins.Compare: _compare,
    ins.Equal: lambda i: _some(i.outs, i.values),
    ins.Winner: lambda i: (
        len(i.outs) == (1 if i.reach is None else 2) and -len(i.shape) <= i.dim < len(i.shape) and i.shape[i.dim] > 1
    ),
    ins.WeighBits: lambda i: _some(i.bits, i.weights),
    ins.Series: lambda i: _some(i.frequencies, i.cosines, i.sines),
}

#: How many elements are worked on at once, where they are more than those of the shape.
_WORK: dict[type[ins.Instruction], Callable[[Any], int]] = {
    ins.Open: lambda i: sum(map(elements, i.shapes)),
    ins.Compare: lambda i: elements(i.shape) * max(len(i.thresholds), len(i.outs)),
    ins.Equal: lambda i: elements(i.shape) * len(i.values),
    ins.Winner: lambda i: elements(i.shape) * (i.shape[i.dim] - 1),
    ins.Series: lambda i: elements(i.shape) * len(i.frequencies),
}

# --- one row per kind ------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """How a kind is written and read; positions are those of the fields as they travel."""

    kind: type[ins.Instruction]
    values: Callable[[Any], Any]
    special: tuple[tuple[int, _Special], ...]
    shapes: tuple[int, ...]
    shape_lists: tuple[int, ...]
    lists: tuple[int, ...]
    rule: Callable[[Any], bool] | None
    work: Callable[[Any], int] | None


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda i: (get(i),)


def _row(kind: type[ins.Instruction]) -> Row:
    names = fields_of(kind)
    read, defined = WIRING[kind]
    wires = {**read, **defined}
    lists = {"thresholds", "values", "outputs", "frequencies", "cosines", "sines", "weights", "shapes"}
    return Row(
        kind,
        _getter(names),
        tuple((k, _SPECIAL[name]) for k, name in enumerate(names) if name in _SPECIAL and name not in wires),
        tuple(k for k, name in enumerate(names) if name == "shape"),
        tuple(k for k, name in enumerate(names) if name == "shapes"),
        tuple(k for k, name in enumerate(names) if wires.get(name) in ("many", "terms") or name in lists),
        _RULES.get(kind),
        _WORK.get(kind),
    )


ROWS = {kind: _row(kind) for kind in OPCODES}
_NUMBERS = {kind: number for number, kind in enumerate(OPCODES)}

_ENCODE = msgspec.msgpack.Encoder().encode


def pack(i: ins.Instruction, buffers: Buffers) -> tuple[Any, ...]:
    """The entries of an instruction's array. Raises ``InvalidArgument`` for what is in no table."""
    kind = type(i)
    try:
        row = ROWS[kind]
        values = row.values(i)
        if row.special:
            values = list(values)
            for k, special in row.special:
                values[k] = special.pack(i, buffers)
        return (_NUMBERS[kind], *values)
    except (KeyError, AttributeError) as error:
        raise InvalidArgument(
            "a map, product or argument that no message can hold", remedy="add it to the tables of program/schema.py"
        ) from error


def unpack(row: Row, message: Struct, reader: Reader, limits: DecodeLimits) -> ins.Instruction:
    """The instruction of a message whose types are right."""
    values = msgspec.structs.astuple(message)
    for k in row.shapes:
        require_elements(values[k], limits.elements)
    for k in row.lists:
        if len(values[k]) > limits.items:
            refuse("a longer list than allowed")
    for k in row.shape_lists:
        for shape in values[k]:
            require_elements(shape, limits.elements)
    if row.special:
        fields: list[Any] = []
        at = 0
        for k, special in row.special:
            fields += values[at:k]
            fields += special.unpack(values[k], reader, limits)
            at = k + 1
        i = row.kind(*fields, *values[at:])
    else:
        i = row.kind(*values)
    if row.rule is not None and not row.rule(i):
        refuse("fields that do not fit each other")
    if row.work is not None:
        require_count(row.work(i), limits.elements)
    return i


def written(entries: Any) -> bytes:
    try:
        return _ENCODE(entries)
    except (TypeError, OverflowError) as error:
        raise InvalidArgument(
            f"a number or argument that no message can hold: {error}", remedy="keep public numbers within 64 bits"
        ) from error


def read(decoder: Any, structure: Buffer) -> Any:
    """The message in ``structure``, if it is written the one way in which it is written here."""
    try:
        message = decoder.decode(structure)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        refuse("it does not fit the schema")
    if _ENCODE(message) != structure:
        refuse("it is not in its shortest form")
    return message
