"""Pages that say so are executed: blocks of Python run in order, and print what the page shows.

A page whose first line is ``<!-- executed -->`` and the README are run, each in a process and a namespace of its own. A
block marked ``text`` that follows a block of Python at once is what that block prints.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- executed -->"
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if page.name == "README.md" or page.read_text().startswith(MARK)
)
ALL_PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the line of the page where its code starts, the code."""

    language: str
    line: int
    code: str
    follows: bool  # nothing but the end of another block stands right above it


def blocks(page: Path) -> list[Block]:
    out: list[Block] = []
    lines = page.read_text().split("\n")
    start = None
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            language = lines[start - 1][3:].strip()
            code = "\n".join(lines[start : number - 1]) + "\n"
            out.append(Block(language, start + 1, code, start >= 2 and lines[start - 2] == "```"))
            start = None
    assert start is None, f"{page}: a block is not closed"
    return out


# Runs in the child: blocks come on standard input, what each prints goes back as JSON. Blocks keep the line numbers of
# the page, so that a traceback and the library's own messages point into it.
RUNNER = """
import contextlib, io, json, sys
page, blocks = json.load(sys.stdin)
namespace = {"__name__": "__main__"}
printed = []
for line, code in blocks:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile("\\n" * (line - 1) + code, page, "exec"), namespace)
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


def run(page: Path, code: list[Block]) -> list[str]:
    search = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([str(page), [(block.line, block.code) for block in code]]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": search},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{page} does not run:\n{done.stderr}"
    printed: list[str] = json.loads(done.stdout)
    return printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_prints_what_it_shows(page: Path) -> None:
    found = blocks(page)
    code = [block for block in found if block.language == "python"]
    assert code
    printed = dict(zip((block.line for block in code), run(page, code), strict=True))
    for block, following in zip(found, [*found[1:], None], strict=True):
        if block.language != "python":
            continue
        shown = following.code if following is not None and following.language == "text" and following.follows else ""
        assert printed[block.line].rstrip() == shown.rstrip(), f"{page}:{block.line}"


def test_there_are_executed_pages() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "docs/explanation/life-of-an-op.md"} <= names


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links of every page, and what `make` is told to do."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for target in re.findall(r"^\$? ?make ([a-z-]+)", text, flags=re.MULTILINE):
        assert target in targets, f"{page}: make {target}"
