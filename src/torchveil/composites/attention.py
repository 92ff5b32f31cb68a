"""Masks of attention: which places are excluded is public, as indices are.

A mask of bools, or one of zeros and minus infinities, says which places are excluded and nothing else. torch turns the
first kind into the second in plain tensors of its own; declared public beforehand, they stay public. Any other plain
mask holds numbers, and is refused as every plain tensor that meets a secret.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf
from torch.utils._python_dispatch import TorchDispatchMode

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
def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, **options: Any,
) -> Tensor:  # fmt: skip
    if is_causal and attn_mask is None:
        attn_mask, is_causal = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril(), False
    return nnf.scaled_dot_product_attention(query, key, value, _declared(attn_mask), dropout_p, is_causal, **options)


class _PublicZeros(TorchDispatchMode):
    """What torch.zeros makes is public: the key and value of zeros that ``add_zero_attn`` adds."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return public(out) if func is torch.ops.aten.zeros.default else out


@replaces(nnf.multi_head_attention_forward)
def _many_heads(*args: Any, **options: Any) -> Any:
    """torch's own, which hands on all masks by name; ``is_causal`` only says what a mask that is given looks like."""
    for name in ("attn_mask", "key_padding_mask"):
        options[name] = _declared(options.get(name))
    options["is_causal"] = options.get("is_causal", False) and options["attn_mask"] is None
    with _PublicZeros() if args[_ADD_ZERO_ATTN] else nullcontext():  # type: ignore[no-untyped-call]
        return nnf.multi_head_attention_forward(*args, **options)


_ADD_ZERO_ATTN = list(inspect.signature(nnf.multi_head_attention_forward).parameters).index("add_zero_attn")


@replaces(torch._nested_tensor_from_mask_left_aligned)
def _not_nested(*_: Any) -> bool:
    """Encoders in evaluation ask whether a padded batch can become a nested tensor; of a secret there is none."""
    return False
