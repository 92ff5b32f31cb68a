"""An owner and the parties: all or nothing, permissions, listing, deleting. The transport calls handlers directly."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.network.owners import ALICE, HOSPITAL_A, HOSPITAL_B, JAMES, SCIENTIST, Network, Who, network
from torchveil.errors import (
    DataNotFound,
    InvalidArgument,
    LimitExceeded,
    MalformedMessage,
    NetworkError,
    PeerLost,
    PeerRejected,
    TorchveilError,
)
from torchveil.fixedpoint import FixedPoint, decode
from torchveil.network.config import DatasetLimits
from torchveil.network.datasets import Array, Schema, prepare
from torchveil.network.datasets_service import DATASET_SERVICES, Commit, Discard, Remove, Stage
from torchveil.network.names import Role
from torchveil.network.owner import find, listings, share_parts, unshare

X = torch.tensor([[1.5, -2.0], [0.25, 7.0], [3.0, 4.0]])
Y = torch.tensor([0, 1, 1])


def shared(net: Network, who: Who, name: str, x: Tensor, y: Tensor | None = None, **options: object) -> bytes:
    columns = options.pop("columns", None)
    arrays = {"": Array(x, columns)} if y is None else {"": Array(x, columns), "target": Array(y)}
    return share_parts(net.by(who), name, prepare(arrays, FixedPoint(), **options))


@pytest.mark.parametrize("names", [("alice", "bob"), ("alice", "bob", "carol")])
def test_what_is_shared_is_found_and_sums_up(tmp_path: Path, names: tuple[str, ...]) -> None:
    net = network(tmp_path, *names)
    shared(net, HOSPITAL_A, "hospital-a/x", X, Y, columns=("age", "dose"))
    assert decode(net.total("hospital-a/x"), 2**16).equal(X.double())
    assert net.total("hospital-a/x.target").equal(Y)
    entry = find(net.by(SCIENTIST), "hospital-a/x")
    assert entry.owner == "owner/hospital-a"
    assert entry.schema.shape == (3, 2) and entry.schema.columns == ("age", "dose")
    share_of_alice, schema, owner = net.store("alice").open("hospital-a/x", entry.id)
    assert share_of_alice.shape == (3, 2) and schema == entry.schema and owner == entry.owner


def test_each_party_is_sent_its_own_share_and_nothing_more(tmp_path: Path) -> None:
    net = network(tmp_path, "alice", "bob", "carol")
    shared(net, HOSPITAL_A, "hospital-a/x", X)
    sent = {party: body for party, name, body in net.log if name == "datasets/stage"}
    assert len(sent) == 3 == len(set(sent.values())) and all(len(body) == 8 * 6 for body in sent.values())
    assert all(not body for _, name, body in net.log if name != "datasets/stage")


def test_large_arrays_travel_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("owner", "dataset_store"):
        monkeypatch.setattr(f"torchveil.network.{module}.PIECE", 4)
    net = network(tmp_path, "alice", "bob", "carol")
    shared(net, HOSPITAL_A, "hospital-a/x", X, Y)
    assert [len(body) for party, _, body in net.log if party == "party/bob"] == [32, 16, 24, 0]
    assert decode(net.total("hospital-a/x"), 2**16).equal(X.double()) and net.total("hospital-a/x.target").equal(Y)


def test_padding_is_the_same_for_every_number_of_rows(tmp_path: Path) -> None:
    """What the network and the parties see: sizes and schemas do not depend on the number of rows."""
    seen = []
    for rows in (1, 3):
        net = network(tmp_path)
        shared(net, HOSPITAL_A, "hospital-a/x", X[:rows], Y[:rows], pad_rows=8)
        entries = listings(net.by(SCIENTIST))["party/alice"]
        seen.append(([entry.schema for entry in entries], [(party, name, len(body)) for party, name, body in net.log]))
        assert net.total("hospital-a/x.mask").tolist() == [1] * rows + [0] * (8 - rows)
    assert seen[0] == seen[1]


def test_sharing_again_replaces_all_of_it(tmp_path: Path) -> None:
    net = network(tmp_path)
    shared(net, HOSPITAL_A, "hospital-a/x", X, pad_rows=8)
    shared(net, HOSPITAL_A, "hospital-a/x", 2 * X)
    assert decode(net.total("hospital-a/x"), 2**16).equal(2 * X.double())
    with pytest.raises(DataNotFound):
        net.total("hospital-a/x.mask")  # of the data that were there before


@pytest.mark.parametrize("failing", ["party/alice", "party/bob"])
def test_a_failure_while_staging_leaves_nothing(tmp_path: Path, failing: str) -> None:
    net = network(tmp_path)
    shared(net, HOSPITAL_A, "hospital-a/x", X)
    before = net.total("hospital-a/x")

    def fail(party: str, name: str) -> None:
        if (party, name) == (failing, "datasets/stage"):
            raise PeerLost(f"{party} is gone")

    net.fail = fail
    with pytest.raises(PeerLost):
        shared(net, HOSPITAL_A, "hospital-a/x", 2 * X)
    assert net.total("hospital-a/x").equal(before)
    assert all(repr(daemon.datasets) == "<DatasetStore of 1 sharings>" for daemon in net.daemons.values())


def test_a_failure_between_commits_is_named_and_mended_by_sharing_again(tmp_path: Path) -> None:
    net = network(tmp_path)
    shared(net, HOSPITAL_A, "hospital-a/x", X)

    def fail(party: str, name: str) -> None:
        if (party, name) == ("party/bob", "datasets/commit"):
            raise PeerLost(f"{party} is gone")

    net.fail = fail
    with pytest.raises(NetworkError, match="not committed at party/bob:"):
        shared(net, HOSPITAL_A, "hospital-a/x", 2 * X)
    with pytest.raises(DataNotFound, match="party/alice and party/bob hold different"):
        find(net.by(SCIENTIST), "hospital-a/x")
    net.fail = lambda party, name: None
    shared(net, HOSPITAL_A, "hospital-a/x", 2 * X)
    find(net.by(SCIENTIST), "hospital-a/x")
    assert decode(net.total("hospital-a/x"), 2**16).equal(2 * X.double())


def test_a_commit_whose_answer_is_lost_is_asked_for_again(tmp_path: Path) -> None:
    net = network(tmp_path)
    asked: list[str] = []

    def lose_once(party: str, name: str) -> None:
        if name == "datasets/commit":
            asked.append(party)
            if asked == ["party/alice"]:
                raise PeerLost(f"{party} is gone")

    net.fail = lose_once
    shared(net, HOSPITAL_A, "hospital-a/x", X)
    assert asked == ["party/alice", "party/bob", "party/alice"]
    find(net.by(SCIENTIST), "hospital-a/x")


def test_unshare_deletes_at_every_party(tmp_path: Path) -> None:
    net = network(tmp_path)
    shared(net, HOSPITAL_A, "hospital-a/x", X, Y)
    shared(net, HOSPITAL_A, "hospital-a/z", X)
    with pytest.raises(InvalidArgument):
        unshare(net.by(HOSPITAL_B), "hospital-a/x")
    unshare(net.by(HOSPITAL_A), "hospital-a/x")
    names = {entry.schema.name for entries in listings(net.by(HOSPITAL_A)).values() for entry in entries}
    assert names == {"hospital-a/z"}
    with pytest.raises(DataNotFound):
        unshare(net.by(HOSPITAL_A), "hospital-a/x")
    with pytest.raises(DataNotFound, match="no party holds"):
        find(net.by(SCIENTIST), "hospital-a/x")


def test_who_is_told_what(tmp_path: Path) -> None:
    net = network(tmp_path)
    for who in (HOSPITAL_A, HOSPITAL_B):
        shared(net, who, f"{who.role.name}/x", X)

    def told(who: Who) -> set[str]:
        return {entry.schema.name for entry in listings(net.by(who))["party/alice"]}

    assert told(SCIENTIST) == told(ALICE) == {"hospital-a/x", "hospital-b/x"}
    assert told(HOSPITAL_A) == {"hospital-a/x"}
    with pytest.raises(PeerRejected):
        told(JAMES)


def ask(net: Network, who: Who, service: str, *arguments: object) -> None:
    """Ask alice directly, past what the client would check."""
    net.by(who).call(Role("party", "alice"), service, *arguments)  # type: ignore[arg-type]


SCHEMA = Schema("hospital-a/x", (3, 2), 2, 16, ("party/alice", "party/bob"))
IDENTIFIER = b"i" * 16


@pytest.mark.parametrize("who", [HOSPITAL_B, SCIENTIST, JAMES, ALICE, Who(Role("controller", "hospital-a"))])
def test_nobody_else_changes_an_owners_data(tmp_path: Path, who: Who) -> None:
    """The client would refuse before; here a party is asked directly, with the role that the certificate says."""
    net = network(tmp_path)
    identifier = shared(net, HOSPITAL_A, "hospital-a/x", X)
    before = net.total("hospital-a/x")
    with pytest.raises(PeerRejected):
        ask(net, who, "datasets/stage", Stage(IDENTIFIER, SCHEMA, 0), [bytes(48)])
    with pytest.raises(PeerRejected):
        ask(net, who, "datasets/remove", Remove("hospital-a/x"))
    for request, name in [(Commit(identifier, ("hospital-a/x",)), "commit"), (Discard(identifier), "discard")]:
        try:
            ask(net, who, f"datasets/{name}", request)
        except (PeerRejected, DataNotFound):
            continue
        assert name == "discard" and who is HOSPITAL_B  # nothing of its own to discard
    assert net.total("hospital-a/x").equal(before)


def test_another_owner_cannot_join_or_commit_a_staged_sharing(tmp_path: Path) -> None:
    net = network(tmp_path)
    ask(net, HOSPITAL_A, "datasets/stage", Stage(IDENTIFIER, SCHEMA, 0), [bytes(48)])
    other = Schema("hospital-b/x", (3, 2), 2, 16, ("party/alice", "party/bob"))
    with pytest.raises(InvalidArgument):
        ask(net, HOSPITAL_B, "datasets/stage", Stage(IDENTIFIER, other, 0), [bytes(48)])
    with pytest.raises(DataNotFound):
        ask(net, HOSPITAL_B, "datasets/commit", Commit(IDENTIFIER, ("hospital-a/x",)))
    ask(net, HOSPITAL_B, "datasets/discard", Discard(IDENTIFIER))
    ask(net, HOSPITAL_A, "datasets/commit", Commit(IDENTIFIER, ("hospital-a/x",)))


def test_a_sharing_is_committed_whole_or_not(tmp_path: Path) -> None:
    net = network(tmp_path)
    ask(net, HOSPITAL_A, "datasets/stage", Stage(IDENTIFIER, SCHEMA, 0), [bytes(48)])
    with pytest.raises(DataNotFound, match="not all of it"):
        ask(net, HOSPITAL_A, "datasets/commit", Commit(IDENTIFIER, ("hospital-a/x", "hospital-a/x.mask")))
    assert net.store("alice").list() == []


@pytest.mark.parametrize(
    ("size", "error"), [(0, InvalidArgument), (47, MalformedMessage), (96, InvalidArgument), (9 << 20, LimitExceeded)]
)
def test_a_body_of_another_size_is_refused(tmp_path: Path, size: int, error: type[Exception]) -> None:
    net = network(tmp_path)
    with pytest.raises(error):
        ask(net, HOSPITAL_A, "datasets/stage", Stage(IDENTIFIER, SCHEMA, 0), [bytes(size)])


def test_too_much_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    net = network(tmp_path, limits=DatasetLimits(n_bytes_per_owner=100))
    huge = Schema("hospital-a/x", (2**39,), 2, 16, ("party/alice", "party/bob"))
    with pytest.raises(LimitExceeded, match="100 bytes"):  # by what is announced, with the first piece
        ask(net, HOSPITAL_A, "datasets/stage", Stage(IDENTIFIER, huge, 0), [bytes(8)])
    shared(net, HOSPITAL_A, "hospital-a/x", X)
    with pytest.raises(LimitExceeded):
        shared(net, HOSPITAL_A, "hospital-a/z", torch.ones(7))
    shared(net, HOSPITAL_B, "hospital-b/z", torch.ones(7))


WORDS = st.recursive(
    st.none()
    | st.integers(-1, 2**63)
    | st.binary(max_size=17)
    | st.text(max_size=4)
    | st.sampled_from(["hospital-a/x"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
STAGES = st.tuples(
    st.just(b"f" * 16),
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["hospital-a/x", "hospital-a/x.y", "hospital-b/x", "", "../x"]),
            "shape": st.lists(st.integers(-1, 3) | st.integers(0, 2**64 - 1), max_size=3),
            "base": st.integers(0, 11),
            "digits": st.integers(-1, 30),
            "parties": st.sampled_from([["party/alice", "party/bob"], [], ["x"]]),
        },
        optional={"columns": st.none() | st.lists(st.text(max_size=2), max_size=3)},
    ),
    st.integers(-1, 3),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=WORDS, raw=st.binary(max_size=40), name=st.sampled_from(sorted(DATASET_SERVICES)), body=st.binary(max_size=24)
)
def test_any_request_is_answered_or_refused_with_an_error_of_ours(
    fuzzed: Network, words: object, raw: bytes, name: str, body: bytes
) -> None:
    daemon = fuzzed.daemons[Role("party", "alice")]
    for arguments in (raw, msgspec.msgpack.encode(words)):
        with suppress(TorchveilError):
            DATASET_SERVICES[name].handler(daemon, HOSPITAL_A, arguments, memoryview(body))
    assert daemon.datasets.list() == []


@pytest.fixture
def fuzzed(tmp_path: Path) -> Network:
    return network(tmp_path)


@pytest.mark.parametrize("name", DATASET_SERVICES)
@pytest.mark.parametrize("request_bytes", [b"", b"\xc1", b"\x80" * 40, b"\x81\xa2id\xc4\x10" + bytes(15)])
def test_requests_that_are_none(tmp_path: Path, name: str, request_bytes: bytes) -> None:
    daemon = next(iter(network(tmp_path).daemons.values()))
    if name == "datasets/list" and request_bytes.startswith(b"\x80"):
        request_bytes = b"\x92\x00"
    with pytest.raises(MalformedMessage):
        DATASET_SERVICES[name].handler(daemon, HOSPITAL_A, request_bytes, memoryview(b""))
