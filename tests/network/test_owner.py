"""An owner and the parties: all or nothing, permissions, listing, deleting. The transport calls handlers directly."""

from __future__ import annotations

import pytest
import torch

from tests.network.owners import ALICE, HOSPITAL_A, HOSPITAL_B, JAMES, SCIENTIST, Network, Who, network
from torchveil.errors import (
    DataNotFound,
    InvalidArgument,
    LimitExceeded,
    MalformedMessage,
    NetworkError,
    PeerLost,
    PeerRejected,
)
from torchveil.fixedpoint import decode
from torchveil.network.dataset_store import DatasetLimits
from torchveil.network.datasets import Schema, agree
from torchveil.network.datasets_service import HANDLERS, Commit, Discard, List, Remove, Stage
from torchveil.network.owner import Parties, listings, share, unshare

X = torch.tensor([[1.5, -2.0], [0.25, 7.0], [3.0, 4.0]])
Y = torch.tensor([0, 1, 1])


def parties(net: Network, who: Who = HOSPITAL_A) -> Parties:
    return Parties(net, who, net.call)


def held(net: Network, name: str, who: Who = SCIENTIST) -> dict[str, object]:
    found = listings(parties(net, who), name)
    return {party: next((e for e in entries if e.schema.name == name), None) for party, entries in found.items()}


@pytest.mark.parametrize("names", [("alice", "bob"), ("alice", "bob", "carol")])
def test_what_is_shared_is_found_and_sums_up(names: tuple[str, ...]) -> None:
    net = network(*names)
    share(net, HOSPITAL_A, "hospital-a/x", X, target=Y, columns=("age", "dose"), call=net.call)
    assert decode(net.total("hospital-a/x"), 2**16).equal(X.double())
    assert net.total("hospital-a/x.target").equal(Y)
    entry = agree("hospital-a/x", held(net, "hospital-a/x"), [f"party/{name}" for name in names])
    assert entry.owner == "owner/hospital-a"
    assert entry.schema.shape == (3, 2) and entry.schema.columns == ("age", "dose")
    share_of_alice, schema, owner = net.store("alice").open("hospital-a/x", entry.id)
    assert share_of_alice.shape == (3, 2) and schema == entry.schema and owner == entry.owner


def test_each_party_is_sent_its_own_share_and_nothing_more() -> None:
    net = network("alice", "bob", "carol")
    share(net, HOSPITAL_A, "hospital-a/x", X, call=net.call)
    sent = {party: body for party, name, body in net.log if name == "datasets/stage"}
    assert len(sent) == 3 == len(set(sent.values())) and all(len(body) == 8 * 6 for body in sent.values())
    assert all(not body for _, name, body in net.log if name != "datasets/stage")


def test_padding_is_the_same_for_every_number_of_rows() -> None:
    """What the network and the parties see: sizes and schemas do not depend on the number of rows."""
    seen = []
    for rows in (1, 3):
        net = network()
        share(net, HOSPITAL_A, "hospital-a/x", X[:rows], target=Y[:rows], pad_rows=8, call=net.call)
        entries = listings(parties(net, SCIENTIST))["party/alice"]
        seen.append(([entry.schema for entry in entries], [(party, name, len(body)) for party, name, body in net.log]))
        assert net.total("hospital-a/x.mask").tolist() == [1] * rows + [0] * (8 - rows)
    assert seen[0] == seen[1]


def test_sharing_again_replaces_all_of_it() -> None:
    net = network()
    share(net, HOSPITAL_A, "hospital-a/x", X, pad_rows=8, call=net.call)
    share(net, HOSPITAL_A, "hospital-a/x", 2 * X, call=net.call)
    assert decode(net.total("hospital-a/x"), 2**16).equal(2 * X.double())
    with pytest.raises(DataNotFound):
        net.total("hospital-a/x.mask")  # of the data that were there before


