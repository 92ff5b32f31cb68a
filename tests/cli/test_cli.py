"""``torchveil check file.py:Model``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from torchveil.cli import main
from torchveil.version import VERSION

PROGRAM = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))

class Bad(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Net()

    def forward(self, x):
        return torch.special.bessel_j0(self.inner(x))

def made():
    return Net()

def own_loss(out, y):
    return ((out - y) ** 2).sum()
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "some_program.py"
    path.write_text(PROGRAM)
    return str(path)


def test_a_program_that_runs(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [f"{file}:Net", "--input", "5x4", "--target", "5:int64", "--loss", "cross_entropy", "--optimizer", "Adam"]
    assert main(["check", *asked, "--lr", "0.01", "--by", "operations"]) == 0
    shown = capsys.readouterr().out
    assert "Net runs as it is." in shown and "training step 2" in shown and "reveal the loss, by operations" in shown


def test_json_parties_and_functions_of_the_file(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [f"{file}:made", "--input", "5x4", "--target", "5x2", "--loss", "own_loss", "--json", "--parties", "3"]
    assert main(["check", *asked, "--steps", "1", "--plan"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["parties"] == ["party0", "party1", "party2"]
    assert "training step as a plan" in [phase["name"] for phase in document["phases"]]


def test_a_program_that_does_not_run(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{file}:Bad", "--input", "5x4", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["unsupported"]
    assert found["op"] == "aten.special_bessel_j0.default" and "some_program.py:15" in found["line"]


@pytest.mark.parametrize(
    "asked",
    [
        ["nowhere.py:Net"],
        ["{file}:Nothing"],
        ["{file}:torch"],
        ["{file}:Net", "--input", "5xx"],
        ["{file}:Net", "--input", "5x4:float99"],
        ["{file}:Net", "--input", "5x4", "--optimizer", "Adam"],
        ["{file}:Net", "--input", "5x4", "--parties", "1"],
    ],
)
def test_arguments_that_make_no_sense(file: str, asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *[word.format(file=file) for word in asked]]) == 2
    assert capsys.readouterr().err.startswith("torchveil: ")


def test_a_missing_file_is_told_in_a_line_that_blames_no_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["audit", "show", "none.jsonl"], ["status", "none.toml"], ["certs", "issue", "none", "party/a"]):
        assert main([*words[:-1], str(tmp_path / words[-1])] if words[0] != "certs" else words) == 2
        told = capsys.readouterr().err
        assert "No such file" in told and "none" in told and "  at: " not in told, told


@pytest.mark.parametrize("content", ["a,b\n1,2\n", ""])
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "n.csv"
    log.write_text(content)
    for words in (["audit", "show", str(log)], ["audit", "show", str(log), "--kind", "reveal"]):
        assert main(words) == 2
        assert capsys.readouterr().err.startswith(f"torchveil: {log} holds no line of a log")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out == f"torchveil {VERSION}\n"
