"""``public(x)``: the explicit word that a plain tensor may be known to all parties."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchveil.errors import InvalidArgument


class PublicTensor(torch.Tensor):
    """A plain tensor that may meet secrets: every party learns it (the provider never does)."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
        # What follows from public tensors alone is public; a secret result stays what it is.
        return out.as_subclass(cls) if type(out) is torch.Tensor else out


def public(x: Tensor) -> PublicTensor:
    """Declare that every party may know ``x``. Raises ``InvalidArgument`` for something that is not a plain tensor."""
    if not isinstance(x, Tensor) or type(x) not in (torch.Tensor, torch.nn.Parameter, PublicTensor):
        raise InvalidArgument(
            "only a plain tensor can be declared public", remedy="reveal a secret first if it may be known"
        )
    return x.detach().as_subclass(PublicTensor)
