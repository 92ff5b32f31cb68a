"""What a session's values take at a role, in bytes, and the limit of that (``limits.session_bytes``).

Theory of operation. To count all tensors takes a pass over all wires, so it is done seldom. Between two counts every
instruction adds an upper bound of what it makes, found from shapes before it runs, and nothing is taken off for what is
let go of. Only when both together pass the limit is everything counted anew; an instruction that still does not fit is
refused, before it has made anything.

Linear maps may be applied long after their instruction: a mask follows from another one when it is needed first. So
they ask by themselves, whenever they are applied (``Holdings.watched``).

Counted are tensors of values (shares, openings, masks) and public tensors of plans. Not counted is what waits to be
sent or taken, which links bound, and what an instruction needs only while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from torchveil.drivers.shapes import without_numbers
from torchveil.errors import LimitExceeded
from torchveil.gates import GATES
from torchveil.gates.base import Gate
from torchveil.kernels import BILINEAR
from torchveil.kernels.linear_maps import MAPS, LinearMap
from torchveil.program import instructions as ins
from torchveil.randomness import Words
from torchveil.roles.tables import Tables
from torchveil.roles.wires import Follow

#: What torch raises of shapes that do not fit; the gate then raises the same, and makes nothing.
_UNFIT = (RuntimeError, IndexError, ValueError, TypeError)

#: Maps whose result may be larger than their operand.
_GROWING = frozenset(
    (
        "gather",
        "index",
        "index_select",
        "pad",
        "repeat",
        "scatter_gather",
        "scatter_index",
        "scatter_select",
        "scatter_slice",
        "scatter_windows",
        "windows",
    )
)


def _stored(x: Tensor) -> tuple[int, int]:
    """Where the storage of a tensor lies, and its bytes."""
    storage = x.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _meta(shape: Sequence[int]) -> Tensor:
    return torch.empty(tuple(shape), dtype=torch.int64, device="meta")


def image_elements(linear_map: LinearMap, x: Tensor) -> int:
    """An upper bound of the elements that a map of ``x`` makes; 0 for a view."""
    name, args = linear_map.name, linear_map.args
    if linear_map.aliases:
        return 0 if name != "view" or x.is_contiguous() else x.numel()
    try:
        if name == "taps":  # looks at its numbers
            rows: int = x.shape[args[0]]
            return x.numel() // max(rows, 1) * len(args[1])
        if name in _GROWING:
            return MAPS[name][0](_meta(x.shape), *without_numbers(args)).numel()
    except _UNFIT:
        return 0
    return x.numel()


@dataclass(frozen=True, slots=True, eq=False)
class _Watched(LinearMap):
    """A map that asks for room before it makes anything. What it makes of which layout it remembers."""

    take: Callable[[int], None] = field(kw_only=True, repr=False)
    made: dict[Any, int] = field(default_factory=dict, kw_only=True, repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        layout = x.shape, x.is_contiguous()
        n_bytes = self.made.get(layout)
        if n_bytes is None:
            n_bytes = self.made[layout] = 8 * image_elements(self, x)
        self.take(n_bytes)
        return MAPS[self.name][0](x, *self.args)


# --- how many elements an instruction makes --------------------------------------------------------------------------


#: Tensors of a value at a party: share, opening, mask. Most are never opened, which is found when they are counted.
_FACES = 3


def _shape(tables: Tables, x: int) -> Sequence[int]:
    """The shape of a value; if this role knows none, or there is no such wire, that of nothing."""
    wire = tables.wires.get(x)
    if wire is not None:
        found = wire.share if wire.share is not None or not wire.resolve() else wire.layout()
    else:
        bit = tables.bits.get(x)
        found = None if bit is None else bit.mask
    return (0,) if found is None else found.shape


def _broadcast(shapes: Sequence[Sequence[int]]) -> int:
    first = shapes[0]
    for shape in shapes:
        if shape != first:
            return prod(torch.broadcast_shapes(*shapes))
    return prod(first)


def _combine(tables: Tables, i: ins.Combine) -> int:
    return _FACES * _broadcast([_shape(tables, x) for x, _ in i.terms])


def _add_public(tables: Tables, i: ins.AddPublic) -> int:
    return _FACES * _broadcast((_shape(tables, i.x), i.value.shape))


def _concatenate(tables: Tables, i: ins.Concatenate) -> int:
    return _FACES * sum([prod(_shape(tables, x)) for x in i.xs])


def _constant(_tables: Tables, i: ins.Constant) -> int:
    return _stored(i.value)[1] // 8 if isinstance(i.value, Tensor) else 1


def _write(tables: Tables, i: ins.Write) -> int:
    return prod(_shape(tables, i.base))


def _open(_tables: Tables, i: ins.Open) -> int:
    return 2 * sum(map(prod, i.shapes))


#: Elements of the simple products; those of others are asked of torch.
_PRODUCTS: dict[str, Callable[[Sequence[int], Sequence[int]], int]] = {
    "mul": lambda x, y: _broadcast((x, y)),
    "mm": lambda x, y: x[0] * y[1],
    "bmm": lambda x, y: x[0] * x[1] * y[2],
}


def _product(i: ins.Bilinear | ins.PublicProduct, x: Sequence[int], y: Sequence[int]) -> int:
    known = _PRODUCTS.get(i.function)
    return BILINEAR[i.function](_meta(x), _meta(y), **i.options).numel() if known is None else known(x, y)


def _bilinear(tables: Tables, i: ins.Bilinear) -> int:
    return _product(i, _shape(tables, i.x), _shape(tables, i.y))


def _public_product(tables: Tables, i: ins.PublicProduct) -> int:
    x = _shape(tables, i.x)
    return _product(i, i.value.shape, x) if i.left else _product(i, x, i.value.shape)


def _of_bits(tables: Tables, i: Any) -> int:
    return prod(_shape(tables, i.bits[0] if isinstance(i, ins.WeighBits) else i.bit))


def _nothing(_tables: Tables, _i: Any) -> int:
    return 0


def _bits(_tables: Tables, i: ins.Compare | ins.Equal | ins.Winner) -> int:
    return 2 * len(i.outs) * prod(i.shape)


def _stated(_tables: Tables, i: Any) -> int:
    return int(prod(i.shape))


_MADE: dict[type[ins.Instruction], Callable[[Tables, Any], int]] = {
    **dict.fromkeys(GATES, _stated),
    ins.Map: _nothing,
    ins.MapBit: _nothing,
    ins.Free: _nothing,
    ins.Reveal: _nothing,
    ins.Constant: _constant,
    ins.Combine: _combine,
    ins.AddPublic: _add_public,
    ins.Concatenate: _concatenate,
    ins.Write: _write,
    ins.Open: _open,
    ins.Bilinear: _bilinear,
    ins.PublicProduct: _public_product,
    ins.BitToArithmetic: _of_bits,
    ins.WeighBits: _of_bits,
    ins.Compare: _bits,
    ins.Equal: _bits,
    ins.Winner: _bits,
}

# --- what is held ----------------------------------------------------------------------------------------------------


def held_bytes(tables: Tables) -> int:
    """Bytes of all tensors of a role's wires, those that follow from wires without a name included, each once."""
    sizes: dict[int, int] = {}
    seen: set[int] = set()
    waiting = list(tables.wires.values())
    kept: list[Tensor | Words] = [x for bit in tables.bits.values() for x in bit.held()]
    while waiting:
        wire = waiting.pop()
        if id(wire) not in seen:
            seen.add(id(wire))
            kept += wire.held()
            waiting += wire.sources()
    for x in kept:
        if isinstance(x, Tensor):
            place, n_bytes = _stored(x)
            sizes[place] = n_bytes
        else:
            sizes[id(x)] = x.nbytes
    return sum(sizes.values())


