"""What a training step may not pay for twice, and what it may not keep."""

from __future__ import annotations

import gc
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchveil import Session
from torchveil.program import instructions as ins


@contextmanager
def counted(session: Session) -> Iterator[Counter[str]]:
    """How often each kind of instruction runs inside."""
    counts: Counter[str] = Counter()
    run = session.submit

    def submit(i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        counts[type(i).__name__] += 1
        return run(i, clear)

    session.submit = submit  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        del session.submit  # type: ignore[method-assign]


def secret(session: Session, *shape: int) -> Tensor:
    torch.manual_seed(0)
    return session.share(torch.randn(shape), requires_grad=True)


#: op -> (shape, instructions that its gradient may not contain)
REUSED: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], set[str]]] = {
    "relu": (torch.relu, (4, 5), {"Compare"}),
    "leaky relu": (F.leaky_relu, (4, 5), {"Compare"}),
    "max": (lambda x: x.max(1).values, (4, 5), {"Compare"}),
    "min": (lambda x: x.min(0).values, (4, 5), {"Compare"}),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), (1, 2, 4, 4), {"Compare"}),
    "softmax": (lambda x: torch.softmax(x, 1), (4, 5), {"Compare", "Exponential", "Series"}),
    "log_softmax": (lambda x: torch.log_softmax(x, 1), (4, 5), {"Compare", "Exponential", "Series"}),
    "sigmoid": (torch.sigmoid, (4, 5), {"Compare", "Series"}),
    "tanh": (torch.tanh, (4, 5), {"Compare", "Series"}),
    "exp": (torch.exp, (4, 5), {"Compare", "Exponential"}),
    "where": (lambda x: torch.where(x > 0, x * x, -x), (4, 5), {"Compare"}),
}


@pytest.mark.parametrize("name", REUSED)
def test_gradients_reuse_what_the_forward_found(name: str) -> None:
    function, shape, expensive = REUSED[name]
    session = Session()
    x = secret(session, *shape)
    out = function(x)
    weights = session.share(torch.ones(out.shape))
    with counted(session) as counts:
        (out * weights).sum().backward()
    assert not expensive & set(counts), counts


@pytest.mark.parametrize("targets", ["one-hot", "secret classes", "plain classes"])
def test_an_unread_cross_entropy_does_not_pay_for_its_logarithm(targets: str) -> None:
    classes = torch.tensor([0, 2, 1, 4])
    counts = {}
    for read in (False, True):
        session = Session()
        x = secret(session, 4, 5)
        y = {
            "one-hot": lambda s=session: s.share(F.one_hot(classes, 5).float()),
            "secret classes": lambda s=session: s.share(classes),
            "plain classes": lambda: classes,
        }[targets]()
        with counted(session) as count:
            loss = F.cross_entropy(x, y)
            loss.backward()
            if read:
                loss.reveal()
        counts[read] = count["Series"], session.cost().total.sent
    assert counts[False][0] == 1, "the reciprocal of the row sums"
    assert counts[True][0] == 2, "and the logarithm"
    assert counts[False][1] < counts[True][1]


def test_an_unread_loss_costs_nothing_by_arithmetic_on_it() -> None:
    session = Session()
    x, y = secret(session, 4, 5), session.share(F.one_hot(torch.tensor([0, 1, 2, 3]), 5).float())
    with counted(session) as counts:
        loss = (F.cross_entropy(x, y) + 1) * 0.5
        history = [loss.detach()]
        loss.backward()
    assert counts["Series"] == 1
    wanted = (F.cross_entropy(x.reveal().double(), y.reveal().double()) + 1) * 0.5
    assert float(history[0].reveal()) == pytest.approx(float(wanted.detach()), abs=1e-3)


def test_openings_are_made_once() -> None:
    session = Session()
    data, w = secret(session, 8, 5).detach(), secret(session, 5, 3)
    with counted(session) as counts:
        h = data @ w
        h2 = data[2:4] @ w
        (data.t() @ data, w.t() @ w, data.view(4, 10)[0] * data.view(4, 10)[1])
    assert counts["Open"] == 1
    with counted(session) as counts:
        (h.sum() + h2.sum()).backward()
    assert counts["Open"] == 0, "the gradient of x @ w needs x, which is open"


