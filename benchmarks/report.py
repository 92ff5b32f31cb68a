"""Write the figures of the documentation: tables made from JSON, put between markers of a page.

    python -m benchmarks.report [--peer] [--out out]

In each of ``PAGES``, what stands between ``<!-- figures: NAME -->`` and ``<!-- end -->`` is replaced by the block NAME;
the rest is left alone, and doing it twice changes nothing. Read are ``bench.json`` (benchmarks.run), ``kernels.json``
(benchmarks.kernels) and ``memory.json`` (benchmarks.memory). ``--peer`` writes only the block ``peer``, from
``bench-peer.json`` and ``memory-peer.json``; without it that block stays as it is.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.floors import FULL, RANGES, Floor, cpu_seconds, floor, product_rate, seconds_per_comparison
from benchmarks.inputs import WORKS, Work

Row = dict[str, Any]
Kernels = dict[str, Row]

_ROOT = Path(__file__).parents[1]
PAGES = (_ROOT / "docs" / "explanation" / "performance.md", _ROOT / "README.md")

_MARKED = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def insert(page: str, build: Callable[[str], str | None]) -> str:
    """``page`` with the text between markers replaced by ``build(name)``, or left as it is where that is None."""

    def replaced(found: re.Match[str]) -> str:
        block = build(found["name"])
        return found[0] if block is None else f"{found[1]}{block.rstrip()}\n{found[3]}"

    return _MARKED.sub(replaced, page)


# --- cells -----------------------------------------------------------------------------------------------------------


def milliseconds(seconds: float) -> str:
    """Two significant digits below 100 ms, whole milliseconds above."""
    value = seconds * 1e3
    return f"{value:.0f} ms" if value >= 10 else f"{value:.2g} ms"


def amount(n_bytes: float) -> str:
    """Bytes in kB or MB, three significant digits or whole."""
    value, unit = (n_bytes / 1e6, "MB") if n_bytes >= 1e6 else (n_bytes / 1e3, "kB")
    return f"{value:.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def times(ratio: float) -> str:
    """A ratio with two significant digits or whole."""
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; all columns but the first aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- blocks ----------------------------------------------------------------------------------------------------------

_HEAD = (
    "",
    "instructions",
    "rounds",
    "sent by each party",
    "dealt",
    "CPU, all roles",
    "time",
    "clear torch",
    "time / clear",
)


def _floor_row(label: str, found: Floor, kernels: Kernels) -> list[str]:
    cpu = milliseconds(cpu_seconds(found, kernels))
    return [label, "", str(found.rounds), amount(found.sent_bytes), amount(found.dealt_bytes), cpu, "", "", ""]


def _reached_row(row: Row) -> list[str]:
    label = "reached" + row["workload"].removeprefix(row["work"])
    bytes_ = (amount(row["sent_bytes"]), amount(row["dealt_bytes"]))
    clear, ratio = milliseconds(row["plain_seconds"]), times(row["ratio"])
    cpu = milliseconds(row["cpu_seconds"])
    return [
        label,
        str(row["instructions"]),
        str(row["rounds"]),
        *bytes_,
        cpu,
        milliseconds(row["seconds"]),
        clear,
        ratio,
    ]


def workload_block(work: Work, rows: Sequence[Row], kernels: Kernels) -> str:
    """Floors and what was reached for one workload, its variants in rows of their own, and the floor's rounds."""
    full, ranges = floor(work, FULL), floor(work, RANGES)
    lines = [_floor_row("floor", full, kernels), _floor_row("floor, ranges known", ranges, kernels)]
    lines += [_reached_row(row) for row in rows]
    name = work.name.split(" ", 1)[1]
    return f"**{name}**\n\n{markdown(_HEAD, lines)}\n\nRounds of the floor: {full.derivation()}.\n"


def group_block(group: str, bench: Row, kernels: Kernels) -> str:
    """All workloads whose name starts with the group's."""
    blocks = []
    for work in WORKS:
        rows = [row for row in bench["rows"] if row["work"] == work.name]
        if work.name.split()[0] == group and rows:
            blocks.append(workload_block(work, rows, kernels))
    return "\n".join(blocks)


def machine_block(bench: Row, kernels: Kernels) -> str:
    """Where and how the figures were taken, and the kernels' speed that the floors use."""
    about = bench["about"]
    return (
        f"{about['processor']}, {about['cores']} cores; torch {about['torch']}, {about['threads']} thread(s); "
        f"{about['kernels']} kernels. Medians of {about['repeats']} runs, encrypted and clear in turn; load average "
        f"{about['load_start']:.1f} at the start and {about['load_end']:.1f} at the end. The kernels on one core, "
        f"operands in cache: products {product_rate(kernels) / 1e9:.0f} G multiplications a second, "
        f"a comparison {seconds_per_comparison(kernels) * 1e9:.1f} ns over all roles.\n"
    )


