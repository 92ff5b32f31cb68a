"""What a certificate of torchveil looks like, and everything that can be wrong with one.

A role's certificate is an ordinary X.509 certificate, so that OpenSSL checks it in the handshake, with:

    subject alternative name   one URI, torchveil://CLUSTER/party/alice; host names and addresses beside it mean nothing
    key                        P-256, for TLS and for signatures; key usage: digital signature, no more
    extended key usage         TLS client and TLS server, both, since a role calls others and is called
    2.25.305...  (SEALING_KEY) the X25519 key to which values are sealed, as SubjectPublicKeyInfo; not critical
    issuer                     an authority of the cluster, directly: no authorities in between

``Fields`` is what it says; ``problems`` compares it with this page, with the authority and with the clock, one row of
``_CHECKS`` for each thing that can be wrong. Who reads a certificate uses these two and nothing else of X.509.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from torchveil.errors import CertificateError, ConfigurationError
from torchveil.network.keys import PublicKeys
from torchveil.network.names import Role, check_name

SCHEME = "torchveil://"
#: The extension that holds the sealing key: an object identifier made from a random UUID (ITU-T X.667), ours alone.
SEALING_KEY = x509.ObjectIdentifier("2.25.305493600992710274268119211324396549591")
USAGES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
MAX_DER = 1 << 14  # bytes of a certificate; ours have about 700
#: What the package `cryptography` raises about bytes that are no certificate, or no extension, that it knows.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Fields:
    """What a role's certificate says. Nothing of it has been checked against an authority or the clock."""

    role: Role
    cluster: str
    keys: PublicKeys


@dataclass(frozen=True, slots=True)
class Authority:
    """Whose certificates a cluster takes: one certificate, or the old and the new one while they are being changed."""

    certificates: tuple[x509.Certificate, ...]
    cluster: str | None  # for which it says that it is made, if it does

    @classmethod
    def from_pem(cls, pem: bytes) -> Authority:
        """Read it; raises ``CertificateError``."""
        try:
            certificates = tuple(x509.load_pem_x509_certificates(pem))
            uris = {uri for certificate in certificates for uri in _uris(certificate) if uri.startswith(SCHEME)}
        except UNREADABLE:
            raise CertificateError(
                "this holds no certificate of an authority", remedy="give the cluster's ca.pem"
            ) from None
        if len(uris) > 1:
            raise CertificateError("these authorities are of different clusters", remedy="use one cluster's ca.pem")
        return cls(certificates, uris.pop().removeprefix(SCHEME) if uris else None)

    @classmethod
    def load(cls, path: Path) -> Authority:
        """Read a file; raises ``CertificateError``."""
        return cls.from_pem(read(path))


def read(path: Path) -> bytes:
    """A file of certificates or keys; raises ``CertificateError``."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(
            f"{path} cannot be read: {error.strerror}",
            remedy="name the file where it is; torchveil certs init makes an authority, certs issue certificates",
        ) from None


def uri(cluster: str, role: Role) -> str:
    """The name of a role in its certificate."""
    return f"{SCHEME}{cluster}/{role}"


def parse_pem(pem: bytes) -> x509.Certificate:
    """The one certificate of a PEM file; raises ``CertificateError``."""
    try:
        (certificate,) = x509.load_pem_x509_certificates(pem)
    except UNREADABLE:
        raise CertificateError("this is no PEM file with one certificate") from None
    return certificate


def read_certificate(path: Path) -> x509.Certificate:
    """The one certificate of a PEM file; raises ``CertificateError``, which names the file."""
    pem = read(path)
    try:
        return parse_pem(pem)
    except CertificateError:
        certificate = path.with_suffix(".pem")
        remedy = "name the file of a certificate: torchveil certs issue makes ROLE-NAME.pem"
        if b"PRIVATE KEY-----" not in pem:
            raise CertificateError(f"{path} is no PEM file with one certificate", remedy=remedy) from None
        if certificate != path and certificate.is_file():
            remedy = f"its certificate is {certificate}"
        raise CertificateError(f"{path} holds a key, and a certificate is needed", remedy=remedy) from None


def parse_der(der: bytes) -> x509.Certificate:
    """A certificate as it travels; raises ``CertificateError``."""
    if len(der) > MAX_DER:
        raise CertificateError(f"a certificate of {len(der)} bytes is too long")
    try:
        return x509.load_der_x509_certificate(der)
    except UNREADABLE:
        raise CertificateError("these bytes are no certificate") from None


def fields(certificate: x509.Certificate) -> Fields:
    """What a role's certificate says; raises ``CertificateError`` if it is none of a role."""
    try:
        role, cluster = _name(certificate)
    except UNREADABLE:
        raise CertificateError("this certificate cannot be read") from None
    return Fields(role, cluster, public_keys(certificate))


