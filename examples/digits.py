"""A 64-32-10 network learns to read handwritten digits that nobody can see.

scikit-learn's digits (1,797 images of 8 by 8) are shared by their owner; cross-entropy and SGD with momentum train on
the shares, as in plain torch. Revealed are:

    the mean training loss of each epoch, to the controller (not with --no-loss)
    how many test images were recognised, one number, to the controller
    the trained parameters, to the owner of the model alone

The labels are shared as whole numbers, as cross-entropy takes them in plain torch: comparing them with the ten classes
on shares costs 6 % fewer bytes per step than one-hot rows do, whose row sums torch multiplies in its backward pass.
All roles share this process (lockstep), which shows what it costs and hides nothing from whoever runs it.

    python examples/digits.py [--epochs N] [--seed N] [--plain] [--json] [--no-loss] [--parties N]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
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
from sklearn.datasets import load_digits
from torch import Tensor, nn

from torchveil import Session

#: Of 1,797 images; the rest is held back.
N_TRAINING = 1258
EPOCHS = 20
BATCH_SIZE = 32
LEARNING_RATE = 0.05
MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Digits:
    """Images scaled to 0..1 and their digits, to train with and held back."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def digits(seed: int) -> Digits:
    """A public random split, 70 % to train with. Grey levels are 0..16 by the format of the images, not by the data."""
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32) / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, train = order.split([3 * len(x) // 10, len(x) - 3 * len(x) // 10])
    return Digits(x[train], y[train], x[test], y[test])


def network(seed: int) -> nn.Module:
    """64-32-10 with ReLU. Initial weights are public: they say nothing about the data."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def recognised(logits: Tensor, y: Tensor) -> Tensor:
    """How many rows have their largest logit at the label: argmax, equality and sum, all on shares."""
    return (logits.argmax(1) == y).float().sum()


def program(
    session: Session | Clear,
    data: Digits,
    model: nn.Module,
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    options: Options,
    batch_size: int = BATCH_SIZE,
) -> Run:
    """Share, train, test. The same lines for secrets and for plain tensors, and for any classifier of the images."""
    run = Run()
    started = time.perf_counter()
    x, y = session.share(data.x), session.share(data.y)
    x_test, y_test = session.share(data.x_test), session.share(data.y_test)
    model = session.encrypt(model)

    optimizer = make_optimizer(model.parameters())
    loss = nn.CrossEntropyLoss()
    name = "clear" if isinstance(session, Clear) else "encrypted"
    torch.manual_seed(options.seed)  # dropout: its masks are public, and the same for both
    with Meter(name, options.epochs, len(x), session, quiet=options.json) as meter:
        run.losses = fit(model, optimizer, loss, x, y, options, meter, batch_size)

    model.eval()
    with torch.no_grad():
        count = round(float(reveal(recognised(model(x_test), y_test))))
    run.counts = {"recognised": count, "not recognised": len(x_test) - count}
    run.accuracy = count / len(x_test)
    run.seconds = time.perf_counter() - started
    close_account(run, session, meter)
    return run


def compare(
    name: str,
    network: Callable[[int], nn.Module],
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    options: Options,
    batch_size: int = BATCH_SIZE,
) -> dict[str, object]:
    """Train a classifier of the images in clear and encrypted, and report; returns the summary."""
    data = digits(options.seed)
    prepare_torch()
    clear = program(Clear(), data, network(options.seed), make_optimizer, options, batch_size)
    encrypted, told = None, ""
    if not options.plain:
        session = Session(PARTIES[: options.parties], PROVIDER)
        model = network(options.seed)
        encrypted = program(session, data, model, make_optimizer, options, batch_size)
        session.decrypt(model, to=OWNER)
        n_losses = len(encrypted.losses)
        n_tensors = sum(x.is_floating_point() for x in model.state_dict().values())
        encrypted.reveals = check_reveals(session, {"controller": n_losses + 1, OWNER: n_tensors})
        told = (
            f"{len(session.reveals)} reveals, all declared: {n_losses} epoch losses and 1 count to the controller, "
            f"{n_tensors} parameter tensors to the {OWNER}."
        )
    return report(name, f"Digits, {len(data.x)} images to train with", options, clear, encrypted, told)


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run both columns and report; returns the summary that ``--json`` prints."""
    return compare("digits", network, sgd, Options.parse(__doc__.splitlines()[0], argv, epochs=EPOCHS))


if __name__ == "__main__":
    main()
