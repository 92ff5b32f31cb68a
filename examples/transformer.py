"""A small transformer learns to read handwritten digits that nobody can see, their rows as a sequence of 8.

The images, the split, what is revealed and to whom are those of digits.py. Each row of 8 pixels is embedded and marked
with its position; one encoder layer with 2 heads, layer norms first and gelu, relates the rows; all of them decide.

    python examples/transformer.py [--epochs N] [--seed N] [--plain] [--json] [--no-loss] [--parties N]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from common import Options, falling
from digits import N_TRAINING, compare
from torch import Tensor, nn

EPOCHS = 10
BATCH_SIZE = 64
LEARNING_RATE = 0.01
WIDTH = 16


class Reader(nn.Module):
    """Rows of 64 pixels come in as sequences of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, WIDTH)
        self.positions = nn.Parameter(0.5 * torch.randn(8, WIDTH))
        self.encoder = nn.TransformerEncoderLayer(
            WIDTH, 2, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.classes = nn.Linear(8 * WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embedding(x.view(-1, 8, 8)) + self.positions
        return self.classes(self.encoder(rows).flatten(1))


def network(seed: int) -> nn.Module:
    """One layer of width 16. Initial weights are public: they say nothing about the data."""
    torch.manual_seed(seed)
    return Reader()


def adam(parameters: Iterable[nn.Parameter], epochs: int) -> torch.optim.Optimizer:
    """All parameters in one evaluation, with a rate that falls, so that a run ends where it would with any rounding."""
    return falling(
        torch.optim.Adam(parameters, lr=LEARNING_RATE, foreach=True), epochs * math.ceil(N_TRAINING / BATCH_SIZE)
    )


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run both columns and report; returns the summary that ``--json`` prints."""
    options = Options.parse(__doc__.splitlines()[0], argv, epochs=EPOCHS)
    return compare("transformer", network, partial(adam, epochs=options.epochs), options, BATCH_SIZE)


if __name__ == "__main__":
    main()
