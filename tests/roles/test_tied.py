"""Streams that follow from what was carried out."""

from __future__ import annotations

import copy
import pickle

import pytest

from torchveil.errors import ProtocolError
from torchveil.randomness import tied_keys
from torchveil.roles.tied import TiedStream, TiedStreams

KEY, A, B = bytes(range(16)), b"a" * 32, b"b" * 32
PURPOSES = ("mask", "mask-bits", "dealt", "dealt-bits")


def drawn(streams: TiedStreams, purpose: str, number: int = 7) -> bytes:
    return streams[purpose].bits(number, 0, (16,)).tobytes()


def test_both_ends_draw_the_same_while_they_did_the_same() -> None:
    here, there = TiedStreams(KEY, PURPOSES), TiedStreams(KEY, PURPOSES)
    here.tie(A)
    there.tie(A)
    assert [drawn(here, p) for p in PURPOSES] == [drawn(there, p) for p in reversed(PURPOSES)][::-1]
    there.tie(B)
    assert all(drawn(here, p) != drawn(there, p) for p in PURPOSES)


def test_purposes_states_and_keys_are_apart() -> None:
    seen = set()
    for key in (KEY, bytes(16)):
        streams = TiedStreams(key, PURPOSES)
        for state in (A, B):
            streams.tie(state)
            seen |= {drawn(streams, purpose) for purpose in PURPOSES}
    assert len(seen) == 16
    assert len(set(tied_keys(KEY, A))) == 4 and {len(key) for key in tied_keys(KEY, A)} == {16}


def test_what_is_fixed_stays() -> None:
    fixed = TiedStreams(bytes(16), ("",))[""]
    streams = TiedStreams(KEY, PURPOSES, {"input": fixed})
    streams.tie(A)
    assert streams["input"] is fixed
    with pytest.raises(KeyError):
        streams["zero"]


def test_one_stream_between_parties() -> None:
    here, there = TiedStream(KEY), TiedStream(KEY)
    here.tie(A)
    there.tie(A)
    assert here.ring(1, 0, (4,), 64).equal(there.ring(1, 0, (4,), 64))
    there.tie(B)
    assert not here.ring(1, 0, (4,), 64).equal(there.ring(1, 0, (4,), 64))


def test_nothing_of_the_keys_is_shown_or_copied() -> None:
    streams = TiedStreams(KEY, PURPOSES)
    streams.tie(A)
    drawn(streams, "mask")
    for text in (repr(streams), str(streams), repr(TiedStream(KEY))):
        assert KEY.hex() not in text and repr(KEY) not in text
    for attempt in (copy.deepcopy, pickle.dumps):
        with pytest.raises(ProtocolError):
            attempt(streams)
