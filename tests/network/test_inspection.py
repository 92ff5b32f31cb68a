"""What ``show`` and ``check`` find, by themselves and as commands."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.network.forgery import crafted
from torchveil.cli import main
from torchveil.network.certificates import create_authority, inspect, issue
from torchveil.network.names import Role

ALICE, BOB = Role("party", "alice"), Role("party", "bob")
NOW = datetime.now(UTC).replace(microsecond=0)  # as in certificates: one that is made in this second is not older
DAY = timedelta(days=1)


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    directory = tmp_path / "cluster"
    create_authority(directory, "demo", valid_from=NOW - 100 * DAY)
    issue(directory, ALICE)
    return directory


def problem(cluster: Path, name: str = "party-alice.pem") -> str:
    """The only problem of a certificate."""
    (found,) = inspect([cluster / name])
    (only,) = found.problems
    return only


@pytest.mark.smoke
def test_nothing_is_wrong(cluster: Path) -> None:
    authority, alice = inspect(cluster)
    assert (authority.role, authority.cluster, alice.role, alice.cluster) == (None, "demo", ALICE, "demo")
    assert alice.days_left in (364, 365) and alice.has_key and len(alice.fingerprint) == 64
    assert not (authority.problems or authority.warnings or alice.problems or alice.warnings)


def test_time_passes(cluster: Path) -> None:
    """Valid, soon over, over; and before it begins."""
    for days, left, n_problems, n_warnings in ((334, 31, 0, 0), (336, 29, 0, 1), (364, 1, 0, 1), (366, -1, 1, 0)):
        (found,) = inspect([cluster / "party-alice.pem"], now=NOW + days * DAY)
        assert found.days_left == left
        assert (len(found.problems), len(found.warnings)) == (n_problems, n_warnings)
    (found,) = inspect([cluster / "party-alice.pem"], now=NOW - DAY)
    assert "is the clock of this machine right?" in found.problems[0]


def test_the_authority_ends(tmp_path: Path) -> None:
    create_authority(tmp_path, "demo", days=20)
    issue(tmp_path, ALICE)
    authority, alice = inspect(tmp_path)
    assert authority.warnings == alice.warnings == ("it expires in 19 days",)
    authority, alice = inspect(tmp_path, now=NOW + 21 * DAY)
    assert "expired" in authority.problems[0] and any("its authority" in text for text in alice.problems)


def test_two_authorities_while_one_replaces_the_other(cluster: Path, tmp_path: Path) -> None:
    create_authority(tmp_path, "demo")
    old = (cluster / "ca.pem").read_bytes()
    (cluster / "ca.pem").write_bytes(old + (tmp_path / "ca.pem").read_bytes())
    (cluster / "ca.key").unlink()
    found = inspect(cluster)
    assert [finding.file.name for finding in found] == ["ca.pem", "ca.pem", "party-alice.pem"]
    assert not any(finding.problems for finding in found)


def test_an_authority_that_is_none(cluster: Path) -> None:
    (cluster / "ca.pem").write_bytes((cluster / "party-alice.pem").read_bytes())
    (cluster / "ca.key").unlink()
    assert problem(cluster, "ca.pem") == "it is no authority's"


def test_a_key_of_another(cluster: Path) -> None:
    issue(cluster, BOB)
    (cluster / "party-bob.key").replace(cluster / "party-alice.key")
    assert problem(cluster) == "party-alice.key does not belong to it"


def test_a_key_that_is_none(cluster: Path) -> None:
    (cluster / "party-alice.key").write_text("nothing")
    assert problem(cluster).startswith("party-alice.key: a role's key file must hold")


def test_an_authority_with_the_key_of_another(cluster: Path, tmp_path: Path) -> None:
    create_authority(tmp_path, "demo")
    (tmp_path / "ca.key").replace(cluster / "ca.key")
    assert problem(cluster, "ca.pem") == "ca.key does not belong to it"


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o660])
def test_a_key_that_others_can_read(mode: int, cluster: Path) -> None:
    for name in ("party-alice", "ca"):
        (cluster / f"{name}.key").chmod(mode)
        assert problem(cluster, f"{name}.pem").startswith("other users of this machine can read")


def test_a_certificate_without_its_key_is_fine(cluster: Path) -> None:
    """The one that others are given."""
    (cluster / "party-alice.key").unlink()
    (found,) = inspect([cluster / "party-alice.pem"])
    assert not found.has_key and not found.problems


def test_another_authority(cluster: Path, tmp_path: Path) -> None:
    create_authority(tmp_path, "demo")
    (tmp_path / "ca.pem").replace(cluster / "ca.pem")
    assert problem(cluster) == "it was issued by another authority than this cluster's"


def test_the_authority_lies_elsewhere_or_nowhere(cluster: Path, tmp_path: Path) -> None:
    moved = tmp_path / "root.pem"
    (cluster / "ca.pem").replace(moved)
    assert "cannot be read" in problem(cluster)
    (found,) = inspect([cluster / "party-alice.pem"], authority=moved)
    assert not found.problems


def test_what_should_not_have_been_issued(cluster: Path) -> None:
    crafted(cluster / "ca.pem", cluster / "ca.key", cluster, usages=[])
    assert problem(cluster, "forged.pem") == "it is not meant for both ends of a TLS connection"
    crafted(cluster / "ca.pem", cluster / "ca.key", cluster, uris=[])
    (cluster / "forged.key").unlink()
    assert problem(cluster, "forged.pem") == "a certificate must name one role, and this one names 0"


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_that_is_none(text: str, cluster: Path) -> None:
    (cluster / "party-alice.pem").write_text(text)
    assert problem(cluster) == "this is no PEM file with one certificate"


# --- the commands ----------------------------------------------------------------------------------------------------


def test_make_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = str(tmp_path / "demo")
    assert main(["certs", "init", there, "--cluster", "demo"]) == 0
    assert main(["certs", "issue", there, "party/alice", "--address", "localhost", "--days", "90"]) == 0
    assert main(["certs", "issue", there, "provider/james"]) == 0
    assert "party-alice.key" in capsys.readouterr().out
    assert main(["certs", "show", there]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 3 and "party/alice of demo, valid until" in shown and "(89 days)" in shown
    assert main(["certs", "show", "--json", there]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["role"] for row in rows] == [None, "party/alice", "provider/james"]
    assert main(["certs", "check", there]) == 0
    assert capsys.readouterr() == ("", "")


def test_check_warns_and_then_fails(cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["certs", "check", str(cluster / "party-alice.pem")]
    assert main([*asked, "--warn-days", "400"]) == 0
    warned = capsys.readouterr()
    assert not warned.out and "torchveil: warning:" in warned.err and "it expires in 36" in warned.err
    (cluster / "party-alice.key").chmod(0o644)
    assert main(asked) == 1
    failed = capsys.readouterr()
    assert not failed.out and "chmod 600" in failed.err and "warning" not in failed.err
    assert main(["certs", "check", str(tmp_path)]) == 1  # a directory without certificates
    assert "no certificates in" in capsys.readouterr().err


def test_renew(cluster: Path) -> None:
    before = (cluster / "party-alice.pem").read_bytes(), (cluster / "party-alice.key").read_bytes()
    assert main(["certs", "issue", str(cluster), "party/alice"]) == 2
    assert ((cluster / "party-alice.pem").read_bytes(), (cluster / "party-alice.key").read_bytes()) == before
    assert main(["certs", "issue", str(cluster), "party/alice", "--renew"]) == 0
    assert (cluster / "party-alice.pem").read_bytes() != before[0]
    assert (cluster / "party-alice.key").read_bytes() == before[1]


@pytest.mark.parametrize(
    "asked",
    [
        ["init", "{}", "--cluster", "again"],
        ["init", "{}/new", "--cluster", "a/b"],
        ["issue", "{}", "alice"],
        ["issue", "{}", "party/../x"],
        ["issue", "{}/nowhere", "party/bob"],
        ["issue", "{}", "party/bob", "--days", "0"],
        ["init", "{}/party-alice.pem", "--cluster", "demo"],
        ["request", "{}/party-alice.pem/x", "party/bob"],
    ],
)
def test_what_cannot_be_done(asked: list[str], cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(cluster.rglob("*"))
    assert main(["certs", *[word.format(cluster) for word in asked]]) == 2
    assert capsys.readouterr().err.startswith("torchveil: ")
    assert sorted(cluster.rglob("*")) == before
