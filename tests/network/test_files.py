"""Files appear whole, private from their first moment, and replace nothing unasked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from torchveil.network.files import PUBLIC, open_to_others, replace, write_new


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_private_file_is_private_whatever_the_process_allows(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_new(tmp_path / "new", b"key")
        replace(tmp_path / "other", b"key")
    finally:
        os.umask(before)
    for name in ("new", "other"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600 and not open_to_others(tmp_path / name)


def test_nothing_is_overwritten_or_followed(tmp_path: Path) -> None:
    write_new(tmp_path / "new", b"first")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("new", "link"):
        with pytest.raises(FileExistsError):
            write_new(tmp_path / name, b"second")
    assert (tmp_path / "new").read_bytes() == b"first" and not (tmp_path / "elsewhere").exists()


def test_replacing_leaves_the_old_file_if_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(tmp_path / "file", b"first", PUBLIC)
    replace(tmp_path / "file", b"second", PUBLIC)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            replace(tmp_path / "file", b"third")
    assert (tmp_path / "file").read_bytes() == b"second" and [file.name for file in tmp_path.iterdir()] == ["file"]
