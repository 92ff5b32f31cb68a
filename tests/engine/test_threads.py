"""A session belongs to one thread at a time: masks depend on the order of instructions."""

from __future__ import annotations

import threading

import pytest
import torch

import torchveil
from torchveil.errors import SessionStateError


def test_a_second_thread_at_the_same_time_is_refused() -> None:
    session = torchveil.Session()
    x = session.share(torch.ones(3))
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with session._running:
            inside.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(10)
    try:
        with pytest.raises(SessionStateError, match="two threads"):
            x + x
    finally:
        leave.set()
        holder.join()
    assert torch.equal((x + x).reveal(), torch.full((3,), 2.0))


def test_threads_may_take_turns() -> None:
    session = torchveil.Session()
    x = session.share(torch.ones(3))
    results: list[torch.Tensor] = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: results.append((x * x).reveal()))
        thread.start()
        thread.join()
    assert all(torch.equal(result, torch.ones(3)) for result in results)
