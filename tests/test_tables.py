"""Table files of every kind, good and bad."""

from __future__ import annotations

import csv
import gzip
import io
import os
import random
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wine_drift import tables
from wine_drift.cli import main
from wine_drift.errors import FileUnreadable, TableError
from wine_drift.tables import SUFFIXES, read_parts, read_table

FRAME = pd.DataFrame(
    {"pH": [3.1, None, 2.0], "wine; red": ["a", "b,c", "d"], "quality, 0-10": [5, 6, 7]}
)


def read(path: Path, **options: Any) -> pd.DataFrame:
    """What is read, as a data frame."""
    columns = read_table(path, **options).columns
    return pd.DataFrame({name: column.cells for name, column in columns.items()})


def as_csv(separator: str, **options: Any) -> bytes:
    """Write the frame as CSV text."""
    text: str = FRAME.to_csv(sep=separator, index=False, **options)
    return text.encode()


def as_zip(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Write a zip file with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def as_parquet(frame: pd.DataFrame = FRAME, **options: Any) -> bytes:
    """Write a frame as Parquet."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, **options)
    return buffer.getvalue()


def encrypted(content: bytes) -> bytes:
    """Mark the only member of a zip file as encrypted."""
    changed = bytearray(content)
    changed[content.index(b"PK\x03\x04") + 6] |= 1
    changed[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


def unknown_method(content: bytes) -> bytes:
    """Mark the only member of a zip file as packed by a method that nobody knows."""
    changed = bytearray(content)
    changed[content.index(b"PK\x03\x04") + 8] = 77
    changed[content.index(b"PK\x01\x02") + 10] = 77
    return bytes(changed)


def write(name: str, content: bytes) -> Path:
    """Write a file into the current folder."""
    path = Path(name)
    path.write_bytes(content)
    return path


SEMICOLONS = as_csv(";")
GOOD: dict[str, tuple[str, bytes]] = {
    "semicolons": ("t.csv", SEMICOLONS),
    "commas": ("t.csv", as_csv(",")),
    "BOM": ("t.csv", b"\xef\xbb\xbf" + SEMICOLONS),
    "BOM before a quote": ("t.csv", b"\xef\xbb\xbf" + as_csv(",", quoting=csv.QUOTE_ALL)),
    "all quoted": ("t.csv", as_csv(";", quoting=csv.QUOTE_ALL)),
    "CR LF": ("t.csv", as_csv(";", lineterminator="\r\n")),
    "blank lines": ("t.csv", SEMICOLONS.replace(b"\n", b"\n\n")[:-1]),
    "no last newline": ("t.csv", SEMICOLONS[:-1]),
    "spaces around names": ("t.csv", b" pH " + SEMICOLONS[2:]),
    "gz": ("t.csv.gz", gzip.compress(SEMICOLONS)),
    "gz of two members": (
        "t.gz",
        gzip.compress(SEMICOLONS[:40]) + gzip.compress(SEMICOLONS[40:]),
    ),
    "gz with BOM and commas": ("t.gz", gzip.compress(b"\xef\xbb\xbf" + as_csv(","))),
    "zip": ("t.zip", as_zip(("t.csv", SEMICOLONS))),
    "zip, stored": ("t.zip", as_zip(("t.csv", SEMICOLONS), method=zipfile.ZIP_STORED)),
    "zip, bzip2": ("t.zip", as_zip(("t.csv", SEMICOLONS), method=zipfile.ZIP_BZIP2)),
    "zip, lzma": ("t.zip", as_zip(("t.csv", SEMICOLONS), method=zipfile.ZIP_LZMA)),
    "zip with a folder and a note": (
        "t.zip",
        as_zip(("data/", b""), ("data/T.CSV", SEMICOLONS), ("readme.txt", b"a;b")),
    ),
    "zip made on a Mac": (
        "t.zip",
        as_zip(("t.csv", SEMICOLONS), ("__MACOSX/._t.csv", b"\0\5\x16\7")),
    ),
    "Parquet": ("t.parquet", as_parquet()),
    "Parquet, gzip": ("t.parquet", as_parquet(compression="gzip")),
    "Parquet with an index": ("t.parquet", as_parquet(FRAME.set_axis([5, 6, 7]))),
    "Parquet, a column as index": ("t.parquet", as_parquet(FRAME.set_index("pH"))),
    "Parquet, foreign": ("t.parquet", b""),  # filled below
}
_foreign = io.BytesIO()
pq.write_table(pa.Table.from_pandas(FRAME).replace_schema_metadata(None), _foreign)
GOOD["Parquet, foreign"] = ("t.parquet", _foreign.getvalue())

ZIPPED = as_zip(("t.csv", SEMICOLONS))
BAD: dict[str, tuple[str, bytes]] = {
    "first line too long": ("t.csv", b"a,b\n1,2,3\n4,5\n"),
    "every line too long": ("t.csv", b"a,b\n1,2,3\n4,5,6\n"),
    "later line too long": ("t.csv", b"a,b\n1,2\n4,5,6\n"),
    "line too short": ("t.csv", b"a,b\n1,2\n3\n4,5\n"),
    "last line cut off": ("t.csv", b"a,b,c\n1,2,3\n4,5"),
    "open quote": ("t.csv", b'a,b\n"1,2\n3,4\n'),
    "open quote in the header": ("t.csv", b'"a,b\n1,2\n'),
    "a name of two lines": ("t.csv", b'x,"new\nline",y\n1,2,3\n'),
    "duplicate column": ("t.csv", b"a;b;a\n1;2;3\n"),
    "duplicate column but for spaces": ("t.csv", b"a; a\n1;2\n"),
    "empty": ("t.csv", b""),
    "BOM only": ("t.csv", b"\xef\xbb\xbf"),
    "blank": ("t.csv", b"\n\n\n"),
    "binary": ("t.csv", bytes(range(256)) * 4),
    "ELF": ("t.csv", b"\x7fELF\2\1\1\0\0\0\0\n\0"),
    "Parquet as CSV": ("t.csv", as_parquet()),
    "zip as CSV": ("t.csv", ZIPPED),
    "Latin-1 cell": ("t.csv", "a,b\n1,é\n".encode("latin-1")),
    "Latin-1 name": ("t.csv", "é,b\n1,2\n".encode("latin-1")),
    "Latin-1 far down": ("t.csv", b"a,b\n" + 100_000 * b"1,2\n" + b"3,\xe9\n"),
    "UTF-16": ("t.csv", "a,b\n1,2\n".encode("utf-16")),
    "endless name": ("t.csv", 200_000 * b"a" + b",b\n1,2\n"),
    "not gz": ("t.gz", SEMICOLONS),
    "gz, empty": ("t.gz", b""),
    "gz, truncated": ("t.gz", gzip.compress(1000 * SEMICOLONS)[:-30]),
    "gz, wrong check sum": ("t.gz", gzip.compress(SEMICOLONS)[:-8] + bytes(8)),
    "gz, rubbish behind": ("t.gz", gzip.compress(SEMICOLONS) + b"rubbish"),
    "gz, damaged": ("t.gz", gzip.compress(SEMICOLONS)[:15] + b"\xff\xff\xff" + bytes(40)),
    "gz of binary": ("t.gz", gzip.compress(b"\0\1\2\n")),
    "not zip": ("t.zip", SEMICOLONS),
    "zip, empty file": ("t.zip", b""),
    "zip, truncated": ("t.zip", ZIPPED[:-30]),
    "zip, a member before its begin": ("t.zip", ZIPPED[:-6] + b"\xff" + ZIPPED[-5:]),
    "zip, damaged": ("t.zip", ZIPPED[:40] + b"\xff\xff\xff" + ZIPPED[43:]),
    "zip, encrypted": ("t.zip", encrypted(ZIPPED)),
    "zip, unknown method": ("t.zip", unknown_method(ZIPPED)),
    "zip of nothing": ("t.zip", as_zip()),
    "zip without CSV": ("t.zip", as_zip(("readme.txt", b"a;b"))),
    "zip of two": ("t.zip", as_zip(("a.csv", SEMICOLONS), ("b.csv", SEMICOLONS))),
    "zip of an empty CSV": ("t.zip", as_zip(("a.csv", b""))),
    "not Parquet": ("t.parquet", SEMICOLONS),
    "Parquet, empty": ("t.parquet", b""),
    "Parquet, truncated": ("t.parquet", as_parquet()[:-10]),
    "Parquet, damaged": ("t.parquet", as_parquet().replace(b"PAR1", b"PAR1\xff\xff\xff\xff", 1)),
    "Parquet, duplicate column but for spaces": (
        "t.parquet",
        as_parquet(pd.DataFrame({"a": [1], " a": [2]})),
    ),
}


@pytest.mark.parametrize(("name", "content"), GOOD.values(), ids=GOOD.keys())
def test_the_same_table_in_every_form(name: str, content: bytes) -> None:
    """Every form of the same table gives the same frame."""
    frame = read(write(name, content))
    pd.testing.assert_frame_equal(frame[list(FRAME.columns)], FRAME, check_dtype="Parquet" in name)
    assert set(frame.columns) - set(FRAME.columns) <= {"__index_level_0__"}


def test_the_real_table_in_every_form(red_wine_csv: Path) -> None:
    """The published table gives 1599 rows of 12 numbers, whatever file it is in."""
    published = read(red_wine_csv)
    assert published.shape == (1599, 12)
    assert published["quality"].value_counts()[8] == 18
    assert published.dtypes.map(pd.api.types.is_numeric_dtype).all()
    content = red_wine_csv.read_bytes()
    published.to_parquet("t.parquet")
    for path in (
        write("t.gz", gzip.compress(content)),
        write("t.zip", as_zip((red_wine_csv.name, content))),
        write("t.csv", content.replace(b";", b",").replace(b'"', b"")),
        Path("t.parquet"),
    ):
        pd.testing.assert_frame_equal(read(path), published)


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (b'"a;x";"b"', ["a;x", "b"]),
        (b'"a;x;y";b;c', ["a;x;y", "b", "c"]),
        (b'"say ""hi""",b', ['say "hi"', "b"]),
        ("pH,größe".encode(), ["pH", "größe"]),
        (b"only", ["only"]),
        (b"1,2", ["1", "2"]),
    ],
    ids=str,
)
def test_names(header: bytes, names: list[str]) -> None:
    """Names are taken as written, without their quotes."""
    separator = b";" if b";" in header else b","
    path = write("t.csv", header + b"\n" + separator.join(len(names) * [b"1"]) + b"\n")
    assert list(read(path).columns) == names


