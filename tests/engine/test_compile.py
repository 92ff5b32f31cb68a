"""Compiled functions: results as without, fewer rounds, recorded again when a guard fails, refused with a line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import torchveil
from torchveil import CompiledFunction, Session, public
from torchveil.errors import PlanError
from torchveil.gates.base import Cost

pytestmark = pytest.mark.smoke


def sessions() -> list[Any]:
    return [
        pytest.param({}, id="lockstep"),
        pytest.param({"debug": True}, id="debug"),
        pytest.param({"backend": "plain"}, id="plain"),
        pytest.param({"parties": ("a", "b", "c")}, id="three"),
    ]


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def data(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 6, generator=generator)
    return x, functional.one_hot(torch.randint(0, 3, (4,), generator=generator), 3).float()


Optimizer = Callable[[Any], torch.optim.Optimizer]


def losses(session: Session, compiled: bool, optimizer: Optimizer, steps: int = 6) -> tuple[list[float], nn.Module]:
    model = session.encrypt(net())
    opt = optimizer(model.parameters())

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = functional.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    run: Any = torchveil.compile(step) if compiled else step
    out = []
    for k in range(steps):
        x, y = data(k)
        out.append(float(run(session.share(x), session.share(y)).reveal()))
    if compiled:
        assert run.recordings <= 3, run
    return out, model


@pytest.mark.parametrize("options", sessions())
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.3),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ],
    ids=["sgd", "momentum"],
)
def test_trains_like_uncompiled(options: dict[str, Any], optimizer: Optimizer) -> None:
    with Session(**options) as session:
        compiled, model = losses(session, True, optimizer)
        plain, other = losses(session, False, optimizer)
        assert compiled == pytest.approx(plain, abs=2e-3)
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.allclose(a.reveal(), b.reveal(), atol=2e-3)
            assert torch.allclose(a.grad.reveal(), b.grad.reveal(), atol=2e-3)
    assert compiled[-1] != compiled[0]


def test_a_plan_completes_the_openings_of_what_it_writes() -> None:
    """From the second run on a parameter comes with its opening: the 6 + 2 bytes of its step are all that it costs."""
    with Session(["a", "b"], "c") as session:
        layer = session.encrypt(nn.Linear(64, 32))
        opt = torch.optim.SGD(layer.parameters(), lr=0.1)

        @torchveil.compile
        def step(x: Tensor) -> None:
            opt.zero_grad()
            layer(x).square().mean().backward()
            opt.step()

        sent = []
        for _ in range(4):
            before = session.cost().sent_bytes
            step(session.share(torch.rand(8, 64)))
            sent.append(session.cost().sent_bytes - before)
        weight = layer.weight.handle
        assert step.recordings == 2 and weight.stretched and weight.is_opened() and weight.parent is None
        assert sent[2] == sent[3] <= sent[0] - 8 * 64 * 32


def test_fewer_rounds_and_no_more_bytes() -> None:
    with Session() as session:
        model = session.encrypt(net())
        opt = torch.optim.SGD(model.parameters(), lr=0.3)

        def step(x: Tensor, y: Tensor) -> None:
            opt.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            opt.step()

        compiled = torchveil.compile(step)
        eager = Cost()
        # the first step stretches the scale of the parameters
        step(*(session.share(part) for part in data(9)))
        for k in range(5):
            x, y = (session.share(part) for part in data(k))
            before = session.cost()
            compiled(x, y)
            after = session.cost()
            spent = (
                after.rounds - before.rounds,
                after.sent_bytes - before.sent_bytes,
                after.dealt_bytes - before.dealt_bytes,
            )
            if k == 0:
                eager = Cost(*spent)
        assert compiled.recordings <= 2
        assert spent == (compiled.rounds, compiled.cost.sent, compiled.cost.dealt)
        assert compiled.rounds < eager.rounds
        assert compiled.cost.sent <= eager.sent
        assert compiled.cost.dealt <= eager.dealt
        assert "aten.addmm.default" in session.cost().operations
        assert "Sequential.0" in session.cost().modules


def test_wires_do_not_grow() -> None:
    with Session() as session:
        model = session.encrypt(net())
        opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        @torchveil.compile
        def step(x: Tensor, y: Tensor) -> Tensor:
            opt.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            return loss

        counts = []
        for k in range(12):
            step(*(session.share(part) for part in data(k)))
            counts.append(session.n_wires)
        assert counts[4] == counts[-1]
        # parameters, momenta, gradients and the last loss; nothing in between
        assert counts[-1] <= 3 * len(list(model.parameters())) + 3


def test_results_of_one_call_survive_the_next() -> None:
    with Session() as session:
        double = torchveil.compile(lambda x: (x * 2, {"sum": x.sum(), "word": "yes"}))
        a = double(session.share(torch.tensor([1.0, 2.0])))
        b = double(session.share(torch.tensor([3.0, 4.0])))
        c = double(session.share(torch.tensor([5.0, 6.0])))
        assert double.recordings == 1
        for (out, rest), expected in ((a, [2.0, 4.0]), (b, [6.0, 8.0]), (c, [10.0, 12.0])):
            assert out.reveal().tolist() == expected
            assert rest["sum"].reveal().item() == sum(expected) / 2
            assert rest["word"] == "yes"


def test_another_shape_records_again_and_both_plans_stay() -> None:
    with Session() as session:
        square = torchveil.compile(lambda x: x * x)
        for shape in ((2,), (3, 2), (2,), (3, 2)):
            x = torch.full(shape, 1.5)
            assert torch.equal(square(session.share(x)).reveal(), x * x)
        assert square.recordings == 2


def test_an_opened_argument_is_not_opened_again() -> None:
    with Session() as session:
        square = torchveil.compile(lambda x: x * x)
        x = session.share(torch.tensor([2.0]))
        square(x)
        assert square.cost.sent == 8
        square(x)  # opened now: another plan
        square(x)
        assert square.recordings == 2
        assert square.cost.sent == 0
        assert square(x).reveal().item() == 4.0


def test_batches_of_a_data_set_share_its_opening() -> None:
    with Session() as session:
        rows = session.share(torch.arange(12.0).reshape(6, 2))
        square = torchveil.compile(lambda x: x * x)
        for k in (0, 2, 4):
            assert torch.equal(square(rows[k : k + 2]).reveal(), torch.arange(12.0).reshape(6, 2)[k : k + 2] ** 2)
        assert square.recordings == 1
        assert square.rounds == 0


def test_plain_arguments_are_part_of_the_plan_by_value() -> None:
    with Session() as session:
        scale = torchveil.compile(lambda x, factor, mask: x * factor * public(mask))
        x = session.share(torch.tensor([1.0, 2.0]))
        for factor, mask in ((2, [1.0, 0.0]), (3, [1.0, 0.0]), (3, [0.0, 1.0]), (2, [1.0, 0.0])):
            out = scale(x, factor, torch.tensor(mask)).reveal()
            assert torch.equal(out, torch.tensor([1.0, 2.0]) * factor * torch.tensor(mask))


def test_a_closed_over_plain_tensor_is_guarded() -> None:
    with Session() as session:
        weight = torch.tensor([2.0, 3.0])
        scale = torchveil.compile(lambda x: x * public(weight))
        x = session.share(torch.tensor([1.0, 1.0]))
        assert scale(x).reveal().tolist() == [2.0, 3.0]
        weight.mul_(2)
        assert scale(x).reveal().tolist() == [4.0, 6.0]
        assert scale(x).reveal().tolist() == [4.0, 6.0]


def test_modes_of_modules_are_guarded() -> None:
    with Session() as session:
        torch.manual_seed(0)
        model = session.encrypt(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
        run = torchveil.compile(lambda x: model(x))
        x = torch.randn(8, 3)
        with torch.no_grad():
            for _ in range(3):
                train = run(session.share(x)).reveal()
            assert int(model[1].num_batches_tracked) == 3
            model.eval()
            out = run(session.share(x)).reveal()
        clear = session.decrypt(model)
        assert not torch.allclose(out, train, atol=1e-2)
        with torch.no_grad():
            assert torch.allclose(out, clear(x), atol=2e-3)


def test_running_statistics_are_written_by_replays() -> None:
    with Session() as session:
        torch.manual_seed(0)
        norm, reference = session.encrypt(nn.BatchNorm1d(2)), nn.BatchNorm1d(2)
        run = torchveil.compile(lambda x: norm(x))
        for k in range(4):
            x = torch.randn(16, 2, generator=torch.Generator().manual_seed(k))
            run(session.share(x))
            reference(x)
        assert run.recordings <= 2
        assert torch.allclose(norm.running_mean.reveal(), reference.running_mean, atol=1e-3)
        assert torch.allclose(norm.running_var.reveal(), reference.running_var, atol=1e-3)


def test_learning_rates_are_guarded() -> None:
    with Session() as session:
        weight = nn.Parameter(session.share(torch.tensor([1.0])))
        opt = torch.optim.SGD([weight], lr=0.5)

        @torchveil.compile
        def step() -> None:
            opt.zero_grad()
            (weight * weight).sum().backward()
            opt.step()

        step()
        step()
        opt.param_groups[0]["lr"] = 0.25
        step()
        assert weight.reveal().item() == 0.0 or abs(weight.reveal().item()) < 1e-4
        weight.data.copy_(session.share(torch.tensor([1.0])))
        step()
        assert abs(weight.reveal().item() - 0.5) < 1e-4


def test_freezing_and_gradient_modes_are_guarded() -> None:
    with Session() as session:
        layer = session.encrypt(nn.Linear(2, 1))

        @torchveil.compile
        def gradients(x: Tensor) -> None:
            layer.zero_grad()
            layer(x).sum().backward()

        x = session.share(torch.ones(1, 2))
        for _ in range(3):
            gradients(x)
        layer.weight.requires_grad_(False)
        gradients(x)
        assert layer.weight.grad is None and layer.bias.grad is not None
        with torch.no_grad(), pytest.raises(RuntimeError, match="does not require grad"):
            gradients(x)


def test_gradients_accumulate() -> None:
    with Session() as session:
        weight = nn.Parameter(session.share(torch.tensor([1.0, 2.0])))
        add = torchveil.compile(lambda x: (weight * x).sum().backward())
        for k in range(5):
            add(session.share(torch.tensor([1.0, 10.0])))
            assert weight.grad is not None
            assert weight.grad.reveal().tolist() == [k + 1.0, 10.0 * (k + 1)]
        weight.grad = None
        add(session.share(torch.tensor([1.0, 10.0])))
        assert weight.grad.reveal().tolist() == [1.0, 10.0]


def test_written_arguments_are_written() -> None:
    with Session() as session:

        @torchveil.compile
        def increment(x: Tensor) -> Tensor:
            x.add_(1)
            return x

        whole = session.share(torch.zeros(4))
        x = whole[1:3]
        for k in range(1, 4):
            assert increment(x) is x
            assert whole.reveal().tolist() == [0.0, k, k, 0.0]


def test_constants_that_a_function_leaves() -> None:
    with Session() as session:
        weight, bias = (nn.Parameter(session.share(torch.ones(2))) for _ in range(2))
        kept = session.share(torch.zeros(2))

        @torchveil.compile
        def step(x: Tensor) -> tuple[Tensor, Tensor]:
            weight.grad = bias.grad = None
            (weight * x + bias).sum().backward()
            kept.fill_(7)
            return x * 0, torch.zeros_like(x)

        for value in (1.0, 2.0, 3.0):
            nothing, zeros = step(session.share(torch.full((2,), value)))
            assert weight.grad is not None and bias.grad is not None
            assert weight.grad.reveal().tolist() == [value, value]
            assert bias.grad.reveal().tolist() == [1.0, 1.0]
            assert kept.reveal().tolist() == [7.0, 7.0]
            assert nothing.reveal().tolist() == zeros.reveal().tolist() == [0.0, 0.0]


def test_the_same_argument_twice() -> None:
    with Session() as session:
        subtract = torchveil.compile(lambda x, y: x * 2 - y)
        a, b = session.share(torch.tensor([5.0])), session.share(torch.tensor([1.0]))
        for _ in range(2):
            assert subtract(a, a).reveal().item() == 5.0
            assert subtract(a, b).reveal().item() == 9.0


def test_adam_outside() -> None:
    with Session() as session:
        model = session.encrypt(net())
        opt = torch.optim.Adam(model.parameters(), lr=0.05)

        @torchveil.compile
        def gradients(x: Tensor, y: Tensor) -> Tensor:
            opt.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        found = []
        for _ in range(8):
            found.append(float(gradients(*(session.share(part) for part in data(0))).reveal()))
            opt.step()
        assert found[-1] < found[0] - 0.1
        assert gradients.recordings <= 4


# --- refused ---------------------------------------------------------------------------------------------------------


def refused(session: Session, function: Callable[..., Any], *args: Any) -> str:
    compiled = torchveil.compile(function)
    with pytest.raises(torchveil.TorchveilError) as caught:
        compiled(*args)
    assert "test_compile.py" in str(caught.value)
    return str(caught.value)


def test_what_a_plan_cannot_repeat() -> None:
    with Session() as session:
        x = session.share(torch.tensor([1.0, 2.0]))
        assert "reveals" in refused(session, lambda v: v.reveal(), x)
        assert "shares" in refused(session, lambda v: v + session.share(torch.ones(2)), x)
        assert "random" in refused(session, lambda v: functional.dropout(v, 0.5), x)
        assert "random" in refused(session, lambda v: v * public(torch.rand(2)), x)
        assert "returns Tensor" in refused(session, lambda v: torch.ones(2), x)
        with pytest.raises(torchveil.RevealRequired, match=r"test_compile\.py"):
            torchveil.compile(lambda v: v if v.sum() > 0 else -v)(x)
        weight = nn.Parameter(session.share(torch.tensor([1.0])))
        opt = torch.optim.Adam([weight])

        def step() -> None:
            (weight * weight).sum().backward()
            opt.step()

        assert "optimizer.step()" in refused(session, step)
        # nothing is left behind: the session works as before
        assert (x + x).reveal().tolist() == [2.0, 4.0]


def test_two_sessions() -> None:
    with Session() as one, Session() as two:
        a, b = one.share(torch.ones(1)), two.share(torch.ones(1))
        assert "two sessions" in refused(one, lambda x, y: (x * 2, y * 2), a, b)


def test_results_have_no_graph() -> None:
    with Session() as session:
        weight = nn.Parameter(session.share(torch.tensor([1.0])))
        run = torchveil.compile(lambda x: weight * x)
        for _ in range(2):
            assert not run(session.share(torch.tensor([1.0]))).requires_grad


def test_many_recordings_warn() -> None:
    with Session() as session:
        run = torchveil.compile(lambda x, k: x * k)
        x = session.share(torch.tensor([1.0]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for k in range(20):
                run(x, k + 2)
        assert sum("recorded" in str(w.message) for w in caught) == 1


def test_inside_another_compiled_function() -> None:
    with Session() as session:
        inner = torchveil.compile(lambda x: x * x)
        outer = torchveil.compile(lambda x: inner(x) + 1)
        for value in (2.0, 3.0):
            assert outer(session.share(torch.tensor([value]))).reveal().item() == value * value + 1
        assert (inner.recordings, outer.recordings) == (0, 1)


def test_names_and_repr() -> None:
    def step(x: Tensor) -> Tensor:
        """Doubles."""
        return x * 2

    compiled = torchveil.compile(step)
    assert isinstance(compiled, CompiledFunction)
    assert compiled.__name__ == "step"  # type: ignore[attr-defined]
    assert compiled.__doc__ == "Doubles."
    assert repr(compiled) == "<compiled step, 0 plans>"
    assert compiled.rounds == 0


# --- names and facts -------------------------------------------------------------------------------------------------


def test_a_gradient_from_outside_is_the_one_that_is_used() -> None:
    session = Session()
    weight = session.share(torch.tensor([1.0])).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.5)
    step = torchveil.compile(optimizer.step)
    for k in range(1, 5):
        optimizer.zero_grad()
        (weight * k).sum().backward()
        step()
    assert float(weight.detach().reveal()) == pytest.approx(1 - 0.5 * (1 + 2 + 3 + 4), abs=1e-3)


def test_a_gradient_that_is_set_is_added_to() -> None:
    session = Session()
    weight, x = session.share(torch.ones(2)).requires_grad_(), session.share(torch.tensor([1.0, 2.0]))

    @torchveil.compile
    def back(v: Tensor) -> None:
        (weight * v).sum().backward()

    for k in (10.0, 20.0, 30.0):
        weight.grad = session.share(torch.full((2,), k))
        back(x)
        assert weight.grad.reveal().tolist() == pytest.approx([k + 1, k + 2], abs=1e-3)


class Scaled(torch.nn.Module):
    """A module with settings of other kinds than numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = [2.0]
        self.function = torch.relu
        self.secret: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(x) * self.factors[0]
        return x if self.secret is None else x + self.secret


