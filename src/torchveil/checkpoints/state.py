"""Saving and loading the state of a session: the controller's part, and asking the parties for theirs.

``PATH/controller.sealed`` holds the structure, plain tensors and numbers, and what the controller knows of each secret:
shape, scale, number format. No share is in it. The parties' parts lie below ``PATH`` in lockstep, and with the parties
themselves where they are machines of their own. ``storage.checkpoint`` says how the parts stay of one save.

A secret is saved at the scale that it has, truncated or not: nothing is rounded, and training goes on exactly where it
was, but for masks, which are new. A bit is saved as the number 0 or 1, and made a selector again (3 rounds) by the
first operation that needs one. A deferred value is evaluated.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from torchveil.checkpoints.tree import Node, put_together, take_apart
from torchveil.engine import Engine
from torchveil.errors import CheckpointInvalid, InvalidArgument
from torchveil.fixedpoint import FixedPoint
from torchveil.functions.comparison import positive
from torchveil.handle import Bit, Deferred, Handle, Public, Secret
from torchveil.public import PublicTensor
from torchveil.randomness import os_bytes
from torchveil.storage import Checkpoint, Entry, Manifest, Place
from torchveil.storage.files import alone, make_directory, storing
from torchveil.storage.layout import require_storable
from torchveil.tensor import EncryptedTensor, wrap

_CONTROLLER = "controller"


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every tensor has beside its elements."""

    requires_grad: bool
    parameter: bool


class _Plain(_Tensor, tag="plain", frozen=True):
    """A plain tensor of the controller's part, under its key; ``public`` if it was declared so."""

    public: bool


class _Secret(_Tensor, tag="secret", frozen=True):
    """A secret: ``wire`` is its key with the parties, the other facts are those of its handle."""

    wire: str
    dtype: str
    wide: bool
    nonnegative: bool
    stretched: bool
    is_input: bool


class _Constant(_Tensor, tag="constant", frozen=True):
    """An encrypted tensor that is a constant: a number (as ``float.hex`` writes it), or a tensor under its key."""

    dtype: str
    shape: tuple[int, ...]
    fill: str | None


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The controller's part beside plain tensors."""

    tree: Node
    tensors: dict[str, _Plain | _Secret | _Constant]
    checkpoint: Checkpoint


_DECODER = msgspec.json.Decoder(_State)


class _Collected:
    """The tensors of a state, as they are met: plain ones, secrets by wire, and the facts of each."""

    def __init__(self, session: Engine) -> None:
        self._session = session
        self._keys: dict[Any, str] = {}
        self._wires: dict[int, str] = {}
        self._kept: list[Any] = []
        self.facts: dict[str, _Plain | _Secret | _Constant] = {}
        self.plain: dict[str, Tensor] = {}
        self.secrets: dict[str, Secret] = {}
        self.entries: dict[str, Entry] = {}

    def leaf(self, x: Tensor, place: str) -> str:
        """The key of a tensor. Storages of secrets that are met twice are one tensor."""
        same: Any = id(x)
        if isinstance(x, EncryptedTensor) and not x._path:
            same = id(x._cell), x.dtype, x.requires_grad, type(x)
        if same not in self._keys:
            key = self._keys[same] = f"t{len(self._keys)}"
            self._kept.append(x)  # or an id could come to name another tensor
            self.facts[key] = self._facts(key, x, place)
        return self._keys[same]

    def _facts(self, key: str, x: Tensor, place: str) -> _Plain | _Secret | _Constant:
        parameter = isinstance(x, nn.Parameter)
        if isinstance(x, EncryptedTensor):
            return self._encrypted(key, x, parameter)
        public = isinstance(x, PublicTensor)
        plain = x.plain if isinstance(x, PublicTensor) else x.detach()
        if type(x) not in (Tensor, nn.Parameter, PublicTensor):
            raise InvalidArgument(f"{place} is a {type(x).__name__}", op="save", remedy="save a plain or secret tensor")
        require_storable(place, plain)
        self.plain[key] = plain
        return _Plain(requires_grad=x.requires_grad, parameter=parameter, public=public)

    def _encrypted(self, key: str, x: EncryptedTensor, parameter: bool) -> _Secret | _Constant:
        handle: Handle = x.handle
        self._session.own(handle)
        handle = handle.force() if isinstance(handle, Deferred) else handle
        dtype = str(x.dtype).removeprefix("torch.")
        if isinstance(handle, Public):
            if handle.fill is None:
                self.plain[key] = handle.dense()
            return _Constant(
                requires_grad=x.requires_grad,
                parameter=parameter,
                dtype=dtype,
                shape=handle.shape,
                fill=None if handle.fill is None else float(handle.fill).hex(),
            )
        is_bit = isinstance(handle, Bit)
        wire = self._session.bit_to_arithmetic(handle) if isinstance(handle, Bit) else handle
        if wire.id not in self._wires:
            name = self._wires[wire.id] = f"w{len(self._wires)}"
            self.secrets[name] = wire
            self.entries[name] = Entry(
                wire.shape, wire.scale, wire.format.base, wire.format.digits, "bit" if is_bit else "wire"
            )
        return _Secret(
            requires_grad=x.requires_grad,
            parameter=parameter,
            wire=self._wires[wire.id],
            dtype=dtype,
            wide=wire.wide,
            nonnegative=wire.nonnegative,
            stretched=wire.stretched,
            is_input=wire.is_input,
        )


