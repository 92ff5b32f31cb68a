"""What of an instruction the provider may see: everything but the numbers of public tensors and constants.

Index tensors and whole weights inside linear maps stay, since the provider applies maps to its masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from torchveil.program import instructions as ins
from torchveil.program.plan import Plan


def _blank(i: Any) -> Any:
    value = i.value
    if not isinstance(value, torch.Tensor):
        return replace(i, value=0)
    zero = torch.zeros((), dtype=value.dtype, device="cpu")
    return replace(i, value=zero.expand(value.shape))


#: Instructions with public numbers that the provider never gets.
_BLANKED: dict[type[ins.Instruction], Callable[[Any], Any]] = {
    ins.Constant: _blank,
    ins.AddPublic: _blank,
    ins.PublicProduct: _blank,
}


def without_public(i: ins.Instruction) -> ins.Instruction:
    """The instruction as the provider gets it; ``i`` itself if it holds nothing to leave out.

    A public tensor becomes zeros of its shape and dtype, which take the room of one number; a constant becomes 0. What
    the provider deals does not depend on them.
    """
    blank = _BLANKED.get(type(i))
    return i if blank is None else blank(i)


def plan_without_public(plan: Plan) -> Plan:
    """The plan as the provider gets it."""
    return replace(plan, instructions=tuple(map(without_public, plan.instructions)))
