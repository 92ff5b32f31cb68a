"""Gating: a dealt value multiplied by a secret bit, for twice the dealt bytes and neither opening nor round.

Formula. d = d^ ^ r with d^ public. The provider deals [r V] and [(1 - r) V] for a value V that it knows; d V is the
first for d^ = 0 and the second for d^ = 1, so a party picks one of its two pieces, element by element.
Views. party: uniform pieces; provider: nothing. The bit serves any number of gated values, each dealt afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from torch import Tensor

from torchveil.kernels.drawn import RingPads, RingPiece
from torchveil.roles.party import Party
from torchveil.roles.provider import Provider

Gate = tuple[Tensor, Tensor]


@cache
def _slots(n_values: int, gated: bool) -> range:
    """V_j takes the slot 2 j, and with a bit 2 j + 1 as well."""
    return range(2 * n_values) if gated else range(0, 2 * n_values, 2)


def deal_values(
    provider: Provider,
    n_values: int,
    shape: tuple[int, ...],
    bit: int | None,
    make: Callable[[Tensor | None, Sequence[RingPads]], Sequence[Tensor]],
) -> None:
    """Deal n values, or r V and (1 - r) V of each: ``make(r, pads)`` computes them, each less its pads."""
    secret = None if bit is None else provider.bits[bit].secret()
    slots = _slots(n_values, bit is not None)
    corrections = make(secret, [provider.pads(slot, shape) for slot in slots])
    for slot, correction in zip(slots, corrections, strict=True):
        provider.send_correction(slot, correction)


def dealt_pieces(
    party: Party, n_values: int, shape: tuple[int, ...], bit: int | None
) -> tuple[list[RingPiece], Gate | None]:
    """(this party's pieces of what ``deal_values`` deals, the bit's public flip and this party's share of r)."""
    wire = None if bit is None else party.bits[bit]
    pieces = [party.dealt_piece(slot, shape) for slot in _slots(n_values, bit is not None)]
    return pieces, None if wire is None else (wire.public_flip(), wire.secret())
