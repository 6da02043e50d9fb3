"""A batch in parts gives what it gives in one piece, and memory does not grow with its rows."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wine_drift import parts as module
from wine_drift import run, tables
from wine_drift.bins import Floats
from wine_drift.errors import BadBatch
from wine_drift.frame import Frame
from wine_drift.gathering import Gathered, Gatherer, Line, Spill, Yardstick, count_part
from wine_drift.reference import build_reference
from wine_drift.repeats import Known
from wine_drift.rows import LabelledRows, Shard, concatenate
from wine_drift.schema import parse_schema
from wine_drift.screening import SET_ASIDE
from wine_drift.shards import NoWriter

SCHEMA = parse_schema(
    {
        "name": "t",
        "duplicates": "reject",
        "target": {"column": "y", "positive": "> 0.5", "minimum": 0, "maximum": 3},
        "feature": [
            {"name": "x", "minimum": 0, "maximum": 9},
            {"name": "z", "minimum": 0, "maximum": 99},
        ],
    }
)
LEARNT = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(float)


def score(features: Floats) -> Floats:
    """A model of its own kind."""
    out: Floats = (features[:, 0] + features[:, 1] / 7) / 30
    return out


YARDSTICK = Yardstick(
    schema=SCHEMA,
    score=score,
    reference=build_reference(
        np.column_stack([LEARNT, score(LEARNT)]), SCHEMA.columns, LEARNT[:, 0] > 3, SCHEMA.plausible
    ),
    training_rows=LabelledRows(LEARNT, LEARNT[:, 0] > 3, np.zeros(40, dtype=np.int64)),
    cut=0.1,
    row_id="id",
    window_rows=7,
    waiting_rows=9,
)


NOTHING_KEPT = NoWriter()


def gather(
    frame: Frame,
    cuts: list[int],
    yardstick: Yardstick = YARDSTICK,
    spill: Spill = NOTHING_KEPT,
) -> tuple[Gathered, list[Line]]:
    """What a table gives in parts, and the lines of rows that are set aside."""
    lines: list[Line] = []
    gatherer, known = Gatherer(yardstick, lines.extend, spill), Known()
    for start, stop in itertools.pairwise([0, *sorted(cuts), len(frame)]):
        if start < stop:
            gatherer.add(count_part(frame.take(slice(start, stop)), yardstick, known))
    return gatherer.finish(whole_file=True), lines


def plain(value: Any) -> Any:
    """All that a value holds, as text: the same only if it is the same to the last bit."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(part) for name, part in vars(value).items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), (value + 0).tolist().__repr__()
    return repr(value)


CELL = st.sampled_from([0.0, 1.0, 2.0, 4.0, 1.5, "two", None, np.inf, 1e6])
LABEL = st.sampled_from([0, 1, 2, None, "x"])
TABLE = st.lists(st.tuples(CELL, st.sampled_from([0.0, 3.0, 5.0]), LABEL), min_size=1, max_size=30)


@settings(max_examples=400, deadline=None)
@given(table=TABLE, cuts=st.lists(st.integers(0, 30), max_size=4), bounded=st.booleans())
def test_however_a_batch_is_cut(
    table: list[tuple[Any, ...]], cuts: list[int], bounded: bool
) -> None:
    """Counts, rows to learn from, rows that wait and rows set aside are the same, or a refusal."""
    x, z, y = zip(*table, strict=True)
    names = [f"row {n}" for n in range(len(table))]
    frame = Frame.of({"x": x, "z": z, "y": y, "more": names, "id": names})
    cuts = [min(cut, len(table)) for cut in cuts]
    most = 7 if bounded else 1000
    yardstick = replace(YARDSTICK, window_rows=most, waiting_rows=most)
    told = []
    for each in ([], cuts):
        try:
            gathered, lines = gather(frame, each, yardstick)
        except BadBatch as error:
            told.append(str(error))
        else:
            told.append(plain([gathered, lines]))
            assert len(gathered.scored) <= most and gathered.fresh.n_rows <= most
    assert told[0] == told[1]


class Held:
    """Files that are only held in memory."""

    def __init__(self) -> None:
        self.there: dict[str, LabelledRows] = {}
        self._n_written = 0

    def write(self, rows: LabelledRows) -> Shard:
        """Keep rows."""
        self._n_written += 1
        self.there[f"{self._n_written:03}"] = rows
        return Shard(f"{self._n_written:03}", len(rows), int(rows.positive.sum()), 0, "")

    def remove(self, shard: Shard) -> None:
        """Forget them."""
        del self.there[shard.name]


