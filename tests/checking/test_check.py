"""``check`` predicts what a run then measures, finds all that does not run in one call, and needs no numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

import torchveil
from torchveil.errors import InvalidArgument, UnsupportedOperation
from torchveil.gates.base import Cost


class Attention(nn.Module):
    """A block of a transformer: attention, layer norm, gelu."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.wide = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.wide(x).mean(1)


class Words(nn.Module):
    """Secret indices, a tied matrix, a position that is a plain buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.places = nn.Embedding(5, 6)
        self.register_buffer("place", torch.arange(5))
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(x) + self.places(self.place)))


class Recurrent(nn.Module):
    """An LSTM and a GRU one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(4, 3, batch_first=True)
        self.second = nn.GRU(3, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)[0])[0][:, -1]


def word_loss(out: Tensor, words: Tensor) -> Tensor:
    return functional.cross_entropy(out.reshape(-1, 7), words.reshape(-1))


def linear(n: int, m: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n, 6), nn.ReLU(), nn.Linear(6, m))


SGD = partial(torch.optim.SGD, lr=0.1)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(),
        nn.Linear(27, 3),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], Any, Any, Any, Any]] = {
    "mlp, cross entropy": (
        lambda: linear(5, 3), torch.rand(4, 5), torch.tensor([0, 2, 1, 1]), nn.CrossEntropyLoss(), SGD,
    ),
    "mlp, Adam": (lambda: linear(5, 3), torch.rand(4, 5), torch.rand(4, 3), nn.MSELoss(), torch.optim.Adam),
    "mlp, RMSprop": (
        lambda: linear(5, 1), torch.rand(4, 5), torch.rand(4, 1), nn.BCEWithLogitsLoss(), torch.optim.RMSprop,
    ),
    "cnn": (
        cnn, torch.rand(2, 1, 8, 8), torch.tensor([0, 2]), nn.CrossEntropyLoss(),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    ),
    "cnn, eval": (
        lambda: cnn().eval(), torch.rand(2, 1, 8, 8), torch.tensor([0, 2]),
        nn.CrossEntropyLoss(), SGD,
    ),
    "softmax": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), torch.rand(3, 4), torch.rand(3, 4), nn.L1Loss(), SGD,
    ),
    "sigmoid, tanh, silu": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.Softplus()), torch.rand(3, 4),
        torch.rand(3, 4), nn.MSELoss(), SGD,
    ),
    "attention": (Attention, torch.rand(2, 3, 8), torch.rand(2, 8), nn.MSELoss(), SGD),
    "recurrent": (Recurrent, torch.rand(2, 3, 4), torch.rand(2, 2), nn.MSELoss(), SGD),
    "group norm, transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 2, 2), nn.GroupNorm(2, 4), nn.ELU(), nn.AvgPool2d(2)),
        torch.rand(1, 2, 3, 3), torch.rand(1, 4, 3, 3), nn.SmoothL1Loss(), SGD,
    ),
    "words": (Words, torch.randint(0, 7, (2, 5)), torch.randint(0, 7, (2, 5)), word_loss, SGD),
}  # fmt: skip


def ran(
    make: Callable[[], nn.Module], x: Tensor, y: Tensor, loss: Any, optimizer: Any, parties: tuple[str, ...]
) -> dict[str, Cost]:
    """The same program on shares: what ``session.cost()`` grew by in each of its parts."""
    costs: dict[str, Cost] = {}

    def measured(name: str, session: torchveil.Session, part: Callable[[], Any]) -> Any:
        before = session.cost().total
        out = part()
        now = session.cost().total
        costs[name] = Cost(*(getattr(now, k) - getattr(before, k) for k in ("rounds", "sent", "dealt", "outside")))
        return out

    session = torchveil.Session(parties=parties)
    model = measured("share the model", session, lambda: session.encrypt(make()))
    batch = measured("share a batch", session, lambda: (session.share(x), session.share(y)))
    with torch.no_grad():
        out = measured("forward, first", session, lambda: model(batch[0]))
        measured("reveal the output", session, out.reveal)
        again = session.share(x)
        measured("forward, further", session, lambda: model(again))

    session = torchveil.Session(parties=parties)
    model = session.encrypt(make())
    trainer = optimizer(model.parameters())

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        trainer.zero_grad()
        value: Tensor = loss(model(inputs), targets)
        value.backward()
        trainer.step()
        return value.detach()

    for number in (1, 2):
        inputs, targets = session.share(x), session.share(y)
        value = measured(f"training step {number}", session, partial(step, inputs, targets))
    measured("reveal the loss", session, value.reveal)
    return costs


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("parties", [("alice", "bob"), ("alice", "bob", "carol")], ids=len)
def test_the_prediction_is_what_a_run_measures(name: str, parties: tuple[str, ...]) -> None:
    make, x, y, loss, optimizer = MODELS[name]
    with torch.device("meta"):
        model = make()
    empty = [torch.empty_like(t, device="meta") for t in (x, y)]
    report = torchveil.check(model, empty[0], targets=empty[1], loss=loss, optimizer=optimizer, parties=parties)
    assert report.ok, str(report)
    assert {phase.name: phase.cost for phase in report.phases} == ran(make, x, y, loss, optimizer, parties)
    for phase in report.phases:
        for by in ("modules", "operations", "gates", "lines"):
            assert sum((f.cost for f in phase.figures(by).values()), Cost()) == phase.cost


