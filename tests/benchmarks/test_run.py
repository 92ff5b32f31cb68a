"""Measuring a workload: who runs in which order, what a peer's failure does, and what the table says of it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.inputs import Function, Uniform
from benchmarks.peak import peak_bytes
from benchmarks.peers.client import PeerError
from benchmarks.run import PeerRuns, measure, remarks, table
from benchmarks.workloads import WORKLOADS, Workload

WORK = Function("W0 relu 8", "relu", (Uniform((8,)),))


class FakePeer:
    """Takes .5 s for everything; fails from the call on that it is told."""

    name = "Fake 1"

    def __init__(self, log: list[str], fails_at: int = 100) -> None:
        self._log, self._fails_at = log, fails_at

    def unavailable(self, workload: str) -> str | None:
        return None if workload == WORK.name else "no such thing"

    def note(self, workload: str) -> str:
        return "of another kind"

    def run(self, workload: str) -> tuple[float, float]:
        self._log.append("peer")
        if self._log.count("peer") >= self._fails_at:
            raise PeerError("out of memory")
        return 0.5, 0.75

    def ask(self, command: str, workload: str) -> dict[str, object]:
        return {"cost": {"sent_bytes": 10, "rounds": 2}, "error": {"largest_error": 1e-3}}[command]


def logged(log: list[str]) -> Workload:
    relu = next(w for w in WORKLOADS if w.name == "W3 relu 2^16")

    def prepare(session):
        return lambda: log.append("ours")

    return Workload(WORK.name, WORK, prepare, lambda: lambda: log.append("clear"), relu.fixed_point)


def printed(rows, peer: str | None) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(table(rows, peer))
    return out.getvalue()


def test_ours_clear_and_the_peer_take_turns():
    log: list[str] = []
    row = measure(logged(log), parties=2, repeats=3, warmup=1, peer=FakePeer(log))
    assert log == ["ours", "clear", "peer"] * 4
    assert row["peer"]["seconds_all"] == [0.5] * 3
    assert row["peer"]["cpu_seconds"] == 0.75
    assert row["peer"]["ratio"] == pytest.approx(0.5 / row["seconds"])
    assert remarks([row]) == ["W0 relu 8: of another kind"]


@pytest.mark.parametrize("fails_at", [1, 3])
def test_a_peer_that_fails_has_no_figure(fails_at):
    log: list[str] = []
    row = measure(logged(log), parties=2, repeats=3, warmup=1, peer=FakePeer(log, fails_at))
    assert row["peer"] == {"unavailable": "out of memory"}
    assert log.count("peer") == fails_at, "a peer that failed is not asked again"
    assert "not available" in printed([row], "Fake 1")
    assert remarks([row]) == ["W0 relu 8: not available, out of memory"]


def test_what_a_peer_does_not_have_is_not_run():
    log: list[str] = []
    runs = PeerRuns(FakePeer(log), "another")
    runs.warm_up()
    runs.run()
    assert runs.result(1.0) == {"unavailable": "no such thing"}
    assert not log


def test_the_cost_is_that_of_one_run():
    relu = next(w for w in WORKLOADS if w.name == "W3 relu 2^16")
    row = measure(relu, parties=2, repeats=2, warmup=1)
    assert row["rounds"] == 4
    assert row["sent_bytes"] == 2**16 * (8 + 34 / 8)
    assert 0 < row["largest_error"] < 1e-4
    assert "relu" in printed([row], None)


def test_every_workload_has_a_name_of_its_own_and_starts_with_the_name_of_its_work():
    names = [workload.name for workload in WORKLOADS]
    assert len(set(names)) == len(names)
    assert all(workload.name.startswith(workload.work.name) for workload in WORKLOADS)


def test_the_peak_of_memory_counts_what_a_call_takes_and_frees():
    n_bytes = 64 << 20
    try:
        found = peak_bytes(lambda: bytearray(n_bytes))
    except OSError:
        pytest.skip("this kernel does not tell")
    assert n_bytes * 0.95 < found < n_bytes * 1.3
