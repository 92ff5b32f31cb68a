"""Kernels have torch's number of threads, torch itself one while roles work, and nobody outside sees a difference."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

import torchveil
from torchveil import Session
from torchveil.drivers import lockstep, replay
from torchveil.kernels import threads
from torchveil.kernels.threads import Kernels


@pytest.fixture(autouse=True)
def _three(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "TEAM", False)  # as with native kernels
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_torch_works_alone_inside_and_as_before_outside() -> None:
    with Kernels():
        assert (torch.get_num_threads(), threads.count()) == (1, 3)
        with Kernels(2) as inner:
            assert (torch.get_num_threads(), threads.count()) == (1, 2)
            inner.share(1)
            assert threads.count() == 1
        assert (torch.get_num_threads(), threads.count()) == (1, 3)
    assert (torch.get_num_threads(), threads.count()) == (3, 3)


def test_kernels_that_are_torchs_keep_its_team(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "TEAM", True)
    with Kernels():
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


def test_the_setting_is_put_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="planned"), Kernels():
        raise ValueError("planned")
    assert (torch.get_num_threads(), threads.count()) == (3, 3)


def test_the_number_is_a_threads_own() -> None:
    seen = []
    with Kernels(2):
        thread = threading.Thread(target=lambda: seen.append(threads._COUNT.value))
        thread.start()
        thread.join()
    assert seen == [0]


def test_roles_work_inside_of_such_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    execute = lockstep.Lockstep._execute

    def watched(*arguments: object) -> object:
        seen.add((torch.get_num_threads(), threads.count()))
        return execute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lockstep.Lockstep, "_execute", watched)
    with Session(["alice", "bob"], "james") as session:
        x = session.share(torch.tensor([1.0, -2.0]))
        assert torch.relu(x).reveal().tolist() == [1.0, 0.0]
        with pytest.raises(torchveil.TorchveilError):
            _ = x @ session.share(torch.ones(3))
    assert seen == {(1, 3)}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("torchs", "halves"), [(4, (2, 2)), (3, (1, 2)), (1, (1, 1))])
def test_provider_and_parties_divide_the_threads(
    monkeypatch: pytest.MonkeyPatch, torchs: int, halves: tuple[int, int]
) -> None:
    torch.set_num_threads(torchs)
    monkeypatch.setattr(replay, "THREAD_FROM", 0)
    seen: dict[str, set[tuple[int, int]]] = {}
    dealing, exchange = replay.deals, replay.Run._exchange

    def note() -> None:
        seen.setdefault(threading.current_thread().name, set()).add((torch.get_num_threads(), threads.count()))

    def watched_dealing(*arguments: object) -> Iterator[replay.Dealt]:
        for item in dealing(*arguments):  # type: ignore[arg-type]
            note()
            yield item

    def watched_exchange(run: replay.Run) -> None:
        note()
        exchange(run)

    monkeypatch.setattr(replay, "deals", watched_dealing)
    monkeypatch.setattr(replay.Run, "_exchange", watched_exchange)
    with Session(["alice", "bob"], "james") as session:
        relu = torchveil.compile(torch.relu)
        for _ in range(2):
            assert relu(session.share(torch.tensor([1.0, -2.0]))).reveal().tolist() == [1.0, 0.0]
    provider, parties = halves
    assert seen.pop("torchveil provider") == {(1, provider)}
    (others,) = seen.values()
    # a provider that was done early left its threads to the parties
    assert others <= {(1, parties), (1, torchs)}
    assert torch.get_num_threads() == torchs
