"""A profile is exact where it counts (rounds and bytes), honest where it measures, and holds no value."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional

import torchveil
from torchveil.errors import InvalidArgument, SessionStateError, ShapeMismatch
from torchveil.gates import GATES
from torchveil.gates.base import FREE, Cost
from torchveil.profiling import Profile
from torchveil.profiling import profile as profile_module

ZERO = Cost()


class Net(nn.Module):
    """Two linear layers, the first inside a nested module."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x))
        return out


def training(session: torchveil.Session) -> Callable[[], torch.Tensor]:
    """A step of training with a fresh batch."""
    net = session.encrypt(Net())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def step() -> torch.Tensor:
        loss = functional.mse_loss(net(session.share(torch.rand(5, 4))), session.share(torch.rand(5, 2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def difference(after: dict[str, Cost], before: dict[str, Cost]) -> dict[str, Cost]:
    """What every row of an account grew by, without those that did not."""
    out = {}
    for name, cost in after.items():
        old = before.get(name, ZERO)
        grown = Cost(cost.rounds - old.rounds, cost.sent - old.sent, cost.dealt - old.dealt, cost.outside - old.outside)
        if grown != ZERO:
            out[name or {"modules": "(outside modules)"}.get("modules", name)] = grown
    return out


def costs(profile: Profile, by: str) -> dict[str, Cost]:
    return {names[0]: figures.cost for names, figures in profile.figures(by).items() if figures.cost != ZERO}


@pytest.mark.parametrize("options", [{}, {"debug": True}, {"backend": "plain"}], ids=str)
@pytest.mark.parametrize("n", [2, 3])
def test_rounds_and_bytes_are_what_the_account_grew_by(n: int, options: dict[str, Any]) -> None:
    session = torchveil.Session([f"party{k}" for k in range(n)], "provider", **options)
    step = training(session)
    step().reveal()
    before = session.cost()
    with session.profile() as profile:
        step().reveal()
        step()
    after = session.cost()
    for by, table, old in (
        ("modules", after.modules, before.modules),
        ("operations", after.operations, before.operations),
        ("gates", after.gates, before.gates),
    ):
        assert costs(profile, by) == difference(table, old)
        assert sum((figures.cost for figures in profile.figures(by).values()), ZERO) == profile.total.cost
    assert profile.total.cost == difference({"total": after.total}, {"total": before.total})["total"]
    assert profile.total.instructions == after.instructions - before.instructions
    step()
    assert profile.total.instructions == after.instructions - before.instructions  # it no longer listens


def test_modules_are_right_in_both_directions() -> None:
    session = torchveil.Session()
    step = training(session)
    with session.profile() as profile:
        step()
    found = {names: figures.cost for names, figures in profile.figures(("modules", "operations")).items()}
    assert found["Net.body.0", "aten.addmm.default"].sent > 0
    assert found["Net.head", "aten.addmm.default"].sent > 0
    assert found["Net.body.1", "aten.relu.default"].rounds > 0
    # the gradients
    assert found["Net.body.1", "aten.threshold_backward.default"].rounds > 0
    assert found["Net.body.0", "aten.mm.default"].dealt > 0
    assert found["Net.head", "aten.mm.default"].dealt > 0
    where = {module for module, operation in found if operation == "aten.threshold_backward.default"}
    assert where == {"Net.body.1"}
    assert {module for module, operation in found if operation == "share"} == {"(outside modules)"}


def test_lines_are_those_of_the_program() -> None:
    session = torchveil.Session()
    x = session.share(torch.ones(3))
    with session.profile() as profile:
        y = x * x
        (y * 1.5).reveal()
    lines = {names[0] for names in profile.figures("lines")}
    assert lines and all(re.fullmatch(r".*test_profile\.py:\d+", line) for line in lines)
    assert len(lines) == 2
    with session.profile(lines=False) as profile:
        x * x
    assert {names[0] for names in profile.figures("lines")} == {"(no line)"}


def test_the_whole_time_is_accounted_for() -> None:
    session = torchveil.Session()
    step = training(session)
    with session.profile() as profile:
        step()
    total = profile.total
    assert profile.wall_s == pytest.approx(total.seconds + profile.python_s + profile.profiler_s)
    assert min(total.seconds, profile.python_s, profile.profiler_s) > 0
    assert 0 < total.slowest_s < total.parties_s
    assert total.provider_s + total.parties_s < total.seconds
    assert 0 < total.compute_s < total.seconds


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_times_are_added_up_as_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    monkeypatch.setattr(profile_module, "perf_counter", time)
    profile = torchveil.Session().profile()
    with profile:
        time.now += 10.0
        profile.record("aten.mm.default", "Net.0", "bilinear", Cost(1, 8, 16, 0), 2.0)
        profile.record("aten.mm.default", "Net.1", "bilinear", Cost(1, 8, 16, 0), 0.5)
        profile.record("share", "", "input", Cost(0, 0, 0, 24), 1.0)
    time.now += 100.0  # outside of the block
    assert (profile.wall_s, profile.total.seconds, profile.python_s) == (10.0, 3.5, 6.5)
    with profile:
        time.now += 1.0
        assert profile.wall_s == 11.0  # also while it runs
    assert (profile.wall_s, profile.python_s) == (11.0, 7.5)
    assert list(profile.figures("modules")) == [("Net.0",), ("(outside modules)",), ("Net.1",)]
    assert profile.figures("operations")["aten.mm.default",].cost == Cost(2, 16, 32, 0)


def test_only_one_profile_at_a_time() -> None:
    session, other = torchveil.Session(), torchveil.Session()
    with session.profile() as outer:
        with pytest.raises(SessionStateError, match="running"), session.profile():
            pass
        with pytest.raises(SessionStateError, match="running"):
            outer.start()
        with other.profile():
            pass
        assert outer.running
        session.share(torch.ones(2))  # the outer one still listens
    assert outer.total.instructions == 1 and not outer.running
    with pytest.raises(SessionStateError, match="does not run"):
        outer.stop()
    with session.profile():
        pass


def test_start_and_stop_without_a_block() -> None:
    session = torchveil.Session()
    profile = session.profile().start()
    session.share(torch.ones(2))
    assert profile.stop() is profile
    assert profile.total.instructions == 1
    assert profile.session is session


def test_nothing_is_watched_without_a_profile() -> None:
    session = torchveil.Session()
    driver: Any = session._driver
    with session.profile():
        assert session.observer is not None and driver.gates is not GATES
    assert session.observer is None and driver.gates is GATES


@pytest.mark.parametrize("lines", [True, False])
def test_an_exception_leaves_a_valid_profile(lines: bool) -> None:
    session = torchveil.Session()
    x, y = session.share(torch.ones(2, 3)), session.share(torch.ones(2, 4))
    before = session.cost().instructions
    profile = session.profile(lines=lines)
    with pytest.raises(ShapeMismatch), profile:
        x * x
        x.sum() * 2
        x @ y
    assert not profile.running
    assert profile.total.instructions == session.cost().instructions - before > 0
    assert json.loads(profile.to_json())["total"]["instructions"] == profile.total.instructions
    with profile:
        x * x
    assert session.observer is None
    assert "total" in str(profile)


def test_a_session_closed_inside_leaves_a_valid_profile() -> None:
    session = torchveil.Session()
    with session.profile() as profile:
        session.share(torch.ones(2))
        session.close()
    assert profile.total.instructions == 1
    with pytest.raises(SessionStateError, match="closed"):
        session.profile().start()


def test_a_profile_of_nothing_can_be_told(tmp_path: Path) -> None:
    profile = torchveil.Session().profile()
    assert "total" in str(profile)
    assert json.loads(profile.to_json())["rows"] == []
    assert "</html>" in profile.to_html(tmp_path / "empty.html")


def test_the_plain_backend_has_no_roles_to_time() -> None:
    session = torchveil.Session(backend="plain")
    with session.profile() as profile:
        training(session)()
    total = profile.total
    assert total.provider_s == total.parties_s == total.slowest_s == 0
    assert total.compute_s == total.seconds > 0


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["modules", "operations", "gates", "lines", ("modules", "operations")], ids=str)
def test_tables_have_a_row_for_everything(by: str | tuple[str, ...]) -> None:
    session = torchveil.Session()
    with session.profile() as profile:
        training(session)()
    table = profile.table(by)
    n_groups = 1 if isinstance(by, str) else len(by)
    assert [column.header for column in table.columns][:n_groups] == ([by] if isinstance(by, str) else list(by))
    assert len(table.rows) == len(profile.figures(by)) + 3  # Python, the profile itself, the total
    console = Console(file=io.StringIO(), width=250)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for names in profile.figures(by):
        for name in names:
            assert name[-20:] in text
    assert "no instruction" in text and "LAN (estimated)" in text and "WAN (estimated)" in text


def test_what_a_short_table_leaves_out_is_one_row() -> None:
    profile = torchveil.Session().profile()
    for k in range(10):
        profile.record(f"op{k}", "", "gate", Cost(1, 0, 0, 0), 10.0 - k)
    table = profile.table("operations", limit=3)
    assert [str(cell) for cell in table.columns[0].cells][:4] == ["op0", "op1", "op2", "(7 more)"]
    rounds = next(column for column in table.columns if column.header == "rounds")
    assert list(rounds.cells)[:4] == ["1", "1", "1", "7"]


def test_names_are_no_markup_in_tables() -> None:
    profile = torchveil.Session().profile()
    profile.record("[bold]op[/bold]", "Net.[red]", "gate", FREE, 1.0)
    assert "[bold]op[/bold]" in str(profile) and "Net.[red]" in str(profile)


def test_an_unknown_grouping_is_refused() -> None:
    profile = torchveil.Session().profile()
    for call in (profile.figures, profile.table):
        for by in ("colours", ("modules", "colours"), ()):
            with pytest.raises(InvalidArgument, match="modules"):
                call(by)


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_json_holds_every_figure(tmp_path: Path) -> None:
    session = torchveil.Session()
    with session.profile() as profile:
        training(session)().reveal()
    text = profile.to_json(tmp_path / "profile.json")
    assert (tmp_path / "profile.json").read_text() == text
    read = json.loads(text)
    assert (read["format"], read["version"]) == ("torchveil.profile", 1)
    assert (read["parties"], read["provider"], read["backend"]) == (["alice", "bob"], "james", "lockstep")
    assert read["wall_s"] == profile.wall_s and read["python_s"] == profile.python_s
    assert len(read["rows"]) == len(profile.rows)
    for row, (place, figures) in zip(read["rows"], profile.rows, strict=True):
        assert (row["operation"], row["module"], row["gate"], row["line"]) == tuple(place)
        assert row["instructions"] == figures.instructions and row["seconds"] == figures.seconds
        assert (row["provider_s"], row["parties_s"]) == (figures.provider_s, figures.parties_s)
        cost = Cost(row["rounds"], row["sent_bytes"], row["dealt_bytes"], row["outside_bytes"])
        assert cost == figures.cost
        for network in (torchveil.LAN, torchveil.WAN):
            assert row["estimates"][network.name]["sequential_s"] == figures.estimate(network).sequential_s
    for key in ("rounds", "sent_bytes", "dealt_bytes", "outside_bytes", "instructions"):
        assert sum(row[key] for row in read["rows"]) == read["total"][key]
    told = read["networks"]["WAN"]["estimate"]
    assert told["overlapped_s"] == pytest.approx(profile.estimate(torchveil.WAN).overlapped_s)
    assert json.loads(json.dumps(read)) == read


# --- no value anywhere -----------------------------------------------------------------------------------------------


def holds(text: str, secret: str) -> bool:
    """Whether a number of the text is the secret or begins with its digits after the point."""
    after = "" if "." in secret else r"(?![0-9])"
    return re.search(rf"(?<![0-9.]){re.escape(secret)}{after}", text) is not None


def test_no_secret_is_in_anything_that_is_told(tmp_path: Path) -> None:
    session = torchveil.Session()
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 54.328125)  # long texts: a short one is in the digits of some time before long
    net = session.encrypt(layer)
    with session.profile() as profile:
        x = session.share(torch.tensor([[4321.0625]]))  # this line names a value: its text may not be shown
        y = net(x)
        y.sum().backward()
        revealed = float(y.detach().reveal())
    driver: Any = session._driver
    secrets = {"4321.06", str(round(4321.0625 * 2**16)), "54.3281", str(round(54.328125 * 2**16)), f"{revealed:.3f}"}
    for role in (*driver.parties, driver.provider):
        for wire in role.wires.values():
            for piece in (wire.mask, wire.opening, getattr(wire, "share", None)):
                if isinstance(piece, torch.Tensor):
                    secrets |= {str(v) for v in piece.flatten().tolist()} | {hex(v) for v in piece.flatten().tolist()}
    secrets = {text for text in secrets if len(text.lstrip("-0x")) >= 7}
    assert len(secrets) > 10  # shares and masks were found
    console = Console(file=io.StringIO(), width=250)
    console.print(profile, *(profile.table(by) for by in ("gates", "lines", ("modules", "operations"))))
    told = [str(profile), repr(profile), profile.to_json(), profile.to_html(), console.file.getvalue()]  # type: ignore[attr-defined]
    told.append(repr(profile.rows) + repr(profile.estimate(torchveil.LAN)))
    for text in told:
        assert not [secret for secret in secrets if holds(text, secret)]
    # "3560448", the weight, is among the digits of some time in one of a thousand runs
    assert holds(f"[{revealed:.5f}, 54.328125]", "54.3281") and holds("-3560448.0", "3560448")
    assert not holds("0.0023560448 23.560448e-05 13560448", "3560448")


def test_a_compiled_step_is_told_apart_by_module_and_operation() -> None:
    session = torchveil.Session()
    model = session.encrypt(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))

    @torchveil.compile
    def step(x: torch.Tensor) -> None:
        model.zero_grad()
        model(x).sum().backward()

    for _ in range(3):
        step(session.share(torch.ones(2, 4)))
    x = session.share(torch.ones(2, 4))
    before = session.cost()
    with session.profile() as profile:
        step(x)
    after = session.cost()
    for by, told in (("operations", "operations"), ("modules", "modules"), ("gates", "gates")):
        spent = difference(getattr(after, told), getattr(before, told))
        assert {name: cost for name, cost in costs(profile, by).items() if cost != ZERO} == {
            ("(outside modules)" if by == "modules" and not name else name): cost for name, cost in spent.items()
        }
    total = profile.total
    assert total.cost.rounds == step.rounds
    assert total.provider_s > 0 and total.parties_s > total.slowest_s > 0
    assert ("Sequential.0",) in profile.figures("modules")