@settings(max_examples=200, deadline=None)
@given(table=TABLE, cuts=st.lists(st.integers(0, 30), max_size=9), most=st.integers(4, 30))
def test_rows_to_learn_from_go_into_files(
    table: list[tuple[Any, ...]], cuts: list[int], most: int
) -> None:
    """Of more than three all are there, in their order, and of those before the last few none."""
    x, z, y = zip(*table, strict=True)
    frame = Frame.of({"x": x, "z": z, "y": y, "id": [str(n) for n in range(len(table))]})
    cuts = [min(cut, len(table)) for cut in cuts]
    yardstick, held = replace(YARDSTICK, window_rows=most), Held()
    try:
        whole, _ = gather(frame, [], replace(yardstick, window_rows=1000))
    except BadBatch:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wine_drift.gathering.SHARD_ROWS", 3)
        parts, _ = gather(frame, cuts, yardstick, held)
    lot, rows = parts.fresh, whole.fresh.rows
    assert [shard.name for shard in lot.shards] == list(held.there)
    assert not (lot.shards and len(lot.rows))
    found = concatenate([*held.there.values(), lot.rows], 2)
    assert plain(found.last(most)) == plain(rows.last(most))
    assert len(lot.rows) <= most and lot.n_rows == len(found)
    if lot.shards:  # no file can go without leaving too few
        assert len(found) - lot.shards[0].n_rows < most
    else:
        assert len(found) <= max(3, *(b - a for a, b in itertools.pairwise([0, *sorted(cuts), 30])))


def test_a_label_that_comes_in_a_later_part() -> None:
    """The first row gets it, wherever it is judged, learnt from or waited for."""
    frame = Frame.of({"x": [5.5, 6.0, 5.5], "z": [1.0, 1.0, 1.0], "y": [None, None, 1]})
    gathered, lines = gather(frame, [1, 2])
    assert gathered.counted.answers.n == gathered.counted.summary.outcomes.n_labelled == 1
    assert gathered.counted.set_aside["duplicate"] == 1
    assert gathered.scored.position.tolist() == [0, 1]
    assert gathered.scored.positive.tolist()[:1] == [1]
    assert gathered.scored.n_waiting == 1
    assert gathered.fresh.rows.features.tolist() == [[5.5, 1.0]]
    assert lines == [(*SET_ASIDE, "x", "z", "y"), (3, "duplicate", "", "5.5", "1.0", "1")]


def test_a_text_is_named_by_its_row_in_the_file() -> None:
    """A column without a number is told by the first cell of the whole file."""
    frame = Frame.of({"x": [None, None, "two", "3 g"], "z": [1, 2, 3, 4], "y": [0] * 4})
    with pytest.raises(BadBatch, match="row 3, column 'x': 'two'"):
        gather(frame, [1, 3])


def damaged(path: Path, red_wine_csv: Path) -> Path:
    """The table with faults of all kinds, repeats far apart, and labels here and there."""
    frame = pd.read_csv(red_wine_csv, sep=";", dtype=str).iloc[800:]
    rng = np.random.default_rng(1)
    frame = pd.concat([frame, frame.sample(60, random_state=2)], ignore_index=True)
    frame.loc[rng.choice(len(frame), 300, replace=False), "quality"] = ""
    frame.loc[5, "pH"], frame.loc[400, "alcohol"], frame.loc[401, "density"] = "acid", "", "1e9"
    frame.to_csv(path, sep=";", index=False)
    return path


