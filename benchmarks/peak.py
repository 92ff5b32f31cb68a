"""The peak of a process's resident memory during one call, by the kernel's own mark (Linux)."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def _bytes_of(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in {_STATUS}")


def peak_bytes(run: Callable[[], object]) -> int:
    """How far the resident memory rose above where it stood before ``run()``, in bytes.

    Freed memory that the allocator still holds is given back first, since a run would otherwise reuse it unseen. The
    mark (VmHWM) is then reset by writing 5 to ``clear_refs``. Raises ``OSError`` where the kernel offers neither.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")
    before = _bytes_of("VmRSS")
    run()
    return _bytes_of("VmHWM") - before
