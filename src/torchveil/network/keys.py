"""The two keys of a role, and the file they lie in: P-256 for signatures and TLS, X25519 for sealed values.

The file has two PEM blocks (PKCS #8), the P-256 key first, because that is the one that OpenSSL takes from it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from torchveil.errors import CertificateError, SessionStateError


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """Both public keys of a role."""

    signing: EllipticCurvePublicKey
    sealing: X25519PublicKey

    def sealing_der(self) -> bytes:
        """The sealing key as certificates and requests carry it."""
        return self.sealing.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def fingerprint(self) -> str:
        """SHA-256 of both, hexadecimal, for people to compare."""
        signing = self.signing.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(signing + self.sealing_der()).hexdigest()


_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class PrivateKeys:
    """Both keys of a role. Its repr shows neither; copying or pickling it raises ``SessionStateError``."""

    signing: EllipticCurvePrivateKey = field(repr=False)
    sealing: X25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> PrivateKeys:
        """Fresh ones."""
        return cls(generate_private_key(SECP256R1()), X25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> PrivateKeys:
        """Read what ``pem`` writes; raises ``CertificateError`` for anything else, passphrases included."""
        found = [_private_key(block.group()) for block in _BLOCK.finditer(pem)]
        match found:
            case [EllipticCurvePrivateKey() as signing, X25519PrivateKey() as sealing]:
                return cls(signing, sealing)
        raise CertificateError(
            "a role's key file must hold a P-256 key and then an X25519 key, and nothing else",
            remedy="torchveil certs issue writes such a file",
        )

    def pem(self) -> bytes:
        """Both keys, unencrypted: for a file that only its role can read."""
        return private_pem(self.signing) + private_pem(self.sealing)

    def public(self) -> PublicKeys:
        """What others may know of them."""
        return PublicKeys(self.signing.public_key(), self.sealing.public_key())

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise SessionStateError("private keys cannot be copied or pickled", remedy="load them where they are needed")


def private_pem(key: EllipticCurvePrivateKey | X25519PrivateKey) -> bytes:
    """One PEM block, unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def signing_key(pem: bytes) -> EllipticCurvePrivateKey:
    """The key of an authority; raises ``CertificateError`` if the file holds no such key."""
    key = _private_key(pem)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise CertificateError("the authority's key is not an elliptic-curve key", remedy="torchveil certs init")
    return key


def _private_key(pem: bytes) -> object:
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # a TypeError: it is encrypted
        raise CertificateError("this is no unencrypted private key in PEM", remedy="torchveil certs issue") from None
