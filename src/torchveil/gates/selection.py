"""Selection: a secret bit times a secret value, for one dealt element and no round.

Formula. d = d^ ^ r, x^ = x + l: r x = x^ r - r l, so with dealt [r l]: [d x] = d^ [x] + (1 - 2 d^)(x^ [r] - [r l]).
Views. party: a uniform piece of r l; nothing is sent. provider: nothing. Cost: 0 rounds after the opening of x,
8 bytes dealt per element. The bit serves any number of selections; [r l] is dealt afresh for each. Floor: the same (a
product of two masks must be dealt). Source: three-element select of SIGMA, eprint 2023/1269, fig. 5, less what the
parties already hold.
"""

from __future__ import annotations

import math

from torchveil.gates.base import Cost, Gate
from torchveil.kernels import selected_share, selection_masks
from torchveil.program.instructions import Select
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire


def deal(provider: Provider, i: Select) -> None:
    bit, mask = provider.bits[i.bit].secret(), provider.wires[i.x].total_mask()
    provider.send_correction(0, selection_masks(bit, mask, provider.width, provider.pads(0, i.shape)))
    provider.wires[i.out] = Wire(None)


def evaluate(party: Party, i: Select) -> None:
    bit, wire = party.bits[i.bit], party.wires[i.x]
    opened, _ = wire.faces()
    flip = bit.public_flip()
    dealt = party.dealt_piece(0, i.shape)
    party.wires[i.out] = Wire(selected_share(flip, opened, bit.secret(), dealt, wire.value(), party.width))


def clear(plain: Plain, i: Select) -> None:
    plain.set(i.out, plain.bit(i.bit) * plain.value(i.x))


def cost(i: Select, n_parties: int) -> Cost:
    return Cost(dealt=8 * math.prod(i.shape))


GATE = Gate("select", False, deal, evaluate, clear, cost)