def test_a_plan_costs_what_is_predicted() -> None:
    make, x, y, loss, optimizer = MODELS["mlp, cross entropy"]
    report = torchveil.check(make(), x, targets=y, loss=loss, optimizer=optimizer, plan=True)
    session = torchveil.Session()
    model = session.encrypt(make())
    trainer = optimizer(model.parameters())

    @torchveil.compile
    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        trainer.zero_grad()
        value: Tensor = loss(model(inputs), targets)
        value.backward()
        trainer.step()
        return value.detach()

    for _ in range(4):
        recordings = step.recordings
        step(session.share(x), session.share(y))
    assert step.recordings == recordings
    assert report.phase("training step as a plan").cost == step.cost


def test_why_there_is_no_plan() -> None:
    make, x, y, loss, _ = MODELS["mlp, Adam"]
    report = torchveil.check(make(), x, targets=y, loss=loss, optimizer=torch.optim.Adam, plan=True)
    assert "step count" in report.no_plan and "step count" in str(report)


# --- what does not run -----------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """A linear layer and one thing more."""

    def __init__(self, more: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.more(self.linear(x)))


def branch(x: Tensor) -> Tensor:
    return x * 2 if x.sum() > 0 else x


LIBRARY = torch.library.Library("check_test", "FRAGMENT")
for name in ("nobody", "knows", "slope"):
    LIBRARY.define(f"{name}(Tensor x) -> Tensor")
    LIBRARY.impl(name, torch.empty_like, "Meta")


class Unknown(torch.autograd.Function):
    """An operation without an encrypted form, and a gradient that has none either."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return torch.ops.check_test.knows(x)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return torch.ops.check_test.slope(grad)


def unknown(x: Tensor) -> Tensor:
    return Unknown.apply(x)


PLANTED: dict[int, tuple[Callable[[Tensor], Tensor], str, str]] = {
    3: (lambda x: x + torch.special.bessel_j0(x.detach()), "aten.special_bessel_j0.default", "TV201"),
    10: (lambda x: x * torch.ops.check_test.nobody(x.detach()), "check_test.nobody.default", "TV201"),
    17: (branch, "bool()", "TV105"),
    22: (lambda x: x + torch.ones(8), "aten.add.Tensor", "TV104"),
    36: (unknown, "check_test.knows.default", "TV201"),
    41: (lambda x: x * float(x.detach().abs().max().item()), ".item()", "TV105"),
    48: (lambda x: torch.fft.fft(x).real, "aten._fft_r2c.default", "TV201"),
}


class Deep(nn.Module):
    """Fifty layers, a few of them with something that has no encrypted form."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Layer(PLANTED.get(i, (nn.Identity(),))[0]) for i in range(50))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.encoder.layers:  # type: ignore[union-attr]
            x = layer(x)
        return x


def test_one_call_finds_every_planted_operation() -> None:
    with torch.device("meta"):
        model, x = Deep(), torch.empty(4, 8)
    report = torchveil.check(model, x, loss=lambda out: (out * out).mean(), optimizer=SGD, steps=1)
    found = {(f.module, f.op, f.code) for f in report.unsupported if f.phase == "forward"}
    planted = {(f"encoder.layers.{i}", op, code) for i, (_, op, code) in PLANTED.items()}
    assert planted <= found
    assert {module for module, _, _ in found} == {module for module, _, _ in planted}
    for f in report.unsupported:
        assert f.message and f.instead and f"{__file__}:" in f.line
    backward = {(f.module, f.op) for f in report.unsupported if f.phase == "backward"}
    assert ("encoder.layers.36", "check_test.slope.default") in backward
    slope = next(f for f in report.unsupported if f.op == "aten._fft_c2c.default")
    assert slope.phase == "backward" and "torch.fft.fft(x)" in slope.line
    assert [phase.name for phase in report.phases][-1] == "reveal the loss"
    assert "encoder.layers.48" in str(report)
    with pytest.raises(UnsupportedOperation, match=r"encoder\.layers\.48"):
        report.require()


