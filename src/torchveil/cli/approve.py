"""Approve a request: the owner signs a grant for exactly this value, once.

    torchveil approve ID [--days 30]

Exit status: 0, or 1 if the owner did not say yes, or 2 if something could not be done.
"""

from __future__ import annotations

import argparse

from torchveil.cli.owners import add_cluster, add_days, agreed, begun, parties, seconds_of, signing_time
from torchveil.network.consent.grants import describe_request


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("request", metavar="ID", help="as torchveil requests lists it")
    add_cluster(parser)
    add_days(parser)


def run(options: argparse.Namespace) -> int:
    """Show it, ask, sign, give it to all parties."""
    at = parties(options)
    request = at.request(options.request)
    if not agreed(options, describe_request(request)):
        return 1
    grant = at.approve(request, now=signing_time(), seconds=seconds_of(options))
    begun(grant)
    print(f"granted: {grant.nonce.hex()}; {request.receiver} may ask again now")
    return 0
