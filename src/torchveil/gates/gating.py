"""Gating: a dealt value multiplied by a secret bit, for twice the dealt bytes and neither opening nor round.

Formula. d = d^ ^ r with d^ public. The provider deals [r V] and [(1 - r) V] for a value V that it knows; d V is the
first for d^ = 0 and the second for d^ = 1, so a party picks one of its two pieces, element by element.
Views. party: uniform pieces; provider: nothing. The bit serves any number of gated values, each dealt afresh.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchveil.roles.party import Party
from torchveil.roles.provider import Provider


def deal_gated(provider: Provider, slot: int, value: Tensor, bit: int | None) -> None:
    """Deal V under ``slot``; with a bit, r V and (1 - r) V under ``slot`` and ``slot + 1``."""
    if bit is None:
        provider.deal(slot, value)
        return
    selected = provider.bits[bit].secret() * value
    provider.deal(slot, provider.reduce(selected))
    provider.deal(slot + 1, provider.reduce(value - selected))


def gated_share(party: Party, slot: int, shape: tuple[int, ...], bit: int | None) -> Tensor:
    """This party's share of V, or of d V."""
    piece = party.dealt(slot, shape)
    if bit is None:
        return piece
    return torch.where(party.bits[bit].public_flip().to(torch.bool), party.dealt(slot + 1, shape), piece)
