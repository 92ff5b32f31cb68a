"""Native ring kernels for torchveil. Use them through ``torchveil.kernels``; nothing here is a public interface."""

from torchveil_native._core import (
    Block,
    Exponential,
    Keystream,
    Program,
    Trigonometry,
    add_pieces,
    bit_to_ring,
    divide,
    has_aes,
    has_vaes,
    idle_bytes,
    level,
    mask_quotients,
    matmul,
    multiply,
    pack_bits,
    pack_top_bits,
    select,
    select_masks,
    set_level,
    truncate,
    unary_leaf,
    unary_tables,
    unpack_bits,
    unpack_to_ring,
    weigh_bits,
    xor_pieces,
)

#: Rises whenever a function here changes its meaning; ``torchveil`` uses no other than the one it was written for.
INTERFACE = 2


def features() -> dict[str, bool]:
    """Which AES instructions are in use at the present level."""
    return {"aes": has_aes(), "vaes": has_vaes()}


__all__ = [
    "INTERFACE",
    "Block",
    "Exponential",
    "Keystream",
    "Program",
    "Trigonometry",
    "add_pieces",
    "bit_to_ring",
    "divide",
    "features",
    "has_aes",
    "has_vaes",
    "idle_bytes",
    "level",
    "mask_quotients",
    "matmul",
    "multiply",
    "pack_bits",
    "pack_top_bits",
    "select",
    "select_masks",
    "set_level",
    "truncate",
    "unary_leaf",
    "unary_tables",
    "unpack_bits",
    "unpack_to_ring",
    "weigh_bits",
    "xor_pieces",
]
