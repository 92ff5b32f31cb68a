"""An autoencoder with one hidden layer learns to describe handwritten digits by 16 numbers; nobody sees an image.

The images and the split are those of digits.py. Squared error, summed over the pixels of an image, and Adam train
64-16-64 on shares. (Summed, not averaged: Adam does not care, but gradients are 64 times as many units of the fixed
point.) Revealed are:

    the mean training loss of each epoch, to the controller (not with --no-loss)
    the mean squared error on the test images, one number, to the controller
    the trained parameters, to the owner of the model alone

    python examples/autoencoder.py [--epochs N] [--seed N] [--plain] [--json] [--no-loss] [--parties N]
"""

from __future__ import annotations

import time
from collections.abc import Sequence

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
from digits import digits
from torch import Tensor, nn

from torchveil import Session

EPOCHS = 10
BATCH_SIZE = 64
LEARNING_RATE = 0.01


def network(seed: int) -> nn.Module:
    """64-16-64. Initial weights are public: they say nothing about the data."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64))


def per_image(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean over images of the squared error of an image."""
    return nn.functional.mse_loss(found, wanted, reduction="sum") / len(wanted)


def program(session: Session | Clear, x: Tensor, x_test: Tensor, model: nn.Module, options: Options) -> Run:
    """Share, train, test. The same lines for secrets and for plain tensors."""
    run = Run()
    started = time.perf_counter()
    x, x_test = session.share(x), session.share(x_test)
    model = session.encrypt(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, foreach=True)  # all at once: fewer rounds
    name = "clear" if isinstance(session, Clear) else "encrypted"
    with Meter(name, options.epochs, len(x), session, quiet=options.json) as meter:
        run.losses = fit(model, optimizer, per_image, x, x, options, meter, BATCH_SIZE)
    with torch.no_grad():
        run.error = float(reveal(nn.functional.mse_loss(model(x_test), x_test)))
    run.seconds = time.perf_counter() - started
    close_account(run, session, meter)
    return run


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run both columns and report; returns the summary that ``--json`` prints."""
    options = Options.parse(__doc__.splitlines()[0], argv, epochs=EPOCHS)
    data = digits(options.seed)
    prepare_torch()
    clear = program(Clear(), data.x, data.x_test, network(options.seed), options)
    encrypted, told = None, ""
    if not options.plain:
        session = Session(PARTIES[: options.parties], PROVIDER)
        model = network(options.seed)
        encrypted = program(session, data.x, data.x_test, model, options)
        session.decrypt(model, to=OWNER)
        n_losses, n_parameters = len(encrypted.losses), len(list(model.parameters()))
        encrypted.reveals = check_reveals(session, {"controller": n_losses + 1, OWNER: n_parameters})
        told = (
            f"{len(session.reveals)} reveals, all declared: {n_losses} epoch losses and 1 test error to the "
            f"controller, {n_parameters} parameter tensors to the {OWNER}."
        )
    return report("autoencoder", f"Autoencoder, {len(data.x)} images to train with", options, clear, encrypted, told)


if __name__ == "__main__":
    main()
