"""Rounds and bytes of functions at 16 bits, two parties, against formulas written out from those of their gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchveil import Session
from torchveil.functions.normalise import TWO_LEVELS_FROM

SMALL, LARGE = TWO_LEVELS_FROM - 8, TWO_LEVELS_FROM


@dataclass(frozen=True)
class Wanted:
    """Per element: ``openings`` of 8 bytes sent, ``short`` of them 6; ``compared`` are (thresholds, bits); dealt
    elements of 8 bytes, ``lifts`` of the truncations in four bytes."""

    rounds: int
    openings: int
    compared: tuple[tuple[int, int], ...]
    frequencies: int
    truncations: int = 0
    gated_truncations: int = 0
    products: int = 0
    selections: int = 0
    short: int = 1
    lifts: int = 0

    @property
    def sent(self) -> Fraction:
        return 8 * self.openings - 2 * self.short + sum(Fraction(33 * j + k, 8) for j, k in self.compared)

    @property
    def dealt(self) -> Fraction:
        bits = sum(32 + Fraction(96 * j + 1, 8) + 8 * k for j, k in self.compared)
        gates = 16 * self.frequencies + 16 * self.truncations - 12 * self.lifts + 32 * self.gated_truncations
        return bits + gates + 8 * (self.products + self.selections)


def step(frequencies: int) -> Wanted:
    return Wanted(rounds=5, openings=2, compared=((2, 2),), frequencies=frequencies, gated_truncations=1)


def ramp(frequencies: int) -> Wanted:
    return Wanted(5, 2, ((2, 2),), frequencies, gated_truncations=1, selections=2)


Function = Callable[[Tensor], Tensor]

CASES: dict[str, tuple[Function, int, Wanted]] = {
    "sigmoid": (torch.sigmoid, SMALL, step(16)),
    "tanh": (torch.tanh, SMALL, step(18)),
    "gelu": (F.gelu, SMALL, ramp(8)),
    "silu": (F.silu, SMALL, ramp(21)),
    # 4^0 .. 4^18 and their negatives; x, |x|, N, m, N with its sign, f twice, the product
    "reciprocal": (
        torch.reciprocal,
        SMALL,
        Wanted(9, 8, ((38, 20),), 9, truncations=2, products=2, selections=2, short=2),
    ),
    # 4^0, 4^6, 4^12, 4^18 and their negatives, then five powers; in addition a second m, N and the product of the Ns
    "reciprocal, two levels": (
        torch.reciprocal,
        LARGE,
        Wanted(14, 11, ((8, 5), (5, 5)), 9, truncations=2, products=4, selections=2, short=2),
    ),
    "sqrt": (torch.sqrt, SMALL, Wanted(9, 7, ((23, 23),), 6, truncations=2, products=2, short=2, lifts=1)),
    "sqrt, two levels": (torch.sqrt, LARGE, Wanted(14, 11, ((5, 5), (5, 5)), 6, truncations=2, products=4, short=2)),
    "rsqrt": (torch.rsqrt, SMALL, Wanted(9, 7, ((23, 23),), 7, truncations=2, products=2, short=2)),
    "log": (torch.log, SMALL, Wanted(7, 4, ((23, 23),), 7, truncations=1, products=1)),
    "log, two levels": (torch.log, LARGE, Wanted(12, 6, ((5, 5), (5, 5)), 7, truncations=1, products=2)),
}


@pytest.mark.parametrize("name", CASES)
def test_cost_is_as_stated(name: str) -> None:
    function, count, wanted = CASES[name]
    session = Session()
    x = session.share(torch.linspace(0.5, 3, count))
    before = session.cost().total
    function(x)
    after = session.cost().total
    assert after.rounds - before.rounds == wanted.rounds
    assert Fraction(after.sent - before.sent, count) == wanted.sent
    assert Fraction(after.dealt - before.dealt, count) == wanted.dealt


@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_the_cut_of_a_quotient_costs_three_rounds_and_two_comparisons(count: int) -> None:
    session = Session()
    x, y = session.share(torch.ones(count)), session.share(torch.ones(count))
    before = session.cost()
    quotient = x / y
    after = session.cost()
    rounds, compared = (12, ((38, 20),)) if count == SMALL else (17, ((8, 5), (5, 5)))
    # dividend, cut dividend, divisor, |divisor|, N, m, two to be truncated, two truncated, the product; and m, N, N
    openings = 12 if count == SMALL else 15
    cut = Wanted(0, 0, ((1, 1), (1, 1)), 0, selections=2, short=0)
    wanted = Wanted(rounds, openings, compared, 9, truncations=3, products=3 + 2 * (count == LARGE), selections=2)
    assert after.total.rounds - before.total.rounds == wanted.rounds
    assert Fraction(after.total.sent - before.total.sent, count) == wanted.sent + cut.sent
    # the two comparisons run as one of twice the size
    assert Fraction(after.total.dealt - before.total.dealt, count) == wanted.dealt + cut.dealt
    assert quotient.shape == (count,)
