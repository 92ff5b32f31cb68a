"""Ring arithmetic on tensors of int64: the one place that a faster implementation replaces.

Gates import ``kernels`` and nothing below it. Today the torch reference is the only implementation; a native module
has to offer the same names and agree bit for bit.
"""

from __future__ import annotations

from torchveil.kernels.dispatch import (
    BILINEAR,
    add_stream,
    bit_share,
    divide_unsigned,
    evaluate_node,
    evaluate_product,
    gather_masked,
    mask_quotients,
    mask_value,
    monomials,
    pack_bits,
    pack_top_bits,
    product_share,
    selected_share,
    stream,
    subtract_stream,
    truncated_share,
    unary_leaf,
    unary_tables,
    unpack_bits,
    unpack_to_ring,
    xor_bits,
    xor_words,
)
from torchveil.kernels.reference import (
    conv2d_output_shape,
    is_negative,
    reduce_ring,
    shift_right_logical,
    signed,
    top_bit,
)

__all__ = [
    "BILINEAR",
    "add_stream",
    "bit_share",
    "conv2d_output_shape",
    "divide_unsigned",
    "evaluate_node",
    "evaluate_product",
    "gather_masked",
    "is_negative",
    "mask_quotients",
    "mask_value",
    "monomials",
    "pack_bits",
    "pack_top_bits",
    "product_share",
    "reduce_ring",
    "selected_share",
    "shift_right_logical",
    "signed",
    "stream",
    "subtract_stream",
    "top_bit",
    "truncated_share",
    "unary_leaf",
    "unary_tables",
    "unpack_bits",
    "unpack_to_ring",
    "xor_bits",
    "xor_words",
]
