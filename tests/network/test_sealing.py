"""Sealed boxes: they open with one key, in one context, unchanged; anything else raises."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from torchveil.errors import LimitExceeded, MalformedMessage
from torchveil.network import sealing
from torchveil.network.sealing import OVERHEAD, seal, unseal

KEY, OTHER = X25519PrivateKey.generate(), X25519PrivateKey.generate()
PUBLIC = KEY.public_key()


@pytest.mark.smoke
@pytest.mark.parametrize("n_bytes", [0, 1, 15, 16, 17, 65_536, 1_000_003])
def test_what_goes_in_comes_out(n_bytes: int) -> None:
    data = bytes(k % 251 for k in range(n_bytes))
    box = seal(data, PUBLIC, b"context")
    assert len(box) == n_bytes + OVERHEAD
    assert unseal(box, KEY, b"context") == unseal(memoryview(box), KEY, b"context") == data
    assert unseal(seal(memoryview(data), PUBLIC, b""), KEY, b"") == data


def test_a_hundred_megabytes() -> None:
    data = memoryview(bytearray(100_000_000))
    data[-1] = 7
    assert unseal(seal(data, PUBLIC, b"big"), KEY, b"big") == data


def test_numbers_are_sealed_as_their_bytes() -> None:
    words = memoryview(bytes(range(16))).cast("q")
    assert unseal(seal(words, PUBLIC, b""), KEY, b"") == bytes(range(16))


def test_another_receiver_or_context() -> None:
    box = seal(b"value", PUBLIC, b"context")
    for key, context in ((OTHER, b"context"), (KEY, b"contexu"), (KEY, b""), (KEY, b"context\0")):
        with pytest.raises(MalformedMessage):
            unseal(box, key, context)


def test_every_bit_counts_and_every_length() -> None:
    box = seal(b"value", PUBLIC, b"context")
    changed = [
        box[:k] + bytes([box[k] ^ 1 << bit]) + box[k + 1 :]
        for k in range(len(box))
        for bit in range(8)
        # X25519 ignores the top bit of a point; the key is made from the point as sent, so it counts all the same
    ]
    cut = [box[:length] for length in range(len(box))] + [box + b"\0", b"\0" + box]
    for wrong in changed + cut:
        with pytest.raises(MalformedMessage):
            unseal(wrong, KEY, b"context")


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_points_that_give_no_secret(point: bytes) -> None:
    """With these anybody could know the key."""
    with pytest.raises(MalformedMessage):
        unseal(b"\x01" + point + bytes(16), KEY, b"")


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=200)
def test_garbage_does_not_open(box: bytes) -> None:
    with pytest.raises(MalformedMessage):
        unseal(b"\x01" + box, KEY, b"context")


def test_two_boxes_share_nothing() -> None:
    one, two = (seal(bytes(64), PUBLIC, b"context") for _ in range(2))
    assert one[1:33] != two[1:33] and one[33:] != two[33:]


def test_too_much_is_refused_before_it_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MAX_BYTES", 10)
    seal(bytes(10), PUBLIC, b"")
    with pytest.raises(LimitExceeded):
        seal(bytes(11), PUBLIC, b"")
    with pytest.raises(MalformedMessage):
        unseal(bytes([1]) + bytes(10 + OVERHEAD), KEY, b"")
