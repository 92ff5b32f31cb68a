"""Fuzz of frames led by coverage: atheris (libFuzzer) looks for bytes that reach new lines of the parser.

    pip install -c constraints.txt '.[fuzz]'
    python -m tests.network.fuzz_coverage -runs=1000000

The first three bytes of a case cut it in pieces, the rest is the stream. A few valid streams are the corpus it starts
with. What is neither a frame nor one of the two errors stops it and is printed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["torchveil.network.framing"]):
    from tests.network.fuzz_frames import LIMITS, feed_all, valid


def one(data: bytes) -> None:
    feed_all(data[3:], LIMITS, data[:3])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for n in range(64):
            (Path(folder) / str(n)).write_bytes(b"\x10\x40\x80" + valid(bytes((n * k) % 256 for k in range(1, 11))))
        atheris.Setup([sys.argv[0], "-max_len=4096", *sys.argv[1:], folder], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
