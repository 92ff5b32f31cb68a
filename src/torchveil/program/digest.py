"""The running digest of a stream of encoded instructions: two roles have the same one if they got the same stream."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from struct import Struct

from torchveil.program.tensors import Buffer

_HEAD = Struct(">QQQ").pack
_LENGTH = Struct(">Q").pack


class StreamDigest:
    """SHA-256 of the chain over (number, structure, buffers); numbers count the updates from 0.

    d_0 = SHA-256 of the name of the chain; d_(k+1) = SHA-256(d_k | k | lengths | structure | length and bytes of each
    buffer). Every length is part of what is hashed, so that no two streams have the same input.
    """

    __slots__ = ("_count", "_state")

    def __init__(self) -> None:
        self._count = 0
        self._state = sha256(b"torchveil stream 1").digest()

    def update(self, structure: bytes, buffers: Sequence[Buffer] = ()) -> None:
        """Take the next instruction, as ``encode`` gave it or as it came."""
        head = _HEAD(self._count, len(structure), len(buffers))
        running = sha256(self._state + head + structure)
        for buffer in buffers:
            data = memoryview(buffer)
            running.update(_LENGTH(data.nbytes))
            running.update(data)
        self._state = running.digest()
        self._count += 1

    @property
    def count(self) -> int:
        """How many instructions were taken."""
        return self._count

    @property
    def value(self) -> bytes:
        """The first 8 bytes of the digest, for headers of frames on authenticated links."""
        return self._state[:8]

    @property
    def full(self) -> bytes:
        """The digest, 32 bytes."""
        return self._state
