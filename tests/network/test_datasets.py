"""Names and schemas, encoding and padding, splitting, and whether parties agree on what they hold."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import Tensor

from torchveil.errors import DataNotFound, EncodingError, InvalidArgument, ShapeMismatch, TorchveilError
from torchveil.fixedpoint import FixedPoint, decode
from torchveil.network.datasets import MASK, Array, Entry, Part, Schema, agree, check_base, prepare, split

PARTIES = ("party/alice", "party/bob")
FORMAT = FixedPoint()


def schema(name: str = "hospital-a/x", shape: tuple[int, ...] = (4, 2), **changes: object) -> Schema:
    return Schema(**{"name": name, "shape": shape, "base": 2, "digits": 16, "parties": PARTIES, **changes})


@pytest.mark.parametrize("n", [2, 3, 5])
def test_shares_sum_to_the_value_and_all_but_one_do_not_depend_on_it(n: int) -> None:
    raw = torch.tensor([[0, 1, -1], [2**61, -(2**61), 2**63 - 1]])
    shares = list(split(raw, n))
    assert len(shares) == n
    assert torch.stack(shares).sum(0).equal(raw)
    assert all(share.dtype == torch.int64 and share.shape == raw.shape for share in shares)
    assert not any(a.equal(b) for a in shares for b in split(raw, n))


@pytest.mark.parametrize("n", [2, 3])
def test_every_share_looks_uniform_byte_by_byte(n: int) -> None:
    """Chi-square of each byte's 256 values, 255 degrees of freedom: mean 255, standard deviation 22.6."""
    for share in split(torch.zeros(1 << 15, dtype=torch.int64), n):
        for byte in share.view(torch.uint8).view(-1, 8).T:
            counts = torch.bincount(byte.long(), minlength=256).double()
            expected = (1 << 15) / 256
            assert 130 < float(((counts - expected) ** 2 / expected).sum()) < 400
    assert not raw_is_changed()


def raw_is_changed() -> bool:
    raw = torch.arange(5)
    list(split(raw, 3))
    return not raw.equal(torch.arange(5))


@pytest.mark.parametrize("name", ["hospital-a/x", "hospital-a/2024/x_1", "h.a/x", "hospital-a/x.target"])
def test_names_of_owners(name: str) -> None:
    assert schema(name).owner == "owner/" + name.split("/")[0]
    assert schema(name).sharing == name.removesuffix(".target")


@pytest.mark.parametrize(
    "name",
    ["x", "/x", "hospital-a/", "hospital-a/../x", "hospital-a/x.y.z", "a b/x", "a/x\n", "a/" + "x" * 200, "a/b.c/d"],
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidArgument):
        schema(name)
    with pytest.raises(InvalidArgument):
        check_base(name, "owner/hospital-a")


def test_an_owner_shares_below_its_own_name_and_leaves_suffixes_to_us() -> None:
    check_base("hospital-a/x", "owner/hospital-a")
    for name, role in [
        ("hospital-a/x", "owner/hospital-b"),
        ("hospital-a/x", "controller/hospital-a"),
        ("hospital-a/x.mask", "owner/hospital-a"),
    ]:
        with pytest.raises(InvalidArgument):
            check_base(name, role)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (0,)},
        {"shape": (-1, 2)},
        {"shape": (2**39, 2**39)},
        {"shape": (1,) * 17},
        {"base": 10, "digits": 9},
        {"base": 2**27},
        {"digits": 10**6},
        {"parties": ("party/alice",)},
        {"parties": ("party/alice", "party/alice")},
        {"columns": ("a", "b", "c")},
        {"columns": ("a", "a")},
        {"columns": ("a", "")},
        {"columns": ("a", "b\x1b[2J")},
        {"columns": ("a", "b"), "shape": (4, 2, 2)},
        {"surprise": 1},
    ],
)
def test_schemas_from_outside_are_checked(changes: dict[str, object]) -> None:
    good = msgspec.to_builtins(schema(columns=("a", "b")))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(good), type=Schema) == schema(columns=("a", "b"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({**good, **changes}), type=Schema)


def test_floats_are_encoded_and_whole_numbers_kept() -> None:
    x = torch.tensor([[1.5, -2.25], [0.0, 3.0]])
    features, labels = prepare({"": Array(x, ("a", "b")), "target": Array(torch.tensor([1, 0]))}, FixedPoint(10, 3))
    assert features.raw.tolist() == [[1500, -2250], [0, 3000]]
    assert labels.raw.tolist() == [1, 0] and labels.number_format.scale == 1
    assert features.schema("hospital-a/x", PARTIES) == schema(shape=(2, 2), base=10, digits=3, columns=("a", "b"))
    assert labels.schema("hospital-a/x", PARTIES).name == "hospital-a/x.target"
    assert prepare({"": Array(x, ("a", "b"))}, FORMAT, tell_columns=False)[0].columns is None
    assert prepare({"": Array(torch.tensor([True, False]))}, FORMAT)[0].raw.tolist() == [1, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 123456789.0**3])
