"""Masks of attention: which places are excluded is public, as indices are.

A mask of bools, or one of zeros and minus infinities, says which places are excluded and nothing else. torch turns the
first kind into the second in plain tensors of its own; declared public beforehand, they stay public. Any other plain
mask holds numbers, and is refused as every plain tensor that meets a secret.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from torchveil.composites.table import replaces
from torchveil.public import public


def excludes(mask: Tensor) -> bool:
    """Whether a plain tensor says nothing but which places are excluded."""
    if mask.dtype is torch.bool:
        return True
    return mask.dtype.is_floating_point and bool(((mask == 0) | (mask == -torch.inf)).all())


def _declared(mask: Any) -> Any:
    return public(mask) if type(mask) is Tensor and excludes(mask) else mask


@replaces(nnf.scaled_dot_product_attention)
def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Tensor:
    return nnf.scaled_dot_product_attention(query, key, value, _declared(attn_mask), *args, **kwargs)


@replaces(nnf.multi_head_attention_forward)
def _many_heads(*args: Any, **kwargs: Any) -> Any:
    named = {name: _declared(x) if name in ("attn_mask", "key_padding_mask") else x for name, x in kwargs.items()}
    return nnf.multi_head_attention_forward(*args, **named)
