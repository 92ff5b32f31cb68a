"""What consent needs of certificates: who signs, who is meant by a certificate, and whether a signature is theirs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from torchveil.network.certificates import Authority, Identity


class Signer(Protocol):
    """A role's own certificate and private key (``certificates.Credentials``)."""

    @property
    def role(self) -> object:
        """Its text is ``kind/name``, as the certificate says."""

    @property
    def cluster(self) -> str:
        """The cluster that the certificate is of."""

    @property
    def certificate_der(self) -> bytes:
        """The certificate."""

    def sign(self, data: bytes, purpose: str, /) -> bytes:
        """A signature that is good for this purpose only."""


class Known(Protocol):
    """A certificate that the cluster's authority issued (``certificates.Identity``)."""

    @property
    def role(self) -> object:
        """Its text is ``kind/name``, as the certificate says."""

    @property
    def cluster(self) -> str:
        """The cluster that the certificate is of."""

    def verify(self, signature: bytes, data: bytes, purpose: str, /) -> None:
        """Raises ``CertificateError`` unless the role signed ``data`` for ``purpose``."""


#: (bytes of a certificate, time in seconds since 1970) -> who it is; raises ``CertificateError`` if the cluster's
#: authority did not issue it, or it is not valid at that time.
Recognise = Callable[[bytes, float], Known]


def recogniser(authority: Authority) -> Recognise:
    """The certificates of one cluster."""

    def recognise(der: bytes, at: float) -> Known:
        return Identity.from_der(der, authority, at=datetime.fromtimestamp(at, UTC))

    return recognise
