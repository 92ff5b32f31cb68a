"""The page of operations: errors and costs of every function of the table, from the record."""

from __future__ import annotations

from typing import Any

from conformance.functions import FUNCTIONS
from conformance.page import table

Line = dict[str, Any]

_INTRODUCTION = """\
# Operations: errors, costs, ranges

Written by `make accuracy`. Do not edit.

Largest errors over {points} points of the range, among them both ends, zero and the places where a function changes its
piece, with their neighbours on the grid, and over {tested} such points {again} times: rounding is random, and its rare
cases show at the same point. An error is against float64 of the same numbers of the grid. The second number of a cell
is the largest error relative to the result, where that is at least 1 in magnitude. One unit is 1.5e-05 at 16 bits and
9.5e-07 at 20. Results are read as the next operation would take them, truncated.

Gradients are for an encrypted cotangent of ones, where the wanted number is at most 2^31 / scale (2^15 at 16 bits,
2^11 at 20), so that a product with it fits.
"""

_COSTS = """\
## Costs, and what lies outside

Two parties, {costed} numbers, 16 bits: rounds; bytes that each party sends; bytes that the provider deals; per number
of the first operand. The opening of the operands is included; a value that was opened before saves it. A gradient's
cost is what comes after the forward pass.
"""


def _cell(error: list[float] | None) -> str:
    if error is None:
        return ""
    absolute, relative = error
    return f"{absolute:.2g}" + (f"; {relative:.2g}" if relative else "") if absolute else "exact"


def _errors(lines: dict[tuple[str, int], Line]) -> str:
    rows = []
    for name, function in FUNCTIONS.items():
        pair = [lines[name, bits] for bits in (16, 20)]
        if "raises" in pair[0]:
            rows.append((name, function.extent, f"raises (`{pair[0]['raises']}`)", "", "", ""))
            continue
        cells = [_cell(line.get(way)) for way in ("forward", "backward") for line in pair]
        if "gradient_raises" in pair[0]:
            cells[2] = f"raises (`{pair[0]['gradient_raises']}`)"
        rows.append((name, function.extent, *cells))
    return table(("function", "range", "16 bits", "20 bits", "gradient, 16 bits", "gradient, 20 bits"), rows)


def _amounts(cost: list[float] | None) -> tuple[str, str, str]:
    if cost is None:
        return ("", "", "")
    rounds, sent, dealt = cost
    return f"{rounds:.0f}", f"{sent:.4g}", f"{dealt:.4g}"


def _costs(lines: dict[tuple[str, int], Line]) -> str:
    rows = []
    for name, function in FUNCTIONS.items():
        line = lines[name, 16]
        if "raises" not in line:
            rows.append((name, *_amounts(line["cost"]), *_amounts(line.get("gradient_cost")), function.outside))
    head = ("function", "rounds", "sent", "dealt", "gradient: rounds", "sent", "dealt", "outside the range")
    return table(head, rows)


def page(record: dict[str, Any], costed: int) -> str:
    """The whole page; the same record gives the same page."""
    lines = {(line["name"], line["bits"]): line for line in record["lines"]}
    counts = {key: f"{record[key]:,}" for key in ("points", "tested", "again")}
    parts = [
        _INTRODUCTION.format(**counts),
        _errors(lines),
        "",
        _COSTS.format(costed=f"{costed:,}"),
        _costs(lines),
    ]
    return "\n".join(parts) + "\n"
