"""Tensors one after another in the layout of safetensors, written and read piece by piece.

8 bytes of length, a JSON header that names dtype, shape and place of every tensor, the elements in C order, little
endian. The library of that name reads what ``pieces`` gives; it wants all of it in memory at once, which we do not.
Source: the format's description, https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Protocol

import msgspec
import torch
from torch import Tensor

from torchveil.errors import InvalidArgument, StorageError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

#: A header that is longer is none of ours.
MAX_HEADER = 64 << 20


class _Info(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


_DECODER = msgspec.json.Decoder(dict[str, _Info])


class Source(Protocol):
    """What tensors are read from."""

    @property
    def remaining(self) -> int: ...

    def read(self, n_bytes: int) -> bytes: ...

    def read_into(self, out: memoryview) -> None: ...


def _bytes_of(x: Tensor) -> memoryview:
    """The elements of a contiguous tensor as bytes, not copied."""
    return x.reshape(-1).view(torch.uint8).numpy().data if x.numel() else memoryview(b"")


def require_storable(name: str, x: Tensor) -> None:
    """Raise ``InvalidArgument`` for a tensor that the format cannot hold."""
    if x.dtype not in _NAMES or x.layout is not torch.strided or x.device.type == "meta":
        raise InvalidArgument(
            f"{name} is a tensor of {x.dtype}, {x.layout}, on {x.device}: that cannot be stored",
            op="save",
            remedy=f"convert it to a dense tensor of one of {', '.join(str(dtype) for dtype in _NAMES)}",
        )


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The file of ``tensors``, part by part: large elements first, so that all lie aligned."""
    if sys.byteorder != "little":
        raise StorageError("tensors are stored in little endian order, which this machine does not use")
    infos: dict[str, _Info] = {}
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    end = 0
    for name in order:
        x = tensors[name]
        require_storable(name, x)
        start, end = end, end + x.numel() * x.element_size()
        infos[name] = _Info(_NAMES[x.dtype], tuple(x.shape), (start, end))
    header = msgspec.json.encode(infos)
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for name in order:
        yield _bytes_of(tensors[name].detach().cpu().contiguous())


def read_tensors(source: Source) -> dict[str, Tensor]:
    """The tensors of a file that is nothing but what ``pieces`` gives. Raises ``ValueError`` for anything else.

    Sizes are compared with what is there before memory is taken.
    """
    size = int.from_bytes(source.read(8), "little")
    if size > min(MAX_HEADER, source.remaining):
        raise ValueError("a header longer than its file")
    infos = _DECODER.decode(source.read(size))
    end = 0
    for info in infos.values():
        start = end
        dtype = DTYPES.get(info.dtype)
        if dtype is None or any(n < 0 for n in info.shape):
            raise ValueError("a tensor of an unknown kind")
        end += math.prod(info.shape) * dtype.itemsize
        if info.data_offsets != (start, end):
            raise ValueError("tensors that do not lie one after another")
    if end != source.remaining:
        raise ValueError("tensors that do not fill their file")
    out: dict[str, Tensor] = {}
    for name, info in infos.items():
        x = torch.empty(info.shape, dtype=DTYPES[info.dtype])
        source.read_into(_bytes_of(x))
        out[name] = x
    return out