def test_a_value_that_no_share_can_hold_is_named_by_place(value: float) -> None:
    x = torch.zeros(3, 2, dtype=torch.float64)
    x[1, 1] = value
    with pytest.raises(EncodingError, match=r"row 2, column 2 \('b'\)") as caught:
        prepare({"": Array(x, ("a", "b"))}, FORMAT)
    assert "123456789" not in str(caught.value) and "e+24" not in str(caught.value)
    with pytest.raises(EncodingError, match="row 2, column 2:"):
        prepare({"": Array(x)}, FORMAT)
    with pytest.raises(EncodingError, match=r"row 2, place \(2, 1\)"):
        prepare({"": Array(x[:, :, None])}, FORMAT)
    with pytest.raises(EncodingError, match="row 2"):
        prepare({"": Array(x[:, 1])}, FORMAT)


def test_whole_numbers_that_do_not_fit() -> None:
    for value in (2**61, -(2**61), -(2**63)):
        with pytest.raises(EncodingError, match="row 1"):
            prepare({"": Array(torch.tensor([value]))}, FORMAT)
    assert prepare({"": Array(torch.tensor([2**61 - 1]))}, FORMAT)[0].raw.item() == 2**61 - 1


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_padded_arrays_tell_nothing_of_their_rows(rows: int) -> None:
    """Whatever the number of rows, schemas and shares have the same sizes; the mask says which rows count."""
    x = torch.ones(rows, 2)
    parts = prepare({"": Array(x), "target": Array(torch.ones(rows, dtype=torch.int64))}, FORMAT, pad_rows=5)
    assert [part.schema("hospital-a/x", PARTIES).shape for part in parts] == [(5, 2), (5,), (5,)]
    assert [part.suffix for part in parts] == ["", "target", MASK]
    assert decode(parts[0].raw, 2**16).sum() == 2 * rows
    assert parts[2].raw.tolist() == [1] * rows + [0] * (5 - rows)


def test_what_cannot_be_padded() -> None:
    with pytest.raises(InvalidArgument, match="more than 2 rows"):
        prepare({"": Array(torch.ones(3))}, FORMAT, pad_rows=2)
    with pytest.raises(ShapeMismatch):
        prepare({"": Array(torch.ones(3)), "target": Array(torch.ones(2))}, FORMAT, pad_rows=4)
    with pytest.raises(InvalidArgument):
        prepare({"": Array(torch.ones(3)), "mask": Array(torch.ones(3))}, FORMAT, pad_rows=4)


@pytest.mark.parametrize(
    ("x", "target", "words"),
    [
        (torch.ones(2), torch.ones(3), "the data have 2 rows, and their target has 3 rows"),
        (torch.ones(1, 4), torch.ones(4), "the data have 1 row, and their target has 4 rows"),
        (torch.ones(2), torch.ones(()), "the data have 2 rows, and their target has one number and no rows"),
    ],
)
def test_a_target_has_as_many_rows_as_the_data(x: Tensor, target: Tensor, words: str) -> None:
    with pytest.raises(ShapeMismatch, match=words):
        prepare({"": Array(x), "target": Array(target)}, FORMAT)
    # tensors of a file that only lie side by side have lengths of their own
    assert len(prepare({"a": Array(x), "b": Array(target)}, FORMAT)) == 2


@pytest.mark.parametrize("values", [torch.zeros(0, 3), torch.zeros(2, dtype=torch.complex64)])
def test_arrays_that_cannot_be_shared(values: Tensor) -> None:
    with pytest.raises(InvalidArgument):
        prepare({"": Array(values)}, FORMAT)


@pytest.mark.parametrize("pad_rows", [None, 4])
def test_what_is_no_tensor_cannot_be_shared(pad_rows: int | None) -> None:
    for values in ([1, 2], None, 3.0):
        with pytest.raises(InvalidArgument, match="only a tensor can be shared"):
            prepare({"": Array(values)}, FORMAT, pad_rows=pad_rows)  # type: ignore[arg-type]


def test_repr_shows_no_value() -> None:
    x = torch.full((2,), 77.0)
    shown = repr(Array(x)) + repr(Part("", x.long(), FORMAT, None))
    assert "77" not in shown and "tensor" not in shown


def entry(identifier: bytes = b"i" * 16, **changes: object) -> Entry:
    return Entry(identifier, "owner/hospital-a", schema(**changes))


def test_parties_that_hold_the_same_agree() -> None:
    assert agree("hospital-a/x", {party: entry() for party in PARTIES}, PARTIES) == entry()


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"party/alice": None, "party/bob": None}, "no party"),
        ({"party/alice": entry(), "party/bob": None}, "not at party/bob"),
        ({"party/alice": entry()}, "not at party/bob"),
        ({"party/alice": entry(), "party/bob": entry(b"j" * 16)}, "party/alice and party/bob hold different"),
        ({"party/alice": entry(), "party/bob": entry(digits=8)}, "party/alice and party/bob hold different"),
        (dict.fromkeys(PARTIES, entry(parties=(*PARTIES, "party/carol"))), "party/carol, not between"),
        (dict.fromkeys(PARTIES, entry(name="hospital-a/y")), "was split"),
    ],
)
def test_parties_that_do_not_agree_are_named(held: dict[str, Entry | None], words: str) -> None:
    with pytest.raises(DataNotFound, match=words):
        agree("hospital-a/x", held, PARTIES)


def test_errors_are_of_our_tree() -> None:
    assert issubclass(DataNotFound, TorchveilError)
