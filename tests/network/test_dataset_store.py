"""A party's data sets: two steps, crashes at every write, limits that come before memory, nothing shown of a share."""

from __future__ import annotations

import threading
import traceback

import pytest
import torch
from torch import Tensor

from tests.network.owners import MemoryShares
from torchveil.errors import DataNotFound, InvalidArgument, LimitExceeded, PeerRejected, StorageError
from torchveil.network.dataset_store import INDEX, DatasetLimits, DatasetStore
from torchveil.network.datasets import Entry, Schema

PARTIES = ("party/alice", "party/bob")
OWNER = "owner/hospital-a"
FIRST, SECOND = b"1" * 16, b"2" * 16


def entry(name: str = "hospital-a/x", identifier: bytes = FIRST, n: int = 4, owner: str = OWNER) -> Entry:
    return Entry(identifier, owner, Schema(name, (n,), 2, 16, PARTIES))


def share(fill: int, n: int = 4) -> Tensor:
    return torch.full((n,), fill, dtype=torch.int64)


def shared(store: DatasetStore, fill: int, identifier: bytes = FIRST, name: str = "hospital-a/x") -> None:
    store.stage(entry(name, identifier), 0, share(fill))
    store.commit(identifier, OWNER, [name])


def test_what_is_staged_is_not_shown_until_it_is_committed() -> None:
    store = DatasetStore(MemoryShares())
    store.stage(entry(), 0, share(1))
    assert store.list() == []
    for look in (store.find, store.open):
        with pytest.raises(DataNotFound):
            look("hospital-a/x")
    store.commit(FIRST, OWNER, ["hospital-a/x"])
    store.commit(FIRST, OWNER, ["hospital-a/x"])
    found, schema, owner = store.open("hospital-a/x", FIRST)
    assert found.equal(share(1)) and schema == entry().schema and owner == OWNER
    assert store.list() == [entry()] == [store.find("hospital-a/x")]
    with pytest.raises(DataNotFound, match="anew"):
        store.open("hospital-a/x", SECOND)


def test_a_restart_keeps_what_was_committed_and_what_waits() -> None:
    disk = MemoryShares()
    shared(DatasetStore(disk), 1)
    DatasetStore(disk).stage(entry("hospital-a/y", SECOND), 0, share(2))
    again = DatasetStore(disk)
    assert again.open("hospital-a/x")[0].equal(share(1))
    again.commit(SECOND, OWNER, ["hospital-a/y"])
    assert DatasetStore(disk).open("hospital-a/y")[0].equal(share(2))


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(8))
def test_a_crash_at_any_write_leaves_the_old_or_the_new_sharing(step: int) -> None:
    """Every write and removal while a sharing of two arrays replaces another is a place to crash at."""
    disk = MemoryShares()
    shared(DatasetStore(disk), 1)
    store = DatasetStore(disk)
    count = iter(range(100))
    write, remove = disk.write, disk.remove

    def crash_before(act: object) -> object:
        def acting(*arguments: object) -> None:
            if next(count) == step:
                raise Crash
            act(*arguments)  # type: ignore[operator]

        return acting

    disk.write, disk.remove = crash_before(write), crash_before(remove)  # type: ignore[method-assign,assignment]
    crashed = False
    try:
        store.stage(entry(identifier=SECOND), 0, share(2))
        store.stage(entry("hospital-a/x.target", SECOND), 0, share(3))
        store.commit(SECOND, OWNER, ["hospital-a/x", "hospital-a/x.target"])
    except Crash:
        crashed = True
    assert crashed == (step < 6)  # two shares, two indexes; the index, and the old share's end
    disk.write, disk.remove = write, remove  # type: ignore[method-assign]
    after = DatasetStore(disk)
    fills = {e.schema.name: int(after.open(e.schema.name)[0][0]) for e in after.list()}
    assert fills == ({"hospital-a/x": 1} if step < 5 else {"hospital-a/x": 2, "hospital-a/x.target": 3})
    shared(after, 4, b"3" * 16)
    assert after.open("hospital-a/x")[0].equal(share(4))
    assert len(disk.entries) == 2 and INDEX in disk.entries  # nothing is left over


