"""What waits for the owner's answer at the parties, what the owner denied, and the owner's grants in force.

torchveil requests [--denied | --grants]
"""

from __future__ import annotations

import argparse

from torchveil.cli.owners import add_cluster, parties
from torchveil.network.consent.grants import describe_grant, describe_request


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--denied", action="store_true", help="list the requests that you denied instead")
    instead.add_argument("--grants", action="store_true", help="list the grants in force instead")
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
    requests = at.requests(denied=options.denied)
    for request in requests.values():
        print(describe_request(request))
    if not requests:
        print(f"{at.signer.role} denied nothing" if options.denied else f"nothing waits for {at.signer.role}")
    return 0
