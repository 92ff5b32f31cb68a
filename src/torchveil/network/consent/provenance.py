"""Whose data went into a value: for every wire of a party the set of owners, united by every instruction; which plan
made it.

Theory of operation. Each party derives it by itself from the stream that it executes, so that nobody can talk it into a
smaller set. What an instruction makes has the union of the sets of all that it reads: ``program.wiring`` is the only
table of that, so selector bits and indices count, x * 0 keeps the owners of x, and writing into a view unites what was
there with what is written. Only inputs have owners of their own; public constants have none.

Of a result of a plan it is remembered which one it is, as long as the value is only refreshed, opened, divided or
given other names: that is how a revealed value is known to be what a grant is about.

A name is given once. A party's tables hold wires and bit wires apart, so that a name given to one of each would mean
one value to provenance and another to a reveal; whoever gives a name again, or one that could be a slot of a plan (they
are negative), ends the session. Freed names may come back.

A set is a bit mask over the owners of the session; following an instruction takes about a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from torchveil.errors import ProtocolError
from torchveil.program import instructions as ins
from torchveil.program.plan import Plan
from torchveil.program.wiring import WIRING, defines, reads

Masks = dict[int, int]
Origin = tuple[bytes, int]

#: What leaves a value the same, or tells less of it (a division of one wire by a public number).
_SAME_VALUE = frozenset((ins.Refresh, ins.BitToArithmetic, ins.Truncate))


def _union(masks: Masks, i: ins.Instruction) -> int:
    """The general way: whatever the table of wiring says is read."""
    united = 0
    for x in reads(i):
        united |= masks[x]
    return united


def _reader(fields: dict[str, str]) -> Callable[[Masks, Any], int]:
    """The union of what an instruction with these fields reads; the frequent forms without a loop."""
    shapes = tuple(fields.values())
    if shapes == ("one",):
        get: Any = attrgetter(*fields)
        return lambda masks, i: masks[get(i)]
    if shapes == ("one", "one"):
        both = attrgetter(*fields)

        def two(masks: Masks, i: Any) -> int:
            x, y = both(i)
            return masks[x] | masks[y]

        return two
    return _union


def _maker(fields: dict[str, str]) -> Callable[[Any], tuple[int, ...]]:
    if tuple(fields.values()) == ("one",):
        get: Any = attrgetter(*fields)
        return lambda i: (get(i),)
    return defines


#: kind of instruction -> (owners of what it reads, what it makes), made from the one table of wiring
_FLOWS = {kind: (_reader(read), _maker(made)) for kind, (read, made) in WIRING.items()}


class Provenance:
    """The owners of every wire and bit wire of one session at one party. Owners are role names, "owner/hospital-a".

    Whatever gives a name raises ``ProtocolError`` if it is in use. ``slots``: names are the slots of a plan.
    """

    __slots__ = ("_bits", "_masks", "_names", "_origins", "_sets", "_slots")

    def __init__(self, *, slots: bool = False) -> None:
        self._slots = slots
        self._masks: Masks = {}
        self._origins: dict[int, Origin] = {}
        self._names: list[str] = []
        self._bits: dict[str, int] = {}
        self._sets: dict[int, frozenset[str]] = {0: frozenset()}

    def input(self, wire: int, owner: str) -> None:
        """``wire`` is data of ``owner``."""
        self._set(wire, self._bit(owner))

    def restore(self, wire: int, owners: Iterable[str]) -> None:
        """``wire`` comes from a checkpoint that names its ``owners``."""
        united = 0
        for owner in owners:
            united |= self._bit(owner)
        self._set(wire, united)

    def follow(self, i: ins.Instruction) -> None:
        """Derive the owners of what an instruction makes. Free forgets; Open and Reveal make nothing.

        Raises ``ProtocolError`` for wires that are not known, and for an input of which ``input`` did not say the
        owner: a value without a known origin must not look like a public constant.
        """
        if isinstance(i, ins.Free):
            self.release(i.xs)
            return
        if isinstance(i, ins.Input):
            self.of(i.out)
            return
        read, made = _FLOWS[type(i)]
        masks = self._masks
        try:
            united = read(masks, i)
        except KeyError as missing:
            raise _unknown(missing.args[0]) from None
        outs = made(i)
        for out in outs:
            if out in masks or (out < 1) is not self._slots:
                raise _taken(out)
            masks[out] = united
        if type(i) in _SAME_VALUE:
            self._follow_origin(i, outs)

    def follow_plan(self, flow: PlanFlow, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """A run of a plan on the wires ``inputs``, whose results are the wires ``outputs``."""
        masks = self._masks
        try:
            given = [masks[x] for x in inputs]
        except KeyError as missing:
            raise _unknown(missing.args[0]) from None
        # few sets of owners, many inputs: which inputs have this one
        having: Masks = {}
        for k, mask in enumerate(given):
            having[mask] = having.get(mask, 0) | 1 << k
        for out, sources in zip(outputs, flow.sources, strict=True):
            united = 0
            for mask, places in having.items():
                if sources & places:
                    united |= mask
            self._set(out, united)

    def alias(self, new: int, old: int) -> None:
        """``new`` is another name of ``old``."""
        self._set(new, self.mask(old))
        origin = self._origins.get(old)
        if origin is not None:
            self._origins[new] = origin

    def mark(self, wire: int, plan: bytes, slot: int) -> None:
        """``wire`` is the output ``slot`` of the plan with this digest."""
        self.mask(wire)
        self._origins[wire] = (plan, slot)

    def origin(self, wire: int) -> Origin | None:
        """The digest of the plan, and which of its outputs ``wire`` is; None for any other value."""
        return self._origins.get(wire)

    def of(self, wire: int) -> frozenset[str]:
        """The owners whose data went into ``wire``; empty for what is made of public constants only."""
        mask = self.mask(wire)
        found = self._sets.get(mask)
        if found is None:
            found = self._sets[mask] = frozenset(name for k, name in enumerate(self._names) if mask >> k & 1)
        return found

    def release(self, xs: Iterable[int]) -> None:
        """Forget wires; unknown ones are ignored, as a party's tables do."""
        masks = self._masks
        for x in xs:
            masks.pop(x, None)
            self._origins.pop(x, None)

    def forget(self) -> None:
        """Forget all wires."""
        self._masks.clear()
        self._origins.clear()

    def __len__(self) -> int:
        return len(self._masks)

    def _bit(self, owner: str) -> int:
        bit = self._bits.get(owner)
        if bit is None:
            bit = self._bits[owner] = 1 << len(self._names)
            self._names.append(owner)
        return bit

    def _set(self, wire: int, mask: int) -> None:
        if wire in self._masks or (wire < 1) is not self._slots:
            raise _taken(wire)
        self._masks[wire] = mask

    def _follow_origin(self, i: ins.Instruction, outs: tuple[int, ...]) -> None:
        read = reads(i)
        origin = self._origins.get(read[0]) if len(read) == 1 else None
        if origin is not None:
            self._origins.update((out, origin) for out in outs)

    def mask(self, wire: int) -> int:
        """The owners of ``wire`` as bits, in the order in which they were first named."""
        mask = self._masks.get(wire)
        if mask is None:
            raise _unknown(wire)
        return mask

    def __repr__(self) -> str:
        return f"<Provenance of {len(self._masks)} wires, {len(self._names)} owners>"


class PlanFlow:
    """Which inputs of a plan go into each of its outputs: found once, so that a run costs nothing per instruction."""

    __slots__ = ("sources",)

    def __init__(self, plan: Plan) -> None:
        tried = Provenance(slots=True)
        for k, slot in enumerate(plan.inputs):
            tried.input(slot, str(k))
        for i in plan.instructions:
            tried.follow(i)
        #: For every output the places of the inputs that went into it, as bits.
        self.sources: tuple[int, ...] = tuple(tried.mask(slot) for slot in plan.outputs)


def _taken(wire: int) -> ProtocolError:
    return ProtocolError(
        f"the name {wire} was given to a second value, or is none that a controller may give",
        remedy="open a new session",
    )


def _unknown(wire: int) -> ProtocolError:
    return ProtocolError(f"nobody knows whose data wire {wire} is: no instruction made it", remedy="open a new session")


__all__ = ["PlanFlow", "Provenance"]
