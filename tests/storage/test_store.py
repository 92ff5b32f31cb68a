"""A store gives back exactly what was written, or raises: no byte can be changed, cut, moved or come from elsewhere."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support import ring
from torchveil.errors import CheckpointInvalid, InvalidArgument, StorageError
from torchveil.storage import Entry, Manifest, ShareStore, load_key, load_or_create_key, sealed
from torchveil.storage.layout import DTYPES, pieces

KEY = bytes(range(32))


def manifest(tensors: dict[str, Tensor], **changes: object) -> Manifest:
    entries = {key: Entry(tuple(x.shape), 2**16, 2, 16, "wire", ("ann", "bob")) for key, x in tensors.items()}
    return Manifest(**{"cluster": "here", "party": "alice", "entries": entries, **changes})  # type: ignore[arg-type]


def some() -> dict[str, Tensor]:
    return {"w": ring(5, 3), "b": ring(3, seed=1), "scalar": ring(seed=2), "nothing": ring(0, 4)}


def store(directory: Path, **whose: str) -> ShareStore:
    return ShareStore(directory, KEY, **{"party": "alice", "cluster": "here", **whose})


def only_file(directory: Path) -> Path:
    (found,) = [path for path in directory.iterdir() if path.is_file()]
    return found


@pytest.mark.smoke
def test_what_was_written_comes_back(tmp_path: Path) -> None:
    tensors = some()
    written = store(tmp_path).write("run/3", tensors, manifest(tensors, epoch=4, attached=b"more"))
    back, found = store(tmp_path).read("run/3")
    assert found == written == store(tmp_path).info("run/3")
    assert (found.name, found.epoch, found.attached, found.entries["w"].provenance) == (
        "run/3",
        4,
        b"more",
        ("ann", "bob"),
    )
    assert back.keys() == tensors.keys()
    for key, x in tensors.items():
        assert back[key].dtype == x.dtype and torch.equal(back[key], x)
    assert stat.S_IMODE(only_file(tmp_path).stat().st_mode) == 0o600


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 0, 3], [0, 5, 6]]).to(dtype).t()  # not contiguous
    store(tmp_path).write("x", {"x": x}, manifest({"x": x}))
    back = store(tmp_path).read("x")[0]["x"]
    assert back.dtype == dtype and torch.equal(back, x)


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    for x in (torch.zeros(2, dtype=torch.complex64), torch.zeros(2, device="meta"), torch.eye(2).to_sparse()):
        with pytest.raises(InvalidArgument):
            store(tmp_path).write("x", {"x": x}, manifest({"x": x}))
    with pytest.raises(InvalidArgument):
        store(tmp_path).write("x", some(), manifest({}))
    assert store(tmp_path).names() == [] and not list(tmp_path.iterdir())


def test_the_payload_is_a_safetensors_file() -> None:
    load = pytest.importorskip("safetensors.torch").load
    tensors = {**some(), "half": torch.ones(3, dtype=torch.bfloat16), "truth": torch.tensor([True])}
    back = load(b"".join(bytes(piece) for piece in pieces(tensors)))
    assert back.keys() == tensors.keys() and all(torch.equal(back[key], x) for key, x in tensors.items())


def test_names_delete_and_replace(tmp_path: Path) -> None:
    here = store(tmp_path / "new" / "folder")
    assert here.names() == []
    for name in ("run/1", "hospital-a/x", "plain"):
        here.write(name, some(), manifest(some()))
    assert here.names() == ["hospital-a/x", "plain", "run/1"]
    x = {"x": ring(2, seed=9)}
    here.write("plain", x, manifest(x))
    assert torch.equal(here.read("plain")[0]["x"], x["x"])
    here.delete("plain")
    here.delete("plain")
    assert here.names() == ["hospital-a/x", "run/1"]
    with pytest.raises(CheckpointInvalid):
        here.read("plain")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../b", "/etc/passwd", "a//b", "a/", "-x", ".hidden", "a\0b", "a b", "a=b", "a\n", "é"],
)
def test_no_name_leads_elsewhere(tmp_path: Path, name: str) -> None:
    here = store(tmp_path / "inside")
    for use in (here.read, here.info, here.delete, lambda n: here.write(n, some(), manifest(some()))):
        with pytest.raises(InvalidArgument):
            use(name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InvalidArgument):
        here.read("x" * 300)


def test_another_key_party_cluster_or_name(tmp_path: Path) -> None:
    store(tmp_path).write("mine", some(), manifest(some()))
    file = only_file(tmp_path)
    for other in (
        ShareStore(tmp_path, bytes(32)),
        store(tmp_path, party="bob"),
        store(tmp_path, cluster="elsewhere"),
    ):
        for use in (other.read, other.info):
            with pytest.raises(CheckpointInvalid):
                use("mine")
    file.rename(tmp_path / "yours.sealed")
    with pytest.raises(CheckpointInvalid, match="belongs to the name 'mine'"):
        store(tmp_path).read("yours")
    with pytest.raises(InvalidArgument):
        ShareStore(tmp_path, bytes(16))


def test_every_byte_counts(tmp_path: Path) -> None:
    """One bit of any byte: the magic, the salt, the lengths, the manifest, the header, the elements, the tag."""
    tensors = {"w": ring(4)}
    store(tmp_path).write("x", tensors, manifest(tensors))
    file = only_file(tmp_path)
    good = file.read_bytes()
    assert 400 < len(good) < 800
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        file.write_bytes(bad)
        with pytest.raises(CheckpointInvalid):
            store(tmp_path).read("x")
    for length in range(0, len(good), 3):
        file.write_bytes(good[:length])
        with pytest.raises(CheckpointInvalid):
            store(tmp_path).read("x")
    file.write_bytes(good + b"\0")
    with pytest.raises(CheckpointInvalid):
        store(tmp_path).read("x")
    file.write_bytes(good)
    assert torch.equal(store(tmp_path).read("x")[0]["w"], tensors["w"])


CHUNKED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "the last is cut off": lambda c: c[:-1],
    "the last two are cut off": lambda c: c[:-2],
    "one is left out": lambda c: c[:3] + c[4:],
    "one comes twice": lambda c: [*c[:3], c[3], *c[3:]],
    "two change places": lambda c: [*c[:3], c[4], c[3], *c[5:]],
    "one is put behind the end": lambda c: [*c, c[0]],
    "the last is in the place of another": lambda c: [*c[:3], c[-1]],
}


@pytest.mark.parametrize("change", CHUNKED.values(), ids=CHUNKED.keys())
def test_chunks_stay_in_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    """At the seal itself: the digest of a payload would see it too."""
    monkeypatch.setattr(sealed, "CHUNK", 64)
    path = tmp_path / "file"
    data = os.urandom(64 * 20 + 7)
    with path.open("wb") as file:
        writer = sealed.SealedWriter(file, KEY)
        writer.write(data)
        writer.finish()
    good = path.read_bytes()
    chunks = [good[at : at + 80] for at in range(48, len(good), 80)]
    assert len(chunks) == 21
    path.write_bytes(good[:48] + b"".join(change(chunks)))
    with path.open("rb") as file, pytest.raises(CheckpointInvalid):
        reader = sealed.SealedReader(file, KEY, "file")
        reader.read(reader.remaining)


def test_a_payload_that_is_not_what_was_digested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is of what was to be stored, whatever the way to the disk made of it."""
    given, written = {"x": ring(20)}, {"x": ring(20, seed=1)}
    calls = iter([pieces(given), pieces(written)])
    monkeypatch.setattr("torchveil.storage.store.pieces", lambda _: next(calls))
    store(tmp_path).write("x", given, manifest(given))
    with pytest.raises(CheckpointInvalid):
        store(tmp_path).read("x")


