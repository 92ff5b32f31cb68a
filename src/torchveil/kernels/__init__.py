"""Ring arithmetic on tensors of int64: the one place that a faster implementation replaces.

Gates import ``kernels`` and nothing below it. Today the torch reference is the only implementation; a native module
has to offer the same names and agree bit for bit.
"""

from __future__ import annotations

from torchveil.kernels.reference import (
    BILINEAR,
    conv2d_output_shape,
    divide_unsigned,
    is_negative,
    pack_bits,
    reduce_ring,
    shift_right_logical,
    signed,
    top_bit,
    unpack_bits,
)

__all__ = [
    "BILINEAR",
    "conv2d_output_shape",
    "divide_unsigned",
    "is_negative",
    "pack_bits",
    "reduce_ring",
    "shift_right_logical",
    "signed",
    "top_bit",
    "unpack_bits",
]
