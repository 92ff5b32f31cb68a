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

import torch
from torch import Tensor

from torchveil.gates.base import Cost, Gate
from torchveil.gates.gating import deal_values, dealt_pieces
from torchveil.kernels import curves, series_masks, series_share
from torchveil.program.instructions import Series
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire

COEFFICIENT_BITS = 28
ANGLE_BITS = 30
#: The result's scale is 2**RESULT_BITS.
RESULT_BITS = COEFFICIENT_BITS + ANGLE_BITS


def _scaled(x: Tensor, i: Series) -> Tensor:
    """c x: the angle is that of a public multiple."""
    return x if i.factor == 1 else x * i.factor


def deal(provider: Provider, i: Series) -> None:
    mask = _scaled(provider.wires[i.x].total_mask(), i)
    deal_values(
        provider,
        2 * len(i.frequencies),
        i.shape,
        i.bit,
        lambda bit, pads: series_masks(mask, bit, i.bits, i.frequencies, provider.width, pads),
    )
    provider.wires[i.out] = Wire(None)


def evaluate(party: Party, i: Series) -> None:
    opened, _ = party.wires[i.x].faces()
    pieces, gate = dealt_pieces(party, 2 * len(i.frequencies), i.shape, i.bit)
    series = (i.bits, i.frequencies, i.cosines, i.sines, i.constant)
    party.wires[i.out] = Wire(series_share(_scaled(opened, i), pieces, gate, party.first, *series))


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
        # the reference twins: debug mode then compares the kernels in use with them
        dealt = curves.series_masks(_scaled(mask, i), None, i.bits, i.frequencies, plain.width)
        series = (i.bits, i.frequencies, i.cosines, i.sines, i.constant)
        out = curves.series_share(_scaled(x + mask, i), dealt, None, True, *series)
    plain.set(i.out, out if i.bit is None else plain.bit(i.bit) * out)


def cost(i: Series, n_parties: int) -> Cost:
    return Cost(dealt=(16 if i.bit is None else 32) * len(i.frequencies) * math.prod(i.shape))


GATE = Gate("series", False, deal, evaluate, clear, cost)
