"""How the cost of a training step grows with the batch and with the parameters: time, bytes, rounds; JSON and a plot.

    python -m benchmarks.scaling [--repeats 9] [--parties 2] [--json out/scaling.json] [--plot out/scaling.svg]

A step of 64-h-10 with relu, cross-entropy and SGD, a fresh batch each time. First the batch grows at h = 64, then h at
a batch of 64, and with it the parameters, 75 h + 10. Bytes must be affine in either, exactly, and rounds the same for
all sizes: the program ends with 1 otherwise. Times are medians; clear torch runs in turn with the encrypted step. The
part of a step that does not grow is Python, so time per sample falls until the arithmetic outweighs it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from torchveil import Session

FEATURES, CLASSES = 64, 10
BATCHES = (256, 512, 1024, 2048, 4096)
WIDTHS = (128, 256, 512, 1024, 2048)
FIXED = 64  # of what does not grow
WARMUP = 2


@dataclass(frozen=True)
class Point:
    """What a step costs at one size: ``size`` samples or parameters."""

    size: int
    batch: int
    width: int
    seconds: float
    plain_seconds: float
    rounds: int
    sent_bytes: int
    dealt_bytes: int


def parameters(width: int) -> int:
    """Numbers in the weights and biases of 64-width-10."""
    return (FEATURES + 1) * width + (width + 1) * CLASSES


def stepper(width: int, batch: int, session: Session | None) -> Callable[[], None]:
    """A training step with a fresh batch, encrypted in a session or clear."""
    net = nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, CLASSES))
    share: Callable[[Tensor], Tensor] = (lambda x: x) if session is None else session.share
    if session is not None:
        session.encrypt(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    labels = functional.one_hot(torch.arange(batch) % CLASSES, CLASSES).float()

    def step() -> None:
        loss = functional.cross_entropy(net(share(torch.rand(batch, FEATURES))), share(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds_of(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


class Measured:
    """One size: its session, its encrypted and its clear step, and what they took so far."""

    def __init__(self, size: int, batch: int, width: int, parties: int) -> None:
        self.size, self.batch, self.width = size, batch, width
        self.session = Session([f"party{k}" for k in range(parties)], "provider")
        self.encrypted, self.clear = stepper(width, batch, self.session), stepper(width, batch, None)
        self.seconds: list[float] = []
        self.plain: list[float] = []
        self.before = self.session.cost().total

    def run(self) -> None:
        self.before = self.session.cost().total
        self.seconds.append(seconds_of(self.encrypted))
        self.plain.append(seconds_of(self.clear))

    def point(self, warmup: int) -> Point:
        """Medians of what came after ``warmup`` steps; rounds and bytes of the last."""
        after = self.session.cost().total
        return Point(
            self.size,
            self.batch,
            self.width,
            statistics.median(self.seconds[warmup:]),
            statistics.median(self.plain[warmup:]),
            after.rounds - self.before.rounds,
            after.sent - self.before.sent,
            after.dealt - self.before.dealt,
        )


def measure(sizes: Sequence[tuple[int, int, int]], *, parties: int, repeats: int) -> list[Point]:
    """A point for each (size, batch, width). The sizes take turns, so that a busy moment meets all of them."""
    torch.manual_seed(0)
    running = [Measured(*size, parties) for size in sizes]
    for _ in range(WARMUP + repeats):
        for one in running:
            one.run()
    points = [one.point(WARMUP) for one in running]
    for one in running:
        one.session.close()
    return points


def affine(sizes: Sequence[int], values: Sequence[int]) -> bool:
    """Whether integers lie on one line, exactly."""
    rise, run = values[-1] - values[0], sizes[-1] - sizes[0]
    return all((v - values[0]) * run == rise * (s - sizes[0]) for s, v in zip(sizes, values, strict=True))


def faults(points: Sequence[Point]) -> list[str]:
    """What does not grow as it should; empty when all does."""
    sizes = [point.size for point in points]
    out = []
    for name in ("sent_bytes", "dealt_bytes"):
        values = [int(getattr(point, name)) for point in points]
        if not affine(sizes, values):
            out.append(f"{name} {values} are not on a line over {sizes}")
    rounds = [point.rounds for point in points]
    if len(set(rounds)) != 1:
        out.append(f"rounds {rounds} change over {sizes}")
    return out


def show(title: str, points: Sequence[Point], console: Console) -> None:
    """A table of one series."""
    table = Table(title=title)
    for column in ("size", "encrypted", "clear", "ratio", "µs/unit", "rounds", "sent", "dealt"):
        table.add_column(column, justify="right", no_wrap=True)
    for p in points:
        table.add_row(
            str(p.size),
            f"{p.seconds * 1e3:.1f} ms",
            f"{p.plain_seconds * 1e3:.2f} ms",
            f"{p.seconds / p.plain_seconds:.0f}",
            f"{p.seconds / p.size * 1e6:.2f}",
            str(p.rounds),
            f"{p.sent_bytes / 1e6:.2f} MB",
            f"{p.dealt_bytes / 1e6:.2f} MB",
        )
    console.print(table)


def plot(series: dict[str, list[Point]], path: Path) -> None:
    """Time on the left, bytes on the right, a row per series; the suffix says the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(series), 2, figsize=(9, 3.4 * len(series)), squeeze=False)
    for (name, points), (left, right) in zip(series.items(), axes, strict=True):
        sizes = [p.size for p in points]
        left.plot(sizes, [p.seconds * 1e3 for p in points], "o-", label="encrypted")
        left.plot(sizes, [p.plain_seconds * 1e3 for p in points], "s--", label="clear torch")
        left.set_ylabel("ms per step")
        right.plot(sizes, [p.sent_bytes / 1e6 for p in points], "o-", label="sent by a party")
        right.plot(sizes, [p.dealt_bytes / 1e6 for p in points], "s--", label="dealt")
        right.set_ylabel("MB per step")
        right.set_title(f"{points[0].rounds} rounds at every size", fontsize=9)
        for axis in (left, right):
            axis.set_xlabel(name)
            axis.set_xlim(left=0)
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
            axis.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--parties", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        default=BATCHES,
        help="powers of two from 8 on: a mean over another number is one more rounding",
    )
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of the hidden layer")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--plot", type=Path, default=None, help="an .svg, .png or .pdf; needs matplotlib")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    console, load = Console(), os.getloadavg()[0]
    console.print(f"torch {torch.__version__}, {options.threads} threads, {platform.machine()}, load {load:.2f}")
    how = {"parties": options.parties, "repeats": options.repeats}
    series = {
        "samples in a batch": measure([(batch, batch, FIXED) for batch in options.batches], **how),
        "parameters": measure([(parameters(width), FIXED, width) for width in options.widths], **how),
    }
    wrong = []
    for name, points in series.items():
        show(f"{name}: a step of 64-h-10, {options.parties} parties, medians of {options.repeats}", points, console)
        wrong += [f"{name}: {fault}" for fault in faults(points)]
    if options.json:
        rows = {name: [asdict(point) for point in points] for name, points in series.items()}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        document = {"load": load, "torch": torch.__version__, **how, "linear": not wrong, "series": rows}
        options.json.write_text(json.dumps(document, indent=1))
    if options.plot:
        plot(series, options.plot)
    for fault in wrong:
        console.print(f"NOT LINEAR: {fault}", style="bold red")
    if not wrong:
        console.print("bytes are affine in both, exactly; rounds do not change")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
