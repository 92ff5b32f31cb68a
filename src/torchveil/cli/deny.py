"""Deny a request, so that repeating it fails at once, or withdraw a grant for good.

torchveil deny ID       16 digits: a request, as torchveil requests lists it
torchveil deny NONCE    32 digits: a grant, as torchveil requests --grants lists it
"""

from __future__ import annotations

import argparse

from torchveil.cli.owners import add_cluster, parties
from torchveil.cli.usage import UsageError


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("name", metavar="ID", help="of a request or of a grant")
    add_cluster(parser)


def run(options: argparse.Namespace) -> int:
    """Do it at all parties that know of it."""
    name = options.name
    if len(name) not in (16, 32) or set(name) - set("0123456789abcdef"):
        raise UsageError(f"{name!r} is no name of a request (16 hexadecimal digits) or of a grant (32)")
    at = parties(options)
    if len(name) == 16:
        at.deny(name)
        print(f"denied: {name}")
    else:
        at.withdraw(bytes.fromhex(name))
        print(f"withdrawn: {name}")
    return 0
