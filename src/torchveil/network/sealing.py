"""Sealed boxes: bytes that only the holder of one X25519 key can read, and only in the context they were meant for.

    box = 1 (version) | ephemeral public key, 32 bytes | AES-256-GCM of the data, with its tag of 16 bytes
    key = HKDF-SHA256(X25519(ephemeral, receiver); "torchveil seal 1", ephemeral public, receiver public, context)

The key serves one box, so the nonce is zero. A box has the length of the data and 49 bytes more: the length is not
hidden. It does not prove who made it (anybody can seal to a public key): what needs that is signed as well.

Source: the construction is that of ECIES (IEEE 1363a; SEC 1, section 5.1) with HKDF (RFC 5869) over both public keys
and a context, as HPKE does it (RFC 9180).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from torchveil.errors import LimitExceeded, MalformedMessage
from torchveil.randomness import derive_key

_VERSION = b"\x01"
_POINT, _TAG = 32, 16  # bytes
_NONCE = bytes(12)
_HEAD = len(_VERSION) + _POINT
OVERHEAD = _HEAD + _TAG  # bytes that a box is longer than what is in it
MAX_BYTES = 2**31 - 1 - _TAG  # the most that the package `cryptography` encrypts in one call


def seal(data: bytes | memoryview, receiver: X25519PublicKey, context: bytes) -> bytes:
    """A box with ``data`` that ``unseal`` opens with the receiver's key and the same ``context``.

    Raises ``LimitExceeded`` for more than 2 GiB.
    """
    plain = memoryview(data).cast("B")
    if len(plain) > MAX_BYTES:
        raise LimitExceeded(f"{len(plain)} bytes are too many for one box", remedy="seal them in pieces")
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key()
    cipher = AESGCM(_key(ephemeral.exchange(receiver), public, receiver, context))
    return b"".join((_VERSION, public.public_bytes_raw(), cipher.encrypt(_NONCE, plain, None)))


def unseal(box: bytes | memoryview, receiver: X25519PrivateKey, context: bytes) -> bytes:
    """What was sealed; raises ``MalformedMessage`` if a byte, the length, the receiver or the context differs."""
    view = memoryview(box).cast("B")
    if not OVERHEAD <= len(view) <= MAX_BYTES + OVERHEAD or view[: len(_VERSION)] != _VERSION:
        raise MalformedMessage("these bytes are no sealed box")
    sender = X25519PublicKey.from_public_bytes(bytes(view[len(_VERSION) : _HEAD]))
    try:
        shared = receiver.exchange(sender)  # a point of low order, which gives no secret, raises ValueError
        return AESGCM(_key(shared, sender, receiver.public_key(), context)).decrypt(_NONCE, view[_HEAD:], None)
    except (InvalidTag, ValueError):
        raise MalformedMessage(
            "a sealed box does not open: it was changed, or sealed to another key or for another purpose"
        ) from None


def _key(shared: bytes, sender: X25519PublicKey, receiver: X25519PublicKey, context: bytes) -> bytes:
    publics = sender.public_bytes_raw(), receiver.public_bytes_raw()
    return derive_key(shared, "torchveil seal 1", *publics, context, n_bytes=32)
