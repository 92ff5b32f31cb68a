"""What a party answers to owners and to other parties about consent: rows for the table of services.

Who asks is what the asker's certificate says, never what the bytes say. Nothing here releases a value. A handler raises
typed errors, whose text may reach the asker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from torchveil.errors import AuditBroken, GrantInvalid
from torchveil.network.consent.audit import AuditLog, SignedHead
from torchveil.network.consent.grants import Grant, Nonce, Request, RequestId, SignedGrant, decode, encode
from torchveil.network.consent.identities import Recognise
from torchveil.network.consent.policy import Consent

#: Requests and grants of one owner that are shown at once; what is answered makes room for the rest.
SHOWN = 200


class Peer(Protocol):
    """Who asks, from its certificate."""

    @property
    def role(self) -> object: ...


class Context(Protocol):
    """What of a daemon the handlers use."""

    @property
    def consent(self) -> Consent: ...


class GrantLeft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A grant and what is left of its quota."""

    grant: Grant
    left: int


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an owner is shown: requests that wait for the owner, those denied, and the owner's grants in force."""

    requests: Annotated[tuple[Request, ...], Meta(max_length=SHOWN)]
    denied: Annotated[tuple[Request, ...], Meta(max_length=SHOWN)]
    grants: Annotated[tuple[GrantLeft, ...], Meta(max_length=SHOWN)]


class Denial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The asker refuses this request."""

    request: RequestId


class Withdrawal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The asker withdraws this grant."""

    nonce: Nonce


class Heads(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The head of the answering party's log, and the longest one it holds of every other party."""

    own: SignedHead
    others: Annotated[tuple[SignedHead, ...], Meta(max_length=64)]


Answer = tuple[msgspec.Struct | bytes, Sequence[bytes]]


def _grant(context: Context, peer: Peer, arguments: bytes, _body: Any) -> Answer:
    signed = decode(arguments, SignedGrant)
    if signed.grant.owner != str(peer.role):
        raise GrantInvalid(f"{peer.role} brought a grant of {signed.grant.owner}", remedy="the owner brings it")
    context.consent.add(signed)
    return b"", ()


def _list(context: Context, peer: Peer, _arguments: bytes, _body: Any) -> Answer:
    consent, owner = context.consent, str(peer.role)
    requests = tuple(entry.request for entry in consent.requests(owner)[:SHOWN])
    denied = tuple(entry.request for entry in consent.denials(owner)[:SHOWN])
    return Listing(requests, denied, tuple(GrantLeft(grant, left) for grant, left in consent.grants(owner)[:SHOWN])), ()


def _deny(context: Context, peer: Peer, arguments: bytes, _body: Any) -> Answer:
    context.consent.deny(str(peer.role), decode(arguments, Denial).request)
    return b"", ()


def _withdraw(context: Context, peer: Peer, arguments: bytes, _body: Any) -> Answer:
    context.consent.withdraw(str(peer.role), decode(arguments, Withdrawal).nonce)
    return b"", ()


def _heads(context: Context, _peer: Peer, _arguments: bytes, _body: Any) -> Answer:
    log = context.consent.log
    return Heads(log.head(), log.heads()), ()


def _swap(context: Context, peer: Peer, arguments: bytes, _body: Any) -> Answer:
    head = decode(arguments, SignedHead)
    if head.party != str(peer.role):
        raise GrantInvalid(f"{peer.role} brought the head of {head.party}")
    context.consent.log.note_head(head, context.consent.recognise)
    return context.consent.log.head(), ()


def swap_heads(log: AuditLog, recognise: Recognise, ask: Callable[[str, bytes], bytes]) -> None:
    """Give another party the head of this log, and keep the head of its log; ``ask`` puts a question to that party.

    At the end of a session the party of the lower rank does it with every other. Raises ``AuditBroken`` if the other
    log does not continue what was seen of it, and what ``ask`` raises.
    """
    seen = {head.party: head.lines for head in log.heads()}
    head = decode(ask("audit/swap", encode(log.head())), SignedHead)
    log.note_head(head, recognise)
    if head.lines < seen.get(head.party, 0):
        raise AuditBroken(
            f"the log of {head.party} had {seen[head.party]} lines, now it has {head.lines}: its end was cut off",
            remedy="torchveil audit verify over all parties' logs",
        )


_OWNERS = ("owner", "controller")

#: name of a service -> (handler, kinds of roles that may ask)
HANDLERS: dict[str, tuple[Callable[[Context, Peer, bytes, Any], Answer], tuple[str, ...]]] = {
    "consent/grant": (_grant, _OWNERS),
    "consent/list": (_list, _OWNERS),
    "consent/deny": (_deny, _OWNERS),
    "consent/withdraw": (_withdraw, _OWNERS),
    "audit/heads": (_heads, ("owner", "controller", "party")),
    "audit/swap": (_swap, ("party",)),
}

__all__ = ["HANDLERS", "Denial", "GrantLeft", "Heads", "Listing", "Withdrawal", "swap_heads"]
