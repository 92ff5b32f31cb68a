"""A thousand steps of training hold no more than ten: wires, rows of the account, Python's objects, resident memory."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import torchveil

STEPS, WARMUP, EVERY = 1_000, 100, 100
STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """What the process holds in memory now; 0 where the system does not say."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if STATM.exists() else 0


@dataclass(frozen=True)
class Sample:
    """What is held after a step."""

    step: int
    wires: int
    account_rows: int
    profile_rows: int
    objects: int
    resident: int


def slope(samples: list[Sample], name: str) -> float:
    """The least-squares slope of a field per step."""
    steps = torch.tensor([float(s.step) for s in samples], dtype=torch.float64)
    values = torch.tensor([float(getattr(s, name)) for s in samples], dtype=torch.float64)
    steps = steps - steps.mean()
    return float((steps @ (values - values.mean())) / (steps @ steps))


@pytest.mark.slow
def test_a_thousand_steps_hold_no_more_than_ten() -> None:
    session = torchveil.Session()
    model = session.encrypt(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    labels = functional.one_hot(torch.arange(32) % 4, 4).float()
    samples: list[Sample] = []
    bytes_of_step = set()
    with session.profile() as profile:
        for step in range(STEPS + 1):
            before = session.cost().total
            loss = functional.cross_entropy(model(session.share(torch.rand(32, 16))), session.share(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step < WARMUP:
                continue
            after = session.cost().total
            bytes_of_step.add((after.rounds - before.rounds, after.sent - before.sent, after.dealt - before.dealt))
            if step % EVERY == 0:
                wires = session.n_wires  # before the collector: nothing may wait for it
                gc.collect()
                rows, noted = len(session._account.rows), len(profile.rows)
                samples.append(Sample(step, wires, rows, noted, len(gc.get_objects()), resident_bytes()))
    assert len(samples) == (STEPS - WARMUP) // EVERY + 1
    assert len(bytes_of_step) == 1  # every step costs the same
    for name in ("wires", "account_rows", "profile_rows"):
        assert len({getattr(sample, name) for sample in samples}) == 1, name
    assert slope(samples, "objects") < 0.5  # one object kept per step would be seen,
    # and so would a batch: 4 kB as a share. An allocator that takes some hundred kB more, once, stays below.
    assert slope(samples, "resident") < 1_500
    session.close()
