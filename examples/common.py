"""What the examples share: options, the clear twin of a session, progress, accounts, tables and pictures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn

from torchveil import EncryptedTensor, Session

#: The first ones compute; nobody here is the provider, who deals correlated randomness and must be independent.
PARTIES = ("northside", "southside", "university", "registry", "ministry")
PROVIDER = "notary"

#: The model belongs to whoever ordered the training; it alone receives the parameters.
OWNER = "owner"


class Clear:
    """A session that hides nothing: the same program in plain torch, for comparison and for ``--plain``."""

    def share(self, x: Tensor) -> Tensor:
        return x

    def encrypt(self, module: nn.Module) -> nn.Module:
        return module


def reveal(x: Tensor) -> Tensor:
    """A clear value: of a secret by an explicit, counted reveal; a plain tensor is one already."""
    return x.reveal() if isinstance(x, EncryptedTensor) else x


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    epochs: int
    seed: int
    plain: bool
    json: bool
    show_loss: bool
    parties: int
    out: Path

    @classmethod
    def parse(cls, description: str, argv: Sequence[str] | None, *, epochs: int) -> Options:
        parser = argparse.ArgumentParser(description=description)
        add = parser.add_argument
        add("--epochs", type=_positive, default=epochs, help="passes over the training data (default: %(default)s)")
        add("--seed", type=int, default=0, help="initial weights, split and batch order; all public (default: 0)")
        add("--plain", action="store_true", help="run the same program in plain torch only")
        add("--json", action="store_true", help="print a summary in JSON and nothing else")
        add("--parties", type=int, default=2, choices=range(2, len(PARTIES) + 1), help="computing parties (default: 2)")
        add("--out", type=Path, default=Path("out"), help="folder of the picture (default: out)")
        loss = parser.add_mutually_exclusive_group()
        loss.add_argument(
            "--show-loss", action="store_true", default=True, help="reveal the mean loss of each epoch (the default)"
        )
        loss.add_argument("--no-loss", dest="show_loss", action="store_false", help="reveal nothing while training")
        return cls(**vars(parser.parse_args(argv)))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


@dataclass(slots=True)
class Run:
    """What is known about a run afterwards: what was revealed, and what it cost."""

    losses: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    accuracy: float | None = None
    error: float | None = None
    seconds: float = 0.0
    samples_per_second: float = 0.0
    sent_bytes_per_party: int = 0
    dealt_bytes: int = 0
    rounds: int = 0
    reveals: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


class Meter:
    """A progress bar with samples per second, traffic and rounds; shows a loss only if it is given one."""

    def __init__(self, name: str, epochs: int, n_samples: int, session: Session | Clear, quiet: bool) -> None:
        self.session = session
        self.epochs = epochs
        self.n_samples = n_samples
        self.seen = 0
        self.started = time.perf_counter()
        self.progress = Progress(
            TextColumn(f"{name:<9}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self.task = self.progress.add_task("", total=epochs * n_samples, facts="")
        self.facts = self.loss = ""

    def __enter__(self) -> Meter:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, n_samples: int) -> None:
        """After every batch."""
        self.seen += n_samples
        self.facts = f"{self.seen / (time.perf_counter() - self.started):.0f} samples/s"
        if isinstance(self.session, Session):
            cost = self.session.cost()
            self.facts += f" {megabytes(cost.sent_bytes + cost.dealt_bytes)} MB {cost.rounds} rounds"
        self._update(n_samples)

    def show(self, loss: float) -> None:
        """After every epoch whose loss was revealed."""
        self.loss = f" loss {loss:.4f}"
        self._update(0)

    def _update(self, n_samples: int) -> None:
        self.progress.update(self.task, advance=n_samples, facts=self.facts + self.loss)


def prepare_torch() -> None:
    """Before a clock runs: one thread, and the imports of an optimizer's first step (a second's worth).

    The tensors are small; a second thread would mostly wait for the first.
    """
    torch.set_num_threads(1)
    x = torch.ones(1, requires_grad=True)
    x.sum().backward()
    optimizer = torch.optim.Adam([x])
    optimizer.step()
    optimizer.zero_grad()


def batches(n_samples: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Index tensors of one epoch: a public shuffle, the same for the clear and the encrypted run."""
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    yield from torch.randperm(n_samples, generator=generator).split(batch_size)


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    options: Options,
    meter: Meter,
    batch_size: int,
) -> list[float]:
    """Ordinary torch, whatever the tensors are. One reveal per epoch if the loss is asked for, none otherwise."""
    show_loss = options.show_loss or not isinstance(x, EncryptedTensor)
    losses = []
    for epoch in range(options.epochs):
        epoch_loss: Tensor | float = 0.0
        for batch in batches(len(x), batch_size, options.seed, epoch):
            optimizer.zero_grad()
            loss = loss_function(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            if show_loss:
                epoch_loss = epoch_loss + loss.detach() * (len(batch) / len(x))
            meter.advance(len(batch))
        if isinstance(epoch_loss, Tensor):
            losses.append(float(reveal(epoch_loss)))
            meter.show(losses[-1])
    return losses


def falling(optimizer: torch.optim.Optimizer, n_steps: int) -> torch.optim.Optimizer:
    """The optimizer, its learning rate (a public number) falling to a tenth over so many steps."""
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, n_steps)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def averaging(optimizer: torch.optim.Optimizer, n_steps: int, every: int, count: int) -> torch.optim.Optimizer:
    """The optimizer; after ``n_steps`` its parameters are their mean over the last ``count`` epochs of ``every`` steps.

    Sums of shares are local, and the mean is one truncation at the end. Two runs that differ by roundings alone end at
    different points of one valley; their means are nearer to each other than their ends.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sums: list[Tensor] = []
    done = 0

    @torch.no_grad()
    def after_step(*_: object) -> None:
        nonlocal done, sums
        done += 1
        left = n_steps - done
        if left % every or not 0 <= left < count * every:
            return
        sums = [s + p for s, p in zip(sums, parameters, strict=True)] if sums else [p.clone() for p in parameters]
        if not left:
            taken = min(count, done // every)
            for parameter, total in zip(parameters, sums, strict=True):
                parameter.copy_(total / taken)

    optimizer.register_step_post_hook(after_step)
    return optimizer


# --- accounts --------------------------------------------------------------------------------------------------------


def check_reveals(session: Session, declared: dict[str, int]) -> dict[str, int]:
    """The reveals of a session by receiver; an undeclared one ends the program."""
    happened = dict(Counter(record.receiver for record in session.reveals))
    if happened != {receiver: count for receiver, count in declared.items() if count}:
        lines = "\n".join(f"  to {record.receiver}: {record.shape} at {record.line}" for record in session.reveals)
        raise SystemExit(f"declared reveals {declared}, but these happened:\n{lines}")
    return happened


def close_account(run: Run, session: Session | Clear, meter: Meter) -> None:
    """Note costs in a run."""
    run.samples_per_second = meter.seen / run.seconds if run.seconds else 0.0
    if isinstance(session, Session):
        cost = session.cost()
        run.sent_bytes_per_party, run.dealt_bytes, run.rounds = cost.sent_bytes, cost.dealt_bytes, cost.rounds


def megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f}"


def table(title: str, clear: Run, encrypted: Run | None) -> Table:
    """Clear beside encrypted."""
    out = Table(title=title, title_justify="left", min_width=50)
    out.add_column("")
    runs = [clear] if encrypted is None else [clear, encrypted]
    for name in ("clear", "encrypted")[: len(runs)]:
        out.add_column(name, justify="right")
    if clear.accuracy is not None:
        out.add_row("test accuracy", *(f"{100 * (run.accuracy or 0):.2f} %" for run in runs))
    if clear.error is not None:
        out.add_row("test error", *(f"{run.error:.6f}" for run in runs))
    for name in clear.counts:
        out.add_row(name, *(str(run.counts[name]) for run in runs))
    out.add_row("last loss", *(f"{run.losses[-1]:.5f}" if run.losses else "not revealed" for run in runs))
    out.add_row("time", *(f"{run.seconds:.2f} s" for run in runs))
    out.add_row("samples/s", *(f"{run.samples_per_second:.0f}" for run in runs))
    if encrypted is not None:
        out.add_row("sent by each party", "-", f"{megabytes(encrypted.sent_bytes_per_party)} MB")
        out.add_row("dealt by the provider", "-", f"{megabytes(encrypted.dealt_bytes)} MB")
        out.add_row("rounds between parties", "-", str(encrypted.rounds))
    return out


def plot(path: Path, title: str, clear: Run, encrypted: Run | None) -> None:
    """Both loss curves as a PNG; an encrypted loss that was never revealed cannot be drawn, and the picture says so."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    if clear.losses:
        axes.plot(range(1, len(clear.losses) + 1), clear.losses, color="tab:gray", linewidth=4, label="clear")
    if encrypted is not None and encrypted.losses:
        axes.plot(range(1, len(encrypted.losses) + 1), encrypted.losses, color="tab:red", label="encrypted")
    elif encrypted is not None:
        axes.plot([], [], color="tab:red", label="encrypted: never revealed")
    axes.set(xlabel="epoch", ylabel="mean training loss", title=title, ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _difference(clear: float | None, encrypted: float | None, unit: float | None) -> float | None:
    """How much more ``encrypted`` is than ``clear``, in hundredths of ``unit``."""
    return None if clear is None or encrypted is None or not unit else 100 * (encrypted - clear) / unit


def report(name: str, title: str, options: Options, clear: Run, encrypted: Run | None, told: str) -> dict[str, object]:
    """Draw the curves, print the table (or the summary in JSON), and return the summary."""
    picture = options.out / f"{name}.png"
    plot(picture, title, clear, encrypted)
    summary: dict[str, object] = {
        "example": name,
        "epochs": options.epochs,
        "seed": options.seed,
        "parties": options.parties,
        "clear": clear.as_json(),
        "encrypted": None if encrypted is None else encrypted.as_json(),
        "difference_points": _difference(clear.accuracy, None if encrypted is None else encrypted.accuracy, 1),
        "difference_percent": _difference(clear.error, None if encrypted is None else encrypted.error, clear.error),
        "picture": str(picture),
    }
    if options.json:
        json.dump(summary, sys.stdout, indent=2)
        print()
        return summary
    console = Console()
    console.print(table(title, clear, encrypted))
    if encrypted is not None:
        console.print(told, highlight=False)
    console.print(f"Loss curves: {picture}", highlight=False)
    return summary
