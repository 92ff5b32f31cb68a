"""Large buffers of the native kernels: their pages are used again, and few of them lie idle."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.kernels.test_native import ring
from torchveil.kernels import native

SIZE = 1 << 18  # elements


def test_large_tensors_use_the_same_pages_again() -> None:
    x = native._empty((2, SIZE))
    address = x.data_ptr()
    x.fill_(7)
    del x
    found = native._empty((SIZE, 2))
    assert found.data_ptr() == address
    assert found.shape == (SIZE, 2)
    assert found.is_contiguous()
    other = native._empty((2, SIZE))
    assert other.data_ptr() != address


def test_a_view_keeps_the_buffer() -> None:
    x = native._empty((2, SIZE))
    view = x[1, 5:9]
    view.fill_(3)
    del x
    gc.collect()
    other = native._empty((2, SIZE))
    other.zero_()
    assert view.tolist() == [3, 3, 3, 3]


def test_arrays_and_small_tensors() -> None:
    words = native._words((16, SIZE))
    assert words.shape == (16, SIZE)
    assert words.flags.writeable
    assert words.dtype == np.uint16
    assert native._empty((3, 0)).shape == (3, 0)
    assert native._empty(()).shape == ()
    assert native._packed((0, 5)).shape == (0, 5)


def test_few_bytes_lie_idle() -> None:
    held = [native._empty((SIZE,)) for _ in range(160)]
    del held
    assert 0 < native.core.idle_bytes() <= 128 << 20


def test_buffers_of_other_sizes_use_the_same_pages_again() -> None:
    def address(block: object) -> int:
        return int(np.frombuffer(block, np.uint8).ctypes.data)  # type: ignore[call-overload]

    gc.collect()
    others = []
    while native.core.idle_bytes():  # take all that lies idle, in the smallest pieces
        others.append(native.core.Block(1 << 16))
    mega = 1 << 20
    whole = native.core.Block(6 * mega)
    start = address(whole)
    del whole
    parts = [native.core.Block(n * mega) for n in (2, 1, 2)]
    assert [address(part) - start for part in parts] == [0, 2 * mega, 3 * mega]
    assert native.core.idle_bytes() == mega
    del parts[0], parts[1]
    assert native.core.idle_bytes() == 5 * mega
    parts.clear()
    # free neighbours make room for something larger than each of them
    assert address(native.core.Block(5 * mega)) == start
    del others


def test_sizes_out_of_range_are_refused() -> None:
    for n_bytes in (0, -1, 1 << 60):
        with pytest.raises(ValueError, match="size"):
            native.core.Block(n_bytes)
    assert repr(native.core.Block(64)) == "<Block>"


def test_results_do_not_depend_on_old_contents() -> None:
    x, zero = ring((SIZE,), 1), torch.zeros(SIZE, dtype=torch.int64)
    expected = x + x
    for _ in range(3):
        native._empty((SIZE,)).fill_(-1)
        assert torch.equal(native.sum_pieces([x, x, zero], 64), expected)


def test_a_forked_child_has_its_own() -> None:
    code = """
import os, sys
from torchveil.kernels import native
x = native._empty((1 << 18,)); del x
child = os.fork()
if child == 0:
    y = native._empty((1 << 18,)).fill_(1)
    os._exit(0 if int(y.sum()) == 1 << 18 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60, env=environment)
