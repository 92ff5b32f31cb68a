"""All secret randomness: AES-128 in counter mode under keys from the operating system, read by position.

Theory of operation. A ``Stream`` is one key. A *label* is (instruction number, slot); the counter block is
8 bytes of ``number << 16 | slot`` followed by 8 bytes of block index that start at 0, so that two labels never share a
block (a label in the low counter bytes would make neighbouring labels shifted copies of one stream). Reading a label
twice gives the same bytes: who may *use* it twice is the business of ``roles.ledger``.

Nothing else in the package draws secret randomness, and a test bans ``torch.rand*``, ``random`` and ``numpy.random``.
Source of the primitive: NIST SP 800-38A, section 6.5 (CTR); key derivation: RFC 5869 (HKDF-SHA256).
"""

from __future__ import annotations

import hmac
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from torchveil.errors import ProtocolError

Bits = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]

_MAX_NUMBER = 2**48
_MAX_SLOT = 2**16
_CHUNK = 1 << 20
_ZEROS = memoryview(bytes(_CHUNK))


def os_bytes(n_bytes: int) -> bytes:
    """Bytes from the operating system's generator."""
    return os.urandom(n_bytes)


def derive_key(secret: bytes, *info: str | bytes, n_bytes: int = 16) -> bytes:
    """A key of ``n_bytes``: HKDF-SHA256 of ``secret`` with the length-prefixed parts of ``info``."""
    parts = [part.encode() if isinstance(part, str) else part for part in info]
    joined = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return HKDF(algorithm=hashes.SHA256(), length=n_bytes, salt=None, info=joined).derive(secret)


def tied_keys(key: bytes, state: bytes) -> tuple[bytes, ...]:
    """Four keys of 16 bytes that follow from a key and a digest: HMAC-SHA512, cut. A few microseconds."""
    derived = hmac.digest(key, state, "sha512")
    return tuple(derived[at : at + 16] for at in range(0, 64, 16))


class Stream:
    """One key's keystream, addressed by label. Its repr shows nothing; copying or pickling it raises."""

    __slots__ = ("_cipher", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher: Any = None  # made at its first use: a stream may be used once or never

    def _fill(self, number: int, slot: int, out: memoryview) -> None:
        if not (0 <= number < _MAX_NUMBER and 0 <= slot < _MAX_SLOT):
            raise ProtocolError("a label is outside its 48 + 16 bits", remedy="start a new session")
        if self._cipher is None:
            self._cipher = Cipher(algorithms.AES(self._key), modes.CTR(bytes(16))).encryptor()
        self._cipher.reset_nonce((number << 16 | slot).to_bytes(8, "big") + bytes(8))
        for start in range(0, len(out), _CHUNK):
            piece = out[start : start + _CHUNK]
            self._cipher.update_into(_ZEROS[: len(piece)], piece)

    def ring(self, number: int, slot: int, shape: tuple[int, ...], width: int) -> Tensor:
        """Uniform elements of Z_2^width, as a contiguous int64 tensor of ``shape``."""
        out = torch.empty(shape, dtype=torch.int64)
        if out.numel():
            self._fill(number, slot, out.view(-1).numpy().data.cast("B"))
        return out if width == 64 else out.bitwise_and_((1 << width) - 1)

    def bits(self, number: int, slot: int, shape: tuple[int, ...]) -> Bits:
        """Uniform bytes (eight packed bits each) as an array of ``shape``."""
        out = np.empty(shape, dtype=np.uint8)
        if out.size:
            self._fill(number, slot, out.reshape(-1).data.cast("B"))
        return out

    def words(self, number: int, slot: int, shape: tuple[int, ...], valid: int) -> Words:
        """Uniform 16-bit words of which only the low ``valid`` bits are kept."""
        out = np.empty(shape, dtype=np.uint16)
        if out.size:
            self._fill(number, slot, out.reshape(-1).data.cast("B"))
        return out if valid == 16 else np.bitwise_and(out, np.uint16((1 << valid) - 1), out=out)

    def __repr__(self) -> str:
        return "<Stream>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ProtocolError("a randomness stream cannot be copied or pickled", remedy="open a new session")
