"""The command ``torchveil``: a table of commands, one module each.

A command's module has ``add(parser)``, its arguments, and ``run(options)``, which returns the exit status. It is
imported when the command is called. Exit status 2: wrong arguments, or an error of ours, which is printed in full.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from torchveil.cli.usage import UsageError
from torchveil.errors import TorchveilError
from torchveil.version import VERSION
from torchveil.where import user_frame

_PACKAGE = Path(__file__).parents[1]

#: command -> (its module in this package, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "check": ("check", "what of a model runs encrypted, and what it will cost"),
    "certs": ("certs", "make, show and check the certificates of a cluster"),
    "worker": ("serve", "run a party"),
    "provider": ("serve", "run the provider"),
    "status": ("status", "how the roles of a cluster are, as a live table"),
    "doctor": ("doctor", "what is wrong with a cluster, how fast it is, and how long a program will take on it"),
    "share": ("share", "split a file between the parties of a cluster"),
    "datasets": ("datasets", "list what owners shared: names and shapes, never data"),
    "unshare": ("unshare", "delete what was shared, at every party"),
    "requests": ("requests", "what waits for your answer, and what you granted"),
    "approve": ("approve", "allow exactly what a request asks for, once"),
    "deny": ("deny", "refuse a request, or withdraw a grant"),
    "grant": ("grant", "allow somebody to see a result made from your data"),
    "results": ("results", "fetch what a controller had made for you"),
    "audit": ("audit", "read and check the logs of releases"),
    "explain": ("explain", "what an error's number means, and what to do"),
}


def parser_of(name: str, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add a command with its arguments; its help begins with what its module says."""
    module_name, text = COMMANDS[name]
    module = import_module(f"torchveil.cli.{module_name}")
    command = commands.add_parser(
        name, help=text, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add(command)
    command.set_defaults(run=module.run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="torchveil", description="PyTorch on secret-shared tensors")
    parser.add_argument("--version", action="version", version=f"torchveil {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (_, text) in COMMANDS.items():
        if name in given[:1]:
            parser_of(name, commands)
        else:
            commands.add_parser(name, help=text)
    options = parser.parse_args(given)
    try:
        with _plain_warnings():
            status: int = options.run(options)
    except (TorchveilError, UsageError) as error:
        print(f"torchveil: {_told(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"torchveil: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return status


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings of ours without the line of our program that gave them; others as ever, with their place."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
            if Path(filename).is_relative_to(_PACKAGE):
                print(f"torchveil: warning: {message}", file=sys.stderr)
            else:
                others(message, category, filename, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _told(error: Exception) -> str:
    """An error without the line of the program that called ``main``: nobody who types a command wrote that."""
    caller = user_frame()
    hidden = "" if caller is None else f"  at: {caller[0].co_filename}:"
    return "\n".join(line for line in str(error).split("\n") if not (hidden and line.startswith(hidden)))
