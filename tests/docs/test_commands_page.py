"""docs/reference/commands.md is what the parsers say, and --help says it too."""

from __future__ import annotations

import runpy

import pytest

from tests.docs.test_pages import ROOT
from torchveil.cli import COMMANDS, main

SCRIPT = ROOT / "docs" / "reference" / "commands.py"


def test_the_page_is_up_to_date() -> None:
    made = runpy.run_path(str(SCRIPT))["page"]()
    assert SCRIPT.with_suffix(".md").read_text() == made, "run: python docs/reference/commands.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_what_the_command_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert f"torchveil {name} " in told.partition("\n\n")[2]  # how it is called, as an example
