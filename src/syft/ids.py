"""Ids of objects and pointers: whole numbers of at most 11 digits. They name things, they protect nothing."""

from __future__ import annotations

import hashlib

from torchveil.randomness import os_bytes

_ID_LIMIT = 10**11


class IdProvider:
    """Draws ids, from the OS or, after ``seed``, reproducibly (for documentation and tests)."""

    __slots__ = ("_drawn", "_seed")

    def __init__(self) -> None:
        self._seed: int | None = None
        self._drawn = 0

    def seed(self, seed: int | None) -> None:
        """Make the ids that follow a function of ``seed``; None goes back to the OS."""
        self._seed = seed
        self._drawn = 0

    def draw(self) -> int:
        """A fresh id."""
        if self._seed is None:
            return int.from_bytes(os_bytes(16), "big") % _ID_LIMIT
        self._drawn += 1
        digest = hashlib.blake2b(f"{self._seed}/{self._drawn}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % _ID_LIMIT
