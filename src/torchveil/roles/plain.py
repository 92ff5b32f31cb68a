"""The clear reference: executes the same instruction stream on clear integers of the ring.

It is the meaning of a program. With the provider's masks it rounds exactly as the shares do (bit-equal); without them
it rounds to nearest, and shares agree with it up to each gate's declared units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from torchveil.errors import ProtocolError, RangeExceeded
from torchveil.kernels import reduce_ring, signed
from torchveil.roles.provider import Provider
from torchveil.roles.tables import Tables
from torchveil.roles.wires import BitWire, Wire


class Plain(Tables):
    """Clear values of all wires. ``masks`` is the provider whose masks are followed, or None.

    Where masks are followed, ``last_share`` gives the last party's share of a wire: the coin of a rounding on shares.
    """

    __slots__ = ("inputs", "last_share", "masks", "strict", "width")

    def __init__(
        self,
        masks: Provider | None = None,
        *,
        width: int = 64,
        strict: bool = False,
        last_share: Callable[[int], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.masks = masks
        self.last_share = last_share
        self.width = width
        self.strict = strict
        self.inputs: list[Tensor] = []

    def value(self, x: int) -> Tensor:
        return self.wires[x].value()

    def bit(self, b: int) -> Tensor:
        value = self.bits[b].value
        if value is None:
            raise ProtocolError("a clear bit wire without a value")
        return value

    def set(self, out: int, value: Tensor) -> None:
        self.wires[out] = Wire(reduce_ring(value, self.width))

    def set_bit(self, out: int, value: Tensor) -> None:
        self.bits[out] = BitWire(None, None, value)

    def mask(self, x: int) -> Tensor | None:
        """The mask of an opened wire when masks are followed."""
        return None if self.masks is None else self.masks.wires[x].total_mask()

    def require(self, values: Tensor, low: int, high: int, op: str, remedy: str) -> None:
        """Debug mode: every signed value lies in [low, high], or ``RangeExceeded`` names the operation."""
        if not self.strict or values.numel() == 0:
            return
        clear = signed(values, self.width)
        if int(clear.max()) > high or int(clear.min()) < low:
            raise RangeExceeded(f"a value left the range of {op}", op=op, remedy=remedy)

    def abandon(self, outs: tuple[int, ...]) -> None:
        """Forget everything about an instruction that failed."""
        self.inputs.clear()
        self.free(outs)

    def require_product(self, magnitude: Tensor, op: str) -> None:
        """Debug mode: no product of the real magnitudes (float64) leaves the ring."""
        if self.strict and magnitude.numel() and float(magnitude.abs().max()) >= 2.0 ** (self.width - 1):
            raise RangeExceeded(
                f"a product left the ring of 2**{self.width}",
                op=op,
                remedy="use fewer digits or smaller values: |x*y| * scale**2 must stay below 2**62",
            )
