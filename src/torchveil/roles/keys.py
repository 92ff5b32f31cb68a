"""Who shares which key: X25519 between every pair of roles, HKDF per purpose, fresh at every session start.

session id = SHA-256 of 16 random bytes of each role. Every purpose has its own key, so a label may carry the same
number in two purposes without sharing a stream:
    mask, mask-bits     party and provider    the pieces of the masks under which values are opened
    dealt, dealt-bits   party and provider    the pieces of dealt values that cost no bytes
    zero                party and party       sharings of zero before a reveal; the provider never knows them
    input               owner and party       the pieces of an owner's input
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from torchveil.kernels import stream
from torchveil.randomness import Stream, derive_key, os_bytes


class Identity:
    """One role's ephemeral key pair and its contribution to the session id."""

    __slots__ = ("_private", "contribution", "name", "public")

    def __init__(self, name: str) -> None:
        self.name = name
        self._private = X25519PrivateKey.generate()
        self.public: X25519PublicKey = self._private.public_key()
        self.contribution = os_bytes(16)

    def stream(self, peer: Identity, session_id: bytes, purpose: str) -> Stream:
        """The stream that this role and ``peer`` share for ``purpose``; both derive the same key."""
        low, high = sorted((self.name, peer.name))
        secret = self._private.exchange(peer.public)
        return stream(derive_key(secret, session_id, low, high, purpose, "rank 0"))

    def __repr__(self) -> str:
        return f"<Identity {self.name}>"


def agree_session_id(identities: Sequence[Identity]) -> bytes:
    """The session id that follows from every role's contribution."""
    return hashlib.sha256(b"".join(identity.contribution for identity in identities)).digest()
