"""Certificates in real handshakes: who gets in, who does not, and who is at the other end."""

from __future__ import annotations

import copy
import pickle
import re
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)

from tests.network.forgery import crafted
from tests.network.handshakes import Wrap, attempt, connected, connection, pair
from torchveil.errors import CertificateError, ConfigurationError, PeerRejected, SessionStateError
from torchveil.network import profile
from torchveil.network.authority import Paths
from torchveil.network.certificates import Authority, Credentials, Identity, create_authority, issue, peer_role
from torchveil.network.keys import PrivateKeys
from torchveil.network.names import Role
from torchveil.network.profile import SEALING_KEY, USAGES

ALICE, BOB = Role("party", "alice"), Role("party", "bob")
NOW = datetime.now(UTC)
LAST_YEAR, NEXT_YEAR = NOW - timedelta(days=365), NOW + timedelta(days=365)
ED25519 = ed25519.Ed25519PrivateKey.generate().public_key()
ED25519_SPKI = ED25519.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def credentials(directory: Path, role: Role, *, at: datetime | None = None, days: int = 365) -> Credentials:
    """A role's, made at a time by the authority of a directory."""
    paths = issue(directory, role, valid_from=at, days=days)
    return Credentials.load(paths.certificate, paths.key, paths.authority, at=at)


def changed(data: bytes, k: int) -> bytes:
    """With one bit of byte ``k`` flipped."""
    return data[:k] + bytes([data[k] ^ 1 << k % 8]) + data[k + 1 :]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cluster")
    create_authority(directory, "demo", valid_from=LAST_YEAR)
    return directory


@pytest.fixture(scope="module")
def alice(cluster: Path) -> Credentials:
    return credentials(cluster, ALICE)


@pytest.fixture(scope="module")
def bob(cluster: Path) -> Credentials:
    return credentials(cluster, BOB)


@pytest.mark.smoke
def test_two_roles_connect_and_know_each_other(alice: Credentials, bob: Credentials) -> None:
    with connection(alice.server_context(), bob.client_context()) as (here, there):
        assert here.version() == there.version() == "TLSv1.3"
        assert peer_role(here, "demo") == bob.identity and peer_role(here, "demo").role == BOB
        assert peer_role(there, "demo") == alice.identity
        assert peer_role(there, "demo").certificate_der == alice.certificate_der
        there.sendall(b"hello")
        assert here.recv(5) == b"hello"


def test_no_session_is_resumed(alice: Credentials, bob: Credentials) -> None:
    with connection(alice.server_context(), bob.client_context()) as (here, there):
        here.sendall(b"a read, with which a ticket would come")
        there.recv(100)
        assert there.session is None or not there.session.has_ticket


