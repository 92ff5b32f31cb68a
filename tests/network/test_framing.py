"""Frames: what is packed is parsed, however it is cut; what is no frame raises and takes no memory."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.network.fuzz_frames import feed_all, mutated, run
from torchveil.errors import LimitExceeded, MalformedMessage
from torchveil.network.framing import NO_SESSION, Decoder, Frame, Limits, pack

SESSION, OTHER = b"session-and-more", b"another-session!"
ZEROS = bytes(4 << 20)
SMALL = Limits(meta=100, body=1000, chunk=64, queued=10_000, kinds={9: 16})


def packed(frame: Frame, session: bytes = NO_SESSION, counter: int = 0, limits: Limits | None = None) -> bytes:
    return b"".join(pack(frame, session, counter, limits))


def same(a: Frame, b: Frame) -> bool:
    return a[:4] == b[:4] and b"".join(map(bytes, parts(a))) == b"".join(map(bytes, parts(b)))


def parts(frame: Frame) -> list[bytes]:
    body = frame.body
    return [bytes(body)] if isinstance(body, bytes | bytearray | memoryview) else [bytes(part) for part in body]


frames = st.builds(
    Frame,
    kind=st.integers(0, 255).filter(lambda kind: kind != 9),
    number=st.integers(0, 2**64 - 1),
    digest=st.binary(min_size=8, max_size=8),
    meta=st.binary(max_size=100),
    body=st.lists(st.binary(max_size=250), max_size=4),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(frames, max_size=6), st.data())
def test_what_is_packed_is_parsed_however_it_is_cut(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(packed(frame, SESSION, counter, SMALL) for counter, frame in enumerate(sent))
    decoder, got = Decoder(SESSION, SMALL), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        decoder.feed(stream[:cut])
        stream = stream[cut:]
        while (frame := decoder.next()) is not None:
            got.append(frame)
    assert len(got) == len(sent) and all(map(same, got, sent))
    assert decoder.waiting == 0


def test_a_body_in_several_buffers_and_chunks_is_not_copied_and_comes_as_one() -> None:
    pieces: list[Any] = [bytearray(range(256)) * 256, memoryview(torch.arange(9000).numpy()), b"", b"end"]
    limits = Limits(chunk=50_000)
    out = pack(Frame(1, body=pieces), NO_SESSION, 0, limits)
    assert any(isinstance(piece, memoryview) and piece.obj is pieces[0] for piece in out)
    decoder = Decoder(limits=limits)
    for piece in out:
        view = decoder.buffer()
        while piece:
            n = min(len(view), len(piece))
            view[:n] = piece[:n]
            decoder.filled(n)
            piece, view = piece[n:], decoder.buffer()
    frame = decoder.next()
    assert frame is not None and bytes(frame.body) == b"".join(memoryview(p).cast("B") for p in pieces)


def test_small_pieces_travel_together() -> None:
    """One TLS record, one system call; a buffer larger than a record goes as it is."""
    assert len(pack(Frame(1, meta=b"m", body=[bytes(8)] * 100), NO_SESSION, 0)) == 1
    assert [len(p) for p in pack(Frame(1, body=[bytes(8), bytes(20_000), bytes(8)] * 2), NO_SESSION, 0)] == [
        56 + 8 + 8,
        20_000,
        16,
        20_000,
        8,
    ]
    many = pack(Frame(1, body=[bytes(1000)] * 100), NO_SESSION, 0)
    assert len(many) == 7 and max(map(len, many)) <= 1 << 14


def test_a_received_body_is_a_tensor_without_a_copy() -> None:
    sent = torch.arange(3_000_000)
    decoder = Decoder()
    decoder.feed(packed(Frame(1, body=memoryview(sent.numpy()))))
    frame = decoder.next()
    assert frame is not None
    tensor = torch.frombuffer(frame.body, dtype=torch.int64)
    assert torch.equal(tensor, sent) and tensor.data_ptr() % 8 == 0
    tensor.zero_()
    assert not any(frame.body[:800])


def test_a_repr_shows_no_bytes() -> None:
    assert "secret" not in repr(Frame(1, meta=b"secret", body=[b"secret"])) + repr(Frame(1, body=b"secret"))


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, b"X"), (3, b"\2"), (5, b"\1"), (7, b"\1"), (8, OTHER[:8]), (8, bytes(8)), (16, b"\1")],
    ids=["magic", "version", "flags", "more flags", "other session", "no session", "counter"],
)
def test_a_wrong_header_is_refused_for_ever(at: int, value: bytes) -> None:
    stream = bytearray(packed(Frame(1, body=b"12345678"), SESSION))
    stream[at : at + len(value)] = value
    decoder = Decoder(SESSION)
    for _ in range(2):
        with pytest.raises(MalformedMessage):
            decoder.feed(stream)
        with pytest.raises(MalformedMessage):
            decoder.next()
        with pytest.raises(MalformedMessage):
            decoder.buffer()
        stream = bytearray(packed(Frame(1), SESSION))


@pytest.mark.parametrize(
    ("index", "length"), [(1, 8), (0, 0), (0, 9), (0, 2**32 - 1)], ids=["index", "empty", "too long", "huge"]
)
def test_chunks_that_do_not_add_up_are_refused(index: int, length: int) -> None:
    stream = bytearray(packed(Frame(1, body=b"12345678")))
    stream[56:64] = struct.pack("<II", index, length)
    with pytest.raises(MalformedMessage, match="add up"):
        Decoder().feed(stream[:64])


def test_chunks_larger_than_the_limit_are_refused() -> None:
    with pytest.raises(MalformedMessage, match="add up"):
        Decoder(limits=Limits(chunk=100)).feed(packed(Frame(1, body=bytes(101))))


@pytest.mark.parametrize("frame", [Frame(1, meta=bytes(101)), Frame(1, body=bytes(1001)), Frame(9, body=bytes(17))])
def test_a_frame_beyond_the_limits_is_refused_at_both_ends(frame: Frame) -> None:
    with pytest.raises(LimitExceeded):
        pack(frame, NO_SESSION, 0, SMALL)
    header = packed(frame)[:56]
    with pytest.raises(LimitExceeded):
        Decoder(limits=SMALL).feed(header)


@pytest.mark.parametrize("frame", [Frame(256), Frame(-1), Frame(1, 2**64), Frame(1, -1), Frame(1, digest=bytes(7))])
def test_a_field_that_does_not_fit_is_refused(frame: Frame) -> None:
    with pytest.raises(LimitExceeded):
        pack(frame, NO_SESSION, 0)


def test_an_announced_length_takes_no_memory() -> None:
    """8 GB are announced: room for four chunks is asked for with the first one, more as bytes come."""
    header = bytearray(packed(Frame(1, body=b"x"))[:56])
    header[48:56] = struct.pack("<Q", 1 << 33)
    chunk = 4 << 20
    decoder = Decoder()
    tracemalloc.start()
    try:
        decoder.feed(header)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        for index in range(4):
            decoder.feed(struct.pack("<II", index, chunk))
            decoder.feed(memoryview(ZEROS)[:chunk])
            assert tracemalloc.get_traced_memory()[1] < 5 * chunk
        decoder.feed(struct.pack("<II", 4, chunk))
        assert tracemalloc.get_traced_memory()[1] < 37 * chunk
    finally:
        tracemalloc.stop()


def test_a_session_that_is_set_later_holds_for_what_follows_at_once() -> None:
    """Both frames lie in the same bytes: the second one already carries the session that the first one agrees on."""
    stream = packed(Frame(1)) + packed(Frame(2), SESSION, 1)
    decoder = Decoder()
    decoder.feed(stream)
    assert decoder.next() == Frame(1, body=memoryview(b""))
    decoder.session = SESSION
    assert decoder.next() == Frame(2, body=memoryview(b""))

    outside = Decoder()
    outside.feed(stream)
    outside.next()
    with pytest.raises(MalformedMessage, match="session"):
        outside.next()


# --- fuzz ------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_garbage_parses_or_raises(data: bytes, prefixed: bool) -> None:
    feed_all(b"TVL\1" * prefixed + data, SMALL)


@settings(max_examples=300, deadline=None)
@given(st.lists(frames, min_size=1, max_size=3), st.integers(0, 2**32))
def test_a_changed_stream_parses_or_raises(sent: list[Frame], seed: int) -> None:
    stream = b"".join(packed(frame, NO_SESSION, counter, SMALL) for counter, frame in enumerate(sent))
    feed_all(mutated(stream, seed.to_bytes(8, "little") * 4), SMALL)


def test_the_long_fuzz_runs() -> None:
    """A short round of what ``python -m tests.network.fuzz_frames`` runs a million times."""
    figures = run(3000)
    assert figures.parsed and figures.malformed and figures.limit
    assert figures.peak_bytes < 1 << 17


class Carrier(RuleBasedStateMachine):
    """A carrier that may deliver, drop, repeat, swap, replay from another session, and change the counter.

    Model: frames arrive as sent until the carrier does anything else; from then on nothing arrives any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder(SESSION, SMALL)
        self.counter = 0
        self.past: list[bytes] = []
        self.dead = False

    def sent(self, session: bytes = SESSION, skip: int = 0) -> bytes:
        stream = packed(Frame(1, self.counter, body=b"12345678"), session, self.counter + skip, SMALL)
        self.counter += 1
        return stream

    def deliver(self, stream: bytes, *, honest: bool) -> None:
        self.dead = self.dead or not honest
        try:
            self.decoder.feed(stream)
            frame = self.decoder.next()
        except MalformedMessage:
            assert self.dead
        else:
            assert not self.dead and frame is not None and frame.number == len(self.past)
            self.past.append(stream)

    @rule()
    def honestly(self) -> None:
        self.deliver(self.sent(), honest=True)

    @rule()
    def drop(self) -> None:
        self.sent()
        self.deliver(self.sent(), honest=False)

    @rule()
    def swap(self) -> None:
        first, second = self.sent(), self.sent()
        self.deliver(second, honest=False)
        self.deliver(first, honest=False)

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        if self.past:
            self.deliver(data.draw(st.sampled_from(self.past)), honest=False)

    @rule()
    def replay_of_another_session(self) -> None:
        self.deliver(self.sent(OTHER), honest=False)

    @rule()
    def from_before_the_session(self) -> None:
        self.deliver(self.sent(NO_SESSION), honest=False)

    @rule(skip=st.sampled_from([1, -1, 2**32, 2**63]))
    def wrong_counter(self, skip: int) -> None:
        if self.counter + skip >= 0:
            self.deliver(self.sent(skip=skip), honest=False)

    @invariant()
    def nothing_is_kept(self) -> None:
        assert self.dead or self.decoder.waiting == 0


Carrier.TestCase.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
TestCarrier = Carrier.TestCase
