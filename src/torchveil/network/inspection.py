"""What an operator asks of files with certificates: whose are they, how long do they last, what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from torchveil.errors import CertificateError
from torchveil.network import files, profile
from torchveil.network.authority import AUTHORITY, CERTIFICATE
from torchveil.network.keys import PrivateKeys, signing_key
from torchveil.network.names import Role
from torchveil.network.requests import KEY

WARN_DAYS = 30


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one certificate and the key beside it.

    ``role`` is None for an authority and for what cannot be read; ``days_left`` is negative once it has expired.
    ``problems`` keep it from working or make it unsafe; ``warnings`` will, later.
    """

    file: Path
    role: Role | None = None
    cluster: str | None = None
    not_after: datetime | None = None
    days_left: int | None = None
    fingerprint: str = ""  # SHA-256 of the certificate's DER, hexadecimal
    has_key: bool = False
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def inspect(
    where: Path | Sequence[Path],
    *,
    authority: Path | None = None,
    now: datetime | None = None,
    warn_days: int = WARN_DAYS,
) -> list[Finding]:
    """Look at all certificates of a directory, or at those in the files given. Raises nothing about their content.

    A key is looked for beside its certificate, under the same name with ``.key``; the authority under ``ca.pem``,
    unless it is given.
    """
    at = now or datetime.now(UTC)
    looks = (
        _look(file, authority or file.with_name(AUTHORITY + CERTIFICATE), at, warn_days) for file in _listed(where)
    )
    return [finding for look in looks for finding in look]


def _listed(where: Path | Sequence[Path]) -> Iterator[Path]:
    for path in [where] if isinstance(where, Path) else where:
        if path.is_dir():
            yield from sorted(path.glob("*" + CERTIFICATE), key=lambda file: (file.stem != AUTHORITY, file.name))
        else:
            yield path


def _look(file: Path, authority: Path, at: datetime, warn_days: int) -> Iterator[Finding]:
    try:
        pem = profile.read(file)
        if file.stem == AUTHORITY:  # more than one, while they are being changed
            found = profile.Authority.from_pem(pem)
            for certificate in found.certificates:
                problems = profile.authority_problems(certificate, at)
                yield _finding(file, certificate, None, found.cluster, problems, at, warn_days)
            return
        certificate = profile.parse_pem(pem)
    except CertificateError as error:
        yield Finding(file, problems=(error.message,))
        return
    role = cluster = None
    try:
        said = profile.fields(certificate)
        role, cluster = said.role, said.cluster
        problems = profile.problems(certificate, profile.Authority.load(authority), at)
    except CertificateError as error:
        problems = [error.message]
    yield _finding(file, certificate, role, cluster, problems, at, warn_days)


def _finding(
    file: Path,
    certificate: x509.Certificate,
    role: Role | None,
    cluster: str | None,
    problems: list[str],
    at: datetime,
    warn_days: int,
) -> Finding:
    key = file.with_suffix(KEY)
    left = certificate.not_valid_after_utc - at
    soon = timedelta() <= left < timedelta(days=warn_days)
    return Finding(
        file=file,
        role=role,
        cluster=cluster,
        not_after=certificate.not_valid_after_utc,
        days_left=left.days,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        has_key=key.exists(),
        problems=(*problems, *_key_problems(key, certificate, file.stem == AUTHORITY)),
        warnings=(f"it expires in {left.days} days",) if soon else (),
    )


def _key_problems(key: Path, certificate: x509.Certificate, of_authority: bool) -> Iterator[str]:
    if not key.exists():
        return
    if files.open_to_others(key):
        yield f"other users of this machine can read {key.name} (chmod 600 {key})"
    try:
        pem = profile.read(key)
        if of_authority:
            belongs = signing_key(pem).public_key() == certificate.public_key()
        else:
            belongs = PrivateKeys.from_pem(pem).public() == profile.public_keys(certificate)
    except CertificateError as error:
        yield f"{key.name}: {error.message}"
    else:
        if not belongs:
            yield f"{key.name} does not belong to it"
