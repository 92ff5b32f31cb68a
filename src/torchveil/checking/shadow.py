"""A session without values: encrypted tensors that have shapes only, so that a program can be tried before any share.

Every rule of the lowering table runs as it would; what it submits is counted and not computed (``drivers.shapes``).
What would read a secret is noted, and the program goes on with a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from torchveil.drivers.shapes import ShapesDriver
from torchveil.engine import reading_refused
from torchveil.errors import RevealRequired, StorageError
from torchveil.fixedpoint import FixedPoint
from torchveil.handle import Bit, Secret
from torchveil.session import Session
from torchveil.storage import Checkpoint, Place
from torchveil.tensor import EncryptedTensor, wrap


class Shadow(Session):
    """A session whose tensors nobody can read because they are not there.

    ``reading``: told of every attempt to read a secret. A reveal is counted and gives zeros.
    """

    def __init__(
        self,
        parties: Sequence[str],
        provider: str,
        fixed_point: FixedPoint | None,
        reading: Callable[[RevealRequired], None],
    ) -> None:
        super().__init__(parties, provider, fixed_point=fixed_point, backend="shapes")
        self._reading = reading

    def _make_driver(self, backend: str, debug: bool) -> ShapesDriver:
        self._shapes = ShapesDriver(len(self.parties))
        return self._shapes

    def input(self, values: Tensor, number_format: FixedPoint | None = None) -> Secret:
        """A shared tensor of the shape of ``values``, which may be on the meta device and is not looked at."""
        number_format = number_format or self.fixed_point
        raw = torch.empty(values.shape, dtype=torch.int64, device="meta")
        return self.input_raw(raw, number_format.scale, number_format)

    def refuse_reading(self, how: str, text: str = "") -> None:
        """Note it, and let the caller go on with a zero."""
        self._reading(reading_refused(how, text))

    def store(self, checkpoint: Checkpoint, values: Mapping[str, Secret], place: Place) -> None:
        """Nothing is there to be stored."""
        raise StorageError("a program that is only checked has nothing to save", remedy="save in a session")

    def invent(self, like: Tensor) -> EncryptedTensor:
        """A tensor of the shape, strides and dtype of ``like`` at no cost: the result of what has no rule."""
        identifier = self.new_id()
        self._shapes.invent(identifier, like)
        if like.dtype is torch.bool:
            return wrap(Bit(self, identifier, tuple(like.shape)))
        number_format = self.fixed_point if like.dtype.is_floating_point else FixedPoint(2, 0)
        return wrap(self.wire(identifier, number_format.scale, number_format), like.dtype)


__all__ = ["Shadow"]
