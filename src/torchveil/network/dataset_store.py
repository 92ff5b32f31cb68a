"""What a party holds of owners' data: shares by name, staged until their owner commits, listed, opened, removed.

Theory of operation. An array's share arrives in pieces, in order. Once it is there, it is *staged*: it lies on disk and
nobody is told of it. A sharing whose arrays are all staged can be *committed*: its names are listed and can be opened,
and an earlier sharing of the same base name is gone, all of it at once. Which sharings there are, and in which step, is
one entry of the share store, the index, which is replaced in one step; every piece is another entry, written before the
index names it and deleted after the index has forgotten it. So a crash leaves entries that no index names at worst, and
those are deleted at the next start.

Who may. The first part of a name is the name of an owner, and only a peer with that owner's certificate may stage,
commit or remove below it. Callers pass the role that the peer's certificate names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import torch
from torch import Tensor

from torchveil.errors import DataNotFound, InvalidArgument, LimitExceeded, PeerRejected, StorageError
from torchveil.network.config import DatasetLimits
from torchveil.network.datasets import PIECE, Entry, Schema, owner_of
from torchveil.network.messages import Bytes16, Name
from torchveil.randomness import os_bytes
from torchveil.storage import Entry as Stored
from torchveil.storage import Manifest, ShareStore

#: The entry of the share store that says which sharings there are.
INDEX = "datasets-index"
_ENTRY = "dataset-"


class _Array(msgspec.Struct, frozen=True):
    """One array of a sharing and the entries of the share store that its share consists of, in order."""

    schema: Schema
    entries: tuple[str, ...]


@dataclass(slots=True)
class _Arriving:
    """An array whose share arrives; ``busy`` while a piece of it is being written."""

    meta: Entry
    since_s: float
    entries: list[str] = field(default_factory=list)
    n_elements: int = 0
    busy: bool = False


class _Sharing(msgspec.Struct, frozen=True):
    """What an owner shared under one base name in one go; ``since_s`` is of the wall clock, to survive a restart."""

    id: Bytes16
    owner: Name
    base: Name
    arrays: dict[Name, _Array]
    committed: bool
    since_s: float


_Sharings = list[_Sharing]
_Entries = list[Entry]


class DatasetStore:
    """The data sets of one party, in a store of their own. Safe to use from several threads; shares are written and
    read outside of its lock.

    Reads the index at once, and deletes what a crash left behind. Raises ``StorageError`` for an index that is none.
    """

    def __init__(self, shares: ShareStore, *, party: str, cluster: str, limits: DatasetLimits | None = None) -> None:
        self._shares = shares
        self._party = party
        self._cluster = cluster
        self._limits = limits or DatasetLimits()
        self._lock = threading.RLock()
        self._arriving: dict[tuple[bytes, str], _Arriving] = {}
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
                *(arriving.meta.schema for arriving in self._arriving.values() if arriving.meta.owner == owner),
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

    def stage(self, meta: Entry, start: int, piece: Tensor) -> None:
        """Keep a piece of an array's share: its elements in row-major order from ``start`` on, at most ``PIECE``.

        What was staged under the base name and never committed is dropped by the first piece. Raises what ``admit``
        raises; ``InvalidArgument`` for a piece that is not the next one, after which the array is staged from its
        beginning; ``StorageError`` when it cannot be written.
        """
        schema = meta.schema
        key, end = (meta.id, schema.name), start + piece.numel()
        if piece.dtype != torch.int64 or piece.dim() != 1 or not start < end <= min(schema.n_elements, start + PIECE):
            raise InvalidArgument("a piece of a share of another size or type", op="share")
        name = _ENTRY + os_bytes(16).hex()
        with self._lock:
            if start == 0:
                self.admit(meta)
                self._arriving[key] = _Arriving(meta, time.time())
            arriving = self._arriving.get(key)
            if arriving is None or arriving.busy or arriving.meta != meta or arriving.n_elements != start:
                raise InvalidArgument("a piece of a share that is not the next one", op="share", remedy="share again")
            arriving.busy = True
            arriving.entries.append(name)
            arriving.n_elements = end
        try:
            self._shares.write(name, {"share": piece}, self._manifest({"share": _stored(meta, piece)}))
            with self._lock:
                self._written(key, arriving)
        except BaseException:
            with self._lock:
                if self._arriving.get(key) is arriving:
                    self._abandon([key])
            self._shares.delete(name)
            raise

    def _written(self, key: tuple[bytes, str], arriving: _Arriving) -> None:
        """A piece lies on disk; with the last one the array is staged."""
        if self._arriving.get(key) is not arriving:
            raise DataNotFound("the sharing was dropped while it arrived", op="share", remedy="share it again")
        arriving.busy = False
        meta = arriving.meta
        if arriving.n_elements < meta.schema.n_elements:
            return
        fresh = _Sharing(meta.id, meta.owner, meta.schema.sharing, {}, False, time.time())
        before = next((s for s in self._sharings if s.id == meta.id), fresh)
        array = _Array(meta.schema, tuple(arriving.entries))
        after = msgspec.structs.replace(before, arrays={**before.arrays, meta.schema.name: array})
        self._save([*(s for s in self._sharings if s is not before), after])
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
            self._abandon([k for k, a in self._arriving.items() if (a.meta.id, a.meta.owner) == (sharing_id, owner)])
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
        share = torch.empty(entry.schema.shape, dtype=torch.int64)
        rest = share.view(-1)
        for part in array.entries:
            try:
                tensors, _ = self._shares.read(part)
            except StorageError:
                self._find(name, entry.id)  # it was removed or replaced meanwhile, or else the error stands
                raise
            piece = tensors.get("share", rest[:0])
            if piece.dtype != torch.int64 or piece.dim() != 1 or not 0 < len(piece) <= len(rest):
                break
            rest[: len(piece)] = piece
            rest = rest[len(piece) :]
        if len(rest):
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

        def stale(identifier: bytes, whose: tuple[str, str], since_s: float) -> bool:
            return identifier != keep and (since_s < before_s or whose == (owner, base))

        self._abandon(
            [k for k, a in self._arriving.items() if stale(a.meta.id, (a.meta.owner, a.meta.schema.sharing), a.since_s)]
        )
        self._save([s for s in self._sharings if s.committed or not stale(s.id, (s.owner, s.base), s.since_s)])

    def _abandon(self, keys: Sequence[tuple[bytes, str]]) -> None:
        """Forget arrays that were arriving. Who is writing a piece of one finds out, and deletes it."""
        for key in keys:
            arriving = self._arriving.pop(key, None)
            for name in [] if arriving is None else arriving.entries:
                self._shares.delete(name)

    def _save(self, sharings: _Sharings) -> None:
        """Take these for all sharings there are: first the index, then what it names no more is deleted."""
        if sharings == self._sharings:
            return
        self._shares.write(INDEX, {}, self._manifest({}, msgspec.msgpack.encode(sharings)))
        gone = _entries(self._sharings) - _entries(sharings)
        self._sharings = sharings
        for name in gone:
            self._shares.delete(name)

    def _read_index(self) -> _Sharings:
        if INDEX not in set(self._shares.names()):
            return []
        _, manifest = self._shares.read(INDEX)
        try:
            return msgspec.msgpack.decode(manifest.attached, type=_Sharings)
        except msgspec.DecodeError as error:
            raise StorageError(
                "the index of data sets is damaged", op="datasets", remedy="empty the directory of shares, share again"
            ) from error

    def _sweep(self) -> None:
        """Delete shares that no index names: what a crash left."""
        named = _entries(self._sharings)
        for name in list(self._shares.names()):
            if name.startswith(_ENTRY) and name not in named:
                self._shares.delete(name)

    def _manifest(self, entries: dict[str, Stored], attached: bytes = b"") -> Manifest:
        return Manifest(cluster=self._cluster, party=self._party, entries=entries, attached=attached)

    def __repr__(self) -> str:
        return f"<DatasetStore of {len(self._sharings)} sharings>"


def _entries(sharings: _Sharings) -> set[str]:
    """The entries of the share store that belong to sharings."""
    return {name for sharing in sharings for array in sharing.arrays.values() for name in array.entries}


def _stored(meta: Entry, piece: Tensor) -> Stored:
    """What a stored piece says of itself."""
    number_format = meta.schema.number_format
    scale, base, digits = number_format.scale, number_format.base, number_format.digits
    return Stored(tuple(piece.shape), scale, base, digits, provenance=(meta.owner,))


def _not_shared(name: str) -> DataNotFound:
    return DataNotFound(f"no data are shared as {name!r}", op="dataset", remedy="see torchveil datasets")


def _check_owner(name: str, owner: str) -> None:
    """Raise unless ``owner`` may change what is shared as ``name``."""
    if owner != owner_of(name):
        raise PeerRejected(
            f"{owner} may not change what lies below {name.partition('/')[0]}/", op="share", remedy="use your own name"
        )
