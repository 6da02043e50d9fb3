"""A batch that is many files: found, known by its content, counted as if it were one."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from wine_drift import parts as module
from wine_drift import places
from wine_drift.batches import claim_file, claim_parts
from wine_drift.dataset import load_schema
from wine_drift.errors import FileUnreadable, SettingsError, TableError
from wine_drift.places import Place, at_hand, digested, find_places, is_many, name_of
from wine_drift.tables import SUFFIXES

fsspec = pytest.importorskip("fsspec")


def put(*names: str) -> None:
    """Make files that hold their names."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)


def found(batch: str) -> list[str]:
    """Names of the files of a batch."""
    return [place.address.rpartition("/")[2] for place in find_places(batch, SUFFIXES)[0]]


def number(cell: Any) -> Any:
    """A cell as a number, if it is one."""
    try:
        return float(cell)
    except ValueError:
        return cell


# --- which files ---


@pytest.mark.parametrize("start", ["", "file://{here}/", "memory://{here}/"])
def test_files_of_a_batch(start: str, tmp_path: Path) -> None:
    """They come in the order of their names; what is no file of rows is passed over, or told."""
    start = start.format(here=tmp_path)
    names = ["in/b.csv", "in/a.parquet", "in/_SUCCESS", "in/.a.csv", "in/note.txt", "in/sub/c.csv"]
    put(*names, "in/_x.csv")
    for name in names:
        fsspec.filesystem("memory").pipe(f"{tmp_path}/{name}", name.encode())
    assert found(f"{start}in") == found(f"{start}in/*") == ["a.parquet", "b.csv"]
    assert found(f"{start}in/*.csv") == ["b.csv"]
    assert found(f"{start}in/**/*.csv") == ["b.csv", "c.csv"]
    (told,) = find_places(f"{start}in", SUFFIXES)[1]
    assert told.endswith("in/note.txt")
    assert is_many(f"{start}in") and is_many(f"{start}in/*.csv")


def test_one_file_is_no_batch_of_many() -> None:
    """Whatever its name looks like, if it is there."""
    put("wines[1].csv", "plain.csv")
    assert not any(map(is_many, ("wines[1].csv", "plain.csv", "absent.csv", "x" * 300, "a\0b")))
    assert is_many("memory://x.csv") and is_many("absent*.csv")


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ("empty", "no files of rows there"),
        ("empty/*.csv", "no files of rows there"),
        ("absent/*.csv", "no files of rows there"),
        ("empty/**x/*", "Invalid pattern"),
        ("memory://absent", "absent"),
        ("nothing://absent/*.csv", "Protocol not known"),
        ("http://me:secret@127.0.0.1:1/*.csv", ""),
    ],
)
def test_a_batch_that_is_not_there(cli: Callable[..., Any], batch: str, told: str) -> None:
    """It is the user's to mend: exit code 2, and no password is repeated."""
    Path("empty").mkdir()
    result = cli("run-batch", batch, "--home", "home", code=2)
    assert told in result.stderr and "secret" not in result.stderr


