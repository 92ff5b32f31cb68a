"""A floor is below what is reached; where the page says that a floor is reached, it is."""

from __future__ import annotations

import pytest

from benchmarks.floors import COMPARISON_KERNELS, FULL, KEYSTREAM_KERNEL, PRODUCT_KERNELS, RANGES, cpu_seconds, floor
from benchmarks.inputs import WORKS
from benchmarks.workloads import WORKLOADS
from torchveil import Session
from torchveil.kernels import native

LARGE = ("W2 matmul 1024^3", "W3 relu 2^20")  # the same functions run on a smaller size
SMALL = [workload for workload in WORKLOADS if workload.work.name not in LARGE]


def reached(workload):
    """The cost of a run that is not the first."""
    session = Session(["alice", "bob"], "provider", fixed_point=workload.fixed_point)
    run = workload.prepare(session)
    run()
    before = session.cost().total
    run()
    after = session.cost().total
    session.close()
    return after.rounds - before.rounds, after.sent - before.sent, after.dealt - before.dealt


@pytest.mark.parametrize("workload", SMALL, ids=lambda w: w.name)
def test_nothing_is_below_its_floor(workload):
    rounds, sent, dealt = reached(workload)
    least = floor(workload.work)
    assert rounds >= least.rounds
    assert sent >= least.sent_bytes
    assert dealt >= least.dealt_bytes


@pytest.mark.parametrize("name", ["W2 matmul 128x784x128", "W3 relu 2^16"])
def test_products_and_relu_reach_the_floor_in_rounds_and_sent_bytes(name):
    workload = next(w for w in WORKLOADS if w.name == name)
    least = floor(workload.work)
    assert reached(workload)[:2] == (least.rounds, least.sent_bytes)


def test_inference_sends_the_floor():
    workload = next(w for w in WORKLOADS if w.name.startswith("W5 LeNet inference"))
    assert reached(workload)[1] == floor(workload.work).sent_bytes


@pytest.mark.parametrize("work", [w for w in WORKS if w.name not in LARGE], ids=lambda w: w.name)
def test_known_ranges_only_save(work):
    full, ranges = floor(work, FULL), floor(work, RANGES)
    assert ranges.rounds <= full.rounds
    assert ranges.sent_bytes <= full.sent_bytes
    assert ranges.dealt_bytes <= full.dealt_bytes
    assert ranges.macs == full.macs


def test_a_step_of_the_784_128_128_10_net_counts_what_a_pencil_counts():
    found = floor(next(w for w in WORKS if w.name.startswith("W4")))
    batch, weights = 128, 784 * 128 + 128 * 128 + 128 * 10
    first, second = batch * weights, batch * (128 * 128 + 128 * 10)  # forward and weight gradients; input gradients
    assert found.macs == 2 * first + second
    assert found.comparisons == 2 * batch * 128 + batch * 9  # both relu; softmax: nine per row


def test_the_kernels_that_a_floor_is_priced_with_exist():
    if native.core is None:
        pytest.skip("torchveil_native is not installed")
    from benchmarks import kernels

    names = {case.name for group in (kernels.products, kernels.keystreams, kernels.comparisons) for case in group()}
    assert {*COMPARISON_KERNELS, KEYSTREAM_KERNEL} <= names
    assert any(name.startswith(PRODUCT_KERNELS) for name in names)


def test_time_is_the_sum_of_products_streams_and_comparisons():
    kernels = {name: {"ns_per_element": 1.0} for name in COMPARISON_KERNELS}
    kernels |= {
        "mm slow": {"native_rate": 1.0},
        "mm fast": {"native_rate": 10.0},
        KEYSTREAM_KERNEL: {"native_rate": 8.0},
    }
    found = floor(next(w for w in WORKS if w.name == "W3 relu 2^16"))
    found.macs = 2_000_000
    streams = (4 * found.sent_bytes + 2 * found.dealt_bytes) / 8e9
    expected = 5 * 2e6 / 10e9 + streams + sum(COMPARISON_KERNELS.values()) * 1e-9 * 2**16
    assert cpu_seconds(found, kernels) == pytest.approx(expected)
