"""A party's data sets: two steps, crashes at every write, limits that come before memory, nothing shown of a share."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.network.owners import Disk, opened
from torchveil.errors import DataNotFound, InvalidArgument, LimitExceeded, PeerRejected, StorageError
from torchveil.network.config import DatasetLimits
from torchveil.network.dataset_store import INDEX, DatasetStore
from torchveil.network.datasets import Entry, Schema
from torchveil.storage import Entry as Stored
from torchveil.storage import Manifest

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


def test_what_is_staged_is_not_shown_until_it_is_committed(tmp_path: Path) -> None:
    store = opened(Disk(tmp_path))
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


def test_a_restart_keeps_what_was_committed_and_what_waits(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    shared(opened(disk), 1)
    opened(disk).stage(entry("hospital-a/y", SECOND), 0, share(2))
    again = opened(disk)
    assert again.open("hospital-a/x")[0].equal(share(1))
    again.commit(SECOND, OWNER, ["hospital-a/y"])
    assert opened(disk).open("hospital-a/y")[0].equal(share(2))


def test_a_single_number(tmp_path: Path) -> None:
    store = opened(Disk(tmp_path))
    meta = Entry(FIRST, OWNER, Schema("hospital-a/x", (), 2, 16, PARTIES))
    store.stage(meta, 0, share(5, 1))
    store.commit(FIRST, OWNER, ["hospital-a/x"])
    found, schema, _ = store.open("hospital-a/x")
    assert found.equal(torch.tensor(5)) and schema.shape == ()


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(8))
def test_a_crash_at_any_write_leaves_the_old_or_the_new_sharing(tmp_path: Path, step: int) -> None:
    """Every write and removal while a sharing of two arrays replaces another is a place to crash at."""
    disk = Disk(tmp_path)
    shared(opened(disk), 1)
    store = opened(disk)
    count = iter(range(100))

    def crash(_name: str) -> None:
        if next(count) == step:
            raise Crash

    disk.fail = crash
    crashed = False
    try:
        store.stage(entry(identifier=SECOND), 0, share(2))
        store.stage(entry("hospital-a/x.target", SECOND), 0, share(3))
        store.commit(SECOND, OWNER, ["hospital-a/x", "hospital-a/x.target"])
    except Crash:
        crashed = True
    assert crashed == (step < 6)  # two shares, two indexes; the index, and the old share's end
    disk.fail = lambda name: None
    after = opened(disk)
    fills = {e.schema.name: int(after.open(e.schema.name)[0][0]) for e in after.list()}
    assert fills == ({"hospital-a/x": 1} if step < 5 else {"hospital-a/x": 2, "hospital-a/x.target": 3})
    shared(after, 4, b"3" * 16)
    assert after.open("hospital-a/x")[0].equal(share(4))
    assert len(disk.names()) == 2 and INDEX in disk.names()  # nothing is left over


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    store = opened(disk)
    shared(store, 1)
    store.stage(entry(identifier=SECOND), 0, share(2))

    def full(name: str) -> None:
        if name == INDEX:
            raise StorageError("the disk is full")

    disk.fail = full
    for act in (
        lambda: store.commit(SECOND, OWNER, ["hospital-a/x"]),
        lambda: store.remove("hospital-a/x", OWNER),
        lambda: store.discard(SECOND, OWNER),
        lambda: store.stage(entry("hospital-a/y", b"3" * 16), 0, share(3)),
    ):
        with pytest.raises(StorageError):
            act()
    disk.fail = lambda name: None
    assert store.open("hospital-a/x")[0].equal(share(1))
    store.stage(entry("hospital-a/y", b"3" * 16), 0, share(3))
    store.commit(SECOND, OWNER, ["hospital-a/x"])
    assert store.open("hospital-a/x")[0].equal(share(2))


def test_staging_a_name_anew_drops_what_was_staged(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    store = opened(disk)
    store.stage(entry(identifier=FIRST), 0, share(1))
    store.stage(entry(identifier=SECOND), 0, share(2))
    with pytest.raises(DataNotFound):
        store.commit(FIRST, OWNER, ["hospital-a/x"])
    assert len(disk.names()) == 2
    store.discard(SECOND, OWNER)
    assert set(disk.names()) == {INDEX}


def test_what_nobody_commits_goes_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path)
    store = opened(disk, DatasetLimits(n_arrays_per_owner=1, staged_life_s=100.0))
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


def test_limits_hold_for_each_owner_before_anything_is_kept(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    store = opened(disk, DatasetLimits(n_bytes_per_owner=100, n_arrays_per_owner=3))
    shared(store, 1)
    for n in (9, 2**39):
        with pytest.raises(LimitExceeded, match="100 bytes"):
            store.admit(entry("hospital-a/y", SECOND, n=n))
    store.admit(entry("hospital-b/y", SECOND, n=9, owner="owner/hospital-b"))
    for k in range(2):
        store.stage(entry(f"hospital-a/y{k}", bytes([k]) * 16, n=1), 0, share(1, 1))
    with pytest.raises(LimitExceeded, match="3 arrays"):
        store.admit(entry("hospital-a/z", SECOND, n=1))
    assert len(disk.names()) == 4


def test_shares_that_arrive_at_once_count_towards_the_limits(tmp_path: Path) -> None:
    """The second is asked for while the first one is still being written."""
    disk = Disk(tmp_path)
    store = opened(disk, DatasetLimits(n_bytes_per_owner=64))
    writing, go_on = threading.Event(), threading.Event()

    def slow(name: str) -> None:
        if name != INDEX:
            writing.set()
            go_on.wait(5)

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


def test_only_the_owner_changes_what_is_its_own(tmp_path: Path) -> None:
    store = opened(Disk(tmp_path))
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
def test_a_piece_of_another_size_or_type_is_refused(tmp_path: Path, wrong: Tensor) -> None:
    store = opened(Disk(tmp_path))
    with pytest.raises(InvalidArgument):
        store.stage(entry(), 0, wrong)
    store.admit(entry())


def test_a_share_arrives_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchveil.network.dataset_store.PIECE", 2)
    disk = Disk(tmp_path)
    store = opened(disk)
    meta = entry(n=5)
    for start, piece in [(0, [1, 2]), (2, [3, 4])]:
        store.stage(meta, start, torch.tensor(piece))
    with pytest.raises(DataNotFound, match="not all of it"):
        store.commit(FIRST, OWNER, ["hospital-a/x"])
    with pytest.raises(InvalidArgument):
        store.stage(meta, 4, torch.tensor([5, 6]))
    store.stage(meta, 4, torch.tensor([5]))
    store.commit(FIRST, OWNER, ["hospital-a/x"])
    assert opened(disk).open("hospital-a/x")[0].tolist() == [1, 2, 3, 4, 5]
    store.remove("hospital-a/x", OWNER)
    assert set(disk.names()) == {INDEX}


@pytest.mark.parametrize("start", [0, 1, 2, 5, -1])
def test_pieces_come_in_order_and_once(tmp_path: Path, start: int) -> None:
    store = opened(Disk(tmp_path))
    store.stage(entry(n=5), 0, share(1, 3))
    with pytest.raises(InvalidArgument):
        store.stage(entry(n=5), start, share(2, 1))
    other = Entry(FIRST, OWNER, Schema("hospital-a/x", (5,), 2, 8, PARTIES))
    with pytest.raises(InvalidArgument):
        store.stage(other, 3, share(2, 1))


def full_once(disk: Disk) -> Callable[[str], None]:
    """Fails the next write, and nothing after it."""

    def full(_name: str) -> None:
        disk.fail = lambda name: None
        raise StorageError("the disk is full")

    return full


def test_what_arrives_is_dropped_on_request_by_a_crash_and_by_a_failing_disk(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for drop in ("discard", "restart", "anew", "failure"):
        store = opened(disk)
        store.stage(entry(n=5), 0, share(1, 3))
        if drop == "discard":
            store.discard(FIRST, "owner/hospital-b")
            assert len(disk.names()) == 1
            store.discard(FIRST, OWNER)
        if drop == "restart":
            store = opened(disk)
        if drop == "anew":
            store.stage(entry("hospital-a/x.mask", SECOND, n=2), 0, share(1, 1))
            assert len(disk.names()) == 1
            store.discard(SECOND, OWNER)
        if drop == "failure":
            disk.fail = full_once(disk)
            with pytest.raises(StorageError):
                store.stage(entry(n=5), 3, share(1, 2))
            disk.fail = lambda name: None
        assert disk.names() == []
        with pytest.raises(InvalidArgument):
            store.stage(entry(n=5), 3, share(1, 2))


def test_what_is_dropped_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    store = opened(disk)

    def dropped(_name: str) -> None:
        disk.fail = lambda name: None
        store.discard(FIRST, OWNER)

    disk.fail = dropped
    with pytest.raises(DataNotFound, match="dropped"):
        store.stage(entry(), 0, share(1))
    assert disk.names() == []
    disk.fail = lambda name: None
    store.stage(entry(), 0, share(1))


def replace_share(disk: Disk, fill: int, n: int = 3) -> str:
    """Put a share of another length where the one array's share is; its name on disk."""
    (name,) = set(disk.names()) - {INDEX}
    manifest = Manifest(cluster="study", party="party/alice", entries={"share": Stored((n,))})
    disk.write(name, {"share": share(fill, n)}, manifest)
    return name


