"""What this package remembers about a tensor without touching it: id, tags, description, where its shares are.

Kept in a weak table beside the tensors, not in attributes, so that saving or copying a tensor stays torch's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from syft.registry import registry


@dataclass(slots=True, eq=False, weakref_slot=True)
class Share:
    """One share of a tensor: which worker holds it, under which ids. Never the share itself."""

    pointer_id: int
    worker: str
    id_at_location: int
    shape: tuple[int, ...]

    def __repr__(self) -> str:
        return f"<one share of a secret tensor of shape {self.shape}, held by {self.worker}>"


@dataclass(slots=True, eq=False)
class Note:
    """``trainable`` is what ``requires_grad`` was before a module was shared without gradients."""

    id: int
    tags: tuple[str, ...] = ()
    description: str | None = None
    shares: list[Share] = field(default_factory=list)
    provider: str = ""
    trainable: bool | None = None


_notes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def note_of(x: Tensor) -> Note:
    """The note of a tensor, made when there is none."""
    note: Note | None = _notes.get(x)
    if note is None:
        note = Note(registry.ids.draw())
        _notes[x] = note
    return note


def peek(x: Tensor) -> Note | None:
    """The note of a tensor if there is one."""
    note: Note | None = _notes.get(x)
    return note


def take_note(x: Tensor) -> Note | None:
    """Remove and return the note: torch swaps tensors only while nothing refers to them weakly."""
    note: Note | None = _notes.pop(x, None)
    return note


def put_note(x: Tensor, note: Note) -> None:
    """Make ``note`` the note of ``x``."""
    _notes[x] = note


def carry(source: Tensor, target: Tensor) -> None:
    """Give ``target`` the tags and the description of ``source``."""
    known = peek(source)
    if known is not None and (known.tags or known.description):
        note = note_of(target)
        note.tags, note.description = known.tags, known.description


def tag(x: Tensor, *tags: str) -> Tensor:
    """Add tags by which ``worker.search`` finds the tensor once it is sent; returns the tensor."""
    note = note_of(x)
    note.tags = tuple(dict.fromkeys((*note.tags, *tags)))
    return x


def describe(x: Tensor, description: str) -> Tensor:
    """Describe the tensor in words; returns the tensor."""
    note_of(x).description = description
    return x
