"""What a role keeps of a value: a wire (share, opening, mask piece) or a bit wire (public flip, share of its mask).

A wire that is the image of another wire under a linear map takes its opening from there when one exists: opening and
mask go through the same public map as the value (rules O2).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchveil.errors import ProtocolError
from torchveil.kernels import reduce_ring
from torchveil.kernels.linear_maps import LinearMap


class Wire:
    """One value as one role sees it.

    party:    ``share`` [x]_i, and once opened ``opening`` x + l (equal at all parties) and ``mask`` [l]_i
    provider: no share, no opening; ``mask`` is l itself
    plain:    ``share`` is x; ``mask`` is l when masks are followed
    """

    __slots__ = ("mask", "opening", "parent", "share", "via", "width")

    def __init__(
        self,
        share: Tensor | None,
        opening: Tensor | None = None,
        mask: Tensor | None = None,
        parent: Wire | None = None,
        via: LinearMap | None = None,
        width: int = 64,
    ) -> None:
        self.share = share
        self.opening = opening
        self.mask = mask
        self.parent = parent
        self.via = via
        self.width = width

    def resolve(self) -> bool:
        """Take opening and mask over from the parent if it has them; whether there is a mask now."""
        if self.mask is not None:
            return True
        parent, via = self.parent, self.via
        if parent is None or via is None or not parent.resolve() or parent.mask is None:
            return False
        self.mask = reduce_ring(via(parent.mask), self.width)
        if parent.opening is not None:
            self.opening = reduce_ring(via(parent.opening), self.width)
        self.parent = self.via = None
        return True

    def value(self) -> Tensor:
        if self.share is None:
            raise ProtocolError("the provider was asked for a share")
        return self.share

    def faces(self) -> tuple[Tensor, Tensor]:
        """(opening, mask piece) of an opened wire."""
        if not self.resolve() or self.opening is None or self.mask is None:
            raise ProtocolError("a gate needs an opening that was never made")
        return self.opening, self.mask

    def total_mask(self) -> Tensor:
        """The mask, at the provider."""
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

    def public_flip(self) -> Tensor:
        if self.flip is None:
            raise ProtocolError("a bit wire without an opening")
        return self.flip

    def secret(self) -> Tensor:
        if self.mask is None:
            raise ProtocolError("a bit wire without a mask")
        return self.mask