def test_text_stays_text() -> None:
    """A cell that is no number is left as it is; an empty one is missing."""
    frame = read(write("t.csv", b"a;b\n1,5;x\n;2020-01-01\n007;3\n"))
    assert frame["a"].isna().tolist() == [False, True, False]
    assert frame["a"][0] == "1,5"
    assert frame["b"].tolist() == ["x", "2020-01-01", "3"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("t.csv", b"a;b\n", id="CSV"),
        pytest.param("t.csv", b"a;b", id="CSV without newline"),
        pytest.param("t.gz", gzip.compress(b"a;b\n"), id="gz"),
        pytest.param("t.zip", as_zip(("t.csv", b"a;b\n")), id="zip"),
        pytest.param("t.parquet", as_parquet(pd.DataFrame({"a": [], "b": []})), id="Parquet"),
    ],
)
def test_header_only(name: str, content: bytes) -> None:
    """A table without rows is a table with names and no rows."""
    frame = read(write(name, content))
    assert (list(frame.columns), len(frame)) == (["a", "b"], 0)


@pytest.mark.parametrize(("name", "content"), BAD.values(), ids=BAD.keys())
def test_bad_file(name: str, content: bytes) -> None:
    """A file that holds no table is an error that names the file and says what to do."""
    with pytest.raises(TableError) as caught:
        read(write(name, content))
    assert type(caught.value) is TableError  # it would wait in the inbox, and block it
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_file(suffix: str) -> None:
    """A file that is not there is named, once, with the reason."""
    path = Path(f"none{suffix}")
    with pytest.raises(TableError, match="No such file") as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.remedy


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [False, True], ids=["empty", "with a table"])
def test_folder_instead_of_a_file(suffix: str, content: bool) -> None:
    """A folder is no table, whatever its name and content."""
    path = Path(f"folder{suffix}")
    path.mkdir()
    if content:
        (path / "part.parquet").write_bytes(as_parquet())
    with pytest.raises(TableError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_unreadable_file() -> None:
    """A file that the system will not open, whoever asks, is named with the reason."""
    path = Path("t.csv")
    path.symlink_to(path)
    with pytest.raises(FileUnreadable, match=r"t\.csv: Too many levels of symbolic links"):
        read(path)


def test_line_of_a_ragged_table_is_told() -> None:
    """The line is counted as an editor counts it."""
    path = write("t.csv", b"a,b\n1,2\n3,4\n5,6,7\n")
    with pytest.raises(TableError, match="line 4"):
        read(path)


def test_damaged_pandas_metadata() -> None:
    """What pandas notes in a Parquet file is not trusted."""
    content = as_parquet(pd.DataFrame({"a": [1.0], "b": ["x"]}))
    damaged = content.replace(b"unicode", b"unncode").replace(b'"str"', b'"srr"')
    try:
        frame = read(write("t.parquet", damaged))
    except TableError:
        return
    assert list(frame.columns) == ["a", "b"]


def test_folder_names_are_no_columns() -> None:
    """A folder whose name looks like a partition adds nothing to the table."""
    folder = Path("quality=7")
    folder.mkdir()
    pd.DataFrame({"a": [1.0]}).to_parquet(folder / "t.parquet")
    assert list(read(folder / "t.parquet").columns) == ["a"]


def gives_frame_or_table_error(name: str, content: bytes) -> None:
    """Read a file; anything but a frame or a TableError fails the test."""
    try:
        frame = read(write(name, content))
    except TableError as error:
        assert str(error).startswith(f"{name}: ")
        assert error.remedy
    else:
        assert isinstance(frame, pd.DataFrame)
        assert frame.columns.is_unique


def test_a_small_table_of_short_decimals_takes_no_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what pandas costs most, and it is read alike without it."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    columns = read_table(write("t.csv", b"a;b;id\r\n1;2.50; x 1\r\n;-0.5;7\r\n"), text_column="id")
    cells = {name: column.cells for name, column in columns.columns.items()}
    assert np.isnan(cells["a"]).tolist() == [False, True]
    assert cells["b"].tolist() == [2.5, -0.5]
    assert cells["id"].tolist() == ["x 1", "7"]
    for odd in ("1e3", '"1"', " 1", "x", ".5", "1234567890.123456", "1_0", "\u0661", "+1"):
        with pytest.raises(ImportError):
            read_table(write("t.csv", f"a;b\n1;2\n{odd};3\n".encode()))


def both_ways(content: str, separator: str, text_column: str) -> None:
    """A small table is read as pandas reads it: kinds, numbers to the last bit, texts."""
    path = write("t.csv", content.encode())
    names = ["a", "b", "id"]
    assert content.partition("\n")[0] == separator.join(names)
    with patch.object(tables, "parse_lines", return_value=None):
        expected = read_table(path, text_column=text_column)
    try:
        with patch.dict(sys.modules, {"pandas": None}):
            found = read_table(path, text_column=text_column)
    except ImportError:  # a row without a name, and it may be the only one
        assert not all(expected.columns[text_column].texts())
        return
    for name, column in expected.columns.items():
        cells = found.columns[name].cells
        assert (name, cells.dtype) == (name, column.cells.dtype)
        assert list(map(repr, cells.tolist())) == list(map(repr, column.cells.tolist()))


DECIMALS = st.one_of(
    st.just(""),
    st.integers(-(10**15) + 1, 10**15 - 1).map(str),
    st.from_regex(r"-?[0-9]{1,7}\.[0-9]{1,8}", fullmatch=True),
    st.from_regex(r"-?[0-9]\.[0-9]{14}", fullmatch=True),
    st.from_regex(r"-?[0-9]{14}\.[0-9]", fullmatch=True),
)
WORDS = st.one_of(
    st.text(alphabet="abc .17-'é", max_size=6),
    st.sampled_from(["nan", "NA ", "NULL", "None", "n/a", "#N/A N/A", "-1.#IND", "bin-17", "No 1"]),
)


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(DECIMALS, DECIMALS, WORDS), min_size=1, max_size=8),
    separator=st.sampled_from([";", ","]),
    end=st.sampled_from(["\n", "\r\n"]),
    ended=st.booleans(),
)
def test_a_small_table_is_read_as_pandas_reads_it(
    rows: list[tuple[str, str, str]], separator: str, end: str, *, ended: bool
) -> None:
    """Two readers, one table."""
    lines = [separator.join(row) for row in rows]
    both_ways(
        f"{separator.join(['a', 'b', 'id'])}\n{end.join(lines)}{end * ended}", separator, "id"
    )