@pytest.mark.parametrize("n_bytes", [0, 1, 63, 64, 65, 128, 129])
def test_sealing_at_the_borders_of_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(sealed, "CHUNK", 64)
    data = os.urandom(n_bytes)
    path = tmp_path / "file"
    with path.open("wb") as file:
        writer = sealed.SealedWriter(file, KEY)
        writer.write(data[:10])
        writer.write(data[10:])
        writer.finish()
    with path.open("rb") as file:
        reader = sealed.SealedReader(file, KEY, "file")
        assert reader.remaining == n_bytes and reader.read(n_bytes) == data and reader.remaining == 0
        with pytest.raises(CheckpointInvalid):
            reader.read(1)


def test_no_two_files_are_sealed_alike(tmp_path: Path) -> None:
    tensors = {"w": torch.zeros(1000, dtype=torch.int64)}
    contents = []
    for _ in range(2):
        store(tmp_path).write("x", tensors, manifest(tensors))
        contents.append(only_file(tmp_path).read_bytes())
    blocks = {content[at : at + 16] for content in contents for at in range(16, len(content) - 16)}
    assert len(blocks) == sum(len(content) - 32 for content in contents)


def test_another_version_says_so(tmp_path: Path) -> None:
    store(tmp_path).write("x", some(), manifest(some(), version=2))
    with pytest.raises(CheckpointInvalid, match="another version"):
        store(tmp_path).read("x")


