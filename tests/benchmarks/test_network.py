"""The benchmark of sessions over the network: what it adds up, floors, tables."""

from __future__ import annotations

import io
import os

import pytest
import torch
from rich.console import Console

from benchmarks.inputs import Function, Uniform
from benchmarks.network import NETWORKS, PAGE, figures, floor_s, large_figures, loopback_row, measure, wan_row
from benchmarks.workloads import variants
from torchveil import Session
from torchveil.gates.base import Cost
from torchveil.profiling.network import Network

(TINY,) = variants(Function("tiny", "relu", (Uniform((4,)),)))


def test_a_step_and_inference_are_measured() -> None:
    assert [workload.name.split(",")[0] for workload in NETWORKS] == [
        "W4 784-128-128-10 step",
        "W4 784-128-128-10 step",
        "784-128-128-10 inference",
    ]


def test_the_floor_is_the_slower_of_parties_and_provider() -> None:
    network = Network(0.02, 12.5e6)
    assert floor_s(Cost(rounds=10, sent=12_500_000, dealt=0, outside=1_250_000), network) == pytest.approx(1.3)
    assert floor_s(Cost(rounds=1, sent=0, dealt=25_000_000), network) == pytest.approx(2.0)


def test_costs_are_those_of_a_run_without_the_reveal_that_ends_it() -> None:
    session, other = Session(), Session()
    (side, _), cost = measure(TINY, ((session, ()), (other, (os.getpid(),))), repeats=2, warmup=1)
    before = session.cost().total
    side.run()
    after = session.cost().total
    assert cost == Cost(after.rounds - before.rounds, after.sent - before.sent, after.dealt - before.dealt, 32)
    assert len(side.steps) == len(side.rows) == len(side.reveals) == 2 and min(side.processor) > 0


def test_tables() -> None:
    torch.manual_seed(0)
    rows = [loopback_row(TINY, Session(), Session(), 1), wan_row(TINY, Session(), 1)]
    large = large_figures([{"what": "nothing", "seconds": 1.0, "memory": {"alice": (10**6, 2 * 10**6)}}])
    found = [*figures(rows), large]
    out = io.StringIO()
    for each in found:
        assert all(len(row) == len(each.head) for row in each.rows)
        assert f"<!-- figures: {each.name} -->" in PAGE.read_text()
        Console(file=out, width=250).print(each.rich())
    text = out.getvalue()
    assert "may take" in text and "step / floor" in text and "tiny" in text and "1, 2 MB" in text