def test_a_write_that_fails_changes_nothing() -> None:
    disk = MemoryShares()
    store = DatasetStore(disk)
    shared(store, 1)
    store.stage(entry(identifier=SECOND), 0, share(2))
    disk.fail = lambda name: name == INDEX
    for act in (
        lambda: store.commit(SECOND, OWNER, ["hospital-a/x"]),
        lambda: store.remove("hospital-a/x", OWNER),
        lambda: store.discard(SECOND, OWNER),
        lambda: store.stage(entry("hospital-a/y", b"3" * 16), 0, share(3)),
    ):
        with pytest.raises(StorageError):
            act()
    disk.fail = lambda name: False
    assert store.open("hospital-a/x")[0].equal(share(1))
    store.stage(entry("hospital-a/y", b"3" * 16), 0, share(3))
    store.commit(SECOND, OWNER, ["hospital-a/x"])
    assert store.open("hospital-a/x")[0].equal(share(2))


def test_staging_a_name_anew_drops_what_was_staged() -> None:
    disk = MemoryShares()
    store = DatasetStore(disk)
    store.stage(entry(identifier=FIRST), 0, share(1))
    store.stage(entry(identifier=SECOND), 0, share(2))
    with pytest.raises(DataNotFound):
        store.commit(FIRST, OWNER, ["hospital-a/x"])
    assert len(disk.entries) == 2
    store.discard(SECOND, OWNER)
    assert set(disk.entries) == {INDEX}


def test_what_nobody_commits_goes_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryShares()
    store = DatasetStore(disk, DatasetLimits(n_arrays_per_owner=1, staged_life_s=100.0))
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    store.stage(entry("hospital-a/y"), 0, share(1))
    now[0] += 99
    with pytest.raises(LimitExceeded):
        store.stage(entry(identifier=SECOND), 0, share(2))
    now[0] += 2
    shared(store, 2, SECOND)
    now[0] += 1000
    store.admit(entry(identifier=b"3" * 16, owner="owner/hospital-b", name="hospital-b/x"))
    assert store.open("hospital-a/x")[0].equal(share(2))


def test_limits_hold_for_each_owner_before_anything_is_kept() -> None:
    disk = MemoryShares()
    store = DatasetStore(disk, DatasetLimits(n_bytes_per_owner=100, n_arrays_per_owner=3))
    shared(store, 1)
    for n in (9, 2**39):
        with pytest.raises(LimitExceeded, match="100 bytes"):
            store.admit(entry("hospital-a/y", SECOND, n=n))
    store.admit(entry("hospital-b/y", SECOND, n=9, owner="owner/hospital-b"))
    for k in range(2):
        store.stage(entry(f"hospital-a/y{k}", bytes([k]) * 16, n=1), 0, share(1, 1))
    with pytest.raises(LimitExceeded, match="3 arrays"):
        store.admit(entry("hospital-a/z", SECOND, n=1))
    assert len(disk.entries) == 4


def test_shares_that_arrive_at_once_count_towards_the_limits() -> None:
    """The second is asked for while the first one is still being written."""
    disk = MemoryShares()
    store = DatasetStore(disk, DatasetLimits(n_bytes_per_owner=64))
    writing, go_on = threading.Event(), threading.Event()

    def slow(name: str) -> bool:
        if name != INDEX:
            writing.set()
            go_on.wait(5)
        return False

    disk.fail = slow
    first = threading.Thread(target=store.stage, args=(entry(), 0, share(1)), daemon=True)
    first.start()
    assert writing.wait(5)
    try:
        with pytest.raises(LimitExceeded):
            store.admit(entry("hospital-a/y", SECOND, n=5))
        with pytest.raises(InvalidArgument, match="arriving"):
            store.admit(entry())
        assert store.list() == []  # nobody waits for a write
    finally:
        go_on.set()
        first.join(5)
    store.admit(entry("hospital-a/y", SECOND, n=4))


def test_only_the_owner_changes_what_is_its_own() -> None:
    store = DatasetStore(MemoryShares())
    shared(store, 1)
    other = "owner/hospital-b"
    with pytest.raises(PeerRejected):
        store.stage(entry(identifier=SECOND, owner=other), 0, share(2))
    with pytest.raises(PeerRejected):
        store.remove("hospital-a/x", other)
    with pytest.raises(DataNotFound):
        store.commit(FIRST, other, ["hospital-a/x"])
    store.discard(FIRST, other)
    assert store.open("hospital-a/x")[0].equal(share(1))
    assert store.remove("hospital-a/x", OWNER) == ("hospital-a/x",)
    assert store.list() == []


