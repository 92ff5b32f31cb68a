"""The gate table: instruction type -> protocol. Adding a gate is one file and one row."""

from __future__ import annotations

from typing import Any

from torchveil.gates import (
    bilinear,
    bits,
    comparison,
    equality,
    exponential,
    inputs,
    lift,
    linear,
    opening,
    public_product,
    reveal,
    rounding,
    selection,
    series,
    truncation,
    winner,
)
from torchveil.gates.base import FREE, Cost, Gate
from torchveil.program import instructions as ins


def _free(role: Any, i: ins.Free) -> None:
    role.free(i.xs)


FREE_GATE = Gate("free", False, _free, _free, _free, lambda _i, _n: FREE)

GATES: dict[type[ins.Instruction], Gate] = {
    ins.Input: inputs.GATE,
    ins.Constant: linear.CONSTANT,
    ins.Map: linear.MAP,
    ins.Concatenate: linear.CONCATENATE,
    ins.Combine: linear.COMBINE,
    ins.AddPublic: linear.ADD_PUBLIC,
    ins.Write: linear.WRITE,
    ins.Open: opening.GATE,
    ins.Round: rounding.GATE,
    ins.Lift: lift.GATE,
    ins.Bilinear: bilinear.GATE,
    ins.PublicProduct: public_product.GATE,
    ins.Truncate: truncation.GATE,
    ins.Compare: comparison.GATE,
    ins.Equal: equality.GATE,
    ins.Winner: winner.GATE,
    ins.MapBit: bits.MAP_BIT,
    ins.BitToArithmetic: bits.BIT_TO_ARITHMETIC,
    ins.WeighBits: bits.WEIGH_BITS,
    ins.Select: selection.GATE,
    ins.Exponential: exponential.GATE,
    ins.Series: series.GATE,
    ins.Refresh: reveal.REFRESH,
    ins.Reveal: reveal.REVEAL,
    ins.Free: FREE_GATE,
}


class Nature:
    """What the gates' formulas say of instructions, for ``n_parties``."""

    __slots__ = ("n_parties",)

    def __init__(self, n_parties: int) -> None:
        self.n_parties = n_parties

    def cost(self, i: ins.Instruction) -> Cost:
        """Rounds and bytes."""
        return GATES[type(i)].cost(i, self.n_parties)

    def rounds(self, i: ins.Instruction) -> int:
        """Exchanges."""
        return self.cost(i).rounds

    def dealt(self, i: ins.Instruction) -> int:
        """Bytes from the provider."""
        return self.cost(i).dealt

    def silent(self, i: ins.Instruction) -> bool:
        """Whether it uses no labels."""
        return GATES[type(i)].silent
