"""Opening XOR-shared bits: they become bit wires, selectors that any number of gates may use.

Formula. d^ = d ^ r is opened under a fresh bit r, whose arithmetic sharing [r] is dealt. Views. party: d^, uniform
because r is fresh, and a uniform piece of [r]; provider: nothing. Cost per bit: 1 round; 1 / 8 (n - 1) bytes sent; 8
bytes dealt. Floor: a bit opened, a ring element dealt. Source: daBits, eprint 2019/207.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from torch import Tensor

from torchveil.gates.base import Cost, Exchange
from torchveil.kernels import unpack_to_ring
from torchveil.randomness import Bits
from torchveil.roles.party import Party
from torchveil.roles.provider import Provider
from torchveil.roles.wires import BitWire

_RESULT, _FLIP = 2, 3

#: Public rearrangement of the bits [rows, elements] into the wires [outs, *shape].
Arrange = Callable[[Tensor], Tensor]


def deal_bits(provider: Provider, outs: tuple[int, ...], n_rows: int, count: int, arrange: Arrange) -> None:
    """Deal [r] for ``n_rows`` rows of ``count`` bits and define the bit wires ``outs``."""
    flips = provider.mask_bits(_FLIP, (n_rows, -(-count // 8)))
    bits = arrange(unpack_to_ring(flips, count, (count,)))
    provider.deal(_RESULT, bits)
    for k, out in enumerate(outs):
        provider.bits[out] = BitWire(None, bits[k])


def open_bits(
    party: Party, outs: tuple[int, ...], rows: Bits, count: int, arrange: Arrange
) -> Generator[Exchange, tuple[Any, ...], None]:
    """Open this party's XOR shares [rows, bytes] of ``count`` bits each as the bit wires ``outs``."""
    (public,) = yield Exchange("xor", (rows ^ party.mask_bits(_FLIP, rows.shape),))
    flips = arrange(unpack_to_ring(public, count, (count,)))
    share = party.dealt(_RESULT, tuple(flips.shape))
    for k, out in enumerate(outs):
        party.bits[out] = BitWire(flips[k], share[k])


def cost_of_bits(n_rows: int, count: int, n_parties: int) -> Cost:
    """The cost of opening ``n_rows`` rows of ``count`` bits."""
    return Cost(rounds=1, sent=n_rows * -(-count // 8) * (n_parties - 1), dealt=8 * n_rows * count)