@pytest.mark.parametrize("wrong", [share(1, 5), share(1).float(), share(1).view(2, 2), share(1, 0)])
def test_a_piece_of_another_size_or_type_is_refused(wrong: Tensor) -> None:
    store = DatasetStore(MemoryShares())
    with pytest.raises(InvalidArgument):
        store.stage(entry(), 0, wrong)
    store.admit(entry())


def test_a_share_arrives_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchveil.network.dataset_store.PIECE", 2)
    disk = MemoryShares()
    store = DatasetStore(disk)
    meta = entry(n=5)
    for start, piece in [(0, [1, 2]), (2, [3, 4])]:
        store.stage(meta, start, torch.tensor(piece))
    with pytest.raises(DataNotFound, match="not all of it"):
        store.commit(FIRST, OWNER, ["hospital-a/x"])
    with pytest.raises(InvalidArgument):
        store.stage(meta, 4, torch.tensor([5, 6]))
    store.stage(meta, 4, torch.tensor([5]))
    store.commit(FIRST, OWNER, ["hospital-a/x"])
    assert DatasetStore(disk).open("hospital-a/x")[0].tolist() == [1, 2, 3, 4, 5]
    store.remove("hospital-a/x", OWNER)
    assert set(disk.entries) == {INDEX}


@pytest.mark.parametrize("start", [0, 1, 2, 5, -1])
def test_pieces_come_in_order_and_once(start: int) -> None:
    store = DatasetStore(MemoryShares())
    store.stage(entry(n=5), 0, share(1, 3))
    with pytest.raises(InvalidArgument):
        store.stage(entry(n=5), start, share(2, 1))
    other = Entry(FIRST, OWNER, Schema("hospital-a/x", (5,), 2, 8, PARTIES))
    with pytest.raises(InvalidArgument):
        store.stage(other, 3, share(2, 1))


def test_what_arrives_is_dropped_on_request_by_a_crash_and_by_a_failing_disk() -> None:
    disk = MemoryShares()
    for drop in ("discard", "restart", "anew", "failure"):
        store = DatasetStore(disk)
        store.stage(entry(n=5), 0, share(1, 3))
        if drop == "discard":
            store.discard(FIRST, "owner/hospital-b")
            assert len(disk.entries) == 1
            store.discard(FIRST, OWNER)
        if drop == "restart":
            store = DatasetStore(disk)
        if drop == "anew":
            store.stage(entry("hospital-a/x.mask", SECOND, n=2), 0, share(1, 1))
            assert len(disk.entries) == 1
            store.discard(SECOND, OWNER)
        if drop == "failure":
            disk.fail = lambda name: True
            with pytest.raises(StorageError):
                store.stage(entry(n=5), 3, share(1, 2))
            disk.fail = lambda name: False
        assert disk.entries == {}
        with pytest.raises(InvalidArgument):
            store.stage(entry(n=5), 3, share(1, 2))


def test_what_is_dropped_while_it_is_written_leaves_nothing() -> None:
    disk = MemoryShares()
    store = DatasetStore(disk)

    def dropped(_name: str) -> bool:
        store.discard(FIRST, OWNER)
        return False

    disk.fail = dropped
    with pytest.raises(DataNotFound, match="dropped"):
        store.stage(entry(), 0, share(1))
    assert disk.entries == {}
    disk.fail = lambda name: False
    store.stage(entry(), 0, share(1))


def test_a_damaged_disk_is_named() -> None:
    disk = MemoryShares()
    shared(DatasetStore(disk), 1)
    (name,) = set(disk.entries) - {INDEX}
    store = DatasetStore(disk)
    disk.entries[name] = {"share": share(1, 3)}, {}
    with pytest.raises(StorageError, match="damaged"):
        store.open("hospital-a/x")
    del disk.entries[name]
    with pytest.raises(StorageError):
        store.open("hospital-a/x")
    disk.entries[INDEX] = {}, {"sharings": [{"id": "no"}]}
    with pytest.raises(StorageError, match="index"):
        DatasetStore(disk)


def test_no_share_is_shown() -> None:
    canary = 77001177
    disk = MemoryShares()
    store = DatasetStore(disk)
    shared(store, canary)
    shown = repr(store) + repr(store.list())
    (name,) = set(disk.entries) - {INDEX}
    disk.entries[name] = {"share": share(canary, 3)}, {}
    try:
        store.open("hospital-a/x")
    except StorageError as error:
        shown += "".join(traceback.format_exception(error))
    assert str(canary) not in shown + "".join(disk.entries)
