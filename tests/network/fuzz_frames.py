"""Fuzz of frames: random bytes and changed streams parse or raise one of two errors, and take no memory beyond limits.

    python -m tests.network.fuzz_frames 1000000

The bytes come from the operating system and are printed, as hex, for a case that fails. One case is a stream of one to
three frames that was changed in up to four places (bits, bytes, lengths, cuts, repeats, swaps), or random bytes, or
random bytes behind a valid beginning; it is fed in random pieces.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from dataclasses import dataclass

from torchveil.errors import LimitExceeded, MalformedMessage
from torchveil.network.framing import NO_SESSION, Decoder, Frame, Limits, pack
from torchveil.randomness import os_bytes

LIMITS = Limits(meta=100, body=4096, chunk=256, queued=1 << 20)
#: Lengths and counters that break what is careless.
NUMBERS = [n.to_bytes(8, "little") for n in (0, 1, 255, 256, 257, 4096, 4097, 2**31, 2**32, 2**33, 2**63, 2**64 - 1)]
PER_CASE = 40


@dataclass
class Figures:
    """How many cases gave frames and no error, and how many raised which; the most memory that any case took."""

    parsed: int = 0
    malformed: int = 0
    limit: int = 0
    frames: int = 0
    peak_bytes: int = 0


def feed_all(stream: bytes, limits: Limits, cuts: bytes = b"") -> tuple[int, type[Exception] | None]:
    """Feeds a stream in pieces of the lengths that ``cuts`` gives; the number of frames, and what was raised if any."""
    decoder, n, at = Decoder(NO_SESSION, limits), 0, 0
    try:
        for cut in (*cuts, len(stream)):
            decoder.feed(stream[at : at + cut])
            at += cut
            while (frame := decoder.next()) is not None:
                n += 1
                if len(frame.meta) > limits.meta or len(frame.body) > limits.body_of(frame.kind):
                    raise AssertionError("a frame beyond the limits")
    except (MalformedMessage, LimitExceeded) as error:
        return n, type(error)
    return n, None


def mutated(stream: bytes, chance: bytes) -> bytes:
    """The stream with up to four changes; all choices come from 32 bytes of ``chance``."""
    out = bytearray(stream)
    for i in range(1 + chance[0] % 4):
        what, high, low, value = chance[4 * i + 4 : 4 * i + 8]
        at = (high << 8 | low) % (len(out) or 1)
        CHANGES[what % len(CHANGES)](out, at, value)
    return bytes(out)


def _bit(out: bytearray, at: int, value: int) -> None:
    if out:
        out[at] ^= 1 << value % 8


def _byte(out: bytearray, at: int, value: int) -> None:
    if out:
        out[at] = value


def _number(out: bytearray, at: int, value: int) -> None:
    """A dangerous number at an aligned place: headers consist of such."""
    out[at & ~7 : (at & ~7) + 8] = NUMBERS[value % len(NUMBERS)]


def _cut(out: bytearray, at: int, value: int) -> None:
    del out[at : at + value]


def _repeat(out: bytearray, at: int, value: int) -> None:
    out[at:at] = out[at : at + value]


def _move(out: bytearray, at: int, value: int) -> None:
    piece = out[at : at + value]
    del out[at : at + value]
    out += piece


def _end(out: bytearray, at: int, value: int) -> None:
    del out[at:]


CHANGES = (_bit, _byte, _number, _cut, _repeat, _move, _end)


def valid(chance: bytes) -> bytes:
    """A stream of one to three frames."""
    out = []
    for counter in range(1 + chance[0] % 3):
        n_meta, n_body = chance[1 + counter] % 40, chance[4 + counter] * 3
        frame = Frame(chance[7], chance[8], chance[:8], bytes(n_meta), bytes(n_body))
        out += pack(frame, NO_SESSION, counter, LIMITS)
    return b"".join(out)


def run(n_cases: int) -> Figures:
    """Runs that many cases; raises whatever is neither a frame nor one of the two errors."""
    figures = Figures()
    tracemalloc.start()
    try:
        for start in range(0, n_cases, 1000):
            chances = os_bytes(PER_CASE * 1000)
            for i in range(min(1000, n_cases - start)):
                before = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
                one(chances[PER_CASE * i : PER_CASE * (i + 1)], figures)
                figures.peak_bytes = max(figures.peak_bytes, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return figures


def one(chance: bytes, figures: Figures) -> None:
    """One case."""
    stream = valid(chance[30:40])
    if chance[1] < 20:
        stream = chance
    elif chance[1] < 60:
        stream = stream[: chance[2] % 70] + chance
    elif chance[1] < 240:
        stream = mutated(stream, chance)
    try:
        n, error = feed_all(stream, LIMITS, chance[24:27])
    except Exception:
        print("case:", chance.hex(), "stream:", stream.hex(), file=sys.stderr)
        raise
    figures.frames += n
    if error is None:
        figures.parsed += 1
    elif error is MalformedMessage:
        figures.malformed += 1
    else:
        figures.limit += 1


def main() -> None:
    n_cases = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    started = time.perf_counter()
    figures = run(n_cases)
    print(f"{n_cases} cases in {time.perf_counter() - started:.0f} s: {figures}")


if __name__ == "__main__":
    main()
