"""A hook for the tests of one file, taken away afterwards, and the usual workers."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

import syft as sy


@pytest.fixture(autouse=True, scope="module")
def hook() -> Iterator[sy.TorchHook]:
    found = sy.TorchHook(torch)
    yield found
    sy.hook.unhook()  # the last one: some tests make another


@pytest.fixture
def people(hook: sy.TorchHook) -> SimpleNamespace:
    """bob, alice, carl, dora to compute; james to deal."""
    names = ("bob", "alice", "carl", "dora", "james")
    found = {name: sy.VirtualWorker(hook, id=name) for name in names}
    for worker in found.values():
        worker.clear_objects()
    return SimpleNamespace(**found, parties=[found[name] for name in names[:4]])