def test_settings_of_any_kind_record_again() -> None:
    session = Session()
    module, x = Scaled(), session.share(torch.tensor([-1.0, 3.0]))
    apply = torchveil.compile(lambda v: module(v))
    assert apply(x).reveal().tolist() == [0, 6]
    module.factors[0] = 5.0
    assert apply(x).reveal().tolist() == [0, 15]
    module.function = torch.neg
    assert apply(x).reveal().tolist() == [5, -15]
    module.secret = session.share(torch.ones(2))
    assert apply(x).reveal().tolist() == [6, -14]
    module.secret = session.share(torch.zeros(2))
    assert apply(x).reveal().tolist() == [5, -15]
    module.register_forward_hook(lambda _module, _args, out: out * 2)
    assert apply(x).reveal().tolist() == [10, -30]


def test_what_a_function_closes_over_records_again() -> None:
    session = Session()
    x = session.share(torch.tensor([1.0, 2.0]))
    factor, other = 2.0, session.share(torch.ones(2))
    apply = torchveil.compile(lambda v: v * factor + other)
    assert apply(x).reveal().tolist() == [3, 5]
    factor = 3.0
    assert apply(x).reveal().tolist() == [4, 7]
    other = session.share(torch.zeros(2))
    assert apply(x).reveal().tolist() == [3, 6]
    recordings = apply.recordings
    assert apply(x).reveal().tolist() == [3, 6]
    assert apply.recordings == recordings


@pytest.mark.parametrize(
    "arguments", [lambda b: (b, b[:2]), lambda b: (b[:2], b[1:])], ids=["whole and view", "two views"]
)
def test_writes_under_two_names_are_refused(arguments: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    b = Session().share(torch.tensor([1.0, 2.0, 3.0]))

    @torchveil.compile
    def write(p: Tensor, q: Tensor) -> Tensor:
        p.add_(1)
        return q * 2

    with pytest.raises(PlanError, match="two names"):
        write(*arguments(b))

    @torchveil.compile
    def read(p: Tensor, q: Tensor) -> Tensor:
        return p.sum() + q.sum()

    for _ in range(2):
        assert float(read(*arguments(b)).reveal()) == float(sum(x.reveal().sum() for x in arguments(b)))


def test_a_value_given_twice_and_given_back_twice() -> None:
    session = Session()
    x = session.share(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))

    @torchveil.compile
    def twice(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = a * b
        return y, y.clone(), y.t().t()

    for other in (x.clone(), x.clone(), x):
        outs = twice(x, other)
        for out in outs:
            assert (out * out).reveal().tolist() == [[1, 16], [81, 256]]
