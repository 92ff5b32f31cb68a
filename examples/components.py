"""Principal components and clusters of flowers that nobody can see.

scikit-learn's iris (150 flowers, 4 lengths, 3 species) are shared by their owner. On shares: the covariance, its two
principal components by orthogonal iteration (``cholesky`` and ``solve_triangular`` keep them orthogonal), the flowers'
coordinates along them, and k-means in that plane: distances (``cdist``), the nearest centre (``argmin``), means over
one-hot rows. The first centres are quantiles of the first coordinate, found by sorting on shares. Revealed, to the
controller: the components, their variances, the centres, and how many flowers of each species each cluster has.
All roles share this process (lockstep), which shows what it costs and hides nothing from whoever runs it.

    python examples/components.py [--plain] [--json] [--parties N] [--iterations N]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from common import PARTIES, PROVIDER, Clear, check_reveals, megabytes, reveal
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_iris
from torch import Tensor
from torch.nn.functional import one_hot

from torchveil import Session

COMPONENTS = 2
CLUSTERS = 3
ITERATIONS = 10


@dataclass(slots=True)
class Run:
    """What was revealed, and what it cost."""

    components: list[list[float]] = field(default_factory=list)
    variances: list[float] = field(default_factory=list)
    centres: list[list[float]] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0
    sent_bytes_per_party: int = 0
    dealt_bytes: int = 0
    rounds: int = 0
    reveals: dict[str, int] = field(default_factory=dict)


def principal(covariance: Tensor, iterations: int) -> Tensor:
    """An orthonormal basis [features, COMPONENTS] of the largest variances, by orthogonal iteration."""
    basis = covariance[:, :COMPONENTS]
    for _ in range(iterations):
        basis = covariance @ orthonormal(basis)
    return orthonormal(basis)


def orthonormal(x: Tensor) -> Tensor:
    """The same columns, orthonormal: X L^-T with X'X = L L'."""
    lower = torch.linalg.cholesky(x.T @ x)
    return torch.linalg.solve_triangular(lower, x.T, upper=False).T


def cluster(points: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """(centres, the cluster of each point): Lloyd's algorithm, from quantiles along the first coordinate."""
    ranks = (torch.arange(CLUSTERS) + 0.5) / CLUSTERS
    first = torch.quantile(points[:, 0], ranks.to(points.dtype)).unsqueeze(1)
    centres = torch.cat([first, torch.zeros_like(first)], 1)
    nearest = torch.cdist(points, centres).argmin(1)
    for _ in range(iterations):
        rows = one_hot(nearest, CLUSTERS).to(points.dtype)
        centres = rows.T @ points / rows.sum(0).unsqueeze(1)
        nearest = torch.cdist(points, centres).argmin(1)
    return centres, nearest


def program(session: Session | Clear, iterations: int) -> Run:
    """Share, project, cluster, reveal. The same lines for secrets and for plain tensors."""
    run = Run()
    started = time.perf_counter()
    data = load_iris()
    x = session.share(torch.tensor(data.data, dtype=torch.float32))
    species = session.share(torch.tensor(data.target))

    centred = x - x.mean(0)
    covariance = centred.T @ centred / (len(x) - 1)
    basis = principal(covariance, iterations)
    variances = torch.diag(basis.T @ covariance @ basis)
    centres, nearest = cluster(centred @ basis, iterations)
    counts = one_hot(nearest, CLUSTERS).float().T @ one_hot(species, CLUSTERS).float()

    run.components = reveal(basis.T).tolist()
    run.variances = reveal(variances).tolist()
    run.centres = reveal(centres).tolist()
    run.counts = reveal(counts).round().int().tolist()
    run.seconds = time.perf_counter() - started
    if isinstance(session, Session):
        cost = session.cost()
        run.sent_bytes_per_party, run.dealt_bytes, run.rounds = cost.sent_bytes, cost.dealt_bytes, cost.rounds
        run.reveals = check_reveals(session, {"controller": 4})
    return run


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run both columns and report; returns the summary that ``--json`` prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain", action="store_true", help="run the same program in plain torch only")
    parser.add_argument("--json", action="store_true", help="print a summary in JSON and nothing else")
    parser.add_argument("--parties", type=int, default=2, choices=range(2, len(PARTIES) + 1), help="computing parties")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="of either algorithm")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    clear = program(Clear(), options.iterations)
    encrypted = None
    if not options.plain:
        encrypted = program(Session(PARTIES[: options.parties], PROVIDER), options.iterations)
    summary: dict[str, object] = {
        "example": "components",
        "clear": asdict(clear),
        "encrypted": None if encrypted is None else asdict(encrypted),
    }
    if options.json:
        json.dump(summary, sys.stdout, indent=2)
        print()
        return summary
    out = Table(title="Iris: components, centres, and species in each cluster", title_justify="left")
    runs = [clear] if encrypted is None else [clear, encrypted]
    out.add_column("")
    for name in ("clear", "encrypted")[: len(runs)]:
        out.add_column(name, justify="right")
    for k in range(COMPONENTS):
        out.add_row(f"component {k + 1}", *(" ".join(f"{v:+.3f}" for v in run.components[k]) for run in runs))
        out.add_row("its variance", *(f"{run.variances[k]:.3f}" for run in runs))
    for k in range(CLUSTERS):
        out.add_row(f"centre {k + 1}", *(" ".join(f"{v:+.3f}" for v in run.centres[k]) for run in runs))
        out.add_row("its species", *(" ".join(f"{v}" for v in run.counts[k]) for run in runs))
    console = Console()
    console.print(out)
    if encrypted is not None:
        console.print(
            f"{encrypted.seconds:.2f} s ({clear.seconds:.3f} s in the clear), {encrypted.rounds} rounds, "
            f"{megabytes(encrypted.sent_bytes_per_party)} MB sent by each party, "
            f"{megabytes(encrypted.dealt_bytes)} MB dealt; 4 reveals, all declared.",
            highlight=False,
        )
    return summary


if __name__ == "__main__":
    main()
