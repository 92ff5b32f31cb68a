"""What an owner shares: names, schemas, arrays made ready, and the splitting into one share per party.

Theory of operation. A *sharing* is what one call of an owner gives to all parties together: one array or several that
belong together (features, their target, a mask of the rows that count). It has a base name, ``hospital-a/x``, whose
first part is the name of the owner in its certificate, and a random id of 16 bytes; its arrays are named
``hospital-a/x``, ``hospital-a/x.target``, ``hospital-a/x.mask``. Parties show a sharing only once the owner has
committed all of it, and a reader takes it only if all parties name the same id.

Splitting. Of n parties, n - 1 receive keystream of AES-CTR under a fresh key of 16 bytes from the operating system,
which is forgotten afterwards; the last one receives x minus their sum, modulo 2^64. So any n - 1 shares are
indistinguishable from uniform ring elements, whatever x is.

What everybody learns who may list: names, shapes, number formats, names of columns (``None`` keeps them secret), and
which parties hold shares. Padding hides how many rows there are; that rows may have been added is known, since a mask
lies beside the data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from torchveil.errors import DataNotFound, EncodingError, InvalidArgument, ShapeMismatch
from torchveil.fixedpoint import ENCODABLE, FixedPoint, encode
from torchveil.network.messages import Bytes16, Name
from torchveil.randomness import Stream, os_bytes

#: The format of whole numbers (labels, masks): scale 1, exact.
WHOLE = FixedPoint(2, 0)

#: Names of arrays of a sharing that have a meaning of their own.
TARGET, MASK = "target", "mask"

MAX_NAME = 160  # as in ``messages.Name``
MAX_DIMENSIONS = 16
MAX_COLUMN_NAMES = 1 << 15  # characters in all

# The first part is the name of a role, which may hold dots; in the last part a dot begins the suffix.
_OWNER = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}"
_PART = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
_BASE = re.compile(rf"{_OWNER}(/{_PART}){{1,7}}")
_FULL = re.compile(rf"{_OWNER}(/{_PART}){{1,7}}(\.{_PART})?")
_SUFFIX = re.compile(_PART)

#: Elements of a share that travel and lie on disk together: 8 MiB.
PIECE = 1 << 20


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is public about one shared array. ``parties`` are the roles that hold a share, in the order of splitting.

    Raises ``InvalidArgument`` (``msgspec.ValidationError`` when decoded) for what describes no array.
    """

    name: Name
    shape: Annotated[tuple[Annotated[int, Meta(ge=1, lt=2**40)], ...], Meta(max_length=MAX_DIMENSIONS)]
    base: Annotated[int, Meta(ge=2, le=2**26)]
    digits: Annotated[int, Meta(ge=0, le=26)]
    parties: Annotated[tuple[Name, ...], Meta(min_length=2, max_length=64)]
    columns: tuple[Name, ...] | None = None

    def __post_init__(self) -> None:
        if not _FULL.fullmatch(self.name):
            raise _bad_name(self.name)
        if self.base**self.digits > 2**26 or len(set(self.parties)) != len(self.parties) or self.n_bytes >= 2**60:
            raise InvalidArgument("a schema with an impossible number format, size or list of parties", op="share")
        if self.columns is not None:
            _check_columns(self.columns, self.shape)

    @property
    def number_format(self) -> FixedPoint:
        return FixedPoint(self.base, self.digits)

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of one share."""
        return 8 * self.n_elements

    @property
    def sharing(self) -> str:
        """The base name of the sharing that this array belongs to."""
        path, _, last = self.name.rpartition("/")
        return f"{path}/{last.partition('.')[0]}"

    @property
    def owner(self) -> str:
        """The role that may share under this name."""
        return owner_of(self.name)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a party tells of an array that it holds: the id of its sharing, whose certificate shared it, its schema."""

    id: Bytes16
    owner: Name
    schema: Schema


@dataclass(frozen=True, slots=True)
class Array:
    """Clear values at their owner, before encoding: (rows, ...), any float or whole dtype; ``columns`` name dim 1."""

    values: Tensor
    columns: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return "<Array of an owner>"


@dataclass(frozen=True, slots=True)
class Part:
    """One array of a sharing, encoded: int64 at the scale of ``number_format``. The suffix of the first one is ''."""

    suffix: str
    raw: Tensor
    number_format: FixedPoint
    columns: tuple[str, ...] | None

    def schema(self, base: str, parties: Sequence[str]) -> Schema:
        return Schema(
            f"{base}.{self.suffix}" if self.suffix else base,
            tuple(self.raw.shape),
            self.number_format.base,
            self.number_format.digits,
            tuple(parties),
            self.columns,
        )

    def __repr__(self) -> str:
        return f"<Part {self.suffix!r} of an owner>"


