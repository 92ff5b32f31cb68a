"""The page of conformance, from the record."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from conformance.judge import MORE, MOVES, STEPS, TOLERANCE, Outcome

Row = dict[str, Any]

#: What a sample must end as to say something about us.
_COUNTED = tuple(outcome.value[0] for outcome in Outcome if outcome is not Outcome.SKIPPED)


_INTRODUCTION = """\
# Conformance with torch

Written by `make conformance`. Do not edit.

torch {torch} has a database of its operators (`op_db` in `torch.testing`) with sample inputs for each. Every
operator in it that takes floats is run on shares here, and held to float64.

- **Operators of floats**: the entry supports float32, and the sample holds a tensor of floats. There are {operators}.
- **What is encrypted**: every tensor of floats, with {bits} bits after the point, between two parties. Whole numbers,
  truth values and Python numbers stay public, as indices and masks are.
- **Forward and backward**: where torch differentiates, the gradients for an encrypted random cotangent are compared as
  well; a sample passes only with both.
- **Tolerance**: |found - wanted| <= {tolerance} (1 + |wanted|), where `wanted` is float64 of the same numbers of the
  grid. Where that does not do, {steps} times the distance is added by which float64 itself moves, in {moves} runs, and
  in {more} before a number counts as wrong, if the result of each of torch's operations is off by up to a unit of the
  format, at random: a small difference of large numbers is no better known in fixed point. A matrix whose eigenvalues
  or singular values are asked for is off by a unit as well. Whole numbers and truth values must be equal.
- **PASS**; **UNSUPPORTED**: a typed error of ours, for the missing operation or a range, by name; **DIFFERS**:
  another result, silently; **BROKE**: an error that is not of ours. There must be none of the last two.
- **SKIPPED** is decided from torch's own run in float64, before anything is encrypted: numbers anywhere in it above
  2^31 / 2^{bits}, so that a product of two of them does not fit; results or inputs that are not finite; complex
  numbers, sparse layouts, undefined results, and what torch refuses in float64.
"""


def counted(row: Row) -> int:
    """How many samples of an operator say something."""
    return sum(row["samples"].count(letter) for letter in _COUNTED)


def share(row: Row) -> float:
    """How many of those pass."""
    return float(row["samples"].count("P") / counted(row))


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def _code(name: str) -> str:
    return f"`{name}`"


def _why(row: Row, outcome: Outcome) -> str:
    """The reasons of one outcome, the most frequent first."""
    found = [(what, error, count) for kind, error, what, count in row["why"] if kind == outcome.value]
    shown = [f"{_code(what) if outcome is Outcome.UNSUPPORTED else what} {count}" for what, _, count in found[:3]]
    return ", ".join(shown) + (", ..." if len(found) > 3 else "")


def table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    out += ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(out)


def _totals(rows: list[Row]) -> str:
    letters = Counter("".join(row["samples"] for row in rows))
    samples = sum(letters[letter] for letter in _COUNTED)
    some = [row for row in rows if counted(row)]
    return table(
        ("", "samples", "share"),
        [
            ("say something", str(samples), ""),
            ("PASS", str(letters["P"]), _percent(letters["P"] / samples)),
            ("UNSUPPORTED: a typed error", str(letters["U"]), _percent(letters["U"] / samples)),
            ("DIFFERS: another result, silently", str(letters["D"]), _percent(letters["D"] / samples)),
            ("BROKE: an error that is not of ours", str(letters["B"]), _percent(letters["B"] / samples)),
            ("SKIPPED (not counted)", str(letters["S"]), ""),
            ("mean share that passes, every operator alike", f"{len(some)} operators", _percent(_mean_share(some))),
        ],
    )


def _mean_share(rows: list[Row]) -> float:
    return sum(share(row) for row in rows) / len(rows)


def _errors(rows: list[Row]) -> str:
    found: Counter[str] = Counter()
    for row in rows:
        for kind, error, _, count in row["why"]:
            if kind == Outcome.UNSUPPORTED.value:
                found[error] += count
    return table(("error", "samples"), [(_code(error), str(count)) for error, count in found.most_common()])


def _missing(rows: list[Row]) -> str:
    lost: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for kind, _, what, count in row["why"]:
            if kind == Outcome.UNSUPPORTED.value:
                lost[what][row["name"]] += count
    order = sorted(lost.items(), key=lambda item: -sum(item[1].values()))
    return table(
        ("what raises", "samples", "operators"),
        [
            (
                _code(what),
                str(sum(names.values())),
                ", ".join(name for name, _ in names.most_common(4)) + (", ..." if len(names) > 4 else ""),
            )
            for what, names in order
            if sum(names.values()) >= 10
        ],
    )


def _skipped(rows: list[Row]) -> str:
    found: Counter[str] = Counter()
    for row in rows:
        for kind, _, what, count in row["why"]:
            if kind == Outcome.SKIPPED.value:
                found[what] += count
    return table(("reason", "samples"), [(what, str(count)) for what, count in found.most_common()])


def page(record: dict[str, Any]) -> str:
    """The whole page; the same record gives the same page."""
    rows: list[Row] = record["operators"]
    some = [row for row in rows if counted(row)]
    whole = [row for row in some if share(row) == 1]
    partly = sorted((row for row in some if 0 < share(row) < 1), key=lambda row: row["name"])
    none = sorted((row for row in some if share(row) == 0), key=lambda row: row["name"])
    parts = [
        _INTRODUCTION.format(
            torch=record["torch"],
            bits=record["bits"],
            operators=len(rows),
            tolerance=f"{TOLERANCE:.3g}",
            steps=STEPS,
            moves=MOVES,
            more=MORE,
        ),
        "## Totals",
        "",
        _totals(rows),
        "",
        f"All samples pass for {len(whole)} operators, some for {len(partly)}, none for {len(none)}.",
        "",
        "### Why samples are skipped",
        "",
        _skipped(rows),
        "",
        "### Which errors the unsupported raise",
        "",
        _errors(rows),
        "",
        "### What is missing most",
        "",
        _missing(rows),
        "",
        "## Operators that pass",
        "",
        ", ".join(f"`{row['name']}` ({row['samples'].count('P')})" for row in sorted(whole, key=lambda r: r["name"])),
        "",
        "## Operators that pass in part",
        "",
        table(
            ("operator", "pass", "of", "what raises", "skipped"),
            [
                (
                    _code(row["name"]),
                    str(row["samples"].count("P")),
                    str(counted(row)),
                    _why(row, Outcome.UNSUPPORTED),
                    _why(row, Outcome.SKIPPED),
                )
                for row in partly
            ],
        ),
        "",
        "## Operators that raise",
        "",
        table(
            ("operator", "samples", "what raises"),
            [(_code(row["name"]), str(counted(row)), _why(row, Outcome.UNSUPPORTED)) for row in none],
        ),
        "",
        "## Operators whose samples are all skipped",
        "",
        ", ".join(_code(row["name"]) for row in sorted(rows, key=lambda r: r["name"]) if not counted(row)) + ".",
        "",
    ]
    return "\n".join(parts)
