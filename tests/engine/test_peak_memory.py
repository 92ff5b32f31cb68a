"""Peak memory of relu over all roles, in a fresh process: resident bytes per element above what was there before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchveil.kernels import native

_CODE = """
import gc, torch
from torchveil import Session

def field(name):
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(name))

torch.set_num_threads(1)
session = Session(["alice", "bob"], "provider")
def relu(x):
    torch.relu(session.share(x))
relu(torch.rand(4096))
n = 1 << 20
x = torch.empty(n).uniform_(-1, 1)
gc.collect()
with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")
before = field("VmRSS")
relu(x)
print((field("VmHWM") - before) / n)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.skipif(native.core is None, reason="the reference kernels make temporaries of their own")
def test_relu_takes_at_most_192_bytes_per_element() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHVEIL_KERNELS": "native"}
    found = subprocess.run(
        [sys.executable, "-c", _CODE], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert float(found.stdout) <= 192
