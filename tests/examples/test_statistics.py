"""Regression, principal components and clusters: what they reveal, and that it is what the clear data would give."""

from __future__ import annotations

import importlib
import json
from types import ModuleType

import pytest
import torch

from tests.examples.test_examples import ROOT


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module(name)


def test_regression_within_a_percent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Coefficients and standard errors of both models; also against formulas that invert in the clear."""
    regression = load("regression", monkeypatch)
    summary = regression.main(["--json", "--newton", "4"])
    assert json.loads(capsys.readouterr().out) == summary
    clear, encrypted = summary["clear"], summary["encrypted"]
    found, clearly = (
        torch.tensor(
            [run[name] for name in ("linear", "linear_errors", "logistic", "logistic_errors")], dtype=torch.float64
        )
        for run in (encrypted, clear)
    )
    # a coefficient ends some units off: the logistic intercept, .0043, is 283 units, of which three are a percent
    assert bool(((found - clearly).abs() <= 0.01 * clearly.abs() + 8 * 2.0**-16).all())
    largest = float(((found - clearly) / clearly).abs().max())
    assert summary["largest_relative_difference"] == pytest.approx(largest)
    assert encrypted["reveals"] == {"controller": 4} and clear["reveals"] == {}
    x = torch.cat([x for x, _ in regression.clinics()])
    y = torch.cat([y for _, y in regression.clinics()])
    z = torch.cat([torch.ones(len(x), 1), (x - x.mean(0)) / x.std(0)], 1)
    wanted = torch.linalg.lstsq(z, y).solution
    error = torch.tensor(encrypted["linear"], dtype=torch.float64) - wanted
    assert bool((error.abs() <= 0.01 * wanted.abs()).all())
    spread = ((y - z @ wanted) ** 2).sum() / (len(x) - 11) * torch.linalg.inv(z.T @ z).diagonal()
    error = torch.tensor(encrypted["linear_errors"], dtype=torch.float64) - spread.sqrt()
    assert bool((error.abs() <= 0.01 * spread.sqrt()).all())


def test_components_and_clusters(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    components = load("components", monkeypatch)
    summary = components.main(["--iterations", "6"])
    assert "4 reveals" in " ".join(capsys.readouterr().out.split())
    clear, encrypted = summary["clear"], summary["encrypted"]
    assert encrypted["reveals"] == {"controller": 4}
    for name, tolerance in (("components", 2e-3), ("variances", 2e-3), ("centres", 2e-2)):
        assert torch.allclose(torch.tensor(encrypted[name]), torch.tensor(clear[name]), atol=tolerance)
    counts = torch.tensor(encrypted["counts"])
    assert counts.sum(0).tolist() == [50, 50, 50]
    assert (counts - torch.tensor(clear["counts"])).abs().sum() <= 2  # a flower between two centres may change sides
    assert counts.max(1).values.sum() >= 130


def test_plain_runs_without_a_session(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("regression", "components"):
        summary = load(name, monkeypatch).main(["--plain"])
        assert summary["encrypted"] is None
        assert "clear" in capsys.readouterr().out
