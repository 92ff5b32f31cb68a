"""Types of the compiled module.

A ``Flat`` is an int64 tensor or an object with a C-contiguous buffer. A ``Drawn`` is a key with a label: the keystream
itself, which a kernel draws block by block and never stores. ``pads`` are taken off (or XORed to) an output.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

Flat = Any
Term = tuple[Tensor, Tensor, Tensor | None, bool]
Drawn = tuple[Keystream, int]
Pads = Sequence[Drawn]
Planes = Flat | tuple[int, Pads]

class Keystream:
    def __init__(self, key: bytes) -> None: ...
    def combine(
        self, label: int, how: int, out: Flat, in_: Flat | None, kept: Flat | None, keep: int, threads: int
    ) -> bool: ...

class Block:
    """A large buffer, writable as bytes; its memory is used again."""

    def __init__(self, n_bytes: int) -> None: ...

class Program:
    def __init__(self, steps: Sequence[Sequence[int]], n_inputs: int, n_outputs: int, temporaries: int) -> None: ...
    def run(
        self, inputs: Sequence[Planes], outputs: Sequence[Flat], pads: Sequence[Pads], plane_bytes: int, threads: int
    ) -> None: ...

class Trigonometry:
    def __init__(
        self,
        tables: Sequence[Flat],
        slope: int,
        bits: int,
        steps: Sequence[tuple[int, int, int]],
        steps_before: Sequence[int],
        slot: Sequence[int],
        slots: int,
    ) -> None: ...
    def masks(self, outs: Sequence[Flat], pads: Sequence[Pads], mask: Flat, bit: Flat | None, threads: int) -> None: ...
    def share(
        self,
        out: Flat,
        opened: Flat,
        pieces: Sequence[Flat | Drawn],
        flip: Flat | None,
        bit: Flat | None,
        first: bool,
        cosines: Sequence[int],
        sines: Sequence[int],
        constant: int,
        threads: int,
    ) -> None: ...

class Exponential:
    def __init__(
        self,
        mantissas: Flat,
        shifts: Flat,
        fine: Flat,
        step_bits: int,
        linear_bits: int,
        slope: int,
        low: int,
        high: int,
    ) -> None: ...
    def masks(
        self, outs: Sequence[Flat], pads: Sequence[Pads], mask: Flat, bit: Flat | None, bits: int, threads: int
    ) -> None: ...
    def share(
        self, out: Flat, opened: Flat, pieces: Sequence[Flat | Drawn], flip: Flat | None, bits: int, threads: int
    ) -> None: ...

def idle_bytes() -> int: ...
def level() -> str: ...
def set_level(name: str) -> bool: ...
def has_aes() -> bool: ...
def has_vaes() -> bool: ...
def matmul(out: Tensor, terms: Sequence[Term], accumulate: bool, threads: int) -> None: ...
def add_pieces(out: Flat, pieces: Sequence[Flat], threads: int) -> None: ...
def xor_pieces(out: Flat, pieces: Sequence[Flat], threads: int) -> None: ...
def weigh_bits(
    out: Flat,
    flips: Sequence[Flat],
    bits: Sequence[Flat],
    weights: Sequence[int],
    constant: int,
    first: bool,
    threads: int,
) -> None: ...
def divide(out: Flat, x: Flat, divisor: int, threads: int) -> None: ...
def mask_quotients(
    outs: Sequence[Flat], pads: Sequence[Pads], r: Flat, bit: Flat | None, divisor: int, threads: int
) -> None: ...
def truncate(
    out: Flat,
    opened: Flat,
    quotients: Sequence[Flat | Drawn],
    tops: Sequence[Flat | Drawn],
    flip: Flat | None,
    bit: Flat | None,
    first: bool,
    divisor: int,
    threads: int,
) -> None: ...
def unary_tables(
    out: Flat, pads: Pads, tops: Flat | None, x: Flat, negate: bool, full: bool, keep: int, threads: int
) -> None: ...
def unary_leaf(
    less: Flat | None,
    equal: Flat,
    tops: Flat | None,
    opened: Flat,
    tables: Flat | Drawn,
    keep: int,
    thresholds: Sequence[int],
    negate: bool,
    full: bool,
    first: bool,
    threads: int,
) -> None: ...
def pack_bits(out: Flat, x: Flat, rows: int, count: int, threads: int) -> None: ...
def pack_top_bits(out: Flat, x: Flat, rows: int, count: int, threads: int) -> None: ...
def unpack_bits(out: Flat, packed: Flat, rows: int, count: int, threads: int) -> None: ...
def unpack_to_ring(out: Flat, packed: Flat, rows: int, count: int, threads: int) -> None: ...
def select_masks(out: Flat, pads: Pads, bit: Flat, mask: Flat, threads: int) -> None: ...
def select(out: Flat, flip: Flat, opened: Flat, bit: Flat, dealt: Flat | Drawn, share: Flat, threads: int) -> None: ...
def multiply(out: Flat, dealt: Flat | Drawn, x: Flat, a: Flat, y: Flat, b: Flat, first: bool, threads: int) -> None: ...
def round_share(out: Flat, value: Flat, bits: int, up: bool, threads: int) -> None: ...
def mask_short(low: Flat, high: Flat, mask: Flat, value: Flat, drawn: Flat | Drawn, threads: int) -> None: ...
def add_short(out: Flat, pieces: Sequence[tuple[Flat, Flat]], threads: int) -> None: ...
def lift_rows(rows: Flat, pads: Pads, gated: Flat | None, mask: Flat, bit: Flat | None, threads: int) -> None: ...
def lift(out: Flat, upper: Flat, opened: Flat, rows: Flat | Drawn, mask: Flat, first: bool, threads: int) -> None: ...
def lift_gated(
    out: Flat,
    opened: Flat,
    rows: Flat | Drawn,
    mask: Flat,
    dealt: Flat | Drawn,
    flip: Flat,
    bit: Flat,
    first: bool,
    threads: int,
) -> None: ...
def complete(out: Flat, opened: Flat, upper: Flat, threads: int) -> None: ...
def linear(out: Flat, values: Sequence[Flat], factors: Sequence[int], constant: int, threads: int) -> None: ...
def bit_to_ring(out: Flat, flip: Flat, bit: Flat, first: bool, threads: int) -> None: ...
