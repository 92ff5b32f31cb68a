"""The development authority of a cluster: makes its root certificate and issues those of roles.

    DIRECTORY/ca.pem, ca.key                    the authority
    DIRECTORY/party-alice.pem, party-alice.key  a role: its certificate; its keys for signatures and for sealed values

Whoever has ``ca.key`` can be any role of the cluster, towards anybody. If the keys of roles are made here too, the
directory holds them all until they are moved: right for a try on one's own machines. Organisations that do not trust
each other make their keys themselves and send a request (``requests``), and agree on who runs the authority, which can
be one of their own making; what its certificates must look like says ``profile``.
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
from cryptography.hazmat.primitives.serialization import Encoding

from torchveil.errors import CertificateError
from torchveil.network import files, profile
from torchveil.network.keys import PrivateKeys, PublicKeys, private_pem, signing_key
from torchveil.network.names import Role, check_name
from torchveil.network.requests import KEY, own_keys, read_request, require_absent, subject

AUTHORITY = "ca"
CERTIFICATE = ".pem"
#: A certificate is valid a little before it is made: the clocks of two machines never agree.
_EARLIER = timedelta(minutes=5)
_RENEW = "--renew makes a new certificate for the same keys; for new keys move the files away first"


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
    require_absent(directory / (AUTHORITY + CERTIFICATE), directory / (AUTHORITY + KEY))
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = generate_private_key(SECP256R1())
    named = subject("authority", cluster)
    builder = _dated(x509.CertificateBuilder(), days, valid_from).subject_name(named).issuer_name(named)
    usage = _key_usage(digital_signature=False, key_cert_sign=True, crl_sign=True)
    made_for = x509.UniformResourceIdentifier(f"{profile.SCHEME}{cluster}")
    certificate = (
        builder.public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectAlternativeName([made_for]), critical=False)
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
    request: Path | None = None,
    valid_from: datetime | None = None,
) -> Paths:
    """Make the certificate and the keys of a role, with the authority in ``directory``.

    It ends with the authority's own at the latest. ``addresses`` (host names, IP addresses) are written into it for
    tools that ask for them; torchveil does not. ``renew`` makes a new certificate for the keys that are there already,
    ``request`` one for the keys that a file of ``requests`` names; then there is no file of keys. ``valid_from`` is for
    tests. Raises ``ConfigurationError`` if the role has files already (or none, to ``renew``), ``CertificateError`` if
    the authority's or the request cannot be used.
    """
    paths = Paths.of(directory, role)
    pem = profile.read(paths.authority)
    authority, cluster = profile.parse_pem(pem), profile.Authority.from_pem(pem).cluster
    authority_key = signing_key(profile.read(directory / (AUTHORITY + KEY)))
    if authority.public_key() != authority_key.public_key():
        raise CertificateError("ca.key does not belong to ca.pem", remedy="take both from the same authority")
    if cluster is None:
        raise CertificateError("ca.pem does not say of which cluster it is", remedy="torchveil certs init")
    if not renew:
        require_absent(paths.certificate, remedy=_RENEW)
    keys = read_request(request, role) if request else own_keys(paths.key, renew=renew)
    public = keys if isinstance(keys, PublicKeys) else keys.public()
    certificate = _leaf(authority, authority_key, cluster, role, public, days, addresses, valid_from)
    if isinstance(keys, PrivateKeys) and not renew:
        files.write_new(paths.key, keys.pem(), files.PRIVATE)
    files.replace(paths.certificate, certificate.public_bytes(Encoding.PEM), files.PUBLIC)
    return paths


def _leaf(
    authority: x509.Certificate,
    authority_key: EllipticCurvePrivateKey,
    cluster: str,
    role: Role,
    keys: PublicKeys,
    days: int,
    addresses: Sequence[str],
    valid_from: datetime | None,
) -> x509.Certificate:
    names = [x509.UniformResourceIdentifier(profile.uri(cluster, role)), *(_address(text) for text in addresses)]
    builder = _dated(x509.CertificateBuilder(), days, valid_from, authority.not_valid_after_utc)
    return (
        builder.subject_name(subject(str(role), cluster))
        .issuer_name(authority.subject)
        .public_key(keys.signing)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(profile.USAGES), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.UnrecognizedExtension(profile.SEALING_KEY, keys.sealing_der()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(keys.signing), critical=False)
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
