"""Frames: how a message lies in a stream of bytes. Sans-I/O: bytes go in, frames or errors come out.

Theory of operation. A frame is a header of 56 bytes, its ``meta`` and its ``body``; all integers are little-endian:

    magic "TVL" | version 1 | kind 1 | flags 3 (zero) | session 8 | counter 8 | number 8 | digest 8 | meta 8 | body 8
    meta bytes
    for each chunk of the body: index 4 | length 4 | at most ``Limits.chunk`` bytes

``session`` is the first 8 bytes of the session's id, or zeros outside of any session. ``counter`` counts the frames of
one direction of one connection from 0: a frame that is missing, repeated or out of order is found at once, whatever
carries the bytes. ``number`` and ``digest`` belong to the sender's stream of instructions; who receives them compares.

No length is believed before bytes arrive: a body is announced and compared with what its kind may have. Its first chunk
makes room for four, whose pages are taken as bytes come; more room is made only when what came already is an eighth of
it. Frames hide nothing and prove nothing about their origin: that is the business of TLS below.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np

from torchveil.errors import LimitExceeded, MalformedMessage, NetworkError

Piece = memoryview | bytes

NO_SESSION = bytes(8)
_MAGIC = b"TVL"
_VERSION = 1
_HEADER = struct.Struct("<3sBB3s8sQQ8sQQ")
_CHUNK = struct.Struct("<II")
_NO_FLAGS = bytes(3)
_U64 = 1 << 64
_OTHER_PROGRAM = "both ends have to run the same version of torchveil, and nothing may change bytes between them"

#: A TLS record carries at most this much. Reads into less would leave a part of it inside OpenSSL.
RECORD = 1 << 14


class Frame(NamedTuple):
    """One message. ``body`` is one buffer or several that follow each other; it must not change before it is sent.

    The body of a received frame is one writable buffer that begins at a multiple of 8 bytes. Its repr shows no bytes.
    """

    kind: int
    number: int = 0
    digest: bytes = bytes(8)
    meta: bytes = b""
    body: Sequence[Piece] | bytearray | memoryview | bytes = ()

    @property
    def received(self) -> memoryview:
        """The body of a frame that came in."""
        body = self.body
        if not isinstance(body, memoryview | bytearray | bytes):
            raise MalformedMessage("the body of a frame that is on its way out was asked for")
        return memoryview(body)

    def __repr__(self) -> str:
        n_body = sum(len(part) for part in views(self.body))
        return f"Frame(kind={self.kind}, number={self.number}, meta={len(self.meta)} bytes, body={n_body} bytes)"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one link may take: bytes of a frame's meta, body and chunk, and bytes that wait (each way) for somebody.

    ``kinds`` gives kinds of frames a smaller body than ``body``.
    """

    meta: int = 1 << 20
    body: int = 1 << 33
    chunk: int = 4 << 20
    queued: int = 256 << 20
    kinds: Mapping[int, int] = field(default_factory=dict)

    def body_of(self, kind: int) -> int:
        """The largest body that a frame of this kind may have, in bytes."""
        return min(self.body, self.kinds.get(kind, self.body))


def views(body: Sequence[Piece] | bytearray | memoryview | bytes) -> list[memoryview]:
    """The buffers of a body as bytes, without copies; empty ones are left out."""
    parts = [body] if isinstance(body, bytes | bytearray | memoryview) else body
    return [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]


def pack(frame: Frame, session: bytes, counter: int, limits: Limits | None = None) -> list[Piece]:
    """The bytes of a frame, as pieces to send one after another. Buffers larger than a TLS record are not copied.

    Raises:
        LimitExceeded: the frame is larger than ``limits`` allow, or a field does not fit its place.
    """
    limits = limits or _DEFAULT
    parts = views(frame.body)
    n_body = sum(map(len, parts))
    fits = 0 <= frame.kind < 256 and 0 <= frame.number < _U64 and 0 <= counter < _U64 and len(frame.digest) == 8
    if not fits or len(frame.meta) > limits.meta or n_body > limits.body_of(frame.kind):
        raise LimitExceeded(
            f"a frame of kind {frame.kind} with {len(frame.meta)} + {n_body} bytes does not fit",
            remedy="send less at once: smaller batches or fewer rows",
        )
    session = session[:8] or NO_SESSION
    header = _HEADER.pack(
        _MAGIC, _VERSION, frame.kind, _NO_FLAGS, session, counter, frame.number, frame.digest, len(frame.meta), n_body
    )
    out: list[Piece] = [header + frame.meta if frame.meta else header]
    for index, start in enumerate(range(0, n_body, limits.chunk)):
        length = min(limits.chunk, n_body - start)
        out.append(_CHUNK.pack(index, length))
        out += _between(parts, start, start + length)
    return _joined(out)


