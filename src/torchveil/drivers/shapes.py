"""The shapes driver: the same instruction stream without any numbers. Wires have shapes and strides, costs are exact.

Theory of operation. A gate's cost is a formula of its instruction, and which instructions a program submits depends on
shapes and public facts alone. So a run on tensors of torch's meta device, which have no memory, takes the same
instructions at the same cost as a run on shares. Local linear gates run their clear meaning on meta tensors, so that
strides come out as they would; of every other gate the instruction states the shape of what it makes.

Nothing is protected because nothing is there. A revealed value is zeros of its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchveil.drivers.clock import RoleClock
from torchveil.drivers.ranks import Collective, world_size
from torchveil.errors import ProtocolError
from torchveil.gates import GATES
from torchveil.gates.base import FREE, Cost
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins
from torchveil.program.plan import Plan
from torchveil.program.wiring import defines
from torchveil.roles.plain import Plain
from torchveil.roles.wires import BitWire, Wire
from torchveil.storage import Checkpoint, Place


def _empty(shape: Sequence[int], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def without_numbers(x: Any) -> Any:
    """An argument of a map for meta tensors: public indices lose their numbers, masks become as many indices."""
    if isinstance(x, Tensor):
        if x.dtype is torch.bool:
            return tuple(without_numbers(places) for places in x.nonzero(as_tuple=True))
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    if isinstance(x, tuple):
        out: list[Any] = []
        for part in x:
            done = without_numbers(part)
            out.extend(done) if isinstance(part, Tensor) and isinstance(done, tuple) else out.append(done)
        return tuple(out)
    return x


def _stripped(linear_map: LinearMap) -> LinearMap:
    if not any(isinstance(x, (Tensor, tuple)) for x in linear_map.args):
        return linear_map
    return LinearMap(linear_map.name, without_numbers(linear_map.args))


def _followed(strip: Callable[[Any], Any]) -> Callable[[Plain, Any], None]:
    """The clear meaning on meta tensors, of an instruction that ``strip`` takes the numbers from."""

    def run(tables: Plain, i: Any) -> None:
        GATES[type(i)].clear(tables, strip(i))

    return run


def _public_value(i: Any) -> Any:
    return replace(i, value=without_numbers(i.value))


def _image(linear_map: LinearMap, x: Tensor) -> Tensor:
    """The layout of the image of x."""
    try:
        return _stripped(linear_map)(x)
    except RuntimeError:
        # a map that looks at the numbers it carries runs on zeros; what does not fit raises again
        zeros = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cpu").zero_()
        image: Tensor = without_numbers(linear_map(zeros))
        return image


def _map(tables: Plain, i: ins.Map) -> None:
    tables.set(i.out, _image(i.map, tables.value(i.x)))


def _map_bit(tables: Plain, i: ins.MapBit) -> None:
    image = _image(i.map, tables.bit(i.bit))
    tables.set_bit(i.out, torch.empty_like(image) if i.flip else image)


def _combine(tables: Plain, i: ins.Combine) -> None:
    """What ``gates.linear`` gives; equal layouts, nearly always, need no arithmetic of torch's to find the layout."""
    values = [tables.value(x) for x, _ in i.terms]
    first, *rest = values
    if any(x.shape != first.shape or x.stride() != first.stride() for x in rest):
        GATES[ins.Combine].clear(tables, i)
    elif rest or i.constant or i.terms[0][1] != 1:
        tables.set(i.out, torch.empty_like(first))
    else:
        tables.set(i.out, first)


def _constant(tables: Plain, i: ins.Constant) -> None:
    tables.set(i.out, without_numbers(i.value) if isinstance(i.value, Tensor) else _empty(()).expand(i.shape))


def _of_bits(tables: Plain, i: Any) -> None:
    bit = i.bits[0] if isinstance(i, ins.WeighBits) else i.bit
    tables.set(i.out, _empty(tables.bit(bit).shape))


def _selectors(tables: Plain, i: Any) -> None:
    for out in i.outs:
        tables.set_bit(out, _empty(i.shape))


def _open(tables: Plain, i: ins.Open) -> None:
    """Nothing is made; that a wire is open is noted with it, where its other names see it too."""
    for x in i.xs:
        _note_open(tables.wires[x])


def _note_open(wire: Wire) -> None:
    wire.opening = wire.share


def _stated(tables: Plain, i: Any) -> None:
    """Every other gate: what it makes has the shape that its instruction says."""
    for out in defines(i):
        tables.set(out, _empty(i.shape))


#: What becomes of an instruction's wires; ``_stated`` for those that are not here.
_LAYOUTS: dict[type[ins.Instruction], Callable[[Plain, Any], None]] = {
    ins.Map: _map,
    ins.MapBit: _map_bit,
    ins.Combine: _combine,
    ins.Constant: _constant,
    ins.Concatenate: _followed(lambda i: i),
    ins.Write: _followed(lambda i: replace(i, path=tuple(_stripped(step) for step in i.path))),
    ins.AddPublic: _followed(_public_value),
    ins.PublicProduct: _followed(_public_value),
    ins.BitToArithmetic: _of_bits,
    ins.WeighBits: _of_bits,
    ins.Compare: _selectors,
    ins.Equal: _selectors,
    ins.Winner: _selectors,
    ins.Open: _open,
    ins.Free: lambda tables, i: tables.free(i.xs),
}