def test_no_file_of_session_secrets_is_written(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "secrets.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    eve = credentials(cluster, Role("controller", "eve"))
    with connection(eve.server_context(), eve.client_context()):
        assert not log.exists()


# --- who does not get in ---------------------------------------------------------------------------------------------


def stranger(authority: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A client that is not made by us: it takes the server's certificate and shows any that it is given, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority)
    if certificate:
        context.load_cert_chain(certificate, key)
    return context


def no_certificate(cluster: Path, other: Path) -> Wrap:
    return connected(stranger(cluster / "ca.pem"))


def another_authority(cluster: Path, other: Path) -> Wrap:
    paths = issue(other, Role("party", "mallory"))
    return connected(stranger(cluster / "ca.pem", paths.certificate, paths.key))


def another_authority_of_the_same_name(cluster: Path, other: Path) -> Wrap:
    twin = other / "twin"
    create_authority(twin, "demo")
    paths = issue(twin, BOB)
    return connected(stranger(cluster / "ca.pem", paths.certificate, paths.key))


def expired(cluster: Path, other: Path) -> Wrap:
    paths = issue(cluster, Role("party", "late"), valid_from=LAST_YEAR, days=364)
    return connected(stranger(cluster / "ca.pem", paths.certificate, paths.key))


def not_yet_valid(cluster: Path, other: Path) -> Wrap:
    paths = issue(cluster, Role("party", "early"), valid_from=NEXT_YEAR)
    return connected(stranger(cluster / "ca.pem", paths.certificate, paths.key))


def signed_by_a_role(cluster: Path, other: Path) -> Wrap:
    """A party plays the authority with its own certificate."""
    bobs = issue(cluster, Role("party", "forger"))
    return connected(stranger(cluster / "ca.pem", *crafted(bobs.certificate, bobs.key, other)))


def without_a_word_about_its_issuer(cluster: Path, other: Path) -> Wrap:
    """OpenSSL asks for it only if it is told to be strict."""
    without = [x509.AuthorityKeyIdentifier.oid]
    return connected(
        stranger(cluster / "ca.pem", *crafted(cluster / "ca.pem", cluster / "ca.key", other, without=without))
    )


def only_a_server(cluster: Path, other: Path) -> Wrap:
    paths = crafted(cluster / "ca.pem", cluster / "ca.key", other, usages=USAGES[1:])
    return connected(stranger(cluster / "ca.pem", *paths))


def tls_1_2(cluster: Path, other: Path) -> Wrap:
    paths = issue(cluster, Role("party", "old"))
    context = stranger(cluster / "ca.pem", paths.certificate, paths.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return connected(context)


def plaintext(cluster: Path, other: Path) -> Wrap:
    return lambda plain: plain.dup()


REFUSED: list[tuple[Callable[[Path, Path], Wrap], str]] = [
    (no_certificate, "peer did not return a certificate"),
    (another_authority, "self-signed certificate in|unable to get local issuer"),
    (another_authority_of_the_same_name, "signature failure|unable to get local issuer|self-signed"),
    (expired, "certificate has expired"),
    (not_yet_valid, "certificate is not yet valid"),
    (signed_by_a_role, "invalid CA certificate|unable to get local issuer|invalid purpose"),
    (without_a_word_about_its_issuer, "missing authority key identifier"),
    (only_a_server, "unsupported certificate purpose|unsuitable certificate purpose"),
    (tls_1_2, "unsupported protocol"),
    (plaintext, "wrong version number|record layer|http request|unexpected"),
]


@pytest.mark.parametrize(("client", "reason"), REFUSED, ids=lambda given: getattr(given, "__name__", ""))
def test_who_is_refused(
    client: Callable[[Path, Path], Wrap], reason: str, cluster: Path, alice: Credentials, tmp_path: Path
) -> None:
    """The server reads nothing of what they send, and they read nothing from the server."""
    create_authority(tmp_path, "other")
    here, there = attempt(alice.server_context(), client(cluster, tmp_path))
    assert isinstance(here, ssl.SSLError)
    assert re.search(reason, str(here).replace("_", " "), re.IGNORECASE), here
    assert isinstance(there, OSError) or there == b"" or (client is plaintext and b"from the server" not in there)


def test_a_client_that_is_refused_learns_of_it_at_its_first_read(cluster: Path, alice: Credentials) -> None:
    """That is TLS 1.3: its handshake ends well, before the server has seen that there is no certificate."""
    with pair() as (left, right), ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(lambda: alice.server_context().wrap_socket(left, server_side=True))
        with stranger(cluster / "ca.pem").wrap_socket(right) as client:
            assert isinstance(accepting.exception(60), ssl.SSLError)
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
                client.recv(1)


@pytest.mark.parametrize("dated", [{"valid_from": LAST_YEAR, "days": 364}, {"valid_from": NEXT_YEAR}, {}])
def test_a_client_refuses_a_server_alike(
    dated: dict[str, Any], cluster: Path, bob: Credentials, tmp_path: Path
) -> None:
    """One that is expired, one that is not valid yet, one of another authority."""
    create_authority(tmp_path, "demo", valid_from=LAST_YEAR)
    paths = issue(cluster if dated else tmp_path, Role("provider", f"of-{len(dated)}"), **dated)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(paths.certificate, paths.key)
    here, there = attempt(server, connected(bob.client_context()))
    assert isinstance(there, ssl.SSLCertVerificationError) and isinstance(here, OSError)


def test_a_client_refuses_a_server_of_tls_1_2(cluster: Path, bob: Credentials) -> None:
    paths = issue(cluster, Role("provider", "old"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    server.load_cert_chain(paths.certificate, paths.key)
    here, there = attempt(server, connected(bob.client_context()))
    assert isinstance(there, ssl.SSLError) and isinstance(here, OSError)


# --- who is at the other end -----------------------------------------------------------------------------------------

ODD: dict[str, dict[str, Any]] = {
    "another cluster": {"uris": ["torchveil://elsewhere/party/alice"]},
    "no URI": {"uris": []},
    "several URIs": {"uris": ["torchveil://demo/party/alice", "torchveil://demo/party/bob"]},
    "the same URI twice": {"uris": ["torchveil://demo/party/alice"] * 2},
    "no scheme": {"uris": ["demo/party/alice"]},
    "another scheme": {"uris": ["https://demo/party/alice"]},
    "an unknown kind": {"uris": ["torchveil://demo/root/alice"]},
    "no name": {"uris": ["torchveil://demo/party"]},
    "an empty cluster": {"uris": ["torchveil:///party/alice"]},
    "something after the name": {"uris": ["torchveil://demo/party/alice/.."]},
    "a query": {"uris": ["torchveil://demo/party/alice?x=1"]},
    "letters in another case": {"uris": ["TORCHVEIL://demo/party/alice"]},
    "an RSA key": {"key": rsa.generate_private_key(65537, 2048)},
    "a P-384 key": {"key": ec.generate_private_key(ec.SECP384R1())},
    "no sealing key": {"without": [SEALING_KEY]},
    "a sealing key that is none": {"sealing": b"\x04\x20" + bytes(32)},
    "a sealing key of another kind": {"sealing": ED25519_SPKI},
}


@pytest.mark.parametrize("made", ODD.values(), ids=ODD)
def test_whose_certificate_is_none_of_a_role_of_the_cluster(
    made: dict[str, Any], cluster: Path, alice: Credentials, tmp_path: Path
) -> None:
    """The cluster's authority signed it, so the handshake goes well."""
    paths = crafted(cluster / "ca.pem", cluster / "ca.key", tmp_path, **made)
    connecting = connection(alice.server_context(), stranger(cluster / "ca.pem", *paths))
    with connecting as (here, _), pytest.raises(PeerRejected):
        peer_role(here, "demo")


def test_a_connection_without_a_certificate_has_no_role(cluster: Path, alice: Credentials) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    paths = issue(cluster, Role("owner", "plain"))
    context.load_cert_chain(paths.certificate, paths.key)
    connecting = connection(context, stranger(cluster / "ca.pem"))
    with connecting as (here, _), pytest.raises(PeerRejected, match="no certificate"):
        peer_role(here, "demo")


# --- certificates that come by themselves ----------------------------------------------------------------------------


def test_an_identity_from_a_certificate_alone(cluster: Path, alice: Credentials) -> None:
    pem = (cluster / "ca.pem").read_bytes()
    for authority in (pem, Authority.from_pem(pem)):
        found = Identity.from_der(alice.certificate_der, authority)
        assert found == alice.identity and hash(found) == hash(alice.identity)
        assert found.role == ALICE and found.cluster == "demo" and len(found.fingerprint) == 32


@pytest.mark.parametrize("at", [LAST_YEAR - timedelta(days=1), NEXT_YEAR + timedelta(days=1)])
def test_it_is_valid_only_in_its_time(at: datetime, cluster: Path, alice: Credentials) -> None:
    with pytest.raises(CertificateError, match=r"not valid before|expired"):
        Identity.from_der(alice.certificate_der, (cluster / "ca.pem").read_bytes(), at=at)


def test_the_authority_must_be_valid_too(tmp_path: Path) -> None:
    create_authority(tmp_path, "demo", days=10, valid_from=LAST_YEAR)
    der = credentials(tmp_path, ALICE, at=LAST_YEAR).certificate_der
    with pytest.raises(CertificateError, match="its authority: it expired"):
        Identity.from_der(der, (tmp_path / "ca.pem").read_bytes())


WRONG: dict[str, dict[str, Any]] = {
    **ODD,
    "an authority's": {"ca": True},
    "a client's only": {"usages": USAGES[:1]},
    "a server's only": {"usages": USAGES[1:]},
    "without usage": {"usages": []},
    "without key usage": {"without": [x509.KeyUsage.oid]},
    "signed with a weak hash function": {"algorithm": hashes.SHA224()},
    "of no authority by its key": {"without": [x509.AuthorityKeyIdentifier.oid]},
}


@pytest.mark.parametrize("made", WRONG.values(), ids=WRONG)
def test_a_certificate_that_the_authority_should_not_have_signed(
    made: dict[str, Any], cluster: Path, tmp_path: Path
) -> None:
    path, key = crafted(cluster / "ca.pem", cluster / "ca.key", tmp_path, **made)
    der = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    with pytest.raises(CertificateError):
        Identity.from_der(der, (cluster / "ca.pem").read_bytes())
    with pytest.raises(CertificateError):
        Credentials.load(path, key, cluster / "ca.pem")


def test_an_authoritys_certificate_is_called_so(cluster: Path, tmp_path: Path) -> None:
    paths = crafted(cluster / "ca.pem", cluster / "ca.key", tmp_path, ca=True)
    with pytest.raises(CertificateError, match="it is the certificate of an authority"):
        Credentials.load(*paths, cluster / "ca.pem")


def test_a_long_certificate_is_not_even_parsed(
    cluster: Path, alice: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "MAX_DER", len(alice.certificate_der) - 1)
    with pytest.raises(CertificateError, match="too long"):
        Identity.from_der(alice.certificate_der, (cluster / "ca.pem").read_bytes())


def test_authorities_of_two_clusters_are_none(cluster: Path, tmp_path: Path) -> None:
    create_authority(tmp_path, "other")
    with pytest.raises(CertificateError, match="different clusters"):
        Authority.from_pem((cluster / "ca.pem").read_bytes() + (tmp_path / "ca.pem").read_bytes())


def test_an_authority_issues_with_its_own_key(tmp_path: Path) -> None:
    create_authority(tmp_path, "demo")
    create_authority(tmp_path / "other", "demo")
    (tmp_path / "other" / "ca.key").replace(tmp_path / "ca.key")
    with pytest.raises(CertificateError, match="does not belong to ca"):
        issue(tmp_path, ALICE)


def test_what_is_crafted_without_a_fault_is_taken(cluster: Path, tmp_path: Path) -> None:
    paths = crafted(cluster / "ca.pem", cluster / "ca.key", tmp_path)
    assert str(Credentials.load(*paths, cluster / "ca.pem").role) == "party/forged"


def test_another_authority_of_the_same_name_and_key_identifier_is_not_taken(alice: Credentials, tmp_path: Path) -> None:
    create_authority(tmp_path, "demo")
    with pytest.raises(CertificateError, match="another authority"):
        Identity.from_der(alice.certificate_der, (tmp_path / "ca.pem").read_bytes())


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_bytes_that_are_no_certificate(cluster: Path, alice: Credentials) -> None:
    """It is cut everywhere, and every byte of what is signed is changed: nothing passes or raises anything else."""
    authority = Authority.load(cluster / "ca.pem")
    der = alice.certificate_der
    signed = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    begin = der.index(signed)
    cases = [der[:length] for length in range(len(der))] + [der + b"\0", bytes(1 << 20)]
    cases += [changed(der, k) for k in range(begin + len(signed))]
    for case in cases:
        with pytest.raises(CertificateError):
            Identity.from_der(case, authority)


def test_another_way_to_write_the_signature_says_nothing_else(cluster: Path, alice: Credentials) -> None:
    """The numbers r and -s sign what r and s do. It is another fingerprint, so it passes for no certificate known."""
    certificate = x509.load_der_x509_certificate(alice.certificate_der)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    r, s = decode_dss_signature(certificate.signature)
    again = encode_dss_signature(r, order - s)
    rest = alice.certificate_der[4 : -len(certificate.signature) - 3]  # between the outer header and the bit string
    body = rest + b"\x03" + bytes([len(again) + 1, 0]) + again
    found = Identity.from_der(b"\x30\x82" + len(body).to_bytes(2, "big") + body, Authority.load(cluster / "ca.pem"))
    assert found.role == alice.role and found != alice.identity
    assert alice.unseal(found.seal(b"value", b""), b"") == b"value"


def test_two_authorities_while_one_is_replaced_by_the_other(cluster: Path, alice: Credentials, tmp_path: Path) -> None:
    create_authority(tmp_path, "demo")
    paths = issue(tmp_path, BOB)
    both = tmp_path / "both.pem"
    both.write_bytes((cluster / "ca.pem").read_bytes() + paths.authority.read_bytes())
    old = Credentials.load(cluster / "party-alice.pem", cluster / "party-alice.key", both)
    new = Credentials.load(paths.certificate, paths.key, both)
    with connection(old.server_context(), new.client_context()) as (here, there):
        assert (peer_role(here, "demo").role, peer_role(there, "demo").role) == (BOB, ALICE)
    assert Identity.from_der(alice.certificate_der, both.read_bytes()) == alice.identity


def test_an_authority_of_another_cluster_in_its_own_words(cluster: Path, tmp_path: Path) -> None:
    """A certificate about cluster demo, signed by the authority of another."""
    create_authority(tmp_path, "other")
    paths = crafted(tmp_path / "ca.pem", tmp_path / "ca.key", tmp_path)
    with pytest.raises(CertificateError, match="not one of cluster demo"):
        Credentials.load(*paths, tmp_path / "ca.pem")


# --- a role's own files ----------------------------------------------------------------------------------------------


def test_private_files_are_private_from_the_start(tmp_path: Path) -> None:
    create_authority(tmp_path / "new", "demo")
    paths = issue(tmp_path / "new", ALICE)
    for key in (paths.key, tmp_path / "new" / "ca.key"):
        assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    create_authority(tmp_path, "demo")
    issue(tmp_path, ALICE)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConfigurationError):
        create_authority(tmp_path, "demo")
    with pytest.raises(ConfigurationError):
        issue(tmp_path, ALICE)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_authority_of_which_half_is_there_is_not_overwritten(tmp_path: Path) -> None:
    for kept, lost in (("ca.pem", "ca.key"), ("ca.key", "ca.pem")):
        directory = tmp_path / kept
        create_authority(directory, "demo")
        (directory / lost).unlink()
        with pytest.raises(ConfigurationError):
            create_authority(directory, "demo")
        assert not (directory / lost).exists()


def test_renewing_keeps_the_keys(tmp_path: Path) -> None:
    create_authority(tmp_path, "demo")
    old = credentials(tmp_path, ALICE, days=1)
    paths = issue(tmp_path, ALICE, renew=True)
    new = Credentials.load(paths.certificate, paths.key, paths.authority)
    assert new.fingerprint != old.fingerprint and new.identity.not_after > old.identity.not_after
    assert new.unseal(old.identity.seal(b"value", b"context"), b"context") == b"value"
    new.identity.verify(old.sign(b"data", "test"), b"data", "test")
    with pytest.raises(ConfigurationError):
        issue(tmp_path, BOB, renew=True)


def test_a_role_ends_with_its_authority(tmp_path: Path) -> None:
    create_authority(tmp_path, "demo", days=20)
    left = credentials(tmp_path, ALICE).identity.not_after - datetime.now(UTC)
    assert timedelta(days=19) < left <= timedelta(days=20)


def test_keys_of_somebody_else_are_not_taken(cluster: Path, alice: Credentials, bob: Credentials) -> None:
    with pytest.raises(CertificateError, match="does not belong"):
        Credentials.load(cluster / "party-alice.pem", cluster / "party-bob.key", cluster / "ca.pem")


def test_each_of_the_two_keys_must_be_the_certificates(tmp_path: Path) -> None:
    create_authority(tmp_path, "demo")
    first, second = issue(tmp_path, ALICE), issue(tmp_path, BOB)
    ours, others = first.key.read_text(), second.key.read_text()
    end = "-----END PRIVATE KEY-----\n"
    blocks, foreign = ours.split(end), others.split(end)
    mixtures = [
        blocks[0] + end + foreign[1] + end,  # the sealing key of another
        foreign[0] + end + blocks[1] + end,
        blocks[0] + end,
        blocks[1] + end,
        blocks[1] + end + blocks[0] + end,  # OpenSSL would take the first
        ours + others,
        "",
    ]
    for text in mixtures:
        first.key.write_text(text)
        with pytest.raises(CertificateError):
            Credentials.load(first.certificate, first.key, first.authority)
    first.key.write_text(ours)
    Credentials.load(first.certificate, first.key, first.authority)


def test_a_key_with_a_passphrase_is_refused_and_asks_nobody(tmp_path: Path) -> None:
    create_authority(tmp_path, "demo")
    paths = issue(tmp_path, ALICE)
    encrypted = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"words")
    )
    paths.key.write_bytes(encrypted)
    with pytest.raises(CertificateError, match="unencrypted"):
        Credentials.load(paths.certificate, paths.key, paths.authority)


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    create_authority(tmp_path, "demo")
    paths = issue(tmp_path, ALICE)
    for mode in (0o604, 0o620, 0o644, 0o602, 0o666):
        paths.key.chmod(mode)
        with pytest.raises(CertificateError, match="chmod 600"):
            Credentials.load(paths.certificate, paths.key, paths.authority)
    for mode in (0o400, 0o440, 0o600):
        paths.key.chmod(mode)
        Credentials.load(paths.certificate, paths.key, paths.authority)


def test_missing_files_have_our_error(cluster: Path, alice: Credentials) -> None:
    files = [cluster / "party-alice.pem", cluster / "party-alice.key", cluster / "ca.pem"]
    for k in range(3):
        paths = [*files[:k], cluster / "nowhere", *files[k + 1 :]]
        with pytest.raises(CertificateError, match="nowhere cannot be read"):
            Credentials.load(*paths)


def test_a_file_that_holds_no_certificate_is_named_and_a_key_called_one(
    cluster: Path, alice: Credentials, tmp_path: Path
) -> None:
    paths = Paths.of(cluster, ALICE)
    with pytest.raises(CertificateError, match=r"alice\.key holds a key") as caught:
        Credentials.load(paths.key, paths.key, paths.authority)
    assert caught.value.remedy == f"its certificate is {paths.certificate}"
    lonely, other = tmp_path / "lonely.key", tmp_path / "other.pem"
    lonely.write_bytes(paths.key.read_bytes())
    with pytest.raises(CertificateError, match=r"lonely\.key holds a key") as caught:
        Credentials.load(lonely, lonely, paths.authority)
    assert "name the file of a certificate" in caught.value.remedy
    other.write_text("nothing")
    with pytest.raises(CertificateError, match=r"other\.pem is no PEM file with one certificate") as caught:
        Credentials.load(other, paths.key, paths.authority)
    assert "name the file of a certificate" in caught.value.remedy


def test_expired_credentials_do_not_load(tmp_path: Path) -> None:
    create_authority(tmp_path, "demo", valid_from=LAST_YEAR)
    paths = issue(tmp_path, ALICE, valid_from=LAST_YEAR, days=100)
    with pytest.raises(CertificateError, match="expired on"):
        Credentials.load(paths.certificate, paths.key, paths.authority)
    Credentials.load(paths.certificate, paths.key, paths.authority, at=LAST_YEAR)


@pytest.mark.parametrize("days", [0, -3])
def test_a_certificate_lasts_at_least_a_day(days: int, tmp_path: Path) -> None:
    with pytest.raises(CertificateError):
        create_authority(tmp_path, "demo", days=days)
    create_authority(tmp_path / "it", "demo")
    with pytest.raises(CertificateError):
        issue(tmp_path / "it", ALICE, days=days)
    assert not (tmp_path / "it" / "party-alice.key").exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 65])
