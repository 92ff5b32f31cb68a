"""The lowering table: aten op -> functions on handles, one file per family; importing this package fills it."""

from __future__ import annotations

from torchveil.lowering import (  # noqa: F401  (each module adds its rows)
    activations,
    attention,
    class_losses,
    collectives,
    comparisons,
    composed_structure,
    compositions,
    convolution,
    distances,
    elementwise,
    embedding,
    factories,
    foreach,
    fused_optimizers,
    histograms,
    hyperbolic,
    indexing,
    linear_algebra,
    losses,
    normalization,
    orthogonal,
    padding,
    piecewise,
    pivoted,
    pooling,
    products,
    rearranging,
    recurrent,
    reductions,
    resampling,
    rounding,
    scans,
    softmax,
    sorting,
    spacing,
    structural,
    trigonometric,
)
from torchveil.lowering.table import COMPOSED, TABLE, Kind, Rule, Updated

foreach.register()

__all__ = ["COMPOSED", "TABLE", "Kind", "Rule", "Updated"]
