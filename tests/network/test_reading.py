"""Files of owners: what is read exactly, what is refused, and that no message ever quotes a cell."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchveil.errors import CallerError, EncodingError, InvalidArgument
from torchveil.fixedpoint import FixedPoint
from torchveil.network.datasets import prepare
from torchveil.network.reading import Choice, read, read_csv

CANARY = "4111-7318-CANARY"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "x.csv", "age,dose,sex,ill\n40,1.5,f,0\n 51 ,-2e-1,m,1\n")


def test_a_table_is_read(table: Path) -> None:
    read_ = read(table, Choice(columns=("dose", "age"), target=("ill",), whole_target=True))
    assert set(read_) == {"", "target"}
    assert read_[""].columns == ("dose", "age") and read_["target"].columns == ("ill",)
    assert read_[""].values.tolist() == [[1.5, 40.0], [-0.2, 51.0]] and read_[""].values.dtype == torch.float64
    assert read_["target"].values.tolist() == [0, 1] and read_["target"].values.dtype == torch.int64


def test_all_but_the_target_are_features(tmp_path: Path) -> None:
    read_ = read(write(tmp_path / "x.csv", "a,b,c\n1,2,3"), Choice(target=("b",)))
    assert read_[""].values.tolist() == [[1.0, 3.0]] and read_["target"].values.tolist() == [2.0]
    assert read(write(tmp_path / "x.csv", "a\n1\n"), Choice())[""].values.tolist() == [[1.0]]
    both = read(write(tmp_path / "x.csv", "a,b,c\n1,2,3"), Choice(target=("c", "b")))
    assert both["target"].values.tolist() == [[3.0, 2.0]]


def test_text_becomes_columns_of_named_categories(table: Path) -> None:
    read_ = read(table, Choice(columns=("sex", "age"), one_hot={"sex": ("m", "f", "other")}))[""]
    assert read_.columns == ("sex=m", "sex=f", "sex=other", "age")
    assert read_.values.tolist() == [[0, 1, 0, 40], [1, 0, 0, 51]]


def test_whole_numbers_are_exact(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", f"a\n{2**60 + 1}\n3.0\n-7\n")
    assert read(path, Choice(whole_columns=True))[""].values.flatten().tolist() == [2**60 + 1, 3, -7]


def test_bom_quotes_and_empty_lines_at_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "x.CSV", b'\xef\xbb\xbf"a, b",c\r\n"1",2\r\n\r\n\r\n')
    read_ = read(path, Choice())[""]
    assert read_.columns == ("a, b", "c") and read_.values.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_names_of_columns_that_are_no_utf_8_are_not_published_mangled(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "x.csv", "größe,alter\n1,2\n".encode(encoding))
    with pytest.raises(InvalidArgument, match="line 1 is no UTF-8") as caught:
        read(path, Choice())
    assert "alter" not in chain(caught.value)
    assert read(write(path, "größe,alter\n1,2\n"), Choice())[""].columns == ("größe", "alter")


BAD_CELLS = {
    "text": (CANARY, r"row 2, column 2 \('b'\)"),
    "empty": ("", r"row 2, column 2 \('b'\)"),
    "spaces": ("  ", r"row 2, column 2"),
    "nan": ("nan", r"row 2, column 2"),
    "infinite": ("-inf", r"row 2, column 2"),
    "too large": ("411173180000000000000", r"row 2, column 2"),
    "overflow": ("1e999", r"row 2, column 2"),
    "no utf-8": (b"4111\xff7318", r"line 3 is no UTF-8\n.*\n.*\n.*save the file as UTF-8 CSV"),
    "utf-16": ("7318".encode("utf-16"), "line 3 is no UTF-8"),
    "another cell": (CANARY + ",9", "row 2 has 3 cells"),
    "a quote": ('"' + CANARY, "line"),
    "a long cell": (CANARY * 20_000, "line"),
    "quoted wrongly": (f'"{CANARY}"x', "line"),
    "an empty line": ("1\n\n" + CANARY + ",1", "row 3 has 0 cells"),
}


@pytest.mark.parametrize("kind", BAD_CELLS)
@pytest.mark.parametrize("whole", [False, True])
def test_no_message_quotes_a_cell(kind: str, whole: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cell, words = BAD_CELLS[kind]
    raw = cell if isinstance(cell, bytes) else cell.encode()
    path = write(tmp_path / "x.csv", b"a,b\n1,2\n3," + raw + b"\n5,6\n")
    with caplog.at_level(logging.DEBUG), pytest.raises(CallerError, match=words) as caught:
        prepare(read(path, Choice(whole_columns=whole)), FixedPoint())
    quoted = chain(caught.value) + caplog.text
    for secret in ("4111", "7318", "CANARY", "1e999", "411173180000000000000"):
        assert secret not in quoted


def chain(error: BaseException | None) -> str:
    """Everything that an error and all that hang on it say, suppressed ones included; source lines of tests aside."""
    out = ""
    while error is not None:
        out += f"{error!r} {error} {error.args} " + "".join(traceback.format_exception_only(error))
        error = error.__cause__ or error.__context__
    return out


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), max_size=3), max_size=4))
def test_any_text_is_read_or_refused_with_an_error_of_ours(rows: list[list[str]]) -> None:
    class Text:
        """A path of which only what ``read_csv`` uses exists."""

        def open(self, **_: object) -> io.StringIO:
            return io.StringIO("\n".join(",".join(row) for row in rows), newline="")

    try:
        arrays = read_csv(Text(), Choice())  # type: ignore[arg-type]
    except CallerError:
        return
    assert arrays[""].values.shape[1] == len(arrays[""].columns or ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no header"),
        ("\n1,2\n", "no header"),
        ("4111.7318,2\n3,4\n", "no header"),
        ("a,1e3\n3,4\n", "no header"),
        ("a,,c\n1,2,3\n", "no header"),
        ("a, a\n1,2\n", "one name"),
        ("a,b\n", "no rows"),
        ("a,b\n\n\n", "no rows"),
    ],
)
def test_a_first_row_that_is_no_header(tmp_path: Path, text: str, words: str) -> None:
    """It would be told to everybody as the names of columns."""
    with pytest.raises(InvalidArgument, match=words) as caught:
        read(write(tmp_path / "x.csv", text), Choice())
    assert "4111" not in chain(caught.value)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(columns=("nothing",)), "--columns names 'nothing', and the file has no such column"),
        (Choice(target=("nothing",)), "--target names 'nothing', and the file has no such column"),
        (Choice(one_hot={"nothing": ("a", "b")}), "--one-hot names 'nothing', and the file has no such column"),
        (Choice(columns=("age",), one_hot={"sex": ("f", "m")}), "--one-hot names 'sex', which --columns leaves out"),
        (Choice(columns=("age",), whole_target=True), "--whole target is said, and there is no target"),
        (Choice(columns=("age", "age")), "--columns and --target name 'age' twice"),
        (Choice(columns=("age",), target=("age",)), "--columns and --target name 'age' twice"),
        (Choice(target=("age", "dose", "sex", "ill")), "--target takes every column"),
        (Choice(columns=("sex",), one_hot={"sex": ("f", "f")}), "categories of 'sex' are not different"),
        (Choice(columns=("sex",), one_hot={"sex": ("f", "")}), "categories of 'sex' are not different"),
    ],
)
def test_choices_that_do_not_fit(table: Path, choice: Choice, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        read(table, choice)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("age;sex\n40;f\n", "the header is one cell that holds semicolons\n.*\n.*\n.*with commas between"),
        ("age\tsex\n40\tf\n", "the header is one cell that holds tabs\n.*\n.*\n.*with commas between"),
        ("age,dose\n40,2,f\n", "row 1 has 3 cells, the header 2"),
    ],
)
def test_a_broken_file_is_told_before_names_that_it_lacks(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        read(write(tmp_path / "x.csv", text), Choice(one_hot={"sex": ("f", "m")}))


def test_a_cell_of_text_says_what_to_do_with_its_column(table: Path) -> None:
    with pytest.raises(
        EncodingError, match=r"correct or remove it.*--one-hot sex=A,B,\.\.\. or is left out of --columns"
    ):
        read(table, Choice())


def test_a_category_that_was_not_named(table: Path) -> None:
    with pytest.raises(EncodingError, match=r"row 2, column 3 \('sex=f'\): the cell is none of its categories"):
        read(table, Choice(columns=("sex",), one_hot={"sex": ("f", "other")}))


@pytest.mark.parametrize(
    ("stored", "whole", "expected", "dtype"),
    [
        (np.array([[1.5, 2]], dtype=">f4"), False, [[1.5, 2]], torch.float64),
        (np.array([1, 255], dtype=np.uint8), False, [1, 255], torch.int64),
        (np.array([True, False]), False, [1, 0], torch.int64),
        (np.array([[1.0, -3.0]]).T, True, [[1], [-3]], torch.int64),
        (np.array(5.0), False, 5.0, torch.float64),
    ],
)
def test_npy(tmp_path: Path, stored: np.ndarray, whole: bool, expected: object, dtype: torch.dtype) -> None:
    np.save(tmp_path / "x.npy", stored)
    values = read(tmp_path / "x.npy", Choice(whole_columns=whole))[""].values
    assert values.tolist() == expected and values.dtype == dtype


def test_npy_that_holds_too_much(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([1, 2**64 - 1], dtype=np.uint64))
    with pytest.raises(EncodingError, match="row 2"):
        prepare(read(tmp_path / "x.npy", Choice()), FixedPoint())
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0], [1.0, 4111.7318]]))
    with pytest.raises(EncodingError, match=r"row 2, place \(2,\): no whole number") as caught:
        read(tmp_path / "x.npy", Choice(whole_columns=True))
    assert "4111" not in chain(caught.value)


class Bomb:
    """Unpickling it would end the test."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return pytest.fail, ("a file was unpickled",)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    write(tmp_path / "pickled.npy", pickle.dumps(Bomb()))
    np.savez(tmp_path / "many.npz", a=np.ones(2))
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    np.save(tmp_path / "text.npy", np.array([CANARY]))
    np.save(tmp_path / "complex.npy", np.ones(2) * 1j)
    write(tmp_path / "cut.npy", (tmp_path / "text.npy").read_bytes()[:90])
    write(tmp_path / "empty.npy", "")
    for path in tmp_path.glob("*.npy"):
        with pytest.raises(InvalidArgument, match=path.name) as caught:
            read(path, Choice())
        assert "CANARY" not in chain(caught.value)