def _place(path: str | os.PathLike[str], keys: str | os.PathLike[str] | None, op: str) -> Place:
    directory = _folder(path, op)
    return Place(directory, directory / "keys" if keys is None else _folder(keys, op))


def _folder(path: str | os.PathLike[str], op: str) -> Path:
    """Raises ``InvalidArgument`` for what no folder can be called; an empty path would be the working directory."""
    text = os.fspath(path)
    if not text or "\0" in text:
        reason = "an empty path" if not text else f"{text!r}, which holds a zero character,"
        raise InvalidArgument(f"{reason} names no folder", op=op, remedy='name one, such as "checkpoint"')
    return Path(text)


def save(session: Engine, path: str | os.PathLike[str], state: Any, keys: str | os.PathLike[str] | None = None) -> None:
    """``Session.save``."""
    place = _place(path, keys, "save")
    found = _Collected(session)
    tree = take_apart(state, found.leaf)
    with storing(f"saving to {place.directory}"):
        make_directory(place.directory)
    with alone(place.directory):
        _save(session, place, tree, found)


def _save(session: Engine, place: Place, tree: Node, found: _Collected) -> None:
    name, before = f"{re.sub('[^A-Za-z0-9_]', '_', place.directory.name)[:64]}_{os_bytes(8).hex()}", 0
    if place.holds(_CONTROLLER):
        last = _controllers_part(session, place)[1].checkpoint
        name, before = last.name, last.generation
    checkpoint = Checkpoint(name, before + 1, before, os_bytes(16).hex(), session.epoch, found.entries)
    session.store(checkpoint, found.secrets, place)
    place.store(_CONTROLLER, session.home, folder=False, create=True).write(
        _CONTROLLER,
        found.plain,
        Manifest(
            cluster=session.home,
            party=_CONTROLLER,
            parties=session.parties,
            epoch=session.epoch,
            generation=checkpoint.generation,
            save_id=checkpoint.save_id,
            entries={key: Entry(tuple(x.shape)) for key, x in found.plain.items()},
            attached=msgspec.json.encode(_State(tree, found.facts, checkpoint)),
        ),
    )


def load(session: Engine, path: str | os.PathLike[str], keys: str | os.PathLike[str] | None = None) -> Any:
    """``Session.load``."""
    place = _place(path, keys, "load")
    plain, state = _controllers_part(session, place)
    wires = session.restore(state.checkpoint, place)
    made: dict[str, Handle] = {}
    tensors = {
        key: _tensor(session, key, facts, plain, state.checkpoint, wires, made) for key, facts in state.tensors.items()
    }
    return put_together(state.tree, tensors)


def _controllers_part(session: Engine, place: Place) -> tuple[dict[str, Tensor], _State]:
    if not place.holds(_CONTROLLER):
        raise CheckpointInvalid(f"there is no checkpoint in {place.directory}", op="load", remedy="check the path")
    store = place.store(_CONTROLLER, session.home, folder=False)
    plain, manifest = store.read(_CONTROLLER)
    if manifest.parties != session.parties:
        raise CheckpointInvalid(
            f"{place.directory} belongs to the parties {', '.join(manifest.parties)}",
            op="load",
            remedy="open a session of the same parties, in the same order",
        )
    try:
        return plain, _DECODER.decode(manifest.attached)
    except msgspec.MsgspecError:
        raise CheckpointInvalid(
            f"{place.directory} was written by another version of torchveil", remedy="use the version that wrote it"
        ) from None


def _tensor(
    session: Engine,
    key: str,
    facts: _Plain | _Secret | _Constant,
    plain: dict[str, Tensor],
    checkpoint: Checkpoint,
    wires: dict[str, int],
    made: dict[str, Handle],
) -> Tensor:
    """A tensor of a checkpoint; ``made`` are the handles so far, one for each wire."""
    out: Tensor
    match facts:
        case _Plain():
            out = PublicTensor(plain[key]) if facts.public else plain[key]
        case _Constant():
            fill = None if facts.fill is None else float.fromhex(facts.fill)
            tensor = None if fill is not None else plain[key]
            out = wrap(Public(session, facts.shape, fill=fill, tensor=tensor), getattr(torch, facts.dtype))
        case _Secret():
            if facts.wire not in made:
                made[facts.wire] = _handle(session, facts, checkpoint.entries[facts.wire], wires[facts.wire])
            out = wrap(made[facts.wire], getattr(torch, facts.dtype))
    if facts.parameter:
        return nn.Parameter(out, requires_grad=facts.requires_grad)
    return out.requires_grad_(facts.requires_grad) if facts.requires_grad else out


def _handle(session: Engine, facts: _Secret, entry: Entry, wire: int) -> Handle:
    handle = session.wire(
        wire,
        entry.scale,
        FixedPoint(entry.base, entry.digits),
        shape=entry.shape,
        wide=facts.wide,
        nonnegative=facts.nonnegative,
        is_input=facts.is_input,
        stretched=facts.stretched,
    )
    return handle if entry.kind == "wire" else Deferred(session, entry.shape, lambda: positive(handle))


__all__ = ["load", "save"]
