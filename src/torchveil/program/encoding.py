"""Instructions and plans as bytes, for a controller that sends them to roles on other machines.

An encoded instruction is a structure, canonical msgpack of (number of its kind, fields in order), and buffers, the
numbers of its public tensors (``tensors``). Equal instructions give equal bytes, and bytes that were not written the one
way in which ``encode`` writes them are refused: a digest of the bytes is a digest of the instruction.

What is decoded came from outside. Everything is checked against the schema, the limits and the rules below before it
becomes an instruction; what does not fit raises ``MalformedMessage`` without saying any of the data. What only shows on
values, like a place outside of a tensor, shows when the instruction runs.

A plan travels as its instructions, inputs and outputs alone. When each instruction starts, what is numbered, dealt and
freed is worked out by everybody who has it (``plan.scheduled``), so that nothing of it has to be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from operator import attrgetter
from typing import Any, NamedTuple, Union

import msgspec
from msgspec import Struct
from torch import Tensor

from torchveil.errors import InvalidArgument, MalformedMessage, PlanError
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins
from torchveil.program.digest import StreamDigest
from torchveil.program.plan import Nature, Plan, scheduled
from torchveil.program.public_view import plan_without_public, without_public
from torchveil.program.schema import (
    MAP_ARGUMENTS,
    MAP_SIZES,
    MAPS_WITH_TENSORS,
    NAME_OF,
    OPCODES,
    PRODUCT_OPTIONS,
    Given,
    Slot,
    Wire,
    fields_of,
    messages,
)
from torchveil.program.tensors import PLACES, RING, Buffer, Reader, pack_tensor, refuse, require_elements
from torchveil.program.wiring import WIRING, defines, reads, renamed

Buffers = list[memoryview]


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a role takes. elements: of one tensor; items: wires, thresholds, terms of one instruction; instructions: of
    one plan; ancestry: what may be looked at to find out in which order a plan runs (its length times the length of
    its chains of linear instructions, at worst)."""

    elements: int = 1 << 31
    items: int = 1 << 20
    instructions: int = 1 << 17
    ancestry: int = 1 << 24


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
    ins.Lift: lambda i: 0 < i.bits < 64,
    ins.Compare: _compare,
    ins.Equal: lambda i: _some(i.outs, i.values),
    ins.Winner: lambda i: (
        len(i.outs) == (1 if i.reach is None else 2) and -len(i.shape) <= i.dim < len(i.shape) and i.shape[i.dim] > 1
    ),
    ins.WeighBits: lambda i: _some(i.bits, i.weights),
    ins.Series: lambda i: _some(i.frequencies, i.cosines, i.sines),
}

# --- one row per kind ------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """How a kind is written and read; positions are those of the fields as they travel."""

    kind: type[ins.Instruction]
    values: Callable[[Any], Any]
    special: tuple[tuple[int, _Special], ...]
    shapes: tuple[int, ...]
    shape_lists: tuple[int, ...]
    lists: tuple[int, ...]
    rule: Callable[[Any], bool] | None


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda i: (get(i),)


def _row(kind: type[ins.Instruction]) -> _Row:
    names = fields_of(kind)
    read, defined = WIRING[kind]
    wires = {**read, **defined}
    lists = {"thresholds", "values", "outputs", "frequencies", "cosines", "sines", "weights", "shapes"}
    return _Row(
        kind,
        _getter(names),
        tuple((k, _SPECIAL[name]) for k, name in enumerate(names) if name in _SPECIAL and name not in wires),
        tuple(k for k, name in enumerate(names) if name == "shape"),
        tuple(k for k, name in enumerate(names) if name == "shapes"),
        tuple(k for k, name in enumerate(names) if wires.get(name) in ("many", "terms") or name in lists),
        _RULES.get(kind),
    )


_ROWS = {kind: _row(kind) for kind in OPCODES}
_NUMBERS = {kind: number for number, kind in enumerate(OPCODES)}

_ENCODE = msgspec.msgpack.Encoder().encode


def _packed(i: ins.Instruction, buffers: Buffers) -> tuple[Any, ...]:
    """The entries of an instruction's array."""
    kind = type(i)
    row = _ROWS[kind]
    values = row.values(i)
    if row.special:
        values = list(values)
        for k, special in row.special:
            values[k] = special.pack(i, buffers)
    return (_NUMBERS[kind], *values)


def _unpacked(row: _Row, message: Struct, reader: Reader, limits: DecodeLimits) -> ins.Instruction:
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
    return i


def _written(entries: Any) -> bytes:
    try:
        return _ENCODE(entries)
    except (TypeError, OverflowError) as error:
        raise InvalidArgument(
            f"a number or argument that no message can hold: {error}", remedy="keep public numbers within 64 bits"
        ) from error


def _read(decoder: Any, structure: Buffer) -> Any:
    """The message in ``structure``, if it is written the one way in which it is written here."""
    try:
        message = decoder.decode(structure)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        refuse("it does not fit the schema")
    if _ENCODE(message) != structure:
        refuse("it is not in its shortest form")
    return message


# --- instructions ----------------------------------------------------------------------------------------------------

_STREAM = {made: _ROWS[kind] for kind, made in messages(Wire).items()}
_STREAM_DECODER = msgspec.msgpack.Decoder(Union[tuple(_STREAM)])