HEADERS = {
    "sizes that do not fit": {"w": {"dtype": "I64", "shape": [2**40], "data_offsets": [0, 2**43]}},
    "a negative size": {"w": {"dtype": "I64", "shape": [-4, -1], "data_offsets": [0, 32]}},
    "another place": {"w": {"dtype": "I64", "shape": [4], "data_offsets": [8, 40]}},
    "a gap": {"w": {"dtype": "I64", "shape": [3], "data_offsets": [8, 32]}},
    "another dtype": {"w": {"dtype": "X99", "shape": [4], "data_offsets": [0, 32]}},
    "less than there is": {"w": {"dtype": "I64", "shape": [3], "data_offsets": [0, 24]}},
    "more fields": {"w": {"dtype": "I64", "shape": [4], "data_offsets": [0, 32], "x": 1}},
    "no object": [1, 2],
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_lies_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: object
) -> None:
    """Whoever has the key is still checked."""
    raw = json.dumps(header).encode()
    monkeypatch.setattr("torchveil.storage.store.pieces", lambda _: [len(raw).to_bytes(8, "little") + raw, bytes(32)])
    store(tmp_path).write("x", {"w": ring(4)}, manifest({"w": ring(4)}))
    with pytest.raises(CheckpointInvalid):
        store(tmp_path).read("x")


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.rename"])
def test_what_was_there_stays_until_the_new_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    old, new = {"x": ring(20)}, {"x": ring(20, seed=1)}
    store(tmp_path).write("x", old, manifest(old))

    def refuse(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(call, refuse)
        with pytest.raises(StorageError, match="No space left"):
            store(tmp_path).write("x", new, manifest(new))
    assert torch.equal(store(tmp_path).read("x")[0]["x"], old["x"])
    assert only_file(tmp_path).name == "x.sealed"


def test_remains_of_a_killed_writer_are_cleared_and_no_others(tmp_path: Path) -> None:
    dead, alive, other = (
        tmp_path / name for name in (".x.sealed.1.partial", ".x.sealed.2.partial", ".y.sealed.3.partial")
    )
    for path in (dead, alive, other):
        path.write_bytes(b"half")
    with alive.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        store(tmp_path).write("x", some(), manifest(some()))
    assert not dead.exists() and alive.exists() and other.exists()


def test_many_threads_at_a_time(tmp_path: Path) -> None:
    """Each reader gets one whole file, whoever writes meanwhile; a writer may lose the place, never half of it."""
    here = store(tmp_path)
    versions = [{"x": torch.full((300_000,), k)} for k in range(6)]
    here.write("x", versions[0], manifest(versions[0]))

    def write(k: int) -> None:
        here.write("x", versions[k], manifest(versions[k]))
        here.write(f"own/{k}", versions[k], manifest(versions[k]))

    def read(_: int) -> int:
        values = here.read("x")[0]["x"].unique()
        assert len(values) == 1
        return int(values)

    with ThreadPoolExecutor(6) as pool:
        writes = [pool.submit(write, k) for k in range(1, 6)]
        reads = [pool.submit(read, k) for k in range(12)]
        for done in writes:
            done.result()
        assert {done.result() for done in reads} <= set(range(6))
    assert here.names() == [*(f"own/{k}" for k in range(1, 6)), "x"]
    assert all(int(here.read(f"own/{k}")[0]["x"][0]) == k for k in range(1, 6))
    assert len(list(tmp_path.iterdir())) == 6


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "store.key"
    with pytest.raises(StorageError):
        load_key(path)
    key = load_or_create_key(path)
    assert len(key) == 32 and stat.S_IMODE(path.stat().st_mode) == 0o600 and list(path.parent.iterdir()) == [path]
    assert load_or_create_key(path) == load_key(path) == key
    assert load_or_create_key(tmp_path / "other.key") != key
    for mode in (0o640, 0o604, 0o644):
        path.chmod(mode)
        with pytest.raises(StorageError, match="others may read"):
            load_or_create_key(path)
    path.chmod(0o600)
    link = tmp_path / "link.key"
    link.symlink_to(path)
    with pytest.raises(StorageError):
        load_key(link)
    path.write_bytes(key[:-1])
    with pytest.raises(StorageError, match="32 bytes"):
        load_key(path)


def test_a_key_that_somebody_else_made_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.key"
    first = load_or_create_key(path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda _: False)
        assert load_or_create_key(path) == first


def test_nothing_is_told(tmp_path: Path) -> None:
    here = store(tmp_path)
    here.write("x", some(), manifest(some()))
    file = only_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointInvalid) as caught:
        here.read("x")
    for text in (repr(here), str(caught.value)):
        assert KEY.hex() not in text and repr(KEY) not in text
    assert "alice" not in file.read_bytes().decode("latin1")


def test_a_new_file_that_is_cleared_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, cleared = fcntl.flock, []

    def flock(file: int, how: int) -> None:
        if not cleared:
            (aside,) = tmp_path.glob(".*.partial")
            aside.unlink()
            cleared.append(aside)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    store(tmp_path).write("x", some(), manifest(some()))
    assert cleared and only_file(tmp_path).name == "x.sealed"