@pytest.mark.parametrize("name", ["fsspec.core", "s3fs"])
def test_what_is_not_installed_is_named(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without fsspec the extra is named; without the package of a protocol, that one."""
    monkeypatch.setitem(sys.modules, name, None)
    result = cli("run-batch", "s3://wines/*.csv", "--home", "home", code=2)
    assert ("s3fs" if name == "s3fs" else "pip install 'wine-drift[dask]'") in result.stderr


def test_names_for_people() -> None:
    """The folder, or folder and pattern; nothing that steers a terminal."""
    assert [name_of(text) for text in ("/in/today/", "today/*.csv", "s3://b/x/*", "a\x1b[2J")] == [
        "today",
        "today/*.csv",
        "x/*",
        "a�[2J",
    ]


# --- known by content ---


def test_the_same_batch() -> None:
    """Contents and their order count, names do not; one file is the batch that it is alone."""
    put("a/1.csv", "a/2.csv")
    shutil.copytree("a", "b")
    Path("b/1.csv").rename("b/0.csv")
    shutil.copytree("a", "c")
    Path("c/1.csv").rename("c/3.csv")
    put("d/1.csv")
    Path("d/1.csv").write_text("a/1.csv")

    def known(folder: str) -> str:
        return claim_parts("x", [digested(p) for p in find_places(folder, SUFFIXES)[0]]).content_id

    assert known("a") == known("b") != known("c")
    assert known("d") == claim_file(Path("a/1.csv")).content_id


def test_a_file_that_changes_meanwhile() -> None:
    """What is read is what was hashed, here and elsewhere."""
    put("a.csv")
    memory = fsspec.filesystem("memory")
    memory.pipe("/changing/a.csv", b"one")
    here, there = digested(Place("a.csv")), digested(Place("memory://changing/a.csv"))
    for place in (here, there):
        with at_hand(place, 100) as path:
            assert path.suffix == ".csv" and path.read_bytes() in (b"a.csv", b"one")
    with pytest.raises(FileUnreadable, match=r"a.csv: changed while"), at_hand(here, 100):
        Path("a.csv").write_text("another")
    memory.pipe("/changing/a.csv", b"two")
    with pytest.raises(FileUnreadable, match=r"a.csv: changed while"), at_hand(there, 100):
        pass
    memory.rm("/changing/a.csv")
    with pytest.raises(FileUnreadable, match=r"memory://changing/a.csv: "), at_hand(there, 100):
        pass


def test_a_large_file_elsewhere_is_not_brought_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of it than shows that it is too large."""
    monkeypatch.setattr(places, "_AT_ONCE", 10)
    fsspec.filesystem("memory").pipe("/large/a.csv", b"x" * 1000)
    with at_hand(digested(Place("memory://large/a.csv")), 25) as path:
        assert path.stat().st_size == 30
    assert not path.exists()
    with pytest.raises(TableError, match=r"^memory://large/a.csv: 30 bytes, more than"):
        module.check_begin(digested(Place("memory://large/a.csv")), load_schema(None), None, 25)


# --- counted ---


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_many_files_give_what_one_gives(
    cli: Callable[..., Any],
    kept: Callable[[Path], Any],
    parts: Callable[[str], Path],
    home: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    """All but its name and id: repeats, late labels and rows set aside are those of the whole."""
    folder = parts(kind)
    other = Path(shutil.copytree(home, tmp_path / "other"))
    cli("run-batch", tmp_path / f"whole.{kind}", "--home", home)
    cli("run-batch", folder, "--home", other)
    ours, theirs = kept(home), kept(other)
    for each in (ours, theirs):  # a cell is spelled as it was read: 7, or 7.0 beside an empty one
        of_batch = each["records"][-1]["batch"]
        assert of_batch["set_aside"]["duplicate"] > 90
        aside = each["files"].pop(f"quarantine/{of_batch.pop('id')}-rows.csv")
        rows = pd.read_csv(io.BytesIO(aside), dtype=str)
        of_batch["aside"] = rows.map(number).to_dict("split")
        assert of_batch.pop("name") in (f"whole.{kind}", f"parts-{kind}")
    assert str(theirs) == str(ours)
    again = cli("run-batch", f"{folder}/*.{kind}", "--home", other, "--json")
    assert '"already_processed"' in again.stdout
    assert len([*folder.iterdir()]) == 10


def test_files_elsewhere_give_the_same(
    cli: Callable[..., Any],
    kept: Callable[[Path], Any],
    parts: Callable[[str], Path],
    home: Path,
    tmp_path: Path,
) -> None:
    """A pattern on another file system: the same batch, the same home."""
    folder = parts("csv")
    other = Path(shutil.copytree(home, tmp_path / "other"))
    fsspec.filesystem("memory").put(f"{folder}/", "/elsewhere/parts-csv/", recursive=True)
    cli("run-batch", f"{folder}/*.csv", "--home", home)
    cli("run-batch", "memory://elsewhere/parts-csv/*.csv", "--home", other)
    assert kept(other) == kept(home)


def test_a_bad_file_is_a_bad_batch(
    cli: Callable[..., Any], parts: Callable[[str], Path], home: Path
) -> None:
    """The record names file and line; nothing is copied, and nothing of the others is kept."""
    folder = parts("csv")
    with (folder / "part-3.csv").open("a") as file:
        file.write("1;2;3\n")
    before = sorted(home.rglob("*"))
    for _ in range(2):
        result = cli("run-batch", folder, "--home", home, code=3)
        assert "part-3.csv: line 150 has 3 cells, the header 12" in result.stderr
    assert sorted(home.rglob("*")) == before and len([*folder.iterdir()]) == 10


def test_texts_are_named_by_file_and_row(cli: Callable[..., Any], wines: Any, home: Path) -> None:
    """A column without one number in all files is told by its first cell."""

    def spoilt(cells: list[str]) -> list[str]:
        return [*cells[:2], "2 g", *cells[3:]]

    wines("in/a.csv", 0, 3, edit=lambda cells: [*cells[:2], "", *cells[3:]])
    wines("in/b.csv", 3, 9, edit=spoilt)
    result = cli("run-batch", "in", "--home", home, code=3)
    assert "in: in/b.csv: row 1, column 'citric acid': '2 g' is not a number" in result.stderr
    assert "its files stay where they are" in result.stderr
    wines("in/c.csv", 9, 60)
    cli("run-batch", "in", "--home", home)


def test_files_without_rows(cli: Callable[..., Any], wines: Any, home: Path) -> None:
    """One among others is passed over; alone they are no batch."""
    wines("in/a.csv", 0, 0)
    wines("in/b.csv", 0, 0)
    assert "holds no rows" in cli("run-batch", "in", "--home", home, code=3).stderr
    wines("in/c.csv", 0, 60)
    cli("run-batch", "in", "--home", home)


def test_a_file_that_changes_leaves_the_batch_alone(
    cli: Callable[..., Any],
    kept: Callable[[Path], Any],
    wines: Any,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is recorded of it, and the next run takes it."""
    first = wines("in/a.csv", 0, 60)
    wines("in/b.csv", 60, 120)
    before, count = kept(home), module.count_screened

    def change(*arguments: Any) -> Any:
        first.touch()
        return count(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "count_screened", change)
        result = cli("run-batch", "in", "--home", home, code=6)
    assert "in/a.csv: changed while it was read" in result.stderr
    assert kept(home)["records"] == before["records"] and kept(home)["files"] == before["files"]
    cli("run-batch", "in", "--home", home)


def test_a_bad_first_file_is_no_reason_to_train(
    cli: Callable[..., Any], wines: Any, red_wine_csv: Path
) -> None:
    """A home without a model trains one for a good batch only."""
    wines("in/b.csv", 0, 60)
    Path("in/a.csv").write_text("a;b\n1;2\n")
    words = ("run-batch", "in", "--home", "new", "--data", red_wine_csv, "--rounds", 5)
    assert "in/a.csv: column 'fixed acidity'" in cli(*words, code=3).stderr
    assert not Path("new/models").exists()
    Path("in/a.csv").unlink()
    cli(*words)
    assert Path("new/models").exists()


def test_a_dry_run_of_many_files(cli: Callable[..., Any], wines: Any, home: Path) -> None:
    """It tells the decision, and changes nothing."""
    wines("in/a.csv", 0, 60)
    before = sorted(home.rglob("*"))
    assert "decision" in cli("run-batch", "in", "--home", home, "--dry-run").stdout
    assert sorted(home.rglob("*")) == before


def test_an_error_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file system raises by itself is an error of its file, whatever it is."""
    monkeypatch.setattr(places, "_opened", lambda place: (_ for _ in ()).throw(KeyError("x")))
    with pytest.raises(FileUnreadable, match=r"^memory://a.csv: 'x'"):
        digested(Place("memory://a.csv"))
    with pytest.raises(SettingsError, match="no files of rows"):
        find_places("nothing/*", SUFFIXES)
