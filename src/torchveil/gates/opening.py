"""Opening: x^ = x + l becomes public to the parties; every later gate that needs x reuses it.

Formula. Party i sends [x]_i + m_i, m_i its whole fresh PRG stream of this label; x^ = sum of all; l = sum of m_i.
Views. party: x^, uniform because the other parties' pieces are (one-time pad; holds against any n-1 parties);
provider: nothing. Cost: 1 round for any number of wires, 8 (n-1) bytes sent per element and party, nothing dealt.
Floor: one ring element per element and party (a masked value must reach every party). Source: Beaver, CRYPTO'91, with
the masks of Turbospeedz (eprint 2019/080, sec. 3) kept for the life of the value. Rules O1-O4, O6.
"""

from __future__ import annotations

import math

from torchveil.errors import ProtocolError
from torchveil.gates.base import Cost, Exchange, Gate, Interaction, require_shape
from torchveil.program.instructions import Open
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire


def _require_unopened(wires: dict[int, Wire], i: Open) -> None:
    """Raise before anything is changed, so that a refused opening leaves no trace."""
    if len(set(i.xs)) != len(i.xs) or (not i.again and any(wires[x].resolve() for x in i.xs)):
        raise ProtocolError("a wire was opened twice")


def deal(provider: Provider, i: Open) -> None:
    _require_unopened(provider.wires, i)
    for slot, (x, shape) in enumerate(zip(i.xs, i.shapes, strict=True)):
        wire = provider.wires[x]
        wire.mask = provider.mask(slot, shape)
        wire.parent = wire.via = None


def evaluate(party: Party, i: Open) -> Interaction:
    _require_unopened(party.wires, i)
    masks = []
    pieces = []
    for slot, (x, shape) in enumerate(zip(i.xs, i.shapes, strict=True)):
        wire = party.wires[x]
        # A mask of another shape would be broadcast, and one element of it would hide two values.
        require_shape(wire.value(), shape)
        piece, mask = party.masked(slot, wire.value())
        masks.append(mask)
        pieces.append(piece)
    opened = yield Exchange("sum", tuple(pieces))
    for x, mask, total in zip(i.xs, masks, opened, strict=True):
        wire = party.wires[x]
        wire.mask = mask
        wire.opening = total
        wire.parent = wire.via = None


def clear(plain: Plain, i: Open) -> None:
    """An opening changes no value."""


def cost(i: Open, n_parties: int) -> Cost:
    return Cost(rounds=1, sent=8 * (n_parties - 1) * sum(math.prod(shape) for shape in i.shapes))


GATE = Gate("open", True, deal, evaluate, clear, cost)
