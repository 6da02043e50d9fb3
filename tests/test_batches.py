"""Where batches come from, where their files go, and the lock of a home."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from wine_drift.batches import (
    Claim,
    claim_file,
    claim_oldest,
    claim_simulated,
    claim_stream,
    group_cut,
    put_away,
    stream_order,
    waiting,
)
from wine_drift.bins import Floats
from wine_drift.dataset import load_schema
from wine_drift.errors import AlreadyRunning, SettingsError
from wine_drift.frame import Frame
from wine_drift.locking import locked
from wine_drift.screening import screen
from wine_drift.settings import load_settings
from wine_drift.supply import Table, advance
from wine_drift.tables import SUFFIXES, read_table

TABLES = st_numpy.arrays(
    np.float64,
    st.tuples(st.integers(1, 30), st.integers(1, 3)),
    elements=st.sampled_from([0.0, 1.0, 2.0, np.nan, -1.5]),
)


def put(folder: Path, name: str, content: str, *, age: float = 0.0) -> Path:
    """Write a file that is `age` seconds old."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(content)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


@pytest.fixture
def inbox() -> Path:
    """An inbox with nothing in it."""
    path = Path("inbox")
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def matrix(red_wine_csv: Path) -> Floats:
    """Features and target of the real table."""
    schema = load_schema(None)
    return screen(read_table(red_wine_csv), schema).matrix


# --- files ---


def test_a_file_is_claimed_by_its_content() -> None:
    """Two files of the same content are the same batch, whatever their names and ages."""
    first = claim_file(put(Path(), "a.csv", "x\n1\n", age=5))
    second = claim_file(put(Path(), "b.csv", "x\n1\n"))
    other = claim_file(put(Path(), "c.csv", "x\n2\n"))
    assert first.content_id == hashlib.sha256(b"x\n1\n").hexdigest() == second.content_id
    assert other.content_id != first.content_id
    assert (first.name, first.source, first.path) == ("a.csv", "file", Path("a.csv"))
    assert first.content_id.startswith(first.batch_id)
    assert len(first.batch_id) == 12


@pytest.mark.parametrize("name", ["none.csv", "."])
def test_a_file_that_cannot_be_claimed(name: str) -> None:
    """A batch that is not a readable file is a settings error that names it."""
    with pytest.raises(SettingsError, match=f"^batch {name}: ") as caught:
        claim_file(Path(name))
    assert caught.value.remedy


def test_oldest_first(inbox: Path) -> None:
    """Files wait by age, and by name where the age is equal."""
    put(inbox, "a.csv", "young", age=1)
    put(inbox, "c.csv", "middle", age=5)
    put(inbox, "b.csv", "middle too", age=5)
    put(inbox, "d.csv", "old", age=9)
    assert [path.name for path in waiting(inbox, SUFFIXES)] == ["d.csv", "b.csv", "c.csv", "a.csv"]
    claim, leftovers = claim_oldest(inbox, SUFFIXES, lambda content_id: False)
    assert claim is not None
    assert (claim.name, claim.source, leftovers) == ("d.csv", "inbox", [])


def test_what_does_not_wait(inbox: Path) -> None:
    """Dotfiles, unknown suffixes, folders and dangling links are not batches."""
    for name in (".hidden.csv", ".csv", "a.csv.part", "b.tmp", "readme", "c.csv~", "d.xlsx"):
        put(inbox, name, "x")
    (inbox / "folder.csv").mkdir()
    (inbox / "dangling.csv").symlink_to("nowhere.csv")
    assert waiting(inbox, SUFFIXES) == []
    assert claim_oldest(inbox, SUFFIXES, lambda content_id: False) == (None, [])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_table_waits(inbox: Path, suffix: str) -> None:
    """Each kind of file that can be read is a batch."""
    path = put(inbox, f"a{suffix}", "x")
    assert waiting(inbox, SUFFIXES) == [path]


def test_leftovers(inbox: Path) -> None:
    """Older files of known content are told, in order, and the first new one is claimed."""
    put(inbox, "a.csv", "done 1", age=9)
    put(inbox, "b.csv", "done 2", age=8)
    put(inbox, "c.csv", "new", age=7)
    put(inbox, "d.csv", "done 1", age=6)  # younger than the new one: not looked at yet
    done = {hashlib.sha256(text).hexdigest() for text in (b"done 1", b"done 2")}
    claim, leftovers = claim_oldest(inbox, SUFFIXES, done.__contains__)
    assert claim is not None
    assert claim.name == "c.csv"
    assert [known.name for known in leftovers] == ["a.csv", "b.csv"]

    claim, leftovers = claim_oldest(inbox, SUFFIXES, lambda content_id: True)
    assert claim is None
    assert [known.name for known in leftovers] == ["a.csv", "b.csv", "c.csv", "d.csv"]


