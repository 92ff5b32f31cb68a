"""The lowering table: aten op -> functions on handles, one file per family; importing this package fills it."""

from __future__ import annotations

from torchveil.lowering import (  # noqa: F401  (each module adds its rows)
    activations,
    attention,
    comparisons,
    compositions,
    convolution,
    distances,
    elementwise,
    embedding,
    factories,
    foreach,
    hyperbolic,
    indexing,
    linear_algebra,
    losses,
    normalization,
    padding,
    pooling,
    products,
    rearrangements,
    rearranging,
    recurrent,
    reductions,
    resampling,
    rounding,
    scans,
    sorting,
    structural,
    trigonometric,
)
from torchveil.lowering.table import COMPOSED, TABLE, Kind, Rule, Updated

__all__ = ["COMPOSED", "TABLE", "Kind", "Rule", "Updated"]
