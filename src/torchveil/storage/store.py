"""One role's tensors on disk: a directory of sealed files, each with a manifest and tensors in the safetensors layout.

Whoever holds the directory and not the key learns names, lengths and times of files, and can delete them or bring old
ones back, which ``save_id`` and ``generation`` of a manifest show; anything else that is changed raises.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec
from torch import Tensor

from torchveil.errors import CheckpointInvalid, InvalidArgument
from torchveil.storage.files import replacing, storing, sync_directory
from torchveil.storage.keys import KEY_BYTES
from torchveil.storage.layout import MAX_HEADER, pieces, read_tensors
from torchveil.storage.manifest import Manifest
from torchveil.storage.sealed import SealedReader, SealedWriter, damaged

_SUFFIX = ".sealed"
_DECODER = msgspec.json.Decoder(Manifest)
#: One part of a name; parts are joined by a slash, which is "=" in the file's name.
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_MAX_NAME = 200


def check_name(name: str) -> str:
    """``name``, if it may name a stored file: letters, digits, ``_``, ``.``, ``-``, and slashes between parts.

    Raises ``InvalidArgument`` otherwise, so that no name leads out of a store's directory.
    """
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{name[:_MAX_NAME]!r} cannot be the name of something stored",
            op="store",
            remedy=f"use at most {_MAX_NAME} letters, digits, _ . - and / between parts, none of . and - first",
        )
    return name


def path_of(directory: Path, name: str) -> Path:
    """Where a store in ``directory`` keeps ``name``."""
    return directory / (check_name(name).replace("/", "=") + _SUFFIX)


class _Hashed:
    """A reader that digests what it reads."""

    def __init__(self, source: SealedReader) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    @property
    def remaining(self) -> int:
        return self._source.remaining

    def read(self, n_bytes: int) -> bytes:
        out = self._source.read(n_bytes)
        self.digest.update(out)
        return out

    def read_into(self, out: memoryview) -> None:
        self._source.read_into(out)
        self.digest.update(out)


class ShareStore:
    """The tensors that one role keeps below ``directory``, sealed under ``key`` (32 bytes).

    party, cluster: whose store it is; if given, a file that says something else raises when it is read. Files are made
    for their owner alone (0600). Writing keeps one chunk in memory beside the tensors, reading the tensors and one
    chunk. Raises ``StorageError`` when the operating system refuses.
    """

    def __init__(self, directory: Path, key: bytes, *, party: str = "", cluster: str = "") -> None:
        if len(key) != KEY_BYTES:
            raise InvalidArgument(f"a store's key has {KEY_BYTES} bytes", op="store", remedy="use load_or_create_key")
        self.directory = Path(directory)
        self._key = key
        self._party = party
        self._cluster = cluster

    def write(self, name: str, tensors: Mapping[str, Tensor], manifest: Manifest) -> Manifest:
        """Store ``tensors`` under ``name`` in place of what was there; the manifest with name and digest.

        The new file is complete on disk before it takes the old one's place. ``manifest.entries`` names the tensors.
        """
        path = path_of(self.directory, name)
        if set(tensors) != set(manifest.entries):
            raise InvalidArgument("the manifest names other tensors than there are", op="store")
        digest = hashlib.sha256()
        for piece in pieces(tensors):
            digest.update(piece)
        manifest = msgspec.structs.replace(manifest, name=name, digest=digest.hexdigest())
        head = msgspec.json.encode(manifest)
        if len(head) > MAX_HEADER:
            raise InvalidArgument("what is to be stored beside the tensors is too large", op="store")
        with storing(f"writing {path}"), replacing(path) as file:
            sealed = SealedWriter(file, self._key)
            sealed.write(len(head).to_bytes(8, "little"))
            sealed.write(head)
            for piece in pieces(tensors):
                sealed.write(piece)
            sealed.finish()
        return manifest

    def read(self, name: str) -> tuple[dict[str, Tensor], Manifest]:
        """The tensors under ``name`` and their manifest.

        Raises ``CheckpointInvalid`` for a file that is missing, cut, changed, under another key, of another party or
        cluster, or that was stored under another name.
        """
        path = path_of(self.directory, name)
        with storing(f"reading {path}"), self._open(path) as file:
            sealed = SealedReader(file, self._key, str(path))
            manifest = self._manifest(sealed, path, name)
            source = _Hashed(sealed)
            try:
                tensors = read_tensors(source)
            except (ValueError, msgspec.MsgspecError):
                raise damaged(str(path)) from None
        shapes = {key: tuple(x.shape) for key, x in tensors.items()}
        if source.digest.hexdigest() != manifest.digest or shapes != {k: e.shape for k, e in manifest.entries.items()}:
            raise damaged(str(path))
        return tensors, manifest

    def info(self, name: str) -> Manifest:
        """The manifest alone; what lies behind it in the file is not looked at. Raises as ``read``."""
        path = path_of(self.directory, name)
        with storing(f"reading {path}"), self._open(path) as file:
            return self._manifest(SealedReader(file, self._key, str(path)), path, name)

    def names(self) -> list[str]:
        """What is stored, sorted. Files are not opened."""
        with storing(f"reading {self.directory}"):
            found = [path.name.removesuffix(_SUFFIX).replace("=", "/") for path in self.directory.glob(f"*{_SUFFIX}")]
        return sorted(name for name in found if _NAME.fullmatch(name))

    def delete(self, name: str) -> None:
        """Remove what is stored under ``name``; nothing happens if there is nothing."""
        path = path_of(self.directory, name)
        if path.exists():
            with storing(f"deleting {path}"):
                path.unlink(missing_ok=True)
                sync_directory(self.directory)

    def _open(self, path: Path) -> BinaryIO:
        try:
            return path.open("rb")
        except FileNotFoundError:
            raise CheckpointInvalid(f"there is no {path}", remedy="check the name, or save it first") from None

    def _manifest(self, sealed: SealedReader, path: Path, name: str) -> Manifest:
        size = int.from_bytes(sealed.read(8), "little")
        if size > MAX_HEADER:
            raise damaged(str(path))
        try:
            manifest = _DECODER.decode(sealed.read(size))
        except (ValueError, msgspec.MsgspecError):
            raise CheckpointInvalid(
                f"{path} was written by another version of torchveil",
                remedy="read it with the version that wrote it",
            ) from None
        expected = {"name": name, "party": self._party or manifest.party, "cluster": self._cluster or manifest.cluster}
        for field, value in expected.items():
            found = getattr(manifest, field)
            if found != value:
                raise CheckpointInvalid(
                    f"{path} belongs to the {field} {found!r}, not {value!r}",
                    remedy="put every file back to where it was written",
                )
        return manifest

    def __repr__(self) -> str:
        return f"<ShareStore {self.directory}>"


__all__ = ["ShareStore", "check_name", "path_of"]