@pytest.mark.parametrize("failing", ["party/alice", "party/bob"])
def test_a_failure_while_staging_leaves_nothing(failing: str) -> None:
    net = network()
    share(net, HOSPITAL_A, "hospital-a/x", X, call=net.call)
    before = net.total("hospital-a/x")

    def fail(party: str, name: str) -> None:
        if (party, name) == (failing, "datasets/stage"):
            raise PeerLost(f"{party} is gone")

    net.fail = fail
    with pytest.raises(PeerLost):
        share(net, HOSPITAL_A, "hospital-a/x", 2 * X, call=net.call)
    assert net.total("hospital-a/x").equal(before)
    assert all(repr(daemon.datasets) == "<DatasetStore of 1 sharings>" for daemon in net.daemons.values())


def test_a_failure_between_commits_is_named_and_mended_by_sharing_again() -> None:
    net = network()
    share(net, HOSPITAL_A, "hospital-a/x", X, call=net.call)

    def fail(party: str, name: str) -> None:
        if (party, name) == ("party/bob", "datasets/commit"):
            raise PeerLost(f"{party} is gone")

    net.fail = fail
    with pytest.raises(NetworkError, match="not committed at party/bob:"):
        share(net, HOSPITAL_A, "hospital-a/x", 2 * X, call=net.call)
    with pytest.raises(DataNotFound, match="party/alice and party/bob hold different"):
        agree("hospital-a/x", held(net, "hospital-a/x"), ("party/alice", "party/bob"))
    net.fail = lambda party, name: None
    share(net, HOSPITAL_A, "hospital-a/x", 2 * X, call=net.call)
    agree("hospital-a/x", held(net, "hospital-a/x"), ("party/alice", "party/bob"))
    assert decode(net.total("hospital-a/x"), 2**16).equal(2 * X.double())


def test_unshare_deletes_at_every_party() -> None:
    net = network()
    share(net, HOSPITAL_A, "hospital-a/x", X, target=Y, call=net.call)
    share(net, HOSPITAL_A, "hospital-a/z", X, call=net.call)
    with pytest.raises(InvalidArgument):
        unshare(parties(net, HOSPITAL_B), "hospital-a/x")
    unshare(parties(net), "hospital-a/x")
    names = {entry.schema.name for entries in listings(parties(net)).values() for entry in entries}
    assert names == {"hospital-a/z"}
    with pytest.raises(DataNotFound):
        unshare(parties(net), "hospital-a/x")


def test_who_is_told_what() -> None:
    net = network()
    for who in (HOSPITAL_A, HOSPITAL_B):
        share(net, who, f"{who.role.partition('/')[2]}/x", X, call=net.call)

    def told(who: Who) -> set[str]:
        return {entry.schema.name for entry in listings(parties(net, who))["party/alice"]}

    assert told(SCIENTIST) == told(ALICE) == {"hospital-a/x", "hospital-b/x"}
    assert told(HOSPITAL_A) == {"hospital-a/x"}
    with pytest.raises(PeerRejected):
        told(JAMES)


SCHEMA = Schema("hospital-a/x", (3, 2), 2, 16, ("party/alice", "party/bob"))
IDENTIFIER = b"i" * 16


@pytest.mark.parametrize("who", [HOSPITAL_B, SCIENTIST, JAMES, ALICE, Who("controller/hospital-a")])
def test_nobody_else_changes_an_owners_data(who: Who) -> None:
    """The client would refuse before; here a party is asked directly, with the role that the certificate says."""
    net = network()
    identifier = share(net, HOSPITAL_A, "hospital-a/x", X, call=net.call)
    before = net.total("hospital-a/x")
    asked = parties(net, who)
    with pytest.raises(PeerRejected):
        asked.ask("party/alice", "datasets/stage", Stage(IDENTIFIER, SCHEMA), [bytes(48)])
    with pytest.raises(PeerRejected):
        asked.ask("party/alice", "datasets/remove", Remove("hospital-a/x"))
    for request, name in [(Commit(identifier, ("hospital-a/x",)), "commit"), (Discard(identifier), "discard")]:
        try:
            asked.ask("party/alice", f"datasets/{name}", request)
        except (PeerRejected, DataNotFound):
            continue
        assert name == "discard" and who is HOSPITAL_B  # nothing of its own to discard
    assert net.total("hospital-a/x").equal(before)


