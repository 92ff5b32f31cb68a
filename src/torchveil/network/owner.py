"""The owner's side: sending each party its share over a connection of its own, listing and deleting what was shared.

All or nothing: a sharing is staged at every party, and only if all took it, committed at each. A failure before the
first commit leaves no trace. A failure between commits leaves parties with different sharings; readers see that and
refuse, and sharing again mends it. No party is sent more than one share, and no share passes anybody else: every
connection is checked to end at the party that it is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
from torch import Tensor

from torchveil.errors import DataNotFound, NetworkError, TorchveilError
from torchveil.fixedpoint import FixedPoint
from torchveil.network.certificates import Credentials
from torchveil.network.config import ClusterConfig
from torchveil.network.datasets import PIECE, TARGET, Array, Entry, Part, Schema, agree, check_base, prepare, split
from torchveil.network.datasets_service import Commit, Discard, List, Remove, Stage
from torchveil.network.messages import parse_struct
from torchveil.network.names import Role
from torchveil.network.services import Body, Caller
from torchveil.randomness import os_bytes


class Asks(Protocol):
    """What is used of ``services.Caller``: questions to a role, over a connection that is checked to end at it."""

    @property
    def cluster(self) -> ClusterConfig: ...

    @property
    def credentials(self) -> Credentials: ...

    def call(
        self, role: Role, service: str, arguments: msgspec.Struct | bytes = ..., body: Body = ...
    ) -> tuple[bytes, memoryview]: ...


def share(
    cluster: ClusterConfig,
    credentials: Credentials,
    name: str,
    tensor: Tensor,
    *,
    target: Tensor | None = None,
    fixed_point: FixedPoint | None = None,
    columns: Sequence[str] | None = None,
    pad_rows: int | None = None,
) -> bytes:
    """Share a tensor as ``name``, and ``target`` as ``name.target``; the id of the sharing.

    Floats are encoded with ``fixed_point`` (default: 16 binary digits), whole numbers exactly. ``columns`` name
    dimension 1 for everybody who may list; ``pad_rows``: see ``datasets.prepare``. Raises ``EncodingError`` naming the
    place of a value that no share can hold, and what ``share_parts`` raises.
    """
    arrays = {"": Array(tensor, None if columns is None else tuple(columns))}
    if target is not None:
        arrays[TARGET] = Array(target)
    parts = prepare(arrays, fixed_point or FixedPoint(), pad_rows=pad_rows)
    return share_parts(Caller(cluster, credentials), name, parts)


def share_parts(caller: Asks, name: str, parts: Sequence[Part]) -> bytes:
    """Share encoded arrays under the base name ``name``; the id of the sharing.

    8 bytes per element to each party, in pieces of 8 MiB. Raises ``InvalidArgument`` for a name that is not below the
    owner's own, and what a party or the connection to it raises. A failure before the first commit leaves nothing
    behind that anybody could see.
    """
    check_base(name, str(caller.credentials.role))
    parties = parties_of(caller.cluster)
    sharing_id = os_bytes(16)
    schemas = [part.schema(name, _names(caller)) for part in parts]
    try:
        for part, schema in zip(parts, schemas, strict=True):
            _stage(caller, parties, sharing_id, schema, part.raw)
    except BaseException:
        _discard(caller, parties, sharing_id)
        raise
    _commit(caller, parties, Commit(sharing_id, tuple(schema.name for schema in schemas)))
    return sharing_id


def listings(caller: Asks, prefix: str = "") -> dict[str, list[Entry]]:
    """What each party tells of the data that this role may know of, by the party's role."""
    return {
        str(party): parse_struct(bytes(caller.call(party, "datasets/list", List(prefix))[1]), list[Entry])
        for party in parties_of(caller.cluster)
    }


def by_name(listed: Mapping[str, Sequence[Entry]]) -> dict[str, dict[str, Entry | None]]:
    """Listings the other way round: name -> what each party holds under it."""
    names = sorted({entry.schema.name for entries in listed.values() for entry in entries})
    held = {party: {entry.schema.name: entry for entry in entries} for party, entries in listed.items()}
    return {name: {party: entries.get(name) for party, entries in held.items()} for name in names}


def find(caller: Asks, name: str) -> Entry:
    """What all parties hold as ``name``: id, owner, schema. Asked by controllers before a session opens it.

    Raises ``DataNotFound`` naming the parties that hold nothing, or something else; see ``datasets.agree``.
    """
    return agree(name, by_name(listings(caller, name)).get(name, {}), _names(caller))


def available(caller: Asks, prefix: str = "") -> dict[str, Entry]:
    """What all parties hold alike, by name; what they do not is left out."""
    out = {}
    for name, held in by_name(listings(caller, prefix)).items():
        with suppress(DataNotFound):
            out[name] = agree(name, held, _names(caller))
    return out


def unshare(caller: Asks, name: str) -> None:
    """Delete the sharing with the base name ``name`` at every party, the target and mask included.

    Every party is asked, also when one fails; then the first error is raised. A party that has no such data is no
    error, unless none has. Values of running sessions stay.
    """
    check_base(name, str(caller.credentials.role), op="unshare")
    failed, absent = [], []
    parties = parties_of(caller.cluster)
    for party in parties:
        try:
            caller.call(party, "datasets/remove", Remove(name))
        except DataNotFound as error:
            absent.append(error)
        except TorchveilError as error:
            failed.append(error)
    if failed or len(absent) == len(parties):
        raise (failed or absent)[0]


def parties_of(cluster: ClusterConfig) -> list[Role]:
    """The parties of a cluster, in order."""
    return [role for role in cluster.addresses if role.kind == "party"]


def _names(caller: Asks) -> list[str]:
    return [str(party) for party in parties_of(caller.cluster)]


def _stage(caller: Asks, parties: Sequence[Role], sharing_id: bytes, schema: Schema, raw: Tensor) -> None:
    """Send each party its share of an array, piece by piece, every piece split under a fresh key."""
    start = 0
    for piece in raw.view(-1).split(PIECE):
        for party, share in zip(parties, split(piece, len(parties)), strict=True):
            buffer = share.numpy().astype("<i8", copy=False).data.cast("B")
            caller.call(party, "datasets/stage", Stage(sharing_id, schema, start), [buffer])
        start += len(piece)


def _discard(caller: Asks, parties: Sequence[Role], sharing_id: bytes) -> None:
    """Tell every party to drop what was staged; who cannot be reached drops it by itself later."""
    for party in parties:
        with suppress(TorchveilError):
            caller.call(party, "datasets/discard", Discard(sharing_id))


def _commit(caller: Asks, parties: Sequence[Role], commit: Commit) -> None:
    """Commit at every party, also when one fails, and once more where it failed: committing again does nothing.

    Raises ``NetworkError`` naming the parties that did not answer.
    """
    failed: dict[Role, TorchveilError] = {}
    waiting = list(parties)
    for _ in range(2):
        failed = {}
        for party in waiting:
            try:
                caller.call(party, "datasets/commit", commit)
            except TorchveilError as error:
                failed[party] = error
        waiting = list(failed)
    if failed:
        raise NetworkError(
            f"the data were not committed at {', '.join(map(str, failed))}: until they are shared again, nobody can "
            "use them",
            op="share",
            remedy="share them again when all parties answer",
        ) from next(iter(failed.values()))


__all__ = ["Asks", "available", "by_name", "find", "listings", "parties_of", "share", "share_parts", "unshare"]
