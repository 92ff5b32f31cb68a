"""Ten thousand connections of strangers to one daemon: its memory, and how long an honest session takes meanwhile.

    python -m benchmarks.strangers [--connections 10000] [--page]

Another process connects to a party as fast as it can and keeps its connections. In one turn it says nothing, in another
it sends the beginning of a handshake. Before, while connections are being opened, and while they are held, sessions of
an honest controller are opened, compute and are closed. A session that fails is counted.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

import torch

import torchveil
from benchmarks.faults import PAGE
from benchmarks.report import insert, markdown
from benchmarks.run import processor
from torchveil.errors import NetworkError
from torchveil.testing.clusters import Processes, write_cluster
from torchveil.testing.faults import Use, use_of

SAYS = {"nothing": b"", "the beginning of a handshake": bytes.fromhex("1603010200")}
HELD_S = 8.0
MIB = 1 << 20


def attack(address: str, says: bytes, n_connections: int) -> None:
    """Connect so often, say it each time, keep them."""
    host, _, port = address.rpartition(":")
    held = []
    for _ in range(n_connections):
        with suppress(OSError):
            sock = socket.create_connection((host, int(port)), 5)
            held.append(sock)
            sock.sendall(says)
    print("done", flush=True)
    time.sleep(HELD_S)


def honest(file: Path, going: Callable[[], bool]) -> tuple[list[float], int]:
    """(seconds of each session that worked, how many failed) for as long as ``going`` says."""
    seconds, n_failed = [], 0
    while going():
        start = time.perf_counter()
        try:
            with torchveil.connect(file) as session:
                x = session.share(torch.ones(4, 4))
                if float((x @ x).sum().reveal()) != 64:
                    raise RuntimeError("a wrong result")
        except NetworkError:
            n_failed += 1
        else:
            seconds.append(time.perf_counter() - start)
    return seconds, n_failed


class Most:
    """The most that a process used, looked at ten times a second by a thread."""

    def __init__(self, pid: int) -> None:
        self.resident = self.descriptors = self.threads = 0
        self._pid, self._stop = pid, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Most:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            use = use_of(self._pid)
            self.resident = max(self.resident, use.resident)
            self.descriptors = max(self.descriptors, use.descriptors)
            self.threads = max(self.threads, use.threads)


def phase(name: str, file: Path, pid: int, going: Callable[[], bool]) -> list[str]:
    """A row: what honest sessions saw, and what the daemon used, while ``going``."""
    with Most(pid) as most:
        seconds, n_failed = honest(file, going)
    shown = [f"{median(seconds):.2f} s", f"{max(seconds):.2f} s"] if seconds else ["none", "none"]
    used = [f"{most.resident / MIB:.0f} MiB", str(most.descriptors), str(most.threads)]
    return [name, str(len(seconds)), str(n_failed), *shown, *used]


def turn(says: str, n_connections: int, file: Path, address: str, pid: int) -> list[list[str]]:
    """An attack, from its first connection to the end of the last."""
    words = [sys.executable, "-m", "benchmarks.strangers", "--attack", address, "--says", says]
    words += ["--connections", str(n_connections)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    opened = threading.Event()

    def wait() -> None:
        if child.stdout is not None:
            child.stdout.readline()
        opened.set()

    threading.Thread(target=wait, daemon=True).start()
    try:
        opening = phase(f"{says}: while they connect", file, pid, lambda: not opened.is_set())
        holding = phase(f"{says}: while they are held", file, pid, lambda: child.poll() is None)
    finally:
        child.kill()
        child.wait()
    return [opening, holding]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--page", action="store_true", help="write the table into docs/explanation/reliability.md")
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    parser.add_argument("--says", default="nothing", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.attack:
        attack(options.attack, SAYS[options.says], options.connections)
        return 0
    with tempfile.TemporaryDirectory() as name:
        config = write_cluster(Path(name), limits={"handshake_s": 5})
        with Processes(Path(name)) as roles:
            honest(roles.file, iter([True, True, False]).__next__)
            address, pid = config.parties[0].address, roles.pid("alice")
            until = time.monotonic() + 5
            rows = [phase("nobody", roles.file, pid, lambda: time.monotonic() < until)]
            for says in SAYS:
                rows += turn(says, options.connections, roles.file, address, pid)
            time.sleep(1)
            after: Use = use_of(pid)
    head = ("strangers say", "sessions", "failed", "median", "longest", "memory at most", "descriptors", "threads")
    text = (
        f"{options.connections} connections each time, handshake limit 5 s, 64 places, {processor()}:\n\n"
        f"{markdown(head, rows)}\n\n"
        f"Afterwards: {after.resident / MIB:.0f} MiB, {after.descriptors} descriptors, {after.threads} threads."
    )
    print(text)
    if options.page:
        PAGE.write_text(insert(PAGE.read_text(), lambda name: text if name == "strangers" else None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
