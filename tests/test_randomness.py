"""Streams: AES-CTR by position, independent labels, nothing to copy."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from torchveil.errors import ProtocolError
from torchveil.randomness import Stream, derive_key, os_bytes

KEY = bytes(range(16))


def keystream(number: int, slot: int, size: int, key: bytes = KEY) -> bytes:
    """AES-CTR from the library directly: the block is 8 bytes of the label and 8 bytes of block index."""
    start = (number << 16 | slot).to_bytes(8, "big") + bytes(8)
    return Cipher(algorithms.AES(key), modes.CTR(start)).encryptor().update(bytes(size))


@pytest.mark.smoke
@pytest.mark.parametrize(("number", "slot"), [(0, 0), (0, 1), (1, 0), (258, 772), (2**48 - 1, 2**16 - 1)])
def test_known_answers(number: int, slot: int) -> None:
    stream = Stream(KEY)
    wanted = keystream(number, slot, 800)
    assert stream.ring(number, slot, (10, 10), 64).numpy().tobytes() == wanted
    assert stream.bits(number, slot, (4, 200)).tobytes() == wanted
    assert stream.words(number, slot, (400,), 16).tobytes() == wanted


def test_the_block_cipher_is_the_standard_one() -> None:
    # FIPS 197, appendix C.1: AES-128 of 00112233445566778899aabbccddeeff under 000102...0f. A label can name the upper
    # half of that block only, so the known block of our layout is computed in ECB mode instead.
    block = (5 << 16 | 9).to_bytes(8, "big") + (3).to_bytes(8, "big")
    ecb = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()
    assert Stream(KEY).bits(5, 9, (64,)).tobytes()[48:] == ecb.update(block)
    fips = (
        Cipher(algorithms.AES(KEY), modes.ECB()).encryptor().update(bytes.fromhex("00112233445566778899aabbccddeeff"))
    )
    assert fips.hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"


def test_a_label_is_a_position_and_not_a_state() -> None:
    stream = Stream(KEY)
    first = stream.ring(3, 4, (5,), 64)
    stream.ring(9, 9, (100,), 64)
    assert torch.equal(stream.ring(3, 4, (5,), 64), first)
    assert torch.equal(stream.ring(3, 4, (3,), 64), first[:3])


def test_no_block_of_one_label_is_a_block_of_another() -> None:
    """A label in the low counter bytes would make neighbours shifted copies of each other."""
    stream = Stream(KEY)
    labels = [(number, slot) for number in (0, 1, 2, 2**16, 2**32) for slot in (0, 1, 2, 255, 256, 2**16 - 1)]
    blocks: set[bytes] = set()
    for number, slot in labels:
        data = stream.bits(number, slot, (64 * 16,)).tobytes()
        blocks.update(data[k : k + 16] for k in range(0, len(data), 16))
    assert len(blocks) == 64 * len(labels)


def test_requests_longer_than_one_chunk() -> None:
    size = 3 * 2**17 + 5
    assert Stream(KEY).ring(7, 1, (size,), 64).numpy().tobytes() == keystream(7, 1, 8 * size)


@pytest.mark.parametrize("width", [1, 3, 4, 31, 63])
def test_small_rings_keep_the_low_bits(width: int) -> None:
    stream = Stream(KEY)
    full, small = stream.ring(1, 2, (1000,), 64), stream.ring(1, 2, (1000,), width)
    assert torch.equal(small, full & ((1 << width) - 1))
    assert int(small.min()) >= 0 and int(small.max()) < 1 << width


@pytest.mark.parametrize("valid", [1, 7, 15, 16])
def test_words_keep_their_valid_bits(valid: int) -> None:
    stream = Stream(KEY)
    words = stream.words(1, 2, (3, 100), valid)
    assert words.dtype == np.uint16 and int(words.max()) < 1 << valid
    assert np.array_equal(words, stream.words(1, 2, (3, 100), 16) & np.uint16((1 << valid) - 1))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_shapes(shape: tuple[int, ...]) -> None:
    stream = Stream(KEY)
    drawn = stream.ring(0, 0, shape, 64)
    assert tuple(drawn.shape) == shape and drawn.dtype == torch.int64 and drawn.is_contiguous()
    assert stream.bits(0, 0, shape).shape == stream.words(0, 0, shape, 15).shape == shape


@pytest.mark.parametrize(("number", "slot"), [(2**48, 0), (-1, 0), (0, 2**16), (0, -1)])
def test_a_label_that_overflows_raises(number: int, slot: int) -> None:
    stream = Stream(KEY)
    for draw in (lambda: stream.ring(number, slot, (1,), 64), lambda: stream.bits(number, slot, (1,))):
        with pytest.raises(ProtocolError):
            draw()
    with pytest.raises(ProtocolError):
        stream.words(number, slot, (1,), 15)


def test_a_stream_cannot_be_copied_or_printed() -> None:
    stream = Stream(KEY)
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ProtocolError):
            copying(stream)
    assert repr(stream) == "<Stream>"
    assert KEY.hex() not in repr(stream) + str(stream.__slots__)


def test_bits_are_balanced() -> None:
    drawn = Stream(os_bytes(16)).bits(0, 0, (1 << 20,))
    ones = int(np.unpackbits(drawn).sum())
    assert abs(ones - (1 << 22)) < 6 * (1 << 11) / 2**0.5 * 1.5  # about six sigma


def test_derived_keys_depend_on_every_part_and_on_where_parts_end() -> None:
    keys = {
        derive_key(b"secret", "a", "b"),
        derive_key(b"secret", "ab"),
        derive_key(b"secret", "ab", ""),
        derive_key(b"secret", "", "ab"),
        derive_key(b"secret", "b", "a"),
        derive_key(b"other", "a", "b"),
    }
    assert len(keys) == 6 and {len(key) for key in keys} == {16}
    assert derive_key(b"secret", "a", b"b") == derive_key(b"secret", "a", "b")


def test_os_bytes_differ() -> None:
    assert len(os_bytes(16)) == 16 and os_bytes(16) != os_bytes(16)
