"""Files that nobody should send: tables, packed tables, Parquet, labels, schemas, versions.

Each function of a group is one way to be hostile. It is given a source of chance and a good file,
and returns the bytes of a bad or odd one.
"""

from __future__ import annotations

import bz2
import csv
import functools
import gzip
import hashlib
import io
import json
import lzma
import random
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Way = Callable[[random.Random, bytes], bytes]

CELLS = (
    *("", " ", "0", "-0", "1e308", "-1e308", "1e309", "1e999", "-1e999", "1e-400", "5e-324"),
    *("inf", "-Infinity", "nan", "NaN", "NULL", "None", "NA", "#N/A", "True", "false", "1.5.2"),
    *("1,5", "1.000,5", "1'000", "1_000", "0x1F", "1e", "e5", "--1", "+1", "1 %", "7 mg/l", "-"),
    *(
        "9" * 400,
        "0." + "3" * 400,
        "１２",
        "−5",
        "٣",
        "½",
        "1\u00a0000",
        "\ufeff1",
        "=1+1",
        "@SUM(1)",
    ),
    *(
        "\x1b[2J",
        "\x1b]0;title\x07",
        "a\x00b",
        "\x7f",
        "\x9b1m",
        "\u202e7",
        "\u2028",
        "\x0c",
        "\x1a",
    ),
    *("'", '"', '""', '"7', "%s%n", "{0}", "${HOME}", "../../x", "<b>", "2020-01-01", "é" * 200),
)
EXTREMES = ("1e308", "-1e308", "1e999", "0", "1e-320", "nan", "", "99999999999999999999", "7.5")


def lines_of(good: bytes) -> list[list[str]]:
    """Cells of a good file, its header first."""
    return [line.split(";") for line in good.decode().splitlines()]


def joined(rows: list[list[str]], *, separator: str = ";", end: str = "\n") -> bytes:
    """A file of cells."""
    return (end.join(separator.join(row) for row in rows) + end).encode()


# --- text ---


def rubbish(rng: random.Random, good: bytes) -> bytes:
    """Bytes of no meaning, some under the right header."""
    head = good[: good.index(b"\n") + 1] if rng.random() < 0.5 else b""
    return head + rng.randbytes(rng.choice((0, 1, 3, 50, 500)))


def changed_bytes(rng: random.Random, good: bytes) -> bytes:
    """A good file with a few bytes changed, cut or put in."""
    data = bytearray(good)
    for _ in range(rng.randint(1, 6)):
        start = rng.randrange(len(data) + 1)
        data[start : start + rng.randint(0, 5)] = rng.randbytes(rng.randint(0, 4))
        if rng.random() < 0.1:
            del data[start:]
    return bytes(data)


def odd_cells(rng: random.Random, good: bytes) -> bytes:
    """Cells that are no measurements, few or many."""
    header, *rows = lines_of(good)
    share = rng.choice((0.005, 0.05, 0.5, 1.0))
    rows = [[rng.choice(CELLS) if rng.random() < share else cell for cell in row] for row in rows]
    out = io.StringIO()
    if rng.random() < 0.5:
        csv.writer(out, delimiter=";").writerows([header, *rows])
        return out.getvalue().encode()
    return joined([header, *rows])


def odd_column(rng: random.Random, good: bytes) -> bytes:
    """One value all the way down some columns, the label among them."""
    header, *rows = lines_of(good)
    for column in rng.sample(range(len(header)), rng.choice((1, 1, 2, len(header)))):
        value = rng.choice(EXTREMES)
        for row in rows:
            row[column] = value if rng.random() < 0.95 else row[column]
    return joined([header, *rows])


def scaled(rng: random.Random, good: bytes) -> bytes:
    """Good numbers of another size or sign."""
    header, *rows = lines_of(good)
    factor = rng.choice((1e300, -1.0, 1e-300, 1000.0, 0.0))
    column = rng.randrange(len(header))
    for row in rows:
        row[column] = repr(float(row[column]) * factor)
    return joined([header, *rows])


def encodings(rng: random.Random, good: bytes) -> bytes:
    """Other encodings than UTF-8, and too many marks of it."""
    text = good.decode().replace("alcohol", rng.choice(("alcohol", "alcohöl", "alcohol")))
    name = rng.choice(("latin-1", "utf-16", "utf-16-le", "utf-32", "utf-7", "cp037", "utf-8-sig"))
    return rng.choice((b"", b"", b"\xef\xbb\xbf", b"\xff\xfe")) + text.encode(name)


