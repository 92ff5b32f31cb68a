"""The key of a store: 32 bytes of the operating system's randomness in a file that its owner alone may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from torchveil.errors import StorageError
from torchveil.randomness import os_bytes
from torchveil.storage.files import replacing, storing

KEY_BYTES = 32


def load_key(path: Path) -> bytes:
    """The key in ``path``. Raises ``StorageError`` if there is no plain file of 32 bytes, or others may read it."""
    with (
        storing("reading a store's key"),
        open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file,
    ):
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise StorageError(f"{path} is no plain file", remedy="name the file that holds the store's key")
        if facts.st_mode & 0o077:
            raise StorageError(f"others may read the key in {path}", remedy=f"chmod 600 {path}, and think who read it")
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise StorageError(f"{path} does not hold a key of {KEY_BYTES} bytes", remedy="restore it from a backup")
    return key


def load_or_create_key(path: Path) -> bytes:
    """The key in ``path``, made if there is none. Raises what ``load_key`` raises.

    Without this file nothing that was stored under it can be read: keep a copy apart from the stored files.
    """
    if not path.exists():
        with storing("writing a store's key"), replacing(path, first=True) as file:
            file.write(os_bytes(KEY_BYTES))
    return load_key(path)