def test_safetensors(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "x.safetensors"
    save_file(
        {"image": torch.ones(2, 3, 3).bfloat16(), "age": torch.tensor([3, 4]), "label": torch.tensor([1, 0])}, path
    )
    read_ = read(path, Choice(target=("label",)))
    assert set(read_) == {"image", "age", "target"} and read_["image"].values.shape == (2, 3, 3)
    assert read_["target"].values.dtype == torch.int64
    assert set(read(path, Choice(columns=("image",), target=("label",)))) == {"", "target"}
    for choice in (Choice(columns=("no",)), Choice(target=("age", "label")), Choice(one_hot={"age": ("3",)})):
        with pytest.raises(InvalidArgument):
            read(path, choice)
    write(path, CANARY)
    with pytest.raises(InvalidArgument, match="no safetensors") as caught:
        read(path, Choice())
    assert "CANARY" not in chain(caught.value)


@pytest.mark.parametrize("name", ["x.csv", "x.npy"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read(tmp_path / name, Choice())


def test_other_kinds_of_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"use .csv, .npy, .safetensors"):
        read(write(tmp_path / "x.pkl", ""), Choice())
    np.save(tmp_path / "x.npy", np.ones(2))
    with pytest.raises(InvalidArgument, match="no names"):
        read(tmp_path / "x.npy", Choice(columns=("a",)))
