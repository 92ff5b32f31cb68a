"""Requests for certificates: a role makes its keys where they stay, and shows the authority their public halves.

A request is a PKCS #10 file with the sealing key as an extension, signed by the signing key. It holds nothing secret.
What it says about the role helps against mistakes and proves nothing: whoever issues decides whose certificate it
becomes.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from torchveil.errors import CertificateError, ConfigurationError
from torchveil.network import files, profile
from torchveil.network.keys import PrivateKeys, PublicKeys
from torchveil.network.names import Role

REQUEST = ".csr"
KEY = ".key"
_MAX_BYTES = 1 << 14
_MAX_NAME = 64  # characters of a part of a subject: X.509 allows no more


def make_request(directory: Path, role: Role, *, renew: bool = False) -> PublicKeys:
    """Write ``party-alice.key`` and ``party-alice.csr``; with ``renew`` only a new request for the key that is there.

    Raises ``ConfigurationError`` if there is a key already (or none, to ``renew``).
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / (role.stem + KEY)
    keys = own_keys(path, renew=renew)
    extension = x509.UnrecognizedExtension(profile.SEALING_KEY, keys.public().sealing_der())
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject(str(role)))
    request = builder.add_extension(extension, critical=False).sign(keys.signing, hashes.SHA256())
    if not renew:
        files.write_new(path, keys.pem(), files.PRIVATE)
    files.replace(path.with_suffix(REQUEST), request.public_bytes(Encoding.PEM), files.PUBLIC)
    return keys.public()


def read_request(path: Path, role: Role) -> PublicKeys:
    """The keys of a request for ``role``; raises ``CertificateError`` if it is none, or one of somebody else."""
    pem = profile.read(path)
    try:
        request = x509.load_pem_x509_csr(pem) if len(pem) <= _MAX_BYTES else None
        if request is None or not request.is_signature_valid:
            raise ValueError
        named = request.subject
    except profile.UNREADABLE:
        raise CertificateError(f"{path} is no request for a certificate", remedy="torchveil certs request") from None
    if named != subject(str(role)):
        raise CertificateError(f"{path} is not a request for {role}", remedy="ask for the role that it names")
    return profile.public_keys(request)


def own_keys(path: Path, *, renew: bool) -> PrivateKeys:
    """New keys for a file that must not exist, or those of one that must, to ``renew``."""
    if not renew:
        require_absent(path, remedy="--renew uses the keys that are there; for new keys move the file away first")
        return PrivateKeys.generate()
    if not path.exists():
        raise ConfigurationError(f"there is no {path} to renew a certificate for", remedy="leave --renew out")
    return PrivateKeys.from_pem(profile.read(path))


def require_absent(*paths: Path, remedy: str = "give another directory, or move it away") -> None:
    """Raise ``ConfigurationError`` if one of them exists."""
    for path in paths:
        if path.exists():
            raise ConfigurationError(f"{path} exists already, and nothing is replaced", remedy=remedy)


def subject(name: str, cluster: str = "") -> x509.Name:
    """For people who look at a certificate; nothing is decided by it."""
    common = name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 3] + "..."
    organisation = f"torchveil cluster {cluster}" if cluster else "torchveil"
    parts = (NameOID.ORGANIZATION_NAME, organisation[:_MAX_NAME]), (NameOID.COMMON_NAME, common)
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])