def _joined(pieces: list[Piece]) -> list[Piece]:
    """The same bytes with neighbours joined that fit into one TLS record: a record each would cost more than a copy."""
    out: list[Piece] = []
    group: list[Piece] = []
    n_group = 0
    for piece in pieces:
        if n_group + len(piece) > RECORD and group:
            out.append(b"".join(group))
            group, n_group = [], 0
        if len(piece) > RECORD:
            out.append(piece)
        else:
            group.append(piece)
            n_group += len(piece)
    return [*out, b"".join(group)] if group else out


def _between(parts: list[memoryview], start: int, end: int) -> list[memoryview]:
    """Bytes ``start`` to ``end`` of buffers laid end to end."""
    out, at = [], 0
    for part in parts:
        piece = part[max(start - at, 0) : max(end - at, 0)]
        if piece:
            out.append(piece)
        at += len(part)
    return out


class Decoder:
    """Makes frames of the bytes of one direction of one connection.

    Bytes come in by ``feed(data)``, or without a copy by ``filled(recv_into(buffer()))``; frames go out by ``next()``.
    ``session`` may be set once it is agreed on; what was sent before carries zeros. A frame that came in before the
    session was set here is held against the session that is set when ``next`` hands it out. While ``opening``, frames
    with zeros become whole all the same, until the first one of the session has: the other end may fail before it
    agrees, and say so. They are for whoever looks into ``ready``; ``next`` refuses them as ever. ``limits`` may be set,
    too, and hold for frames that begin to arrive from then on.

    Every method raises MalformedMessage or LimitExceeded for bytes that are no frame of ours, or too large; from then
    on always the same, as nothing after such bytes can be trusted.
    """

    __slots__ = (
        "_direct",
        "_failure",
        "_intake",
        "_parser",
        "_want",
        "limits",
        "opening",
        "ready",
        "session",
        "waiting",
    )

    def __init__(self, session: bytes = NO_SESSION, limits: Limits | None = None) -> None:
        self.session = session
        self.limits = limits or _DEFAULT
        self.opening = False
        #: Whole frames, each with the session it names, oldest first.
        self.ready: deque[tuple[bytes, Frame]] = deque()
        #: Bytes of the frames in ``ready``.
        self.waiting = 0
        self._intake = memoryview(b"")
        self._direct = False
        self._failure: NetworkError | None = None
        self._parser = _parse()
        self._want = cast(memoryview, next(self._parser))

    def buffer(self) -> memoryview:
        """Where the next bytes should be put: at least a TLS record's worth of room."""
        self._check()
        self._direct = len(self._want) >= RECORD
        if not self._intake:
            self._intake = memoryview(bytearray(RECORD))
        return self._want if self._direct else self._intake

    def filled(self, n_bytes: int) -> None:
        """The first ``n_bytes`` of what ``buffer`` gave last were filled."""
        if not self._direct:
            self.feed(self._intake[:n_bytes])
            return
        self._check()
        self._want = self._want[n_bytes:]
        self._advance()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Takes bytes, any number of them."""
        self._check()
        source = memoryview(data)
        while source:
            n = min(len(source), len(self._want))
            self._want[:n] = source[:n]
            self._want, source = self._want[n:], source[n:]
            self._advance()

    def next(self) -> Frame | None:
        """The next frame that has arrived whole, or None."""
        self._check()
        if not self.ready:
            return None
        session, frame = self.ready.popleft()
        self.waiting -= _weight(frame)
        if session != self._prefix():
            self._fail(MalformedMessage("a frame is of another session", remedy=_OTHER_PROGRAM))
        return frame

    def drop(self, index: int) -> None:
        """Takes a whole frame out of the row."""
        self.waiting -= _weight(self.ready[index][1])
        del self.ready[index]

    def __len__(self) -> int:
        return len(self.ready)

    def _prefix(self) -> bytes:
        return bytes(self.session[:8]) or NO_SESSION

    def _accepted(self) -> tuple[bytes, ...]:
        """The sessions that a header may name now; any if empty."""
        ours = self._prefix()
        if ours == NO_SESSION:
            return ()
        return (ours, NO_SESSION) if self.opening else (ours,)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: NetworkError) -> None:
        self._failure = error
        self.ready.clear()
        self.waiting = 0
        self._want = self._intake = memoryview(b"")
        self._parser.close()
        raise error

    def _advance(self) -> None:
        """Goes on with parsing while what it waits for is there."""
        try:
            while not self._want:
                found = self._parser.send((self._accepted(), self.limits))
                if isinstance(found, memoryview):
                    self._want = found
                else:
                    self.opening = self.opening and found[0] != self._prefix()
                    self.ready.append(found)
                    self.waiting += _weight(found[1])
        except NetworkError as error:
            self._fail(error)


def _parse() -> Generator[memoryview | tuple[bytes, Frame], tuple[tuple[bytes, ...], Limits], None]:
    """Every rule of the layout. Yields buffers to fill and whole frames; is sent the sessions that may be named (any if
    none is given) and the limits of the moment."""
    header, chunk = bytearray(_HEADER.size), bytearray(_CHUNK.size)
    expected = 0
    while True:
        accepted, limits = yield memoryview(header)
        magic, version, kind, flags, session, counter, number, digest, n_meta, n_body = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise MalformedMessage("these bytes are no frame of torchveil", remedy=_OTHER_PROGRAM)
        if version != _VERSION:
            raise MalformedMessage(f"a frame is of version {version}, not {_VERSION}", remedy=_OTHER_PROGRAM)
        if flags != _NO_FLAGS:
            raise MalformedMessage("a frame has flags that are not known", remedy=_OTHER_PROGRAM)
        if accepted and session not in accepted:
            raise MalformedMessage("a frame is of another session", remedy=_OTHER_PROGRAM)
        if counter != expected:
            raise MalformedMessage(
                f"frame {counter} came where frame {expected} belongs: one was lost, repeated or moved",
                remedy=_OTHER_PROGRAM,
            )
        if n_meta > limits.meta or n_body > limits.body_of(kind):
            raise LimitExceeded(
                f"a frame of kind {kind} announces {n_meta} + {n_body} bytes, more than is allowed",
                remedy="send less at once, or raise the limits of this role",
            )
        expected += 1
        meta = bytearray(n_meta)
        if n_meta:
            yield memoryview(meta)
        body, have, index = _uninitialised(0), 0, 0
        while have < n_body:
            yield memoryview(chunk)
            said, length = _CHUNK.unpack(chunk)
            if said != index or not 0 < length <= min(limits.chunk, n_body - have):
                raise MalformedMessage("the chunks of a frame do not add up", remedy=_OTHER_PROGRAM)
            if have + length > len(body):
                grown = _uninitialised(min(n_body, max(4 * limits.chunk, 8 * have)))
                grown[:have] = body[:have]
                body = grown
            yield body[have : have + length]
            have += length
            index += 1
        yield session, Frame(kind, number, digest, bytes(meta), body)
        del body, meta  # they may be large, and the next frame far away


def _weight(frame: Frame) -> int:
    """Bytes a received frame takes, roughly: many empty ones have to count too."""
    return len(frame.meta) + len(frame.received) + 512


def _uninitialised(n_bytes: int) -> memoryview:
    """Writable bytes that begin at a multiple of 8; pages nobody wrote to take no memory."""
    return np.empty(n_bytes, np.uint8).data if n_bytes else memoryview(bytearray())


_DEFAULT = Limits()
