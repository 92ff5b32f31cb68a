"""Every error has a page, every page an error; what a page shows as Python raises that error."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from torchveil import errors
from torchveil.cli import COMMANDS, main
from torchveil.errors import TorchveilError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference" / "errors"
CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TorchveilError)]
CODES = sorted({kind.code for kind in CLASSES})
SECTIONS = ["What happened", "When", "What to do", "Example"]


def test_every_error_has_its_page_and_every_page_its_error() -> None:
    assert {page.stem for page in FOLDER.glob("*.md")} == {*CODES, "index"}


@pytest.mark.parametrize("code", CODES)
def test_a_page_names_its_classes_and_has_all_sections(code: str) -> None:
    lines = (FOLDER / f"{code}.md").read_text().splitlines()
    names = [kind.__name__ for kind in CLASSES if kind.code == code]
    assert lines[0] == f"# {code}: {', '.join(names)}"
    assert [line[3:] for line in lines if line.startswith("## ")] == SECTIONS
    parts = re.split(r"^## .*$", "\n".join(lines), flags=re.MULTILINE)[1:]
    assert all(len(part.split()) >= 4 for part in parts)


@pytest.mark.parametrize("code", CODES)
def test_an_example_raises_its_error(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", (FOLDER / f"{code}.md").read_text(), re.S | re.M):
        if language != "python":
            assert language in ("text", "console")
            continue
        with pytest.raises(TorchveilError) as raised:
            exec(compile(block, f"{code}.md", "exec"), {})
        expected = tuple(kind for kind in CLASSES if kind.code == code)
        assert isinstance(raised.value, expected), f"{code}: {raised.value}"


def test_messages_that_pages_show_have_the_form_of_errors() -> None:
    for page in FOLDER.glob("TV*.md"):
        for message in re.findall(r"^\[(TV\d+)\]", page.read_text(), re.M):
            assert message == page.stem


def test_the_index_lists_all() -> None:
    listed = re.findall(r"^\| \[(TV\d+)\]\((TV\d+)\.md\) \| (.*?) \|", (FOLDER / "index.md").read_text(), re.M)
    assert [code for code, _, _ in listed] == sorted(CODES)
    for code, link, names in listed:
        assert code == link
        assert names == ", ".join(f"`{kind.__name__}`" for kind in CLASSES if kind.code == code)


def test_codes_are_one_per_class_but_for_the_two_bases() -> None:
    with_code = [kind.code for kind in CLASSES if kind.code != "TV000"]
    assert len(with_code) == len(set(with_code))


@pytest.mark.parametrize("asked", ["TV501", "tv501", "501", "[TV501]"])
def test_explain_prints_the_page(asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", asked]) == 0
    assert capsys.readouterr().out == (FOLDER / "TV501.md").read_text()


def test_explain_without_a_number_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    assert capsys.readouterr().out.startswith("# Errors by number")


@pytest.mark.parametrize("asked", ["TV999", "5010", "../TV501", "index", "TV"])
def test_what_is_no_number(asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", asked]) == 2
    assert "there is no error" in capsys.readouterr().err


def test_a_wheel_carries_the_pages() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"] == {"docs/reference/errors": "torchveil/explanations"}


def test_commands_that_pages_name_exist() -> None:
    for page in [*FOLDER.glob("*.md"), ROOT / "docs" / "how-to" / "operate.md"]:
        for command in re.findall(r"(?:`|[$#] |bin/)torchveil ([a-z]+)", page.read_text()):
            assert command in COMMANDS, f"{page.name}: torchveil {command}"
