"""Questions about data sets that a party's daemon answers: one handler each, rows for the table of services.

Who asks is what the peer's certificate says. An owner may stage, commit, discard and remove below its own name, and is
told of its own data only; controllers and parties are told of all. No answer holds a share.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import torch

from torchveil.errors import MalformedMessage
from torchveil.network.certificates import Identity
from torchveil.network.datasets import PIECE, Entry, Schema
from torchveil.network.messages import Bytes16, Count, Message, Name, parse_struct
from torchveil.network.services import Body, Service

#: What of a daemon the handlers use: an attribute ``datasets``, a ``dataset_store.DatasetStore``.
Context = Any


class Stage(Message, frozen=True):
    """Keep elements of an array's share from ``start`` on: the body, 8 bytes each, little-endian, at most ``PIECE``."""

    id: Bytes16
    schema: Schema
    start: Count


class Commit(Message, frozen=True):
    """Show the sharing ``id``, which consists of the arrays ``names``."""

    id: Bytes16
    names: tuple[Name, ...]


class Discard(Message, frozen=True):
    """Drop the sharing ``id``, which was not committed."""

    id: Bytes16


class List(Message, frozen=True):
    """Tell of the arrays whose names begin with ``prefix``; the answer's body is msgpack of ``list[Entry]``."""

    prefix: str = ""


class Remove(Message, frozen=True):
    """Delete the committed sharing of this base name."""

    name: Name


class Concerned(Message, frozen=True):
    """The answer: the arrays that were changed."""

    names: tuple[Name, ...] = ()


Answer = tuple[Message, Body]


def stage(context: Context, peer: Identity, arguments: bytes, body: memoryview) -> Answer:
    """Raises what ``DatasetStore.stage`` raises, and ``MalformedMessage`` for a body of no whole elements."""
    asked: Stage = parse_struct(arguments, Stage)
    entry = Entry(asked.id, str(peer.role), asked.schema)
    if len(body) % 8:
        raise MalformedMessage("a share of no whole number of elements")
    piece = torch.from_numpy(np.frombuffer(body, dtype="<i8").astype(np.int64))
    context.datasets.stage(entry, asked.start, piece)
    return Concerned((asked.schema.name,)), ()


def commit(context: Context, peer: Identity, arguments: bytes, _body: memoryview) -> Answer:
    """Raises what ``DatasetStore.commit`` raises."""
    asked: Commit = parse_struct(arguments, Commit)
    context.datasets.commit(asked.id, str(peer.role), asked.names)
    return Concerned(asked.names), ()


def discard(context: Context, peer: Identity, arguments: bytes, _body: memoryview) -> Answer:
    """Nothing is changed, and nothing raised, if there is no such sharing of this owner."""
    asked: Discard = parse_struct(arguments, Discard)
    context.datasets.discard(asked.id, str(peer.role))
    return Concerned(), ()


def list_datasets(context: Context, peer: Identity, arguments: bytes, _body: memoryview) -> Answer:
    """What this peer may know of."""
    asked: List = parse_struct(arguments, List)
    own_only = peer.role.kind == "owner"
    entries = [
        entry
        for entry in context.datasets.list()
        if entry.schema.name.startswith(asked.prefix) and (entry.owner == str(peer.role) or not own_only)
    ]
    return Concerned(), (msgspec.msgpack.encode(entries),)


def remove(context: Context, peer: Identity, arguments: bytes, _body: memoryview) -> Answer:
    """Raises what ``DatasetStore.remove`` raises."""
    asked: Remove = parse_struct(arguments, Remove)
    return Concerned(context.datasets.remove(asked.name, str(peer.role))), ()


_OWNERS = ("owner",)

#: Rows for the table of services of a party.
DATASET_SERVICES: dict[str, Service] = {
    "datasets/stage": Service(stage, _OWNERS, body=8 * PIECE),
    "datasets/commit": Service(commit, _OWNERS),
    "datasets/discard": Service(discard, _OWNERS),
    "datasets/list": Service(list_datasets, ("owner", "controller", "party")),
    "datasets/remove": Service(remove, _OWNERS),
}
