"""Linear and logistic regression with standard errors, on measures of patients that nobody can see.

Two clinics hold halves of scikit-learn's diabetes data (442 patients, 10 measures, the progress of the disease a year
later). On shares, jointly: every measure is centred and divided by its standard deviation; least squares by the normal
equations; logistic regression of "progress above 140" by Newton's method. Both need ``torch.linalg.solve`` and the
diagonal of an inverse. Revealed are coefficients and standard errors of both models, to the controller: what a paper
would print. All roles share this process (lockstep), which shows what it costs and hides nothing from whoever runs it.

    python examples/regression.py [--plain] [--json] [--parties N] [--newton N]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from common import PARTIES, PROVIDER, Clear, check_reveals, megabytes, reveal
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_diabetes
from torch import Tensor

from torchveil import Session

#: The progress is counted in tens, so that coefficients have magnitudes that 16 digits serve well. Public.
UNIT = 10.0
THRESHOLD = 140.0
NEWTON_STEPS = 6


@dataclass(slots=True)
class Run:
    """What was revealed, and what it cost: per model a coefficient and a standard error, the intercept first."""

    linear: list[float] = field(default_factory=list)
    linear_errors: list[float] = field(default_factory=list)
    logistic: list[float] = field(default_factory=list)
    logistic_errors: list[float] = field(default_factory=list)
    seconds: float = 0.0
    sent_bytes_per_party: int = 0
    dealt_bytes: int = 0
    rounds: int = 0
    reveals: dict[str, int] = field(default_factory=dict)


def clinics() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(measures, progress) of both clinics, as they were taken."""
    data = load_diabetes(scaled=False)
    x = torch.tensor(data.data, dtype=torch.float64)
    y = torch.tensor(data.target, dtype=torch.float64) / UNIT
    half = len(x) // 2
    return (x[:half], y[:half]), (x[half:], y[half:])


def standardised(x: Tensor) -> Tensor:
    """Columns of mean 0 and variance 1, and a column of ones before them."""
    variance, mean = torch.var_mean(x, 0)
    z = (x - mean) / torch.sqrt(variance)
    return torch.cat([torch.ones_like(z[:, :1]), z], 1)


def least_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients and their standard errors: s^2 (X'X)^-1 with the residuals' variance s^2."""
    n, k = x.shape
    # not divided by n: the sums have more digits than means would
    gram = x.T @ x
    coefficients = torch.linalg.solve(gram, x.T @ y)
    residuals = y - x @ coefficients
    variance = (residuals * residuals).sum() / (n - k)
    return coefficients, torch.sqrt(variance * torch.diag(torch.linalg.inv(gram)))


def logistic(x: Tensor, y: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Maximum likelihood by Newton's method, and the standard errors of the information matrix."""
    coefficients = torch.zeros_like(x[0])
    information = torch.zeros_like(x[: x.shape[1]])
    for _ in range(steps):
        p = torch.sigmoid(x @ coefficients)
        weighted = x * (p * (1 - p)).unsqueeze(1)
        information = x.T @ weighted
        coefficients = coefficients + torch.linalg.solve(information, x.T @ (y - p))
    return coefficients, torch.sqrt(torch.diag(torch.linalg.inv(information)))


def program(session: Session | Clear, steps: int) -> Run:
    """Share, fit, reveal. The same lines for secrets and for plain tensors."""
    run = Run()
    started = time.perf_counter()
    shared = [(session.share(x), session.share(y)) for x, y in clinics()]
    x = standardised(torch.cat([x for x, _ in shared]))
    y = torch.cat([y for _, y in shared])
    above = (y > THRESHOLD / UNIT).to(y.dtype)

    fitted = (*least_squares(x, y), *logistic(x, above, steps))
    run.linear, run.linear_errors, run.logistic, run.logistic_errors = (reveal(t).tolist() for t in fitted)
    run.seconds = time.perf_counter() - started
    if isinstance(session, Session):
        cost = session.cost()
        run.sent_bytes_per_party, run.dealt_bytes, run.rounds = cost.sent_bytes, cost.dealt_bytes, cost.rounds
        run.reveals = check_reveals(session, {"controller": 4})
    return run


def largest_difference(clear: Run, encrypted: Run) -> float:
    """Between clear and encrypted coefficients and standard errors, relative to the clear ones."""
    pairs = [
        (a, b)
        for name in ("linear", "linear_errors", "logistic", "logistic_errors")
        for a, b in zip(getattr(clear, name), getattr(encrypted, name), strict=True)
    ]
    return max(abs(a - b) / abs(a) for a, b in pairs)


def table(title: str, names: list[str], clear: tuple[list[float], list[float]], run: Run | None, kind: str) -> Table:
    """Coefficients, standard errors and two-sided p-values."""
    out = Table(title=title, title_justify="left")
    for name in ("", "clear", "encrypted", "std. error", "p"):
        out.add_column(name, justify="left" if not name else "right")
    values, errors = clear
    if run is not None:
        values_found, errors_found = getattr(run, kind), getattr(run, f"{kind}_errors")
    else:
        values_found, errors_found = values, errors
    for name, value, found, error in zip(names, values, values_found, errors_found, strict=True):
        p = math.erfc(abs(found / error) / math.sqrt(2))
        out.add_row(name, f"{value:+.4f}", "-" if run is None else f"{found:+.4f}", f"{error:.4f}", f"{p:.3f}")
    return out


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run both columns and report; returns the summary that ``--json`` prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain", action="store_true", help="run the same program in plain torch only")
    parser.add_argument("--json", action="store_true", help="print a summary in JSON and nothing else")
    parser.add_argument("--parties", type=int, default=2, choices=range(2, len(PARTIES) + 1), help="computing parties")
    parser.add_argument("--newton", type=int, default=NEWTON_STEPS, help="steps of the logistic fit")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    clear = program(Clear(), options.newton)
    encrypted = None
    if not options.plain:
        encrypted = program(Session(PARTIES[: options.parties], PROVIDER), options.newton)
    summary: dict[str, object] = {
        "example": "regression",
        "clear": asdict(clear),
        "encrypted": None if encrypted is None else asdict(encrypted),
        "largest_relative_difference": None if encrypted is None else largest_difference(clear, encrypted),
    }
    if options.json:
        json.dump(summary, sys.stdout, indent=2)
        print()
        return summary
    console = Console()
    names = ["intercept", *load_diabetes().feature_names]
    linear, logit = (clear.linear, clear.linear_errors), (clear.logistic, clear.logistic_errors)
    console.print(table("Progress in tens, least squares", names, linear, encrypted, "linear"))
    console.print(table(f"Progress above {THRESHOLD:g}, logistic", names, logit, encrypted, "logistic"))
    if encrypted is not None:
        console.print(
            f"Largest difference {100 * float(str(summary['largest_relative_difference'])):.2f} %. "
            f"{encrypted.seconds:.2f} s ({clear.seconds:.3f} s in the clear), {encrypted.rounds} rounds, "
            f"{megabytes(encrypted.sent_bytes_per_party)} MB sent by each party, "
            f"{megabytes(encrypted.dealt_bytes)} MB dealt; 4 reveals, all declared.",
            highlight=False,
        )
    return summary


if __name__ == "__main__":
    main()
