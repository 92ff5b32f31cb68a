"""A party's part of a checkpoint: which file it takes, what it refuses, what it keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from tests.support import ring
from torchveil.errors import CheckpointInvalid, InvalidArgument, ProtocolError
from torchveil.storage import Checkpoint, Entry, Holder, Place, ShareStore, read_shares, write_shares

HOLDER = Holder("bob", 1, ("alice", "bob"), "here", b"session")
SHARES = {"w0": ring(3, 2), "w1": ring()}
ENTRIES = {key: Entry(tuple(x.shape), 2**16, 2, 16) for key, x in SHARES.items()}
OWNERS = {"w0": ("hospital-b", "hospital-a", "hospital-b"), "w1": ()}


def checkpoint(generation: int, **changes: Any) -> Checkpoint:
    first = Checkpoint("run", generation, generation - 1, f"id {generation}", 2, ENTRIES)
    return msgspec.structs.replace(first, **changes)


def store(directory: Path) -> ShareStore:
    return ShareStore(directory, bytes(32), party="bob", cluster="here")


def write(directory: Path, what: Checkpoint, shares: dict[str, Tensor] = SHARES, holder: Holder = HOLDER) -> None:
    write_shares(store(directory), holder, what, shares, OWNERS)


def test_shares_and_what_is_known_of_them_come_back(tmp_path: Path) -> None:
    write(tmp_path, checkpoint(1))
    shares, manifest = read_shares(store(tmp_path), replace(HOLDER, session_id=b"another"), checkpoint(1))
    assert all(torch.equal(shares[key], x) for key, x in SHARES.items()) and shares.keys() == SHARES.keys()
    assert manifest.entries["w0"].provenance == ("hospital-a", "hospital-b")
    assert (manifest.session, manifest.epoch, manifest.rank) == (b"session".hex(), 2, 1)


def test_the_generation_before_stays_until_the_one_after(tmp_path: Path) -> None:
    for generation in (1, 2, 3):
        write(tmp_path, checkpoint(generation))
    write(tmp_path, checkpoint(1, name="other"))
    assert store(tmp_path).names() == ["other/1", "run/2", "run/3"]
    # the controller never came to write its part of 3, and starts again from 2
    write(tmp_path, checkpoint(3, save_id="again"))
    assert store(tmp_path).names() == ["other/1", "run/2", "run/3"]
    read_shares(store(tmp_path), HOLDER, checkpoint(2))
    read_shares(store(tmp_path), HOLDER, checkpoint(3, save_id="again"))


def test_who_is_behind_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match=r"bob is behind: .* generation 3, bob holds nothing"):
        read_shares(store(tmp_path), HOLDER, checkpoint(3))
    write(tmp_path, checkpoint(2))
    with pytest.raises(CheckpointInvalid, match=r"bob is behind: .* generation 3, bob holds generations \[2\]"):
        read_shares(store(tmp_path), HOLDER, checkpoint(3))
    with pytest.raises(CheckpointInvalid, match="bob is ahead"):
        read_shares(store(tmp_path), HOLDER, checkpoint(1))


OTHERS = {
    "another save with the same number": checkpoint(2, save_id="x"),
    "another scale": checkpoint(2, entries={**ENTRIES, "w1": Entry((), 2**20, 2, 16)}),
    "a bit for a number": checkpoint(2, entries={**ENTRIES, "w1": Entry((), 2**16, 2, 16, "bit")}),
    "one value less": checkpoint(2, entries={"w0": ENTRIES["w0"]}),
    "another shape": checkpoint(2, entries={**ENTRIES, "w0": Entry((6,), 2**16, 2, 16)}),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_another_save(tmp_path: Path, other: Checkpoint) -> None:
    write(tmp_path, checkpoint(2))
    with pytest.raises(CheckpointInvalid, match="another save"):
        read_shares(store(tmp_path), HOLDER, other)


@pytest.mark.parametrize(
    "holder",
    [
        replace(HOLDER, rank=0, parties=("bob", "alice")),
        replace(HOLDER, parties=("alice", "bob", "carol")),
        replace(HOLDER, party="alice", rank=0),
        replace(HOLDER, cluster="elsewhere"),
    ],
    ids=["another order", "more parties", "another party", "another cluster"],
)
def test_other_holders(tmp_path: Path, holder: Holder) -> None:
    write(tmp_path, checkpoint(1))
    with pytest.raises(CheckpointInvalid, match="was written by bob as number 1"):
        read_shares(ShareStore(tmp_path, bytes(32)), holder, checkpoint(1))


def test_a_generation_under_another_number(tmp_path: Path) -> None:
    """The file is authentic, its name is not: an old share in a new one's place."""
    write(tmp_path, checkpoint(1))
    (tmp_path / "run=1.sealed").rename(tmp_path / "run=2.sealed")
    with pytest.raises(CheckpointInvalid, match="belongs to the name"):
        read_shares(store(tmp_path), HOLDER, checkpoint(2, save_id="id 1"))


WRONG = {
    "another shape": (checkpoint(1), {**SHARES, "w1": ring(1)}),
    "one share less": (checkpoint(1), {"w0": SHARES["w0"]}),
    "one share more": (checkpoint(1), {**SHARES, "w2": ring(1)}),
    "keeps itself": (checkpoint(1, keep=1), SHARES),
    "keeps a later one": (checkpoint(1, keep=2), SHARES),
    "keeps a negative one": (checkpoint(1, keep=-1), SHARES),
}


@pytest.mark.parametrize(("what", "shares"), WRONG.values(), ids=WRONG.keys())
def test_a_save_that_does_not_fit_touches_nothing(tmp_path: Path, what: Checkpoint, shares: dict[str, Tensor]) -> None:
    write(tmp_path, checkpoint(5))
    with pytest.raises(ProtocolError):
        write(tmp_path, what, shares)
    with pytest.raises(InvalidArgument):
        write(tmp_path, checkpoint(6, name="../run"))
    assert store(tmp_path).names() == ["run/5"]


def test_a_place_makes_keys_only_for_writing(tmp_path: Path) -> None:
    place = Place(tmp_path / "run", tmp_path / "keys")
    with pytest.raises(CheckpointInvalid, match="no key"):
        place.store("alice", "here")
    assert not place.keys.exists()
    x = {"w": ring(2)}
    written = place.store("alice", "here", create=True)
    write_shares(
        written, replace(HOLDER, party="alice", rank=0), checkpoint(1, entries={"w": Entry((2,))}), x, {"w": ()}
    )
    assert place.store("alice", "here").names() == ["run/1"] and (place.keys / "alice.key").exists()
    with pytest.raises(InvalidArgument):
        place.store("../alice", "here", create=True)