def separators(rng: random.Random, good: bytes) -> bytes:
    """Mixed separators, and decimal commas."""
    rows = lines_of(good)
    if rng.random() < 0.4:
        rows = [rows[0], *([cell.replace(".", ",") for cell in row] for row in rows[1:])]
    marks = rng.choice((";,", ";\t", "\t", "|", ",", ";;,", ": ", "\0"))
    text = "".join(rng.choice(marks).join(row) + "\n" for row in rows)
    return text.encode()


def headers(rng: random.Random, good: bytes) -> bytes:
    """Columns twice, renamed, left out, without name, or with names that a terminal obeys."""
    header, *rows = lines_of(good)
    for _ in range(rng.randint(1, 3)):
        column = rng.randrange(len(header))
        name = rng.choice((header[0], "", " ", "score", "set_aside_row", "\x1b[31mred", "x" * 5000))
        name = rng.choice(
            (name, '"a;b"', "ALCOHOL", "__index_level_0__", "\u202egnp", "\x9b2J", "é")
        )
        what = rng.randrange(4)
        if what == 0:
            header[column] = name
        elif what == 1:
            header.insert(column, name)
            for row in rows:
                row.insert(column, "1")
        elif what == 2 and len(header) > 2:
            del header[column]
            for row in rows:
                del row[column : column + 1]
        else:
            header.append(name)
    return joined([header, *rows])


def row_counts(rng: random.Random, good: bytes) -> bytes:
    """No rows, one row, no header, ragged rows, the same row again and again."""
    header, *rows = lines_of(good)
    what = rng.randrange(7)
    if what == 0:
        return joined([header])[: rng.choice((None, -1))] + b"\n" * rng.randrange(20)
    if what == 1:
        return joined([header, rng.choice(rows)])
    if what == 2:
        return joined(rows)
    if what == 3:
        return joined([header, *([rng.choice(rows)] * rng.randint(2, 300))])
    if what == 4:
        return b"\n" * rng.randrange(5) + b"" * rng.randrange(2)
    rows[rng.randrange(len(rows))] += ["1"] * rng.randint(1, 3)
    short = rng.randrange(len(rows))
    rows[short] = rows[short][: rng.randrange(len(header))]
    return joined([header, *rows])


def line_ends(rng: random.Random, good: bytes) -> bytes:
    """Carriage returns alone, NUL bytes, form feeds, ends of files in the middle."""
    rows = [b";".join(cell.encode() for cell in row) for row in lines_of(good)]
    ends = rng.choice((b"\r", b"\r\n", b"\n\r", b"\n\n", b"\0\n", b"\x0c\n", b"\x1a\n", b"\x85"))
    mixed = rng.random() < 0.3
    return b"".join(row + (rng.choice((ends, b"\n")) if mixed else ends) for row in rows)


def quotes(rng: random.Random, good: bytes) -> bytes:
    """Quotes that never end, are doubled, or stand where none should."""
    data = bytearray(good)
    for _ in range(rng.randint(1, 5)):
        data.insert(rng.randrange(len(data) + 1), ord(rng.choice('"""\'`\\')))
    return bytes(data)


def long_cells(rng: random.Random, good: bytes) -> bytes:
    """A cell or a name of 150,000 characters."""
    header, *rows = lines_of(good)
    row = rng.choice((header, rows[0], rows[-1]))
    row[rng.randrange(len(row))] = rng.choice('x9"é') * rng.choice((1000, 150_000))
    return joined([header, *rows])


TEXTS: tuple[Way, ...] = (
    *(rubbish, changed_bytes, odd_cells, odd_column, scaled, encodings, separators, headers),
    *(row_counts, line_ends, quotes, long_cells),
)


def any_text(rng: random.Random, good: bytes) -> bytes:
    """One of the above, or a good file."""
    return rng.choice((*TEXTS, lambda rng, good: good))(rng, good)


# --- packed ---


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip file."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # a name that is there twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
MEMBERS = (
    *("../evil.csv", "/evil.csv", "..\\evil.csv", "a/../../evil.csv", "C:\\evil.csv", "~/evil.csv"),
    *("\x1b[2J.csv", "a\nb.csv", "'; drop.csv", "$(evil).csv", "é.csv", "x" * 400 + ".csv"),
    *(".csv", "a.CSV", "b.csv/", "__MACOSX/._a.csv", "deep/" * 60 + "a.csv", "nul\0.csv"),
)


