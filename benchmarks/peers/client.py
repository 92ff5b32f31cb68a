"""A peer as a subprocess of ours that answers one line of JSON to each line of JSON.

    -> {"command": "hello"}                       <- {"peer": ..., "mode": ..., "workloads": {name: {"note": ...} or
                                                      {"unavailable": reason}}}
    -> {"command": "run", "workload": name}       <- {"seconds": ..., "cpu_seconds": ...}   one run, after a barrier
                                                      of the parties; processor time of all parties together
    -> {"command": "cost", "workload": name}      <- {"sent_bytes": ..., "rounds": ...}   by the peer's own counters
    -> {"command": "error", "workload": name}     <- {"largest_error": ... or null}
    -> {"command": "memory", "workload": name}    <- {"peak_bytes": ...}  all its parties together
    (end of input)                                the process ends

An answer {"error": message} is raised as ``PeerError``. While we run, the peer waits for the next line and uses no
processor time, so that its runs and ours can alternate.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from benchmarks.peers.crypten import install as crypten

_ROOT = Path(__file__).parents[2]  # where ``benchmarks`` can be imported from


class PeerError(Exception):
    """The peer said that it could not do something, or ended."""


class Peer:
    """A running peer; closes with ``close()`` or at the end of a ``with``."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
        hello = self.ask("hello")
        self.name: str = hello["peer"]
        self.mode: str = hello["mode"]
        self._workloads: dict[str, dict[str, str]] = hello["workloads"]

    def ask(self, command: str, workload: str | None = None) -> dict[str, Any]:
        """The answer to one command; raises ``PeerError``."""
        assert self._process.stdin and self._process.stdout
        request = {"command": command} if workload is None else {"command": command, "workload": workload}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError as problem:
            raise PeerError("the peer has ended") from problem
        line = self._process.stdout.readline()
        if not line:
            raise PeerError("the peer has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def unavailable(self, workload: str) -> str | None:
        """Why the peer cannot run a workload; None if it can."""
        found = self._workloads.get(workload, {"unavailable": "the peer does not know this workload"})
        return found.get("unavailable")

    def note(self, workload: str) -> str:
        """What to say beside the peer's figure."""
        return self._workloads.get(workload, {}).get("note", "")

    def run(self, workload: str) -> tuple[float, float]:
        """Seconds and processor seconds of one run."""
        answer = self.ask("run", workload)
        return float(answer["seconds"]), float(answer["cpu_seconds"])

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # it ended by itself, and a line was still on its way
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _crypten(threads: int) -> Peer:
    return Peer([str(crypten.install()), "-m", "benchmarks.peers.crypten.server", "--threads", str(threads)])


#: name on the command line -> start it with so many threads per party, installing it first if need be
PEERS: dict[str, Callable[[int], Peer]] = {"crypten": _crypten}
