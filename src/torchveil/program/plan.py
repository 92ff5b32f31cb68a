"""A recorded plan: instructions, put into an order in which independent exchanges share a round.

Theory of operation. A plan is made once from the stream that a program produced. It is simplified (``simplify``), and
what no result depends on is left out. Then every instruction gets the earliest round in which all it needs exists (list
scheduling without limits on width, hence as many rounds as the longest chain of exchanges, which is the floor for these
gates). Execution goes round by round: the local work that is ready, the interactive gates that can start, one exchange
for all that are under way. Wires that no later instruction reads are freed after the round of their last use.

What an instruction needs: the wires that it reads, and, since an opening may follow from that of an ancestor, every
opening of an ancestor that came before it in the recorded stream. That order is kept, nothing else is.

Labels: the instructions that use labels are numbered by their place in the plan, k = 0, 1, ...; in a run that starts
at number b that is the number b + k, and every run has another b. Roles count themselves; numbers are fixed when the
plan is made, so that the order of execution does not matter for the masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from torchveil.errors import PlanError
from torchveil.program import instructions as ins
from torchveil.program.simplify import simplified
from torchveil.program.wiring import defines, reads, renamed

#: Instructions whose result takes its opening from what they read.
_LINEAR = (ins.Map, ins.Concatenate, ins.Combine, ins.AddPublic)


class Nature(Protocol):
    """What a plan has to know of gates, which lie above it."""

    def rounds(self, i: ins.Instruction) -> int:
        """How many exchanges an instruction takes."""
        ...

    def silent(self, i: ins.Instruction) -> bool:
        """Whether it uses no labels."""
        ...

    def dealt(self, i: ins.Instruction) -> int:
        """Bytes that the provider sends for it."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """What happens between two exchanges.

    ``local``: positions of local instructions, in order; ``starts``: positions of interactive ones whose first exchange
    is the coming one; ``frees``: slots that nobody reads after it.
    """

    local: tuple[int, ...]
    starts: tuple[int, ...]
    frees: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Instructions on slots (negative identifiers, the plan's own), their stages, what goes in and what comes out.

    ``numbers[k]`` is the label number of instruction k, counted from the start of a run, None if it uses none;
    ``sources[k]`` is the place in the recorded stream that instruction k came from; ``opens`` are the input slots that
    the plan opens; ``dealt`` the bytes that the provider sends in a run.
    """

    instructions: tuple[ins.Instruction, ...]
    numbers: tuple[int | None, ...]
    stages: tuple[Stage, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sources: tuple[int, ...]
    opens: frozenset[int]
    dealt: int

    @property
    def rounds(self) -> int:
        """How many exchanges a run takes."""
        return len(self.stages) - 1

    @property
    def n_labels(self) -> int:
        """How many instruction numbers a run takes."""
        return sum(number is not None for number in self.numbers)

    @property
    def slots(self) -> tuple[int, ...]:
        """Every identifier of the plan."""
        made = {x for i in self.instructions for x in defines(i)}
        return tuple(sorted(made.union(self.inputs)))

    def leaders(self, nature: Nature) -> dict[int, int]:
        """For each position how many rounds count as its own: a shared round is that of the first that takes part."""
        counts: dict[int, int] = {}
        flying: list[tuple[int, int]] = []
        for now, stage in enumerate(self.stages):
            flying = [(end, k) for end, k in flying if end > now]
            flying += [(now + nature.rounds(self.instructions[k]), k) for k in stage.starts]
            if flying:
                leader = min(k for _, k in flying)
                counts[leader] = counts.get(leader, 0) + 1
        return counts


def _needs(
    stream: Sequence[ins.Instruction], opened: Iterable[int], ancestry: int | None = None
) -> tuple[list[set[int]], set[int]]:
    """For every instruction the places of those that must be complete before it starts; those that open ``opened``.

    Raises ``PlanError`` when more than ``ancestry`` ancestors had to be looked at.
    """
    looked_at = 0
    maker: dict[int, int] = {}
    opened_at: dict[int, list[int]] = {}
    ancestors: dict[int, tuple[int, ...]] = {}
    needs: list[set[int]] = []
    for place, i in enumerate(stream):
        needed: set[int] = set()
        family: dict[int, None] = {}
        for x in reads(i):
            for y in ancestors.get(x, (x,)):
                family[y] = None
        looked_at += len(family)
        if ancestry is not None and looked_at > ancestry:
            raise PlanError(
                "the values of a plan follow from each other in too many ways", remedy="record shorter plans"
            )
        for x in family:
            needed.update(opened_at.get(x, ()))
        needed.update(maker[x] for x in reads(i) if x in maker)
        needs.append(needed)
        for out in defines(i):
            maker[out] = place
            ancestors[out] = (out, *family) if isinstance(i, _LINEAR) else (out,)
        if isinstance(i, ins.Open):
            for x in i.xs:
                opened_at.setdefault(x, []).append(place)
    openings = {place for x in opened for y in ancestors.get(x, (x,)) for place in opened_at.get(y, ())}
    return needs, openings


def _needed(
    stream: Sequence[ins.Instruction], needs: Sequence[set[int]], outputs: Iterable[int], openings: Iterable[int]
) -> list[int]:
    """The places of the instructions that the outputs and their openings depend on, in order."""
    maker = {out: place for place, i in enumerate(stream) for out in defines(i)}
    todo = [*openings, *(maker[x] for x in outputs if x in maker)]
    kept: set[int] = set()
    while todo:
        place = todo.pop()
        if place not in kept:
            kept.add(place)
            todo.extend(needs[place])
    return sorted(kept)


def make_plan(
    recorded: Sequence[ins.Instruction],
    inputs: Sequence[int],
    outputs: Sequence[int],
    nature: Nature,
    new_slot: Callable[[], int],
    opened: Sequence[int] = (),
) -> Plan:
    """The plan of a recorded stream: ``inputs`` existed before it, ``outputs`` are wanted after it.

    opened: which of the outputs are to be open if the recording left them so; nature: what the gates say of an
    instruction; new_slot: fresh identifiers.
    """
    simple, stands = simplified(recorded, outputs)
    outputs = [stands.get(x, x) for x in outputs]
    stream = [i for _, i in simple]
    needs, openings = _needs(stream, [stands.get(x, x) for x in opened])
    kept = _needed(stream, needs, outputs, openings)
    slots: dict[int, int] = {}

    def slot(x: int) -> int:
        if x not in slots:
            slots[x] = new_slot()
        return slots[x]

    chosen = [renamed(stream[place], slot) for place in kept]
    in_slots, out_slots = tuple(slot(x) for x in inputs), tuple(slot(x) for x in outputs)
    place_of = {place: k for k, place in enumerate(kept)}
    return _arranged(
        chosen,
        [[place_of[other] for other in needs[place]] for place in kept],
        in_slots,
        out_slots,
        tuple(simple[place][0] for place in kept),
        nature,
    )


def scheduled(
    instructions: Sequence[ins.Instruction],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    nature: Nature,
    ancestry: int,
) -> Plan:
    """The plan that consists of these instructions on slots, each as early as it can start.

    It is the plan that ``make_plan`` gave whose instructions they are, but for ``sources``, which count from 0. Raises
    ``PlanError`` when more than ``ancestry`` ancestors had to be looked at.
    """
    needs, _ = _needs(instructions, (), ancestry)
    return _arranged(instructions, needs, inputs, outputs, tuple(range(len(instructions))), nature)


def _arranged(
    instructions: Sequence[ins.Instruction],
    needs: Sequence[Iterable[int]],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    sources: tuple[int, ...],
    nature: Nature,
) -> Plan:
    """The plan of instructions, each of which starts when those that it ``needs`` (by position) are complete."""
    start: list[int] = []
    end: list[int] = []
    for i, needed in zip(instructions, needs, strict=True):
        begin = max((end[other] for other in needed), default=0)
        start.append(begin)
        end.append(begin + nature.rounds(i))
    n_stages = max(end, default=0) + 1
    last, given_back = dict.fromkeys(inputs, 0), set(outputs)
    local: list[list[int]] = [[] for _ in range(n_stages)]
    starts: list[list[int]] = [[] for _ in range(n_stages)]
    for k, i in enumerate(instructions):
        (local if start[k] == end[k] else starts)[start[k]].append(k)
        for x in (*reads(i), *defines(i)):
            last[x] = max(last.get(x, 0), end[k])
    frees: list[list[int]] = [[] for _ in range(n_stages)]
    for x, stage in last.items():
        if x not in given_back:
            frees[stage].append(x)
    given = set(inputs)
    labels = accumulate((not nature.silent(i) for i in instructions), initial=0)
    return Plan(
        tuple(instructions),
        tuple(None if nature.silent(i) else k for i, k in zip(instructions, labels, strict=False)),
        tuple(Stage(tuple(a), tuple(b), tuple(c)) for a, b, c in zip(local, starts, frees, strict=True)),
        inputs,
        outputs,
        sources,
        frozenset(x for i in instructions if isinstance(i, ins.Open) for x in i.xs if x in given),
        sum(nature.dealt(i) for i in instructions),
    )
