"""What a party holds of owners' data: shares by name, staged until their owner commits, listed, opened, removed.

Theory of operation. A sharing goes through two steps. *Staged*: its shares lie on disk and nobody is told of them.
*Committed*: its names are listed and can be opened, and an earlier sharing of the same base name is gone, all of it at
once. Which sharings there are, and in which step, is one entry of the share store, the index, which is replaced in one
step; an array's share is another entry, written before the index names it and deleted after the index has forgotten
it. So a crash leaves entries that no index names at worst, and those are deleted at the next start.

Who may. The first part of a name is the name of an owner, and only a peer with that owner's certificate may stage,
commit or remove below it. Callers pass the role that the peer's certificate names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import torch
from torch import Tensor

from torchveil.errors import DataNotFound, InvalidArgument, LimitExceeded, PeerRejected, StorageError
from torchveil.network.datasets import Entry, Id, Name, Schema, owner_of
from torchveil.randomness import os_bytes

#: The entry of the share store that says which sharings there are.
INDEX = "datasets-index"
_ENTRY = "dataset-"


class Shares(Protocol):
    """What is asked of a store of shares at rest; every write is atomic."""

    def write(self, name: str, tensors: Mapping[str, Tensor], manifest: Mapping[str, object]) -> None: ...

    def read(self, name: str) -> tuple[Mapping[str, Tensor], Mapping[str, object]]: ...

    def names(self) -> Iterable[str]: ...

    def remove(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class DatasetLimits:
    """How much one owner may leave at a party, staged and committed together, and for how long without a commit."""

    n_bytes_per_owner: int = 16 << 30
    n_arrays_per_owner: int = 1000
    staged_life_s: float = 24 * 3600.0


class _Array(msgspec.Struct, frozen=True):
    """One array of a sharing and the entry of the share store that its share is."""

    schema: Schema
    entry: str


class _Sharing(msgspec.Struct, frozen=True):
    """What an owner shared under one base name in one go; ``since_s`` is of the wall clock, to survive a restart."""

    id: Id
    owner: Name
    base: Name
    arrays: dict[Name, _Array]
    committed: bool
    since_s: float


_Sharings = list[_Sharing]
_Entries = list[Entry]


class DatasetStore:
    """The data sets of one party. Safe to use from several threads; shares are written and read outside of its lock.

    Reads the index at once, and deletes what a crash left behind. Raises ``StorageError`` for an index that is none.
    """

    def __init__(self, shares: Shares, limits: DatasetLimits | None = None) -> None:
        self._shares = shares
        self._limits = limits or DatasetLimits()
        self._lock = threading.RLock()
        self._arriving: dict[tuple[bytes, str], Entry] = {}
        self._sharings = self._read_index()
        self._sweep()

    def admit(self, meta: Entry) -> None:
        """Whether this share may come, known before any memory is taken for it.

        Raises ``PeerRejected`` for a name that is not below the owner's, ``LimitExceeded`` for too much, and
        ``InvalidArgument`` for a second array of one name in a sharing, or one of another base name.
        """
        schema, owner = meta.schema, meta.owner
        _check_owner(schema.name, owner)
        with self._lock:
            self._expire(schema.sharing, owner, keep=meta.id)
            for sharing in self._sharings:
                if sharing.id == meta.id and (
                    sharing.committed
                    or schema.name in sharing.arrays
                    or (sharing.base, sharing.owner) != (schema.sharing, owner)
                ):
                    raise InvalidArgument(f"{schema.name!r} cannot be added to this sharing", op="share")
            if (meta.id, schema.name) in self._arriving:
                raise InvalidArgument(f"{schema.name!r} of this sharing is arriving already", op="share")
            held = [
                *(array.schema for s in self._sharings if s.owner == owner for array in s.arrays.values()),
                *(entry.schema for entry in self._arriving.values() if entry.owner == owner),
            ]
            limits = self._limits
            if len(held) >= limits.n_arrays_per_owner:
                raise LimitExceeded(
                    f"{owner} has {len(held)} arrays here already, as many as allowed",
                    op="share",
                    remedy="remove some with torchveil unshare",
                )
            if sum(other.n_bytes for other in held) + schema.n_bytes > limits.n_bytes_per_owner:
                raise LimitExceeded(
                    f"{schema.name!r} would exceed the {limits.n_bytes_per_owner} bytes that {owner} may leave here",
                    op="share",
                    remedy="remove data with torchveil unshare, or share fewer rows (what is replaced counts)",
                )

    def stage(self, meta: Entry, share: Tensor) -> None:
        """Keep one array's share, int64 of the schema's shape, until its owner commits the sharing ``meta.id``.

        A sharing of the same base name that was staged and never committed is dropped. Raises what ``admit`` raises.
        """
        schema = meta.schema
        if share.dtype != torch.int64 or tuple(share.shape) != schema.shape:
            raise InvalidArgument("a share is no int64 tensor of the shape that its schema says", op="share")
        key = meta.id, schema.name
        with self._lock:
            self.admit(meta)
            self._arriving[key] = meta
        try:
            array = _Array(schema, _ENTRY + os_bytes(16).hex())
            self._shares.write(array.entry, {"share": share}, {})
            with self._lock:
                fresh = _Sharing(meta.id, meta.owner, schema.sharing, {}, False, time.time())
                before = next((s for s in self._sharings if s.id == meta.id), fresh)
                after = msgspec.structs.replace(before, arrays={**before.arrays, schema.name: array})
                self._save([*(s for s in self._sharings if s is not before), after])
        finally:
            with self._lock:
                del self._arriving[key]

    def commit(self, sharing_id: bytes, owner: str, names: Sequence[str]) -> None:
        """Show the sharing, which consists of the arrays ``names``, in place of an earlier one of its base name.

        Doing it again does nothing. Raises ``DataNotFound`` if the owner staged no such sharing here, or other arrays.
        """
        with self._lock:
            sharing = next((s for s in self._sharings if s.id == sharing_id and s.owner == owner), None)
            if sharing is None or set(sharing.arrays) != set(names):
                raise DataNotFound(
                    "there is no such sharing to commit, or not all of it arrived", op="share", remedy="share it again"
                )
            if not sharing.committed:
                others = [s for s in self._sharings if s is not sharing and s.base != sharing.base]
                self._save([*others, msgspec.structs.replace(sharing, committed=True)])

    def discard(self, sharing_id: bytes, owner: str) -> None:
        """Drop a sharing that was not committed; nothing if there is none."""
        with self._lock:
            self._save([s for s in self._sharings if s.id != sharing_id or s.owner != owner or s.committed])

    def list(self) -> _Entries:
        """The committed arrays, by name."""
        with self._lock:
            entries = [
                Entry(sharing.id, sharing.owner, array.schema)
                for sharing in self._sharings
                if sharing.committed
                for array in sharing.arrays.values()
            ]
        return sorted(entries, key=lambda entry: entry.schema.name)

    def find(self, name: str) -> Entry:
        """The committed array of this name. Raises ``DataNotFound``."""
        return self._find(name)[0]

    def open(self, name: str, sharing_id: bytes | None = None) -> tuple[Tensor, Schema, str]:
        """(this party's share, schema, owner's role) of a committed array; of the sharing ``sharing_id`` if given.

        Raises ``DataNotFound`` if there is none, ``StorageError`` if what lies on disk is not what was stored.
        """
        entry, array = self._find(name, sharing_id)
        try:
            tensors, _ = self._shares.read(array.entry)
        except StorageError:
            self._find(name, entry.id)  # it was removed or replaced meanwhile, or else the error stands
            raise
        share = tensors.get("share")
        if share is None or share.dtype != torch.int64 or tuple(share.shape) != entry.schema.shape:
            raise StorageError(
                f"the share of {name!r} is damaged", op="dataset", remedy=f"let {entry.owner} share it again"
            )
        return share, entry.schema, entry.owner

    def remove(self, name: str, owner: str) -> tuple[str, ...]:
        """Delete the committed sharing with the base name ``name``, all its arrays; their names.

        Raises ``PeerRejected`` if it is not the owner's, ``DataNotFound`` if there is none.
        """
        _check_owner(name, owner)
        with self._lock:
            found = [s for s in self._sharings if s.committed and s.base == name]
            if not found:
                raise _not_shared(name)
            self._save([s for s in self._sharings if s not in found])
        return tuple(sorted(full for sharing in found for full in sharing.arrays))

    def _find(self, name: str, sharing_id: bytes | None = None) -> tuple[Entry, _Array]:
        with self._lock:
            found = next((s for s in self._sharings if s.committed and name in s.arrays), None)
        if found is None:
            raise _not_shared(name)
        if sharing_id is not None and found.id != sharing_id:
            raise DataNotFound(f"{name!r} was shared anew", op="dataset", remedy="ask for the data set again")
        array = found.arrays[name]
        return Entry(found.id, found.owner, array.schema), array

    def _expire(self, base: str, owner: str, keep: bytes) -> None:
        """Drop what was staged under this base name before, and what nobody committed for too long."""
        before_s = time.time() - self._limits.staged_life_s
        stale = [
            s
            for s in self._sharings
            if not s.committed and s.id != keep and (s.since_s < before_s or (s.owner, s.base) == (owner, base))
        ]
        if stale:
            self._save([s for s in self._sharings if s not in stale])

    def _save(self, sharings: _Sharings) -> None:
        """Take these for all sharings there are: first the index, then what it names no more is deleted."""
        if sharings == self._sharings:
            return
        self._shares.write(INDEX, {}, {"sharings": msgspec.to_builtins(sharings)})
        gone = _entries(self._sharings) - _entries(sharings)
        self._sharings = sharings
        for name in gone:
            self._shares.remove(name)

    def _read_index(self) -> _Sharings:
        if INDEX not in set(self._shares.names()):
            return []
        _, manifest = self._shares.read(INDEX)
        try:
            return msgspec.convert(manifest.get("sharings"), _Sharings, strict=True)
        except msgspec.ValidationError as error:
            raise StorageError(
                "the index of data sets is damaged", op="datasets", remedy="empty the directory of shares, share again"
            ) from error

    def _sweep(self) -> None:
        """Delete shares that no index names: what a crash left."""
        named = _entries(self._sharings)
        for name in list(self._shares.names()):
            if name.startswith(_ENTRY) and name not in named:
                self._shares.remove(name)

    def __repr__(self) -> str:
        return f"<DatasetStore of {len(self._sharings)} sharings>"


def _entries(sharings: _Sharings) -> set[str]:
    """The entries of the share store that belong to sharings."""
    return {array.entry for sharing in sharings for array in sharing.arrays.values()}


def _not_shared(name: str) -> DataNotFound:
    return DataNotFound(f"no data are shared as {name!r}", op="dataset", remedy="see torchveil datasets")


def _check_owner(name: str, owner: str) -> None:
    """Raise unless ``owner`` may change what is shared as ``name``."""
    if owner != owner_of(name):
        raise PeerRejected(
            f"{owner} may not change what lies below {name.partition('/')[0]}/", op="share", remedy="use your own name"
        )
