"""Every command that asks a cluster takes cluster.toml of its directory, or ``--cluster FILE``."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchveil.cli import main

#: Commands with the arguments that they need.
ASKING = (
    "status --once",
    "doctor",
    "share x.csv --as hospital-a/x",
    "datasets",
    "unshare hospital-a/x",
    "requests",
    "approve 0123456789abcdef",
    "deny 0123456789abcdef",
    "grant --to controller-carol.pem --bits 64",
    "results",
    "audit verify --ask",
)


@pytest.mark.parametrize("words", ASKING)
def test_the_same_file_unless_one_is_named(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for more, asked in (([], "cluster.toml"), (["--cluster", "other.toml"], "other.toml")):
        assert main([*words.split(), *more]) == 2
        assert f"{asked} cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status --once", "doctor", "datasets"])
def test_the_file_may_be_the_first_word(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), "other.toml"]) == 2
    assert "other.toml" in capsys.readouterr().err
    assert main([*command.split(), "other.toml", "--role", "alice.toml"]) == 2
    assert "not both" in capsys.readouterr().err