def test_shuffled_batches_open_the_data_once() -> None:
    session = Session()
    data, w = secret(session, 32, 5).detach(), secret(session, 5, 3).detach()
    (data @ w).sum()
    sent = session.cost().total.sent
    for _ in range(3):
        for rows in torch.randperm(32).split(8):
            data[rows] @ w
    assert session.cost().total.sent == sent


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def test_every_step_costs_the_same_and_reveals_nothing() -> None:
    session = Session()
    model = session.encrypt(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = secret(session, 8, 5).detach(), session.share(F.one_hot(torch.arange(8) % 3, 3).float())
    costs = []
    for _ in range(5):
        before = session.cost().total
        step(model, optimizer, x, y)
        after = session.cost().total
        costs.append((after.rounds - before.rounds, after.sent - before.sent, after.dealt - before.dealt))
    assert costs[2] == costs[3] == costs[4], "the momentum exists from the second step on"
    assert session.reveals == () and session.cost().reveals == 0


@pytest.mark.parametrize(
    "make",
    [lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), lambda p: torch.optim.Adam(p, lr=0.01)],
    ids=["sgd", "adam"],
)
def test_wires_do_not_grow_even_without_the_garbage_collector(make: Callable) -> None:
    session = Session()
    model = session.encrypt(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
    optimizer = make(model.parameters())
    x, y = secret(session, 8, 5).detach(), session.share(torch.arange(8) % 3)
    gc.collect()
    gc.disable()
    try:
        wires = []
        for _ in range(6):
            step(model, optimizer, x, y)
            wires.append(session.n_wires)
    finally:
        gc.enable()
    assert len(set(wires[2:])) == 1, wires


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_steps() -> None:
    session = Session()
    model = session.encrypt(nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = secret(session, 4, 3).detach(), session.share(torch.zeros(4, 2))

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            ((model(x) - y) ** 2).mean().backward()
            optimizer.step()

    steps(100)
    wires, peak = session.n_wires, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps(1000)
    assert session.n_wires == wires
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert grown_kib < 8 * 1024


def test_dropping_tensors_frees_their_shares() -> None:
    session = Session()
    before = session.n_wires
    x = secret(session, 100)
    y = (x.relu() * 2).sum()
    assert session.n_wires > before
    del y
    del x
    assert session.n_wires == before


def test_a_graph_that_is_never_used_is_freed() -> None:
    session = Session()
    x = secret(session, 10)
    before = session.n_wires
    for _ in range(3):
        F.cross_entropy(x.view(2, 5) ** 2, torch.tensor([0, 1]))
    assert session.n_wires <= before + 2, "at most the opening's memory of x"


def test_a_refused_operation_leaves_no_wires() -> None:
    session = Session()
    x, y = secret(session, 10).detach(), secret(session, 7).detach()
    before = session.n_wires
    for attempt in (
        lambda: x + y,
        lambda: x @ y,
        lambda: torch.linalg.svdvals(x.view(2, 5)[:, :2]),
        lambda: torch.cat([x, y[None]]),
    ):
        with pytest.raises(RuntimeError):
            attempt()
    assert session.n_wires == before


def test_costs_are_told_per_module_and_operation() -> None:
    session = Session()
    model = session.encrypt(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
    F.cross_entropy(model(secret(session, 8, 5)), torch.arange(8) % 3).backward()
    report = session.cost()
    assert {"Sequential.0", "Sequential.1", "Sequential.2"} <= set(report.modules)
    assert report.operations["aten.relu.default"].rounds > 0
    for table in (report.modules, report.operations, report.gates):
        assert sum(cost.sent for cost in table.values()) == report.total.sent
        assert sum(cost.dealt for cost in table.values()) == report.total.dealt
    assert "total" in report.table("modules")
