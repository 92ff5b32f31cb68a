"""Chunk look-ups of the comparator: digits of a public value, unary codes of a mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

Words = npt.NDArray[np.uint16]


def digits(v: Tensor, width: int, chunk: int) -> Iterator[npt.NDArray[Any]]:
    """The digits of the low ``width - 1`` bits of v, least significant first, each an array of uint16."""
    if width >= 64 and chunk == 4:
        lanes = np.ascontiguousarray(v.numpy().view(np.uint16).reshape(-1, 4).T)
        for k in range(16):
            digit = lanes[k // 4] >> np.uint16(4 * (k % 4))
            yield digit & np.uint16(15 if k < 15 or width > 64 else 7)
        return
    low = v.numpy() & ((1 << (width - 1)) - 1)
    for start in range(0, width - 1, chunk):
        yield ((low >> start) & ((1 << chunk) - 1)).astype(np.uint16)


def unary_tables(mask: Tensor, width: int, chunk: int, chunks: int | None = None) -> Words:
    """T [chunks, elements]: bit u of T[k] is [u < l_k], l_k the k-th digit of the low bits of the mask.

    With ``chunks`` of the upper digits alone.
    """
    one = np.uint16(1)
    wanted = list(digits(mask.contiguous(), width, chunk))
    return np.stack([(one << digit) - one for digit in wanted[len(wanted) - (chunks or len(wanted)) :]])


def unary_lookup(
    table: Words, digit: npt.NDArray[Any], first: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A party's pieces of ([v < l], [v <= l]) for the public digit v: bits v and v - 1 of its piece of the table."""
    one = np.uint16(1)
    below = (table >> digit) & one
    shifted = table << one
    if first:
        shifted |= one
    at_most = (shifted >> digit) & one
    return below.astype(np.uint8), at_most.astype(np.uint8)
