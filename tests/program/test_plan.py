"""Plans: rounds are the longest chain, what nobody needs is left out, slots are freed after their last use."""

from __future__ import annotations

from torchveil.gates import Nature
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins
from torchveil.program.plan import Plan, make_plan
from torchveil.program.wiring import reads

NATURE = Nature(2)


def plan_of(stream: list[ins.Instruction], inputs: list[int], outputs: list[int]) -> Plan:
    counter = iter(range(1, 1000))
    return make_plan(stream, inputs, outputs, NATURE, lambda: -next(counter))


def product(out: int, x: int, y: int) -> ins.Bilinear:
    return ins.Bilinear(out, x, y, "mul", {}, (2,))


def opening(*xs: int) -> ins.Open:
    return ins.Open(xs, tuple((2,) for _ in xs))


def test_independent_openings_share_a_round() -> None:
    stream = [opening(1), opening(2), product(3, 1, 2), opening(3), opening(4), product(5, 3, 4)]
    plan = plan_of(stream, [1, 2, 4], [5])
    assert plan.rounds == 2
    # the opening of 4 rides with those of 1 and 2
    assert [len(stage.starts) for stage in plan.stages] == [3, 1, 0]
    assert sum(plan.leaders(NATURE).values()) == 2


def test_a_comparison_and_openings_fly_together() -> None:
    compare = ins.Compare((9,), 1, False, (0,), (((0,), False),), (2,))
    stream = [opening(1), compare, opening(2), opening(3), product(4, 2, 3), opening(4), ins.Select(5, 9, 4, (2,))]
    plan = plan_of(stream, [1, 2, 3], [5])
    assert plan.rounds == 1 + NATURE.rounds(compare)


def test_what_no_result_needs_is_left_out() -> None:
    stream = [opening(1), product(2, 1, 1), opening(2), product(3, 2, 2), product(4, 1, 1)]
    plan = plan_of(stream, [1], [4])
    assert [type(i) for i in plan.instructions] == [ins.Open, ins.Bilinear]
    assert plan.sources == (0, 4)
    assert plan.opens == frozenset(plan.inputs)


def test_an_opening_of_an_ancestor_is_waited_for() -> None:
    # 2 is an image of 1 and takes its opening from there: the product of 2 must wait for the opening of 1
    stream: list[ins.Instruction] = [ins.Map(2, 1, LinearMap("neg", ())), opening(1), product(3, 2, 2)]
    plan = plan_of(stream, [1], [3])
    assert plan.rounds == 1
    kinds = [[type(plan.instructions[k]).__name__ for k in (*s.local, *s.starts)] for s in plan.stages]
    assert kinds == [["Map", "Open"], ["Bilinear"]]


def test_slots_are_freed_after_their_last_use_and_outputs_stay() -> None:
    stream = [opening(1), product(2, 1, 1), opening(2), product(3, 2, 2)]
    plan = plan_of(stream, [1], [3])
    freed = [x for stage in plan.stages for x in stage.frees]
    assert len(freed) == len(set(freed))
    assert set(freed) == set(plan.slots) - set(plan.outputs)
    for now, stage in enumerate(plan.stages):
        for later in plan.stages[now + 1 :]:
            for k in (*later.local, *later.starts):
                assert not set(reads(plan.instructions[k])) & set(stage.frees)


def test_a_given_back_input_is_an_output() -> None:
    plan = plan_of([opening(1), product(2, 1, 1)], [1], [1, 2])
    assert plan.inputs[0] == plan.outputs[0]
    assert plan.inputs[0] not in [x for stage in plan.stages for x in stage.frees]