def spelled(cell: object) -> str:
    """A cell in one of its spellings."""
    try:
        return repr(float(str(cell)))
    except ValueError:
        return str(cell)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_a_run_in_parts_leaves_the_same_home(
    cli: Callable[..., Any],
    kept: Callable[[Path], Any],
    home: Path,
    red_wine_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Ledger, models, set-aside rows and metrics are those of the file in one piece."""
    path = damaged(tmp_path / "batch.csv", red_wine_csv)
    if kind == "csv.gz":
        path = tmp_path / "batch.csv.gz"
        path.write_bytes(gzip.compress((tmp_path / "batch.csv").read_bytes(), mtime=0))
    if kind == "parquet":
        path = tmp_path / "batch.parquet"
        pd.read_csv(tmp_path / "batch.csv", sep=";").astype({"pH": str}).to_parquet(path)
    other = Path(shutil.copytree(home, tmp_path / "other"))
    monkeypatch.setattr(tables, "_BLOCK", 5_000)
    monkeypatch.setattr(tables, "_PIECE", 50)
    cli("run-batch", path, "--home", home, "--retrain", "force")
    monkeypatch.setattr(run, "read_parts", partial(tables.read_parts, part_rows=90))
    monkeypatch.setattr(run, "count_each", partial(module.count_each, part_rows=90))
    cli("run-batch", path, "--home", other, "--retrain", "force")
    ours, theirs = kept(home), kept(other)
    for name in [name for name in ours["files"] if name.endswith("-rows.csv")]:
        # a cell is spelled as it was read: 7 in a part of whole numbers, 7.0 in another one
        one, two = (pd.read_csv(io.BytesIO(each["files"].pop(name))) for each in (ours, theirs))
        assert one.map(spelled).equals(two.map(spelled))
    assert theirs == ours


def test_a_file_that_goes_wrong_late_leaves_nothing_but_itself(
    cli: Callable[..., Any], home: Path, red_wine_csv: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """What was counted of it before is forgotten, and so are the rows that were set aside."""
    path = damaged(tmp_path / "batch.csv", red_wine_csv)
    with path.open("a", encoding="utf-8") as file:
        file.write("1;2;3\n")
    monkeypatch.setattr(tables, "_BLOCK", 5_000)
    monkeypatch.setattr(run, "read_parts", partial(tables.read_parts, part_rows=90))
    monkeypatch.setattr(run, "count_each", partial(module.count_each, part_rows=90))
    before = {*(home / "quarantine").iterdir()}
    result = cli("run-batch", path, "--home", home, code=3)
    assert "line 861 has 3 cells, the header 12" in result.stderr
    added = {*(home / "quarantine").iterdir()} - before
    assert [each.name[12:] for each in added] == ["-batch.csv"]


def test_parts_read_ahead_come_in_order_and_their_error_in_its_place() -> None:
    """Each is read while the one before is worked on; what goes wrong is told after it."""

    def parts() -> Any:
        for n in range(6):
            begun[n].set()
            yield Frame.of({"n": [n]}), None
        begun[6].set()
        raise BadBatch("broken", remedy="")

    begun = [threading.Event() for _ in range(7)]
    seen = []
    with pytest.raises(BadBatch, match="broken"):
        for part, _ in module._ahead(parts(), 1):
            seen.append(part.columns["n"].cells[0])
            assert begun[len(seen)].wait(timeout=30)  # the next one, which nobody asked for yet
    assert seen == [*range(6)]


@pytest.mark.parametrize("sizes", [[], [3], [3, 3], [3, 10, 10], [10, 10, 2], [10]], ids=str)
def test_no_part_is_left_out(sizes: list[int]) -> None:
    """A short first one is not always the only one; without a next one there is no thread."""
    frames = [(Frame.of({"n": [0] * size}), None) for size in sizes]
    assert [*module._ahead(iter(frames), 10)] == frames


def test_a_second_interrupt_ends_the_run_while_a_part_is_read() -> None:
    """What a thread is in cannot be closed; the interrupt is told all the same."""

    def parts() -> Any:
        begun.set()
        yield go_on.wait(timeout=30)

    begun, go_on = threading.Event(), threading.Event()
    source = parts()
    reading = threading.Thread(target=next, args=(source,))
    with pytest.raises(KeyboardInterrupt), run._closed(source):
        reading.start()
        assert begun.wait(timeout=30)
        raise KeyboardInterrupt
    go_on.set()
    reading.join()
    with run._closed(source):
        pass
    assert source.gi_frame is None


def test_a_batch_of_many_rows_is_counted_on_two_cores(
    cli: Callable[..., Any], home: Path, red_wine_csv: Path, monkeypatch: Any
) -> None:
    """Whoever reads and screens is not who scores; Parquet is read alone."""
    threads: dict[str, set[str]] = {"screen": set(), "score": set()}

    @contextlib.contextmanager
    def stage(_: object, name: str) -> Iterator[None]:
        if name in threads:
            threads[name].add(threading.current_thread().name)
        yield

    monkeypatch.setattr(run._Run, "stage", stage)
    monkeypatch.setattr(run, "read_parts", partial(tables.read_parts, part_rows=400))
    monkeypatch.setattr(run, "count_each", partial(module.count_each, part_rows=400))
    table = pd.read_csv(red_wine_csv, sep=";")
    table.assign(pH=table["pH"] + 0.001).to_csv("many.csv", sep=";", index=False)
    cli("run-batch", "many.csv", "--home", home, "--retrain", "never")
    here = threading.current_thread().name
    assert threads["score"] == {here} and threads["screen"] > {here}
    threads["screen"].clear()
    table.assign(pH=table["pH"] + 0.002).to_parquet("many.parquet")
    cli("run-batch", "many.parquet", "--home", home, "--retrain", "never")
    assert threads["screen"] == {here}


MEMORY = """
import sys
from wine_drift.cli import main
try:
    main(sys.argv[1:])
finally:
    status = open("/proc/self/status").read()  # what it was forked from is no part of this
    print(status.partition("VmHWM:")[2].split()[0])
"""


def test_memory_does_not_grow_with_the_rows(home: Path, red_wine_csv: Path) -> None:
    """Three times as many parts take little more than the keys of their rows, 11 MB here."""
    head, *lines = red_wine_csv.read_text(encoding="utf-8").splitlines()
    rows = [line.rpartition(";")[0].rpartition(";")[0] for line in lines]
    peaks = []
    for n_rows in (800_000, 2_400_000):
        path = home.parent / f"{n_rows}.csv"
        with path.open("w", encoding="utf-8") as file:
            file.write(head + "\n")
            for number in range(n_rows // len(rows)):
                file.writelines(f"{row};{8 + number / 200};6\n" for row in rows)
        words = ["run-batch", str(path), "--home", str(home), "--retrain", "never"]
        words += ["--waiting-rows", "1000", "--window-rows", "1000"]
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, *words], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 60, peaks  # the rows themselves are 150 MB
