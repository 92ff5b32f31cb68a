"""The cost of whole programs: what crossed the driver equals the sum of the gates' formulas, within its budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import torchveil
from torchveil.gates import GATES
from torchveil.gates.base import Cost
from torchveil.program import instructions as ins


class Predicting(torchveil.Session):
    """A session that adds up every instruction's formula before it runs."""

    predicted = Cost()

    def submit(self, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        self.predicted += GATES[type(i)].cost(i, len(self.parties))
        return super().submit(i, clear)


def _step(session: torchveil.Session, steps: int = 1) -> Cost:
    """Train; what the last step cost."""
    model = session.encrypt(
        nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = Cost()
    for _ in range(steps):
        before = session.cost().total
        x = session.share(torch.rand(128, 784))
        y = session.share(functional.one_hot(torch.arange(128) % 10, 10).float())
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    after = session.cost().total
    return Cost(after.rounds - before.rounds, after.sent - before.sent, after.dealt - before.dealt)


@pytest.mark.parametrize("n", [2, 3])
def test_a_training_step_costs_what_its_formulas_say(n: int) -> None:
    session = Predicting([f"party{i}" for i in range(n)], "provider")
    _step(session, 2)
    assert session.cost().total == session.predicted


def test_a_training_step_stays_in_its_budget() -> None:
    session = torchveil.Session()
    _step(session)
    cost = session.cost()
    assert cost.rounds == 32
    assert cost.sent_bytes <= 3_700_000
    assert cost.dealt_bytes <= 8_000_000
    assert not session.reveals


def test_a_later_step_completes_the_openings_of_its_parameters() -> None:
    """A fresh batch, and parameters whose openings follow from those of the step before."""
    cost = _step(torchveil.Session(), 3)
    assert cost == Cost(rounds=32, sent=2_889_788, dealt=5_997_296)


def test_three_parties_open_whole_elements() -> None:
    cost = _step(torchveil.Session(["a", "b", "c"], "p"), 2)
    assert cost == Cost(rounds=31, sent=2 * 4_029_168, dealt=7_921_904)


def test_costs_are_attributed_to_operations_and_modules() -> None:
    session = torchveil.Session()
    _step(session)
    cost = session.cost()
    for table in (cost.operations, cost.modules, cost.gates):
        assert sum(table.values(), Cost()) == cost.total
    assert cost.modules["Sequential.1"].rounds == 5  # opening, two rounds of ANDs, the bit; the gradient's opening
    assert cost.modules["Sequential.0"].sent > 0
    assert "aten.relu.default" in cost.operations
