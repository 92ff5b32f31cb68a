"""Bodies of messages: what was packed is found again; of another length or shape it is refused, never another error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from msgspec.structs import replace

from torchveil.errors import MalformedMessage
from torchveil.kernels import Packed
from torchveil.network import messages as m
from torchveil.network.framing import Decoder, Frame, pack, views
from torchveil.network.pieces import cut, dealt, dealt_of, exchange_of, exchanged, padded, ring_of
from torchveil.program.tensors import MOST_DIMENSIONS

SESSION = b"session-and-more"
RING = torch.arange(6).view(2, 3)
OWN = [RING, Packed((np.arange(4, dtype=np.uint16),), 12, 4, (4,)), np.arange(5, dtype=np.uint8), torch.tensor(7)]
CORRECTIONS = {
    ("dealt", 0): RING,
    ("dealt-bits", 1): np.arange(5, dtype=np.uint8),
    ("dealt-bits", 2): np.arange(4, dtype=np.uint16),
}
SAID = m.Collected("sum", (2, 3), 0, "", -1, bytes(32), ("owner/a",))


def flat(pieces: Any) -> list[Any]:
    return [piece.planes[0].tolist() if isinstance(piece, Packed) else piece.tolist() for piece in pieces]


def collected(frame: Frame) -> Any:
    said = m.parse(frame, m.Collected)
    return said, ring_of(frame.received, said.shape).tolist()


@dataclass(frozen=True)
class Sort:
    """One kind of message with pieces: how it is sent, and what a receiver finds in it."""

    frame: Frame
    read: Callable[[Frame], Any]
    found: Any


_DESCRIBED, _BODY = dealt_of(CORRECTIONS)
SORTS = {
    "exchange": Sort(
        Frame(int(m.Kind.EXCHANGE), body=exchange_of(OWN)), lambda f: flat(exchanged(OWN, f.received)), flat(OWN)
    ),
    "dealt": Sort(
        m.message_of(m.Kind.DEALT, _DESCRIBED, body=_BODY),
        lambda f: flat(dealt(m.parse(f, m.Dealt), f.received).values()),
        flat(CORRECTIONS.values()),
    ),
    "revealed": Sort(
        Frame(int(m.Kind.REVEALED), body=exchange_of([RING])),
        lambda f: ring_of(f.received, (2, 3)).tolist(),
        RING.tolist(),
    ),
    "collected": Sort(m.message_of(m.Kind.COLLECTED, SAID, body=exchange_of([RING])), collected, (SAID, RING.tolist())),
    "buffers": Sort(
        Frame(int(m.Kind.STREAM), body=padded([b"12345", bytes(8)])),
        lambda f: [bytes(part) for part in cut(f.received, [5, 8])],
        [b"12345", bytes(8)],
    ),
}
names = st.sampled_from(sorted(SORTS))


def shapes_instead(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of which the body holds another number of elements, or none that could be."""
    return {
        "one more": (*shape, 2),
        "one less": (1,),
        "too many dimensions": (1,) * (MOST_DIMENSIONS + 1),
        "nothing, and overflows": (0, 2**40, 2**40),
        "huge": (2**40, 2**40),
    }


class Messages(RuleBasedStateMachine):
    """Messages in any order over one connection. Honest ones give what was sent; of another length or shape all raise
    ``MalformedMessage``, which is no reason to refuse an honest one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder(SESSION)
        self.counter = 0

    def over(self, frame: Frame) -> Frame:
        for piece in pack(frame, SESSION, self.counter):
            self.decoder.feed(piece)
        self.counter += 1
        got = self.decoder.next()
        assert got is not None
        return got

    def refused(self, sort: Sort, frame: Frame) -> None:
        with pytest.raises(MalformedMessage):
            sort.read(self.over(frame))

    @rule(name=names)
    def honest(self, name: str) -> None:
        assert SORTS[name].read(self.over(SORTS[name].frame)) == SORTS[name].found

    @rule(name=names, less=st.integers(1, 200))
    def short(self, name: str, less: int) -> None:
        body = b"".join(map(bytes, views(SORTS[name].frame.body)))
        self.refused(SORTS[name], SORTS[name].frame._replace(body=body[: max(len(body) - less, 0)]))

    @rule(name=names, more=st.integers(1, 200))
    def long(self, name: str, more: int) -> None:
        body = b"".join(map(bytes, views(SORTS[name].frame.body)))
        self.refused(SORTS[name], SORTS[name].frame._replace(body=body + bytes(more)))

    @rule(data=st.data())
    def dealt_of_another_shape(self, data: st.DataObject) -> None:
        first, *rest = _DESCRIBED.pieces
        shape = data.draw(st.sampled_from(list(shapes_instead(first.shape).values())))
        said = m.Dealt((m.Piece(first.purpose, first.slot, first.dtype, shape), *rest))
        self.refused(SORTS["dealt"], SORTS["dealt"].frame._replace(meta=m.pack_meta(said)))

    @rule(data=st.data())
    def collected_of_another_shape(self, data: st.DataObject) -> None:
        shape = data.draw(st.sampled_from(list(shapes_instead(SAID.shape).values())))
        said = replace(SAID, shape=shape)
        self.refused(SORTS["collected"], SORTS["collected"].frame._replace(meta=m.pack_meta(said)))

    @rule(name=names, other=names)
    def another_kind(self, name: str, other: str) -> None:
        if {name, other} <= {"dealt", "collected"} and name != other:
            self.refused(SORTS[name], SORTS[other].frame)


Messages.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestMessages = Messages.TestCase


sizes = st.sampled_from([0, 1, 2, 3, 7, 2**20, 2**40])
described = st.builds(
    m.Piece,
    purpose=st.sampled_from(["dealt", "dealt-bits"]),
    slot=st.integers(0, 3),
    dtype=st.sampled_from(["ring", "bits", "words", "other"]),
    shape=st.lists(sizes, max_size=70).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(described, max_size=4), st.integers(0, 40))
def test_a_description_fits_its_body_or_is_refused(pieces: list[m.Piece], words: int) -> None:
    frame = m.message_of(m.Kind.DEALT, m.Dealt(tuple(pieces)), body=bytes(8 * words))
    try:
        found = dealt(m.parse(frame, m.Dealt), memoryview(bytearray(8 * words)))
    except MalformedMessage:
        return
    assert [tuple(piece.shape) for piece in found.values()] == [piece.shape for piece in pieces]
    assert all(math.prod(piece.shape) <= 8 * words for piece in pieces)


@pytest.mark.parametrize("shape", [(), (0,), (1,) * MOST_DIMENSIONS, (3, 0, 2)], ids=str)
def test_shapes_that_may_be(shape: tuple[int, ...]) -> None:
    sent = torch.ones(shape, dtype=torch.int64)
    message, body = dealt_of({("dealt", 0): sent})
    frame = m.message_of(m.Kind.DEALT, message)
    found = dealt(m.parse(frame, m.Dealt), memoryview(bytearray(b"".join(body))))
    assert torch.equal(torch.as_tensor(found["dealt", 0]), sent)
    assert torch.equal(ring_of(bytearray(8 * sent.numel()), shape), torch.zeros_like(sent))
