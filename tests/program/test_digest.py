"""The running digest: equal for equal streams, another one after any change."""

from __future__ import annotations

from itertools import combinations

import torch

from tests.program.every_instruction import INSTRUCTIONS
from torchveil.program import instructions as ins
from torchveil.program.encoding import StreamDigest, encode, without_public


def of(*messages: tuple[bytes, list[bytes]]) -> bytes:
    digest = StreamDigest()
    for structure, buffers in messages:
        digest.update(structure, buffers)
    assert digest.value == digest.full[:8] and len(digest.full) == 32 and digest.count == len(messages)
    return digest.full


def test_two_roles_agree_whatever_holds_the_bytes() -> None:
    ours, theirs = StreamDigest(), StreamDigest()
    for i in INSTRUCTIONS:
        structure, buffers = encode(i)
        ours.update(structure, buffers)
        theirs.update(bytes(structure), [bytearray(b) for b in buffers])
        assert ours.value == theirs.value


def test_any_change_changes_it() -> None:
    a, b, c = (b"a", [b"xy", b"z"]), (b"b", []), (b"", [b"a"])
    streams = [
        [], [a], [b], [a, b], [b, a], [a, a], [a, b, c],
        [(b"a", [b"xyz"])], [(b"a", [b"x", b"yz"])], [(b"axy", [b"z"])], [(b"a", [b"xy", b"z", b""])],
        [(b"a", [b"z", b"xy"])], [(b"ab", [])], [(b"", [b"ab"])], [(b"", [])], [(b"", []), (b"", [])],
    ]  # fmt: skip
    found = [of(*stream) for stream in streams]
    assert all(x != y for x, y in combinations(found, 2))


def test_the_past_stays_in_it() -> None:
    message: tuple[bytes, list[bytes]] = (b"same", [])
    one, other = StreamDigest(), StreamDigest()
    one.update(b"left", [])
    other.update(b"right", [])
    for _ in range(5):
        for digest in (one, other):
            digest.update(*message)
        assert one.value != other.value


def test_of_what_the_provider_sees_it_does_not_depend_on_public_numbers() -> None:
    def digest(value: torch.Tensor, number: int, *, blank: bool) -> bytes:
        stream: list[ins.Instruction] = [ins.AddPublic(3, 1, value), ins.Constant(4, (2,), number)]
        out = StreamDigest()
        for i in stream:
            out.update(*encode(without_public(i) if blank else i))
        return out.full

    one, other = torch.tensor([1, 2]), torch.tensor([3, 4])
    assert digest(one, 5, blank=True) == digest(other, 6, blank=True)
    assert digest(one, 5, blank=False) != digest(other, 5, blank=False)
    assert digest(one, 5, blank=False) != digest(one, 6, blank=False)
    assert digest(one, 5, blank=True) != digest(torch.zeros(3, dtype=torch.int64), 5, blank=True)