def encode(i: ins.Instruction) -> tuple[bytes, Buffers]:
    """(structure, buffers) of an instruction of a stream. Buffers share the memory of its public tensors.

    Raises ``InvalidArgument`` for a number beyond 64 bits, or an argument that no message can hold.
    """
    buffers: Buffers = []
    try:
        entries = _packed(i, buffers)
    except (KeyError, AttributeError) as error:
        raise InvalidArgument("a map, product or argument that no message can hold", remedy="see schema.py") from error
    return _written(entries), buffers


def decode(structure: Buffer, buffers: Sequence[Buffer] = (), limits: DecodeLimits = DEFAULT_LIMITS) -> ins.Instruction:
    """The instruction that ``encode`` wrote.

    Tensors share the memory of buffers that are writable and aligned, which must therefore stay as they are; others
    are copied. Raises ``MalformedMessage`` for anything but what ``encode`` writes.
    """
    message = _read(_STREAM_DECODER, structure)
    reader = Reader(buffers, limits.elements)
    i = _unpacked(_STREAM[type(message)], message, reader, limits)
    reader.finish()
    outs = defines(i)
    if len(outs) > 1 and len(set(outs)) != len(outs):
        refuse("a wire that is defined twice")
    return i


# --- plans -----------------------------------------------------------------------------------------------------------

#: Kinds that no plan holds.
_NEVER_PLANNED = (ins.Input, ins.Reveal, ins.Free)

_PLANNED = {
    made: _ROWS[kind]
    for kind, made in messages(Slot, tuple(kind for kind in OPCODES if kind not in _NEVER_PLANNED)).items()
}


class _PlanMessage(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    instructions: tuple[Union[tuple(_PLANNED)], ...]  # type: ignore[misc]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]


_PLAN_DECODER = msgspec.msgpack.Decoder(_PlanMessage)


def _canonical(plan: Plan) -> tuple[list[ins.Instruction], tuple[int, ...], tuple[int, ...]]:
    """Instructions, inputs and outputs on slots -1, -2, ...: inputs first, then as they are defined."""
    slots: dict[int, int] = {}
    for x in (*plan.inputs, *(x for i in plan.instructions for x in defines(i))):
        slots.setdefault(x, -1 - len(slots))
    instructions = [renamed(i, slots.__getitem__) for i in plan.instructions]
    return instructions, tuple(slots[x] for x in plan.inputs), tuple(slots[x] for x in plan.outputs)


def encode_plan(plan: Plan) -> tuple[bytes, Buffers]:
    """(structure, buffers) of a plan. Its slots are renamed to -1, -2, ...: two recordings of one program give the same.

    Raises as ``encode`` does.
    """
    buffers: Buffers = []
    instructions, inputs, outputs = _canonical(plan)
    try:
        entries = [_packed(i, buffers) for i in instructions]
    except (KeyError, AttributeError) as error:
        raise InvalidArgument("a map, product or argument that no message can hold", remedy="see schema.py") from error
    return _written((entries, inputs, outputs)), buffers


def decode_plan(
    structure: Buffer, buffers: Sequence[Buffer], nature: Nature, limits: DecodeLimits = DEFAULT_LIMITS
) -> Plan:
    """The plan that ``encode_plan`` wrote, scheduled anew by what the gates say (``nature``).

    ``sources`` count from 0: where an instruction was recorded is the controller's business. Raises
    ``MalformedMessage`` unless every slot is defined once, before it is read, and named in order.
    """
    message = _read(_PLAN_DECODER, structure)
    if len(message.instructions) > limits.instructions or max(len(message.inputs), len(message.outputs)) > limits.items:
        refuse("a longer plan than allowed")
    reader = Reader(buffers, limits.elements)
    instructions = [_unpacked(_PLANNED[type(i)], i, reader, limits) for i in message.instructions]
    reader.finish()
    known = 0
    for x in message.inputs:
        known = _defined(x, known)
    for i in instructions:
        if any(x < -known for x in reads(i)):
            refuse("a slot that is read before it is defined")
        for x in defines(i):
            known = _defined(x, known)
    if any(x < -known for x in message.outputs):
        refuse("an output that nothing defines")
    try:
        return scheduled(instructions, message.inputs, message.outputs, nature, limits.ancestry)
    except PlanError:
        refuse("a plan that takes too long to put into order")


def _defined(x: int, known: int) -> int:
    """How many slots are defined once x is, which must be the next one."""
    if x != -1 - known:
        refuse("slots out of order")
    return known + 1


def plan_digest(plan: Plan, *, public: bool = False) -> bytes:
    """SHA-256 (32 bytes) of a plan as the provider gets it, which all roles can work out; with ``public`` of all of it,
    its public tensors and constants included, which the parties know: what a plan computes depends on them."""
    structure, buffers = encode_plan(plan if public else plan_without_public(plan))
    digest = StreamDigest()
    digest.update(structure, buffers)
    return sha256(b"torchveil plan 1" + digest.full).digest()


__all__ = [
    "DEFAULT_LIMITS",
    "DecodeLimits",
    "MalformedMessage",
    "StreamDigest",
    "decode",
    "decode_plan",
    "encode",
    "encode_plan",
    "plan_digest",
    "plan_without_public",
    "without_public",
]