def test_a_program_that_fails_by_itself_says_where() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x  # shapes that do not fit

    report = torchveil.check(Broken(), torch.rand(2, 3))
    assert not report.ok and "x @ x" in report.unsupported[0].line

    class Places(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[x.sum(1).nonzero()[:, 0]]

    found = torchveil.check(Places(), torch.rand(2, 3)).unsupported
    assert [f.code for f in found] == ["TV201", "stopped"] and "torch.where" in found[0].instead


# --- what it needs, and what it leaves alone -------------------------------------------------------------------------


def test_fake_tensors_meta_and_numbers_give_the_same() -> None:
    make, x, y, loss, optimizer = MODELS["cnn"]
    given = {"loss": loss, "optimizer": optimizer}
    numbers = torchveil.check(make(), x, targets=y, **given)
    with FakeTensorMode():
        fakes = make(), torch.empty(x.shape), torch.empty(y.shape, dtype=y.dtype)
        with_fakes = torchveil.check(fakes[0], fakes[1], targets=fakes[2], **given)
    with torch.device("meta"):
        inside = torchveil.check(make(), torch.empty(x.shape), targets=torch.empty(y.shape, dtype=y.dtype), **given)
    costs = [[phase.cost for phase in report.phases] for report in (numbers, with_fakes, inside)]
    assert costs[0] == costs[1] == costs[2]


def test_the_model_and_the_random_state_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    make, x, y, loss, optimizer = MODELS["cnn"]
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = optimizer(model.parameters())
    random = torch.get_rng_state()
    monkeypatch.setattr("torchveil.engine.make_roles", None)  # no party ever comes to be
    report = torchveil.check(model, x, targets=y, loss=loss, optimizer=trainer)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and type(p) is nn.Parameter for p in model.parameters())
    assert trainer.param_groups[0]["params"][0] is next(model.parameters()) and not trainer.state
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(part._forward_hooks for part in model.modules())
    by_class = torchveil.check(model, x, targets=y, loss=loss, optimizer=optimizer)
    assert [p.cost for p in report.phases] == [p.cost for p in by_class.phases]


def test_public_inputs_keywords_and_what_is_no_tensor() -> None:
    class Gate(nn.Module):
        def forward(self, x: Tensor, times: int, *, mask: Tensor) -> Tensor:
            return x * mask * times

    report = torchveil.check(
        Gate(), torch.rand(3), 2, keywords={"mask": torchveil.public(torch.empty(3, device="meta"))}
    )
    assert report.ok and report.phase("forward, first").cost == Cost()
    report = torchveil.check(Gate(), torch.rand(3), 2, keywords={"mask": torch.rand(3)})
    assert report.phase("forward, first").cost.rounds > 0


def test_bad_arguments() -> None:
    with pytest.raises(InvalidArgument):
        torchveil.check(torch.relu, torch.rand(3))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        torchveil.check(nn.Linear(3, 1), torch.rand(2, 3), optimizer=torch.optim.Adam)
    with pytest.raises(InvalidArgument):
        torchveil.check(nn.Linear(3, 1), torch.rand(2, 3)).phase("no such phase")


# --- ranges ----------------------------------------------------------------------------------------------------------


class Exp(nn.Module):
    """Functions that are defined on an interval."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(self.linear(x)) / (x * x)


def test_ranges_without_numbers_are_named() -> None:
    with torch.device("meta"):
        report = torchveil.check(Exp(), torch.empty(3, 2))
    assert report.ok
    assert {f.op for f in report.warnings} == {"aten.exp.default", "aten.div.Tensor"}
    wide = torchveil.check(nn.Linear(2**13, 1, device="meta"), torch.empty(1, 2**13, device="meta"))
    assert wide.warnings == ()
    fine = torchveil.check(
        nn.Linear(2**13, 1, device="meta"), torch.empty(1, 2**13, device="meta"),
        fixed_point=torchveil.FixedPoint(2, 20),
    )  # fmt: skip
    assert "sum of 8192 products" in fine.warnings[0].message


def test_ranges_are_looked_at_where_there_are_numbers() -> None:
    model = Exp()
    with torch.no_grad():
        model.linear.weight.fill_(1.0)
        model.linear.bias.zero_()
    assert torchveil.check(model, torch.ones(3, 2)).warnings == ()
    found = torchveil.check(model, torch.full((3, 2), 8.0)).warnings
    assert [f.op for f in found] == ["aten.exp.default"] and "2^4" in found[0].message
    found = torchveil.check(model, torch.full((3, 2), 2.0**-11)).warnings
    assert [f.op for f in found] == ["aten.div.Tensor"]
    found = torchveil.check(
        nn.Linear(2, 1), torch.full((3, 2), 2.0**40), loss=functional.mse_loss, targets=torch.ones(3, 1)
    )
    assert any("sum of products" in f.message for f in found.warnings)


# --- telling ---------------------------------------------------------------------------------------------------------


def test_the_report_as_text_and_json() -> None:
    make, x, y, loss, optimizer = MODELS["cnn"]
    report = torchveil.check(make(), x, targets=y, loss=loss, optimizer=optimizer)
    text = str(report)
    assert "Sequential runs as it is." in text and "training step 2" in text and "WAN" in text
    document = json.loads(report.to_json())
    assert document["format"] == "torchveil.check" and document["version"] == 1
    step = next(p for p in document["phases"] if p["name"] == "training step 2")
    cost = report.phase("training step 2").cost
    assert (step["rounds"], step["sent_bytes"], step["dealt_bytes"]) == (cost.rounds, cost.sent, cost.dealt)
    expected = cost.rounds * 0.02 + (cost.sent + cost.dealt) / 12.5e6
    assert step["seconds"]["WAN"] == pytest.approx(expected)
    assert report.modules("training step 2", ("modules", "operations")).row_count > 5
