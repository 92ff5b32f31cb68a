"""What waits for the owner's answer at the parties, and the owner's grants in force.

torchveil requests [--grants]
"""

from __future__ import annotations

import argparse

from torchveil.cli.owners import add_cluster, parties
from torchveil.network.consent.grants import describe_grant, describe_request


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--grants", action="store_true", help="list the grants in force instead")
    add_cluster(parser)


def run(options: argparse.Namespace) -> int:
    """Print them."""
    at = parties(options)
    if options.grants:
        for party, listing in at.listings().items():
            for entry in listing.grants:
                print(f"{entry.grant.nonce.hex()} at {party}, {entry.left} of {entry.grant.quota} left")
                print(describe_grant(entry.grant))
        return 0
    requests = at.requests()
    for request in requests.values():
        print(describe_request(request))
    if not requests:
        print(f"nothing waits for {at.signer.role}")
    return 0
