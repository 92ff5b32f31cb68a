"""What a party answers to owners and to other parties about consent: a table of services, bytes in, bytes out.

Who asks is what the asker's certificate says, never what the bytes say. Nothing here releases a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from torchveil.errors import GrantInvalid
from torchveil.network.consent.audit import AuditLog, SignedHead
from torchveil.network.consent.grants import Grant, Nonce, Request, SignedGrant, decode, encode
from torchveil.network.consent.identities import Recognise
from torchveil.network.consent.policy import Consent


class GrantLeft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A grant and what is left of its quota."""

    grant: Grant
    left: int


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an owner is shown: requests that wait for the owner, and the owner's grants in force."""

    requests: tuple[Request, ...]
    grants: tuple[GrantLeft, ...]


class Denial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The asker refuses this request."""

    request: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class Withdrawal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The asker withdraws this grant."""

    nonce: Nonce


class Desk:
    """The services of one party. ``answer`` is called with the role of the asker's certificate."""

    def __init__(self, consent: Consent, log: AuditLog, recognise: Recognise) -> None:
        self._consent = consent
        self._log = log
        self._recognise = recognise
        #: name of a service -> (kinds of roles that may ask, what answers)
        self.services: dict[str, tuple[tuple[str, ...], Callable[[str, bytes], bytes]]] = {
            "consent/grant": (("owner", "controller"), self._grant),
            "consent/list": (("owner", "controller"), self._list),
            "consent/deny": (("owner", "controller"), self._deny),
            "consent/withdraw": (("owner", "controller"), self._withdraw),
            "audit/head": (("owner", "controller", "party"), self._head),
            "audit/note": (("party",), self._note),
        }

    def answer(self, role: str, name: str, body: bytes) -> bytes:
        """Raises ``GrantInvalid`` or another ``ConsentError``, whose message may go back to the asker."""
        kinds, service = self.services.get(name, ((), None))
        if service is None or role.partition("/")[0] not in kinds:
            raise GrantInvalid(f"{role} may not ask for {name}")
        return service(role, body)

    def _grant(self, role: str, body: bytes) -> bytes:
        signed = decode(body, SignedGrant)
        if signed.grant.owner != role:
            raise GrantInvalid(f"{role} brought a grant of {signed.grant.owner}", remedy="the owner brings it")
        self._consent.add(signed)
        return b""

    def _list(self, role: str, _body: bytes) -> bytes:
        return encode(
            Listing(
                tuple(entry.request for entry in self._consent.requests(role)),
                tuple(GrantLeft(grant, left) for grant, left in self._consent.grants(role)),
            )
        )

    def _deny(self, role: str, body: bytes) -> bytes:
        self._consent.deny(role, decode(body, Denial).request)
        return b""

    def _withdraw(self, role: str, body: bytes) -> bytes:
        self._consent.withdraw(role, decode(body, Withdrawal).nonce)
        return b""

    def _head(self, _role: str, _body: bytes) -> bytes:
        return encode(self._log.head())

    def _note(self, role: str, body: bytes) -> bytes:
        head = decode(body, SignedHead)
        if head.party != role:
            raise GrantInvalid(f"{role} brought the head of {head.party}")
        self._log.note_head(head, self._recognise)
        return b""


__all__ = ["Denial", "Desk", "GrantLeft", "Listing", "Withdrawal"]
