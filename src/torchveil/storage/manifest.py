"""What a stored file says of itself: whose it is, what is inside. Sealed with the payload, never in the clear."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Natural = Annotated[int, Meta(ge=0, le=2**53)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor. ``scale`` is that of its integers, ``base`` and ``digits`` the number format it returns to.

    ``kind`` "bit": the integers are 0 and 1, and stand for truth values. ``provenance``: whose data went into it,
    sorted.
    """

    shape: tuple[Natural, ...]
    scale: Annotated[int, Meta(ge=1, le=2**62)] = 1
    base: Annotated[int, Meta(ge=2, le=2**26)] = 2
    digits: Annotated[int, Meta(ge=0, le=26)] = 0
    kind: Literal["wire", "bit"] = "wire"
    provenance: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file holds and whose it is.

    version: of this format; a reader knows one. name, digest: set by the store; the digest is the SHA-256 of the
    payload. party, rank, parties, cluster: whose file. session, epoch: of which run the tensors are. generation,
    save_id: the how-manieth save under its name, and 16 random bytes that all files of one save have in common.
    attached: what else its writer wants to find again.
    """

    version: Literal[1] = 1
    name: str = ""
    digest: str = ""
    cluster: str
    party: str
    rank: int = 0
    parties: tuple[str, ...] = ()
    session: str = ""
    epoch: int = 0
    generation: int = 0
    save_id: str = ""
    entries: dict[str, Entry]
    attached: bytes = b""
