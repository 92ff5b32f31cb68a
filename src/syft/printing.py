"""The printed chain: how a shared tensor looks to somebody who knows PySyft.

    (Wrapper)>AutogradTensor>FixedPrecisionTensor>[AdditiveSharingTensor]
    \t-> [PointerTensor | me:18488036277 -> bob:67609529247]
    \t-> [PointerTensor | me:69069075630 -> alice:17004294091]
    \t*crypto provider: james*

There is no chain of wrappers behind it: ``AutogradTensor`` says that torch records gradients, ``FixedPrecisionTensor``
that the numbers have digits after the point. The ids are labels; they are drawn when first needed and stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from syft.notes import Note, Share, note_of
from syft.registry import registry
from torchveil import EncryptedTensor


def pointer_line(pointer_id: object, worker: object, id_at_location: object) -> str:
    """``[PointerTensor | me:1 -> bob:2]``"""
    return f"[PointerTensor | {registry.me().id}:{pointer_id} -> {worker}:{id_at_location}]"


def label(x: EncryptedTensor, workers: Sequence[str], provider: str) -> Note:
    """Name the shares of ``x``: one per worker, in the order given; the workers list them from then on."""
    note = note_of(x)
    shape = tuple(x.shape)
    draw = registry.ids.draw
    note.shares = [Share(draw(), name, draw(), shape) for name in workers]
    note.provider = provider
    for share in note.shares:
        holder = next((w for w in registry.workers.values() if str(w.id) == share.worker), None)
        if holder is not None:
            holder.object_store.shares[share.id_at_location] = share
    return note


def chain(x: EncryptedTensor) -> str:
    """The printed form of a shared tensor. Evaluates nothing, reveals nothing."""
    note = note_of(x)
    if not note.shares:
        note = label(x, x.session.parties, x.session.provider)
    parts = ["Parameter containing:\nParameter>" if isinstance(x, nn.Parameter) else "(Wrapper)>"]
    if x.requires_grad:
        parts.append("AutogradTensor>")
    if x.dtype == torch.float32:
        parts.append("FixedPrecisionTensor>")
    parts.append("[AdditiveSharingTensor]")
    for share in note.shares:
        parts.append(f"\n\t-> {pointer_line(share.pointer_id, share.worker, share.id_at_location)}")
    parts.append(f"\n\t*crypto provider: {note.provider}*")
    return "".join(parts)


def remarks(x: Tensor) -> str:
    """What follows a pointer when it has tags or a description."""
    note = note_of(x)
    out = ""
    if note.tags:
        out += f"\n\tTags: {''.join(f'{name} ' for name in note.tags)}\n\tShape: {x.shape}"
    if note.description:
        out += f"\n\tDescription: {note.description.splitlines()[0]}..."
    return out
