"""Exponential on a bounded interval: multiplicative masking, one opening, no further round.

Theory of operation. For x in (-2^b, 0] put v = x + 2^b - 1 in [0, 2^b). Its opening in the ring of b + 1 bits (reduced
from x^, rules O2) is v^ = v + l' mod 2^(b+1); write l' = r_top 2^b + phi. Then e^(x/u) is a public factor times
e^(-phi/u), and the overflow is known: with low = v^ mod 2^b, E_neg = e^((low - 2^b + 1)/u), E_pos = e^((low + 1)/u),

    r_top = 0:  factor A0 = E_pos if v^_top else E_neg;      r_top = 1:  factor A1 = E_neg if v^_top else E_pos.

So [e^(x/u)] = A0 [M0] + A1 [M1], M0 = (1 - r_top) e^(-phi/u), M1 = r_top e^(-phi/u) dealt at scale 2^mask_bits, the
factors public at 2^factor_bits; both together at most 61 bits. With a gating bit (``gates.gating``) the result is bit *
e^(x/u). A wire that is 2^zeros x (``gates.rounding``) is divided first: opening and mask end in zeros too.

Error: with R = 2^b / u, 2^-(factor_bits + 1) + e^R 2^-(mask_bits + 1) absolute; ``split`` balances the two: 2^-19 for
R = 16, 2^-24 for R = 8; and 2^-28 relative from the tables.
Views. party: uniform pieces; nothing is sent. provider: nothing. Cost: 0 rounds after the opening of x; 16 bytes dealt
per element, 32 with a bit. Floor: one dealt element would need the wrap to be known. Public factors are computed with
integers only (``kernels.tables``), since parties on different machines must agree to the last bit.
Sources: Kelkar et al., USENIX Security'22 (multiplicative masking of exp); the wrap-free form is ours.
"""

from __future__ import annotations

import math

import torch

from torchveil.gates.base import Cost, Gate
from torchveil.gates.gating import deal_values, dealt_pieces
from torchveil.kernels import curves, exponential_masks, exponential_share, reduce_ring, shift_right_logical, signed
from torchveil.program.instructions import Exponential
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire

#: The result's scale is 2**RESULT_BITS, or less where results are to be added up before they are truncated.
RESULT_BITS = 61


def split(reach: float, result_bits: int = RESULT_BITS) -> tuple[int, int]:
    """(mask_bits, factor_bits) that balance the two quantisation errors for exponents down to -reach."""
    factor_bits = round((result_bits - reach / math.log(2)) / 2)
    return result_bits - factor_bits, factor_bits


def deal(provider: Provider, i: Exponential) -> None:
    mask = shift_right_logical(provider.wires[i.x].total_mask(), i.zeros, provider.width)
    deal_values(
        provider,
        2,
        i.shape,
        i.bit,
        lambda bit, pads: exponential_masks(mask, bit, i.bits, i.unit, i.mask_bits, provider.width, pads),
    )
    provider.wires[i.out] = Wire(None)


def evaluate(party: Party, i: Exponential) -> None:
    opened = shift_right_logical(party.wires[i.x].public(), i.zeros, party.width)
    pieces, gate = dealt_pieces(party, 2, i.shape, i.bit)
    party.wires[i.out] = Wire(exponential_share(opened, pieces, gate, i.bits, i.unit, i.factor_bits))


def clear(plain: Plain, i: Exponential) -> None:
    whole = plain.value(i.x)
    x = signed(whole, plain.width) >> i.zeros
    if i.bit is None:
        plain.require(x, -(1 << i.bits) + 1, 0, "exponential", "clip the argument to the stated range")
    mask = plain.mask(i.x)
    if mask is None:
        out = (torch.exp(x.to(torch.float64) / i.unit).clamp(max=1.0) * 2.0 ** (i.mask_bits + i.factor_bits)).to(
            torch.int64
        )
    else:
        # the reference twins: debug mode then compares the kernels in use with them
        mask, opened = (
            shift_right_logical(value, i.zeros, plain.width) for value in (mask, reduce_ring(whole + mask, plain.width))
        )
        dealt = curves.exponential_masks(mask, None, i.bits, i.unit, i.mask_bits, plain.width)
        out = curves.exponential_share(opened, dealt, None, i.bits, i.unit, i.factor_bits)
    plain.set(i.out, out if i.bit is None else plain.bit(i.bit) * out)


def cost(i: Exponential, n_parties: int) -> Cost:
    return Cost(dealt=(16 if i.bit is None else 32) * math.prod(i.shape))


GATE = Gate("exponential", False, deal, evaluate, clear, cost)
