"""Rounding on shares: a value becomes a multiple of 2^k, with two parties and no message.

Formula. Party 0 clears the low k bits of its share, party 1 does the same after adding 2^k - 1. In numbers: with l the
low k bits of party 1's share, the shares now add up to

    2^k (floor(z / 2^k) + [0 < l <= z mod 2^k])    modulo 2^w,

the multiple of 2^k just below z or just above it; z itself if z is one. This holds for every z of the ring: a carry
that is lost is a multiple of 2^w before and after. As l is uniform, the upper one comes with probability (z mod 2^k) /
2^k.

What it is for. The shares end in k zeros, so an opening takes w - k bits (``gates.opening``), a comparison that many
fewer digits (``gates.comparison``), and a division by 2^k a quarter of the dealt bytes (``gates.lift``).
Error: below one unit of 2^k, exact for multiples of 2^k.
Views: nothing new; the coin is a function of z and of either party's own share, so that party knows it as far as it
knows z. Cost: 0 rounds, 0 bytes. With three or more parties the roundings of single shares would add up; the gate
refuses.
Source: local truncation, SecureML, eprint 2017/396, sec. 4.1, made free of its wrap by keeping the result a multiple of
2^k, which is truncate-reduce of SIGMA, eprint 2023/1269, on shares.
"""

from __future__ import annotations

from torchveil.errors import ProtocolError
from torchveil.gates.base import Gate, local, require_shape
from torchveil.kernels import round_share
from torchveil.program.instructions import Round
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire


def deal(provider: Provider, i: Round) -> None:
    if provider.n_parties != 2:
        raise ProtocolError("shares are rounded by two parties only")
    provider.wires[i.out] = Wire(None, width=provider.width)


def evaluate(party: Party, i: Round) -> None:
    share = party.wires[i.x].value()
    require_shape(share, i.shape)
    party.wires[i.out] = Wire(round_share(share, i.bits, not party.first, party.width), width=party.width)


def clear(plain: Plain, i: Round) -> None:
    z = plain.value(i.x)
    limit = (1 << (plain.width - 2)) - 1
    plain.require(z, -limit, limit, "truncation", "use fewer digits or smaller values: a product overflowed 2**62")
    low = (1 << i.bits) - 1
    if plain.masks is None:
        plain.set(i.out, (z + (1 << i.bits - 1)) & ~low)  # to nearest, halves up
        return
    if plain.last_share is None:
        raise ProtocolError("a rounding on shares is followed without shares")
    coin = plain.last_share(i.x) & low
    up = (coin > 0) & (coin <= (z & low))
    plain.set(i.out, (z & ~low) + (up.to(z.dtype) << i.bits))


GATE = Gate("round", False, deal, evaluate, clear, local)
