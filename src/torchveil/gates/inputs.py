"""Input: an owner splits a clear value between the parties.

Formula. [x]_i = PRG(owner-party key i) for every party but the receiver, which is sent x - sum of the others.
Views. party: one uniform ring element per element; provider: the shape. Cost: 0 rounds between parties, 8 bytes per
element from the owner. Floor: the same (somebody must receive the value).
"""

from __future__ import annotations

import math

from torchveil.gates.base import Cost, Gate
from torchveil.program.instructions import Input
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire


def deal(provider: Provider, i: Input) -> None:
    provider.wires[i.out] = Wire(None)


def evaluate(party: Party, i: Input) -> None:
    piece = party.input_correction(i.shape) if party.receiver else party.input_piece(i.shape)
    party.wires[i.out] = Wire(piece)


def clear(plain: Plain, i: Input) -> None:
    plain.set(i.out, plain.inputs.pop(0))


def cost(i: Input, n_parties: int) -> Cost:
    return Cost(outside=8 * math.prod(i.shape))


GATE = Gate("input", False, deal, evaluate, clear, cost)
