"""Padded and packed sequences: public lengths say which element goes where, so that packing is indexing.

torch's own functions write into plain tensors that they make themselves. Where elements go is found by running those on
a plain tensor of their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as nnf

from torchveil.composites.table import replaces


@replaces(torch._pack_padded_sequence)
def _pack(input: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """(the rows of all steps, step after step; how many there are in each)."""
    n_rows = input.shape[0] * input.shape[1]
    numbers = torch.arange(n_rows).reshape(input.shape[0], input.shape[1])
    places, batch_sizes = torch._pack_padded_sequence(numbers, lengths, batch_first)
    return input.flatten(0, 1).index_select(0, places), batch_sizes


@replaces(torch._pad_packed_sequence)
def _unpack(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor]:
    """(steps by batch, padded; the lengths)."""
    places, lengths = torch._pad_packed_sequence(torch.arange(len(data)), batch_sizes, batch_first, -1, total_length)
    padding = data.new_full((1, *data.shape[1:]), padding_value)
    rows = torch.cat([data, padding]) if bool((places < 0).any()) else data
    flat = places.flatten() % len(rows)  # -1 is the padding, the last row
    return rows.index_select(0, flat).unflatten(0, places.shape), lengths


@replaces(torch._C._nn.pad_sequence)
def _pad(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    longest = max(len(s) for s in sequences)
    padded = []
    for s in sequences:
        missing = longest - len(s)
        ends = [missing, 0] if padding_side == "left" else [0, missing]
        padded.append(nnf.pad(s, [0, 0] * (s.dim() - 1) + ends, value=padding_value))
    return torch.stack(padded, 0 if batch_first else 1)
