"""Simplified streams: the same values in the ring, fewer instructions; what is open or wanted stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins
from torchveil.program.simplify import simplified
from torchveil.program.wiring import defines, reads

TURN = LinearMap("t", ())


def values(stream: list[ins.Instruction], given: dict[int, Tensor]) -> dict[int, Tensor]:
    """What maps and combinations make of clear values."""
    out = dict(given)
    for i in stream:
        if isinstance(i, ins.Map):
            out[i.out] = i.map(out[i.x])
        elif isinstance(i, ins.Combine):
            total: Tensor | int = i.constant
            for x, factor in i.terms:
                total = total + out[x] * factor
            assert isinstance(total, Tensor)
            out[i.out] = total
    return out


def run(stream: list[ins.Instruction], outputs: list[int]) -> tuple[list[ins.Instruction], dict[int, int]]:
    """The simplified stream without what nobody reads."""
    placed, stands = simplified(stream, outputs)
    wanted = {stands.get(x, x) for x in outputs}
    kept: list[ins.Instruction] = []
    for _, i in reversed(placed):
        if isinstance(i, ins.Open) or wanted.intersection(defines(i)):
            kept.insert(0, i)
            wanted.update(reads(i))
    return kept, stands


def test_sums_of_sums_become_one_with_the_same_value() -> None:
    stream: list[ins.Instruction] = [
        ins.Combine(4, ((1, 3), (2, -1)), 5),
        ins.Combine(5, ((4, -2),), 1),
        ins.Combine(6, ((5, 1), (1, 7), (3, 2))),
    ]
    kept, _ = run(stream, [6])
    assert [type(i) for i in kept] == [ins.Combine]
    given = {k: torch.tensor([k * 11, -k, 2**62 + k]) for k in (1, 2, 3)}
    assert torch.equal(values(kept, given)[6], values(stream, given)[6])


def test_a_sum_that_is_opened_wanted_or_read_twice_stays() -> None:
    inner, outer = ins.Combine(4, ((1, 3), (2, -1))), ins.Combine(5, ((4, 2), (3, 1)))
    opened = ins.Open((4,), ((2,),))
    again = ins.Combine(6, ((4, 1), (1, 1)))
    for stream, outputs in (([inner, opened, outer], [5]), ([inner, outer], [4, 5]), ([inner, outer, again], [5, 6])):
        kept, _ = run(stream, outputs)
        last = next(i for i in kept if 5 in defines(i))
        assert 4 in reads(last)


def test_broadcast_and_chains_keep_shapes() -> None:
    stream: list[ins.Instruction] = [
        ins.Combine(3, ((1, 1), (2, 1))),
        ins.Combine(4, ((3, -1),)),
        ins.Combine(5, ((4, 1), (2, 1))),
    ]
    kept, _ = run(stream, [5])
    given = {1: torch.arange(3), 2: torch.arange(4)[:, None]}
    found = values(kept, given)[5]
    assert found.shape == (4, 3)
    assert torch.equal(found, values(stream, given)[5])


def test_integers_do_not_leave_what_torch_takes() -> None:
    stream: list[ins.Instruction] = [
        ins.Combine(2, ((1, 2**40),), 2**40),
        ins.Combine(3, ((2, 2**40), (1, 1))),
    ]
    kept, _ = run(stream, [3])
    assert len(kept) == 2
    given = {1: torch.tensor([3, -4])}
    assert torch.equal(values(kept, given)[3], values(stream, given)[3])


def test_two_transpositions_cancel() -> None:
    stream: list[ins.Instruction] = [ins.Map(2, 1, TURN), ins.Map(3, 2, TURN), ins.Map(4, 3, TURN)]
    kept, stands = run(stream, [3, 4])
    assert stands[3] == 1
    assert stands[4] == 2
    assert len(kept) == 1
    swap, other = LinearMap("transpose", (0, 1)), LinearMap("transpose", (0, 2))
    _, stands = run([ins.Map(2, 1, swap), ins.Map(3, 2, other)], [3])
    assert 3 not in stands


def test_an_opening_is_made_once_and_alone() -> None:
    stream: list[ins.Instruction] = [
        ins.Open((1, 2), ((2,), (3,))),
        ins.Combine(3, ((1, 1),)),
        ins.Open((3,), ((2,),)),
    ]
    kept, stands = run(stream, [3])
    assert stands[3] == 1
    assert [i.xs for i in kept if isinstance(i, ins.Open)] == [(1,), (2,)]
