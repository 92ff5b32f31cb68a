"""A small authority for tests: certificates of roles, signatures for a purpose."""

from __future__ import annotations

import datetime
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from torchveil.errors import CertificateError
from torchveil.network.consent.identities import Known

CLUSTER = "test-cluster"


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Credentials:
    def __init__(self, role: str, cluster: str, der: bytes, key: Ed25519PrivateKey) -> None:
        self.role, self.cluster, self.certificate_der, self._key = role, cluster, der, key
        self.fingerprint = hashlib.sha256(der).digest()

    def sign(self, data: bytes, purpose: str) -> bytes:
        return self._key.sign(purpose.encode() + b"\0" + data)


class Identity:
    def __init__(self, role: str, cluster: str, key: Ed25519PublicKey) -> None:
        self.role, self.cluster, self._key = role, cluster, key

    def verify(self, signature: bytes, data: bytes, purpose: str) -> None:
        try:
            self._key.verify(signature, purpose.encode() + b"\0" + data)
        except InvalidSignature:
            raise CertificateError("not signed with this key") from None


class Authority:
    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.ended: dict[bytes, float] = {}

    def issue(self, role: str, cluster: str = CLUSTER) -> Credentials:
        key = Ed25519PrivateKey.generate()
        now = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(role))
            .issuer_name(_name("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=36500))
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"torchveil://{cluster}/{role}")]), False
            )
            .sign(self._key, None)
        )
        return Credentials(role, cluster, certificate.public_bytes(serialization.Encoding.DER), key)

    def recognise(self, der: bytes, at: float) -> Known:
        try:
            certificate = x509.load_der_x509_certificate(der)
            self._key.public_key().verify(certificate.signature, certificate.tbs_certificate_bytes)
        except (ValueError, InvalidSignature):
            raise CertificateError("not a certificate of this cluster") from None
        if at >= self.ended.get(der, float("inf")):
            raise CertificateError("no longer valid")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uri = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
        cluster, _, role = uri.removeprefix("torchveil://").partition("/")
        key = certificate.public_key()
        assert isinstance(key, Ed25519PublicKey)
        return Identity(role, cluster, key)
