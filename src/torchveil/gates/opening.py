"""Opening: x^ = x + l becomes public to the parties; every later gate that needs x reuses it.

Formula. Party i sends [x]_i + m_i, m_i its whole fresh PRG stream of this label; x^ = sum of all; l = sum of m_i.
Short (``bits`` = w - k). Every share of x is a multiple of 2^k. Party i sends [x]_i / 2^k + m_i modulo 2^(w-k); x^ is
2^k times the sum, l = 2^k sum of m_i. The upper k bits of m_i hide nothing yet.
Completing (``bits`` = k). The opening x + l of a quotient (``gates.lift``) is known modulo 2^(w-k), and its upper bits
U are shared modulo 2^k. Party i sends [U]_i. The upper bits of l are uniform and have hidden nothing else, so U is
uniform, and what another party sends is U minus what one holds.
Views. party: x^, uniform because the other parties' pieces are (one-time pad; holds against any n-1 parties); provider:
nothing. Cost: 1 round for any number of wires, 8 (n-1) bytes sent per element and party, short or completing ceil(bits
/ 8) (n-1), nothing dealt.
Floor: one ring element per element and party (a masked value must reach every party). Source: Beaver, CRYPTO'91, with
the masks of Turbospeedz (eprint 2019/080, sec. 3) kept for the life of the value. Rules O1-O4, O6.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from torchveil.errors import ProtocolError
from torchveil.gates.base import Cost, Exchange, Gate, Interaction, Piece, require_shape
from torchveil.kernels import complete, packed_bytes
from torchveil.program.instructions import Open
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire


def _require_unopened(wires: dict[int, Wire], i: Open) -> None:
    """Raise before anything is changed, so that a refused opening leaves no trace."""
    # of two names for one wire as well: the second would be taken for a whole opening where the first is completed
    many = len(i.xs) > 1 and len({id(wires[x]) for x in i.xs}) != len(i.xs)
    if many or (not i.again and any([wires[x].resolve() for x in i.xs])):
        raise ProtocolError("a wire was opened twice")


def _missing(wire: Wire, i: Open, place: int, width: int) -> int:
    """How many lower bits of the elements do not travel; 0 for a wire that is completed."""
    bits = i.bits[place] if i.bits else width
    if wire.half is not None:
        if bits != wire.half.bits:
            raise ProtocolError("an opening that is half known lacks another number of bits")
        return 0
    if not width // 2 <= bits <= width:
        raise ProtocolError(f"{bits} bits of {width} do not open a wire")
    return width - bits


def deal(provider: Provider, i: Open) -> None:
    _require_unopened(provider.wires, i)
    for slot, (x, shape) in enumerate(zip(i.xs, i.shapes, strict=True)):
        wire = provider.wires[x]
        missing = _missing(wire, i, slot, provider.width)
        wire.open(None, provider.mask(slot, shape) if wire.half is None else wire.half.mask, missing)


def _piece(party: Party, wire: Wire, slot: int, missing: int) -> tuple[Piece, Tensor]:
    """(what this party sends, its piece of the mask)."""
    if wire.half is not None:
        if wire.half.upper is None:
            raise ProtocolError("an opening that is half known has nothing to complete it")
        return wire.half.upper, wire.half.mask
    if not missing:
        return party.masked(slot, wire.value())
    return party.masked_short(slot, wire.value(), missing)


def _opening(wire: Wire, total: Any, width: int) -> Tensor:
    if wire.half is not None and wire.half.opening is not None:
        return complete(wire.half.opening, total & np.uint16((1 << wire.half.bits) - 1), wire.half.bits, width)
    opening: Tensor = total
    return opening


def evaluate(party: Party, i: Open) -> Interaction:
    _require_unopened(party.wires, i)
    begun = []
    pieces = []
    for slot, (x, shape) in enumerate(zip(i.xs, i.shapes, strict=True)):
        wire = party.wires[x]
        # A mask of another shape would be broadcast, and one element of it would hide two values.
        require_shape(wire.value(), shape)
        missing = _missing(wire, i, slot, party.width)
        piece, mask = _piece(party, wire, slot, missing)
        pieces.append(piece)
        begun.append((wire, missing, mask))
    opened = yield Exchange("sum", tuple(pieces))
    for (wire, missing, mask), total in zip(begun, opened, strict=True):
        wire.open(_opening(wire, total, party.width), mask, missing)
        wire.half = None


def clear(plain: Plain, i: Open) -> None:
    """An opening changes no value."""


def cost(i: Open, n_parties: int) -> Cost:
    bits = i.bits or (64,) * len(i.xs)
    sizes = (packed_bytes(b) * math.prod(shape) for b, shape in zip(bits, i.shapes, strict=True))
    return Cost(rounds=1, sent=(n_parties - 1) * sum(sizes))


GATE = Gate("open", True, deal, evaluate, clear, cost)