def test_a_damaged_disk_is_named(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    shared(opened(disk), 1)
    store = opened(disk)
    name = replace_share(disk, 1)
    with pytest.raises(StorageError, match="damaged"):
        store.open("hospital-a/x")
    disk.delete(name)
    with pytest.raises(StorageError):
        store.open("hospital-a/x")
    manifest = Manifest(cluster="study", party="party/alice", entries={}, attached=b"\x91\x80")
    disk.write(INDEX, {}, manifest)
    with pytest.raises(StorageError, match="index"):
        opened(disk)


def test_shares_lie_encrypted_and_under_names_that_tell_nothing(tmp_path: Path) -> None:
    pattern = 0x4847464544434241
    shared(opened(Disk(tmp_path)), pattern)
    assert opened(Disk(tmp_path)).open("hospital-a/x")[0].equal(share(pattern))
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert b"ABCDEFGH" not in path.read_bytes() and b"hospital" not in path.read_bytes()
        assert "hospital" not in path.name and "=x" not in path.name


def test_no_share_is_shown(tmp_path: Path) -> None:
    canary = 77001177
    disk = Disk(tmp_path)
    store = opened(disk)
    shared(store, canary)
    shown = repr(store) + repr(store.list())
    replace_share(disk, canary)
    try:
        store.open("hospital-a/x")
    except StorageError as error:
        shown += "".join(traceback.format_exception(error))
    assert "damaged" in shown and str(canary) not in shown + "".join(disk.names())
