"""The examples: what they report, that they reveal what they declare and nothing else, and that they learn."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

import torchveil

ROOT = Path(__file__).resolve().parents[2]
RUN_KEYS = {
    "losses",
    "counts",
    "accuracy",
    "error",
    "seconds",
    "samples_per_second",
    "sent_bytes_per_party",
    "dealt_bytes",
    "rounds",
    "reveals",
}
N_TEST = {"hospitals": 170, "digits": 539}


@pytest.fixture(params=["hospitals", "digits"])
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of an example, imported as ``python examples/NAME.py`` would: its own folder on the path."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module(request.param)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[torchveil.Session]:
    """Every session that is opened while the test runs."""
    opened: list[torchveil.Session] = []
    begin = torchveil.Session.__init__

    def note(self: torchveil.Session, *args: object, **options: object) -> None:
        begin(self, *args, **options)
        opened.append(self)

    monkeypatch.setattr(torchveil.Session, "__init__", note)
    return opened


def check_run(name: str, run: dict[str, object]) -> None:
    assert set(run) == RUN_KEYS
    assert sum(run["counts"].values()) == N_TEST[name]
    assert 0 < run["accuracy"] <= 1


def test_a_short_run(
    example: ModuleType, sessions: list[torchveil.Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = example.__name__
    summary = example.main(["--epochs", "2", "--seed", "1", "--json", "--out", str(tmp_path)])
    assert json.loads(capsys.readouterr().out) == summary  # --json: this and nothing else
    assert (summary["example"], summary["epochs"], summary["seed"]) == (name, 2, 1)
    clear, encrypted = summary["clear"], summary["encrypted"]
    for run in (clear, encrypted):
        check_run(name, run)
    assert abs(summary["difference_points"]) <= 1
    assert encrypted["losses"] == pytest.approx(clear["losses"], abs=0.01)
    assert encrypted["rounds"] > 0 and encrypted["dealt_bytes"] > 0 and encrypted["sent_bytes_per_party"] > 0
    assert Path(summary["picture"]).read_bytes().startswith(b"\x89PNG")

    # two epoch losses and one tensor of counts; then four parameters, to the owner
    (session,) = sessions
    counts_shape = (4,) if name == "hospitals" else ()
    to_controller = [record.shape for record in session.reveals if record.receiver == "controller"]
    assert to_controller == [(), (), counts_shape]
    receivers = Counter(record.receiver for record in session.reveals)
    assert receivers == {"controller": 3, "owner": 4} == encrypted["reveals"]


def test_training_reveals_nothing_unless_asked(
    example: ModuleType, sessions: list[torchveil.Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with three parties: reveals are counted around ``fit``, and their kinds afterwards."""
    around: list[tuple[int, int]] = []
    fit = example.fit

    def counted(*args: object) -> list[float]:
        before = len(sessions[-1].reveals) if sessions else 0
        losses = fit(*args)
        around.append((before, len(sessions[-1].reveals) if sessions else 0))
        return losses

    monkeypatch.setattr(example, "fit", counted)
    summary = example.main(["--epochs", "1", "--no-loss", "--parties", "3", "--json", "--out", str(tmp_path)])
    assert around == [(0, 0), (0, 0)]
    assert summary["encrypted"]["losses"] == []
    assert summary["encrypted"]["reveals"] == {"controller": 1, "owner": 4}
    assert abs(summary["difference_points"]) <= 1


def test_plain_runs_without_a_session(
    example: ModuleType, sessions: list[torchveil.Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = example.main(["--plain", "--epochs", "2", "--out", str(tmp_path)])
    assert sessions == []
    assert summary["encrypted"] is None and summary["difference_points"] is None
    check_run(example.__name__, summary["clear"])
    assert "test accuracy" in capsys.readouterr().out


def test_an_undeclared_reveal_ends_the_program(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = example.fit

    def curious(model: torch.nn.Module, optimizer: object, loss: object, x: torch.Tensor, *rest: object) -> list[float]:
        if isinstance(x, torchveil.EncryptedTensor):
            x[0].reveal()
        return fit(model, optimizer, loss, x, *rest)

    monkeypatch.setattr(example, "fit", curious)
    with pytest.raises(SystemExit, match=r"declared reveals .*\n.*to controller: .*test_examples\.py"):
        example.main(["--epochs", "1", "--no-loss", "--json", "--out", str(tmp_path)])


def test_hospitals_differ_and_share_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    hospitals = importlib.import_module("hospitals")
    north, south = hospitals.hospitals(seed=0)
    sizes = [len(part.x) + len(part.x_test) for part in (north, south)]
    assert sum(sizes) == 569 and sizes[0] > 2 * sizes[1]
    assert float(south.y.mean()) > 0.55 > 0.35 > float(north.y.mean())
    rows = torch.cat([rows for part in (north, south) for rows in (part.x, part.x_test)])
    assert len(rows.unique(dim=0)) == 569
    assert float(rows.abs().max()) < 4  # the public maxima bring every measure to order one


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_full_run_is_within_a_point_of_clear_training(example: ModuleType, seed: int, tmp_path: Path) -> None:
    summary = example.main(["--seed", str(seed), "--json", "--out", str(tmp_path)])
    assert abs(summary["difference_points"]) <= 1
    assert summary["encrypted"]["accuracy"] >= 0.95
    assert summary["encrypted"]["seconds"] < 180


# --- other nets on the digits ----------------------------------------------------------------------------------------


@pytest.fixture(params=["cnn", "autoencoder", "lstm", "transformer"])
def other(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module(request.param)


def test_another_net_follows_clear_training(
    other: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = other.main(["--epochs", "1", "--seed", "1", "--json", "--out", str(tmp_path)])
    assert json.loads(capsys.readouterr().out) == summary
    clear, encrypted = summary["clear"], summary["encrypted"]
    assert set(encrypted) == RUN_KEYS
    assert encrypted["losses"] == pytest.approx(clear["losses"], rel=0.01)
    # the loss and the result of the test; weights, and what batch norms have gathered
    n_tensors = {"cnn": 12, "autoencoder": 4, "lstm": 6, "transformer": 17}[other.__name__]
    assert encrypted["reveals"] == {"controller": 2, "owner": n_tensors}


@pytest.mark.slow
def test_another_net_ends_where_clear_training_does(other: ModuleType, tmp_path: Path) -> None:
    summary = other.main(["--json", "--out", str(tmp_path)])
    if other.__name__ == "autoencoder":
        assert abs(summary["difference_percent"]) <= 1
        return
    # roundings are random: a run may end better than the clear one by more than it may end worse
    assert -1 <= summary["difference_points"] <= 2
    assert summary["encrypted"]["accuracy"] >= 0.92