def summary_block(bench: Row) -> str:
    """The tutorial and a training step with their variants, in short."""
    rows = [
        [
            row["workload"].split(" ", 1)[1],
            milliseconds(row["seconds"]),
            milliseconds(row["plain_seconds"]),
            str(row["rounds"]),
            amount(row["sent_bytes"]),
            amount(row["dealt_bytes"]),
        ]
        for row in bench["rows"]
        if row["work"].split()[0] in ("W1", "W4")
    ]
    about, head = bench["about"], ("", "time", "clear torch", "rounds", "sent by each party", "dealt")
    taken = (
        f"{about['processor']}, {about['threads']} thread(s), {about['kernels']} kernels, load average "
        f"{about['load_start']:.1f} to {about['load_end']:.1f}:"
    )
    return f"{taken}\n\n{markdown(head, rows)}\n"


def memory_block(memory: Row) -> str:
    return f"Reached: {memory['bytes_per_element']:.0f} bytes per element over all three roles.\n"


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1g}"


def _peer_row(row: Row, marks: dict[str, int]) -> list[str]:
    peer = row["peer"]
    head = [row["workload"], milliseconds(row["seconds"]), milliseconds(row["plain_seconds"])]
    if "unavailable" in peer:
        return [*head, "not available", "", "", "", "", "", ""]
    mark = f" [{marks[peer['note']]}]" if peer["note"] else ""
    cpu = f"{milliseconds(row['cpu_seconds'])}; {milliseconds(peer['cpu_seconds'])}"
    traffic = [f"{amount(row['sent_bytes'])}; {amount(peer['sent_bytes'])}", f"{row['rounds']}; {peer['rounds']}"]
    errors = [_error(row["largest_error"]), _error(peer["largest_error"])]
    return [*head, milliseconds(peer["seconds"]) + mark, times(peer["ratio"]), cpu, *traffic, *errors]


def peer_block(bench: Row, memory: Row) -> str:
    """A peer beside ours and clear torch, from one run; what it cannot do is said and not left out."""
    about, rows = bench["about"], bench["rows"]
    name = about["peer"]
    marks: dict[str, int] = {}
    for row in rows:
        if note := row["peer"].get("note"):
            marks.setdefault(note, len(marks) + 1)
    head = (
        "",
        "torchveil",
        "clear torch",
        name,
        f"{name} / torchveil",
        "CPU, all roles: ours; theirs",
        "sent by each party: ours; theirs",
        "rounds: ours; theirs",
        "largest error: ours",
        "theirs",
    )
    lines = [
        f"{name}: {about['peer_mode']}. torchveil: all roles in one process, {about['threads']} thread(s), "
        f"{about['kernels']} kernels. Medians of {about['repeats']} runs, the three in turn; load average "
        f"{about['load_start']:.1f} at the start and {about['load_end']:.1f} at the end.\n",
        markdown(head, [_peer_row(row, marks) for row in rows]) + "\n",
    ]
    lines += [f"[{mark}] {note}.\n" for note, mark in marks.items()]
    lines += [
        f"{row['workload']}: not available, because {row['peer']['unavailable']}.\n"
        for row in rows
        if "unavailable" in row["peer"]
    ]
    lines.append(
        f"Peak memory of relu on 2^20 elements, all roles: {memory['bytes_per_element']:.0f} bytes per element with "
        f"torchveil, {memory['peer']['bytes_per_element']:.0f} with {memory['peer']['name']}.\n"
    )
    return "\n".join(lines)


class Figures:
    """The measurements in a folder; ``build`` makes a block of them."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def _read(self, name: str) -> Any:
        path = self._out / name
        if not path.exists():
            raise SystemExit(f"{path} is missing: make performance writes it")
        return json.loads(path.read_text())

    def _kernels(self) -> Kernels:
        return {row["kernel"]: row for row in self._read("kernels.json")["results"]}

    def _machine(self) -> str:
        return machine_block(self._read("bench.json"), self._kernels())

    def _summary(self) -> str:
        return summary_block(self._read("bench.json"))

    def _memory(self) -> str:
        return memory_block(self._read("memory.json"))

    def _peer(self) -> str:
        return peer_block(self._read("bench-peer.json"), self._read("memory-peer.json"))

    def build(self, name: str) -> str:
        """The block of that name; raises ``ValueError`` for a name that there is nothing for."""
        special = {"machine": self._machine, "summary": self._summary, "memory": self._memory, "peer": self._peer}
        if name in special:
            return special[name]()
        block = group_block(name, self._read("bench.json"), self._kernels())
        if not block:
            raise ValueError(f"no measured workload belongs to the marker {name!r}")
        return block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="the folder that holds the JSON files")
    parser.add_argument("--peer", action="store_true", help="write the comparison with a peer, and nothing else")
    options = parser.parse_args()
    figures = Figures(options.out)

    def chosen(name: str) -> str | None:
        return figures.build(name) if (name == "peer") == options.peer else None

    for page in PAGES:
        page.write_text(insert(page.read_text(), chosen))


if __name__ == "__main__":
    main()