def owner_of(name: str) -> str:
    """The role whose name the first part of ``name`` is."""
    return "owner/" + name.partition("/")[0]


def check_base(name: str, role: str, *, op: str = "share") -> None:
    """Raise ``InvalidArgument`` unless ``role`` may share, or do another ``op``, under the base name ``name``."""
    if len(name) > MAX_NAME - 64 or not _BASE.fullmatch(name):
        raise _bad_name(name, op=op)
    if owner_of(name) != role:
        raise InvalidArgument(
            f"{role} may not {'share as' if op == 'share' else op} {name!r}: "
            "the first part of a name is the owner's own name",
            op=op,
            remedy=f"choose a name below {role.partition('/')[2]}/, or use the certificate of {owner_of(name)}",
        )


def prepare(
    arrays: Mapping[str, Array],
    number_format: FixedPoint,
    *,
    pad_rows: int | None = None,
    tell_columns: bool = True,
) -> list[Part]:
    """Encode the arrays of a sharing (by suffix), pad them, and leave out the names of columns unless they are told.

    Floats are encoded with ``number_format``, whole numbers and truth values exactly, with scale 1. With ``pad_rows``
    every array gets rows of zeros up to that number, and an array ``mask`` of 1 for each row that was there and 0 for
    the others is added. Raises ``EncodingError`` naming row and column, never the value; ``InvalidArgument`` for empty
    or complex arrays and more than ``pad_rows`` rows; ``ShapeMismatch`` for arrays of different lengths to be padded,
    and for a target of another length than what it is the target of.
    """
    for array in arrays.values():
        if not isinstance(array.values, Tensor):
            raise InvalidArgument(
                f"only a tensor can be shared, and not a {type(array.values).__name__}",
                op="share",
                remedy="pass torch.tensor(...) of it",
            )
    if pad_rows is not None:
        arrays = _with_mask(arrays, pad_rows)
    _check_target(arrays)
    parts = []
    for suffix, array in arrays.items():
        if suffix and not _SUFFIX.fullmatch(suffix):
            raise _bad_name(suffix)
        values = array.values.detach().cpu()
        if values.dtype.is_complex or not values.numel():
            raise InvalidArgument(
                "an array without numbers, or of complex ones", op="share", remedy="share real numbers"
            )
        chosen = number_format if values.dtype.is_floating_point else WHOLE
        raw = _encode(values, chosen, array.columns)
        if pad_rows is not None:
            raw = torch.cat([raw, raw.new_zeros(pad_rows - raw.shape[0], *raw.shape[1:])])
        columns = array.columns if tell_columns else None
        if columns is not None:
            _check_columns(columns, tuple(raw.shape))
        parts.append(Part(suffix, raw.contiguous(), chosen, columns))
    return parts


def split(raw: Tensor, n_parties: int) -> Iterator[Tensor]:
    """One share per party, in order: int64 tensors of the shape of ``raw`` that sum to it modulo 2^64.

    Holds one share and the remainder at a time. Every call draws under a fresh key.
    """
    stream = Stream(os_bytes(16))
    rest = raw.clone()
    for number in range(n_parties - 1):
        share = stream.ring(number, 0, tuple(raw.shape), 64)
        rest -= share
        yield share
    yield rest


def agree(name: str, held: Mapping[str, Entry | None], parties: Sequence[str]) -> Entry:
    """The one entry that all ``parties`` hold under ``name``. ``held`` is what each of them answered.

    Raises ``DataNotFound`` naming the parties: nobody has it, some have it, they hold different sharings, or it was
    split between other parties, so that the shares of these do not sum to it.
    """
    found = {party: entry for party, entry in held.items() if entry is not None and party in parties}
    first = next(iter(found.values()), None)
    if first is None:
        raise DataNotFound(f"no party holds {name!r}", op="dataset", remedy="list the names with torchveil datasets")
    missing = [party for party in parties if party not in found]
    others = [party for party, entry in found.items() if entry != first]
    agreed = [party for party, entry in found.items() if entry == first]
    remedy = f"let {first.owner} share it again"
    if missing:
        raise DataNotFound(f"{name!r} is not at {_listed(missing)}", op="dataset", remedy=remedy)
    if others:
        raise DataNotFound(
            f"{_listed(agreed)} and {_listed(others)} hold different sharings of {name!r}", op="dataset", remedy=remedy
        )
    if first.schema.name != name or set(first.schema.parties) != set(parties):
        raise DataNotFound(
            f"{name!r} was split between {_listed(first.schema.parties)}, not between {_listed(parties)}",
            op="dataset",
            remedy=f"open a session with those parties, or {remedy}",
        )
    return first


