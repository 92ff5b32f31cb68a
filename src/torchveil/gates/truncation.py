"""Truncation: z / d for any divisor, never off by a wrap, unbiased.

Theory of operation (ring of w bits; w = 64). z is opened, z^ = z + r. Put v = z + 2^(w-2); for |z| < 2^(w-2) it lies in
[0, 2^(w-1)). v^ = z^ + 2^(w-2) = v + r - o 2^w, and because the top bit of v is known to be 0 the overflow is
o = r_top * (1 - v^_top), linear in the dealt bit r_top. Let c = 2^(w-2) mod d. Then, in integers,

    (z + 2^(w-2) - c) / d = (v^ + o 2^w) / d - (r + c) / d,

and taking floors of both terms on the right is off by less than one unit:

    out = floor((v^ + o 2^w) / d) - floor((r + c) / d) - (2^(w-2) - c) / d.

The first floor is Q0 = floor(v^/d) for o = 0 and Q1 = floor((v^ + 2^w)/d) for o = 1: both public, so the choice is
Q0 + [r_top] (1 - v^_top)(Q1 - Q0). The last term is an integer. Nothing here assumes a power of two.

With a gating bit (``gates.gating``) b * out costs neither an opening of the quotient nor a round: relu and its gradient
are truncations gated by the sign.

Error: |out - z/d| < 1 for every |z| < 2^(w-2); the rounding is floor or floor + 1, a function of z and of the public
opening (for d a power of two the coin is v^ mod d); mean error 0 up to d / 2^w. It does not depend on n.
Views. party: two uniform pieces (or corrections), nothing sent. provider: nothing. Cost: 0 rounds after the opening,
16 bytes dealt per element, 32 with a bit. Floors: one opening, and one dealt element (8 bytes) if the wrap bit were
folded away, which only smaller rings allow; twice that floor.
Sources: known-top-bit truncation as in Escudero et al., eprint 2020/338, sec. 3, and SIGMA, eprint 2023/1269; the
two-quotient form for any divisor is ours. A public coin is all that is promised (see docs/security/gates.md).
"""

from __future__ import annotations

import math

import torch

from torchveil.gates.base import Cost, Gate
from torchveil.gates.gating import deal_values, dealt_pieces
from torchveil.kernels import gate_steps, mask_quotients, reduce_ring, signed, truncated_share
from torchveil.program.instructions import Truncate
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire

#: |out - z/d| in units in the last place of the result.
ERROR_ULPS = 1.0


def deal(provider: Provider, i: Truncate) -> None:
    r = provider.wires[i.x].total_mask()
    deal_values(provider, 2, i.shape, i.bit, lambda bit, pads: mask_quotients(r, bit, i.divisor, provider.width, pads))
    provider.wires[i.out] = Wire(None)


def evaluate(party: Party, i: Truncate) -> None:
    opened, _ = party.wires[i.x].faces()
    pieces, gate = dealt_pieces(party, 2, i.shape, i.bit)
    half = len(pieces) // 2
    out = truncated_share(opened, pieces[:half], pieces[half:], gate, party.first, i.divisor, party.width)
    party.wires[i.out] = Wire(out)


def clear(plain: Plain, i: Truncate) -> None:
    z = plain.value(i.x)
    limit = (1 << (plain.width - 2)) - 1
    plain.require(z, -limit, limit, "truncation", "use fewer digits or smaller values: a product overflowed 2**62")
    r = plain.mask(i.x)
    if r is None:
        # to nearest, halves up; |z| + d/2 stays below 2^63
        out = torch.div(signed(z, plain.width) + i.divisor // 2, i.divisor, rounding_mode="floor")
    else:
        # the reference twins: debug mode then compares the kernels in use with them
        quotient, top = gate_steps.mask_quotients(r, None, i.divisor, plain.width)
        opened = reduce_ring(z + r, plain.width)
        out = gate_steps.truncated_share(opened, [quotient], [top], None, True, i.divisor, plain.width)
    plain.set(i.out, out if i.bit is None else plain.bit(i.bit) * out)


def cost(i: Truncate, n_parties: int) -> Cost:
    return Cost(dealt=(16 if i.bit is None else 32) * math.prod(i.shape))


GATE = Gate("truncate", False, deal, evaluate, clear, cost)
