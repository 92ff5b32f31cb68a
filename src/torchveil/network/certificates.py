"""Who a role is, to others and to itself: identities, credentials, TLS contexts, signatures, sealed values.

An ``Identity`` is what others know of a role, from its certificate: they check its signatures and seal values to it.
``Credentials`` are the role's own: its certificate with its private keys, and the cluster's authority. Connections are
TLS 1.3 and nothing older, with a certificate on both sides; who the other end is says its certificate (``peer_role``),
never the other end. There is no check of host names: they say where a role is today, not who it is.

In TLS 1.3 the client's handshake ends before the server has looked at the client's certificate. A client that is
rejected learns of it at its first read, as an ``ssl.SSLError`` with the server's alert.

Certificates are made by ``authority`` and described in ``profile``. This module is where the rest of the package takes
all of it from.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding

from torchveil.errors import CertificateError, PeerRejected, SessionStateError
from torchveil.network import files, profile, sealing
from torchveil.network.authority import Paths, create_authority, issue
from torchveil.network.inspection import WARN_DAYS, Finding, inspect
from torchveil.network.keys import PrivateKeys, PublicKeys
from torchveil.network.names import Role
from torchveil.network.profile import Authority

__all__ = [
    "Authority",
    "Credentials",
    "Finding",
    "Identity",
    "Paths",
    "create_authority",
    "inspect",
    "issue",
    "peer_role",
]


@dataclass(frozen=True, slots=True)
class Identity:
    """What others know of a role. Two of them are equal if they are of the same certificate, byte for byte.

    A fingerprint can say whom to accept, not whom to refuse: without any key, anybody can write the authority's
    signature in another way (s as -s), which gives the same role with the same keys another fingerprint.
    """

    role: Role
    cluster: str
    fingerprint: bytes  # SHA-256 of the certificate's DER
    certificate_der: bytes = field(repr=False, compare=False)
    not_after: datetime = field(repr=False, compare=False)
    _keys: PublicKeys = field(repr=False, compare=False)

    @classmethod
    def from_der(cls, der: bytes, authority: bytes | Authority, *, at: datetime | None = None) -> Identity:
        """The identity in a certificate that came by itself, outside of a handshake, fully checked.

        ``authority`` is the text of ``ca.pem``, or read from it before; ``at``, the time at which the certificate must
        be valid, is now if it is not given. Raises ``CertificateError``.
        """
        certificate = profile.parse_der(der)
        known = authority if isinstance(authority, Authority) else Authority.from_pem(authority)
        _require(certificate, known, at, "the certificate cannot be used")
        return _identity(certificate)

    @property
    def days_left(self) -> int:
        """Until the certificate ends, whole days; negative once it has."""
        return (self.not_after - datetime.now(UTC)).days

    @property
    def ends_soon(self) -> bool:
        """Whether it is time for a new certificate."""
        return self.days_left < WARN_DAYS

    def verify(self, signature: bytes, data: bytes | memoryview, purpose: str) -> None:
        """Raise ``CertificateError`` unless this role signed ``data`` for ``purpose``."""
        try:
            self._keys.signing.verify(signature, _digest(data, purpose), _ECDSA)
        except InvalidSignature:
            raise CertificateError(f"a signature is not one of {self.role} for this {purpose}") from None

    def seal(self, data: bytes | memoryview, context: bytes) -> bytes:
        """A box that only this role can open, and only with the same ``context``; 49 bytes longer than ``data``.

        It does not prove who sealed it. Raises ``LimitExceeded`` beyond 2 GiB.
        """
        return sealing.seal(data, self._keys.sealing, context)


class Credentials:
    """A role's own certificate, private keys and authority.

    Its repr shows the role. Copying or pickling it raises ``SessionStateError``.
    """

    __slots__ = ("_client", "_keys", "_server", "authority", "identity")

    def __init__(
        self, identity: Identity, keys: PrivateKeys, authority: Authority, contexts: tuple[ssl.SSLContext, ...]
    ) -> None:
        self.identity = identity
        self.authority = authority
        self._keys = keys
        self._server, self._client = contexts

    @classmethod
    def load(cls, certificate: Path, key: Path, authority: Path, *, at: datetime | None = None) -> Credentials:
        """Read and check a role's files.

        Raises ``CertificateError`` if one of them is missing or no such file, if other users may read the keys, if the
        keys do not belong to the certificate, or if others would not accept the certificate ``at`` a time, now if none
        is given: another authority, expired, not yet valid, made for something else.
        """
        parsed = profile.read_certificate(certificate)
        known = Authority.load(authority)
        _require(parsed, known, at, f"{certificate} cannot be used")
        keys = PrivateKeys.from_pem(profile.read(key))
        if files.open_to_others(key):
            raise CertificateError(f"other users of this machine can read {key}", remedy=f"chmod 600 {key}")
        if keys.public() != profile.public_keys(parsed):
            raise CertificateError(f"{key} does not belong to {certificate}", remedy="take both from the same issue")
        sides = ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT
        contexts = tuple(_context(side, certificate, key, authority) for side in sides)
        return cls(_identity(parsed), keys, known, contexts)

    @property
    def role(self) -> Role:
        return self.identity.role

    @property
    def cluster(self) -> str:
        return self.identity.cluster

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate's DER."""
        return self.identity.fingerprint

    @property
    def certificate_der(self) -> bytes:
        return self.identity.certificate_der

    def server_context(self) -> ssl.SSLContext:
        """For the side that accepts: TLS 1.3, only with a certificate of the cluster's authority. Always the same."""
        return self._server

    def client_context(self) -> ssl.SSLContext:
        """For the side that connects, alike. The server's name is not compared with anything: see ``peer_role``."""
        return self._client

    def sign(self, data: bytes | memoryview, purpose: str) -> bytes:
        """A signature that holds for this purpose and no other (ECDSA, P-256, SHA-256, DER).

        What is signed starts with words of ours, so it can never be what a TLS handshake signs with the same key
        (64 spaces: RFC 8446, section 4.4.3). Two signatures of the same data differ: a signature is no identifier.
        """
        return self._keys.signing.sign(_digest(data, purpose), _ECDSA)

    def unseal(self, box: bytes | memoryview, context: bytes) -> bytes:
        """What was sealed to this role in this ``context``; raises ``MalformedMessage`` for any other box."""
        return sealing.unseal(box, self._keys.sealing, context)

    def __repr__(self) -> str:
        return f"<Credentials {self.role}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise SessionStateError("credentials cannot be copied or pickled", remedy="load them where they are needed")


