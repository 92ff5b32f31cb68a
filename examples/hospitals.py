"""Two hospitals train a tumour classifier together; neither sees the records or statistics of the other, nor the model.

Each holds a part of scikit-learn's breast-cancer data: the northside hospital screens (mostly benign tumours), the
southside one treats (mostly malignant, and fewer). Every number is split into secret shares before it leaves its
hospital. On shares they compute means and variances over both parts, standardise, train a small network with Adam, and
test it. Revealed are:

    the mean training loss of each epoch, to the controller (not with --no-loss)
    the four counts of the confusion matrix, to the controller
    the trained parameters, to the owner of the model alone

Every value passes through torch's own modules, loss and optimizer; ``program`` below runs in plain torch as well, which
is how the two columns of the final table come about: same initial weights, same batches. All roles share this process
(lockstep), which shows what it costs and hides nothing from whoever runs it.

    python examples/hospitals.py [--epochs N] [--seed N] [--plain] [--json] [--no-loss] [--parties N]
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from common import (
    OWNER,
    PARTIES,
    PROVIDER,
    Clear,
    Meter,
    Options,
    Run,
    check_reveals,
    close_account,
    fit,
    prepare_torch,
    report,
    reveal,
)
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

from torchveil import Session

EPOCHS = 15
BATCH_SIZE = 64
LEARNING_RATE = 0.01
HIDDEN = 16

# Upper bounds that a doctor could name without having seen these records, so scaling by them tells nothing about
# anybody: a cell nucleus has a radius below 50 (in the units of the microscope's image), which bounds perimeter and
# area; the texture is a standard deviation of grey levels 0..255, at most 128; the others are ratios of order one.
# The data hold each measure as mean, standard error and worst case; an error is taken as a tenth at most. Nothing is
# cut off: a larger value only becomes a number above 1. All that matters is that squares fit the ring.
RADIUS = 50.0
MAXIMA = torch.tensor([RADIUS, 128.0, 2 * math.pi * RADIUS, math.pi * RADIUS**2, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0])
SCALE = torch.cat([MAXIMA, MAXIMA / 10, MAXIMA])


@dataclass(frozen=True, slots=True)
class Hospital:
    """What one hospital holds: records to train with and records held back; 1 is malignant."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def hospitals(seed: int) -> list[Hospital]:
    """The northside hospital with a quarter malignant, the southside one, half as large, with two thirds malignant."""
    data = load_breast_cancer()
    x = torch.tensor(data.data, dtype=torch.float32) / SCALE
    y = torch.tensor(data.target == 0, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    malignant, benign = (order[y[order] == value] for value in (1, 0))
    n_south = (len(malignant) * 120 // 212, len(benign) * 60 // 357)
    south = torch.cat([malignant[: n_south[0]], benign[: n_south[1]]])
    north = torch.cat([malignant[n_south[0] :], benign[n_south[1] :]])
    return [_hold_back(x, y, rows[torch.randperm(len(rows), generator=generator)]) for rows in (north, south)]


def _hold_back(x: Tensor, y: Tensor, rows: Tensor) -> Hospital:
    test, train = rows.split([3 * len(rows) // 10, len(rows) - 3 * len(rows) // 10])
    return Hospital(x[train], y[train], x[test], y[test])


def network(seed: int) -> nn.Module:
    """30-16-1 with ReLU. Initial weights are public: they say nothing about the data."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(30, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1), nn.Flatten(0))


def statistics(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of each column over all parts, as shares when the parts are."""
    count = sum(len(part) for part in parts)
    mean = sum(part.sum(0) for part in parts) / count
    variance = sum(((part - mean) ** 2).sum(0) for part in parts) / count
    return mean, torch.rsqrt(variance)


def confusion(logits: Tensor, y: Tensor) -> Tensor:
    """[true positives, false positives, false negatives, true negatives], as one tensor."""
    guess = (logits > 0).float()
    hits, guesses, positives = (guess * y).sum(), guess.sum(), y.sum()
    return torch.stack([hits, guesses - hits, positives - hits, len(y) - guesses - positives + hits])


def shared(session: Session | Clear, part: Hospital) -> Hospital:
    """The records of a hospital as shares."""
    return Hospital(*(session.share(getattr(part, name)) for name in Hospital.__slots__))


def program(session: Session | Clear, parts: list[Hospital], model: nn.Module, options: Options) -> Run:
    """Standardise, train, test. The same lines for secrets and for plain tensors."""
    run = Run()
    started = time.perf_counter()
    model = session.encrypt(model)

    mean, inverse_deviation = statistics([part.x for part in parts])
    x = torch.cat([(part.x - mean) * inverse_deviation for part in parts])
    x_test = torch.cat([(part.x_test - mean) * inverse_deviation for part in parts])
    y, y_test = torch.cat([part.y for part in parts]), torch.cat([part.y_test for part in parts])

    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    loss = nn.BCEWithLogitsLoss()
    name = "clear" if isinstance(session, Clear) else "encrypted"
    with Meter(name, options.epochs, len(x), session, quiet=options.json) as meter:
        run.losses = fit(model, optimizer, loss, x, y, options, meter, BATCH_SIZE)

    with torch.no_grad():
        counts = [round(count) for count in reveal(confusion(model(x_test), y_test)).tolist()]
    run.counts = dict(zip(("true malignant", "false malignant", "false benign", "true benign"), counts, strict=True))
    run.accuracy = (counts[0] + counts[3]) / sum(counts)
    run.seconds = time.perf_counter() - started
    close_account(run, session, meter)
    return run


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run both columns and report; returns the summary that ``--json`` prints."""
    options = Options.parse(__doc__.splitlines()[0], argv, epochs=EPOCHS)
    parts = hospitals(options.seed)
    prepare_torch()
    clear = program(Clear(), parts, network(options.seed), options)
    encrypted, told = None, ""
    if not options.plain:
        session = Session(PARTIES[: options.parties], PROVIDER)
        model = network(options.seed)
        encrypted = program(session, [shared(session, part) for part in parts], model, options)
        session.decrypt(model, to=OWNER)
        n_losses, n_parameters = len(encrypted.losses), len(list(model.parameters()))
        encrypted.reveals = check_reveals(session, {"controller": n_losses + 1, OWNER: n_parameters})
        told = (
            f"{len(session.reveals)} reveals, all declared: {n_losses} epoch losses and 1 confusion matrix to the "
            f"controller, {n_parameters} parameter tensors to the {OWNER}."
        )
    sizes = " and ".join(str(len(part.x)) for part in parts)
    return report("hospitals", f"Two hospitals with {sizes} records to train", options, clear, encrypted, told)


if __name__ == "__main__":
    main()