def test_another_owner_cannot_join_or_commit_a_staged_sharing() -> None:
    net = network()
    parties(net).ask("party/alice", "datasets/stage", Stage(IDENTIFIER, SCHEMA), [bytes(48)])
    other = Schema("hospital-b/x", (3, 2), 2, 16, ("party/alice", "party/bob"))
    with pytest.raises(InvalidArgument):
        parties(net, HOSPITAL_B).ask("party/alice", "datasets/stage", Stage(IDENTIFIER, other), [bytes(48)])
    with pytest.raises(DataNotFound):
        parties(net, HOSPITAL_B).ask("party/alice", "datasets/commit", Commit(IDENTIFIER, ("hospital-a/x",)))
    parties(net, HOSPITAL_B).ask("party/alice", "datasets/discard", Discard(IDENTIFIER))
    parties(net).ask("party/alice", "datasets/commit", Commit(IDENTIFIER, ("hospital-a/x",)))


def test_a_sharing_is_committed_whole_or_not() -> None:
    net = network()
    parties(net).ask("party/alice", "datasets/stage", Stage(IDENTIFIER, SCHEMA), [bytes(48)])
    with pytest.raises(DataNotFound, match="not all of it"):
        parties(net).ask("party/alice", "datasets/commit", Commit(IDENTIFIER, ("hospital-a/x", "hospital-a/x.mask")))
    assert net.store("alice").list() == []


@pytest.mark.parametrize("size", [0, 47, 49, 96])
def test_a_body_of_another_size_is_refused(size: int) -> None:
    net = network()
    with pytest.raises(MalformedMessage):
        parties(net).ask("party/alice", "datasets/stage", Stage(IDENTIFIER, SCHEMA), [bytes(size)])


def test_too_much_is_refused_before_memory_is_taken() -> None:
    net = network(limits=DatasetLimits(n_bytes_per_owner=100))
    huge = Schema("hospital-a/x", (2**39,), 2, 16, ("party/alice", "party/bob"))
    with pytest.raises(LimitExceeded):  # with a body of that size it could not even be asked here
        parties(net).ask("party/alice", "datasets/stage", Stage(IDENTIFIER, huge), [])
    share(net, HOSPITAL_A, "hospital-a/x", X, call=net.call)
    with pytest.raises(LimitExceeded):
        share(net, HOSPITAL_A, "hospital-a/z", torch.ones(7), call=net.call)
    share(net, HOSPITAL_B, "hospital-b/z", torch.ones(7), call=net.call)


@pytest.mark.parametrize("name", HANDLERS)
@pytest.mark.parametrize("request_bytes", [b"", b"\xc1", b"\x80" * 40, b"\x81\xa2id\xc4\x10" + bytes(15)])
def test_requests_that_are_none(name: str, request_bytes: bytes) -> None:
    daemon = next(iter(network().daemons.values()))
    if name == "datasets/list" and request_bytes.startswith(b"\x80"):
        request_bytes = b"\x92\x00"
    with pytest.raises(MalformedMessage):
        HANDLERS[name](daemon, HOSPITAL_A, request_bytes, memoryview(b""))


@pytest.mark.parametrize("request_", [Commit(IDENTIFIER, ()), Discard(IDENTIFIER), List(), Remove("hospital-a/x")])
def test_a_body_where_none_belongs(request_: object) -> None:
    name = f"datasets/{type(request_).__name__.lower()}"
    with pytest.raises(MalformedMessage):
        parties(network()).ask("party/alice", name, request_, [b"x"])


def test_two_parties_at_one_address_are_refused() -> None:
    net = network()
    address = net.parties[0].address
    with pytest.raises(InvalidArgument, match="address"):
        Parties(type("C", (), {"parties": [type(m)(m.name, address) for m in net.parties]})(), HOSPITAL_A, net.call)
