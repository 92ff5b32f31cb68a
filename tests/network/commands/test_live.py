"""Status, doctor and the probe against daemons that run, over real connections of this machine."""

from __future__ import annotations

import gc
import json
import re
import shutil
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from io import StringIO
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from torchveil.cli import main
from torchveil.errors import TorchveilError
from torchveil.network import logs
from torchveil.network.certificates import issue
from torchveil.network.config import read_role
from torchveil.network.connect import connect, find_credentials
from torchveil.network.daemon import Daemon
from torchveil.network.health import asking, measure_link
from torchveil.network.names import Role
from torchveil.network.party import PartySession
from torchveil.network.services import Caller
from torchveil.profiling.network import Network
from torchveil.testing.clusters import LocalCluster, local_cluster, write_cluster
from torchveil.testing.delays import Relay


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    limits = {"deadline_s": 20, "handshake_s": 5}
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=limits) as running:
        yield running


def test_status_asks_every_daemon(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.daemons["alice"].metrics.round(41)
    assert main(["status", str(cluster.file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["party/alice", "party/bob", "provider/james"]
    assert document["party/alice"]["status"]["rounds"] == 41 and document["party/bob"]["status"]["rounds"] == 0


def test_the_probe_asks_one(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--role", str(cluster.directory / "james.toml"), "--probe"]) == 0
    assert capsys.readouterr().out == "provider/james is up\n"


def test_doctor_measures_all_links(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(cluster.file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] and {check["state"] for check in document["checks"]} == {"ok"}
    assert len(document["links"]) == 9
    for link in document["links"]:
        assert 0 < link["one_way_s"] < 0.1 and link["bytes_per_s"] > 1e6


def test_doctor_finds_who_is_gone_who_disagrees_and_who_is_not_believed(
    cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = cluster.file.read_text()
    _, bob, james = cluster.config.addresses.values()
    for file in ("ca.pem", "controller-scientist.pem", "controller-scientist.key"):
        shutil.copy2(cluster.directory / file, tmp_path / file)

    def failures(changed: str) -> dict[str, tuple[str, str]]:
        (tmp_path / "cluster.toml").write_text(changed)
        assert main(["doctor", str(tmp_path / "cluster.toml"), "--json"]) == 1
        checks = json.loads(capsys.readouterr().out)["checks"]
        return {check["subject"]: (check["name"], check["seen"]) for check in checks if check["state"] == "failed"}

    gone = failures(text.replace(bob, "127.0.0.1:1"))
    assert set(gone) == {"party/bob"} and gone["party/bob"][0] == "port"
    swapped = failures(text.replace(bob, "X").replace(james, bob).replace("X", james))
    assert set(swapped) == {"party/bob", "provider/james"}
    assert swapped["party/bob"] == ("identity", "TV503: provider/james answers at the address of party/bob")
    other = failures(text.replace("deadline_s = 20", "deadline_s = 21"))
    assert set(other) == {"party/alice", "party/bob", "provider/james"}
    assert all(name == "identity" and "cluster file" in seen for name, seen in other.values())


def test_a_daemon_that_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with local_cluster(tmp_path, limits={"deadline_s": 20, "handshake_s": 2}) as running:
        daemon: Daemon = running.daemons["bob"]
        daemon.stop()
        assert main(["status", "--role", str(tmp_path / "bob.toml"), "--probe"]) == 1
        assert capsys.readouterr().out.startswith("party/bob at 127.0.0.1:")
        assert main(["status", str(running.file), "--once"]) == 1
        assert "party/bob does not answer: TV501" in capsys.readouterr().out


def test_a_session_is_counted_at_every_role(cluster: LocalCluster) -> None:
    alice, bob, james = (cluster.daemons[name].metrics for name in ("alice", "bob", "james"))
    before = [metrics.totals() for metrics in (alice, bob, james)]
    with connect(cluster.file) as session:
        x = session.share(torch.linspace(-1, 1, 12).view(3, 4))
        assert (x @ x.t()).relu().reveal().shape == (3, 3)
        for metrics in (alice, bob, james):
            wait_for(lambda metrics=metrics: metrics.totals().wires > 0 and metrics.totals().sessions == 1)
        cost = session.cost()
    for metrics in (alice, bob, james):
        wait_for(lambda metrics=metrics: metrics.totals().sessions == 0)
    after = [metrics.totals() for metrics in (alice, bob, james)]
    assert [now.wires for now in after] == [0, 0, 0]
    for rank in (0, 1):
        assert after[rank].rounds - before[rank].rounds == cost.rounds - 1  # a reveal is no exchange
        assert after[rank].sent_bytes - before[rank].sent_bytes == cost.sent_bytes
        assert after[rank].reveals - before[rank].reveals == 1
    dealt = [now.dealt_bytes - then.dealt_bytes for now, then in zip(after, before, strict=True)]
    padding = 8 * cost.instructions  # on the wire every piece begins at a multiple of eight bytes
    assert dealt[0] + dealt[1] == dealt[2] and 0 <= dealt[2] - cost.dealt_bytes <= padding
    assert all(now.instructions > then.instructions for now, then in zip(after, before, strict=True))


def wait_for(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    ends = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)


CANARY = "4242424242"


def test_a_failure_inside_a_session_leaves_type_and_place_in_the_log_and_no_value(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: PartySession, *_: object) -> None:
        raise ValueError(f"the share {CANARY} is odd")

    out = StringIO()
    logs.configure("party/alice", out)
    try:
        with pytest.raises(TorchveilError) as raised, connect(cluster.file) as session:
            monkeypatch.setattr(PartySession, "_swap", broken)
            session.share(torch.ones(3)).relu().reveal()
        wait_for(lambda: '"error"' in out.getvalue())
    finally:
        logs.close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    failure = next(line for line in lines if "error" in line)
    assert (
        failure["event"] == "session failed"
        and failure["error"] == "builtins.ValueError"
        and failure["place"].startswith("test_live.py:")
    )
    assert len(failure["session"]) == 16 and failure["instruction"] >= 0 and "refused" not in failure
    assert CANARY not in out.getvalue() and CANARY not in str(raised.value)


def test_what_a_session_logs_is_allowed(cluster: LocalCluster) -> None:
    out = StringIO()
    logs.configure("party/alice", out)
    try:
        with connect(cluster.file) as session:
            session.share(torch.tensor([float(CANARY)])).reveal()
        wait_for(lambda: out.getvalue().count("session closed") >= 3)
    finally:
        logs.close()
    assert "refused" not in out.getvalue() and CANARY not in out.getvalue()
    assert not any(CANARY in daemon.metrics.text().decode() for daemon in cluster.daemons.values())


def test_a_link_through_a_slow_network_is_measured_as_it_is(cluster: LocalCluster) -> None:
    network = Network(0.005, 50e6)
    bob = cluster.config.parties[1]
    with Relay(bob.address, network) as relay:
        parties = (cluster.config.parties[0], replace(bob, address=relay.address))
        far = replace(cluster.config, parties=parties)
        credentials = find_credentials(far, None, None, "controller")
        for _ in range(5):  # a machine that is busy meanwhile is measured too
            link = measure_link(asking(Caller(far, credentials)), "party/bob")
            if link.code == "" and link.one_way_s < 0.02 and 15e6 < link.sent_bytes_per_s < 80e6:
                break
    assert link.code == ""
    assert 0.005 <= link.one_way_s < 0.02
    assert 15e6 < link.sent_bytes_per_s < 80e6
    assert abs(link.clock_ahead_s) < 0.1


def test_a_daemon_that_stops_closes_connections_that_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()  # what tests before left is not told of here
    left: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda arguments: left.append(arguments.exc_value))
    with warnings.catch_warnings(), local_cluster(tmp_path, limits={"handshake_s": 1}) as running:
        warnings.simplefilter("error", ResourceWarning)
        host, _, port = running.daemons["bob"].address.rpartition(":")
        silent = [socket.create_connection((host, int(port)), timeout=5) for _ in range(30)]
        time.sleep(0.2)  # more than the daemon greets at a time: the others wait
        running.daemons["bob"].stop()
        for connection in silent:
            connection.close()
        gc.collect()
    assert left == []


def test_doctor_tells_apart_who_is_silent_who_hangs_up_and_who_is_of_another_authority(
    cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("ca.pem", "controller-scientist.pem", "controller-scientist.key"):
        shutil.copy2(cluster.directory / file, tmp_path / file)
    alice, bob, james = cluster.config.addresses.values()
    with ExitStack() as stack:
        silent, rude = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        other = stack.enter_context(local_cluster(tmp_path / "other"))
        threading.Thread(target=hang_up, args=(rude,), daemon=True).start()
        stack.callback(rude.shutdown, socket.SHUT_RDWR)
        text = cluster.file.read_text().replace("handshake_s = 5", "handshake_s = 2")
        for address, server in ((alice, silent), (bob, rude)):
            text = text.replace(address, f"127.0.0.1:{server.getsockname()[1]}")
        (tmp_path / "cluster.toml").write_text(text.replace(james, other.daemons["james"].address))
        assert main(["doctor", str(tmp_path / "cluster.toml"), "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    failed = {check["subject"]: check for check in checks if check["state"] == "failed"}
    assert failed.keys() == {"party/alice", "party/bob", "provider/james"}
    said = {subject: (check["name"], check["seen"][:5]) for subject, check in failed.items()}
    assert said["party/alice"] == ("service", "TV502")
    assert said["party/bob"] == ("service", "TV501")
    assert said["provider/james"] == ("identity", "TV503")
    assert all(check["remedy"] for check in failed.values())


def hang_up(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            server.accept()[0].close()


def test_a_certificate_that_ends_soon_is_said_at_every_session_and_to_programs(tmp_path: Path) -> None:
    config = write_cluster(tmp_path)
    for role in (Role("party", "alice"), Role("controller", "scientist")):
        issue(tmp_path, role, days=10, renew=True)
    out = StringIO()
    logs.configure("party/alice", out, "warning")
    try:
        with ExitStack() as stack:
            daemons = [
                stack.enter_context(Daemon(read_role(tmp_path / f"{role.name}.toml"))) for role in config.addresses
            ]
            for _ in range(2):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    connect(tmp_path / "cluster.toml").close()
                (warning,) = [each for each in caught if issubclass(each.category, UserWarning)]
                assert "controller/scientist ends on" in str(warning.message) and warning.filename == __file__
            (said,) = re.findall(rb"\ntorchveil_certificate_expiry_seconds (.*)\n", daemons[0].metrics.text())
            assert float(said) == daemons[0].credentials.identity.not_after.timestamp()
    finally:
        logs.close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["the certificate ends soon"] * 3
    assert {line["role"] for line in lines} == {"party/alice"}


@pytest.mark.parametrize("words", [("status", "--once"), ("datasets",)])
def test_a_warning_of_a_command_shows_no_line_of_our_program(
    tmp_path: Path,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_cluster(tmp_path)
    issue(tmp_path, Role("controller", "scientist"), days=10, renew=True)
    monkeypatch.chdir(tmp_path)
    before = warnings.showwarning
    assert main(list(words)) != 0  # nobody runs
    assert warnings.showwarning is before
    said = [line for line in capsys.readouterr().err.splitlines() if "ends on" in line]
    assert len(said) == 1 and said[0].startswith("torchveil: warning: the certificate of controller/scientist ends on ")


def test_a_warning_of_a_users_program_keeps_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "program.py"
    program.write_text("import warnings\nwarnings.warn('mine')\n")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *told, **_: print(f"{told[2]}:{told[3]}: {told[0]}", file=sys.stderr)
        main(["check", f"{program}:nothing", "--input", "2x2"])
    assert f"{program}:2: mine" in capsys.readouterr().err


def test_a_certificate_that_ends_soon_is_said_at_the_start(tmp_path: Path) -> None:
    write_cluster(tmp_path)
    issue(tmp_path, Role("party", "alice"), days=10, renew=True)
    out = StringIO()
    logs.configure("party/alice", out, "warning")
    try:
        Daemon(read_role(tmp_path / "alice.toml")).start().stop()
    finally:
        logs.close()
    (line,) = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (line["event"], line["level"], line["days_left"]) == ("the certificate ends soon", "warning", 9)
