"""How many threads the kernels use, and why torch's own operators use one meanwhile.

torch's operators and the native kernels each have a team of threads. torch's team spins for milliseconds after every
operator that used it: on a machine with two cores, one of them is then busy with waiting while a kernel wants both. So
while roles work, this thread's torch operators run without a team, and the kernels take the number of threads that
torch was set to. Nothing of this is seen outside: the setting is put back before control returns to the caller. Where
the kernels are torch's operators themselves, they keep their team (``TEAM``).
"""

from __future__ import annotations

import threading
from types import TracebackType

import torch

#: Whether torch's operators are the kernels, so that they use all threads; ``kernels.dispatch`` says so.
TEAM = False


class _Count(threading.local):
    """How many threads this thread's kernels use; 0 outside of ``Kernels``: what torch is set to."""

    value = 0


_COUNT = _Count()


def count() -> int:
    """How many threads a kernel that this thread calls may use."""
    return _COUNT.value or torch.get_num_threads()


class Kernels:
    """A block in which kernels use ``threads`` threads (what torch is set to if 0) and torch in this thread one.

    Blocks may be nested; ``share`` changes the number inside of one.
    """

    __slots__ = ("_before", "_torch", "threads")

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads
        self._before = self._torch = 0

    def __enter__(self) -> Kernels:
        self._before = _COUNT.value
        self.threads = _COUNT.value = self.threads or count()
        self._torch = 1 if TEAM else torch.get_num_threads()
        if self._torch > 1:
            torch.set_num_threads(1)
        return self

    def share(self, threads: int) -> None:
        """From here on kernels use ``threads`` threads, those of this thread."""
        _COUNT.value = threads

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        _COUNT.value = self._before
        if self._torch > 1:
            torch.set_num_threads(self._torch)
