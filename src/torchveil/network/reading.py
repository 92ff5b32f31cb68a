"""Reading an owner's files: CSV with a header, .npy, .safetensors. Numbers only; nothing is ever unpickled.

Messages name row and column of what cannot be read, never its content: the file is the owner's secret, and a message
may end in a log. The header of a CSV file is public unless the owner says otherwise, so that a file without one, whose
first row would be told to everybody, is refused.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchveil.errors import InvalidArgument
from torchveil.network.datasets import TARGET, Array, bad_cell, named_column


@dataclass(frozen=True, slots=True)
class Choice:
    """What to take of a file.

    columns: names of columns (CSV) or tensors (safetensors), in this order; empty: all but the target. target: names
    that become the array ``target``. whole: the values of ``columns``, of ``target`` are whole numbers, kept exactly.
    one_hot: a column of text -> its categories; a category becomes a column ``name=category`` of 0 and 1. The owner
    names the categories, since those found in a file would tell something about its rows.
    """

    columns: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    whole_columns: bool = False
    whole_target: bool = False
    one_hot: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read(path: Path, choice: Choice) -> dict[str, Array]:
    """The arrays of a file by suffix: '' the features, ``target`` the target; safetensors: one per tensor.

    CSV: (rows, columns) in float64, int64 if whole; a target of one column has shape (rows,). A safetensors file of
    one tensor, or of one beside the target, has no other suffix. Raises ``InvalidArgument`` for a file that cannot be
    read or has no such column, ``EncodingError`` for a cell that is no number.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidArgument(
            f"files of the kind {path.suffix!r} cannot be shared", op="share", remedy=f"use {', '.join(READERS)}"
        )
    problem = ""
    try:
        return reader(path, choice)
    except OSError as error:
        problem = error.strerror or "no such file"
    raise InvalidArgument(f"{path.name} cannot be read: {problem}", op="share", remedy="check the path")


# --- CSV -------------------------------------------------------------------------------------------------------------


