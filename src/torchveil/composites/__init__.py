"""Composite functions of torch that are taken before torch takes them apart."""

from __future__ import annotations

from torchveil.composites import (
    alignment,
    attention,
    determinants,
    likelihoods,
    logarithms,
    packed,
    quantiles,
    recurrent,
    segments,
)
from torchveil.composites.table import COMPOSITES

__all__ = [
    "COMPOSITES",
    "alignment",
    "attention",
    "determinants",
    "likelihoods",
    "logarithms",
    "packed",
    "quantiles",
    "recurrent",
    "segments",
]