def gz_of_text(rng: random.Random, good: bytes) -> bytes:
    """A packed text, of one or two members, with an odd name in its head, or with more behind."""
    text = any_text(rng, good)
    out = io.BytesIO()
    with gzip.GzipFile(rng.choice(("", "../evil.csv", "\x1b[2J")), "wb", fileobj=out) as file:
        file.write(text)
    return out.getvalue() + rng.choice((b"", b"", b"rubbish", bytes(7), gzip.compress(text[:9])))


def gz_damaged(rng: random.Random, good: bytes) -> bytes:
    """A packed good file, damaged."""
    return changed_bytes(rng, gzip.compress(good))


def gz_nested(rng: random.Random, good: bytes) -> bytes:
    """Packed many times over, or another kind than its name says."""
    for _ in range(rng.randint(2, 20)):
        good = gzip.compress(good)
    return rng.choice((good, bz2.compress(good), lzma.compress(good), zipped(("a.csv", good))))


def zip_of_text(rng: random.Random, good: bytes) -> bytes:
    """A packed text under a name that tricks paths."""
    text = any_text(rng, good)
    return zipped((rng.choice(MEMBERS), text), method=rng.choice(METHODS))


def zip_damaged(rng: random.Random, good: bytes) -> bytes:
    """A packed good file, damaged."""
    return changed_bytes(rng, zipped(("a.csv", good), method=rng.choice(METHODS)))


def zip_nested(rng: random.Random, good: bytes) -> bytes:
    """A zip in a zip, many members, the same member twice."""
    if rng.random() < 0.3:
        return zipped(*((rng.choice(MEMBERS), good[:99]) for _ in range(rng.randint(0, 9))))
    for depth in range(rng.randint(1, 9)):
        good = zipped((f"{depth}{rng.choice(('.csv', '.zip'))}", good))
    return good


def zip_marked(rng: random.Random, good: bytes) -> bytes:
    """Said to be encrypted, packed by an unknown method, or of another size than it is."""
    data = bytearray(zipped(("a.csv", good), method=rng.choice(METHODS)))
    first, second = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    place, width = rng.choice(((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)))
    value = rng.choice((1, 9, 12, 14, 77, 93, 99, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF))
    for at in (first + place, second + place + 2)[rng.choice((0, 0, 1)) :]:
        data[at : at + width] = value.to_bytes(8, "little")[:width]
    return bytes(data)


GZIPS: tuple[Way, ...] = (gz_of_text, gz_damaged, gz_nested)
ZIPS: tuple[Way, ...] = (zip_of_text, zip_damaged, zip_nested, zip_marked)

# --- Parquet: its metadata and page headers are structures of Thrift's compact protocol ---

_BOOLEANS, _BYTE, _WHOLE, _DOUBLE, _BINARY, _LISTS, _STRUCT = (
    (1, 2),
    3,
    (4, 5, 6),
    7,
    8,
    (9, 10),
    12,
)
NUMBERS = (0, -1, 1, 7, 10**4, 10**7, 2**28, 2**30, 2**31 - 1, -(2**31), 2**40, 2**62)


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte, at = data[at], at + 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, at


