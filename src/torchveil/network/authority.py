"""The development authority of a cluster: makes its root certificate and issues those of roles.

    DIRECTORY/ca.pem, ca.key                    the authority
    DIRECTORY/party-alice.pem, party-alice.key  a role: its certificate; its keys for signatures and for sealed values

Whoever has ``ca.key`` can be any role of the cluster, towards anybody. And here the keys of roles are made where the
authority is, so its directory holds them all until they are moved. That is right for a try on one's own machines.
Organisations that do not trust each other need an authority that none of them runs alone, and keys that never leave
their machines; what the certificates of such an authority look like says ``profile``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from torchveil.errors import CertificateError, ConfigurationError
from torchveil.network import files, profile
from torchveil.network.keys import PrivateKeys, private_pem, signing_key
from torchveil.network.names import Role, check_name

AUTHORITY = "ca"
CERTIFICATE, KEY = ".pem", ".key"
#: A certificate is valid a little before it is made: the clocks of two machines never agree.
_EARLIER = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the files of a role lie."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def of(cls, directory: Path, role: Role) -> Paths:
        """In the directory of an authority."""
        return cls(*(directory / name for name in (role.stem + CERTIFICATE, role.stem + KEY, AUTHORITY + CERTIFICATE)))


def create_authority(directory: Path, cluster: str, *, days: int = 3650, valid_from: datetime | None = None) -> None:
    """Make ``ca.pem`` and ``ca.key`` for a cluster; raises ``ConfigurationError`` if there are any already.

    ``valid_from`` is for tests: now, if it is not given.
    """
    check_name(cluster, "cluster")
    _require_absent(directory / (AUTHORITY + CERTIFICATE), directory / (AUTHORITY + KEY))
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = generate_private_key(SECP256R1())
    subject = _subject(cluster, "authority")
    builder = _dated(x509.CertificateBuilder(), days, valid_from).subject_name(subject).issuer_name(subject)
    usage = _key_usage(digital_signature=False, key_cert_sign=True, crl_sign=True)
    named = x509.UniformResourceIdentifier(f"{profile.SCHEME}{cluster}")
    certificate = (
        builder.public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectAlternativeName([named]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    files.write_new(directory / (AUTHORITY + KEY), private_pem(key), files.PRIVATE)
    files.write_new(directory / (AUTHORITY + CERTIFICATE), certificate.public_bytes(Encoding.PEM), files.PUBLIC)


def issue(
    directory: Path,
    role: Role,
    *,
    days: int = 365,
    addresses: Sequence[str] = (),
    renew: bool = False,
    valid_from: datetime | None = None,
) -> Paths:
    """Make the certificate and the keys of a role, with the authority in ``directory``.

    It ends with the authority's own at the latest. ``addresses`` (host names, IP addresses) are written into it for
    tools that ask for them; torchveil does not. ``renew`` makes a new certificate for the keys that are there already.
    ``valid_from`` is for tests. Raises ``ConfigurationError`` if the role has files already (or none, to ``renew``),
    ``CertificateError`` if the authority's cannot be used.
    """
    paths = Paths.of(directory, role)
    authority = profile.parse_pem(profile.read(paths.authority))
    authority_key = signing_key(profile.read(directory / (AUTHORITY + KEY)))
    if authority.public_key() != authority_key.public_key():
        raise CertificateError("ca.key does not belong to ca.pem", remedy="take both from the same authority")
    (cluster,) = profile.Authority((authority,)).clusters or (None,)
    if cluster is None:
        raise CertificateError("ca.pem does not say of which cluster it is", remedy="torchveil certs init")
    keys = _keys(paths, renew=renew)
    certificate = _leaf(authority, authority_key, cluster, role, keys, days, addresses, valid_from)
    pem = certificate.public_bytes(Encoding.PEM)
    if renew:
        files.replace(paths.certificate, pem, files.PUBLIC)
    else:
        files.write_new(paths.key, keys.pem(), files.PRIVATE)
        files.write_new(paths.certificate, pem, files.PUBLIC)
    return paths


def _keys(paths: Paths, *, renew: bool) -> PrivateKeys:
    if renew and not paths.key.exists():
        raise ConfigurationError(f"there is no {paths.key} to renew a certificate for", remedy="issue one first")
    if not renew:
        remedy = "--renew makes a new certificate for the same keys; for new keys move the files away first"
        _require_absent(paths.key, paths.certificate, remedy=remedy)
    return PrivateKeys.from_pem(profile.read(paths.key)) if renew else PrivateKeys.generate()


def _leaf(
    authority: x509.Certificate,
    authority_key: EllipticCurvePrivateKey,
    cluster: str,
    role: Role,
    keys: PrivateKeys,
    days: int,
    addresses: Sequence[str],
    valid_from: datetime | None,
) -> x509.Certificate:
    public = keys.signing.public_key()
    sealing = keys.sealing.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    names = [x509.UniformResourceIdentifier(profile.uri(cluster, role)), *(_address(text) for text in addresses)]
    builder = _dated(x509.CertificateBuilder(), days, valid_from, authority.not_valid_after_utc)
    return (
        builder.subject_name(_subject(cluster, str(role)))
        .issuer_name(authority.subject)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(profile.USAGES), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.UnrecognizedExtension(profile.SEALING_KEY, sealing), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _dated(
    builder: x509.CertificateBuilder, days: int, valid_from: datetime | None, end: datetime | None = None
) -> x509.CertificateBuilder:
    """With a random serial number and a time of ``days``, not beyond ``end``."""
    now = datetime.now(UTC)
    first, last = valid_from or now - _EARLIER, (valid_from or now) + timedelta(days=days)
    last = min(last, end) if end else last
    if days <= 0 or last <= first:
        raise CertificateError("the certificate would end before it begins", remedy="renew the authority, or more days")
    serial = x509.random_serial_number()
    return builder.serial_number(serial).not_valid_before(first).not_valid_after(last)


def _subject(cluster: str, name: str) -> x509.Name:
    """For people who look at a certificate; nothing is decided by it."""
    common = name if len(name) <= 64 else name[:61] + "..."  # 64 characters are the most that X.509 allows
    organisation = f"torchveil cluster {cluster}"[:64]
    parts = (NameOID.ORGANIZATION_NAME, organisation), (NameOID.COMMON_NAME, common)
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def _key_usage(*, digital_signature: bool, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _address(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(check_name(text, "host"))


def _require_absent(*paths: Path, remedy: str = "give another directory, or move it away") -> None:
    for path in paths:
        if path.exists():
            raise ConfigurationError(f"{path} exists already, and nothing is replaced", remedy=remedy)