def public_keys(document: x509.Certificate | x509.CertificateSigningRequest) -> PublicKeys:
    """The keys that a certificate or a request is about; raises ``CertificateError`` unless they are a role's."""
    try:
        signing, sealing = document.public_key(), _sealing_key(document.extensions)
    except UNREADABLE:
        raise CertificateError("the keys in it cannot be read") from None
    if not isinstance(signing, EllipticCurvePublicKey) or not isinstance(signing.curve, SECP256R1):
        raise CertificateError("it is not about a P-256 key")
    return PublicKeys(signing, sealing)


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _name(certificate: x509.Certificate) -> tuple[Role, str]:
    uris = _uris(certificate)
    if len(uris) != 1:
        raise CertificateError(f"a certificate must name one role, and this one names {len(uris)}")
    if not uris[0].startswith(SCHEME):
        raise CertificateError("this certificate names something else than a role of torchveil")
    cluster, _, role = uris[0].removeprefix(SCHEME).partition("/")
    try:
        return Role.parse(role), check_name(cluster, "cluster")
    except ConfigurationError:
        raise CertificateError("this certificate names no role of a cluster") from None


def _sealing_key(extensions: x509.Extensions) -> X25519PublicKey:
    for extension in extensions:
        if extension.oid == SEALING_KEY and isinstance(extension.value, x509.UnrecognizedExtension):
            key = serialization.load_der_public_key(extension.value.value)
            if isinstance(key, X25519PublicKey):
                return key
    raise CertificateError("it has no X25519 key to seal values to")


# --- what can be wrong -----------------------------------------------------------------------------------------------


def problems(certificate: x509.Certificate, authority: Authority, at: datetime) -> list[str]:
    """Why a role's certificate cannot be used at a time, in plain words; empty if it can. Never raises."""
    found = []
    for check in _CHECKS:
        try:
            found += check(certificate, authority, at)
        except CertificateError as error:
            found.append(error.message)
        except UNREADABLE:
            found.append("it cannot be read")
    if not found:
        try:  # everything that X.509 asks and the rows do not mention
            store = Store(list(authority.certificates))
            naive = at.astimezone(UTC).replace(tzinfo=None)
            builder = PolicyBuilder().store(store).time(naive).max_chain_depth(0)
            builder.build_client_verifier().verify(certificate, [])
        except (VerificationError, *UNREADABLE) as error:
            found.append(f"the rules of X.509 forbid it: {error}")
    return found


def authority_problems(certificate: x509.Certificate, at: datetime) -> list[str]:
    """Why an authority's certificate cannot be used at a time."""
    try:
        return validity(certificate, at) + ([] if is_authority(certificate) else ["it is no authority's"])
    except UNREADABLE:
        return ["it cannot be read"]


def validity(certificate: x509.Certificate, at: datetime) -> list[str]:
    """Whether the time is one for which it was made."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if at < first:
        return [f"it is not valid before {first:%Y-%m-%d %H:%M} UTC; is the clock of this machine right?"]
    if at > last:
        return [f"it expired on {last:%Y-%m-%d %H:%M} UTC"]
    return []


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may issue others."""
    found = [extension.value for extension in certificate.extensions]
    return any(isinstance(value, x509.BasicConstraints) and value.ca for value in found)


def _times(certificate: x509.Certificate, authority: Authority, at: datetime) -> list[str]:
    return validity(certificate, at)


def _says_who(certificate: x509.Certificate, authority: Authority, at: datetime) -> list[str]:
    cluster = fields(certificate).cluster
    return [f"the authority is not one of cluster {cluster}"] if authority.cluster not in (None, cluster) else []


def _issuer(certificate: x509.Certificate, authority: Authority, at: datetime) -> list[str]:
    issuers = [issuer for issuer in authority.certificates if _issued(certificate, issuer)]
    if not issuers:
        return ["it was issued by another authority than this cluster's"]
    late = [validity(issuer, at) for issuer in issuers]
    return [f"its authority: {late[0][0]}"] if all(late) else []


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _usage(certificate: x509.Certificate, authority: Authority, at: datetime) -> list[str]:
    return list(_wrong_usage(certificate))


def _wrong_usage(certificate: x509.Certificate) -> Iterator[str]:
    extensions = {extension.oid: extension.value for extension in certificate.extensions}
    if is_authority(certificate):
        yield "it is the certificate of an authority, not of a role"
    usage = extensions.get(x509.KeyUsage.oid)
    if not isinstance(usage, x509.KeyUsage) or not usage.digital_signature:
        yield "its key is not meant for signatures"
    extended = extensions.get(x509.ExtendedKeyUsage.oid)
    if not isinstance(extended, x509.ExtendedKeyUsage) or not set(USAGES) <= set(extended):
        yield "it is not meant for both ends of a TLS connection"


_CHECKS: tuple[Callable[[x509.Certificate, Authority, datetime], list[str]], ...] = (
    _says_who,
    _issuer,
    _times,
    _usage,
)
