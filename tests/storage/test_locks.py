"""Locks of files: whoever waits for one waits for a while only."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from torchveil.errors import StorageError
from torchveil.network.consent.store import Store
from torchveil.storage import files


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def test_a_lock_that_stays_is_an_error_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held, other = opened(path), opened(path)
    try:
        files.lock(held, path)
        began = time.monotonic()
        with pytest.raises(StorageError, match="locked by somebody else"):
            files.lock(other, path, 0.2)
        assert 0.2 <= time.monotonic() - began < files.LOCK_S / 2
    finally:
        os.close(held)
        files.lock(other, path, 0.2)  # free again
        os.close(other)


def test_a_lock_that_goes_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held, other = opened(path), opened(path)
    files.lock(held, path)
    timer = threading.Timer(0.2, os.close, (held,))
    timer.start()
    files.lock(other, path, 60.0)
    os.close(other)
    timer.join(5)


def test_consent_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stands still while it has the lock: nothing is released meanwhile, and the session ends."""
    monkeypatch.setattr("torchveil.network.consent.store.lock", partial(files.lock, timeout_s=0.2))
    store = Store(tmp_path)
    with store.change():
        for use in (store.look, lambda: store.change().__enter__()):
            with pytest.raises(StorageError):
                use()
    store.look()


def test_a_partial_file_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock(descriptor: int, path: Path) -> None:
        holder.append(os.open(path, os.O_RDONLY))
        files_lock(holder[-1], path)
        files_lock(descriptor, path, 0.1)

    holder: list[int] = []
    files_lock = files.lock
    monkeypatch.setattr(files, "lock", lock)
    with pytest.raises(StorageError), files.replacing(tmp_path / "x"):
        raise AssertionError
    os.close(holder[0])
    monkeypatch.undo()
    with files.replacing(tmp_path / "x") as file:
        file.write(b"y")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