#: What a cell that is no number, or no category, raises inside. It never gets out: it quotes the cell.
_NO_NUMBER = (ValueError, OverflowError, KeyError)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the file: its place, the names of what becomes of it, and for one-hot what each text becomes."""

    place: int
    names: tuple[str, ...]
    codes: Mapping[str, tuple[str, ...]] | None = None

    def texts(self, row: Sequence[str]) -> tuple[str, ...]:
        """The numbers that its cell stands for, as text; raises ``KeyError`` for a category that was not named."""
        return (row[self.place],) if self.codes is None else self.codes[row[self.place]]


class _Block:
    """The columns of one array, and its numbers so far, row by row."""

    def __init__(self, columns: Sequence[_Column], whole: bool) -> None:
        self.columns = columns
        self.whole = whole
        self.numbers: array[Any] = array("q" if whole else "d")
        self._convert: Callable[[str], float] = _whole if whole else float
        self._coded = any(column.codes is not None for column in columns)

    def take(self, row: Sequence[str], number: int) -> None:
        """Append one row; raises ``EncodingError`` naming the first cell that is no number."""
        try:
            self.numbers.extend(map(self._convert, self._texts(row)))
            return
        except _NO_NUMBER:
            pass
        # outside of the handler: an error that quotes the cell must not hang on to ours
        column = next(column for column in self.columns if not self._is_good(row, column))
        kind = (
            "none of its categories" if column.codes is not None else "no whole number" if self.whole else "no number"
        )
        raise bad_cell(
            number,
            f"{named_column(column.place, None)} ({column.names[0]!r})",
            f"the cell is {kind}",
            hint=""
            if column.codes is not None
            else f"; a column of text needs --one-hot {column.names[0]}=A,B,... or is left out of --columns",
        )

    def _texts(self, row: Sequence[str]) -> Iterable[str]:
        """The numbers of a row as text; a category is looked up."""
        if self._coded:
            return (text for column in self.columns for text in column.texts(row))
        return [row[column.place] for column in self.columns]

    def _is_good(self, row: Sequence[str], column: _Column) -> bool:
        try:
            array(self.numbers.typecode, map(self._convert, column.texts(row)))
        except _NO_NUMBER:
            return False
        return True

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for column in self.columns for name in column.names)

    def result(self, n_rows: int, *, flat: bool) -> Array:
        kind = np.int64 if self.whole else np.float64
        values = torch.from_numpy(np.frombuffer(self.numbers, dtype=kind).copy())
        return Array(values if flat else values.view(n_rows, len(self.names)), self.names)


def read_csv(path: Path, choice: Choice) -> dict[str, Array]:
    """A CSV file with a header: UTF-8, commas, one row per line; see ``read``."""
    with path.open(newline="", encoding="utf-8-sig", errors=_KEPT) as file:
        rows = _rows(_readable(file))
        header = _header(next(rows, []))
        first = next(rows, None)
        if first is not None:
            _check_width(first, 1, header)  # before names that do not fit: a broken file is the cause of these
        chosen = _chosen(header, choice, "column")
        blocks = {
            suffix: _Block([_column(header, name, choice) for name in names], whole)
            for suffix, names, whole in chosen
            if names
        }
        n_rows = 0
        for n_rows, row in enumerate(chain([] if first is None else [first], rows), 1):
            _check_width(row, n_rows, header)
            for block in blocks.values():
                block.take(row, n_rows)
    if not n_rows:
        raise InvalidArgument("the file has no rows below its header", op="share")
    return {
        suffix: block.result(n_rows, flat=suffix == TARGET and len(block.names) == 1)
        for suffix, block in blocks.items()
    }


#: Bytes that are no UTF-8 become characters that no UTF-8 stands for: a decoding error would quote the line instead.
_KEPT = "surrogateescape"
_NO_UTF_8 = re.compile("[\udc80-\udcff]")


def _readable(file: Iterable[str]) -> Iterator[str]:
    """The lines of a file that was opened with ``_KEPT``; raises ``InvalidArgument`` at the first that is no UTF-8."""
    for number, line in enumerate(file, 1):
        if not line.isascii() and _NO_UTF_8.search(line):
            raise InvalidArgument(f"line {number} is no UTF-8", op="share", remedy="save the file as UTF-8 CSV")
        yield line


def _rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """The rows of a file without empty lines at its end; an empty line elsewhere is a row without cells."""
    reader = csv.reader(lines, strict=True)
    empty = 0
    while True:
        failed = False
        row: list[str] | None = None
        try:
            row = next(reader, None)
        except csv.Error:
            failed = True
        if failed:
            raise InvalidArgument(
                f"line {reader.line_num} is no CSV", op="share", remedy="check its quotes and the length of its cells"
            )
        if row is None:
            return
        if not row:
            empty += 1
            continue
        for _ in range(empty):
            yield []
        empty = 0
        yield row


def _check_width(row: Sequence[str], number: int, header: Sequence[str]) -> None:
    if len(row) != len(header):
        raise InvalidArgument(
            f"row {number} has {len(row)} cells, the header {len(header)}",
            op="share",
            remedy="correct the row; commas stand between cells, and empty lines at the end only",
        )


def _header(row: Sequence[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in row)
    other = next((mark for mark in (";", "\t") if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        raise InvalidArgument(
            f"the header is one cell that holds {'semicolons' if other == ';' else 'tabs'}",
            op="share",
            remedy="save the file with commas between the cells, and points in the numbers",
        )
    if not names or not all(names) or any(_is_number(name) for name in names):
        raise InvalidArgument(
            "the file has no header: its first row is empty, or a cell of it is empty or a number",
            op="share",
            remedy="write a first row of names; it is told to everybody unless you use --no-schema",
        )
    if len(set(names)) != len(names):
        raise InvalidArgument("two columns of the header have one name", op="share", remedy="rename one of them")
    return names


def _chosen(names: Sequence[str], choice: Choice, kind: str) -> list[tuple[str, tuple[str, ...], bool]]:
    """(suffix, names, whole) of the arrays that the choice makes of ``names``; ``kind`` is what these are names of."""
    features = choice.columns or tuple(name for name in names if name not in choice.target)
    given = {"--columns": choice.columns, "--target": choice.target, "--one-hot": tuple(choice.one_hot)}
    for option, wanted in given.items():
        unknown = next((name for name in wanted if name not in names), None)
        if unknown is not None:
            raise _unfit(f"{option} names {unknown!r}, and the file has no such {kind}", "check the names in the file")
    wanted = (*features, *choice.target)
    twice = next((name for name in wanted if wanted.count(name) > 1), None)
    if twice is not None:
        raise _unfit(f"--columns and --target name {twice!r} twice", f"name every {kind} once, in one of them")
    unused = next((name for name in choice.one_hot if name not in wanted), None)
    if unused is not None:
        raise _unfit(f"--one-hot names {unused!r}, which --columns leaves out", "add it to --columns or --target")
    if choice.whole_target and not choice.target:
        raise _unfit("--whole target is said, and there is no target", "name it with --target")
    if not features:
        raise _unfit(f"--target takes every {kind} of the file", f"leave a {kind} for the data")
    return [("", features, choice.whole_columns), (TARGET, choice.target, choice.whole_target)]


def _unfit(reason: str, remedy: str) -> InvalidArgument:
    return InvalidArgument(reason, op="share", remedy=remedy)


def _column(header: Sequence[str], name: str, choice: Choice) -> _Column:
    place = header.index(name)
    categories = choice.one_hot.get(name)
    if categories is None:
        return _Column(place, (name,))
    if len(set(categories)) != len(categories) or not all(categories):
        raise InvalidArgument(f"the categories of {name!r} are not different from each other", op="share")
    codes = {c: tuple("1" if c == other else "0" for other in categories) for c in categories}
    return _Column(place, tuple(f"{name}={c}" for c in categories), codes)


def _whole(cell: str) -> int:
    """The whole number of a cell, also when it is written as 3.0."""
    try:
        return int(cell)
    except ValueError:
        value = float(cell)
    if not value.is_integer():
        raise ValueError
    return int(value)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# --- arrays ----------------------------------------------------------------------------------------------------------


def read_npy(path: Path, choice: Choice) -> dict[str, Array]:
    """One array of numbers of any shape."""
    if choice.columns or choice.target or choice.one_hot:
        raise InvalidArgument(
            "an .npy file has no names of columns", op="share", remedy="use CSV or safetensors, or share the parts"
        )
    found: Any = None
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        found = None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub":
        raise InvalidArgument(
            f"{path.name} is no .npy file of one array of numbers",
            op="share",
            remedy="write it with numpy.save; arrays of objects are pickled and never read",
        )
    if found.dtype.kind == "f":
        values = torch.from_numpy(found.astype(np.float64, order="C"))
    else:
        if found.dtype == np.uint64:
            found = np.asarray(
                np.minimum(found, np.uint64(2**62))
            )  # too large a number stays too large, and is refused as such
        values = torch.from_numpy(found.astype(np.int64, order="C"))
    return {"": Array(_as_whole(values) if choice.whole_columns else values)}


def read_safetensors(path: Path, choice: Choice) -> dict[str, Array]:
    """Tensors by name: a single one becomes the array itself, several keep their names; the target is ``target``."""
    from safetensors import SafetensorError, safe_open

    if choice.one_hot:
        raise InvalidArgument("only columns of CSV files are made one-hot", op="share", remedy="leave out --one-hot")
    out: dict[str, Array] = {}
    failed = False
    try:
        with safe_open(path, framework="pt") as file:
            chosen = _chosen(sorted(file.keys()), choice, "tensor")
            if len(choice.target) > 1:
                raise InvalidArgument("a safetensors file has one target at most", op="share", remedy="name one tensor")
            for suffix, names, whole in chosen:
                for name in names:
                    values: Tensor = file.get_tensor(name)
                    if not values.dtype.is_floating_point and not values.dtype.is_complex:
                        values = values.to(torch.int64)
                    own = suffix or ("" if len(names) == 1 else name)
                    out[own] = Array(_as_whole(values) if whole else values)
    except SafetensorError:
        failed = True
    if failed:
        raise InvalidArgument(f"{path.name} is no safetensors file", op="share", remedy="write it with safetensors")
    return out


def _as_whole(values: Tensor) -> Tensor:
    """Floats that are whole numbers as int64; raises ``EncodingError`` naming the first that is none."""
    if not values.dtype.is_floating_point:
        return values
    bad = ~((values == values.round()) & (values.abs() < 2.0**62))
    if bool(bad.any()):
        first = bad.nonzero()[0].tolist()
        place = f"place {tuple(k + 1 for k in first[1:])}" if first[1:] else "its only column"
        raise bad_cell(first[0] + 1 if first else 1, place, "no whole number")
    return values.to(torch.int64)


#: ending of a file's name -> how it is read
READERS: dict[str, Callable[[Path, Choice], dict[str, Array]]] = {
    ".csv": read_csv,
    ".npy": read_npy,
    ".safetensors": read_safetensors,
}
