"""Estimates follow the formulas in ``profiling/network.py``, for the whole and for every row."""

from __future__ import annotations

import math

import pytest
import torch

import torchveil
from torchveil import LAN, WAN, Network
from torchveil.errors import InvalidArgument
from torchveil.gates.base import Cost
from torchveil.profiling import Figures

COST = Cost(rounds=7, sent=3_000, dealt=80_000, outside=500)


def test_an_estimate_is_its_formula() -> None:
    figures = Figures(4, seconds=1.0, provider_s=0.25, parties_s=0.5, slowest_s=0.375, cost=COST)
    network = Network(latency_s=0.5, bandwidth_bytes_per_s=1000.0)
    e = figures.estimate(network)
    assert e.compute_s == 1.0 - 0.25 - (0.5 - 0.375)
    assert e.latency_s == 7 * 0.5
    assert e.transfer_s == (3_000 + 500) / 1000
    assert (e.provider_s, e.dealing_s) == (0.25, 80.0)
    assert e.online_s == 0.625 + 3.5 + 3.5
    assert e.offline_s == 80.25
    assert e.overlapped_s == 80.25
    assert e.sequential_s == 0.625 + 3.5 + 3.5 + 80.25


def test_a_fast_provider_does_not_show_when_it_works_ahead() -> None:
    e = Figures(seconds=1.0, cost=Cost(1, 1000, 1, 0)).estimate(Network(1.0, 1000.0))
    assert e.overlapped_s == e.online_s == 3.0


def test_python_is_part_of_the_whole() -> None:
    session = torchveil.Session()
    x = session.share(torch.ones(10))
    with session.profile() as profile:
        torch.relu(x).reveal()
    total = profile.total
    for network in (LAN, WAN):
        whole, instructions = profile.estimate(network), total.estimate(network)
        assert whole.compute_s == total.compute_s + profile.python_s
        assert whole.latency_s == total.cost.rounds * network.latency_s == instructions.latency_s
        assert whole.transfer_s == (total.cost.sent + total.cost.outside) / network.bandwidth_bytes_per_s
        assert whole.dealing_s == total.cost.dealt / network.bandwidth_bytes_per_s
        rows = sum(figures.estimate(network).sequential_s for _, figures in profile.rows)
        assert whole.sequential_s == pytest.approx(rows + profile.python_s)


def test_the_two_named_networks() -> None:
    assert (LAN.latency_s, LAN.bandwidth_bytes_per_s * 8) == (0.0001, 1e9)
    assert (WAN.latency_s, WAN.bandwidth_bytes_per_s * 8) == (0.02, 100e6)


def test_a_perfect_network_takes_no_time() -> None:
    e = Figures(cost=COST).estimate(Network(0.0, math.inf))
    assert e.sequential_s == 0


@pytest.mark.parametrize(
    ("latency_s", "bandwidth"),
    [(-1.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), (0.0, 0.0), (0.0, -5.0), (0.0, math.nan)],
)
def test_what_is_no_network_is_refused(latency_s: float, bandwidth: float) -> None:
    with pytest.raises(InvalidArgument):
        Network(latency_s, bandwidth)
