"""The form of instructions in messages: for each kind its number, and for each field what may stand there.

Everything is a msgpack array whose first entry says which one it is: the number of an instruction, the name of a linear
map or of a product. ``msgspec`` checks types, ranges and lengths before anything of ours looks at a value. Entries that
torch lets one leave out are always written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, defstruct

from torchveil.program import instructions as ins
from torchveil.program.tensors import MOST_DIMENSIONS, Filled, Number, Size, Sizes, Stored
from torchveil.program.wiring import WIRING

#: Place in this tuple is the number that an instruction has in messages. New kinds are added at the end.
OPCODES: tuple[type[ins.Instruction], ...] = (
    ins.Input, ins.Constant, ins.Map, ins.Concatenate, ins.Combine, ins.AddPublic, ins.Write, ins.Open, ins.Round,
    ins.Lift, ins.Bilinear, ins.PublicProduct, ins.Truncate, ins.Compare, ins.Equal, ins.Winner, ins.MapBit,
    ins.BitToArithmetic, ins.WeighBits, ins.Select, ins.Exponential, ins.Series, ins.Refresh, ins.Reveal, ins.Free,
)  # fmt: skip

#: Identifiers of a stream, and of a plan (its slots).
Wire = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Slot = Annotated[int, Meta(ge=-(1 << 63), le=-1)]

_Positive = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
_BitCount = Annotated[int, Meta(ge=0, le=64)]
_Dimension = Annotated[int, Meta(ge=-MOST_DIMENSIONS, le=MOST_DIMENSIONS)]
_Dimensions = Annotated[tuple[_Dimension, ...], Meta(max_length=MOST_DIMENSIONS)]
#: A size, or -1 for "what is left" or "as it is".
_OpenSizes = Annotated[tuple[Annotated[int, Meta(ge=-1, le=(1 << 63) - 1)], ...], Meta(max_length=MOST_DIMENSIONS)]
_Numbers = tuple[Number, ...]
_Shifts = Annotated[_Numbers, Meta(max_length=MOST_DIMENSIONS)]
_Pads = Annotated[tuple[Annotated[int, Meta(ge=-(1 << 31), le=1 << 31)], ...], Meta(max_length=2 * MOST_DIMENSIONS)]
_Tensor = Stored | Filled
_Indices = Annotated[tuple[Stored | Filled | None, ...], Meta(max_length=MOST_DIMENSIONS)]
_Spatial = Annotated[tuple[Size, ...], Meta(max_length=8)]
_Steps = Annotated[tuple[_Positive, ...], Meta(max_length=8)]


class Given(NamedTuple):
    """An argument that may be left out, and what it is then."""

    type: Any
    default: Any


#: name of a linear map -> its arguments. As ``kernels.linear_maps.MAPS``.
MAP_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "view": (_OpenSizes,),
    "reshape": (_OpenSizes,),
    "_unsafe_view": (_OpenSizes,),
    "permute": (_Dimensions,),
    "transpose": (_Dimension, _Dimension),
    "t": (),
    "expand": (_OpenSizes,),
    "select": (_Dimension, Number),
    "slice": (Given(_Dimension, 0), Given(Number | None, None), Given(Number | None, None), Given(_Positive, 1)),
    "unsqueeze": (_Dimension,),
    "squeeze": (),
    "squeeze_dim": (_Dimension,),
    "squeeze_dims": (_Dimensions,),
    "diagonal": (Given(Number, 0), Given(_Dimension, 0), Given(_Dimension, 1)),
    "unfold": (_Dimension, Size, _Positive),
    "alias": (),
    "clone": (),
    "contiguous": (),
    "flip": (_Dimensions,),
    "roll": (_Shifts, Given(_Dimensions, ())),
    "repeat": (Sizes,),
    "pad": (_Pads,),
    "tril": (Given(Number, 0),),
    "triu": (Given(Number, 0),),
    "index": (_Indices,),
    "index_select": (_Dimension, _Tensor),
    "gather": (_Dimension, _Tensor),
    "sum": (_Dimensions, bool),
    "cumsum": (_Dimension,),
    "scatter_select": (Sizes, _Dimension, Number),
    "scatter_slice": (Sizes, _Dimension, Number | None, Number | None, _Positive),
    "scatter_index": (Sizes, _Indices),
    "scatter_gather": (Sizes, _Dimension, _Tensor),
    "windows": (_Steps, _Steps, _Steps),
    "scatter_windows": (_Spatial, _Steps, _Steps, _Steps),
    "taps": (_Dimension, _Tensor, _Tensor),
}

#: Maps that hold tensors; arguments that are sizes of what is made.
MAPS_WITH_TENSORS = frozenset(
    name for name, types in MAP_ARGUMENTS.items() if any(entry in (_Tensor, _Indices) for entry in types)
)
MAP_SIZES: dict[str, tuple[int, ...]] = {
    name: tuple(k for k, entry in enumerate(types) if entry in (Sizes, _OpenSizes, _Spatial))
    for name, types in MAP_ARGUMENTS.items()
}

_CONVOLUTION: dict[str, Any] = {"stride": _Steps, "padding": _Spatial, "dilation": _Steps, "groups": _Positive}

#: name of a product -> its options. As ``kernels.BILINEAR``.
PRODUCT_OPTIONS: dict[str, dict[str, Any]] = {
    "mul": {},
    "mm": {},
    "bmm": {},
    "conv2d": _CONVOLUTION,
    "conv2d_weight_grad": {"kernel": _Steps, **_CONVOLUTION},
    "conv2d_input_grad": {"size": _Spatial, **_CONVOLUTION},
    "conv3d": _CONVOLUTION,
    "conv3d_weight_grad": {"kernel": _Steps, **_CONVOLUTION},
    "conv3d_input_grad": {"size": _Spatial, **_CONVOLUTION},
}


def any_of(classes: Iterable[Any]) -> Any:
    """The union of message classes; msgspec finds out by their first entry which one it is."""
    return reduce(or_, classes)


def _named(names: dict[str, list[tuple[str, Any]]]) -> dict[str, Any]:
    return {
        name: defstruct(f"_{name}", fields, tag=name, array_like=True, frozen=True, forbid_unknown_fields=True)
        for name, fields in names.items()
    }


_MAPS = _named(
    {
        name: [(f"a{k}", entry.type if isinstance(entry, Given) else entry) for k, entry in enumerate(entries)]
        for name, entries in MAP_ARGUMENTS.items()
    }
)
_PRODUCTS = _named({name: list(options.items()) for name, options in PRODUCT_OPTIONS.items()})


#: Class of a map or product in a message -> its name.
NAME_OF: dict[type, str] = {made: name for table in (_MAPS, _PRODUCTS) for name, made in table.items()}

#: What a field that holds no identifier may be, by its name.
_FIELDS: dict[str, Any] = {
    "again": bool,
    "bits": _BitCount,
    "constant": Number,
    "cosines": _Numbers,
    "dim": _Dimension,
    "divisor": _Positive,
    "factor": Number,
    "factor_bits": _BitCount,
    "flip": bool,
    "follow": bool,
    "frequencies": _Numbers,
    "function": any_of(_PRODUCTS.values()),
    "left": bool,
    "map": any_of(_MAPS.values()),
    "mask_bits": _BitCount,
    "negate": bool,
    "outputs": tuple[tuple[tuple[Size, ...], bool], ...],
    "path": Annotated[tuple[any_of(_MAPS.values()), ...], Meta(max_length=1024)],  # type: ignore[misc]
    "reach": Number | None,
    "receiver": Annotated[str, Meta(min_length=1, max_length=256)],
    "shape": Sizes,
    "shapes": tuple[Sizes, ...],
    "sines": _Numbers,
    "thresholds": _Numbers,
    "unit": _Positive,
    "value": _Tensor,
    "values": _Numbers,
    "weights": _Numbers,
    "zeros": Annotated[int, Meta(ge=0, le=60)],
}
_EXCEPTIONS: dict[tuple[type[ins.Instruction], str], Any] = {
    (ins.Open, "bits"): tuple[_BitCount, ...],
    (ins.Constant, "value"): Number | Stored | Filled,
}

#: Fields that travel as a part of another one.
_WITHIN = {"options": "function"}


def fields_of(kind: type[ins.Instruction]) -> tuple[str, ...]:
    """The fields of an instruction as they travel, in order."""
    return tuple(field.name for field in dataclasses.fields(kind) if field.name not in _WITHIN)


def _type_of(kind: type[ins.Instruction], name: str, identifier: Any) -> Any:
    read, defined = WIRING[kind]
    how = {**read, **defined}.get(name)
    if how is None:
        return _EXCEPTIONS.get((kind, name)) or _FIELDS[name]
    forms: dict[str, Any] = {
        "one": identifier,
        "maybe": identifier | None,
        "many": tuple[identifier, ...],
        "terms": tuple[tuple[identifier, Number], ...],
    }
    return forms[how]


def messages(identifier: Any, kinds: tuple[type[ins.Instruction], ...] = OPCODES) -> dict[type, Any]:
    """For each kind of instruction the class of its message, with identifiers of the given type."""
    return {
        kind: defstruct(
            f"_{kind.__name__}",
            [(name, _type_of(kind, name, identifier)) for name in fields_of(kind)],
            tag=OPCODES.index(kind),
            array_like=True,
            frozen=True,
            forbid_unknown_fields=True,
        )
        for kind in kinds
    }
