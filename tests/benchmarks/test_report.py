"""Figures in a page: inserted between markers, again without change, from measurements only."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.floors import COMPARISON_KERNELS, KEYSTREAM_KERNEL
from benchmarks.inputs import WORKS
from benchmarks.report import PAGES, Figures, amount, insert, markdown, milliseconds

TEXT = "before\n<!-- figures: a -->\nold\nlines\n<!-- end -->\nbetween\n<!-- figures: b -->\n<!-- end -->\nafter\n"


def test_blocks_are_replaced_and_the_rest_is_left_alone():
    once = insert(TEXT, {"a": "new\n", "b": "more"}.get)
    assert once == (
        "before\n<!-- figures: a -->\nnew\n<!-- end -->\nbetween\n<!-- figures: b -->\nmore\n<!-- end -->\nafter\n"
    )
    assert insert(once, {"a": "new\n", "b": "more"}.get) == once


def test_a_block_that_is_none_stays():
    assert insert(TEXT, lambda name: None) == TEXT


def test_backslashes_of_a_block_are_taken_as_they_are():
    assert "\\1 \\g<name>" in insert(TEXT, lambda name: "\\1 \\g<name>")


def test_cells():
    assert [milliseconds(s) for s in (0.0123456, 0.00123456, 1.5)] == ["12 ms", "1.2 ms", "1500 ms"]
    assert [amount(b) for b in (10_344, 4_011_712, 25_165_824)] == ["10.3 kB", "4.01 MB", "25.2 MB"]
    assert markdown(("", "x"), [("a", "1")]) == "|  | x |\n| --- | ---: |\n| a | 1 |"


def row(work: str, variant: str = "", **more: object) -> dict[str, object]:
    cost = {"instructions": 77, "rounds": 41, "sent_bytes": 1_000_000, "dealt_bytes": 2_000_000, "largest_error": None}
    time = {"seconds": 0.123, "cpu_seconds": 0.1, "plain_seconds": 0.001, "ratio": 123.0}
    return {"workload": work + variant, "work": work, **cost, **time, **more}


@pytest.fixture
def out(tmp_path):
    about = {
        "processor": "Abacus", "cores": 2, "torch": "2", "threads": 1, "kernels": "native", "repeats": 5,
        "load_start": 0.5, "load_end": 0.7, "peer": "Fake 1", "peer_mode": "two processes",
    }  # fmt: skip
    rows = [row(work.name) for work in WORKS]
    w4 = next(work.name for work in WORKS if work.name.startswith("W4"))
    rows.append(row(w4, ", compiled", rounds=36))
    figure = {
        "seconds": 2.0,
        "cpu_seconds": 3.0,
        "ratio": 16.26,
        "sent_bytes": 10,
        "rounds": 9,
        "largest_error": 0.5,
        "note": "with a note",
    }
    beside = [row(work.name, peer=figure) for work in WORKS[:-1]]
    beside.append(row(WORKS[-1].name, peer={"unavailable": "it has none"}))
    kernels = [{"kernel": name, "ns_per_element": 1.0} for name in COMPARISON_KERNELS]
    kernels += [{"kernel": name, "native_rate": 10.0} for name in ("mm 8", KEYSTREAM_KERNEL)]
    memory = {"bytes_per_element": 184.2, "peer": {"name": "Fake 1", "bytes_per_element": 1100.0}}
    files = {
        "bench": {"about": about, "rows": rows}, "kernels": {"results": kernels}, "memory": memory,
        "bench-peer": {"about": about, "rows": beside}, "memory-peer": memory,
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_the_page_has_a_marker_for_every_group_and_no_other(out):
    markers = re.findall(r"<!-- figures: ([\w-]+) -->", PAGES[0].read_text())
    groups = {work.name.split()[0] for work in WORKS}
    assert sorted(markers) == sorted({"machine", "memory", "peer", *groups})
    page = insert(PAGES[0].read_text(), Figures(out).build)
    assert all(work.name.split(" ", 1)[1] in page for work in WORKS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_filled_in_and_doing_it_again_changes_nothing(out, page):
    once = insert(page.read_text(), Figures(out).build)
    assert "| 41 |" in once  # rounds of the made-up measurements
    assert insert(once, Figures(out).build) == once


def test_a_variant_is_a_row_of_its_own(out):
    block = Figures(out).build("W4")
    assert [line.split(" | ")[0] for line in block.splitlines() if line.startswith("| ") and "---" not in line][1:] == [
        "| floor", "| floor, ranges known", "| reached", "| reached, compiled",
    ]  # fmt: skip
    assert "| reached, compiled | 77 | 36 |" in block


def test_an_unknown_marker_and_missing_measurements_are_errors(out, tmp_path):
    with pytest.raises(ValueError, match="W9"):
        Figures(out).build("W9")
    with pytest.raises(SystemExit, match="make performance"):
        Figures(tmp_path / "empty").build("memory")


def test_the_comparison_says_what_a_peer_is_and_what_it_cannot_do(out):
    block = Figures(out).build("peer")
    assert "Fake 1: two processes" in block
    assert "load average 0.5 at the start and 0.7 at the end" in block
    assert "2000 ms [1]" in block and "[1] with a note." in block
    assert f"{WORKS[-1].name}: not available, because it has none." in block
    assert "1100 with Fake 1" in block
