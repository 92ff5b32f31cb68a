"""The lowering table: aten op -> functions on handles, one file per family; importing this package fills it."""

from __future__ import annotations

from torchveil.lowering import (  # noqa: F401  (each module adds its rows)
    activations,
    attention,
    comparisons,
    convolution,
    elementwise,
    factories,
    indexing,
    losses,
    normalization,
    products,
    recurrent,
    reductions,
    structural,
)
from torchveil.lowering.table import TABLE, Kind, Rule, Updated

__all__ = ["TABLE", "Kind", "Rule", "Updated"]
