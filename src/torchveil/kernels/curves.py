"""The local steps of the series and exponential gates: the reference twins of fused kernels.

Values V that the provider knows are dealt as they are, or gated by a secret bit d = d^ ^ r as r V and (1 - r) V, of
which a party takes the second where the public flip d^ is 1 (``gates.gating``). ``gate`` is (flip, share of r).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchveil.kernels import drawn
from torchveil.kernels.drawn import RingPads, RingPiece
from torchveil.kernels.gate_steps import bit_share, take_off
from torchveil.kernels.reference import reduce_ring
from torchveil.kernels.tables import TRIG_BITS, cos_sin, exponential, harmonics

Gating = tuple[Tensor, Tensor]


def gated(values: Sequence[Tensor], bit: Tensor | None, width: int) -> list[Tensor]:
    """The values that are dealt for ``values``: themselves, or b V and V - b V of each."""
    if bit is None:
        return list(values)
    out = []
    for value in values:
        chosen = reduce_ring(bit * value, width)
        out += [chosen, reduce_ring(value - chosen, width)]
    return out


def _less(values: Sequence[Tensor], pads: Sequence[RingPads], width: int) -> tuple[Tensor, ...]:
    return tuple(take_off(v, p, width) for v, p in zip(values, pads, strict=True)) if pads else tuple(values)


def _chosen(pieces: Sequence[RingPiece], gate: Gating | None) -> list[Tensor]:
    """A party's piece of each V, or of d V."""
    held = [drawn.ring(piece) for piece in pieces]
    if gate is None:
        return held
    flip = gate[0].to(torch.bool)
    return [torch.where(flip, one, zero) for zero, one in zip(held[::2], held[1::2], strict=True)]


# --- series ---------------------------------------------------------------------------------------------------------


def series_masks(
    mask: Tensor, bit: Tensor | None, bits: int, frequencies: tuple[int, ...], width: int, pads: Sequence[RingPads] = ()
) -> tuple[Tensor, ...]:
    """For each frequency the cosine and sine of its multiple of the mask's angle, gated, each less its pads."""
    values = [value for pair in harmonics(*cos_sin(mask, bits), frequencies) for value in pair]
    return _less(gated(values, bit, width), pads, width)


def series_factors(
    opened: Tensor, bits: int, frequencies: tuple[int, ...], cosines: Sequence[int], sines: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """For each frequency the public factors of [cos j phi] and [sin j phi], at the scale of the coefficients."""
    half = 1 << (TRIG_BITS - 1)
    out = []
    for (cosine, sine), a, b in zip(harmonics(*cos_sin(opened, bits), frequencies), cosines, sines, strict=True):
        if a == 0:
            with_cos, with_sin = sine * b, cosine * -b
        elif b == 0:
            with_cos, with_sin = cosine * a, sine * a
        else:
            with_cos, with_sin = cosine * a + sine * b, sine * a - cosine * b
        out.append(((with_cos + half) >> TRIG_BITS, (with_sin + half) >> TRIG_BITS))
    return out


def series_share(
    opened: Tensor,
    pieces: Sequence[RingPiece],
    gate: Gating | None,
    first: bool,
    bits: int,
    frequencies: tuple[int, ...],
    cosines: Sequence[int],
    sines: Sequence[int],
    constant: int,
) -> Tensor:
    """A party's share of constant + the sum of a cos jt + b sin jt, or of a bit times that.

    ``pieces`` are its pieces of what ``series_masks`` gives.
    """
    if gate is None:
        out = torch.full(tuple(opened.shape), constant if first else 0, dtype=torch.int64)
    else:
        out = constant * bit_share(*gate, first)
    dealt = _chosen(pieces, gate)
    for k, (with_cos, with_sin) in enumerate(series_factors(opened, bits, frequencies, cosines, sines)):
        out += with_cos * dealt[2 * k]
        out += with_sin * dealt[2 * k + 1]
    return out


# --- exponential ----------------------------------------------------------------------------------------------------


def exponential_masks(
    mask: Tensor,
    bit: Tensor | None,
    bits: int,
    unit: int,
    mask_bits: int,
    width: int,
    pads: Sequence[RingPads] = (),
) -> tuple[Tensor, ...]:
    """(M0, M1) from the mask l (``gates.exponential``), gated, each less its pads."""
    local_mask = mask & ((1 << (bits + 1)) - 1)
    top = local_mask >> bits
    factor = exponential(-(local_mask & ((1 << bits) - 1)), unit, mask_bits, high=0)
    return _less(gated([factor * (1 - top), factor * top], bit, width), pads, width)


def exponential_reach(bits: int, unit: int) -> int:
    """The largest exponent in real units of the public factors."""
    return min(24, -(-(1 << bits) // unit) + 1)


def exponential_factors(opened: Tensor, bits: int, unit: int, factor_bits: int) -> tuple[Tensor, Tensor]:
    """(A0, A1) from the opening x^ (``gates.exponential``)."""
    v = (opened + (1 << bits) - 1) & ((1 << (bits + 1)) - 1)
    top = (v >> bits).to(torch.bool)
    low = v & ((1 << bits) - 1)
    reach = exponential_reach(bits, unit)
    negative = exponential(low - ((1 << bits) - 1), unit, factor_bits, high=reach)
    positive = exponential(low + 1, unit, factor_bits, high=reach)
    return torch.where(top, positive, negative), torch.where(top, negative, positive)


def exponential_share(
    opened: Tensor, pieces: Sequence[RingPiece], gate: Gating | None, bits: int, unit: int, factor_bits: int
) -> Tensor:
    """A party's share of e^(x / unit), or of a bit times that, from its pieces of what ``exponential_masks`` gives."""
    zero, one = exponential_factors(opened, bits, unit, factor_bits)
    dealt = _chosen(pieces, gate)
    return (zero * dealt[0]).add_(one * dealt[1])
