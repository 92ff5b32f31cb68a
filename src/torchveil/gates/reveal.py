"""Reveal and refresh: shares are re-randomised with a sharing of zero that the provider does not know.

Formula. Every pair of parties has a stream; the earlier one adds it, the later one subtracts it, so the pieces sum to
zero. Refresh: [x]_i + z_i. Reveal: the receiver is sent [x]_i + z_i by every party and adds.
Views. receiver: x and uniform shares of it, nothing about how x was made; party: nothing; provider: nothing, and it can
never be the receiver. Cost: refresh 0 rounds 0 bytes; reveal 1 round, 8 n bytes per element to the receiver.
Source: pseudorandom zero sharing, Cramer, Damgard, Ishai, TCC'05.
"""

from __future__ import annotations

import math

from torchveil.errors import ProtocolError
from torchveil.gates.base import FREE, Cost, Exchange, Gate, Interaction, require_shape
from torchveil.program.instructions import Refresh, Reveal
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire


def _deal_refresh(provider: Provider, i: Refresh) -> None:
    provider.wires[i.out] = Wire(None)


def _evaluate_refresh(party: Party, i: Refresh) -> None:
    share = party.wires[i.x].value()
    require_shape(share, i.shape)
    party.wires[i.out] = Wire(party.reduce(share + party.zero_share(0, i.shape)))


def _clear_refresh(plain: Plain, i: Refresh) -> None:
    plain.set(i.out, plain.value(i.x))


def _cost_refresh(_i: Refresh, _n_parties: int) -> Cost:
    # no bytes, but labels: the zero sharing comes from streams that the parties have in common
    return FREE


REFRESH = Gate("refresh", False, _deal_refresh, _evaluate_refresh, _clear_refresh, _cost_refresh)


def _deal_reveal(provider: Provider, i: Reveal) -> None:
    if i.receiver == provider.name:
        raise ProtocolError("the provider was named as the receiver of a reveal")


def _evaluate_reveal(party: Party, i: Reveal) -> Interaction:
    share = party.wires[i.x].value()
    require_shape(share, i.shape)
    piece = party.reduce(share + party.zero_share(0, i.shape))
    yield Exchange("reveal", (piece,))


def _clear_reveal(plain: Plain, i: Reveal) -> None:
    """A reveal changes no value."""


def _cost_reveal(i: Reveal, n_parties: int) -> Cost:
    return Cost(rounds=1, outside=8 * n_parties * math.prod(i.shape))


REVEAL = Gate("reveal", True, _deal_reveal, _evaluate_reveal, _clear_reveal, _cost_reveal)
