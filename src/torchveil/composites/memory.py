"""What would touch the memory of a secret, or move it to another device: a secret has neither here.

torch answers some of these with a null pointer, which its reader follows, and others before anything is dispatched: all
of them are refused by name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import COMPOSITES, replaces
from torchveil.errors import SessionStateError, UnsupportedOperation

_MEMORY = {
    ".data_ptr()": torch.Tensor.data_ptr,
    ".untyped_storage()": torch.Tensor.untyped_storage,
    ".storage()": torch.Tensor.storage,
    "._typed_storage()": torch.Tensor._typed_storage,
    "DLPack": torch.Tensor.__dlpack__,
    ".tolist()": torch.Tensor.tolist,
    ".numpy()": torch.Tensor.numpy,
}


def _reading(how: str, function: Any) -> Any:
    def refuse(x: Any, *args: Any, **kwargs: Any) -> Any:
        x.session.refuse_reading(how)
        # in a session without values
        return function(torch.zeros(tuple(x.shape), dtype=x.dtype), *args, **kwargs)

    return refuse


COMPOSITES.update({function: _reading(how, function) for how, function in _MEMORY.items()})


@replaces(torch.Tensor.share_memory_)
def share_memory(_x: Tensor) -> Any:
    raise SessionStateError(
        "a secret cannot be moved to shared memory",
        op="share_memory_",
        remedy="use DataLoader(num_workers=0) and one process",
    )


@replaces(torch.Tensor.pin_memory)
def pin_memory(_x: Tensor, *_device: Any) -> Any:
    raise UnsupportedOperation(
        "a secret has no memory here that could be pinned",
        op="pin_memory",
        remedy="remove it: secrets live on the roles; DataLoader(pin_memory=False)",
    )


@replaces(torch.Tensor.is_pinned)
def is_pinned(_x: Tensor, *_device: Any) -> bool:
    return False


@replaces(torch.Tensor.apply_, torch.Tensor.map_)
def apply(_x: Tensor, *_arguments: Any) -> Any:
    raise UnsupportedOperation(
        "a function of Python would read every element of a secret",
        op="apply_",
        remedy="write it as operations on the tensor",
    )


def no_copy_on(device: Any, operation: str = "to") -> UnsupportedOperation:
    """The refusal of a move."""
    return UnsupportedOperation(
        f"a secret has no copy on {device}",
        op=operation,
        remedy="remove the move: secrets live on the roles, whose own machines compute; here they are on the cpu",
    )


def _device_of(where: Any) -> torch.device | None:
    if isinstance(where, Tensor | torch.device):
        return where.device if isinstance(where, Tensor) else where
    if isinstance(where, bool) or not isinstance(where, str | int):
        return None
    try:
        return torch.device(where)
    except RuntimeError:  # not a device's name, or a number where there is no accelerator
        return torch.device("cuda", where) if isinstance(where, int) else None


@replaces(torch.Tensor.to)
def to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    where = args[0] if args else kwargs.get("device", kwargs.get("other"))
    device = _device_of(where)
    if device is not None and device.type != "cpu":
        raise no_copy_on(device)
    return x.to(*args, **kwargs)


def _moving(kind: str) -> Any:
    def refuse(_x: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        raise no_copy_on(kind, kind)

    return refuse


_KINDS = ("cuda", "xpu", "mtia", "ipu", "hpu")
COMPOSITES.update({getattr(torch.Tensor, kind): _moving(kind) for kind in _KINDS if hasattr(torch.Tensor, kind)})