def _write_number(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _read(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in _BOOLEANS:
        return kind == 1, at
    if kind == _BYTE:
        return data[at], at + 1
    if kind in _WHOLE:
        number, at = _read_number(data, at)
        return (number >> 1) ^ -(number & 1), at
    if kind == _DOUBLE:
        return data[at : at + 8], at + 8
    if kind == _BINARY:
        size, at = _read_number(data, at)
        return data[at : at + size], at + size
    if kind == _STRUCT:
        return read_fields(data, at)
    assert kind in _LISTS
    size, of, at = data[at] >> 4, data[at] & 15, at + 1
    if size == 15:
        size, at = _read_number(data, at)
    values = []
    for _ in range(size):
        value, at = (data[at], at + 1) if of in _BOOLEANS else _read(data, at, of)
        values.append(value)
    return [of, values], at


def read_fields(data: bytes, at: int = 0) -> tuple[list[list[Any]], int]:
    """A structure as a list of [number, kind, value], and the place behind it."""
    fields: list[list[Any]] = []
    number = 0
    while data[at]:
        step, kind, at = data[at] >> 4, data[at] & 15, at + 1
        number += step
        if not step:
            number, at = _read(data, at, 4)
        value, at = _read(data, at, kind)
        fields.append([number, kind, value])
    return fields, at + 1


def _write(kind: int, value: Any) -> bytes:
    if kind in _BOOLEANS:
        return b""
    if kind == _BYTE:
        return bytes([value])
    if kind in _WHOLE:
        return _write_number(value * 2 if value >= 0 else -value * 2 - 1)
    if kind == _DOUBLE:
        return bytes(value)
    if kind == _BINARY:
        return _write_number(len(value)) + value
    if kind == _STRUCT:
        return write_fields(value)
    of, values = value
    head = bytes([min(len(values), 15) << 4 | of])
    head += _write_number(len(values)) if len(values) > 14 else b""
    return head + b"".join(bytes([v]) if of in _BOOLEANS else _write(of, v) for v in values)


def write_fields(fields: list[list[Any]]) -> bytes:
    """The bytes of a structure."""
    out, last = b"", 0
    for number, kind, value in fields:
        kind = 2 - value if kind in _BOOLEANS else kind
        near = 0 < number - last < 16
        out += bytes([(number - last) << 4 | kind]) if near else bytes([kind]) + _write(4, number)
        out, last = out + _write(kind, value), number
    return out + b"\0"


def _whole_numbers(fields: list[list[Any]]) -> Iterator[list[Any]]:
    for field in fields:
        _, kind, value = field
        if kind in _WHOLE:
            yield field
        elif kind == _STRUCT:
            yield from _whole_numbers(value)
        elif kind in _LISTS and value[0] == _STRUCT:
            for each in value[1]:
                yield from _whole_numbers(each)


def _field(fields: list[list[Any]], *path: int) -> Any:
    found: Any = fields
    for number in path:
        found = next(value for key, _, value in found if key == number)
    return found


def _footer(data: bytes) -> tuple[list[list[Any]], int]:
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return read_fields(data, start)[0], start


def _with_footer(data: bytes, footer: list[list[Any]]) -> bytes:
    packed = write_fields(footer)
    return data + packed + struct.pack("<I", len(packed)) + b"PAR1"


@functools.lru_cache(maxsize=64)
def as_parquet(good: bytes, **options: Any) -> bytes:
    """A good file as Parquet."""
    header, *rows = lines_of(good)
    columns = [[float(cell) for cell in column] for column in zip(*rows, strict=True)]
    out = io.BytesIO()
    pq.write_table(pa.table(dict(zip(header, columns, strict=True))), out, **options)
    return out.getvalue()


def _any_parquet(rng: random.Random, good: bytes) -> bytes:
    return as_parquet(
        good,
        compression=rng.choice(("snappy", "none", "gzip", "zstd", "lz4", "brotli")),
        use_dictionary=rng.random() < 0.7,
        data_page_version=rng.choice(("1.0", "2.0")),
    )


def parquet_bytes(rng: random.Random, good: bytes) -> bytes:
    """Damaged anywhere."""
    return changed_bytes(rng, _any_parquet(rng, good))


def parquet_footer(rng: random.Random, good: bytes) -> bytes:
    """Wrong numbers in its metadata: rows, sizes, places, types."""
    data = _any_parquet(rng, good)
    footer, start = _footer(data)
    for field in rng.sample(list(_whole_numbers(footer)), rng.randint(1, 2)):
        field[2] = rng.choice((*NUMBERS, field[2] + 1, field[2] - 1, field[2] * 2))
    return _with_footer(data[:start], footer)


def parquet_page(rng: random.Random, good: bytes) -> bytes:
    """Wrong numbers in the header of a page."""
    data = _any_parquet(rng, good)
    footer, start = _footer(data)
    column = _field(rng.choice(_field(footer, 4)[1]), 1)[1]
    chunk = _field(rng.choice(column), 3)
    places = {field[0]: field for field in chunk if field[0] in (7, 9, 11)}
    at = min(field[2] for key, field in places.items() if key != 7)
    end = at + places[7][2]
    pages = []
    while at < end:
        head, body = read_fields(data, at)
        at = body + _field(head, 3)
        pages.append((head, data[body:at]))
    field = rng.choice(list(_whole_numbers(rng.choice(pages)[0])))
    field[2] = rng.choice((*NUMBERS, field[2] + 1, field[2] - 1))
    packed = [write_fields(head) + body for head, body in pages]
    if 11 in places:
        places[11][2] = start
    places[9][2] = start + (len(packed[0]) if 11 in places else 0)
    places[7][2] = sum(map(len, packed))
    return _with_footer(data[:start] + b"".join(packed), footer)


ODD_TYPES: tuple[Callable[[int], Any], ...] = (
    lambda n: pa.array([[1.0, 2.0]] * n),
    lambda n: pa.array([{"a": 1}] * n),
    lambda n: pa.array([b"\xff\xfe"] * n),
    lambda n: pa.Array.from_buffers(
        pa.string(), n, [None, *pa.array([b"\xff\xfe\x80"] * n, pa.binary()).buffers()[1:]]
    ),
    lambda n: pa.array(["7.5"] * n).dictionary_encode(),
    lambda n: pa.array([10**30] * n, pa.decimal128(38, 2)),
    lambda n: pa.array([2**64 - 1] * n, pa.uint64()),
    lambda n: pa.array([np.float16(7.5)] * n),
    lambda n: pa.array([True, None] * n)[:n],
    lambda n: pa.nulls(n),
    lambda n: pa.array([2**62] * n, pa.timestamp("s")),
    lambda n: pa.array([-(2**30)] * n, pa.date32()),
    lambda n: pa.array([2**60] * n, pa.duration("s")),
    lambda n: pa.array([1] * n, pa.time64("ns")),
    lambda n: pa.array([float("nan"), float("inf")] * n)[:n],
    lambda n: pa.array(["\x1b[2J", "a\0b", None] * n)[:n],
    lambda n: pa.array(["1e999", "9" * 400, "1_0"] * n)[:n],
    lambda n: pa.array([[("a", 1)]] * n, pa.map_(pa.string(), pa.int8())),
)


def parquet_types(rng: random.Random, good: bytes) -> bytes:
    """Columns of every type but numbers, names of every kind, no rows, no columns."""
    header, *rows = lines_of(good)
    n_rows = rng.choice((0, 1, len(rows), len(rows)))
    columns = {
        name: pa.array([float(row[column]) for row in rows[:n_rows]])
        for column, name in enumerate(header)
    }
    for _ in range(rng.randint(0, 3)):
        name = rng.choice((*header, *header, "\x1b[2J", "", "é", "x" * 5000, " " + header[0]))
        columns[name] = rng.choice(ODD_TYPES)(n_rows)
    if rng.random() < 0.05:
        columns = {}
    out = io.BytesIO()
    try:
        pq.write_table(pa.table(columns), out)
    except pa.ArrowException:
        return b"PAR1" + good  # not the good file itself, which is still to be sent under its name
    return out.getvalue()


PARQUETS: tuple[Way, ...] = (parquet_bytes, parquet_footer, parquet_page, parquet_types)

# --- large ---


def _many_columns(rng: random.Random, good: bytes, n_columns: int) -> bytes:
    header, *rows = lines_of(good)
    extra = [f"x{column}" for column in range(n_columns)]
    return joined([header + extra, *(row + ["1"] * n_columns for row in rows[:5])])


@functools.cache
def _zeros(kind: str, size: int) -> bytes:
    return {
        "gz": lambda: gzip.compress(bytes(size), 1),
        "deflate": lambda: zipped(("a.csv", bytes(size))),
        "bzip2": lambda: zipped(("a.csv", bytes(size)), method=zipfile.ZIP_BZIP2),
        "lzma": lambda: zipped(("a.csv", bytes(size)), method=zipfile.ZIP_LZMA),
    }[kind]()


def _after_a_line(data: bytes, kind: str, good: bytes) -> bytes:
    """Only what comes after good rows is too much."""
    return gzip.compress(good) + data if kind == "gz" else data


def _text_bomb(good: bytes, copies: int) -> bytes:
    """A Parquet file with one text that is there many times."""
    header, *rows = lines_of(good)
    numbers = [pa.array([float(row[k]) for row in rows]) for k in range(len(header))]
    rows_needed = np.resize(np.arange(len(rows)), copies)
    columns = {
        name: column.take(pa.array(rows_needed))
        for name, column in zip(header, numbers, strict=True)
    }
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(copies, np.int32)), ["x" * 100_000])
    out = io.BytesIO()
    pq.write_table(pa.table({**columns, "note": text}), out)
    return out.getvalue()


