"""Which implementation of the kernels is in use: native where it is installed, the reference in torch otherwise.

Chosen once, at import. ``TORCHVEIL_KERNELS=reference`` leaves an installed native module alone;
``TORCHVEIL_KERNELS=native`` refuses to run without one. Gates and roles import names from here and know no more.
"""

from __future__ import annotations

import logging
import os

from torchveil.errors import ConfigurationError
from torchveil.kernels import and_tree, curves, gate_steps, native, reference, short, threads
from torchveil.randomness import Stream


def _use_native() -> bool:
    wanted = os.environ.get("TORCHVEIL_KERNELS", "")
    if wanted not in ("", "native", "reference"):
        raise ConfigurationError(
            f"TORCHVEIL_KERNELS={wanted} names no implementation", remedy="set it to native or reference"
        )
    if wanted == "native" and native.core is None:
        raise ConfigurationError(
            "TORCHVEIL_KERNELS=native, but torchveil_native is not installed", remedy="pip install torchveil-native"
        )
    if wanted == "" and native.core is None:
        logging.getLogger("torchveil").info("torchveil_native is not installed: using the slower reference kernels")
    return wanted != "reference" and native.core is not None


#: Whether the native kernels are in use.
NATIVE = _use_native()
threads.TEAM = not NATIVE

BILINEAR = native.BILINEAR if NATIVE else reference.BILINEAR
divide_unsigned = native.divide_unsigned if NATIVE else reference.divide_unsigned
pack_bits = native.pack_bits if NATIVE else reference.pack_bits
unpack_bits = native.unpack_bits if NATIVE else reference.unpack_bits

unary_tables = native.unary_tables if NATIVE else gate_steps.unary_tables
dealt_monomials = native.dealt_monomials if NATIVE else and_tree.dealt_monomials
gather_masked = native.gather_masked if NATIVE else and_tree.gather_masked
evaluate_node = native.evaluate_node if NATIVE else and_tree.evaluate_node
evaluate_product = native.evaluate_product if NATIVE else and_tree.evaluate_product

add_stream = native.add_stream if NATIVE else gate_steps.add_stream
less_pads = native.less_pads if NATIVE else gate_steps.less_pads
mask_value = native.mask_value if NATIVE else gate_steps.mask_value
xor_bits = native.xor_bits if NATIVE else gate_steps.xor_bits
xor_words = native.xor_words if NATIVE else gate_steps.xor_words
keep_drawn = native.keep_drawn if NATIVE else gate_steps.keep_drawn
keep_drawn_bits = native.keep_drawn_bits if NATIVE else gate_steps.keep_drawn_bits
keep_drawn_words = native.keep_drawn_words if NATIVE else gate_steps.keep_drawn_words
sum_pieces = native.sum_pieces if NATIVE else gate_steps.sum_pieces
xor_pieces = native.xor_pieces if NATIVE else gate_steps.xor_pieces
empty = native.empty if NATIVE else gate_steps.empty
combination = native.combination if NATIVE else gate_steps.combination
round_share = native.round_share if NATIVE else short.round_share
mask_short = native.mask_short if NATIVE else short.mask_short
add_packed = native.add_packed if NATIVE else short.add_packed
lift_rows = native.lift_rows if NATIVE else short.lift_rows
lifted_share = native.lifted_share if NATIVE else short.lifted_share
gated_lift = native.gated_lift if NATIVE else short.gated_lift
complete = native.complete if NATIVE else short.complete
product_share = native.product_share if NATIVE else gate_steps.product_share
mask_quotients = native.mask_quotients if NATIVE else gate_steps.mask_quotients
truncated_share = native.truncated_share if NATIVE else gate_steps.truncated_share
series_masks = native.series_masks if NATIVE else curves.series_masks
series_share = native.series_share if NATIVE else curves.series_share
exponential_masks = native.exponential_masks if NATIVE else curves.exponential_masks
exponential_share = native.exponential_share if NATIVE else curves.exponential_share
unary_leaf = native.unary_leaf if NATIVE else gate_steps.unary_leaf
pack_top_bits = native.pack_top_bits if NATIVE else gate_steps.pack_top_bits
unpack_to_ring = native.unpack_to_ring if NATIVE else gate_steps.unpack_to_ring
bit_share = native.bit_share if NATIVE else gate_steps.bit_share
weighed_bits = native.weighed_bits if NATIVE else gate_steps.weighed_bits
selection_masks = native.selection_masks if NATIVE else gate_steps.selection_masks
selected_share = native.selected_share if NATIVE else gate_steps.selected_share


def stream(key: bytes) -> Stream:
    """The keystream of a key, of the implementation in use."""
    return native.NativeStream(key) if NATIVE else Stream(key)
