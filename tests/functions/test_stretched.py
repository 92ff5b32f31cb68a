"""Updates of parameters by two parties: the learning rate's divisor stays in the scale, openings follow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import torchveil
from torchveil import FixedPoint, Session
from torchveil.functions.arithmetic import secret
from torchveil.gates.base import Cost
from torchveil.handle import Secret

UNIT = 2**16


def _handle(x: Tensor) -> Secret:
    assert isinstance(x, torchveil.EncryptedTensor)
    return secret(x.handle)


class Trained:
    """A linear layer and its batch, in the clear and encrypted; ``step`` makes the same step on both."""

    def __init__(self, session: Session, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> None:
        torch.manual_seed(5)
        self.session = session
        self.clear = nn.Linear(12, 6)
        self.net = session.encrypt(nn.Linear(12, 6))
        state = {name: session.share(value) for name, value in self.clear.state_dict().items()}
        self.net.load_state_dict(state)
        self.optimizers = [make(list(net.parameters())) for net in (self.clear, self.net)]
        self.x, self.y = torch.rand(8, 12), torch.rand(8, 6)
        self.shared = session.share(self.x), session.share(self.y)

    def step(self) -> Cost:
        before = self.session.cost().total
        for net, optimizer, (x, y) in zip(
            (self.clear, self.net), self.optimizers, ((self.x, self.y), self.shared), strict=True
        ):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
        after = self.session.cost().total
        return Cost(after.rounds - before.rounds, after.sent - before.sent, after.dealt - before.dealt)

    def error(self) -> float:
        return float((self.net.weight.reveal() - self.clear.weight.detach()).abs().max())

    @property
    def weight(self) -> Secret:
        return _handle(self.net.weight)


def sgd(lr: float, **options: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **options)


@pytest.mark.parametrize("backend", ["lockstep", "plain"])
def test_a_parameter_keeps_the_divisor_of_its_rate(backend: str) -> None:
    run = Trained(Session(backend=backend), sgd(0.1))
    for _ in range(6):
        run.step()
        assert run.weight.scale == 10 * UNIT and run.weight.stretched
        assert run.weight.format.scale == UNIT
    assert run.error() < 2e-4


def test_debug_mode_follows_stretched_parameters() -> None:
    run = Trained(Session(debug=True), sgd(0.1, momentum=0.9))
    for _ in range(4):
        run.step()
    assert run.error() < 1e-3


def test_the_new_opening_costs_two_bytes_per_parameter() -> None:
    run = Trained(Session(), sgd(0.1))
    run.step()
    first = run.weight
    assert not first.is_opened()
    before = run.session.cost().sent_bytes
    run.session.open(first)
    assert run.session.cost().sent_bytes - before == 2 * 72
    assert first.is_opened() and first.parent is None


def test_rates_meet_at_their_least_common_multiple_and_fall_back_beyond_it() -> None:
    run = Trained(Session(), sgd(0.1))
    run.step()
    scales = []
    for rate in (0.05, 0.25, 0.1, 0.01, 0.0123456):
        for optimizer in run.optimizers:
            optimizer.param_groups[0]["lr"] = rate
        run.step()
        scales.append(run.weight.scale // UNIT)
        assert run.weight.stretched
    assert scales == [20, 20, 20, 100, 100]
    assert run.error() < 2e-4


def test_a_rate_that_is_no_small_fraction_stretches_nothing() -> None:
    run = Trained(Session(), sgd(0.0123456))
    for _ in range(3):
        run.step()
    assert run.weight.scale == UNIT and not run.weight.stretched
    assert run.error() < 2e-4


@pytest.mark.parametrize(
    ("session", "scale"),
    [
        (lambda: Session(["a", "b", "c"], "p"), UNIT),
        (lambda: Session(fixed_point=FixedPoint(10, 3)), 1000),
        (lambda: Session(fixed_point=FixedPoint(2, 10)), 2**10),
    ],
    ids=["three parties", "base 10", "few digits"],
)
def test_who_does_not_round_shares_does_not_stretch(session: Callable[[], Session], scale: int) -> None:
    run = Trained(session(), sgd(0.1))
    for _ in range(2):
        run.step()
    assert run.weight.scale == scale and not run.weight.stretched
    gates = run.session.cost().gates
    assert "lift" not in gates and not any(i.short for i in (run.weight,))


@pytest.mark.parametrize("digits", [16, 20, 26])
def test_finer_formats_stretch_while_the_scale_has_room(digits: int) -> None:
    run = Trained(Session(fixed_point=FixedPoint(2, digits)), sgd(0.125))
    for _ in range(3):
        run.step()
    assert run.weight.scale <= 128 << digits
    assert run.error() < 2e-4


@pytest.mark.parametrize(
    "make",
    [
        sgd(0.1, momentum=0.9),
        sgd(0.1, weight_decay=0.01),
        sgd(0.1, momentum=0.5, weight_decay=0.1, nesterov=True),
        sgd(1.0, momentum=0.0),
        sgd(0.5),
    ],
    ids=["momentum", "decay", "nesterov", "one", "half"],
)
def test_optimizers_train_stretched_parameters(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> None:
    run = Trained(Session(), make)
    for _ in range(5):
        run.step()
    assert run.error() < 1e-3


def test_stretched_parameters_are_used_like_others() -> None:
    run = Trained(Session(), sgd(0.1))
    for _ in range(2):
        run.step()
    weight, clear = run.net.weight, run.clear.weight
    assert str(10 * UNIT) not in repr(weight)
    other = torch.rand(6, 12)
    shared = run.session.share(other)
    for name, found, wanted in [
        ("sum", weight + shared, clear + other),
        ("product", weight * shared, clear * other),
        ("square", weight * weight, clear * clear),
        ("matrix", weight @ weight.t(), clear @ clear.t()),
        ("scaled", weight * 0.3, clear * 0.3),
        ("relu", torch.relu(weight), torch.relu(clear)),
        ("row", weight[2] * shared[1], clear[2] * other[1]),
        ("stack", torch.cat([weight, shared]) * 2, torch.cat([clear, other]) * 2),
        ("exp", torch.exp(weight), torch.exp(clear)),
    ]:
        error = float((found.reveal() - wanted).abs().max())
        assert error < 5e-4, name
    with torch.no_grad():
        weight[0] = 0.5
        assert float((weight.reveal()[0] - 0.5).abs().max()) < 1e-4


def test_products_of_two_stretched_factors_narrow_where_there_is_no_room() -> None:
    session = Session()
    x, y = session.share(torch.full((3,), 0.5)), session.share(torch.full((3,), 0.25))
    session.open(_handle(x))
    stretched = torch.add(x, x * y, alpha=0.01)
    assert _handle(stretched).scale == 100 * UNIT
    out = stretched * stretched.clone()
    assert _handle(out).scale <= 128 * UNIT**2
    assert float((out.reveal() - (0.5 + 0.01 * 0.125) ** 2).abs().max()) < 1e-4


def test_a_pool_and_a_relu_of_a_pending_value_share_six_bytes() -> None:
    session = Session()
    torch.manual_seed(2)
    x, w = torch.rand(2, 1, 8, 8) - 0.5, torch.rand(3, 1, 3, 3) - 0.5
    shared_x, shared_w = session.share(x), session.share(w)
    pending = nn.functional.conv2d(shared_x, shared_w)
    before = session.cost().gates["open"]
    pooled = torch.relu(nn.functional.max_pool2d(pending, 2))
    after = session.cost().gates["open"]
    wanted = torch.relu(nn.functional.max_pool2d(nn.functional.conv2d(x, w), 2))
    assert float((pooled.reveal() - wanted).abs().max()) < 1e-4
    assert after.sent % 6 == before.sent % 6 and after.rounds - before.rounds >= 2
    assert after.sent - before.sent <= 6 * (2 * 3 * 36 + 2 * 3 * 9 * 3)