def bad_cell(row: int, column: str, reason: str, *, hint: str = "") -> EncodingError:
    """The error for one cell; rows count from 1. Never says what the cell holds. ``hint`` ends its remedy."""
    return EncodingError(
        f"row {row}, {column}: {reason}", op="share", remedy=f"correct or remove it, then share again{hint}"
    )


def named_column(place: int, columns: Sequence[str] | None) -> str:
    """How an error names the column at ``place`` (from 0)."""
    return f"column {place + 1}" if columns is None else f"column {place + 1} ({columns[place]!r})"


def _with_mask(arrays: Mapping[str, Array], pad_rows: int) -> dict[str, Array]:
    lengths = {array.values.shape[0] if array.values.dim() else 0 for array in arrays.values()}
    if len(lengths) != 1:
        raise ShapeMismatch("arrays that are padded together need one number of rows", op="share")
    (n_rows,) = lengths
    if n_rows > pad_rows or MASK in arrays:
        reason = f"there are more than {pad_rows} rows" if n_rows > pad_rows else f"an array is called {MASK!r} already"
        raise InvalidArgument(f"the rows cannot be padded: {reason}", op="share", remedy="pad to more rows, or rename")
    return {**arrays, MASK: Array(torch.ones(n_rows, dtype=torch.int64))}


def _check_target(arrays: Mapping[str, Array]) -> None:
    """Raise ``ShapeMismatch`` unless the target, if there is one, has a row for each row of the data."""
    if "" not in arrays or TARGET not in arrays:
        return
    rows, targets = (_rows(arrays[suffix].values) for suffix in ("", TARGET))
    if rows != targets:
        raise ShapeMismatch(
            f"the data have {rows}, and their target has {targets}",
            op="share",
            remedy="give one target for each row, or share them under names of their own",
        )


def _rows(values: Tensor) -> str:
    """How many rows there are, in words."""
    if not values.dim():
        return "one number and no rows"
    return f"{len(values)} row{'' if len(values) == 1 else 's'}"


def _encode(values: Tensor, number_format: FixedPoint, columns: Sequence[str] | None) -> Tensor:
    try:
        return encode(values, number_format.scale, op="share")
    except EncodingError:
        pass
    # outside the handler: nothing that was raised before hangs on to what is raised now
    scale = number_format.scale
    if values.dtype.is_floating_point:
        scaled = values.to(torch.float64) * scale
        bad = ~(scaled.round().abs() < ENCODABLE)
    else:
        limit = ENCODABLE // scale
        bad = (values.to(torch.int64) >= limit) | (values.to(torch.int64) <= -limit)
    first = bad.nonzero()[0].tolist()
    finite = bool(torch.isfinite(values[tuple(first)]))
    reason = f"does not fit, magnitudes must stay below {ENCODABLE // scale}" if finite else "is nan or infinite"
    if len(first) <= 1:
        column = named_column(0, columns) if columns else "its only column"
    elif len(first) == 2:
        column = named_column(first[1], columns)
    else:
        column = f"place {tuple(k + 1 for k in first[1:])}"
    raise bad_cell(first[0] + 1 if first else 1, column, reason)


def _check_columns(columns: Sequence[str], shape: Sequence[int]) -> None:
    expected = 1 if len(shape) == 1 else shape[1] if len(shape) == 2 else -1
    if len(columns) != expected or len(set(columns)) != len(columns):
        raise InvalidArgument(
            f"{len(columns)} names of columns for an array of shape {tuple(shape)}",
            op="share",
            remedy="give each column of a table one name, different from the others",
        )
    if sum(map(len, columns)) > MAX_COLUMN_NAMES or not all(
        c.isprintable() and 0 < len(c) <= MAX_NAME for c in columns
    ):
        raise InvalidArgument("names of columns that are too long or not printable", op="share", remedy="--no-schema")


def _bad_name(name: str, *, op: str = "share") -> InvalidArgument:
    return InvalidArgument(
        f"{name[:MAX_NAME]!r} is no name of a dataset",
        op=op,
        remedy="owner/name: 2 to 8 parts of letters, digits, - and _, such as hospital-a/x or hospital-a/2024/x",
    )


def _listed(roles: Sequence[str]) -> str:
    return ", ".join(roles)