LARGE: dict[str, tuple[str, Way]] = {
    "10,000 columns": (".csv", lambda rng, good: _many_columns(rng, good, 10_000)),
    "100,000 columns": (".csv", lambda rng, good: _many_columns(rng, good, 100_000)),
    "10,000 times the same column": (".csv", lambda rng, good: b"a;" * 10_000 + b"b\n"),
    "one line": (".csv", lambda rng, good: rng.choice((b"x", b"1;", b'"')) * 15_000_000),
    "a cell of 30 MB": (".csv", lambda rng, good: good[:-1] + b"9" * 30_000_000 + b"\n"),
    "a quote that never ends": (".csv", lambda rng, good: good + b'"' + b"1;2\n" * 7_000_000),
    "blank lines": (".csv", lambda rng, good: good + b"\n" * 30_000_000),
    "short cells": (".csv", lambda rng, good: b"a;b;c;d\n" + b"1;2;3;4\n" * 3_900_000),
    "too large": (".csv", lambda rng, good: good * 20_000),
    "gzip bomb": (".gz", lambda rng, good: _zeros("gz", 100 << 20)),
    "gzip bomb after good rows": (
        ".gz",
        lambda rng, good: _after_a_line(_zeros("gz", 100 << 20), "gz", good),
    ),
    "gzip bomb of good rows": (".gz", lambda rng, good: gzip.compress(good * 20_000, 1)),
    "zip bomb": (".zip", lambda rng, good: _zeros("deflate", 100 << 20)),
    "zip bomb, bzip2": (".zip", lambda rng, good: _zeros("bzip2", 40 << 20)),
    "zip bomb, LZMA": (".zip", lambda rng, good: _zeros("lzma", 40 << 20)),
    "zip of 60,000 files": (
        ".zip",
        lambda rng, good: zipped(*((f"{n}.csv", b"") for n in range(60_000))),
    ),
    "a text 5,000 times, Parquet": (".parquet", lambda rng, good: _text_bomb(good, 5_000)),
    "a text 500,000 times, Parquet": (".parquet", lambda rng, good: _text_bomb(good, 500_000)),
}

