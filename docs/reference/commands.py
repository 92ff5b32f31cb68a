"""Write commands.md from the commands' own parsers: python docs/reference/commands.py

A test compares the page with what this makes.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from torchveil.cli import COMMANDS, parser_of

PAGE = Path(__file__).with_name("commands.md")
_HEAD = """# Commands

Every command of `torchveil` with its options, made from the commands' own parsers by `docs/reference/commands.py`. The
same stands in `torchveil COMMAND --help`. [Run a cluster](../how-to/cluster.md) shows them at work. Exit status 2 is
that of wrong arguments, or of an error, which is printed with its number, what happened and what to do.

| command | |
|---|---|
"""


def page() -> str:
    """The text of the page."""
    out = [_HEAD, *(f"| [`{name}`](#torchveil-{name}) | {text} |\n" for name, (_, text) in COMMANDS.items())]
    for name in COMMANDS:
        commands = argparse.ArgumentParser(prog="torchveil").add_subparsers()
        parser_of(name, commands)
        out += _command(commands.choices[name], f"torchveil {name}", level=2)
    return "".join(out)


def _command(parser: argparse.ArgumentParser, name: str, *, level: int, summary: str = "") -> Iterator[str]:
    yield f"\n{'#' * level} {name}\n\n{_plain(parser.description or summary)}\n"
    rows = [row for action in parser._actions for row in _rows(action)]
    if rows:
        yield "\n| argument | |\n|---|---|\n"
        yield from rows
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for word, below in action.choices.items():
                said = texts[word][:1].upper() + texts[word][1:] + "."
                yield from _command(below, f"{name} {word}", level=level + 1, summary=said)


def _rows(action: argparse.Action) -> Iterator[str]:
    if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
        return
    value = "" if action.nargs == 0 else _value(action)
    flags = [f"`{flag}{' ' if value else ''}{value}`" for flag in action.option_strings] or [f"`{value}`"]
    notes = [action.help or ""]
    if action.choices is not None and action.metavar is not None:
        notes.append(f"one of {', '.join(map(str, action.choices))}")
    if action.required and action.option_strings:
        notes.append("has to be given")
    if action.default not in (None, False, "", [], argparse.SUPPRESS) and "default" not in notes[0]:
        notes.append(f"default: {action.default}")
    yield f"| {', '.join(flags)} | {_plain('; '.join(filter(None, notes))).replace('|', chr(92) + '|')} |\n"


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar + (" ..." if action.nargs in ("*", "+") else "")
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper() if action.option_strings else action.dest


def _plain(text: str) -> str:
    """What docstrings write in two backticks, in one; lines that show commands as blocks of code."""
    text = re.sub(r"``([^`]*)``", r"`\1`", text.strip())
    return re.sub(r"(?:^ {4}.*\n?)+", lambda found: "```text\n" + _left(found[0]) + "```\n", text, flags=re.MULTILINE)


def _left(block: str) -> str:
    return "".join(f"{line[4:]}\n" for line in block.splitlines())


if __name__ == "__main__":
    PAGE.write_text(page())
