"""Composite functions of torch that are taken before torch takes them apart."""

from __future__ import annotations

from torchveil.composites import (
    alignment,
    attention,
    covariance,
    determinants,
    factored,
    likelihoods,
    logarithms,
    masked,
    memory,
    packed,
    powers,
    quantiles,
    ranks,
    recurrent,
    scattered,
    segments,
)
from torchveil.composites.table import COMPOSITES

__all__ = [
    "COMPOSITES",
    "alignment",
    "attention",
    "covariance",
    "determinants",
    "factored",
    "likelihoods",
    "logarithms",
    "masked",
    "memory",
    "packed",
    "powers",
    "quantiles",
    "ranks",
    "recurrent",
    "scattered",
    "segments",
]
