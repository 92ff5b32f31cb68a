"""Does a daemon that runs for long grow? Memory and descriptors of three daemons under sessions that come and go.

    python -m benchmarks.soak [--minutes 60] [--rest 0.2] [--json out/soak.json] [--page]

One session trains from beginning to end; beside it sessions are opened, train some steps, and are closed, every fourth
without a word, as by a program that was killed. All over mutual TLS on loopback. Every few seconds the kernel is asked
what each daemon uses. The slope is a least-squares line through resident memory, without the first part, in which
caches fill; descriptors and threads are compared between sessions, at the beginning and at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torchveil
from benchmarks.faults import PAGE, train
from benchmarks.report import insert, markdown
from benchmarks.run import processor
from torchveil.network.driver import NetworkDriver
from torchveil.testing.clusters import Processes, write_cluster
from torchveil.testing.faults import Use, use_of

EVERY_S = 5.0
#: Which part of the time is warming up, and for how long one of the sessions that come and go trains.
WARM, SHORT_S = 0.2, 12.0
ABRUPT = 4
MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """A daemon at one moment, ``at_s`` after the beginning."""

    at_s: float
    role: str
    use: Use


class Watch:
    """Samples of all daemons, taken by a thread."""

    def __init__(self, roles: Processes) -> None:
        self.pids = {role.name: roles.pid(role.name) for role in roles.config.addresses}
        self.samples: list[Sample] = []
        self.began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            at_s = time.monotonic() - self.began
            self.samples += [Sample(at_s, name, use_of(pid)) for name, pid in self.pids.items()]

    def at_rest(self) -> dict[str, Use]:
        """Without a session that comes and goes: what is used once the last one's connections are gone."""
        least: dict[str, Use] = {}
        for _ in range(20):
            time.sleep(0.1)
            for name, pid in self.pids.items():
                use = use_of(pid)
                if name not in least or use.descriptors < least[name].descriptors:
                    least[name] = use
        return least


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the least-squares line through (x, y)."""
    n = len(points)
    x_mean, y_mean = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / sum((x - x_mean) ** 2 for x, _ in points)


def short_session(file: Path, abrupt: bool, rest_s: float) -> int:
    """A session that trains for a while; how many losses it revealed."""
    n_losses, until = 0, time.monotonic() + SHORT_S
    session = torchveil.connect(file)
    for _ in train(session, plan=abrupt):
        n_losses += 1
        time.sleep(rest_s)
        if time.monotonic() > until:
            break
    driver = session._driver
    if abrupt and isinstance(driver, NetworkDriver):
        driver.hub.close()
    else:
        session.close()
    return n_losses


def figures(samples: Sequence[Sample], minutes: float) -> dict[str, float]:
    """MiB a minute, by role, after warming up."""
    after = [sample for sample in samples if sample.at_s > 60 * minutes * WARM]
    names = sorted({sample.role for sample in after})
    return {name: slope([(s.at_s / 60, s.use.resident / MIB) for s in after if s.role == name]) for name in names}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rest", type=float, default=0.2, help="seconds of doing nothing after every revealed loss")
    parser.add_argument("--json", type=Path, help="write every sample")
    parser.add_argument("--page", action="store_true", help="write the table into docs/explanation/reliability.md")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.train:
        with torchveil.connect(options.train) as session:
            for _ in train(session, plan=False):
                time.sleep(options.rest)
    with tempfile.TemporaryDirectory() as name:
        write_cluster(Path(name))
        with Processes(Path(name)) as roles, Watch(roles) as watch:
            short_session(roles.file, False, options.rest)
            words = [sys.executable, "-m", "benchmarks.soak", "--train", str(roles.file), "--rest", str(options.rest)]
            long = subprocess.Popen(words)
            try:
                time.sleep(10)
                first, n_sessions, n_losses = watch.at_rest(), 0, 0
                until = time.monotonic() + 60 * options.minutes
                while time.monotonic() < until:
                    n_losses += short_session(roles.file, n_sessions % ABRUPT == ABRUPT - 1, options.rest)
                    n_sessions += 1
                last = watch.at_rest()
                if long.poll() is not None:
                    raise RuntimeError("the long session ended")
            finally:
                long.kill()
                long.wait()
        minutes = (watch.samples[-1].at_s - watch.samples[0].at_s) / 60
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(sample) for sample in watch.samples]))
    rows = []
    for role, mib in figures(watch.samples, minutes).items():
        resident = [sample.use.resident / MIB for sample in watch.samples if sample.role == role]
        used, left = first[role], last[role]
        rows.append(
            (
                role,
                f"{mib:+.2f}",
                f"{resident[len(resident) // 5]:.0f}",
                f"{resident[-1]:.0f}",
                f"{used.descriptors}, {left.descriptors}",
                f"{used.threads}, {left.threads}",
            )
        )
    head = (
        "role",
        "MiB a minute",
        "MiB after a fifth",
        "MiB at the end",
        "descriptors first, last",
        "threads first, last",
    )
    text = f"{minutes:.0f} minutes, {n_sessions} sessions beside a long one, {processor()}:\n\n{markdown(head, rows)}"
    print(text)
    if options.page:
        PAGE.write_text(insert(PAGE.read_text(), lambda name: text if name == "soak" else None))
    return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
