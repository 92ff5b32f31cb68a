"""An LSTM reads handwritten digits row by row and learns to tell them apart; nobody can see them.

The images, the split, what is revealed and to whom are those of digits.py. An image is a sequence of 8 rows of 8
pixels; the state after the last row decides. A step of the LSTM evaluates its four gates together, so that it takes 14
rounds forward and 6 back.

    python examples/lstm.py [--epochs N] [--seed N] [--plain] [--json] [--no-loss] [--parties N]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from common import Options, averaging, falling
from digits import N_TRAINING, compare
from torch import Tensor, nn

EPOCHS = 15
BATCH_SIZE = 64
LEARNING_RATE = 0.02
#: How many epochs' ends are averaged.
AVERAGED = 5
HIDDEN = 24


class Reader(nn.Module):
    """Rows of 64 pixels come in as sequences of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, HIDDEN, batch_first=True)
        self.classes = nn.Linear(HIDDEN, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x.view(-1, 8, 8))
        return self.classes(states[:, -1])


def network(seed: int) -> nn.Module:
    """An LSTM with 24 units. Initial weights are public: they say nothing about the data."""
    torch.manual_seed(seed)
    return Reader()


def adam(parameters: Iterable[nn.Parameter], epochs: int) -> torch.optim.Optimizer:
    """All parameters in one evaluation, with a rate that falls, and the mean of the last epochs' ends.

    So a run ends close to where it would with any other rounding.
    """
    steps = math.ceil(N_TRAINING / BATCH_SIZE)
    optimizer = falling(torch.optim.Adam(parameters, lr=LEARNING_RATE, foreach=True), epochs * steps)
    return averaging(optimizer, epochs * steps, steps, AVERAGED)


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run both columns and report; returns the summary that ``--json`` prints."""
    options = Options.parse(__doc__.splitlines()[0], argv, epochs=EPOCHS)
    return compare("lstm", network, partial(adam, epochs=options.epochs), options, BATCH_SIZE)


if __name__ == "__main__":
    main()
