"""Grants: what an owner allows, signed with the key of the owner's certificate.

A grant names one receiver (role and certificate) and either an output of a plan, with the number of releases, or no
plan: then it is a *bit budget*, and may disclose any function of the owner's data, up to that many bits. Its quota is
for its whole life at one party, over all sessions. The 16 random bytes of its nonce are its name.

The answer to a request names the request, and pays for nothing else. Only such a grant passes an owner's denial.

Sizes. ``bits`` of a release are 64 per element unless the parties know better: a conservative upper bound of what an
element can tell, since it is a number of the ring Z_2^64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import prod
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from torchveil.errors import CertificateError, GrantInvalid
from torchveil.network.consent.identities import Known, Recognise, Signer
from torchveil.randomness import os_bytes

#: What a signature of a grant is good for.
PURPOSE = "torchveil grant 1"

#: Bits of one element of the ring.
ELEMENT_BITS = 64

#: No encoded grant or request is longer, in bytes; no list of them is longer than the second figure.
MAX_BYTES = 64 << 10
MAX_LIST_BYTES = 4 << 20

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
# names of roles and clusters reach terminals and logs: nothing in them can move a cursor or end a line
Role = Annotated[str, Meta(pattern=r"^[a-z]{1,16}/[A-Za-z0-9._-]{1,64}\Z")]
Cluster = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
Extent = Annotated[int, Meta(ge=0, le=1 << 40)]
Shape = Annotated[tuple[Extent, ...], Meta(max_length=64)]
Slot = Annotated[int, Meta(ge=0, le=1 << 20)]
Digits = Annotated[int, Meta(ge=0, le=62)]
Amount = Annotated[int, Meta(ge=0, le=1 << 62)]
Seconds = Annotated[int, Meta(ge=0, le=1 << 37)]
RequestId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a receiver would be told: everything that a grant can be about. No session: a repeated request is the same.

    owners: all whose data went into the value, sorted; fingerprint: SHA-256 of the receiver's certificate; digits:
    those of the number format, None for bits and integers; plan, slot: the output of which plan, None for none.
    """

    cluster: Cluster
    receiver: Role
    fingerprint: Digest
    owners: tuple[Role, ...]
    shape: Shape
    digits: Digits | None
    bits: Amount
    plan: Digest | None
    slot: Slot | None

    @property
    def id(self) -> str:
        """Its name, the same at every party: 16 hexadecimal digits of a hash of all fields."""
        return hashlib.sha256(b"torchveil request 1\n" + encode(self)).hexdigest()[:16]


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One permission of one owner.

    quota: releases for a plan, bits for a budget; not_before, expires: seconds since 1970, the second one excluded;
    shape, digits: None for any; request: the one that it answers, None if it was given ahead.
    """

    cluster: Cluster
    owner: Role
    receiver: Role
    fingerprint: Digest
    plan: Digest | None
    slot: Slot | None
    shape: Shape | None
    digits: Digits | None
    quota: Amount
    not_before: Seconds
    expires: Seconds
    nonce: Nonce
    request: RequestId | None

    @property
    def budget(self) -> bool:
        """Whether it is a bit budget."""
        return self.plan is None

    def fits(self, request: Request) -> bool:
        """Whether it is about this request; says nothing about time and quota."""
        return (
            self.owner in request.owners
            and self.cluster == request.cluster
            and self.receiver == request.receiver
            and self.fingerprint == request.fingerprint
            and (self.plan is None or (self.plan == request.plan and self.slot == request.slot))
            and self.shape in (None, request.shape)
            and self.digits in (None, request.digits)
            and (self.request is None or self.request == request.id)
        )

    def price(self, request: Request) -> int:
        """How much of its quota the release takes."""
        return request.bits if self.plan is None else 1

    def valid_at(self, now: float) -> bool:
        """Whether ``now``, in seconds since 1970, lies in its life."""
        return self.not_before <= now < self.expires


class SignedGrant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A grant, the owner's signature of its encoding, and the owner's certificate (DER)."""

    grant: Grant
    signature: Annotated[bytes, Meta(max_length=1024)]
    certificate: Annotated[bytes, Meta(max_length=16 << 10)]


def upper_bound_bits(shape: Sequence[int]) -> int:
    """How much a value of this shape can tell at most: 64 bits per element."""
    return ELEMENT_BITS * prod(shape)


def encode(x: msgspec.Struct) -> bytes:
    """The canonical encoding: MessagePack, fields in the order of the class, nothing optional left out."""
    return msgspec.msgpack.encode(x, order="deterministic")


T = TypeVar("T", bound=msgspec.Struct)


def decode(data: bytes, kind: type[T], most: int = MAX_BYTES) -> T:
    """At most so many bytes from outside as a struct of ``kind``.

    Raises ``GrantInvalid`` for anything but a canonical encoding.
    """
    if len(data) > most:
        raise GrantInvalid(f"{len(data)} bytes are too many for a {kind.__name__}")
    try:
        found = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise GrantInvalid(f"bytes that are no {kind.__name__}") from None
    if encode(found) != data:
        raise GrantInvalid(f"a {kind.__name__} that is not encoded the one way that counts")
    return found


