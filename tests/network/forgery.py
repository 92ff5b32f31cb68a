"""Certificates that torchveil would not issue, signed by a cluster's true authority or by anybody."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from torchveil.network.profile import SEALING_KEY, USAGES

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def crafted(
    issuer: Path,
    issuer_key: Path,
    directory: Path,
    *,
    uris: Sequence[str] = ("torchveil://demo/party/forged",),
    usages: Sequence[ObjectIdentifier] = USAGES,
    ca: bool = False,
    key: Key | None = None,
    sealing: bytes | None = None,
    without: Sequence[ObjectIdentifier] = (),
    algorithm: hashes.HashAlgorithm | None = None,
) -> tuple[Path, Path]:
    """A certificate and its key file, in ``directory``. ``without`` leaves extensions out."""
    parent = x509.load_pem_x509_certificate(issuer.read_bytes())
    signer = serialization.load_pem_private_key(issuer_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = key or ec.generate_private_key(ec.SECP256R1())
    second = x25519.X25519PrivateKey.generate()
    spki = second.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    names = [x509.UniformResourceIdentifier(uri) for uri in uris]
    others = "content_commitment key_encipherment data_encipherment key_agreement encipher_only decipher_only"
    usage = dict.fromkeys(others.split(), False)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=ca, path_length=None), True),
        (x509.KeyUsage(digital_signature=True, key_cert_sign=ca, crl_sign=ca, **usage), True),
        (x509.UnrecognizedExtension(SEALING_KEY, spki if sealing is None else sealing), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        *([(x509.SubjectAlternativeName(names), False)] if names else []),
        *([(x509.ExtendedKeyUsage(usages), False)] if usages else []),
    ]
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "party/forged")]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=90))
    )
    for extension, critical in extensions:
        if extension.oid not in without:
            builder = builder.add_extension(extension, critical)
    certificate = builder.sign(signer, algorithm or hashes.SHA256())
    paths = directory / "forged.pem", directory / "forged.key"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = [part.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for part in (key, second)]
    paths[1].write_bytes(b"".join(pem))
    paths[1].chmod(0o600)
    return paths
