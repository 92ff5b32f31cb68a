"""``torch.masked``: it divides by counts of a mask that it makes itself, and marks what a mask leaves out by nan.

Its functions are written in Python, so that nothing can stand in for them as a whole. What they do with a count is told
apart from what the program does by the module that asks: the count of a public mask is public, a plain tensor of the
program is not. The median marks by nan, which no share holds, and is refused.
"""

from __future__ import annotations

import math
import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import replaces
from torchveil.errors import UnsupportedOperation
from torchveil.public import public

#: What may stand between torch's functions and whoever calls them: this package, and modes of torch's.
_BETWEEN = ("torchveil.", "torch.utils._device", "torch.overrides")


def _asked_by_masked() -> bool:
    """Whether the nearest caller is ``torch.masked``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_BETWEEN):
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == "torch.masked._ops"


@replaces(torch.divide, torch.Tensor.div)
def divide(input: Tensor, other: Any, **options: Any) -> Tensor:
    """torch.divide; by a plain count of ``torch.masked`` as by a public one."""
    if type(other) is Tensor and _asked_by_masked():
        other = public(other)
    return torch.divide(input, other, **options)


@replaces(torch.where)
def where(condition: Any, *choices: Any, **options: Any) -> Any:
    """torch.where; refused where ``torch.masked`` would mark by nan."""
    fill = choices[-1] if choices else None
    if type(fill) is Tensor and not fill.dim() and _asked_by_masked() and math.isnan(fill):
        raise UnsupportedOperation(
            "a median under a mask marks by nan, which no share holds",
            op="masked.median",
            remedy="take the median of the entries under the mask, as in x[mask].median()",
        )
    return torch.where(condition, *choices, **options)