# --- names ---

NAMES: tuple[bytes, ...] = (
    *(b"a'b.csv", b'a"b.csv', b"a`id`.csv", b"$(id).csv", b"a;b.csv", b"a b.csv", b"-rf.csv"),
    *(
        b"--help.csv",
        b"%s%n.csv",
        b"{0}.csv",
        b"a\nb.csv",
        b"a\rb.csv",
        b"\x1b[2J.csv",
        b"\x07.csv",
    ),
    *(
        b"\x1b]0;t\x07.csv",
        b"\xff\xfe.csv",
        b"\xc3\x28.csv",
        b"\xed\xa0\x80.csv",
        b"a..csv",
    ),
    *("é.csv".encode(), "\u202egnp.csv".encode(), "\u2028.csv".encode(), "\x9b2J.csv".encode()),
    *("🍷.csv".encode(), ("é" * 125 + "x.csv").encode(), b"x" * 251 + b".csv", b"A.CSV", b"~.csv"),
    *(b"\\..\\x.csv", b"C:\\x.csv", b"'; DROP TABLE batch; --.csv", b"<script>.csv", b"&amp;.csv"),
    *(
        b"#.csv",
        b"*.csv",
        b"?.csv",
        b"[a].csv",
        b"a\tb.csv",
        b"a\x7fb.csv",
        b"NUL.csv",
        b"a.csv.csv",
    ),
)

# --- labels, schemas ---


def odd_labels(rng: random.Random, good: bytes) -> bytes:
    """Labels that are none, too many, too few, or under another name."""
    header, *rows = good.decode().splitlines()
    what = rng.randrange(8)
    if what == 0:
        return changed_bytes(rng, good)
    if what == 1:
        rows[rng.randrange(len(rows))] = rng.choice(CELLS).replace("\n", "")
    elif what == 2:
        rows = rows[: rng.randrange(len(rows))] if rng.random() < 0.5 else rows * 2
    elif what == 3:
        header = rng.choice(("Quality", "", "quality;quality", "id", "\x1b[2J", "quality;x"))
    elif what == 4:
        return good.decode().encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
    elif what == 5:
        rows = [rng.choice(CELLS) for _ in rows]
    elif what == 6:
        return rubbish(rng, good)
    else:
        rows = [rng.choice((row, "", "11", "-1", "1e999")) for row in rows]
    return "\n".join([header, *rows, ""]).encode()


