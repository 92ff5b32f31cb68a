"""Randomness that is public by design: dropout masks, slopes of rrelu. Drawn from torch's generator; it hides nothing.

The controller draws it and every party learns it, so ``torch.manual_seed`` reproduces it as in plain torch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def bernoulli(shape: tuple[int, ...], p: float) -> Tensor:
    """A public 0/1 mask with probability ``p`` of a one."""
    return torch.empty(shape, dtype=torch.float32).bernoulli_(p)


def unchanged_state() -> AbstractContextManager[None]:
    """Whatever is drawn inside (dropout masks of a check), torch's generator is as before afterwards."""
    return torch.random.fork_rng(devices=[])


def uniform(shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Public numbers between ``low`` and ``high``."""
    return torch.empty(shape, dtype=torch.float32).uniform_(low, high)
