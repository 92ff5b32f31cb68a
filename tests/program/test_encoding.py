"""Instructions as bytes: every kind comes back as it was, nothing else is taken."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.program.every_instruction import INSTRUCTIONS, MAPS, PRODUCTS, same
from torchveil import kernels
from torchveil.errors import InvalidArgument, LimitExceeded, MalformedMessage
from torchveil.kernels import linear_maps
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins
from torchveil.program import schema
from torchveil.program.encoding import DecodeLimits, decode, encode, without_public
from torchveil.program.tensors import SHARED
from torchveil.program.wiring import WIRING

pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode


def writable(buffers: Sequence[memoryview]) -> list[bytearray]:
    return [bytearray(buffer) for buffer in buffers]


def test_the_tables_are_complete() -> None:
    assert set(schema.OPCODES) == set(WIRING)
    assert set(schema.MAP_ARGUMENTS) == set(linear_maps.MAPS)
    assert set(schema.PRODUCT_OPTIONS) == set(kernels.BILINEAR)
    assert {type(i) for i in INSTRUCTIONS} == set(WIRING)
    assert {m.name for m in MAPS} == set(linear_maps.MAPS)
    assert {name for name, _ in PRODUCTS} == set(kernels.BILINEAR)


@pytest.mark.parametrize("place", range(len(INSTRUCTIONS)))
def test_round_trip(place: int) -> None:
    i = INSTRUCTIONS[place]
    structure, buffers = encode(i)
    for given_buffers in (buffers, writable(buffers), [bytes(b) for b in buffers]):
        back = decode(structure, given_buffers)
        assert same(i, back)
        again = encode(back)
        assert (again[0], [bytes(b) for b in again[1]]) == (structure, [bytes(b) for b in buffers])


def test_no_two_instructions_have_the_same_bytes() -> None:
    seen: dict[Any, ins.Instruction] = {}
    for i in INSTRUCTIONS:
        structure, buffers = encode(i)
        key = (structure, *[bytes(b) for b in buffers])
        assert key not in seen or same(seen[key], i)
        seen[key] = i


def test_equal_instructions_give_equal_bytes_whatever_holds_them() -> None:
    a = ins.Bilinear(9, 1, 2, "conv2d", {"stride": (1, 1), "padding": [0, 0], "dilation": (1, 1), "groups": 1}, (2, 2))
    b = replace(a, options=dict(reversed(a.options.items())), shape=torch.Size((2, 2)))
    assert encode(a)[0] == encode(b)[0]
    # one value in three memories: whole, a part of something larger, expanded
    whole = torch.arange(6)
    parts = [torch.arange(10)[:6], torch.arange(20)[::2] // 2]
    assert {encode(ins.AddPublic(1, 2, x))[0] for x in (whole, parts[0], parts[1][:6])} == {
        encode(ins.AddPublic(1, 2, whole))[0]
    }
    assert encode(ins.Map(2, 1, LinearMap("slice", (1,)))) == encode(
        ins.Map(2, 1, LinearMap("slice", (1, None, None, 1)))
    )


def test_an_expanded_tensor_is_as_large_as_what_was_expanded() -> None:
    structure, buffers = encode(ins.AddPublic(2, 1, torch.tensor(7).expand(1000, 1000)))
    assert not buffers and len(structure) < 32
    structure, buffers = encode(ins.AddPublic(2, 1, torch.arange(3).expand(1000, 3)))
    assert [b.nbytes for b in buffers] == [24]
    back = decode(structure, buffers)
    assert isinstance(back, ins.AddPublic) and back.value.stride() == (0, 1)


def test_what_lies_between_the_elements_is_not_sent() -> None:
    table = torch.arange(100).reshape(10, 10)
    for view in (table[:, 3], table[::2, ::2], table.t()[4:6, 1:9]):
        _, buffers = encode(ins.AddPublic(2, 1, view))
        sent = torch.frombuffer(bytearray(b"".join(buffers)), dtype=torch.int64)
        assert sorted(sent.tolist()) == sorted(view.flatten().tolist())


def test_large_tensors_share_writable_aligned_memory_and_others_are_copied() -> None:
    for count, large in ((SHARED // 8, True), (SHARED // 8 - 1, False)):
        structure, buffers = encode(ins.AddPublic(2, 1, torch.arange(count)))
        size = buffers[0].nbytes
        memory = bytearray(b"x" + bytes(buffers[0]) + b"x" * 7)
        kinds = [(bytearray(buffers[0]), large), (bytes(buffers[0]), False), (memoryview(memory)[1 : 1 + size], False)]
        for buffer, shared in kinds:
            back = decode(structure, [buffer])
            assert isinstance(back, ins.AddPublic) and torch.equal(back.value, torch.arange(count))
            back.value[0] = 9
            assert (bytes(buffer)[:8] == (9).to_bytes(8, "little")) is shared


def test_numbers_beyond_64_bits_are_refused_when_written() -> None:
    for i in (ins.Truncate(2, 1, None, 2**64, (3,)), ins.Combine(2, ((1, -(2**63) - 1),))):
        with pytest.raises(InvalidArgument):
            encode(i)


@pytest.mark.parametrize(
    "i",
    [
        ins.AddPublic(2, 1, torch.zeros(3, dtype=torch.float64)),
        ins.Map(2, 1, LinearMap("exp")),
        ins.Bilinear(3, 1, 2, "add", {}, (2,)),
        ins.Bilinear(3, 1, 2, "mm", {"alpha": 2}, (2,)),
        ins.Bilinear(3, 1, 2, "conv2d", {"stride": (1, 1)}, (2,)),
        ins.Map(2, 1, LinearMap("clone", (torch.preserve_format,))),
    ],
)
def test_what_no_message_can_hold_is_refused_when_written(i: ins.Instruction) -> None:
    with pytest.raises(InvalidArgument):
        encode(i)


# --- what is not taken -----------------------------------------------------------------------------------------------


def entries(i: ins.Instruction) -> list[Any]:
    out: list[Any] = unpack(encode(i)[0])
    return out


def altered(i: ins.Instruction, *changes: tuple[str, Any]) -> bytes:
    """The structure of ``i`` with other entries in place of some fields."""
    out = entries(i)
    names = [field.name for field in fields(i) if field.name != "options"]
    for name, value in changes:
        out[1 + names.index(name)] = value
    return pack(out)


PLACED = ins.Map(2, 1, LinearMap("index_select", (0, torch.tensor([1, 0]))))
COMPARE = ins.Compare((3, 4), 1, False, (0, 5), (((0,), False), ((1,), True)), (4,))
SERIES = ins.Series(3, 1, None, 20, (1, 2), (3, 4), (5, 6), 7, (4,))
STORED = [0, "int64", [2, 3], [1, 2], 0]

REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "no array": pack(5),
    "a map": pack({"out": 1}),
    "an unknown kind": pack([len(schema.OPCODES), 1, 2]),
    "a negative kind": pack([-1, 1, [2]]),
    "a kind by name": pack(["Input", 1, [2]]),
    "a field less": pack(entries(ins.Input(1, (2,)))[:-1]),
    "a field more": pack([*entries(ins.Input(1, (2,))), 0]),
    "something after it": encode(ins.Input(1, (2,)))[0] + b"\x00",
    "identifier 0": altered(ins.Input(1, (2,)), ("out", 0)),
    "a slot of a plan": altered(ins.Input(1, (2,)), ("out", -1)),
    "an identifier beyond 63 bits": altered(ins.Input(1, (2,)), ("out", 2**63)),
    "an identifier that is no number": altered(ins.Input(1, (2,)), ("out", "1")),
    "a truth value for a number": altered(ins.Input(1, (2,)), ("out", True)),
    "a fraction for a number": altered(ins.Input(1, (2,)), ("out", 1.0)),
    "a number for a truth value": altered(ins.Combine(2, ((1, 1),)), ("follow", 1)),
    "a negative size": altered(ins.Input(1, (2,)), ("shape", [-1])),
    "a size beyond 63 bits": altered(ins.Input(1, (2,)), ("shape", [2**63])),
    "a shape that is too large": altered(ins.Input(1, (2,)), ("shape", [2**16, 2**16])),
    "an empty shape that is too large": altered(ins.Input(1, (2,)), ("shape", [0, 2**40])),
    "too many dimensions": altered(ins.Input(1, (2,)), ("shape", [1] * 65)),
    "a factor beyond 63 bits": altered(ins.Combine(2, ((1, 1),)), ("terms", [[1, 2**63]])),
    "a term of three": altered(ins.Combine(2, ((1, 1),)), ("terms", [[1, 1, 1]])),
    "no terms": altered(ins.Combine(2, ((1, 1),)), ("terms", [])),
    "nothing to concatenate": altered(ins.Concatenate(2, (1,), 0), ("xs", [])),
    "an unknown map": altered(PLACED, ("map", ["exp"])),
    "a map without a name": altered(PLACED, ("map", [])),
    "a map with an argument more": altered(PLACED, ("map", ["t", 1])),
    "a map with an argument less": altered(PLACED, ("map", ["transpose", 1])),
    "a map that repeats too often": altered(PLACED, ("map", ["repeat", [2**20, 2**20]])),
    "a map that makes too much": altered(PLACED, ("map", ["scatter_select", [2**20, 2**20], 0, 0])),
    "a map that pads too much": altered(PLACED, ("map", ["pad", [2**40, 0]])),
    "a step of 0": altered(PLACED, ("map", ["slice", 0, None, None, 0])),
    "places that are a list": altered(PLACED, ("map", ["index_select", 0, [1, 0]])),
    "an unknown product": altered(ins.Bilinear(3, 1, 2, "mm", {}, (2,)), ("function", ["add"])),
    "an option of another product": altered(ins.Bilinear(3, 1, 2, "mm", {}, (2,)), ("function", ["mm", 1])),
    "a product without its options": altered(ins.Bilinear(3, 1, 2, "mm", {}, (2,)), ("function", ["conv2d"])),
    "a divisor of 0": altered(ins.Truncate(2, 1, None, 8, (2,)), ("divisor", 0)),
    "rounding by 0 bits": altered(ins.Round(2, 1, 16, (2,)), ("bits", 0)),
    "lifting by 64 bits": altered(ins.Lift(2, 1, None, 16, (2,)), ("bits", 64)),
    "openings and shapes that differ": altered(ins.Open((1,), ((2,),)), ("shapes", [[2], [2]])),
    "an opening of 0 bits": altered(ins.Open((1,), ((2,),)), ("bits", [0])),
    "an opening of 65 bits": altered(ins.Open((1,), ((2,),)), ("bits", [65])),
    "no openings": altered(ins.Open((1,), ((2,),)), ("xs", []), ("shapes", [])),
    "openings that are too large together": altered(
        ins.Open((1,), ((2,),)), ("xs", [1, 2]), ("shapes", [[2**30, 2], [2**30]])
    ),
    "results and outputs that differ": altered(COMPARE, ("outs", [3])),
    "a result twice": altered(COMPARE, ("outs", [3, 3])),
    "an output of no threshold": altered(COMPARE, ("outputs", [[[0], False], [[2], True]])),
    "no thresholds": altered(COMPARE, ("thresholds", []), ("outputs", [[[], False], [[], True]])),
    "64 zeros": altered(COMPARE, ("zeros", 64)),
    "comparisons of too much at once": altered(COMPARE, ("shape", [2**30, 2])),
    "values and results that differ": altered(ins.Equal((3,), 1, (5,), (2,)), ("values", [5, 6])),
    "a winner along no dimension": altered(ins.Winner((3,), 1, 0, None, (4,)), ("dim", 1)),
    "a winner of one": altered(ins.Winner((3,), 1, 0, None, (4,)), ("shape", [1])),
    "a winner with a reach and one result": altered(ins.Winner((3,), 1, 0, None, (4,)), ("reach", 5)),
    "a winner of too many": altered(ins.Winner((3,), 1, 0, None, (4,)), ("shape", [2**17])),
    "bits and weights that differ": altered(ins.WeighBits(3, (1, 2), (5, 6), 0), ("weights", [5])),
    "series that are too large": altered(SERIES, ("shape", [2**31])),
    "frequencies without sines": altered(SERIES, ("sines", [5])),
    "a receiver without a name": altered(ins.Reveal(1, "owner", (2,)), ("receiver", "")),
    "a receiver with a long name": altered(ins.Reveal(1, "owner", (2,)), ("receiver", "x" * 257)),
    "a receiver that is no text": altered(ins.Reveal(1, "owner", (2,)), ("receiver", b"owner")),
    "a broken text": b"\x94" + bytes([schema.OPCODES.index(ins.Reveal)]) + b"\x01\xa2\xff\xfe\x90",
    "a longer form of a number": b"\x93\x00\xcd\x00\x01\x90",
    "a longer form of an array": b"\xdc\x00\x03\x00\x01\x90",
    "an announced array of 4 G": b"\x93\x00\x01\xdd\xff\xff\xff\xff",
    "an announced text of 4 GB": b"\x94" + bytes([schema.OPCODES.index(ins.Reveal)]) + b"\x01\xdb\xff\xff\xff\xff",
    "arrays in arrays": b"\x91" * 100000,
    "a constant of another shape": altered(ins.Constant(1, (2,), 5), ("value", [1, "int64", [3], 5])),
}


@pytest.mark.parametrize("structure", REFUSED.values(), ids=REFUSED.keys())
def test_refused(structure: bytes) -> None:
    with pytest.raises((MalformedMessage, LimitExceeded)):
        decode(structure, [])


def test_what_is_announced_is_not_allocated() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for head in (b"\xdd", b"\x93\x00\x01\xdd", b"\x93\x00\x01\xdf"):
        with pytest.raises(MalformedMessage):
            decode(head + b"\x07\xff\xff\xff", [])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


#: A tensor of another description: the reference, and its buffers.
REFUSED_TENSORS: dict[str, tuple[list[Any], list[bytes]]] = {
    "another type": ([0, "float64", [6], None, 0], [bytes(48)]),
    "a type for places": ([0, "int32", [6], None, 0], [bytes(24)]),
    "no buffer": ([0, "int64", [6], None, 0], []),
    "a short buffer": ([0, "int64", [6], None, 0], [bytes(47)]),
    "a long buffer": ([0, "int64", [6], None, 0], [bytes(49)]),
    "a buffer too many": ([0, "int64", [6], None, 0], [bytes(48), b""]),
    "another buffer": ([0, "int64", [6], None, 1], [bytes(48), bytes(48)]),
    "a buffer by another number": ([0, "int64", [6], None, 1], [bytes(48)]),
    "a negative buffer": ([0, "int64", [6], None, -1], [bytes(48)]),
    "strides with gaps": ([0, "int64", [6], [2], 0], [bytes(88)]),
    "strides that overlap": ([0, "int64", [3, 3], [2, 1], 0], [bytes(56)]),
    "negative strides": ([0, "int64", [6], [-1], 0], [bytes(48)]),
    "strides of other dimensions": ([0, "int64", [6], [1, 6], 0], [bytes(48)]),
    "strides that need no telling": ([0, "int64", [2, 3], [3, 1], 0], [bytes(48)]),
    "any stride for one entry": ([0, "int64", [1, 2, 3], [5, 1, 2], 0], [bytes(48)]),
    "strides of nothing": ([0, "int64", [0], [1], 0], [b""]),
    "a buffer for one number": ([0, "int64", [1], None, 0], [bytes(8)]),
    "a buffer for one number everywhere": ([0, "int64", [6], [0], 0], [bytes(8)]),
    "one number nowhere": ([1, "int64", [0], 5], []),
    "a tensor that is too large": ([1, "int64", [2**32], 5], []),
    "another form": ([2, "int64", [6], 5], []),
    "nothing": ([], []),
}


@pytest.mark.parametrize(("reference", "buffers"), REFUSED_TENSORS.values(), ids=REFUSED_TENSORS.keys())
def test_refused_tensors(reference: list[Any], buffers: list[bytes]) -> None:
    example = ins.AddPublic(2, 1, torch.arange(6).reshape(3, 2).t())
    assert same(example, decode(altered(example, ("value", STORED)), encode(example)[1]))
    with pytest.raises((MalformedMessage, LimitExceeded)):
        decode(altered(example, ("value", reference)), buffers)


def test_truth_values_are_0_or_1() -> None:
    structure, _ = encode(ins.Map(2, 1, LinearMap("index", ((torch.tensor([True, False, True]),),))))
    decode(structure, [bytes([1, 0, 1])])
    with pytest.raises(MalformedMessage):
        decode(structure, [bytes([1, 0, 2])])
    with pytest.raises(MalformedMessage):
        decode(pack([schema.OPCODES.index(ins.Map), 2, 1, ["index", [[1, "bool", [3], 2]]]]), [])


@pytest.mark.parametrize(
    ("i", "limits"),
    [
        (ins.Input(1, (4, 4)), DecodeLimits(elements=15)),
        (ins.AddPublic(2, 1, torch.zeros(16, dtype=torch.int64)), DecodeLimits(elements=15)),
        (ins.Map(2, 1, LinearMap("view", ((4, 4),))), DecodeLimits(elements=15)),
        (ins.Compare((2,), 1, False, (1, 2), (((0,), False),), (8,)), DecodeLimits(elements=15)),
        (ins.Free((1, 2, 3)), DecodeLimits(items=2)),
        (ins.Compare((2,), 1, False, (1, 2, 3), (((0,), False),), (8,)), DecodeLimits(items=2)),
        (ins.Series(3, 1, None, 20, (1, 2, 3), (4,) * 3, (5,) * 3, 7, (4,)), DecodeLimits(items=2)),
        (ins.Combine(9, ((1, 1), (2, 1), (3, 1))), DecodeLimits(items=2)),
    ],
)
def test_limits(i: ins.Instruction, limits: DecodeLimits) -> None:
    structure, buffers = encode(i)
    decode(structure, buffers, replace(limits, **{k: getattr(limits, k) + 1 for k in ("elements", "items")}))
    with pytest.raises(LimitExceeded if limits.elements == 15 else MalformedMessage):
        decode(structure, buffers, limits)


def test_an_error_shows_no_data() -> None:
    secret = 0x5EC2E7
    wrong = altered(ins.Input(1, (2,)), ("shape", [secret, -secret]))
    try:
        decode(wrong, [])
    except MalformedMessage as error:
        texts = [str(error), repr(error), str(error.__cause__), repr(error.__cause__)]
        assert not any(str(secret) in text or hex(secret) in text for text in texts)
        assert error.__suppress_context__ or str(secret) not in str(error.__context__)
    else:
        pytest.fail("it was taken")


ENCODED = [(structure, writable(buffers)) for structure, buffers in map(encode, INSTRUCTIONS)]


def takes_or_refuses(call: Callable[[], ins.Instruction]) -> None:
    """It is refused, or it is an instruction that has these bytes."""
    try:
        i = call()
    except (MalformedMessage, LimitExceeded):
        return
    encode(i)


@settings(max_examples=700, deadline=None)
@given(st.data())
def test_mutated_bytes_are_taken_or_refused(data: st.DataObject) -> None:
    structure, buffers = data.draw(st.sampled_from(ENCODED))
    changed = bytearray(structure)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed)))
        how = data.draw(st.sampled_from(("set", "insert", "cut", "drop")))
        byte = data.draw(st.one_of(st.integers(0, 255), st.sampled_from([0xC0, 0xC3, 0xCF, 0xD3, 0xDB, 0xDD, 0xDF])))
        if how == "set" and place < len(changed):
            changed[place] = byte
        elif how == "insert":
            changed.insert(place, byte)
        elif how == "cut":
            del changed[place:]
        elif place < len(changed):
            del changed[place]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    takes_or_refuses(lambda: decode(bytes(changed), buffers))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


_NUMBERS = st.one_of(
    st.integers(-3, 70), st.integers(-(2**63), 2**64 - 1), st.sampled_from([2**31, 2**32, 2**62, 2**63, -(2**63)])
)
_ANY = st.recursive(
    st.one_of(
        _NUMBERS, st.none(), st.booleans(), st.sampled_from([*linear_maps.MAPS, *kernels.BILINEAR, "int64", "x"])
    ),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=700, deadline=None)
@given(st.data())
def test_other_fields_are_taken_or_refused(data: st.DataObject) -> None:
    """Well-formed msgpack with anything in place of one entry, at any depth."""
    structure, buffers = data.draw(st.sampled_from(ENCODED))
    whole = unpack(structure)
    at = whole
    while True:
        place = data.draw(st.integers(0, len(at) - 1))
        if isinstance(at[place], list) and at[place] and data.draw(st.booleans()):
            at = at[place]
            continue
        at[place] = data.draw(_ANY)
        break
    takes_or_refuses(lambda: decode(pack(whole), buffers))


# --- what the provider gets ------------------------------------------------------------------------------------------


def test_the_provider_gets_no_public_numbers() -> None:
    value = torch.arange(6).reshape(3, 2).t() + 12345
    for i in (
        ins.Constant(3, (2, 3), value),
        ins.Constant(3, (2, 3), 12345),
        ins.AddPublic(3, 1, value),
        ins.PublicProduct(3, 1, value, "mul", {}, False),
    ):
        blank: Any = without_public(i)
        structure, buffers = encode(blank)
        assert not buffers
        back: Any = decode(structure, buffers)
        for seen in (blank.value, back.value):
            if isinstance(seen, torch.Tensor):
                assert (seen.shape, seen.dtype) == (value.shape, value.dtype) and not seen.any()
                assert seen.untyped_storage().nbytes() == 8
            else:
                assert seen == 0
        others = [field.name for field in fields(i) if field.name != "value"]
        assert [getattr(i, name) for name in others] == [getattr(blank, name) for name in others]


def test_other_instructions_are_the_providers_as_they_are() -> None:
    kept = [i for i in INSTRUCTIONS if not isinstance(i, (ins.Constant, ins.AddPublic, ins.PublicProduct))]
    assert all(without_public(i) is i for i in kept)
    assert not any(isinstance(getattr(i, "value", None), torch.Tensor) for i in kept)
