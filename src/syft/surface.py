"""What this package decides for its sessions: how secrets print, and that a plain tensor that meets one is shared."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from syft.pointers import PointerTensor, common_location
from syft.precision import FixedPrecisionTensor
from syft.printing import chain
from torchveil import EncryptedTensor, FixedPoint, Session


class SyftSurface:
    """The ``surface`` of a session that ``share`` opened. ``finest`` is the finest precision shared in it so far."""

    boolean_text = "Additive shared tensors can't be converted boolean values. You should decrypt it first."

    def __init__(self, session: Session) -> None:
        self._session = session
        self.finest = session.fixed_point

    def saw(self, fixed_point: FixedPoint) -> None:
        """Note the precision of something that is being shared."""
        if fixed_point.scale > self.finest.scale:
            self.finest = fixed_point

    def show(self, x: Any) -> str:
        return chain(x)

    def adopt(self, x: Tensor, like: EncryptedTensor) -> EncryptedTensor:
        """Share a plain tensor that met a secret: whole numbers exactly, others with the finest precision in use."""
        if isinstance(x, PointerTensor):
            common_location("an operation on shares", [x, like])
        if isinstance(x, FixedPrecisionTensor):
            return self._session.share(x.decoded(), fixed_point=x.fixed_point)
        return self._session.share(x.detach(), fixed_point=self.finest if x.is_floating_point() else None)
