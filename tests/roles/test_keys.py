"""Keys: both ends agree, purposes and pairs differ, the provider knows no sharing of zero."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from torchveil.drivers.lockstep import make_roles
from torchveil.randomness import Stream
from torchveil.roles.keys import Identity, agree_session_id

PURPOSES = ("mask", "mask-bits", "dealt", "dealt-bits", "zero", "input")


def head(stream: Stream) -> bytes:
    return stream.bits(0, 0, (16,)).tobytes()


@pytest.fixture
def identities() -> list[Identity]:
    return [Identity(name) for name in ("party/a", "party/b", "party/c", "provider/p", "owner/o")]


@pytest.mark.smoke
@pytest.mark.parametrize("purpose", PURPOSES)
def test_both_ends_derive_the_same_stream(identities: list[Identity], purpose: str) -> None:
    session = agree_session_id([x.half for x in identities])
    for one, other in combinations(identities, 2):
        assert head(one.stream(other.half, session, purpose)) == head(other.stream(one.half, session, purpose))


def test_every_pair_and_purpose_has_its_own_key(identities: list[Identity]) -> None:
    session = agree_session_id([x.half for x in identities])
    heads = [head(a.stream(b.half, session, purpose)) for a, b in combinations(identities, 2) for purpose in PURPOSES]
    assert len(set(heads)) == len(heads)


def test_the_session_is_part_of_the_key(identities: list[Identity]) -> None:
    a, b = identities[:2]
    first = agree_session_id([x.half for x in identities])
    second = agree_session_id([x.half for x in [*identities[:-1], Identity("owner/o")]])
    assert first != second and len(first) == 32
    assert head(a.stream(b.half, first, "mask")) != head(a.stream(b.half, second, "mask"))


def test_names_are_part_of_the_key_in_either_order() -> None:
    a, b = Identity("a"), Identity("b")
    renamed = Identity("x")
    renamed._private = b._private
    renamed.half = replace(b.half, name="x")
    assert head(a.stream(b.half, b"s", "mask")) != head(a.stream(renamed.half, b"s", "mask"))


def test_the_provider_cannot_derive_a_sharing_of_zero(identities: list[Identity]) -> None:
    session = agree_session_id([x.half for x in identities])
    a, b, c, provider, _ = identities
    wanted = head(a.stream(b.half, session, "zero"))
    assert wanted not in {head(provider.stream(other.half, session, "zero")) for other in (a, b, c)}
    # Even under the parties' names: the X25519 secret of the pair is missing.
    for name, peer in (("party/a", b), ("party/b", a)):
        provider.name = name
        assert head(provider.stream(peer.half, session, "zero")) != wanted


def test_fresh_keys_at_every_start() -> None:
    starts = [make_roles(["a", "b"], "p") for _ in range(2)]
    assert starts[0][3] != starts[1][3]
    heads = {parties[0]._streams["mask"].bits(0, 0, (16,)).tobytes() for parties, *_ in starts}
    assert len(heads) == 2


@pytest.mark.parametrize("n", [2, 3, 4])
def test_roles_hold_the_streams_that_they_should(n: int) -> None:
    parties, provider, inputs, _ = make_roles([f"p{k}" for k in range(n)], "crypto")

    def draw(stream: object) -> bytes:
        assert isinstance(stream, Stream)
        return head(stream)

    for rank, party in enumerate(parties):
        for purpose in PURPOSES[:4]:
            assert draw(party._streams[purpose]) == draw(provider._streams[rank][purpose])
        assert draw(party._streams["input"]) == draw(inputs[rank])
        assert set(party._zero) == set(range(n)) - {rank}
        for peer, stream in party._zero.items():
            assert draw(stream) == draw(parties[peer]._zero[rank])
    held = {draw(stream) for streams in provider._streams for stream in streams.values()}
    secret = {draw(stream) for party in parties for stream in party._zero.values()} | set(map(draw, inputs))
    assert len(held) == 4 * n and len(secret) == n * (n - 1) // 2 + n
    assert held.isdisjoint(secret)
    assert {*provider._streams[0]} == set(PURPOSES[:4])


def test_an_identity_prints_its_name_only() -> None:
    assert repr(Identity("party/a")) == "<Identity party/a>"