def test_names_of_clusters(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        create_authority(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_the_longest_names_fit(tmp_path: Path) -> None:
    create_authority(tmp_path, "c" * 64)
    assert credentials(tmp_path, Role("controller", "r" * 64)).cluster == "c" * 64


def test_addresses_are_written_and_mean_nothing(cluster: Path) -> None:
    addresses = ["localhost", "127.0.0.1", "::1", "alice.example.org"]
    paths = issue(cluster, Role("party", "addressed"), addresses=addresses)
    assert Credentials.load(paths.certificate, paths.key, paths.authority).role.name == "addressed"
    extensions = x509.load_pem_x509_certificate(paths.certificate.read_bytes()).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "alice.example.org"]
    for bad in ("a b", "torchveil://demo/party/x", ""):
        with pytest.raises(ConfigurationError):
            issue(cluster, Role("party", "misaddressed"), addresses=[bad])


def test_nothing_private_is_shown_or_copied(cluster: Path, alice: Credentials) -> None:
    assert repr(alice) == "<Credentials party/alice>"
    keys = PrivateKeys.from_pem((cluster / "party-alice.key").read_bytes())
    assert repr(keys) == "PrivateKeys()"
    for secret in (alice, keys):
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(SessionStateError):
                duplicate(secret)
    for name in dir(alice):
        if not name.startswith("_"):
            assert "PrivateKey" not in type(getattr(alice, name)).__name__


# --- signatures ------------------------------------------------------------------------------------------------------


def test_a_signature_holds_for_its_data_purpose_and_role(alice: Credentials, bob: Credentials) -> None:
    signature = alice.sign(b"data", "grant")
    alice.identity.verify(signature, b"data", "grant")
    alice.identity.verify(signature, memoryview(b"data"), "grant")
    others: list[tuple[Identity, bytes, bytes, str]] = [
        (bob.identity, signature, b"data", "grant"),
        (alice.identity, signature, b"datb", "grant"),
        (alice.identity, signature, b"data", "audit"),
        (alice.identity, signature, b"tdata", "gran"),
        (alice.identity, signature[:-1], b"data", "grant"),
        (alice.identity, b"", b"data", "grant"),
        (alice.identity, bytes(72), b"data", "grant"),
    ]
    for identity, signed, data, purpose in others:
        with pytest.raises(CertificateError, match="signature"):
            identity.verify(signed, data, purpose)


def test_what_a_handshake_signs_can_never_be_signed_for_a_purpose(alice: Credentials) -> None:
    """The same key signs both; neither can be passed off as the other."""
    handshake = b" " * 64 + b"TLS 1.3, client CertificateVerify" + b"\0" + bytes(32)
    key = alice._keys.signing
    with pytest.raises(CertificateError):
        alice.identity.verify(key.sign(handshake, ec.ECDSA(hashes.SHA256())), handshake, "")
    with pytest.raises(InvalidSignature):
        key.public_key().verify(alice.sign(handshake, ""), handshake, ec.ECDSA(hashes.SHA256()))
