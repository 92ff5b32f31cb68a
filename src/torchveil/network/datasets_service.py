"""Questions about data sets that a party's daemon answers: one handler each, in the table ``HANDLERS``.

Who asks is what the peer's certificate says. An owner may stage, commit, discard and remove below its own name, and is
told of its own data only; controllers and parties are told of all; a provider of nothing. No answer holds a share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
import torch

from torchveil.errors import MalformedMessage, PeerRejected
from torchveil.network.dataset_store import DatasetStore
from torchveil.network.datasets import Entry, Id, Name, Schema

Buffer = bytes | memoryview
S = TypeVar("S", bound=msgspec.Struct)


class Peer(Protocol):
    """Who asks, from its certificate."""

    @property
    def role(self) -> object: ...


class Context(Protocol):
    """What of a daemon the handlers use."""

    @property
    def datasets(self) -> DatasetStore: ...


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keep one array's share; the body is the share, 8 bytes per element, little-endian."""

    id: Id
    schema: Schema


class Commit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Show the sharing ``id``, which consists of the arrays ``names``."""

    id: Id
    names: tuple[Name, ...]


class Discard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Drop the sharing ``id``, which was not committed."""

    id: Id


class List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tell of the arrays whose name begins with ``prefix``; the answer's body is msgpack of ``list[Entry]``."""

    prefix: Name = ""


class Remove(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delete the committed sharing of this base name."""

    name: Name


class Done(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """It was done; ``names`` are the arrays concerned."""

    names: tuple[Name, ...] = ()


#: kind of role -> which entries it is told of
VISIBLE: dict[str, Callable[[Entry, str], bool]] = {
    "owner": lambda entry, role: entry.owner == role,
    "party": lambda entry, role: True,
    "controller": lambda entry, role: True,
}

Answer = tuple[msgspec.Struct, Sequence[Buffer]]


def stage(context: Context, peer: Peer, request: bytes, body: memoryview) -> Answer:
    """``datasets/stage``. Raises what the store raises, and ``MalformedMessage`` for a body of another size."""
    asked = _decode(request, Stage)
    schema = asked.schema
    entry = Entry(asked.id, _owner(peer), schema)
    context.datasets.admit(entry)
    if len(body) != schema.n_bytes:
        raise MalformedMessage("a share has another size than its schema says")
    numbers = np.frombuffer(body, dtype="<i8").astype(np.int64).reshape(schema.shape)
    context.datasets.stage(entry, torch.from_numpy(numbers))
    return Done((schema.name,)), ()


def commit(context: Context, peer: Peer, request: bytes, body: memoryview) -> Answer:
    """``datasets/commit``."""
    asked = _decode(request, Commit, body)
    context.datasets.commit(asked.id, _owner(peer), asked.names)
    return Done(asked.names), ()


def discard(context: Context, peer: Peer, request: bytes, body: memoryview) -> Answer:
    """``datasets/discard``."""
    context.datasets.discard(_decode(request, Discard, body).id, _owner(peer))
    return Done(), ()


def list_datasets(context: Context, peer: Peer, request: bytes, body: memoryview) -> Answer:
    """``datasets/list``."""
    asked = _decode(request, List, body)
    role = str(peer.role)
    visible = VISIBLE.get(role.partition("/")[0])
    if visible is None:
        raise PeerRejected(f"{role} is not told of owners' data", remedy="ask as an owner, controller or party")
    entries = [e for e in context.datasets.list() if visible(e, role) and e.schema.name.startswith(asked.prefix)]
    return Done(), (msgspec.msgpack.encode(entries),)


def remove(context: Context, peer: Peer, request: bytes, body: memoryview) -> Answer:
    """``datasets/remove``."""
    asked = _decode(request, Remove, body)
    return Done(tuple(context.datasets.remove(asked.name, _owner(peer)))), ()


#: name of the question -> its handler
HANDLERS: dict[str, Callable[[Any, Any, bytes, memoryview], Answer]] = {
    "datasets/stage": stage,
    "datasets/commit": commit,
    "datasets/discard": discard,
    "datasets/list": list_datasets,
    "datasets/remove": remove,
}


def decode_entries(body: memoryview) -> list[Entry]:
    """The entries of an answer to ``datasets/list``; raises ``MalformedMessage``."""
    try:
        return msgspec.msgpack.decode(body, type=list[Entry])
    except msgspec.DecodeError as error:
        raise MalformedMessage("a list of data sets that is none") from error


def _decode(request: bytes, kind: type[S], body: memoryview | None = None) -> S:
    """The request; raises ``MalformedMessage``, also for a body where none belongs."""
    if body is None or not len(body):
        try:
            return msgspec.msgpack.decode(request, type=kind)
        except msgspec.DecodeError:
            pass
    raise MalformedMessage(f"a request that is no {kind.__name__}")


def _owner(peer: Peer) -> str:
    role = str(peer.role)
    if not role.startswith("owner/"):
        raise PeerRejected(f"{role} is no owner of data", remedy="use an owner's certificate")
    return role
