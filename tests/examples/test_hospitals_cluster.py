"""The cluster demonstration, with few epochs: what it gives, what it reveals, and that it leaves nothing behind."""

from __future__ import annotations

import importlib
import io
import json
import threading
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from torchveil import cli

pytest.importorskip("safetensors")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def running_with(text: str) -> list[str]:
    """The command lines of this machine's processes that name ``text``."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line.replace("\0", " "))
    return found


def test_it_gives_what_lockstep_gives_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("hospitals_cluster")
    lock = threading.Lock()  # where standard output goes is one thing for all threads

    def command(*words: object) -> str:  # as the example's, in this process: loading torch takes seconds
        out = io.StringIO()
        with lock, redirect_stdout(out):
            assert cli.main(list(map(str, words))) == 0, out.getvalue()
        printed.append(out.getvalue())
        return out.getvalue()

    printed: list[str] = []
    monkeypatch.setattr(example, "command", command)
    here, directory = tmp_path / "here", tmp_path / "cluster"
    here.mkdir()
    monkeypatch.chdir(here)
    summary = example.main(["--epochs", "2", "--seed", "1", "--json", "--directory", str(directory)])
    assert json.loads(capsys.readouterr().out) == summary

    lockstep, cluster = summary["lockstep"], summary["cluster"]
    assert abs(summary["difference_points"]) <= 1
    assert cluster["losses"] == pytest.approx(lockstep["losses"], abs=0.01)
    assert (cluster["rounds"], cluster["dealt_bytes"]) == (lockstep["rounds"], lockstep["dealt_bytes"])
    assert cluster["reveals"] == {"controller": 2 + 1, "owner/northside": 1}
    assert summary["statuses"] == {"alice": 0, "bob": 0, "notary": 0}
    assert any("nothing is wrong" in text and "party/bob" in text for text in printed)
    assert list(here.iterdir()) == []
    assert running_with(str(directory)) == []
    # each party wrote down who was given what: losses and counts, the model
    for party in ("alice", "bob"):
        lines = [json.loads(line) for line in (directory / party / "audit.jsonl").read_text().splitlines()]
        released = [line["receiver"] for line in lines if line["kind"] == "reveal"]
        assert released == ["controller/scientist"] * 3 + ["owner/northside"]
