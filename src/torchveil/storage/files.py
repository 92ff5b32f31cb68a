"""Files that are there as a whole or not at all: written aside, forced to disk, then renamed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import BinaryIO

from torchveil.errors import StorageError
from torchveil.randomness import os_bytes

_PARTIAL = ".partial"

#: How long to wait for a lock that others have for moments.
LOCK_S = 10.0


#: What to do about errors of the operating system that come from a path and not from the disk.
_REMEDIES: tuple[tuple[tuple[type[OSError], ...], str], ...] = (
    ((FileExistsError, NotADirectoryError), "there is a file where a folder has to be: name another folder"),
    ((FileNotFoundError,), "check the path: nothing is there, or nothing can be made there"),
)


@contextmanager
def storing(what: str) -> Iterator[None]:
    """What the operating system refuses (a full disk, missing rights) as a ``StorageError``."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{what} failed: {error.strerror or type(error).__name__}",
            remedy=next(
                (remedy for kinds, remedy in _REMEDIES if isinstance(error, kinds)),
                "check the disk, its space and its rights",
            ),
        ) from error


def make_directory(directory: Path) -> None:
    """The directory and those above it; what has to be made is for its owner alone, and on disk when this returns."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Force names in a directory to disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, path: Path, timeout_s: float = LOCK_S) -> None:
    """Wait until nobody else has this open file locked, and lock it until it is closed.

    Raises ``StorageError`` if that takes longer: whoever has it does not do what takes moments, or hangs.
    """
    deadline, pause_s = monotonic() + timeout_s, 0.0005
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if monotonic() > deadline:
            raise StorageError(
                f"{path} is locked by somebody else for more than {timeout_s:g} s",
                remedy="see which process has it open (fuser) and end that, if it hangs",
            )
        sleep(pause_s)
        pause_s = min(2 * pause_s, 0.01)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Let no other process, nor another block of this one, be in such a block for ``directory`` at the same time.

    Raises ``StorageError`` at once if one is. Whoever is killed has left the block.
    """
    with storing(f"opening {directory}"):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"somebody else is writing into {directory}", remedy="save into another folder"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, first: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` when the block ends; after an error ``path`` is as before.

    With ``first`` a file that is there by then stays. Readable by its owner alone. Remains of a writer that was killed
    are cleared away.
    """
    make_directory(path.parent)
    prefix = f".{path.name}."
    for old in path.parent.glob(f"{prefix}*{_PARTIAL}"):
        _clear(old)
    aside, descriptor = _aside(path.parent / prefix)
    with os.fdopen(descriptor, "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if first:
                with suppress(FileExistsError):
                    path.hardlink_to(aside)
                aside.unlink()
            else:
                aside.rename(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
    sync_directory(path.parent)


def _aside(prefix: Path) -> tuple[Path, int]:
    """A new file beside the others, locked as long as it is open."""
    while True:
        path = prefix.with_name(f"{prefix.name}{os_bytes(8).hex()}{_PARTIAL}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            lock(descriptor, path)
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # somebody who clears remains was here before the lock


def _clear(old: Path) -> None:
    """Remove what nobody is writing any more: who writes has it locked."""
    with suppress(OSError), old.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        old.unlink()