VALUES = (
    *('""', '"x"', '"\\u001b[2J"', "1e308", "-1e308", "nan", "inf", "-inf", "1e999", "9" * 5000),
    *(
        "true",
        "[]",
        "{}",
        "[[1]]",
        "1979-05-27T07:32:00Z",
        "0x7fffffffffffffff",
        '"""',
        "'",
        "-0.0",
    ),
    *('"' + "x" * 3000 + '"', '"\\u0000"', '"../.."', '"score"', "07", "1__0", "", "\x00", "é"),
)


def odd_toml(rng: random.Random, good: bytes) -> bytes:
    """A TOML file with other values, other keys, or bytes changed."""
    what, lines = rng.randrange(5), good.decode().splitlines()
    if what == 0:
        return changed_bytes(rng, good)
    if what == 1:
        return rng.choice(
            (b"", rng.randbytes(99), b"[" * 9999, b"a." * 9999 + b"a=1", b"[[feature]]")
        )
    keys = [at for at, line in enumerate(lines) if "=" in line]
    for at in rng.sample(keys, rng.randint(1, 3)):
        key = lines[at].partition("=")[0]
        if what == 2:
            key = rng.choice(("x", "nam", '"\\u001b[2J"', "a.b", "feature", "target"))
        if what == 3:
            lines[at] = rng.choice(("", "[target]", "[[feature]]", lines[0], "[x]"))
        else:
            lines[at] = f"{key} = {rng.choice(VALUES)}"
    return "\n".join(lines).encode("utf-8", "replace")


# --- versions ---


def unbundled(data: bytes) -> dict[str, bytes]:
    """Files of an exported version."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
        return found


def bundled(files: Mapping[str, bytes]) -> bytes:
    """Files as `models export` lays them out."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _signed(files: dict[str, bytes], manifest: dict[str, Any]) -> bytes:
    """With the hashes that its files have, and the name that its model has."""
    hashes = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if name != "manifest.json"
    }
    mark = hashlib.sha256(files["model.txt"]).hexdigest()[:8]
    number = manifest.get("number")
    told = manifest | {"files": hashes, "version": f"v{number}-{mark}"}
    return bundled(files | {"manifest.json": json.dumps(told).encode()})


JSON_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 10**10, 1e10, 1e-300, -0.5, "", "x", "\x1b[2J", "../x", "v1-0"),
    *([], {}, [[]], [1e10], "x" * 5000, {"a": {"b": 1}}, "1", 0.5, 10**30, 1e308, float("nan")),
)


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Places in a JSON value: where it can be changed, and under which key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in list(items):
        yield value, key
        if isinstance(each, dict | list):
            yield from _spots(each)


def _odd_json(rng: random.Random, value: Any) -> Any:
    for _ in range(rng.randint(1, 2)):
        spots = list(_spots(value))
        where, key = rng.choice(spots if rng.random() < 0.5 else spots[:30])
        if rng.random() < 0.15:
            del where[key]
        elif isinstance(where[key], int | float) and rng.random() < 0.4:
            where[key] = where[key] * rng.choice((2, -1, 1.0000001, 1e9)) + rng.choice((0, 1))
        else:
            where[key] = rng.choice(JSON_VALUES)
    return value


def bundle_bytes(rng: random.Random, good: bytes) -> bytes:
    """Damaged anywhere, also in the heads of its parts."""
    data = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        blocks = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
        near = rng.choice(blocks) if blocks and rng.random() < 0.6 else rng.randrange(len(data))
        at = min(near + rng.randrange(345), len(data) - 1)
        data[at : at + 1] = rng.choice((b"", rng.randbytes(1), b"7", b"\x80", b"\xff\xff"))
    return bytes(data)


def bundle_members(rng: random.Random, good: bytes) -> bytes:
    """Links, devices, other names, other sizes, files twice or not at all."""
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    ) as tar:
        for name, content in unbundled(good).items():
            member = tarfile.TarInfo(name)
            if rng.random() < 0.3:
                member.name = rng.choice(("../evil", "/evil", "model.txt", "\x1b[2J", "x" * 200))
                member.type = rng.choice(
                    (b"0", b"1", b"2", b"3", b"5", b"6", b"L", b"x", b"g", b"S")
                )
                member.linkname = "/etc/hostname"
            member.size = len(content) if rng.random() < 0.9 else rng.choice((0, 1, 10**7, 2**33))
            tar.addfile(
                member,
                io.BytesIO(content + bytes(max(0, min(member.size, 10**7) - len(content))))
                if member.size < 2**32
                else None,
            )
    return out.getvalue()


