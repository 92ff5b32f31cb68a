"""Which wires an instruction reads and defines: a table, one row per kind of instruction.

Everything that treats a program as a graph (recorded plans, liveness) looks here and nowhere else. Wires and bit wires
share one space of identifiers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torchveil.program import instructions as ins


def _one(x: int) -> tuple[int, ...]:
    return (x,)


def _maybe(x: int | None) -> tuple[int, ...]:
    return () if x is None else (x,)


def _many(xs: tuple[int, ...]) -> tuple[int, ...]:
    return xs


def _terms(terms: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    return tuple(x for x, _ in terms)


#: How a field holds identifiers, and how it is written with other ones.
_SHAPES: dict[str, tuple[Callable[[Any], tuple[int, ...]], Callable[[Any, Callable[[int], int]], Any]]] = {
    "one": (_one, lambda x, new: new(x)),
    "maybe": (_maybe, lambda x, new: None if x is None else new(x)),
    "many": (_many, lambda xs, new: tuple(new(x) for x in xs)),
    "terms": (_terms, lambda terms, new: tuple((new(x), factor) for x, factor in terms)),
}

_OUT = {"out": "one"}
_X = {"x": "one"}

#: kind of instruction -> (fields read, fields defined)
WIRING: dict[type[ins.Instruction], tuple[dict[str, str], dict[str, str]]] = {
    ins.Input: ({}, _OUT),
    ins.Constant: ({}, _OUT),
    ins.Map: (_X, _OUT),
    ins.Concatenate: ({"xs": "many"}, _OUT),
    ins.Combine: ({"terms": "terms"}, _OUT),
    ins.AddPublic: (_X, _OUT),
    ins.Write: ({"base": "one", "value": "one"}, _OUT),
    ins.Open: ({"xs": "many"}, {}),
    ins.Round: (_X, _OUT),
    ins.Lift: ({"x": "one", "bit": "maybe"}, _OUT),
    ins.Bilinear: ({"x": "one", "y": "one"}, _OUT),
    ins.PublicProduct: (_X, _OUT),
    ins.Truncate: ({"x": "one", "bit": "maybe"}, _OUT),
    ins.Compare: (_X, {"outs": "many"}),
    ins.Equal: (_X, {"outs": "many"}),
    ins.Winner: (_X, {"outs": "many"}),
    ins.MapBit: ({"bit": "one"}, _OUT),
    ins.BitToArithmetic: ({"bit": "one"}, _OUT),
    ins.WeighBits: ({"bits": "many"}, _OUT),
    ins.Select: ({"bit": "one", "x": "one"}, _OUT),
    ins.Exponential: ({"x": "one", "bit": "maybe"}, _OUT),
    ins.Series: ({"x": "one", "bit": "maybe"}, _OUT),
    ins.Refresh: (_X, _OUT),
    ins.Reveal: (_X, {}),
    ins.Free: ({"xs": "many"}, {}),
}


def _identifiers(i: ins.Instruction, fields: dict[str, str]) -> tuple[int, ...]:
    found: tuple[int, ...] = ()
    for name, shape in fields.items():
        found += _SHAPES[shape][0](getattr(i, name))
    return found


def reads(i: ins.Instruction) -> tuple[int, ...]:
    """The wires and bit wires that an instruction needs."""
    return _identifiers(i, WIRING[type(i)][0])


def defines(i: ins.Instruction) -> tuple[int, ...]:
    """The wires and bit wires that an instruction makes."""
    return _identifiers(i, WIRING[type(i)][1])


def renamed(i: ins.Instruction, new: Callable[[int], int]) -> ins.Instruction:
    """The same instruction on other identifiers."""
    read, defined = WIRING[type(i)]
    changes = {name: _SHAPES[shape][1](getattr(i, name), new) for name, shape in {**read, **defined}.items()}
    out: ins.Instruction = replace(i, **changes)
    return out
