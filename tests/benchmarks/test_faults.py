"""What the benchmarks of faults and of long running compute from what they see."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.faults import DEADLINE_S, GRACE_S, HANDSHAKE_S, Bench, Run, block, plan_of_runs
from benchmarks.soak import MIB, Sample, figures, slope
from torchveil.testing.clusters import write_cluster
from torchveil.testing.faults import Use


def test_every_fault_has_its_turn(tmp_path: Path) -> None:
    config = write_cluster(tmp_path)
    runs = plan_of_runs(config, 46, seed=3)
    counts = Counter((run.fault, run.victim) for run in runs)
    assert len(counts) == 23 and set(counts.values()) == {2}
    assert runs == plan_of_runs(config, 46, seed=3) != plan_of_runs(config, 46, seed=4)
    assert not any(run.victim == "controller" and run.phase == "opening" for run in runs)


def test_what_is_required_decides_over_a_run() -> None:
    good, bad = Run("kill", "alice", "plan", 1.0, {"bob": 0.25}), Run("kill", "alice", "plan", 1.0, {"bob": 9.0})
    bad.expect(bad.seconds["bob"] < Bench.allowed_s(bad), "too late")
    assert bad.wrong == ["too late"] and Bench.allowed_s(good) == DEADLINE_S + GRACE_S
    assert Bench.allowed_s(Run("stop", "controller", "idle", 1.0)) == DEADLINE_S + GRACE_S
    assert Bench.allowed_s(Run("stop", "alice", "opening", 1.0)) == 2 * HANDSHAKE_S + GRACE_S
    assert "2 runs, 1 of them as required" in block([good, bad])
    assert "| kill -9 of alice | 2 | 2 | 0.25 s | 4.62 s | 9.00 s | 1 of 2 |" in block([good, bad])


def test_the_slope_leaves_out_the_beginning() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    samples = [Sample(0.0, "alice", Use(9, 3, 900 * MIB))]
    samples += [Sample(60.0 * k, "alice", Use(9, 3, (100 + 3 * k) * MIB)) for k in range(3, 11)]
    assert figures(samples, 10) == {"alice": pytest.approx(3)}
