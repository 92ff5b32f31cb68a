"""The wiring table: a row for every instruction, and nothing forgotten in a row."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from torchveil.program import instructions as ins
from torchveil.program.wiring import WIRING, defines, reads, renamed

KINDS = [
    kind
    for _, kind in inspect.getmembers(ins, inspect.isclass)
    if issubclass(kind, ins.Instruction) and kind is not ins.Instruction
]

#: Fields that hold no identifiers.
_OTHER = {
    "shape", "shapes", "map", "dim", "constant", "value", "path", "again", "function", "options", "left", "divisor",
    "negate", "thresholds", "outputs", "values", "flip", "weights", "unit", "mask_bits", "factor_bits", "frequencies",
    "cosines", "sines", "receiver", "reach", "factor", "follow", "zeros",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_is_an_identifier_or_known_not_to_be(kind: type[ins.Instruction]) -> None:
    read, defined = WIRING[kind]
    for field in dataclasses.fields(kind):
        listed = field.name in read or field.name in defined
        bits = field.name == "bits" and kind is not ins.WeighBits
        assert listed or bits or field.name in _OTHER, f"{kind.__name__}.{field.name}"


def test_reads_defines_renamed() -> None:
    i = ins.Combine(7, ((3, 2), (4, -1)), 5)
    assert (reads(i), defines(i)) == ((3, 4), (7,))
    other = renamed(i, lambda x: -x)
    assert isinstance(other, ins.Combine)
    assert (other.out, other.terms, other.constant) == (-7, ((-3, 2), (-4, -1)), 5)
    gated = ins.Truncate(1, 2, None, 16, (3,))
    assert reads(gated) == (2,)
    assert reads(renamed(ins.Truncate(1, 2, 9, 16, (3,)), lambda x: x + 1)) == (3, 10)
    batch = ins.Compare((5, 6), 2, False, (0, 1), (((0,), False), ((1,), False)), (4,))
    assert (reads(batch), defines(batch)) == ((2,), (5, 6))
