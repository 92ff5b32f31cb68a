"""Streams that are tied to what was carried out: two roles draw the same keystream only while they did the same.

Between machines nobody but the controller tells a role what to do, and it could tell each another thing. What the
provider deals under a label is hidden by keystream of that label; a party that used the label for another instruction,
whose result somebody may see, would give the keystream away. So the key of every purpose is derived anew from the
digest of all that was told so far (``program.digest``): whoever was told something else draws something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from torchveil.errors import ProtocolError
from torchveil.kernels import stream
from torchveil.randomness import Bits, Stream, Words, tied_keys


class TiedStreams(dict[str, Stream]):
    """The streams of two roles for at most four purposes, made of their one key when they are asked for.

    ``fixed``: those that are tied to nothing.
    """

    __slots__ = ("_derived", "_fixed", "_key", "_places", "_state")

    def __init__(self, key: bytes, purposes: Sequence[str], fixed: Mapping[str, Stream] | None = None) -> None:
        self._fixed = fixed or {}
        self._key = key
        self._places = {purpose: place for place, purpose in enumerate(purposes)}
        self._state = b""
        self._derived: tuple[bytes, ...] = ()
        super().__init__(self._fixed)

    def tie(self, state: bytes) -> None:
        """From here on under keys of ``state``, the digest (32 bytes) of what was carried out."""
        self._state = state
        self._derived = ()
        self.clear()
        self.update(self._fixed)

    def __missing__(self, purpose: str) -> Stream:
        place = self._places[purpose]
        self._derived = self._derived or tied_keys(self._key, self._state)
        made = self[purpose] = stream(self._derived[place])
        return made

    def __repr__(self) -> str:
        return f"<TiedStreams for {', '.join(self._places)}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ProtocolError("a randomness stream cannot be copied or pickled", remedy="open a new session")


class TiedStream:
    """One stream, between two parties."""

    __slots__ = ("_streams",)

    def __init__(self, key: bytes) -> None:
        self._streams = TiedStreams(key, ("",))

    def tie(self, state: bytes) -> None:
        """As ``TiedStreams.tie``."""
        self._streams.tie(state)

    def ring(self, number: int, slot: int, shape: tuple[int, ...], width: int) -> Tensor:
        """As ``randomness.Stream.ring``."""
        return self._streams[""].ring(number, slot, shape, width)

    def bits(self, number: int, slot: int, shape: tuple[int, ...]) -> Bits:
        """As ``randomness.Stream.bits``."""
        return self._streams[""].bits(number, slot, shape)

    def words(self, number: int, slot: int, shape: tuple[int, ...], valid: int) -> Words:
        """As ``randomness.Stream.words``."""
        return self._streams[""].words(number, slot, shape, valid)

    def __repr__(self) -> str:
        return "<TiedStream>"
