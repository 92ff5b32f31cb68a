"""When a party swaps heads of logs with the others, besides the ends of sessions: when it starts, and after releases.

In the background, so that no release waits for it: a moment after the first one, so that the other parties have written
theirs down too, and then no more often than every ``PAUSE_S``, since each swap is a line in both logs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

DELAY_S = 0.5
PAUSE_S = 10.0


class Swapping:
    """A thread that calls ``swap(True)`` once, when it starts, and ``swap(False)`` after releases, until ``stop``.

    The argument says whether to ask all parties, or only those that are not asking this one. ``swap`` raises nothing.
    """

    def __init__(self, swap: Callable[[bool], None]) -> None:
        self._swap = swap
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name="torchveil heads", daemon=True)

    def soon(self) -> None:
        """Something was released; returns at once."""
        self._wanted.set()

    def stop(self) -> None:
        """Begin no other swap; the thread ends after the one that it is at."""
        self._stopped.set()
        self._wanted.set()

    def _run(self) -> None:
        self._swap(True)
        while True:
            self._wanted.wait()
            if self._stopped.wait(DELAY_S):
                return
            self._wanted.clear()
            self._swap(False)
            if self._stopped.wait(PAUSE_S):
                return


__all__ = ["Swapping"]
