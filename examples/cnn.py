"""A convolutional network with batch norm, pooling and dropout, trained by Adam on handwritten digits nobody can see.

The images, the split, what is revealed and to whom are those of digits.py; the running statistics of the batch norms
stay encrypted as the parameters do, and belong to the owner of the model. Dropout masks are public: they are drawn
without looking at data.

    python examples/cnn.py [--epochs N] [--seed N] [--plain] [--json] [--no-loss] [--parties N]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from common import Options
from digits import compare
from torch import nn

EPOCHS = 8
BATCH_SIZE = 64
LEARNING_RATE = 0.005


def network(seed: int) -> nn.Module:
    """Two convolutions of 3 x 3, each with batch norm, ReLU and pooling; rows of 64 pixels come in as images.

    As usual in front of a batch norm the convolutions have no bias. It would have no gradient but rounding errors, and
    Adam takes steps of full size whatever the size of a gradient.
    """
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(64, 10),
    )


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=LEARNING_RATE, foreach=True)  # all parameters at once: fewer rounds


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run both columns and report; returns the summary that ``--json`` prints."""
    options = Options.parse(__doc__.splitlines()[0], argv, epochs=EPOCHS)
    return compare("cnn", network, adam, options, BATCH_SIZE)


if __name__ == "__main__":
    main()