ODD = st.sampled_from(["1e3", '"1"', " 1", "x", "+1", "1234567890.123456", '"a;b\nc"', ""])


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(DECIMALS, st.one_of(DECIMALS, DECIMALS, DECIMALS, ODD)), min_size=1),
    part_rows=st.integers(1, 5),
    block=st.integers(1, 60),
    end=st.sampled_from(["\n", "\r\n"]),
    packed=st.booleans(),
)
def test_parts_are_the_table(
    rows: list[tuple[str, str]], part_rows: int, block: int, end: str, *, packed: bool
) -> None:
    """In blocks and parts of any size, plain or from some line on not, every cell is there."""
    content = end.join(["a;b", *map(";".join, rows), ""]).encode()
    path = write("t.csv.gz", gzip.compress(content)) if packed else write("t.csv", content)
    with patch.object(tables, "parse_lines", return_value=None):
        whole = read_table(path)
    with patch.object(tables, "_BLOCK", block):
        parts = list(read_parts(path, part_rows=part_rows))
        again = read_table(path)
    for name, column in whole.columns.items():
        numbers = [number for part in parts for number in part.columns[name].numbers.tolist()]
        assert list(map(repr, numbers)) == list(map(repr, column.numbers.tolist()))
        is_text = [each for part in parts for each in part.columns[name].is_text.tolist()]
        assert is_text == column.is_text.tolist()
        np.testing.assert_array_equal(again.columns[name].cells, column.cells)


