"""``torchveil worker``: serves, shows metrics where its file says, logs JSON lines, and stops at a signal."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from torchveil.cli import main, serve
from torchveil.network import logs
from torchveil.network.config import RoleConfig, read_role
from torchveil.network.daemon import Daemon
from torchveil.testing.clusters import free_ports, write_cluster


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command owns its process: give back what it takes."""
    for name in ("sys.excepthook", "sys.unraisablehook", "threading.excepthook"):
        module, _, hook = name.partition(".")
        monkeypatch.setattr(name, getattr(__import__(module), hook))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logs.close()


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_role_serves_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    write_cluster(tmp_path)
    (port,) = free_ports(1)
    file = tmp_path / "alice.toml"
    file.write_text(f'metrics = "127.0.0.1:{port}"\nlog = "{tmp_path}/alice.log"\n' + file.read_text())
    address = read_role(file).listen
    seen: list[str] = []

    def operate() -> None:
        try:
            wait_for(lambda: listens(address) and listens(f"127.0.0.1:{port}"))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
                seen.append(reply.read().decode())
        finally:
            os.kill(os.getpid(), number)

    # from here on a signal that comes too early ends no more than this test
    signal.signal(number, signal.default_int_handler)
    operator = threading.Thread(target=operate)
    operator.start()
    assert main(["worker", "--config", str(file)]) == 0
    operator.join(60)
    assert "torchveil_rounds_total 0.0" in seen[0]
    assert not listens(address) and not listens(f"127.0.0.1:{port}")
    events = [json.loads(line)["event"] for line in (tmp_path / "alice.log").read_text().splitlines()]
    assert events[0] == "daemon started" and events[-1] == "daemon stopped"


class EarlySignal(threading.Event):
    """A signal comes while the command begins to wait, when the event's lock is held."""

    setters: ClassVar[list[threading.Thread]] = []

    def set(self) -> None:
        self.setters.append(threading.current_thread())
        if threading.current_thread() is not threading.main_thread():  # else it would hang
            super().set()

    def wait(self, timeout: float | None = None) -> bool:
        with self._cond:  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGTERM)
        return super().wait(10)


def test_a_signal_at_the_moment_when_it_begins_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cluster(tmp_path)

    class Early(Daemon):
        def __init__(self, config: RoleConfig) -> None:
            super().__init__(config)
            self.stopping = EarlySignal()

    monkeypatch.setattr(serve, "Daemon", Early)
    EarlySignal.setters.clear()
    assert main(["worker", "--config", str(tmp_path / "alice.toml")]) == 0
    assert EarlySignal.setters and EarlySignal.setters[0] is not threading.main_thread()


def test_a_metrics_address_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cluster(tmp_path)
    file = tmp_path / "alice.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file.write_text(f'metrics = "127.0.0.1:{taken.getsockname()[1]}"\n' + file.read_text())
        assert main(["worker", "--config", str(file)]) == 2
    assert "metrics cannot be served" in capsys.readouterr().err
    assert not listens(read_role(file).listen), "the role's port is closed again"


def test_the_wrong_command_for_a_role(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cluster(tmp_path)
    assert main(["provider", "--config", str(tmp_path / "alice.toml")]) == 2
    assert "torchveil worker" in capsys.readouterr().err


def wait_for(holds: Callable[[], bool], timeout_s: float = 120.0) -> None:
    ends = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("given", "environment", "rank"),
    [
        (None, {}, None),
        (1, {}, 1),
        (None, {"RANK": "1"}, None),  # somebody's variable, not torchrun's
        (None, {"RANK": "1", "TORCHELASTIC_RUN_ID": "none"}, 1),
        (0, {"RANK": "1", "TORCHELASTIC_RUN_ID": "none"}, 0),
    ],
)
def test_the_rank_is_given_or_torchruns(
    monkeypatch: pytest.MonkeyPatch, given: int | None, environment: dict[str, str], rank: int | None
) -> None:
    for name in ("RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert serve._rank(given) == rank


def test_a_rank_that_there_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cluster(tmp_path)
    assert main(["worker", "--config", str(tmp_path / "alice.toml"), "--rank", "1"]) == 2
    assert "there is no rank 1" in capsys.readouterr().err
