"""The tutorial as users type it, and its training with known weights against training in the clear."""

from __future__ import annotations

import gc
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import syft as sy
from tests.syft.tutorial import CELLS, INITIALISATION, clear_losses, deviation, encrypted_losses, workers_named

PRINTED = re.compile(
    r"\(Wrapper\)>AutogradTensor>FixedPrecisionTensor>\[AdditiveSharingTensor\]\n"
    r"\t-> \[PointerTensor \| me:\d{1,11} -> bob:\d{1,11}\]\n"
    r"\t-> \[PointerTensor \| me:\d{1,11} -> alice:\d{1,11}\]\n"
    r"\t\*crypto provider: james\*\n"
)


def run_cells(cells: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    names: dict[str, Any] = {}
    for cell in cells:
        exec(cell, names)
    return names, capsys.readouterr().out


@pytest.mark.smoke
def test_cells_run_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(7)
    names, printed = run_cells(CELLS, capsys)
    shown = PRINTED.match(printed)
    assert shown is not None, printed
    losses = printed[shown.end() :].splitlines()
    assert len(losses) == 20
    assert all(re.fullmatch(r"tensor\(\d+\.(\d{3}0)?\)", line) for line in losses), losses
    assert float(losses[-1][7:-1]) <= float(losses[0][7:-1])
    assert names["opt"].__class__ is torch.optim.SGD


def test_cells_with_the_given_initialisation(capsys: pytest.CaptureFixture[str]) -> None:
    cells = tuple(cell.replace("nn.Linear(2, 1)\n", f"nn.Linear(2, 1)\n{INITIALISATION}") for cell in CELLS)
    _, printed = run_cells(cells, capsys)
    losses = [float(line[7:-1]) for line in printed.splitlines() if line.startswith("tensor(")]
    assert deviation(losses, clear_losses()) <= 0.02


def test_only_the_printed_losses_were_revealed(people: SimpleNamespace) -> None:
    data = torch.zeros(2).fix_precision().share(people.bob, people.alice, crypto_provider=people.james)
    before = len(data.session.reveals)
    encrypted_losses([people.bob, people.alice], people.james, 3)
    assert [record.shape for record in data.session.reveals[before:]] == [()] * 20


def test_nothing_is_left_behind(people: SimpleNamespace) -> None:
    workers = [people.bob, people.dora]
    keeper = torch.zeros(1).fix_precision().share(*workers, crypto_provider=people.james)
    counts = []
    for _ in range(3):
        encrypted_losses(workers, people.james, 3)
        gc.collect()
        counts.append((keeper.session.n_wires, people.bob.objects_count()))
    assert counts == [(1, counts[0][1])] * 3


def check_deviation(hook: Any, workers: int, precision: int, repeats: int) -> None:
    james = sy.VirtualWorker(hook, id="james")
    reference = clear_losses()
    found = sorted(
        deviation(encrypted_losses(workers_named(hook, workers), james, precision), reference) for _ in range(repeats)
    )
    if precision == 2:
        assert found[-1] <= 0.20
        assert found[-1 - repeats // 100] <= 0.12
    else:
        assert found[-1] <= {3: 0.02, 4: 0.01}[precision]


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("precision", [3, 4])
def test_losses_are_those_of_clear_training(hook: Any, workers: int, precision: int) -> None:
    check_deviation(hook, workers, precision, repeats=5)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("precision", [2, 3, 4])
def test_losses_are_those_of_clear_training_a_hundred_times(hook: Any, workers: int, precision: int) -> None:
    check_deviation(hook, workers, precision, repeats=100)
