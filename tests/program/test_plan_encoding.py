"""Plans as bytes: what a role works out from them is the plan that was made; what hangs together wrongly is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.program.every_instruction import same
from torchveil.errors import LimitExceeded, MalformedMessage
from torchveil.gates import Nature
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins
from torchveil.program.encoding import DecodeLimits, decode_plan, encode_plan, plan_digest
from torchveil.program.plan import Plan, make_plan
from torchveil.program.wiring import defines, reads

NATURE = Nature(2)
pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode


def plan_of(stream: list[ins.Instruction], inputs: list[int], outputs: list[int], first: int = 1) -> Plan:
    counter = iter(range(first, first + 1000))
    return make_plan(stream, inputs, outputs, NATURE, lambda: -next(counter))


def product(out: int, x: int, y: int) -> ins.Bilinear:
    return ins.Bilinear(out, x, y, "mul", {}, (2,))


def opening(*xs: int) -> ins.Open:
    return ins.Open(xs, tuple((2,) for _ in xs))


VALUE = torch.tensor([3, 4])


def stream(value: torch.Tensor = VALUE, constant: int = 5) -> list[ins.Instruction]:
    """Maps before and after their openings, comparisons under way beside openings, public tensors."""
    return [
        ins.Map(3, 1, LinearMap("flip", ((0,),))),
        ins.AddPublic(4, 3, value),
        opening(1),
        ins.Compare((5, 6), 1, False, (0, 1), (((0,), False), ((1,), True)), (2,)),
        opening(2, 4),
        product(7, 4, 2),
        ins.Constant(8, (2,), value),
        ins.PublicProduct(9, 7, value, "mul", {}, False),
        opening(9),
        ins.Select(10, 5, 9, (2,)),
        ins.WeighBits(11, (5, 6), (1, -1), 0),
        ins.Combine(12, ((10, 1), (11, 2), (8, 1)), constant),
        ins.Map(13, 12, LinearMap("index_select", (0, torch.tensor([1, 0])))),
    ]


PLAN = plan_of(stream(), [1, 2], [13, 10, 1])
STRUCTURE, BUFFERS = encode_plan(PLAN)


def test_a_role_works_out_the_plan_that_was_made() -> None:
    back = decode_plan(STRUCTURE, BUFFERS, NATURE)
    assert back.slots == tuple(range(-len(PLAN.slots), 0))
    renamed = dict(
        zip((*PLAN.inputs, *(x for i in PLAN.instructions for x in defines(i))), range(-1, -100, -1), strict=False)
    )
    for ours, theirs in zip(PLAN.instructions, back.instructions, strict=True):
        assert [renamed[x] for x in (*reads(ours), *defines(ours))] == [*reads(theirs), *defines(theirs)]
    assert [(s.local, s.starts) for s in back.stages] == [(s.local, s.starts) for s in PLAN.stages]
    assert [{renamed[x] for x in s.frees} for s in PLAN.stages] == [set(s.frees) for s in back.stages]
    assert back.opens == {renamed[x] for x in PLAN.opens}
    assert tuple(renamed[x] for x in PLAN.outputs) == back.outputs
    for name in ("numbers", "n_labels", "dealt", "rounds"):
        assert getattr(back, name) == getattr(PLAN, name)
    again = decode_plan(*encode_plan(back), NATURE)
    assert all(map(same, back.instructions, again.instructions))
    assert (again.stages, again.inputs, again.outputs) == (back.stages, back.inputs, back.outputs)


def test_two_recordings_of_one_program_are_one_plan() -> None:
    other = plan_of(stream(VALUE.clone()), [1, 2], [13, 10, 1], first=500)
    assert other.inputs != PLAN.inputs
    assert encode_plan(other)[0] == STRUCTURE
    assert plan_digest(other) == plan_digest(PLAN) and plan_digest(other, public=True) == plan_digest(PLAN, public=True)


def test_digests_change_with_what_they_are_of() -> None:
    others = [
        plan_of(stream(VALUE + 1), [1, 2], [13, 10, 1]),
        plan_of(stream(constant=6), [1, 2], [13, 10, 1]),
        plan_of(stream(), [1, 2], [13, 10]),
        plan_of(stream(), [1, 2], [10, 13, 1]),
        plan_of(stream(), [2, 1], [13, 10, 1]),
        plan_of(stream()[:-1], [1, 2], [12, 10, 1]),
    ]
    everything = [plan_digest(plan, public=True) for plan in (PLAN, *others)]
    assert len(set(everything)) == len(everything)
    seen = [plan_digest(plan) for plan in (PLAN, *others)]
    # the provider sees neither of the public tensors, hence not that they changed
    assert seen[0] == seen[1] and len(set(seen)) == len(seen) - 1
    assert all(len(digest) == 32 for digest in (*everything, *seen)) and everything[0] != seen[0]


#: Inputs -1 and -2; -3 is their difference, which is opened; -4 its square.
SMALL = unpack(encode_plan(plan_of([ins.Combine(3, ((1, 1), (2, -1))), opening(3), product(4, 3, 3)], [1, 2], [4]))[0])
BAD: dict[str, Any] = {
    "nothing": [],
    "no inputs": [SMALL[0], [], SMALL[2]],
    "an entry more": [*SMALL, []],
    "inputs out of order": [SMALL[0], [-2, -1], SMALL[2]],
    "an input twice": [SMALL[0], [-1, -1], SMALL[2]],
    "a wire as input": [SMALL[0], [1, -2], SMALL[2]],
    "an output that nothing defines": [SMALL[0], SMALL[1], [-5]],
    "a wire as output": [SMALL[0], SMALL[1], [4]],
    "a slot that is read before it is defined": [SMALL[0][::-1], SMALL[1], SMALL[2]],
    "a slot that is read by what defines it": [[[4, -3, [[-3, 1]], 0, False]], [-1, -2], []],
    "a slot that is defined twice": [[SMALL[0][0], SMALL[0][0]], SMALL[1], [-3]],
    "an input that is defined": [[[4, -1, [[-2, 1]], 0, False]], [-1, -2], []],
    "a slot left out": [[[4, -4, [[-2, 1]], 0, False]], [-1, -2], []],
    "an instruction on wires": [[[4, 3, [[1, 1]], 0, False]], [-1, -2], []],
    "an input of an owner": [[[0, -3, [2]]], [-1, -2], []],
    "a reveal": [[[23, -1, "owner", [2]]], [-1, -2], []],
    "a release of wires": [[[24, [-1]]], [-1, -2], []],
    "an unknown kind": [[[99, -3]], [-1, -2], []],
}


@pytest.mark.parametrize("entries", BAD.values(), ids=BAD.keys())
def test_refused(entries: Any) -> None:
    decode_plan(pack(SMALL), [], NATURE)
    with pytest.raises(MalformedMessage):
        decode_plan(pack(entries), [], NATURE)


def test_limits() -> None:
    sizes = {"instructions": len(PLAN.instructions), "items": 3, "ancestry": 100, "elements": 4}
    decode_plan(STRUCTURE, BUFFERS, NATURE, DecodeLimits(**sizes))
    for name, fewer in {"instructions": len(PLAN.instructions) - 1, "items": 2, "ancestry": 3, "elements": 3}.items():
        with pytest.raises(LimitExceeded if name == "elements" else MalformedMessage):
            decode_plan(STRUCTURE, BUFFERS, NATURE, DecodeLimits(**{**sizes, name: fewer}))


def test_a_long_chain_is_refused_before_it_fills_the_memory() -> None:
    chain = [[2, -k - 2, -k - 1, ["t"]] for k in range(20000)]
    with pytest.raises(MalformedMessage):
        decode_plan(pack([chain, [-1], [-1]]), [], NATURE)


def test_buffers_are_those_of_the_instructions() -> None:
    for buffers in (BUFFERS[:-1], [*BUFFERS, memoryview(b"")], BUFFERS[1:]):
        with pytest.raises(MalformedMessage):
            decode_plan(STRUCTURE, buffers, NATURE)


_ENTRY = st.one_of(st.integers(-20, 30), st.integers(-(2**63), 2**63 - 1), st.none(), st.booleans(), st.just([]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_other_plans_are_taken_or_refused(data: st.DataObject) -> None:
    whole = unpack(STRUCTURE)
    for _ in range(data.draw(st.integers(1, 3))):
        at = whole
        while isinstance(at, list) and at:
            place = data.draw(st.integers(0, len(at) - 1))
            if not isinstance(at[place], list) or not at[place] or data.draw(st.integers(0, 3)) == 0:
                at[place] = data.draw(st.one_of(_ENTRY, st.sampled_from(at)))
                break
            at = at[place]
    try:
        plan = decode_plan(pack(whole), BUFFERS, NATURE)
    except (MalformedMessage, LimitExceeded):
        return
    made = set(plan.inputs)
    for stage in plan.stages:
        made.update(x for k in (*stage.local, *stage.starts) for x in defines(plan.instructions[k]))
    positions = [k for stage in plan.stages for k in (*stage.local, *stage.starts)]
    assert sorted(positions) == list(range(len(plan.instructions))) and set(plan.outputs) <= made


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(STRUCTURE) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_mutated_bytes_are_taken_or_refused(changes: list[tuple[int, int]]) -> None:
    changed = bytearray(STRUCTURE)
    for place, byte in changes:
        changed[place] = byte
    try:
        decode_plan(bytes(changed), BUFFERS, NATURE)
    except (MalformedMessage, LimitExceeded):
        return
