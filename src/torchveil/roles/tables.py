"""What every role has: a table of wires, a table of bit wires, and the ways entries come and go without a gate."""

from __future__ import annotations

from torchveil.errors import ProtocolError
from torchveil.roles.wires import BitWire, Wire


class Tables:
    """The wires and bit wires of one role, by identifier."""

    __slots__ = ("bits", "wires")

    def __init__(self) -> None:
        self.wires: dict[int, Wire] = {}
        self.bits: dict[int, BitWire] = {}

    def alias(self, new: int, old: int, *, apart: bool = False) -> None:
        """``new`` names the same wire as ``old``: an opening that one gets, the other has, unless ``apart``."""
        if old in self.wires:
            self.wires[new] = self.wires[old].copy() if apart else self.wires[old]
        elif old in self.bits:
            self.bits[new] = self.bits[old]
        else:
            raise ProtocolError(f"there is no wire {old}")

    def free(self, xs: tuple[int, ...]) -> None:
        """Forget wires; unknown ones are ignored, since an instruction that failed may not have made them."""
        wires, bits = self.wires, self.bits
        for x in xs:
            if wires.pop(x, None) is None:
                bits.pop(x, None)

    def forget(self) -> None:
        """Forget all."""
        self.wires.clear()
        self.bits.clear()
