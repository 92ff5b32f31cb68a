"""Composite functions of torch that are taken before torch takes them apart."""

from __future__ import annotations

from torchveil.composites import attention, packed, recurrent
from torchveil.composites.table import COMPOSITES

__all__ = ["COMPOSITES", "attention", "packed", "recurrent"]