#: How many ways to run a plan are remembered.
_REMEMBERED = 1024


class Holdings:
    """The bytes that a session holds at a role. ``limit``: how many it may."""

    __slots__ = ("_asked", "_kept", "_known", "_limit", "_made", "_runs", "_tables")

    def __init__(self, tables: Tables, limit: int) -> None:
        self._tables = tables
        self._limit = limit
        self._kept = self._known = self._made = 0
        #: what instructions asked for so far; what runs of plans did, by plan and layouts of inputs
        self._asked = 0
        self._runs: dict[Any, int] = {}

    def take(self, n_bytes: int) -> None:
        """Before something of so many bytes is made. Raises ``LimitExceeded`` if it does not fit."""
        self._made += n_bytes
        if self._known + self._made > self._limit and not self._fits(n_bytes):
            raise LimitExceeded(
                f"the values of this session would take more than {self._limit} bytes here",
                remedy="let go of tensors, take smaller batches, or raise limits.session_bytes of this role",
            )

    def _fits(self, n_bytes: int) -> bool:
        """Whether there is room for what is about to be made, once everything was counted anew."""
        self._known, self._made = self._kept + held_bytes(self._tables), n_bytes
        return self._known + n_bytes <= self._limit

    def keep(self, n_bytes: int) -> None:
        """As ``take``, for what stays until the session ends and lies in no wire."""
        self.take(n_bytes)
        self._kept += n_bytes

    # --- instructions ------------------------------------------------------------------------------------------------

    def watched(self, i: ins.Instruction) -> ins.Instruction:
        """The same instruction; its map, if it has one that makes anything, asks before it does."""
        if not isinstance(i, ins.Map | ins.MapBit) or (i.map.aliases and i.map.name != "view"):
            return i
        linear_map = _Watched(i.map.name, i.map.args, take=self.take)
        if isinstance(i, ins.Map):
            return ins.Map(i.out, i.x, linear_map)
        return ins.MapBit(i.out, i.bit, linear_map, i.flip)

    def asking(self) -> dict[type[ins.Instruction], Gate]:
        """The table of gates, each of which asks before it runs."""
        gates = {kind: self._asking(kind) for kind in GATES}
        return {**gates, ins.Combine: self._following(gates[ins.Combine])}

    def _asking(self, kind: type[ins.Instruction]) -> Gate:
        tables, made = self._tables, _MADE[kind]

        def before(i: ins.Instruction) -> None:
            try:
                n_bytes = 8 * made(tables, i)
            except _UNFIT:
                return
            self._asked += n_bytes
            self.take(n_bytes)

        def deal(provider: Any, i: Any) -> None:
            before(i)
            GATES[kind].deal(provider, i)

        def evaluate(party: Any, i: Any) -> Any:
            before(i)
            return GATES[kind].evaluate(party, i)

        return replace(GATES[kind], deal=deal, evaluate=evaluate)

    def _following(self, gate: Gate) -> Gate:
        """The gate of sums: what a sum has once the last of its terms is opened is asked for then."""
        wires = self._tables.wires

        def later(follow: Follow) -> tuple[Tensor | None, Tensor] | None:
            if all([term.resolve() for term in follow.terms]):
                self.take(2 * 8 * _broadcast([x.shape for term in follow.terms if (x := term.layout()) is not None]))
            return follow.faces()

        def run(work: Callable[[Any, Any], Any], role: Any, i: Any) -> None:
            work(role, i)
            wire = wires[i.out]
            if wire.follow is not None:
                wire.follow = replace(wire.follow, faces=partial(later, wire.follow))

        return replace(gate, deal=partial(run, gate.deal), evaluate=partial(run, gate.evaluate))

    # --- plans -------------------------------------------------------------------------------------------------------

    @contextmanager
    def run_of(
        self, key: int, inputs: Sequence[int], asking: Mapping[type[ins.Instruction], Gate]
    ) -> Iterator[Mapping[type[ins.Instruction], Gate]]:
        """Around a run of the plan ``key``: the gates to run it with.

        They are those that ask, unless it ran on inputs of these shapes before and there is room for all that it asked
        for then.
        """
        layouts = self._layouts(inputs)
        wanted = None if layouts is None else self._runs.get((key, layouts))
        if wanted is not None and self._known + self._made + wanted <= self._limit:
            self._made += wanted
            yield {**GATES, ins.Combine: self._following(GATES[ins.Combine])}
            return
        before = self._asked
        yield asking
        if layouts is not None:
            if len(self._runs) >= _REMEMBERED:
                self._runs.clear()
            self._runs[key, layouts] = self._asked - before

    def _layouts(self, inputs: Sequence[int]) -> tuple[Any, ...] | None:
        """All that the bytes of a run depend on; None if this role may come to know a shape while it runs."""
        wires, bits = self._tables.wires, self._tables.bits
        places: dict[int, int] = {}
        out = []
        for x in inputs:
            wire = wires.get(x)
            found = wire.layout() if wire is not None else bits[x].mask if x in bits else None
            if found is None and (wire is None or wire.sources()):
                return None
            out.append((None if found is None else found.shape, places.setdefault(id(wire), len(places))))
        return tuple(out)
