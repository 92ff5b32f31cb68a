"""Streams that are tied to what was carried out: two roles draw the same keystream only while they did the same.

Between machines nobody but the controller tells a role what to do, and it could tell each another thing. What the
provider deals under a label is hidden by keystream of that label; a party that used the label for another instruction,
whose result somebody may see, would give the keystream away. So the key of every purpose is derived anew from the
digest of all that was told so far (``program.digest``): whoever was told something else draws something else.
"""

from __future__ import annotations

from torch import Tensor

from torchveil.kernels import stream
from torchveil.randomness import Bits, Stream, Words, derive_key

_PURPOSE = "tied to the stream of instructions"


class TiedStreams(dict[str, Stream]):
    """The streams between a party and the provider by purpose, made when they are asked for.

    ``fixed``: those that are tied to nothing.
    """

    __slots__ = ("_fixed", "_keys", "_state")

    def __init__(self, keys: dict[str, bytes], fixed: dict[str, Stream] | None = None) -> None:
        self._fixed = fixed or {}
        self._keys = keys
        self._state = b""
        super().__init__(self._fixed)

    def tie(self, state: bytes) -> None:
        """From here on under keys of ``state``, the digest (32 bytes) of what was carried out."""
        self._state = state
        self.clear()
        self.update(self._fixed)

    def __missing__(self, purpose: str) -> Stream:
        made = self[purpose] = stream(derive_key(self._keys[purpose], _PURPOSE, self._state))
        return made

    def __repr__(self) -> str:
        return f"<TiedStreams for {', '.join(self._keys)}>"


class TiedStream:
    """One stream, between two parties."""

    __slots__ = ("_streams",)

    def __init__(self, key: bytes) -> None:
        self._streams = TiedStreams({"": key})

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
