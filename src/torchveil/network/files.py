"""Files that appear whole or not at all: new ones that replace nothing, and replacements in one step.

``PRIVATE`` files are created with that mode, never made private afterwards: there is no moment at which somebody else
could open them.
"""

from __future__ import annotations

import os
from pathlib import Path

from torchveil.randomness import os_bytes

PRIVATE = 0o600
PUBLIC = 0o644
#: What others of the machine may not do with a private file. Its group may read it, as service managers arrange it.
_FORBIDDEN = 0o027


def write_new(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write a file that did not exist; raises ``FileExistsError`` if it does, a dangling link included."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write a file that may exist: whoever reads it finds the old bytes or the new ones, also after a crash."""
    beside = path.with_name(f".{path.name}.{os_bytes(6).hex()}")
    try:
        write_new(beside, data, mode)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def open_to_others(path: Path) -> bool:
    """Whether users outside of the file's group may do anything with it, or the group may change it."""
    return bool(path.stat().st_mode & _FORBIDDEN)
