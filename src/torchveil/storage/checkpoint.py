"""A party's part of a checkpoint: its shares of one save, in one sealed file, beside those of the save before.

Theory of operation. The controller numbers the saves under a name: generation 1, 2, ... Every party writes its file of
the new generation and says so; then the controller writes its own part, and with that the new generation counts. Until
then the controller's part names the old generation, whose files are all still there. They are removed when the
generation after it is written (``keep``). So at any moment, whoever is killed, the generation that the controller's
part names is complete, and a party that was set back to an old disk is found by generation and ``save_id``.

What is in a file is a share and nothing else: no opening, mask or key. The controller has every value refreshed
(``ins.Refresh``) for the file alone. The share in the file is uniform given everything that crossed in the session, so
that recorded messages do not help who has the file; and the sharing differs from save to save, so that the file of one
party and an older file of another, even of a value that never changed, add up to noise. All parties' files of one save
and their keys are the value itself: that is what they are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from torch import Tensor

from torchveil.errors import CheckpointInvalid, ProtocolError
from torchveil.storage.keys import load_key, load_or_create_key
from torchveil.storage.manifest import Entry, Manifest, Natural
from torchveil.storage.store import ShareStore, check_name, path_of


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every role is told of a save. ``keep``: the generation that stays beside the new one, 0 for none."""

    name: str
    generation: Natural
    keep: Natural
    save_id: Annotated[str, Meta(max_length=64)]
    epoch: Natural
    entries: dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose part it is. ``session_id`` is that of the running session; a checkpoint may come from an earlier one."""

    party: str
    rank: int
    parties: tuple[str, ...]
    cluster: str
    session_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the roles of this process keep their parts: each in a folder of ``directory``, its key in ``keys``."""

    directory: Path
    keys: Path

    def holds(self, holder: str) -> bool:
        """Whether a role's file lies in ``directory`` itself."""
        return path_of(self.directory, holder).exists()

    def store(self, holder: str, cluster: str, *, folder: bool = True, create: bool = False) -> ShareStore:
        """The store of one role; its key is made if ``create`` says so and there is none."""
        path = self.keys / f"{check_name(holder)}.key"
        if not create and not path.exists():
            raise CheckpointInvalid(f"there is no key {path}", remedy="name the folder of the keys: keys=...")
        key = load_or_create_key(path) if create else load_key(path)
        return ShareStore(self.directory / holder if folder else self.directory, key, party=holder, cluster=cluster)


def _generations(store: ShareStore, name: str) -> list[int]:
    """The generations that lie in a store."""
    parts = [stored.rpartition("/") for stored in store.names()]
    return sorted(int(last) for first, _, last in parts if first == name and last.isascii() and last.isdecimal())


def write_shares(
    store: ShareStore,
    holder: Holder,
    checkpoint: Checkpoint,
    shares: Mapping[str, Tensor],
    provenance: Mapping[str, Sequence[str]],
) -> None:
    """Write a party's file of a save. When this returns, the file is on disk.

    shares: refreshed ones, by the keys of ``checkpoint.entries``; provenance: as this party knows it, for each key.
    Raises ``ProtocolError`` if the shares are not what the checkpoint says, ``StorageError`` if the disk refuses.
    """
    name, generation = check_name(checkpoint.name), checkpoint.generation
    said = {key: entry.shape for key, entry in checkpoint.entries.items()}
    if said != {key: tuple(x.shape) for key, x in shares.items()} or not 0 <= checkpoint.keep < generation:
        raise ProtocolError("a save does not fit the values that it names", remedy="open a new session")
    entries = {
        key: msgspec.structs.replace(entry, provenance=tuple(sorted(set(provenance[key]))))
        for key, entry in checkpoint.entries.items()
    }
    for old in _generations(store, name):
        if old not in (checkpoint.keep, generation):
            store.delete(f"{name}/{old}")
    store.write(
        f"{name}/{generation}",
        shares,
        Manifest(
            cluster=holder.cluster,
            party=holder.party,
            rank=holder.rank,
            parties=holder.parties,
            session=holder.session_id.hex(),
            epoch=checkpoint.epoch,
            generation=generation,
            save_id=checkpoint.save_id,
            entries=entries,
        ),
    )


def read_shares(store: ShareStore, holder: Holder, checkpoint: Checkpoint) -> tuple[dict[str, Tensor], Manifest]:
    """A party's shares of a save, by key, and the manifest with their provenance.

    Raises ``CheckpointInvalid`` if this party has no file of that generation, or one that is damaged, of another save,
    party, rank, set of parties or cluster, or of other shapes.
    """
    name, generation = check_name(checkpoint.name), checkpoint.generation
    there = _generations(store, name)
    if generation not in there:
        held = f"generations {there}" if there else "nothing"
        side = "is behind" if all(g < generation for g in there) else "is ahead of the controller"
        raise CheckpointInvalid(
            f"{holder.party} {side}: the controller's part of {name} is of generation {generation}, "
            f"{holder.party} holds {held}",
            remedy="restore the parts of one save everywhere, or load another checkpoint",
        )
    shares, manifest = store.read(f"{name}/{generation}")
    here = (holder.cluster, holder.party, holder.rank, holder.parties)
    if (manifest.cluster, manifest.party, manifest.rank, manifest.parties) != here:
        raise CheckpointInvalid(
            f"the part of {name} at {holder.party} was written by {manifest.party} as number {manifest.rank} of "
            f"{', '.join(manifest.parties)} in {manifest.cluster}",
            remedy="open a session of the same parties, in the same order",
        )
    found = {key: msgspec.structs.replace(entry, provenance=()) for key, entry in manifest.entries.items()}
    if (manifest.save_id, manifest.generation, found) != (checkpoint.save_id, generation, checkpoint.entries):
        raise CheckpointInvalid(
            f"the part of {name} at {holder.party} is of another save with the same number",
            remedy="restore the parts of one save everywhere, or load another checkpoint",
        )
    return shares, manifest


__all__ = ["Checkpoint", "Holder", "Place", "read_shares", "write_shares"]