def test_no_inbox() -> None:
    """An inbox that is not there is a settings error that names it."""
    with pytest.raises(SettingsError, match="inbox nowhere: No such file or directory") as caught:
        claim_oldest(Path("nowhere"), SUFFIXES, lambda content_id: False)
    assert caught.value.remedy


def test_put_away_moves_a_file_of_the_inbox(inbox: Path) -> None:
    """A file of the inbox moves, with its bytes, under its id and name."""
    path = put(inbox, "a.csv", "content")
    claim = claim_file(path, "inbox")
    target = put_away(claim, Path("home/archive"))
    assert target == Path("home/archive") / f"{claim.batch_id}-a.csv"
    assert target.read_text() == "content"
    assert list(inbox.iterdir()) == []


def test_put_away_copies_a_file_that_was_named() -> None:
    """A file named on the command line stays where its owner put it; the copy is whole."""
    path = put(Path(), "a.csv", "content")
    target = put_away(claim_file(path), Path("quarantine"))
    assert path.read_text() == target.read_text() == "content"
    assert list(Path("quarantine").iterdir()) == [target]
    assert put_away(claim_file(path), Path("quarantine")) == target


@pytest.mark.parametrize("source", ["inbox", "file"])
def test_put_away_never_loses_another_file(inbox: Path, source: str) -> None:
    """Files of one name and different content are all kept."""
    for content in ("monday", "tuesday", "monday"):
        put_away(claim_file(put(inbox, "wines.csv", content), source), Path("archive"))
    kept = sorted(path.read_text() for path in Path("archive").iterdir())
    assert kept == ["monday", "tuesday"]


def test_put_away_keeps_both_names_of_one_content(inbox: Path) -> None:
    """Files of one content and different names are all kept."""
    for name in ("a.csv", "b.csv"):
        put_away(claim_file(put(inbox, name, "same"), "inbox"), Path("archive"))
    assert sorted(path.name[13:] for path in Path("archive").iterdir()) == ["a.csv", "b.csv"]


# --- the stream ---


@given(table=TABLES, seed=st.integers(0, 5))
def test_stream_order(table: Floats, seed: int) -> None:
    """The order is a permutation, the same for the same seed, with equal rows side by side."""
    order = stream_order(table, seed=seed)
    assert sorted(order.tolist()) == list(range(len(table)))
    assert (order == stream_order(table, seed=seed)).all()
    rows = [str(row) for row in (table[order] + 0.0).tolist()]
    assert sum(a != b for a, b in itertools.pairwise(rows)) == len(set(rows)) - 1


@given(table=TABLES, seed=st.integers(0, 5), share=st.floats(0.05, 0.95))
def test_group_cut(table: Floats, seed: int, share: float) -> None:
    """The training part is the share, and at most one group more; no row is on both sides."""
    order = stream_order(table, seed=seed)
    cut = group_cut(table, order, share=share)
    rows = [str(row) for row in (table[order] + 0.0).tolist()]
    assert set(rows[:cut]).isdisjoint(rows[cut:])
    wanted = max(1, round(share * len(rows)))
    assert wanted <= cut < wanted + max(rows.count(row) for row in rows)


def test_the_seed_shuffles_the_real_table(matrix: Floats) -> None:
    """Each seed gives another order, and none of them is the file's."""
    orders = [stream_order(matrix, seed=seed) for seed in range(3)]
    for k, order in enumerate(orders):
        assert (order != orders[k - 1]).mean() > 0.9
        assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.1


def test_equal_rows_stay_in_file_order(matrix: Floats) -> None:
    """Among equal rows of the real table the first of the file comes first."""
    order = stream_order(matrix, seed=0)
    same = (matrix[order[1:]] == matrix[order[:-1]]).all(axis=1)
    assert same.sum() == 240
    assert (np.diff(order)[same] > 0).all()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_group_of_the_real_table_is_parted(matrix: Floats, share: float, seed: int) -> None:
    """No wine of the stream repeats one of the training part."""
    order = stream_order(matrix, seed=seed)
    cut = group_cut(matrix, order, share=share)
    assert 0 <= cut - round(share * len(matrix)) < 7
    training = {row.tobytes() for row in matrix[order[:cut]]}
    assert not any(row.tobytes() in training for row in matrix[order[cut:]])


