"""Cost grows linearly with batch and parameters: bytes on a line exactly, rounds the same for all sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scaling


def point(size: int, sent: int, dealt: int, rounds: int = 9) -> scaling.Point:
    return scaling.Point(size, size, 8, 0.1, 0.01, rounds, sent, dealt)


def test_a_line_is_a_line_exactly() -> None:
    assert scaling.affine([1, 2, 4, 8], [10, 13, 19, 31])
    assert not scaling.affine([1, 2, 4, 8], [10, 13, 20, 31])
    assert scaling.affine([3, 7], [5, 5])


def test_what_does_not_grow_as_it_should_is_told() -> None:
    points = [point(8, 108, 216), point(16, 116, 232), point(32, 132, 264)]
    assert scaling.faults(points) == []
    assert "sent_bytes" in scaling.faults([*points[:1], replace(points[1], sent_bytes=117), *points[2:]])[0]
    assert "dealt_bytes" in scaling.faults([*points[:1], replace(points[1], dealt_bytes=231), *points[2:]])[0]
    assert "rounds" in scaling.faults([*points[:2], replace(points[2], rounds=10)])[0]


@pytest.mark.parametrize("parties", [2, 3])
def test_the_cost_of_a_step_is_linear(parties: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, picture = tmp_path / "out" / "scaling.json", tmp_path / "out" / "scaling.svg"
    small = ["--batches", "8", "16", "32", "64", "128", "--widths", "8", "16", "24", "40", "64", "--repeats", "1"]
    assert scaling.main([*small, "--parties", str(parties), "--json", str(figures), "--plot", str(picture)]) == 0
    assert "exactly" in capsys.readouterr().out
    read = json.loads(figures.read_text())
    assert read["linear"] is True
    assert [p["size"] for p in read["series"]["samples in a batch"]] == [8, 16, 32, 64, 128]
    assert [p["size"] for p in read["series"]["parameters"]] == [scaling.parameters(h) for h in (8, 16, 24, 40, 64)]
    assert all(p["sent_bytes"] > 0 and p["rounds"] > 0 for points in read["series"].values() for p in points)
    assert picture.read_text().lstrip().startswith("<?xml")


def test_the_program_fails_when_growth_is_not_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    def squares(sizes: list[tuple[int, int, int]], *, parties: int, repeats: int) -> list[scaling.Point]:
        return [point(size, size * size, size) for size, _, _ in sizes]

    monkeypatch.setattr(scaling, "measure", squares)
    assert scaling.main([]) == 1
