"""In-place forms: one tensor object becomes another kind of tensor and stays the same object.

An optimizer that holds a parameter keeps it, whatever the parameter is turned into.
"""

from __future__ import annotations

import torch
from torch import Tensor

from syft.notes import put_note, take_note


def become(x: Tensor, new: Tensor) -> Tensor:
    """Let ``x`` be what ``new`` is (its type, value and shares); the id, tags and description of ``x`` stay.

    Raises ``RuntimeError`` when torch still needs the old value: ``x`` is part of a graph, or a view of it is alive.
    """
    old, fresh = take_note(x), take_note(new)
    try:
        torch.utils.swap_tensors(x, new)
    except RuntimeError:
        for tensor, note in ((x, old), (new, fresh)):
            if note is not None:
                put_note(tensor, note)
        raise
    if old is not None:
        shares = fresh.shares if fresh is not None else []
        old.shares, old.provider = shares, fresh.provider if fresh is not None else ""
    note = old or fresh
    if note is not None:
        put_note(x, note)
    return x