def peer_role(socket: ssl.SSLSocket | ssl.SSLObject, cluster: str) -> Identity:
    """Who is at the other end of a connection whose handshake, made with contexts of ``Credentials``, is over.

    OpenSSL has checked the authority, the validity and the usage by then. Raises ``PeerRejected`` unless the
    certificate names exactly one role, of ``cluster``. Which role may do what is the caller's question.
    """
    der = socket.getpeercert(binary_form=True)
    if not der:
        raise PeerRejected("the other end showed no certificate", remedy="connect with contexts of Credentials")
    try:
        found = _identity(profile.parse_der(der))
    except CertificateError as error:
        raise PeerRejected(
            f"the other end's certificate is none of a role: {error.message}", remedy="torchveil certs issue"
        ) from None
    if found.cluster != cluster:
        raise PeerRejected(
            f"the other end is {found.role} of cluster {found.cluster}, and this is cluster {cluster}",
            remedy="give both the certificates of one cluster",
        )
    return found


_HASH = hashes.SHA256()
_ECDSA = ECDSA(Prehashed(_HASH))


def _digest(data: bytes | memoryview, purpose: str) -> bytes:
    """SHA-256 of purpose and data, told apart by the purpose's length, without a copy of the data."""
    words = purpose.encode()
    hasher = hashes.Hash(_HASH)
    hasher.update(b"torchveil signature 1" + len(words).to_bytes(4, "big") + words)
    hasher.update(data)
    return hasher.finalize()


def _identity(certificate: x509.Certificate) -> Identity:
    """What the certificate says; whether it may say so has been checked by OpenSSL or by ``_require``."""
    said = profile.fields(certificate)
    return Identity(
        said.role,
        said.cluster,
        certificate.fingerprint(_HASH),
        certificate.public_bytes(Encoding.DER),
        certificate.not_valid_after_utc,
        said.keys,
    )


def _require(certificate: x509.Certificate, authority: Authority, at: datetime | None, what: str) -> None:
    found = profile.problems(certificate, authority, at or datetime.now(UTC))
    if found:
        raise CertificateError(
            f"{what}: {'; '.join(found)}", remedy="torchveil certs check says which files to replace"
        )


def _context(side: int, certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Not ``ssl.create_default_context``: that writes session secrets to a file if SSLKEYLOGFILE is set."""
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # who the other end is says the URI in its certificate
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_TICKET
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # every connection proves who it is anew, and nothing follows the handshake
    try:
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(
            f"OpenSSL does not take {certificate}: {error}", remedy="torchveil certs check"
        ) from None
    return context