def test_a_line_without_an_end_is_not_waited_for() -> None:
    """A file of one line of many megabytes is told of, and is not read as plain numbers."""
    path = write("t.csv", b"a;b\n" + b"1" * (3 << 20))
    with pytest.raises(TableError, match="line 2"):
        list(read_parts(path))


SAME_FOLDER = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@SAME_FOLDER
@given(content=st.binary(max_size=200))
def test_any_bytes(suffix: str, content: bytes) -> None:
    """Any bytes under any suffix give a frame or a TableError."""
    gives_frame_or_table_error(f"t{suffix}", content)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda c: as_zip(("t.csv", c))])
@SAME_FOLDER
@given(text=st.text(alphabet='ab1.,;"\n\r\0 é-eNn', max_size=60))
@example(text="a,b\n1,2,3\n")
def test_any_text(pack: Callable[[bytes], bytes], text: str) -> None:
    """Any text, packed or not, gives a frame or a TableError."""
    suffix = {b"\x1f\x8b": ".gz", b"PK": ".zip"}.get(pack(b"a")[:2], ".csv")
    gives_frame_or_table_error(f"t{suffix}", pack(text.encode()))


DAMAGEABLE = {
    ".gz": gzip.compress(SEMICOLONS),
    ".zip": ZIPPED,
    ".csv": SEMICOLONS,
    ".parquet": as_parquet(),
}


