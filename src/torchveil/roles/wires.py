"""What a role keeps of a value: a wire (share, opening, mask piece) or a bit wire (public flip, share of its mask).

A wire that is the image of another wire under a linear map takes its opening from there when one exists, and a sum may
follow the last of its terms in the same way: opening and mask go through the same public map as the value (rules O2).

Openings of fewer bits (gates.rounding, gates.opening, gates.lift). A *short* opening is that of a multiple of 2^k: 2^k
times what was opened modulo 2^(w-k), under 2^k times a mask that is a whole ring element. A *half* opening is known
modulo 2^(w-k), and the parties share the k bits above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from torchveil.errors import ProtocolError
from torchveil.kernels import combination, reduce_ring
from torchveil.kernels.linear_maps import LinearMap
from torchveil.randomness import Words

#: (opening or None, mask) of a wire that follows others, or None as long as one of them has no mask.
Faces = Callable[[], tuple[Tensor | None, Tensor] | None]


@dataclass(frozen=True, slots=True)
class Follow:
    """The wires that a wire follows, and how."""

    terms: Sequence[Wire]
    faces: Faces


@dataclass(frozen=True, slots=True)
class Short:
    """The mask (piece) of a short opening as a whole ring element, and the number k of bits that it is multiplied
    by."""

    mask: Tensor
    bits: int


@dataclass(frozen=True, slots=True)
class Half:
    """An opening known but for its upper ``bits`` bits: what it will lie under, and at a party what completes it.

    ``opening`` is the short opening that the quotient comes from, ``upper`` this party's share of the missing bits.
    """

    mask: Tensor
    bits: int
    opening: Tensor | None = None
    upper: Words | None = None


class Wire:
    """One value as one role sees it.

    party:    ``share`` [x]_i, and once opened ``opening`` x + l (equal at all parties) and ``mask`` [l]_i
    provider: no share, no opening; ``mask`` is l itself
    plain:    ``share`` is x; ``mask`` is l when masks are followed
    """

    __slots__ = ("_mask", "follow", "half", "opening", "parent", "share", "short", "via", "width")

    def __init__(
        self,
        share: Tensor | None,
        opening: Tensor | None = None,
        mask: Tensor | None = None,
        parent: Wire | None = None,
        via: LinearMap | None = None,
        width: int = 64,
        *,
        follow: Follow | None = None,
        half: Half | None = None,
    ) -> None:
        self.share = share
        self.opening = opening
        self._mask = mask
        self.parent = parent
        self.via = via
        self.width = width
        self.follow = follow
        self.half = half
        self.short: Short | None = None

    @property
    def mask(self) -> Tensor | None:
        """The mask (piece), if there is one; that of a short opening is computed when it is asked for."""
        if self._mask is None and self.short is not None:
            self._mask = reduce_ring(combination([self.short.mask], [1 << self.short.bits], 0), self.width)
        return self._mask

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        self._mask = mask

    def copy(self) -> Wire:
        """The same value as a wire of its own: what is opened of one later is not open of the other."""
        out = Wire(self.share, self.opening, self._mask, self.parent, self.via, self.width)
        out.follow, out.half, out.short = self.follow, self.half, self.short
        return out

    def open(self, opening: Tensor | None, mask: Tensor, bits: int = 0) -> None:
        """Take an opening under ``mask``, or a short one under 2^bits times ``mask``."""
        self.opening = opening
        self._mask, self.short = (None, Short(mask, bits)) if bits else (mask, None)
        self.parent = self.via = self.follow = None

    def forget_opening(self) -> None:
        """As if nothing had been opened."""
        self.opening = self._mask = self.short = self.parent = self.via = self.follow = None

    def resolve(self) -> bool:
        """Take opening and mask over from where they follow from; whether there is a mask now."""
        if self._mask is not None or self.short is not None:
            return True
        if self.follow is not None:
            faces = self.follow.faces()
            if faces is not None:
                self.open(*faces)
            return faces is not None
        parent, via = self.parent, self.via
        if parent is None or via is None or not parent.resolve():
            return False
        if parent.short is not None and via.picks:
            self.short = Short(via(parent.short.mask), parent.short.bits)
        else:
            self._mask = reduce_ring(via(parent.total_mask()), self.width)
        if parent.opening is not None:
            self.opening = reduce_ring(via(parent.opening), self.width)
        self.parent = self.via = None
        return True

    def layout(self) -> Tensor | None:
        """A tensor of the value's shape; None while this role has none."""
        if self.share is not None:
            return self.share
        return self._mask if self._mask is not None or self.short is None else self.short.mask

    def held(self) -> list[Tensor | Words]:
        """All that it keeps in memory."""
        found: list[Tensor | Words | None] = [self.share, self.opening, self._mask]
        if self.short is not None:
            found.append(self.short.mask)
        if self.half is not None:
            found += [self.half.mask, self.half.opening, self.half.upper]
        return [x for x in found if x is not None]

    def sources(self) -> list[Wire]:
        """The wires that it keeps because it follows them."""
        found = [] if self.parent is None else [self.parent]
        return found if self.follow is None else [*found, *self.follow.terms]

    def value(self) -> Tensor:
        if self.share is None:
            raise ProtocolError("the provider was asked for a share")
        return self.share

    def public(self) -> Tensor:
        """The opening of an opened wire."""
        if self.opening is not None:
            return self.opening
        if not self.resolve() or self.opening is None:
            raise ProtocolError("a gate needs an opening that was never made")
        return self.opening

    def short_mask(self, bits: int) -> Tensor:
        """The mask (piece) of a short opening before it was multiplied by 2^bits."""
        if not self.resolve() or self.short is None or self.short.bits != bits:
            raise ProtocolError("a gate needs a short opening that was never made")
        return self.short.mask

    def faces(self) -> tuple[Tensor, Tensor]:
        """(opening, mask piece) of an opened wire."""
        opening, mask = self.opening, self._mask
        if opening is not None and mask is not None:
            return opening, mask
        if not self.resolve() or self.opening is None or self.mask is None:
            raise ProtocolError("a gate needs an opening that was never made")
        return self.opening, self.mask

    def total_mask(self) -> Tensor:
        """The mask, at the provider."""
        if self._mask is not None:
            return self._mask
        if not self.resolve() or self.mask is None:
            raise ProtocolError("a gate needs the mask of a wire that was never opened")
        return self.mask


@dataclass(slots=True)
class BitWire:
    """A secret bit d = flip XOR r, elementwise.

    party:    ``flip`` is public (int64 0/1), ``mask`` is the arithmetic share [r]_i in the ring
    provider: ``flip`` is None, ``mask`` is r (0/1)
    plain:    ``value`` is d; flip and mask when masks are followed
    """

    flip: Tensor | None
    mask: Tensor | None
    value: Tensor | None = None

    def held(self) -> list[Tensor]:
        """All that it keeps in memory."""
        return [x for x in (self.flip, self.mask, self.value) if x is not None]

    def public_flip(self) -> Tensor:
        if self.flip is None:
            raise ProtocolError("a bit wire without an opening")
        return self.flip

    def secret(self) -> Tensor:
        if self.mask is None:
            raise ProtocolError("a bit wire without a mask")
        return self.mask
