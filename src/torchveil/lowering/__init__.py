"""The lowering table: aten op -> functions on handles, one file per family; importing this package fills it."""

from __future__ import annotations

from torchveil.lowering import (  # noqa: F401  (each module adds its rows)
    activations,
    attention,
    class_losses,
    comparisons,
    convolution,
    elementwise,
    factories,
    foreach,
    fused_optimizers,
    indexing,
    losses,
    normalization,
    piecewise,
    products,
    recurrent,
    reductions,
    softmax,
    structural,
)
from torchveil.lowering.table import COMPOSED, TABLE, Kind, Rule, Updated

foreach.register()

__all__ = ["COMPOSED", "TABLE", "Kind", "Rule", "Updated"]
