"""Who shares which key: X25519 between every pair of roles, HKDF per purpose, fresh at every session start.

session id = SHA-256 of 16 random bytes of each role. Every purpose has its own key, so a label may carry the same
number in two purposes without sharing a stream:
    mask, mask-bits     party and provider    the pieces of the masks under which values are opened
    dealt, dealt-bits   party and provider    the pieces of dealt values that cost no bytes
    zero                party and party       sharings of zero before a reveal; the provider never knows them
    input               owner and party       the pieces of an owner's input
    tied                party and provider    between machines: the first four follow from it (``tied``)

What a role tells the others, ``PublicHalf``, is not secret. Between machines it has to come over a connection whose
other end is known: whoever exchanges it on the way shares a key with both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from torchveil.errors import ProtocolError
from torchveil.kernels import stream
from torchveil.randomness import Stream, derive_key, os_bytes
from torchveil.roles.party import Party, RandomSource
from torchveil.roles.provider import Provider
from torchveil.roles.tied import TiedStream, TiedStreams

#: Bytes that a role contributes to the session id.
CONTRIBUTION = 16

#: What the streams between a party and the provider are for.
PROVIDER_PURPOSES = ("mask", "mask-bits", "dealt", "dealt-bits")


@dataclass(frozen=True, slots=True)
class PublicHalf:
    """What a role tells the others: its name, its public key, its contribution to the session id."""

    name: str
    key: bytes
    contribution: bytes


class Identity:
    """One role's ephemeral key pair and its contribution to the session id."""

    __slots__ = ("_private", "half", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._private = X25519PrivateKey.generate()
        self.half = PublicHalf(name, self._private.public_key().public_bytes_raw(), os_bytes(CONTRIBUTION))

    def key(self, peer: PublicHalf, session_id: bytes, purpose: str) -> bytes:
        """The key that this role and ``peer`` share for ``purpose``; both derive the same one.

        Raises ``ProtocolError`` for bytes that are no public key, and for those that lead to a known secret.
        """
        low, high = sorted((self.name, peer.name))
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(peer.key))
        except ValueError:
            raise ProtocolError(f"{peer.name} sent no usable public key") from None
        return derive_key(secret, session_id, low, high, purpose, "rank 0")

    def stream(self, peer: PublicHalf, session_id: bytes, purpose: str) -> Stream:
        """The stream of ``key``."""
        return stream(self.key(peer, session_id, purpose))

    def __repr__(self) -> str:
        return f"<Identity {self.name}>"


def agree_session_id(halves: Sequence[PublicHalf]) -> bytes:
    """The session id that follows from every role's contribution, in the order of parties, provider, owner."""
    return hashlib.sha256(b"".join(half.contribution for half in halves)).digest()


def party_role(
    name: str,
    rank: int,
    identity: Identity,
    parties: Sequence[PublicHalf],
    provider: PublicHalf,
    owner: PublicHalf,
    session_id: bytes,
    *,
    tied: bool = False,
) -> Party:
    """The party of ``rank`` with the streams that it shares with everybody else.

    tied: those with parties and provider depend on what was carried out (``roles.tied``), for a role that others tell
    what to do.
    """
    zeros = {peer: identity.key(half, session_id, "zero") for peer, half in enumerate(parties) if peer != rank}
    fixed = {"input": identity.stream(owner, session_id, "input")}
    if tied:
        own = TiedStreams(identity.key(provider, session_id, "tied"), PROVIDER_PURPOSES, fixed)
        return Party(name, rank, len(parties), own, {peer: TiedStream(key) for peer, key in zeros.items()})
    streams = {purpose: identity.stream(provider, session_id, purpose) for purpose in PROVIDER_PURPOSES} | fixed
    return Party(name, rank, len(parties), streams, {peer: stream(key) for peer, key in zeros.items()})


def provider_role(
    name: str, identity: Identity, parties: Sequence[PublicHalf], session_id: bytes, *, tied: bool = False
) -> Provider:
    """The provider with the streams that it shares with every party; ``tied`` as for a party."""
    if tied:
        own = [TiedStreams(identity.key(half, session_id, "tied"), PROVIDER_PURPOSES) for half in parties]
        return Provider(name, own)
    streams = [
        {purpose: identity.stream(half, session_id, purpose) for purpose in PROVIDER_PURPOSES} for half in parties
    ]
    return Provider(name, streams)


def input_streams(identity: Identity, parties: Sequence[PublicHalf], session_id: bytes) -> list[RandomSource]:
    """The streams that an owner shares with the parties."""
    return [identity.stream(half, session_id, "input") for half in parties]
