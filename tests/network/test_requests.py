"""Requests for certificates: keys that never were where the authority is."""

from __future__ import annotations

import base64
import re
import shlex
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from torchveil.cli import main
from torchveil.errors import CertificateError, ConfigurationError
from torchveil.network.certificates import Credentials, create_authority, issue
from torchveil.network.names import Role
from torchveil.network.requests import make_request, subject

DORA, EVE = Role("party", "dora"), Role("party", "eve")
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "certificates.md"


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    create_authority(tmp_path / "demo", "demo")
    return tmp_path / "demo"


@pytest.mark.smoke
def test_a_certificate_for_keys_that_stay(cluster: Path, tmp_path: Path) -> None:
    there = tmp_path / "dora"
    keys = make_request(there, DORA)
    paths = issue(cluster, DORA, request=there / "party-dora.csr")
    assert not paths.key.exists()
    assert (there / "party-dora.key").stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in (there / "party-dora.csr").read_bytes()
    dora = Credentials.load(paths.certificate, there / "party-dora.key", paths.authority)
    assert dora.role == DORA and len(keys.fingerprint()) == 64
    assert dora.unseal(dora.identity.seal(b"value", b""), b"") == b"value"


def test_nothing_is_overwritten_and_renewing_keeps_the_key(cluster: Path, tmp_path: Path) -> None:
    keys = make_request(tmp_path, DORA)
    before = (tmp_path / "party-dora.key").read_bytes()
    request = tmp_path / "party-dora.csr"
    first = issue(cluster, DORA, request=request).certificate.read_bytes()
    with pytest.raises(ConfigurationError):
        make_request(tmp_path, DORA)
    with pytest.raises(ConfigurationError):
        issue(cluster, DORA, request=request)
    with pytest.raises(ConfigurationError):
        make_request(tmp_path, EVE, renew=True)
    assert make_request(tmp_path, DORA, renew=True) == keys
    paths = issue(cluster, DORA, request=request, renew=True)
    assert (tmp_path / "party-dora.key").read_bytes() == before and paths.certificate.read_bytes() != first
    Credentials.load(paths.certificate, tmp_path / "party-dora.key", paths.authority)


def test_a_request_of_somebody_else(cluster: Path, tmp_path: Path) -> None:
    make_request(tmp_path, EVE)
    with pytest.raises(CertificateError, match="not a request for party/dora"):
        issue(cluster, DORA, request=tmp_path / "party-eve.csr")
    assert not (cluster / "party-dora.pem").exists()


def test_what_is_no_request(cluster: Path, tmp_path: Path) -> None:
    """Changed anywhere, cut, empty, too long, something else, without a key to seal to, of another curve."""
    make_request(tmp_path, DORA)
    file = tmp_path / "party-dora.csr"
    good = file.read_bytes()
    der = x509.load_pem_x509_csr(good).public_bytes(Encoding.DER)
    signed = len(x509.load_pem_x509_csr(good).tbs_certrequest_bytes)
    pem = [_pem(der[:k] + bytes([der[k] ^ 4]) + der[k + 1 :]) for k in range(3 + signed)]
    bare = x509.CertificateSigningRequestBuilder().subject_name(subject(str(DORA)))
    pem += [
        bare.sign(ec.generate_private_key(curve), hashes.SHA256()).public_bytes(Encoding.PEM)
        for curve in (ec.SECP256R1(), ec.SECP384R1())
    ]
    pem += [good[:-100], b"", good * 40, (cluster / "ca.pem").read_bytes()]
    for text in pem:
        file.write_bytes(text)
        with pytest.raises(CertificateError):
            issue(cluster, DORA, request=file)
    assert not list(cluster.glob("party-*"))


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE REQUEST-----\n"


def test_the_commands_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\$ torchveil (.*)$", PAGE.read_text(), re.MULTILINE)
    assert len(commands) >= 13
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    printed = re.findall(r"SHA-256 ([0-9a-f]{64})", capsys.readouterr().out)
    assert printed[0] == printed[1]  # what dora and the authority compare
    assert (tmp_path / "demo" / "party-dora.pem").exists() and not (tmp_path / "demo" / "party-dora.key").exists()