def bundle_manifest(rng: random.Random, good: bytes) -> bytes:
    """A manifest that says something else."""
    files = unbundled(good)
    manifest = _odd_json(rng, json.loads(files["manifest.json"]))
    return bundled(files | {"manifest.json": json.dumps(manifest).encode()})


def bundle_model(rng: random.Random, good: bytes) -> bytes:
    """Another text of the model, with the right hashes."""
    files = unbundled(good)
    text = files["model.txt"].decode()
    if rng.random() < 0.3:
        data = changed_bytes(rng, files["model.txt"])
    else:
        lines = text.split("\n")
        for _ in range(rng.randint(1, 2)):
            at = rng.choice([at for at, line in enumerate(lines) if "=" in line])
            key, _, value = lines[at].partition("=")
            parts = value.split(" ")
            spot = rng.randrange(len(parts))
            odd = (
                "0",
                "-1",
                "1",
                "999999999",
                "-999999999",
                "1e308",
                "1e999",
                "nan",
                "",
                "x",
                "2 2",
            )
            parts[spot] = rng.choice(odd)
            lines[at] = f"{key}={' '.join(parts)}"
        data = _resized("\n".join(lines), text).encode()
    manifest = json.loads(files["manifest.json"])
    return _signed(files | {"model.txt": data}, manifest)


def _resized(text: str, before: str) -> str:
    """With the sizes that its trees have, or nobody would read on."""
    head, found, rest = text.partition("\nTree=0\n")
    if not found or "end of trees" not in rest or head.count("tree_sizes=") != 1:
        return text
    trees = ("Tree=0\n" + rest).partition("end of trees")[0].split("Tree=")[1:]
    sizes = " ".join(str(len("Tree=" + tree)) for tree in trees)
    lines = [f"tree_sizes={sizes}" if x.startswith("tree_sizes=") else x for x in head.split("\n")]
    return "\n".join(lines) + found + rest


def bundle_reference(rng: random.Random, good: bytes) -> bytes:
    """Another reference, with the right hashes."""
    files = unbundled(good)
    value = _odd_json(rng, json.loads(files["reference.json"]))
    data = (
        json.dumps(value).encode()
        if rng.random() < 0.9
        else changed_bytes(rng, files["reference.json"])
    )
    return _signed(files | {"reference.json": data}, json.loads(files["manifest.json"]))


def bundle_arrays(rng: random.Random, good: bytes) -> bytes:
    """Other rows: objects to unpickle, other shapes, no numbers, bombs."""
    files = unbundled(good)
    name = rng.choice(("rows.npy.z", "reference.npy.z"))
    raw = zlib.decompress(files[name])
    array = np.load(io.BytesIO(raw), allow_pickle=False)
    what = rng.randrange(7)
    if what == 0:
        raw = changed_bytes(rng, raw)
    elif what == 1:
        head = bytearray(raw[:128])
        at = rng.randrange(8, 100)
        head[at : at + 1] = rng.choice((b"9", b"O", b"-", b"(", b"'", b"\xff"))
        raw = bytes(head) + raw[128:]
    elif what == 2:
        raw = raw.replace(b"'<f8'", rng.choice((b"'|O' ", b"'<f4'", b"'<c8'", b"'<M8'", b"'<U9'")))
    elif what == 3:
        raw += bytes(rng.choice((1, 10**6)))
    else:
        array = array.copy()
        flat = array.reshape(-1)
        if array.dtype.names is None and array.dtype.kind == "f" and len(flat):
            odd = (np.nan, np.inf, 1e308, -1e308, 5e-324, 0.0, -1.0, 2.0, 7.5)
            flat[rng.randrange(len(flat))] = rng.choice(odd)
        array = array[: rng.choice((0, 1, len(array) // 2, len(array)))]
        out = io.BytesIO()
        np.save(out, array if rng.random() < 0.8 else array.astype(object), allow_pickle=True)
        raw = out.getvalue()
    manifest = json.loads(files["manifest.json"])
    if what > 3 and rng.random() < 0.5:
        manifest["training_rows" if name == "rows.npy.z" else "reference_rows"] = len(array)
    return _signed(files | {name: zlib.compress(raw)}, manifest)


BUNDLES: tuple[Way, ...] = (
    *(bundle_bytes, bundle_members, bundle_manifest, bundle_model, bundle_model),
    *(bundle_reference, bundle_arrays),
)