def new_grant(
    signer: Signer,
    receiver: str,
    fingerprint: bytes,
    *,
    quota: int,
    now: float,
    seconds: int,
    plan: bytes | None = None,
    slot: int | None = None,
    shape: tuple[int, ...] | None = None,
    digits: int | None = None,
    request: str | None = None,
) -> Grant:
    """A grant of the signer's with a fresh nonce, valid for ``seconds`` from ``now`` on."""
    return Grant(
        cluster=signer.cluster,
        owner=str(signer.role),
        receiver=receiver,
        fingerprint=fingerprint,
        plan=plan,
        slot=slot,
        shape=shape,
        digits=digits,
        quota=quota,
        not_before=int(now),
        expires=int(now) + seconds,
        nonce=os_bytes(16),
        request=request,
    )


def answer(signer: Signer, request: Request, *, now: float, seconds: int) -> Grant:
    """The grant for exactly this request, and no other of its size, once."""
    return new_grant(
        signer,
        request.receiver,
        request.fingerprint,
        quota=1 if request.plan is not None else request.bits,
        now=now,
        seconds=seconds,
        plan=request.plan,
        slot=request.slot,
        shape=request.shape,
        digits=request.digits,
        request=request.id,
    )


def sign_grant(credentials: Signer, grant: Grant) -> SignedGrant:
    """The grant with its owner's signature. Raises ``GrantInvalid`` for somebody else's grant or impossible fields."""
    _check(grant)
    if (str(credentials.role), credentials.cluster) != (grant.owner, grant.cluster):
        raise GrantInvalid(
            f"{credentials.role} cannot grant what {grant.owner} owns", remedy="sign with the owner's certificate"
        )
    signature = credentials.sign(encode(grant), PURPOSE)
    return SignedGrant(grant=grant, signature=signature, certificate=credentials.certificate_der)


def verify(signed: SignedGrant, recognise: Recognise, cluster: str, now: float) -> Grant:
    """The grant, if its owner signed it for this cluster and it has not expired. One that begins later is fine here.

    Raises ``GrantInvalid`` otherwise.
    """
    grant = signed.grant
    _check(grant)
    try:
        owner: Known = recognise(signed.certificate, now)
        owner.verify(signed.signature, encode(grant), PURPOSE)
    except CertificateError as error:
        raise GrantInvalid(f"a grant that {grant.owner} did not sign: {error}", remedy="sign it again") from None
    if str(owner.role) != grant.owner:
        raise GrantInvalid(f"a grant in the name of {grant.owner} is signed by {owner.role}")
    if grant.cluster != cluster or owner.cluster != cluster:
        raise GrantInvalid(f"a grant for the cluster {grant.cluster} came to {cluster}")
    if now >= grant.expires:
        raise GrantInvalid("the grant has expired", remedy="sign a new one")
    return grant


def check_fields(x: msgspec.Struct) -> None:
    """Raises ``GrantInvalid`` if a field is not what its type says: others could not read ``x`` then."""
    try:
        msgspec.msgpack.decode(encode(x), type=type(x))
    except (msgspec.MsgspecError, OverflowError, TypeError, UnicodeEncodeError) as error:
        raise GrantInvalid(f"a {type(x).__name__} with an impossible field: {error}") from None


def _check(grant: Grant) -> None:
    """What the types of the fields do not say. Raises ``GrantInvalid``."""
    check_fields(grant)
    if (grant.plan is None) != (grant.slot is None):
        raise GrantInvalid("a grant names a plan and which of its outputs, or neither")
    if grant.not_before >= grant.expires:
        raise GrantInvalid("a grant ends before it begins")


# --- words for people -------------------------------------------------------------------------------------------------


def describe_grant(grant: Grant) -> str:
    """What signing it means, in words, for the owner who is asked."""
    about = _value(grant.shape, grant.digits)
    if grant.plan is None:
        what = f"a bit budget: may disclose any function of your data, up to {grant.quota} bits ({about})"
    else:
        what = (
            f"may disclose output {grant.slot} of the plan {grant.plan.hex()}, {_times(grant.quota)} ({about}), "
            f"whatever the plan was given"
        )
    answered = f"\n  for request {grant.request} alone" if grant.request else ""
    return (
        f"To {grant.receiver} (certificate {grant.fingerprint.hex()}):\n"
        f"  {what}{answered}\n  for {(grant.expires - grant.not_before) / 86400:g} days, over all sessions; "
        f"from the data of {grant.owner}"
    )


def describe_request(request: Request) -> str:
    """What is asked for, in words."""
    about = _value(request.shape, request.digits)
    if request.plan is None:
        what = f"a bit budget: may disclose any function of your data, up to {request.bits} bits ({about}), once"
    else:
        what = f"output {request.slot} of the plan {request.plan.hex()}, once ({about}), whatever the plan was given"
    return (
        f"{request.id}: to {request.receiver} (certificate {request.fingerprint.hex()})\n"
        f"  {what}\n  from data of {', '.join(request.owners)}"
    )


def _times(quota: int) -> str:
    return "once" if quota == 1 else f"{quota} times"


def _value(shape: tuple[int, ...] | None, digits: int | None) -> str:
    size = "any shape" if shape is None else f"shape {'x'.join(map(str, shape)) or 'scalar'}"
    return size if digits is None else f"{size}, {digits} digits"


__all__ = [
    "Grant",
    "Request",
    "SignedGrant",
    "answer",
    "check_fields",
    "decode",
    "describe_grant",
    "describe_request",
    "encode",
    "new_grant",
    "sign_grant",
    "upper_bound_bits",
    "verify",
]
