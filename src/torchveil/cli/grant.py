"""Grant the release of a result, or a bit budget, to one receiver.

    torchveil grant --to controller-carol.pem --plan DIGEST --slot 0 [--releases 1] [--shape 3x2] [--days 30]
    torchveil grant --to controller-carol.pem --bits 640 [--shape 10]

Exit status: 0, or 1 if the owner did not say yes, or 2 if something could not be done.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from torchveil.cli.owners import add_cluster, add_days, agreed, begun, identity_in, parties, seconds_of, signing_time
from torchveil.cli.usage import UsageError
from torchveil.network.consent.grants import describe_grant, new_grant

#: No number of a grant has more digits.
_NUMBER = re.compile("[0-9]{1,18}")


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--to", type=Path, required=True, metavar="PEM", help="the certificate of who may see it")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--plan", type=_digest, metavar="DIGEST", help="64 hexadecimal digits: an output of this plan")
    what.add_argument("--bits", type=_count, help="a bit budget: ANY function of your data, up to so many bits")
    parser.add_argument("--slot", type=_slot, help="which output of the plan (default: 0)")
    parser.add_argument("--releases", type=_count, help="how often (default: 1)")
    parser.add_argument("--shape", type=_shape, metavar="3x2", help="only values of this shape (default: any)")
    add_cluster(parser)
    add_days(parser)


def run(options: argparse.Namespace) -> int:
    """Show it, ask, sign, give it to all parties."""
    if options.bits is not None and (options.slot is not None or options.releases is not None):
        raise UsageError("--slot and --releases belong to --plan; a budget counts bits")
    at = parties(options)
    receiver = identity_in(options.to, options.cluster)
    grant = new_grant(
        at.signer,
        str(receiver.role),
        receiver.fingerprint,
        quota=options.bits if options.plan is None else _or(options.releases, 1),
        now=signing_time(),
        seconds=seconds_of(options),
        plan=options.plan,
        slot=None if options.plan is None else _or(options.slot, 0),
        shape=options.shape,
    )
    if not agreed(options, describe_grant(grant)):
        return 1
    at.grant(grant)
    begun(grant)
    print(f"granted: {grant.nonce.hex()} (take it back: torchveil deny {grant.nonce.hex()})")
    return 0


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


def _digest(text: str) -> bytes:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError("a plan is named by 64 hexadecimal digits, which an error or a request shows")
    return bytes.fromhex(text)


def _count(text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _slot(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split("x") if text != "scalar" else []
    if not all(map(_NUMBER.fullmatch, sizes)):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape: write 3x2 for a matrix, 3 for a vector, or scalar")
    return tuple(map(int, sizes))
