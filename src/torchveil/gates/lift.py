"""Lift: the quotient by 2^k of a rounded value that was opened short, exact, back in the whole ring.

Theory of operation (ring of w bits; w = 64, k = 16). x = 2^k t, |t| <= 2^(w-k-2). Opened short, v = t + M mod 2^(w-k),
where M is a whole ring element. Write M = 2^(w-k) H + L. As in ``gates.truncation``, t' = t + 2^(w-k-2) lies in [0,
2^(w-k-1)], so v' = v + 2^(w-k-2) = t' + L - o 2^(w-k) with the overflow o = R (1 - v'_top), R the top bit of L. (At t'
= 2^(w-k-1) too: with v'_top = R = 0 nothing can have overflowed.) In the whole ring this reads

    t     = B - M + 2^(w-k) U,    B = v' - 2^(w-k-2),    U = H + o mod 2^k,
    t + M = B     + 2^(w-k) U.

M is shared as it is, and U matters modulo 2^k only: the provider deals H and R in k bits each. The second line is the
opening of t under M, the lower w - k bits of which are known: opening it sends the k bits of U (``gates.opening``).

With a gating bit b = b^ xor rho, b t is rho t where b^ = 0 and t - rho t where b^ = 1, with
    rho t = rho B - rho L + 2^(w-k) (1 - v'_top) rho R,
with rho L dealt in w bits and rho R in k bits. The result has no opening.

Error: none; out * 2^k = x. Views. party: uniform pieces, nothing sent; provider: nothing. Cost: 0 rounds; dealt two
words of 16 bits per element (4 bytes), with a bit three and a ring element (14). Floor: k bits of H; R is a bit, but
shared in k bits no table is needed.
Sources: as for truncation; keeping the mask unreduced so that the ring can be entered again is ours.
"""

from __future__ import annotations

import math

from torchveil.gates.base import Cost, Gate
from torchveil.kernels import gated_lift, lift_rows, lifted_share, reduce_ring, signed
from torchveil.program.instructions import Lift
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Half, Wire


def deal(provider: Provider, i: Lift) -> None:
    mask = provider.wires[i.x].short_mask(i.bits)
    bit = None if i.bit is None else provider.bits[i.bit].secret()
    pads = provider.pads_words(0, (2 if bit is None else 3, math.prod(i.shape)), i.bits)
    rows, gated = lift_rows(mask, bit, i.bits, provider.width, pads)
    provider.send_words_correction(0, rows)
    if gated is not None:
        provider.deal(1, gated, fresh=True)
    provider.wires[i.out] = Wire(None, width=provider.width, half=None if i.bit is not None else Half(mask, i.bits))


def evaluate(party: Party, i: Lift) -> None:
    wire = party.wires[i.x]
    opened, mask = wire.public(), wire.short_mask(i.bits)
    rows = party.dealt_words_piece(0, (2 if i.bit is None else 3, math.prod(i.shape)), i.bits)
    if i.bit is None:
        share, upper = lifted_share(opened, rows, mask, party.first, i.bits, party.width)
        party.wires[i.out] = Wire(share, width=party.width, half=Half(mask, i.bits, opened, upper))
        return
    bit, dealt = party.bits[i.bit], party.dealt_piece(1, i.shape)
    out = gated_lift(opened, rows, mask, dealt, bit.public_flip(), bit.secret(), party.first, i.bits, party.width)
    party.wires[i.out] = Wire(out, width=party.width)


def clear(plain: Plain, i: Lift) -> None:
    x = plain.value(i.x)
    if plain.masks is None:
        out = signed(x, plain.width) >> i.bits
    else:
        # a value out of range goes wrong as the shares do
        mask = plain.masks.wires[i.x].short_mask(i.bits)
        rows, _ = lift_rows(mask, None, i.bits, plain.width)
        opened = reduce_ring(x + (mask << i.bits), plain.width)
        out, _ = lifted_share(opened, rows, mask, True, i.bits, plain.width)
    plain.set(i.out, out if i.bit is None else plain.bit(i.bit) * out)


def cost(i: Lift, n_parties: int) -> Cost:
    return Cost(dealt=(4 if i.bit is None else 14) * math.prod(i.shape))


GATE = Gate("lift", False, deal, evaluate, clear, cost)
