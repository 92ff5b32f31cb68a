"""The owner's side: sending each party its share over a connection of its own, listing and deleting what was shared.

All or nothing: a sharing is staged at every party, and only if all took it, committed at each. A failure before the
first commit leaves no trace. A failure between commits leaves parties with different sharings; readers see that and
refuse, and sharing again mends it. No party is sent more than one share, and no share passes anybody else: every
connection is checked to end at the party that it is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from torch import Tensor

from torchveil.errors import InvalidArgument, NetworkError, TorchveilError
from torchveil.fixedpoint import FixedPoint
from torchveil.network.datasets import Array, Entry, Part, check_base, prepare, split
from torchveil.network.datasets_service import Buffer, Commit, Discard, List, Remove, Stage, decode_entries
from torchveil.randomness import os_bytes


class Credentials(Protocol):
    """What an owner shows of itself; ``role`` is what its certificate says."""

    @property
    def role(self) -> object: ...


class Member(Protocol):
    """A party as the cluster's file names it."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...


class Cluster(Protocol):
    """What of a cluster's file an owner needs."""

    @property
    def parties(self) -> Sequence[Member]: ...


class Call(Protocol):
    """Ask one daemon one question over a connection of one's own, which must end at ``expect``."""

    def __call__(
        self,
        address: str,
        credentials: Credentials,
        name: str,
        request: msgspec.Struct | None,
        body: Sequence[Buffer] = ...,
        *,
        expect: str,
    ) -> tuple[bytes, memoryview]: ...


class Parties:
    """The parties of a cluster as one role asks them. Raises ``InvalidArgument`` for two parties at one address."""

    def __init__(self, cluster: Cluster, credentials: Credentials, call: Call) -> None:
        self._addresses = {f"party/{member.name}": member.address for member in cluster.parties}
        if len(self._addresses) < 2 or len(set(self._addresses.values())) != len(cluster.parties):
            raise InvalidArgument(
                "data are shared between two or more parties, each at an address of its own",
                op="share",
                remedy="check the parties of the cluster's file",
            )
        self.role = str(credentials.role)
        self._credentials = credentials
        self._call = call

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self._addresses)

    def ask(
        self, party: str, name: str, request: msgspec.Struct, body: Sequence[Buffer] = ()
    ) -> tuple[bytes, memoryview]:
        """Ask one party; the connection must end at it."""
        return self._call(self._addresses[party], self._credentials, name, request, body, expect=party)


def share_parts(parties: Parties, name: str, parts: Sequence[Part]) -> bytes:
    """Share encoded arrays under the base name ``name``; the id of the sharing.

    8 bytes per element to each party. Raises ``InvalidArgument`` for a name that is not below the owner's own, and what
    a party or the connection to it raises; a failure before the first commit leaves nothing behind, or what the parties
    drop by themselves.
    """
    check_base(name, parties.role)
    sharing_id = os_bytes(16)
    schemas = [part.schema(name, parties.roles) for part in parts]
    try:
        for part, schema in zip(parts, schemas, strict=True):
            for party, share in zip(parties.roles, split(part.raw, len(parties.roles)), strict=True):
                parties.ask(party, "datasets/stage", Stage(sharing_id, schema), [_buffer(share)])
    except BaseException:
        _discard(parties, sharing_id)
        raise
    _commit(parties, Commit(sharing_id, tuple(schema.name for schema in schemas)))
    return sharing_id


def share(
    cluster: Cluster,
    credentials: Credentials,
    name: str,
    tensor: Tensor,
    *,
    call: Call,
    target: Tensor | None = None,
    fixed_point: FixedPoint | None = None,
    columns: Sequence[str] | None = None,
    pad_rows: int | None = None,
) -> bytes:
    """Share a tensor as ``name``, and ``target`` as ``name.target``; the id of the sharing.

    Floats are encoded with ``fixed_point`` (default: 16 binary digits), whole numbers exactly. ``columns`` name
    dimension 1 for everybody who may list; ``pad_rows``: see ``datasets.prepare``. Raises ``EncodingError`` naming the
    place of a value that no share can hold.
    """
    arrays = {"": Array(tensor, None if columns is None else tuple(columns))}
    if target is not None:
        arrays["target"] = Array(target)
    parts = prepare(arrays, fixed_point or FixedPoint(), pad_rows=pad_rows)
    return share_parts(Parties(cluster, credentials, call), name, parts)


def listings(parties: Parties, prefix: str = "") -> dict[str, list[Entry]]:
    """What each party tells of the data that this role may know of."""
    return {party: decode_entries(parties.ask(party, "datasets/list", List(prefix))[1]) for party in parties.roles}


def unshare(parties: Parties, name: str) -> None:
    """Delete the sharing with the base name ``name`` at every party, the target and mask included.

    Every party is asked, also when one fails; the first error is raised then. Values of running sessions stay.
    """
    check_base(name, parties.role)
    failed: TorchveilError | None = None
    for party in parties.roles:
        try:
            parties.ask(party, "datasets/remove", Remove(name))
        except TorchveilError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _buffer(share: Tensor) -> memoryview:
    """The bytes of a share, little-endian, without a copy where the machine is."""
    numbers = share.contiguous().view(-1).numpy().astype("<i8", copy=False)
    return numbers.data.cast("B")


def _discard(parties: Parties, sharing_id: bytes) -> None:
    """Tell every party to drop what was staged; who cannot be reached drops it by itself later."""
    for party in parties.roles:
        try:
            parties.ask(party, "datasets/discard", Discard(sharing_id))
        except TorchveilError:
            continue


def _commit(parties: Parties, commit: Commit) -> None:
    """Commit at every party, also when one fails; raises naming those that did not."""
    failed: dict[str, TorchveilError] = {}
    for party in parties.roles:
        try:
            parties.ask(party, "datasets/commit", commit)
        except TorchveilError as error:
            failed[party] = error
    if failed:
        raise NetworkError(
            f"the data were not committed at {', '.join(failed)}: until they are shared again, nobody can use them",
            op="share",
            remedy="share them again when all parties answer",
        ) from next(iter(failed.values()))


__all__ = ["Call", "Credentials", "Parties", "listings", "share", "share_parts", "unshare"]
