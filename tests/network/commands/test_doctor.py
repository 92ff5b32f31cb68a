"""Every fault is found, says what is wrong and what to do, and shows once; measured links predict a step's time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.network.clusters import DAY_S, FakeCluster
from torchveil.cli import main, reaching
from torchveil.errors import (
    CertificateError,
    DeadlineExceeded,
    LimitExceeded,
    MalformedMessage,
    PeerLost,
    PeerRejected,
    SessionAborted,
)
from torchveil.gates.base import Cost
from torchveil.network.commands import doctor
from torchveil.network.commands.doctor import FAILED, OK, WARNING, Check, Diagnosis, examine, predict, speed
from torchveil.network.commands.reach import Reach
from torchveil.network.config import Limits
from torchveil.testing.clusters import write_cluster


def diagnose(cluster: FakeCluster, **changes: Any) -> Diagnosis:
    return examine(cluster.reach(**changes), resolve=cluster.resolve, connect=cluster.connect)


def bad(diagnosis: Diagnosis) -> list[Check]:
    return [check for check in diagnosis.checks if check.state != OK]


def only(diagnosis: Diagnosis) -> Check:
    (check,) = bad(diagnosis)
    assert check.remedy
    return check


def test_a_cluster_that_is_well() -> None:
    diagnosis = diagnose(FakeCluster())
    assert bad(diagnosis) == [] and diagnosis.ok
    names = {check.name for check in diagnosis.checks}
    assert names == {"name", "port", "identity", "version", "configuration", "expiry", "link", "clock"}
    assert len(diagnosis.links) == 3 + 3 * 2  # from here, and both ways between all roles


def test_a_name_that_is_not_known() -> None:
    check = only(diagnose(FakeCluster(no_name={"bob.example"})))
    assert (check.name, check.subject, check.state) == ("name", "party/bob", FAILED)
    assert "bob.example is not known: Name or service not known" in check.seen and "address" in check.remedy


def test_a_port_that_is_closed() -> None:
    check = only(diagnose(FakeCluster(no_port={"bob.example"})))
    assert (check.name, check.subject, check.state) == ("port", "party/bob", FAILED)
    assert "Connection refused" in check.seen and "firewall" in check.remedy


@pytest.mark.parametrize(
    ("error", "name", "remedy"),
    [
        (PeerRejected("party/eve answers at the address of party/bob"), "identity", "certs show"),
        (
            PeerRejected("another cluster file", remedy="give every role the same"),
            "identity",
            "give every role the same",
        ),
        (CertificateError("the certificate has expired"), "identity", "certs check"),
        (PeerLost("party/bob closed the connection"), "service", "log"),
        (DeadlineExceeded("party/bob sent nothing for 5 s"), "service", "restart"),
        (MalformedMessage("bytes that are no Welcome"), "service", "same version"),
        (LimitExceeded("too many connections"), "service", "limits"),
        (SessionAborted("party/bob ended it"), "service", "torchveil explain TV506"),
    ],
)
def test_a_daemon_that_does_not_answer_well(error: Any, name: str, remedy: str) -> None:
    cluster = FakeCluster(errors={("party/bob", "status"): error})
    check = only(diagnose(cluster))
    assert (check.name, check.subject, check.state) == (name, "party/bob", FAILED)
    assert check.seen == f"{error.code}: {error.message}" and remedy in check.remedy
    # what depends on it is not tried: nobody measures a way to bob
    assert not [asked for asked in cluster.asked if "party/bob" in asked[:2] and asked[2] != "status"]


def test_another_role_answers() -> None:
    check = only(diagnose(FakeCluster(changes={"party/bob": {"role": "provider/james"}})))
    assert check.name == "identity" and "provider/james answers in place of party/bob" in check.seen


def test_another_version() -> None:
    check = only(diagnose(FakeCluster(changes={"party/bob": {"version": "0.0.9"}})))
    assert (check.name, check.state) == ("version", FAILED)
    assert check.seen == "party/bob runs 0.0.9, this machine 0.1.0"


def test_another_configuration() -> None:
    check = only(diagnose(FakeCluster(changes={"party/bob": {"config_digest": "bb" * 32}})))
    assert (check.name, check.state) == ("configuration", FAILED)
    assert "bbbbbbbbbbbbbbbb" in check.seen and "same cluster file" in check.remedy


def test_the_remedy_names_the_limits_that_have_to_agree(tmp_path: Path) -> None:
    config = write_cluster(tmp_path)
    remedy = only(diagnose(FakeCluster(changes={"party/bob": {"config_digest": "bb" * 32}}))).remedy
    for field in msgspec.structs.fields(Limits):
        other = replace(config.limits, **{field.name: getattr(config.limits, field.name) + 1})
        assert (replace(config, limits=other).digest() != config.digest()) == (field.name in remedy), field.name


@pytest.mark.parametrize(("days", "state"), [(-1.0, FAILED), (3.0, WARNING), (29.0, WARNING)])
def test_certificates_that_end(days: float, state: str) -> None:
    ends = {"certificate_expires_at_s": time.time() + days * DAY_S}
    check = only(diagnose(FakeCluster(changes={"party/bob": ends})))
    assert (check.name, check.subject, check.state) == ("expiry", "party/bob", state)
    assert "certs issue" in check.remedy
    own = only(diagnose(FakeCluster(), expires_at_s=time.time() + days * DAY_S))
    assert (own.name, own.subject, own.state) == ("expiry", "here", state)


@pytest.mark.parametrize(("off_s", "state"), [(5.0, WARNING), (-3600.0, FAILED)])
@pytest.mark.parametrize("role", ["party/bob", "here"])
def test_a_clock_that_is_off_shows_once_at_its_owner(off_s: float, state: str, role: str) -> None:
    diagnosis = diagnose(FakeCluster(clocks={role: off_s}))
    check = only(diagnosis)
    assert (check.name, check.subject, check.state) == ("clock", role, state)
    assert ("ahead of" if off_s > 0 else "behind") in check.seen and "time server" in check.remedy
    assert diagnosis.ok == (state == WARNING)


def test_a_long_way_is_no_wrong_clock() -> None:
    links = {("here", "party/bob"): (3.0, 1e6)}
    assert bad(diagnose(FakeCluster(links=links, clocks={"party/bob": 1.4}))) == []


def test_a_link_between_two_roles_that_does_not_stand() -> None:
    diagnosis = diagnose(FakeCluster(links={("party/alice", "party/bob"): (0.0, 0.0)}))
    check = only(diagnosis)
    assert (check.name, check.subject, check.state) == ("link", "party/alice -> party/bob", FAILED)
    assert "TV501: party/bob cannot be reached from party/alice" in check.seen and "firewall" in check.remedy
    assert ("party/alice", "party/bob") not in diagnosis.links and ("party/bob", "party/alice") in diagnosis.links


def test_a_role_that_refuses_to_measure() -> None:
    busy = LimitExceeded("this role is measuring already")
    diagnosis = diagnose(FakeCluster(errors={("party/alice", "measure"): busy}))
    assert [check.subject for check in bad(diagnosis)] == ["party/alice -> party/bob", "party/alice -> provider/james"]


def test_two_faults_are_two() -> None:
    cluster = FakeCluster(no_name={"bob.example"}, changes={"provider/james": {"version": "9"}})
    assert [check.name for check in bad(diagnose(cluster))] == ["name", "version"]


def test_real_names_and_ports() -> None:
    with pytest.raises(OSError):
        doctor.open_port("127.0.0.1", 1)
    assert doctor.resolve_name("127.0.0.1", 80)


# --- prediction -------------------------------------------------------------------------------------------------------

WAN = {
    ("party/alice", "party/bob"): (0.04, 12.5e6),
    ("party/bob", "party/alice"): (0.06, 25e6),
    ("provider/james", "party/alice"): (0.001, 50e6),
    ("provider/james", "party/bob"): (0.001, 100e6),
}


def test_the_slowest_links_decide() -> None:
    cluster = FakeCluster(links=WAN)
    measured = speed(diagnose(cluster), cluster.reach().roles)
    assert measured is not None
    assert measured.parties.latency_s == pytest.approx(0.03)
    assert measured.parties.bandwidth_bytes_per_s == pytest.approx(12.5e6)
    assert measured.dealing.bandwidth_bytes_per_s == pytest.approx(50e6)
    expected = predict(measured, Cost(rounds=31, sent=2_890_000, dealt=6_000_000), compute_s=0.04)
    assert expected.online_s == pytest.approx(0.04 + 31 * 0.03 + 2.89 / 12.5)
    assert expected.offline_s == pytest.approx(6 / 50)
    assert expected.overlapped_s == expected.online_s


def test_without_a_link_there_is_no_prediction() -> None:
    cluster = FakeCluster(links={("party/alice", "party/bob"): (0.0, 0.0)})
    assert speed(diagnose(cluster), cluster.reach().roles) is None
    assert doctor.predictions(diagnose(cluster), cluster.reach().roles, []) == ()


# --- the command -----------------------------------------------------------------------------------------------------

PROGRAM = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster(links=WAN)

    def examined(reach: Reach) -> Diagnosis:
        return examine(reach, resolve=made.resolve, connect=made.connect)

    monkeypatch.setattr(reaching, "reach_of", lambda _options: made.reach())
    monkeypatch.setattr("torchveil.cli.doctor.examine", examined)
    return made


def test_the_command_on_a_cluster_that_is_well(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "cluster.toml"]) == 0
    out = capsys.readouterr().out
    assert "Everything is well." in out and "30.0 ms" in out and "12.50 MB/s" in out


def test_the_command_tells_faults_and_what_to_do(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.no_port.add("bob.example")
    assert main(["doctor", "cluster.toml"]) == 1
    out = capsys.readouterr().out
    assert "failed: port of party/bob: bob.example:7002 takes no connection" in out and "start party/bob" in out
    assert main(["doctor", "cluster.toml", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert not document["ok"] and [c["name"] for c in document["checks"] if c["state"] == "failed"] == ["port"]


def test_the_command_predicts_a_training_step(
    cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    program = ["--program", f"{file}:net", "--input", "5x4", "--target", "5:int64"]
    training = ["--loss", "cross_entropy", "--optimizer", "SGD", "--lr", "0.1", "--compute-ms", "100"]
    assert main(["doctor", "cluster.toml", *program, *training]) == 0
    out = capsys.readouterr().out
    assert "predicted time" in out and "training step 2" in out
    assert main(["doctor", "cluster.toml", *program, *training, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (step,) = [phase for phase in document["predictions"] if phase["phase"] == "training step 2"]
    rounds_s = step["if_provider_ahead_s"] - 0.1
    assert 0.3 < rounds_s < 3 and step["if_provider_first_s"] >= step["if_provider_ahead_s"]


def test_arguments_that_make_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 2
    assert main(["doctor", "cluster.toml", "--compute-ms", "-1"]) == 2
    assert main(["doctor", "missing.toml"]) == 2
    assert "missing.toml cannot be read" in capsys.readouterr().err
