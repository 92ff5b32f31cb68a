"""Trigonometric series of a secret: any smooth function on a bounded interval, one opening, no further round.

Theory of operation. With t = 2 pi c x / 2^b for a public integer c (any period, then), x^ = x + l and phi, theta^ the
angles of c l and c x^ modulo 2^b (a public map of the opening, rules O2; a sum of angles has no wrap), j t =
j theta^ - j phi, so

    a cos(jt) + b sin(jt) = (a cos j theta^ + b sin j theta^) cos j phi + (a sin j theta^ - b cos j theta^) sin j phi:

public factors times dealt values. The provider deals [cos j phi], [sin j phi] for each frequency (gated by a bit:
``gates.gating``). Factors are integers at 2^28, dealt values at 2^30; the result has scale 2^58.

Error: the fit's own (``functions.series``) + sum over frequencies j of (|a_j| + |b_j|) 5.8 j 2^-30 + 1.5 * 2^-28.
Views. party: uniform pieces; nothing is sent. provider: nothing. Cost: 0 rounds after the opening; 16 bytes dealt per
frequency and element, 32 with a bit. Floor: a polynomial of the same degree on a bounded ring would need as many dealt
powers, 8 bytes each, but a ring several times as wide. Public factors are computed with integers only.
Sources: angle addition as in CrypTen's cosine; Fourier approximation in SHAFT, NDSS'25; gating is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from torchveil.gates.base import Cost, Gate
from torchveil.gates.bits import arithmetic_share
from torchveil.gates.gating import deal_gated, gated_share
from torchveil.kernels.tables import cos_sin, iterate_harmonics
from torchveil.program.instructions import Series
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire

COEFFICIENT_BITS = 28
ANGLE_BITS = 30
#: The result's scale is 2**RESULT_BITS.
RESULT_BITS = COEFFICIENT_BITS + ANGLE_BITS


def _angles(values: Tensor, i: Series) -> Iterator[tuple[Tensor, Tensor]]:
    """One frequency at a time: memory does not grow with their number. What is yielded is read only."""
    first = cos_sin(values if i.factor == 1 else values * i.factor, i.bits)
    for _, cosine, sine in iterate_harmonics(*first, i.frequencies):
        yield cosine, sine


def _public_factors(opened: Tensor, i: Series) -> Iterator[tuple[Tensor, Tensor]]:
    """For each frequency the factors of [cos j phi] and [sin j phi], at 2^28."""
    half = 1 << (ANGLE_BITS - 1)
    for (cosine, sine), a, b in zip(_angles(opened, i), i.cosines, i.sines, strict=True):
        if a == 0:
            with_cos, with_sin = sine * b, cosine * -b
        elif b == 0:
            with_cos, with_sin = cosine * a, sine * a
        else:
            with_cos, with_sin = cosine * a + sine * b, sine * a - cosine * b
        yield (with_cos + half) >> ANGLE_BITS, (with_sin + half) >> ANGLE_BITS


def deal(provider: Provider, i: Series) -> None:
    for k, (cosine, sine) in enumerate(_angles(provider.wires[i.x].total_mask(), i)):
        deal_gated(provider, 4 * k, cosine, i.bit)
        deal_gated(provider, 4 * k + 2, sine, i.bit)
    provider.wires[i.out] = Wire(None)


def evaluate(party: Party, i: Series) -> None:
    opened, _ = party.wires[i.x].faces()
    if i.bit is not None:
        out = i.constant * arithmetic_share(party, party.bits[i.bit])
    else:
        out = torch.full(i.shape, i.constant if party.first else 0, dtype=torch.int64)
    for k, (with_cos, with_sin) in enumerate(_public_factors(opened, i)):
        out += with_cos * gated_share(party, 4 * k, i.shape, i.bit)
        out += with_sin * gated_share(party, 4 * k + 2, i.shape, i.bit)
    party.wires[i.out] = Wire(out)


def clear(plain: Plain, i: Series) -> None:
    x = plain.value(i.x)
    mask = plain.mask(i.x)
    if mask is None:
        angle = (x * i.factor & ((1 << i.bits) - 1)).to(torch.float64) * (2 * math.pi / (1 << i.bits))
        total = torch.full(i.shape, i.constant / 2.0**RESULT_BITS, dtype=torch.float64)
        for j, a, b in zip(i.frequencies, i.cosines, i.sines, strict=True):
            total += (a * torch.cos(j * angle) + b * torch.sin(j * angle)) / 2.0**COEFFICIENT_BITS
        out = (total * 2.0**RESULT_BITS).round().to(torch.int64)
    else:
        out = torch.full(i.shape, i.constant, dtype=torch.int64)
        pairs = zip(_public_factors(x + mask, i), _angles(mask, i), strict=True)
        for (with_cos, with_sin), (cosine, sine) in pairs:
            out += with_cos * cosine + with_sin * sine
    plain.set(i.out, out if i.bit is None else plain.bit(i.bit) * out)


def cost(i: Series, n_parties: int) -> Cost:
    return Cost(dealt=(16 if i.bit is None else 32) * len(i.frequencies) * math.prod(i.shape))


GATE = Gate("series", False, deal, evaluate, clear, cost)