@pytest.mark.parametrize("batch_rows", [1, 7, 100, 1599, 5000])
def test_slices_cover_the_stream_once(batch_rows: int) -> None:
    """Claims follow each other without gap or overlap, each with its own id, up to the end."""
    position, number, claims = 0, 0, []
    while claim := claim_stream(
        "table", seed=3, position=position, number=number, n_rows=1599, batch_rows=batch_rows
    ):
        assert (claim.start, claim.number, claim.source) == (position, number, "stream")
        assert claim.stop - claim.start == batch_rows or claim.stop == 1599
        position, number = claim.stop, number + 1
        claims.append(claim)
    assert position == 1599
    assert len({claim.content_id for claim in claims}) == len(claims)


def test_what_names_a_slice() -> None:
    """Table, seed and rows name a slice; so two streams never share a batch."""

    def claim(table: str = "t", seed: int = 0, position: int = 0, rows: int = 10) -> str:
        found = claim_stream(
            table, seed=seed, position=position, number=0, n_rows=99, batch_rows=rows
        )
        assert found is not None
        return found.content_id

    ids = {claim(), claim(table="u"), claim(seed=1), claim(position=10), claim(rows=11)}
    assert len(ids) == 5
    assert claim() == claim()
    simulated = {claim_simulated(seed=s, number=n, n_rows=9) for s in (0, 1) for n in (0, 1)}
    assert len({found.content_id for found in simulated}) == 4


def pandas(frame: Frame) -> pd.DataFrame:
    """As a data frame."""
    return pd.DataFrame({name: column.cells for name, column in frame.columns.items()})


def stream(table: Table, start: int) -> Iterator[pd.DataFrame]:
    """Read a table's stream from a row to its end."""
    cursor = replace(table.start(), position=start)
    while claim := table.claim(cursor):
        yield pandas(table.read(claim, cursor))
        cursor = advance(cursor, claim)


def test_the_whole_stream_yields_each_row_once(red_wine_csv: Path) -> None:
    """Training part and stream together are the table, each row once, in batches of 100."""
    settings = load_settings({}, {})
    table = Table(red_wine_csv, load_schema(settings.schema), settings)
    everything = pandas(read_table(red_wine_csv))
    columns = list(everything.columns)

    batches = list(stream(table, 0))
    assert [len(batch) for batch in batches] == [100] * 15 + [99]
    together = pd.concat(batches, ignore_index=True)
    pd.testing.assert_frame_equal(
        together.sort_values(columns, ignore_index=True),
        everything.sort_values(columns, ignore_index=True),
    )

    rows, cursor, _ = table.training_part(share=0.5)
    rest = pd.concat(list(stream(table, cursor.position)), ignore_index=True)
    first = together[: cursor.position]
    pd.testing.assert_frame_equal(rest, together[cursor.position :].reset_index(drop=True))
    assert len(rows) == len(first.drop_duplicates())  # repeats are not trained on twice
    assert len(first.merge(rest, on=columns)) == 0


# --- the lock ---

HOLD = """
import sys, time
from pathlib import Path
from wine_drift.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `home`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, "home"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_gets_already_running(holder: subprocess.Popen[str]) -> None:
    """While a process holds the lock, another is told so; it does not wait."""
    with pytest.raises(AlreadyRunning, match=r"home/run\.lock") as caught, locked(Path("home")):
        pass
    assert caught.value.exit_code == 5
    assert caught.value.remedy
    with locked(Path("other home")):  # another home is another lock
        pass


def test_the_lock_is_freed_when_its_holder_is_killed(holder: subprocess.Popen[str]) -> None:
    """After SIGKILL the lock is free at once, without anybody tidying up."""
    holder.send_signal(signal.SIGKILL)
    assert holder.wait(10) == -signal.SIGKILL
    assert Path("home/run.lock").exists()
    with locked(Path("home")):
        pass


def test_the_lock_is_freed_after_an_error() -> None:
    """A run that fails lets go of the lock."""
    with pytest.raises(ZeroDivisionError), locked(Path("home")):
        _ = 1 / 0
    with locked(Path("home")), pytest.raises(AlreadyRunning), locked(Path("home")):
        pass


def test_a_home_that_cannot_be_one() -> None:
    """A home that is a file is a settings error that names it."""
    put(Path(), "home", "a file")
    with pytest.raises(SettingsError, match=r"^home home: ") as caught, locked(Path("home")):
        pass
    assert "--home" in caught.value.remedy


def test_the_home_is_private() -> None:
    """A home is made for its owner only, and a claim cannot be changed."""
    with locked(Path("home")):
        assert Path("home").stat().st_mode & 0o077 == 0
    with pytest.raises(AttributeError):
        Claim("0" * 64, "a", "file").name = "b"