#: How many runs of plans are remembered.
_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class _Played:
    """A run of a plan: its cost, which of its inputs are open afterwards (by place), what it gives back.

    The plan is held so that its ``id`` stays its own.
    """

    plan: Plan
    cost: Cost
    opens: tuple[int, ...]
    made: tuple[Wire | BitWire, ...]


class ShapesDriver:
    """Runs no arithmetic. ``measured`` is what the gates' formulas say of the last instruction."""

    __slots__ = ("_n_parties", "_played", "_tables", "measured")

    def __init__(self, n_parties: int) -> None:
        self._n_parties = n_parties
        self._tables = Plain()
        self._played: dict[tuple[int, tuple[object, ...]], _Played] = {}
        self.measured: Cost = FREE

    def run(self, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        try:
            _LAYOUTS.get(type(i), _stated)(self._tables, i)
        except BaseException:
            self._tables.abandon(defines(i))
            raise
        self.measured = GATES[type(i)].cost(i, self._n_parties)
        return torch.zeros(i.shape, dtype=torch.int64, device="cpu") if isinstance(i, ins.Reveal) else None

    def invent(self, wire: int, like: Tensor) -> None:
        """A wire (for bool a bit wire) that no instruction made, of the shape and strides of ``like``."""
        meta = torch.empty_strided(like.shape, like.stride(), dtype=torch.int64, device="meta")
        if like.dtype is torch.bool:
            self._tables.set_bit(wire, meta)
        else:
            self._tables.set(wire, meta)

    @property
    def ranks(self) -> int:
        """Of torch's process group."""
        return world_size()

    def collect(self, out: int, x: int, collective: Collective) -> None:
        self.collect_over(self.ranks, out, collective)

    def collect_over(self, ranks: int, out: int, collective: Collective) -> None:
        """A wire of the shape that so many ranks make."""
        self._tables.set(out, _empty(collective.result(ranks)))
        self.measured = FREE

    def run_plan(self, plan: Plan, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Its instructions one after another; the cost is that of its rounds and its gates' formulas.

        What a plan makes of inputs of the same layouts is the same every time, and remembered.
        """
        tables = self._tables
        key = id(plan), self._layouts(inputs)
        known = self._played.get(key)
        if known is None:
            known = self._play(plan, inputs)
            if len(self._played) >= _REMEMBERED:
                del self._played[next(iter(self._played))]
            self._played[key] = known
        for place in known.opens:
            _note_open(tables.wires[inputs[place]])
        for x, made in zip(outputs, known.made, strict=True):
            if isinstance(made, Wire):
                tables.wires[x] = made.copy()
            else:
                tables.bits[x] = made
        self.measured = known.cost

    def _layouts(self, inputs: Sequence[int]) -> tuple[object, ...]:
        """All that the run of a plan can depend on: layouts, what is open, which inputs are the same wire."""
        tables = self._tables
        places: dict[int, int] = {}
        out: list[object] = []
        for x in inputs:
            wire = tables.wires.get(x)
            if wire is None:
                if x not in tables.bits:
                    raise ProtocolError(f"there is no wire {x}")
                bit = tables.bit(x)
                out.append((bit.shape, bit.stride()))
                continue
            same = places.setdefault(x, len(places)), places.setdefault(~id(wire), len(places))
            value = wire.value()
            out.append((value.shape, value.stride(), wire.opening is None, same))
        return tuple(out)

    def _play(self, plan: Plan, inputs: Sequence[int]) -> _Played:
        tables = self._tables
        total = Cost()
        try:
            given: set[int] = set()
            for slot, wire in zip(plan.inputs, inputs, strict=True):
                self.alias(slot, wire, apart=wire in given)
                given.add(wire)
            for stage in plan.stages:
                for position in (*stage.local, *stage.starts):
                    self.run(plan.instructions[position])
                    total += self.measured
                tables.free(stage.frees)
            made = tuple(tables.wires[x].copy() if x in tables.wires else tables.bits[x] for x in plan.outputs)
        finally:
            tables.free(plan.slots)
        places = range(len(inputs))
        opens = tuple(k for k in places if inputs[k] in tables.wires and self.is_open(inputs[k]))
        return _Played(plan, Cost(plan.rounds, total.sent, total.dealt), opens, made)

    def alias(self, new: int, old: int, *, apart: bool = False) -> None:
        self._tables.alias(new, old, apart=apart)

    def is_open(self, wire: int) -> bool:
        """Whether an instruction opened it, under this name or another one."""
        return self._tables.wires[wire].opening is not None

    def watch(self, clock: RoleClock | None) -> None:
        """Nothing to time: there are no roles."""

    def share_of(self, wire: int) -> Tensor:
        return self._tables.value(wire)

    def shape_of_bit(self, bit: int) -> tuple[int, ...]:
        return tuple(self._tables.bit(bit).shape)

    def n_wires(self) -> int:
        return len(self._tables.wires) + len(self._tables.bits)

    def save(self, checkpoint: Checkpoint, wires: Mapping[str, int], place: Place) -> None:
        """There is nothing to write."""

    def load(self, checkpoint: Checkpoint, wires: Mapping[str, int], place: Place) -> None:
        """Wires of the shapes that the checkpoint says."""
        for key, x in wires.items():
            self._tables.set(x, _empty(checkpoint.entries[key].shape))

    def clear(self) -> None:
        self._tables.forget()


__all__ = ["ShapesDriver"]
