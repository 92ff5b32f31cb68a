"""What an owner does about consent, at all parties of a cluster: grant, list, approve, deny, withdraw.

A grant has to lie at every party, since a value needs the shares of all. If a command reached only some parties, the
owner runs it again: a grant that is not at all parties releases nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from torchveil.errors import ConsentError, GrantInvalid, TorchveilError
from torchveil.network.consent.grants import MAX_LIST_BYTES, Grant, Request, answer, decode, encode, sign_grant
from torchveil.network.consent.identities import Signer
from torchveil.network.consent.services import Denial, Heads, Listing, Withdrawal

#: (name of a service, arguments) -> result, at one party
Ask = Callable[[str, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Parties:
    """The parties of a cluster as an owner reaches them, by role; ``signer``: the owner's credentials."""

    asks: Mapping[str, Ask] = field(repr=False)
    signer: Signer = field(repr=False)

    def _everywhere(self, service: str, arguments: msgspec.Struct) -> None:
        """Ask all, and say of whom it was not done."""
        done, failed = [], []
        for party, ask in self.asks.items():
            try:
                ask(service, encode(arguments))
                done.append(party)
            except TorchveilError as error:
                failed.append(f"{party}: {error}")
        if failed:
            raise ConsentError(
                f"not done at all parties (done at: {', '.join(done) or 'none'})\n" + "\n".join(failed),
                remedy="mend that and run the command again",
            )

    def listings(self) -> dict[str, Listing]:
        """What waits for the owner, and the owner's grants, at every party."""
        return {party: decode(ask("consent/list", b""), Listing, MAX_LIST_BYTES) for party, ask in self.asks.items()}

    def requests(self, *, denied: bool = False) -> dict[str, Request]:
        """What waits for the owner at any party, or was denied there, by the name that the parties know it by."""
        found: dict[str, Request] = {}
        for listing in self.listings().values():
            # the name is worked out here: a party cannot show another request under it than it files
            found.update((request.id, request) for request in (listing.denied if denied else listing.requests))
        return found

    def request(self, name: str) -> Request:
        """One of them, waiting or denied. Raises ``GrantInvalid``."""
        request = self.requests().get(name) or self.requests(denied=True).get(name)
        if request is None:
            raise GrantInvalid(f"no request {name} waits for {self.signer.role}", remedy="see torchveil requests")
        return request

    def grant(self, grant: Grant) -> None:
        """Sign a grant and give it to all parties."""
        self._everywhere("consent/grant", sign_grant(self.signer, grant))

    def approve(self, request: Request, *, now: float, seconds: int) -> Grant:
        """Grant exactly this request, once."""
        grant = answer(self.signer, request, now=now, seconds=seconds)
        self.grant(grant)
        return grant

    def deny(self, name: str) -> None:
        """Refuse a request wherever it waits."""
        asked = [
            party for party, listing in self.listings().items() if name in [request.id for request in listing.requests]
        ]
        if not asked:
            raise GrantInvalid(f"no request {name} waits for {self.signer.role}", remedy="see torchveil requests")
        for party in asked:
            self.asks[party]("consent/deny", encode(Denial(name)))

    def withdraw(self, nonce: bytes) -> None:
        """Withdraw a grant wherever it lies."""
        holding = [
            party
            for party, listing in self.listings().items()
            if nonce in [entry.grant.nonce for entry in listing.grants]
        ]
        if not holding:
            raise GrantInvalid(f"{self.signer.role} has no grant {nonce.hex()} at any party")
        for party in holding:
            self.asks[party]("consent/withdraw", encode(Withdrawal(nonce)))

    def heads(self) -> dict[str, Heads]:
        """The heads of all logs of releases, and those that the parties hold of one another."""
        return {party: decode(ask("audit/heads", b""), Heads, MAX_LIST_BYTES) for party, ask in self.asks.items()}


__all__ = ["Ask", "Parties"]
