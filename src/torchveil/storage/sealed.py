"""A sealed file: a stream of bytes encrypted and authenticated in chunks, so that large ones need little memory.

Format. 16 bytes that name it, 32 random bytes of salt, then chunks of at most ``CHUNK`` bytes, each followed by its tag
of 16 bytes; all but the last are full. The key of a file is HKDF-SHA256(store key; salt): no two files share one. A
chunk is AES-256-GCM under the nonce (7 zero bytes, 4 bytes of its number, 1 byte that is 1 for the last), so chunks
that are moved, repeated or left out, and a file that is cut or prolonged, fail at the tag.
What a thief without the key learns: the length, the time, the name of the file.
Source: the STREAM construction, Hoang, Reyhanitabar, Rogaway, Vizar, CRYPTO'15.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from torchveil.errors import CheckpointInvalid, StorageError
from torchveil.randomness import derive_key, os_bytes

MAGIC = b"torchveil-seal-1"
CHUNK = 1 << 20
_SALT = 32
_TAG = 16
_HEAD = len(MAGIC) + _SALT
_MAX_CHUNKS = 2**32


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(derive_key(key, "torchveil sealed file", salt, n_bytes=32))


def _nonce(number: int, last: bool) -> bytes:
    return bytes(7) + number.to_bytes(4, "big") + bytes([last])


def damaged(path: str) -> CheckpointInvalid:
    """The error for bytes that do not fit the key."""
    return CheckpointInvalid(
        f"{path} cannot be opened: it is damaged, cut, or sealed under another key",
        remedy="restore the file and the key that belongs to it from a backup, or load another checkpoint",
    )


class SealedWriter:
    """Seals what is written, in order; ``finish`` must be called, or the file cannot be opened."""

    def __init__(self, file: BinaryIO, key: bytes) -> None:
        salt = os_bytes(_SALT)
        self._file = file
        self._cipher = _cipher(key, salt)
        self._buffer = bytearray(CHUNK)
        self._filled = 0
        self._number = 0
        file.write(MAGIC + salt)

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while len(view):
            if self._filled == CHUNK:  # only now is it known that it is not the last
                self._seal(last=False)
            taken = min(CHUNK - self._filled, len(view))
            self._buffer[self._filled : self._filled + taken] = view[:taken]
            self._filled += taken
            view = view[taken:]

    def finish(self) -> None:
        self._seal(last=True)

    def _seal(self, *, last: bool) -> None:
        if self._number == _MAX_CHUNKS:
            raise StorageError("a sealed file cannot have more than 2**32 chunks", remedy="save fewer tensors at once")
        chunk = memoryview(self._buffer)[: self._filled]
        self._file.write(self._cipher.encrypt(_nonce(self._number, last), chunk, MAGIC))
        self._number += 1
        self._filled = 0


class SealedReader:
    """Opens a sealed file from the front. Raises ``CheckpointInvalid`` at the first byte that is not as written.

    ``remaining``: how many bytes can still be read, computed from the length of the file.
    """

    def __init__(self, file: BinaryIO, key: bytes, path: str) -> None:
        self._file = file
        self._path = path
        body = os.fstat(file.fileno()).st_size - _HEAD
        head = file.read(_HEAD)
        self._chunks = -(-body // (CHUNK + _TAG))
        self.remaining = body - _TAG * self._chunks
        if body < _TAG or head[: len(MAGIC)] != MAGIC or self._chunks > _MAX_CHUNKS:
            raise damaged(path)
        self._cipher = _cipher(key, head[len(MAGIC) :])
        self._opened = memoryview(b"")
        self._number = 0

    def read_into(self, out: memoryview) -> None:
        """Fill ``out``."""
        if len(out) > self.remaining:
            raise damaged(self._path)
        self.remaining -= len(out)
        while len(out):
            if not self._opened:
                self._opened = memoryview(self._next())
            taken = min(len(self._opened), len(out))
            out[:taken] = self._opened[:taken]
            self._opened, out = self._opened[taken:], out[taken:]

    def read(self, n_bytes: int) -> bytes:
        if n_bytes > self.remaining:
            raise damaged(self._path)
        out = bytearray(n_bytes)
        self.read_into(memoryview(out))
        return bytes(out)

    def _next(self) -> bytes:
        last = self._number == self._chunks - 1
        sealed = self._file.read(CHUNK + _TAG)
        try:
            chunk = self._cipher.decrypt(_nonce(self._number, last), sealed, MAGIC)
        except InvalidTag:
            raise damaged(self._path) from None
        self._number += 1
        if not chunk:
            raise damaged(self._path)
        return chunk


__all__ = ["CHUNK", "SealedReader", "SealedWriter", "damaged"]