@pytest.mark.parametrize("suffix", DAMAGEABLE)
@SAME_FOLDER
@given(data=st.data())
def test_any_damage(suffix: str, data: st.DataObject) -> None:
    """A good file with bytes changed, cut or put in gives a frame or a TableError."""
    content = bytearray(DAMAGEABLE[suffix])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(len(content), start + 4)))
        content[start:stop] = data.draw(st.binary(max_size=4))
    gives_frame_or_table_error(f"t{suffix}", bytes(content))


# --- files that are large once they are read ---

MOST = 1 << 20  # bytes that a file may have here
NOISE = random.Random(0).randbytes(MOST).hex().encode()  # packs to a half
LINES = b"a,b\n" + b"".join(NOISE[at : at + 8] + b",1\n" for at in range(0, 2 * MOST, 8))
TOO_LARGE: dict[str, tuple[str, bytes]] = {
    "CSV": ("t.csv", LINES),
    "gz": ("t.gz", gzip.compress(LINES)),
    "gz, a bomb after good rows": ("t.gz", gzip.compress(b"a,b\n1,2\n") + gzip.compress(LINES[4:])),
    "zip": ("t.zip", as_zip(("t.csv", LINES))),
    "zip, bzip2": ("t.zip", as_zip(("t.csv", LINES), method=zipfile.ZIP_BZIP2)),
    "Parquet": ("t.parquet", as_parquet(pd.DataFrame({"a": range(MOST // 8 + 1)}))),
    "Parquet, one text many times": (
        "t.parquet",
        as_parquet(pd.DataFrame({"a": 100 * ["x" * 20_000]})),
    ),
    "Parquet, one category many times": (
        "t.parquet",
        as_parquet(pd.DataFrame({"a": pd.Categorical(100 * ["x" * 20_000])})),
    ),
}


@pytest.mark.parametrize(("name", "content"), TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_more_than_a_file_may_have(name: str, content: bytes) -> None:
    """A file that holds too much once it is unpacked is refused, with its size and the limit."""
    path = write(name, content)
    with pytest.raises(TableError, match=r"bytes.*more than the 1,048,576 that") as caught:
        read(path, most_bytes=MOST)
    assert "max_bytes" in caught.value.remedy
    assert len(read(path, most_bytes=1 << 24)) > 3


def sizes_denied(content: bytes) -> bytes:
    """Let the list of a zip file with one member say that it holds a hundred bytes."""
    changed = bytearray(content)
    at = content.index(b"PK\x01\x02") + 24
    changed[at : at + 4] = (100).to_bytes(4, "little")
    return bytes(changed)


def test_zip_that_denies_its_size() -> None:
    """What a zip file says of itself is an upper limit: no more than that is unpacked."""
    path = write("t.zip", sizes_denied(as_zip(("t.csv", LINES))))
    with pytest.raises(TableError, match="damaged compressed file"):
        read(path)


def test_zip_of_damaged_bzip2() -> None:
    """The error of bzip2 looks like one of the disk; such a file would come first for ever."""
    content = bytearray(as_zip(("t.csv", LINES), method=zipfile.ZIP_BZIP2))
    content[content.index(b"BZh") + 6] ^= 0xFF
    with pytest.raises(TableError, match="damaged compressed file: Invalid data stream"):
        read(write("t.zip", bytes(content)))


@pytest.mark.parametrize("suffix", [".gz", ".zip"])
def test_bomb(suffix: str) -> None:
    """A file that grows beyond 64 MiB and 200 times is no table, however much may be unpacked."""
    row = b"1" + 9_999 * b" " + b"\n"
    text = b"a\n" + 7_000 * row
    path = write(f"t{suffix}", gzip.compress(text) if suffix == ".gz" else as_zip(("t.csv", text)))
    with pytest.raises(TableError, match="no table packs so well") as caught:
        read(path)
    assert "unpacked" in caught.value.remedy


def test_zip_with_a_list_of_files_without_end() -> None:
    """The list of members is not read if it alone takes megabytes."""
    members = [(f"{number:0200}", b"") for number in range(20_000)]
    with pytest.raises(TableError, match=r"bytes of list of members"):
        read(write("t.zip", as_zip(*members)))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_too_many_columns(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Tens of thousands of columns are refused, fewer are read."""
    monkeypatch.setattr(tables, "MOST_COLUMNS", 200)
    for n_columns in (200, 201):
        frame = pd.DataFrame([range(n_columns)], columns=[f"c{k}" for k in range(n_columns)])
        content = as_parquet(frame) if suffix == ".parquet" else frame.to_csv(index=False).encode()
        path = write(f"t{suffix}", content)
        if n_columns == 200:
            assert read(path).shape == (1, 200)
        else:
            with pytest.raises(TableError, match="has 201 columns, more than 200"):
                read(path)


@pytest.mark.parametrize("header", [b"a," * 150_000 + b"b", b"a" * (1 << 20)], ids=["many", "one"])
def test_long_header_takes_no_time(header: bytes) -> None:
    """A first line without end is refused, in less than a time that grows with its square."""
    started = time.process_time()
    with pytest.raises(TableError, match=r"columns|line 1"):
        read(write("t.csv", header + b"\n1\n"))
    assert time.process_time() - started < 5


def test_message_about_a_long_name_is_short() -> None:
    """A name of any length and with any sign in it is told in one short line."""
    name = b"\x1b[2J" + 100_000 * b"x"
    for path in (
        write("t.csv", name + b"," + name + b"\n1,2\n"),
        write("t.zip", as_zip((50_000 * "\x1b" + ".csv", b""), ("b.csv", b""))),
    ):
        with pytest.raises(TableError) as caught:
            read(path)
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pipe_instead_of_a_file(suffix: str) -> None:
    """What is no regular file is not waited for."""
    path = Path(f"pipe{suffix}")
    os.mkfifo(path)
    with pytest.raises(FileUnreadable, match="no regular file"):
        read(path)


def test_text_that_is_not_utf_8_in_parquet() -> None:
    """What Parquet calls text and is none is found when it is read, not when it is looked at."""
    letters = pa.array([b"\xff\xfe"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 1, letters.buffers())
    out = io.BytesIO()
    pq.write_table(pa.table({"a": text}), out)
    with pytest.raises(TableError, match=r"UTF8|UTF-8"):
        read(write("t.parquet", out.getvalue()))


def claims(n_rows: int) -> bytes:
    """A Parquet file of one row whose metadata tell of more."""
    content = as_parquet(pd.DataFrame({"a": [1.5]}), compression=None)
    size = int.from_bytes(content[-8:-4], "little")
    start = len(content) - 8 - size
    head, footer = content[:start], content[start:-8]
    # i64 fields of Thrift's compact protocol: rows of the file, and those of the row group
    number = bytearray()
    rest = 2 * n_rows
    while rest > 127:
        number.append(rest & 127 | 128)
        rest >>= 7
    number.append(rest)
    total = footer.index(b"\x16\x02\x19")  # num_rows, before the list of row groups
    changed = footer[: total + 1] + number + footer[total + 2 :]
    group = changed.rindex(b"\x16\x02")
    changed = changed[: group + 1] + number + changed[group + 2 :]
    return head + changed + len(changed).to_bytes(4, "little") + b"PAR1"


def test_parquet_that_claims_rows_without_end() -> None:
    """A damaged number of rows does not make it take memory."""
    path = write("t.parquet", claims(1))
    assert len(read(path)) == 1
    with pytest.raises(TableError, match="once it is unpacked"):
        read(write("t.parquet", claims(1 << 40)))


def test_memory_of_a_damaged_parquet_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pyarrow asks for beyond all measure it does not get; the limit is gone afterwards."""
    if not Path("/proc/self/statm").exists():
        return  # no other system than Linux tells how large a process is
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), tables._bounded(1 << 28):
        bytearray(1 << 30)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    monkeypatch.setattr(tables, "_SPARE", (1 << 28) - (4 << 40))
    # eight gigabytes for those who believe it
    assert len(read(write("t.parquet", claims(1 << 30)), most_bytes=1 << 40)) == 1
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.parametrize(
    "name", ["binary", "gz, truncated", "zip of two", "not Parquet", "first line too long"]
)
def test_bad_batch_goes_to_quarantine(name: str) -> None:
    """A batch file that holds no table is kept in quarantine, and the run exits with 3."""
    file, content = BAD[name]
    write(file, content)
    result = CliRunner().invoke(main, ["run-batch", file, "--home", "home"])
    assert result.exit_code == 3, result.output
    assert f"error: {file}: " in result.output
    (kept,) = Path("home/quarantine").iterdir()
    assert kept.read_bytes() == content


def test_true_and_false_are_texts_whatever_else_is_in_the_column() -> None:
    """In a part that holds nothing else, too; pandas would make answers of them there."""
    cells = ["True", "False", "1.5", "", "True", "x", "true"]
    path = write("t.csv", "\n".join(["a;b", *(f"1;{cell}" for cell in cells), ""]).encode())
    with patch.object(tables, "_BLOCK", 1):
        for part_rows in (1, 2, 3, 10):
            parts = list(read_parts(path, part_rows=part_rows))
            is_text = [each for part in parts for each in part.columns["b"].is_text.tolist()]
            assert is_text == [True, True, False, False, True, True, True]
    assert read_table(path).columns["b"].is_text.tolist() == is_text


def test_no_part_is_empty_but_that_of_an_empty_file() -> None:
    """Blank lines after a block that was full, and columns of nothing, are no part of their own."""
    body = b"1;2\n" * 10
    path = write("t.csv", b"a;b\n" + body + b"\n\n")
    with patch.object(tables, "_BLOCK", len(body)):
        assert [len(part) for part in read_parts(path, part_rows=10)] == [10]
    nothing = pa.table({"a": pa.nulls(200), "b": pa.nulls(200)})
    pq.write_table(nothing, "nothing.parquet")
    with patch.object(tables, "_PIECE", 50):
        assert [len(part) for part in read_parts(Path("nothing.parquet"), part_rows=100)] == [
            100
        ] * 2
    pq.write_table(nothing.slice(0, 0), "nothing.parquet")
    assert [len(part) for part in read_parts(Path("nothing.parquet"))] == [0]


def test_a_quote_without_an_end_is_told_by_its_line() -> None:
    """Also where pandas took over in the middle of the file and counts from there."""
    path = write("t.csv", b"a;b\n" + b"1;2\n" * 50 + b'3;"4\n' + b"5;6\n" * 9)
    with patch.object(tables, "_BLOCK", 40), pytest.raises(TableError, match="line 52"):
        list(read_parts(path, part_rows=10))


@pytest.mark.parametrize("threads", [1, 4, 32])
def test_texts_of_parquet_take_no_thread(threads: int) -> None:
    """Each would take address space, by which the memory is bounded that a file may take."""
    columns = {f"x{n}": [f"text {n} {row % 1000}" for row in range(60_000)] for n in range(12)}
    pq.write_table(pa.table(columns), "texts.parquet")
    code = "from wine_drift.tables import read_parts; from pathlib import Path; print(sum(map(len,"
    code += " read_parts(Path('texts.parquet')))))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "60000\n"), done.stderr


@pytest.mark.parametrize("header", ['x,"new\nline",y', 'x;"new\r\nline";y', 'x,"y'])
def test_a_name_that_goes_on_in_the_next_line_is_told(header: str) -> None:
    """As what it is, not as a line of another length; a quote within a name is no such thing."""
    Path("t.csv").write_bytes(f"{header}\n1,2,3\n".encode())
    with pytest.raises(TableError, match="line 1: the quoted name of column 2 goes on"):
        read_table(Path("t.csv"))
    for end in ("\n", "\r\n"):
        for first in ('x,5" pipe,"y"', 'x,5" pipe,"a ""b"""'):
            Path("t.csv").write_bytes(f"{first}{end}1,2,3{end}".encode())
            assert list(read_table(Path("t.csv")).columns)[1] == '5" pipe'
