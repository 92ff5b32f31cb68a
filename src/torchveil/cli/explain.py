"""The page of an error's number: what happened, when it occurs, what to do, an example.

    torchveil explain TV501

Without a number: the list of all. The pages are those of docs/reference/errors; a wheel carries them as package data.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from torchveil.cli.usage import UsageError

_PACKAGE = Path(__file__).resolve().parents[1]
#: In an installed wheel (pyproject.toml puts them there), and in a checkout.
_FOLDERS = (_PACKAGE / "explanations", _PACKAGE.parents[1] / "docs" / "reference" / "errors")


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("code", nargs="?", default="", help="the number of an error, such as TV501")


def run(options: argparse.Namespace) -> int:
    """Print the page."""
    text = page(options.code)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text, hyperlinks=False))
    else:
        print(text, end="")
    return 0


def page(code: str) -> str:
    """The page of a number as Markdown, with or without ``TV``; of no number the list. Raises ``UsageError``."""
    found = re.fullmatch(r"(?i:tv)?([0-9]{3})|", code.strip("[] "))
    name = f"TV{found[1]}.md" if found and found[1] else "index.md"
    file = next((folder / name for folder in _FOLDERS if (folder / name).is_file()), None)
    if found is None or file is None:
        raise UsageError(f"there is no error {code}: torchveil explain lists all")
    return file.read_text(encoding="utf-8")
