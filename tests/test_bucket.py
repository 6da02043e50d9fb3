"""Versions behind a URL, on file systems of fsspec's own."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import Result

from wine_drift import failpoints
from wine_drift.bucket import Bucket
from wine_drift.errors import SettingsError, StateUnreadable
from wine_drift.ledger import Ledger
from wine_drift.shelf import folders, is_sound, place_of, read_files, remove, write_files

Cli = Callable[..., Result]

NUMBERS = itertools.count()
CONTENTS = {"model.txt": b"tree", "rows.npy.z": bytes(range(256))}
HASHES = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
MANIFEST = {"version": "v1-00000000", "files": HASHES}


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place: in memory, or a folder as fsspec sees it."""
    if request.param == "memory":
        return f"memory://shelf{next(NUMBERS)}/models"
    return f"file://{tmp_path}/shelf/models"


def test_a_version_is_read_back_as_it_was_written(url: str) -> None:
    """Again is fine, and what is not there is not."""
    place = place_of(url, Path("unused"))
    assert isinstance(place, Bucket) and str(place) == url
    assert folders(place) == [] and not is_sound(place, MANIFEST)
    for _ in range(2):
        write_files(place, MANIFEST, CONTENTS)
        assert read_files(place, MANIFEST) == CONTENTS
    assert folders(place_of(url, Path("unused"))) == ["v1-00000000"]
    other = {**MANIFEST, "version": "v2-00000000"}
    write_files(place, other, CONTENTS)
    assert sorted(folders(place)) == ["v1-00000000", "v2-00000000"]
    remove(place, "v1-00000000")
    remove(place, "v1-00000000")
    assert folders(place) == ["v2-00000000"] and is_sound(place, other)


@pytest.mark.parametrize("how", ["changed", "cut", "gone", "nothing"])
def test_a_damaged_file_is_told(url: str, how: str) -> None:
    """With its place, and with what to do."""
    place = Bucket(url)
    write_files(place, MANIFEST, CONTENTS)
    files, root = fsspec.core.url_to_fs(url)
    name = f"{root}/v1-00000000/model.txt"
    if how == "gone":
        files.rm(name)
    elif how == "nothing":
        remove(place, "v1-00000000")
    else:
        files.pipe_file(name, {"changed": b"tres", "cut": b"tre"}[how])
    with pytest.raises(StateUnreadable) as caught:
        read_files(place, MANIFEST)
    assert f"{url}/v1-00000000" in str(caught.value) and "repair" in caught.value.remedy


def test_the_manifest_comes_last(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was cut short has none, at whatever file."""
    place = Bucket(url)
    for most in range(len(CONTENTS) + 1):
        steps = itertools.count()

        def stop(name: str, steps: Any = steps, most: int = most) -> None:
            if name == "version, a file: write" and next(steps) == most:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(failpoints, "hook", stop)
            write_files(place, MANIFEST, CONTENTS)
        with pytest.raises(FileNotFoundError):
            place.read("v1-00000000", "manifest.json")
        remove(place, "v1-00000000")


def test_what_a_library_says_is_an_error_of_the_system(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has errors of its own; none of them is a traceback."""
    place = Bucket(url)

    def refuse(*arguments: object, **named: object) -> None:
        raise RuntimeError("quota\nexceeded")

    for method in ("pipe_file", "cat_file", "ls", "rm"):
        monkeypatch.setattr(place._files, method, refuse)
    for act in (
        lambda: place.write("v1", CONTENTS),
        lambda: place.read("v1", "model.txt"),
        lambda: place.remove("v1"),
        place.folders,
    ):
        with pytest.raises(OSError, match="quota exceeded") as caught:
            act()
        assert str(caught.value.filename).startswith(url)


@pytest.mark.parametrize("url", ["nosuch://bucket/models", "dask://models", "gs://bucket/models"])
def test_a_place_of_a_kind_that_nobody_knows(url: str) -> None:
    """It is told what is missing, before anything is done."""
    with pytest.raises(SettingsError) as caught:
        Bucket(url)
    assert url in str(caught.value) and "install" in caught.value.remedy


def test_without_fsspec(tmp_path: Path) -> None:
    """What is to be installed is told."""
    words = ["run-batch", "--home", str(tmp_path), "--models", "s3://bucket/models"]
    code = (
        "import sys; sys.modules['fsspec'] = None\n"
        f"from wine_drift.cli import main; main({[*words, '--source', 'simulated']!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'wine-drift[remote]'" in done.stderr and "Traceback" not in done.stderr


def test_a_life_with_models_behind_a_url(cli: Cli, tmp_path: Path, url: str) -> None:
    """Trained, retrained, rolled back, exported, imported, damaged, repaired and pruned."""
    home, models = ("--home", tmp_path / "home"), ("--models", url)
    simulated = ("--source", "simulated", "--rounds", 5, "--threads", 1)
    for _ in range(3):
        cli("run-batch", *home, *models, *simulated)
    cli("train", "--force", *home, *models, "--rounds", 6, "--threads", 1)
    with Ledger.open(tmp_path / "home", read_only=True) as ledger:
        first, second = (manifest["version"] for manifest in ledger.versions())
    assert sorted(folders(Bucket(url))) == sorted([first, second])
    assert not (tmp_path / "home" / "models").exists()
    cli("models", "rollback", *home, *models)
    cli("models", "diff", second, first, *home, *models)
    cli("selftest", "power", "--repeats", 100, *home, *models)
    cli("models", "export", first, "--out", tmp_path / "v.tar", *home, *models)
    other = ("--home", tmp_path / "other", "--models", f"{url}-of-another")
    assert "imported" in cli("models", "import", tmp_path / "v.tar", *other, "--json").stdout
    assert "known" in cli("models", "import", tmp_path / "v.tar", *home, *models, "--json").stdout
    files, root = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{root}/{first}/model.txt", b"torn")
    assert "hash is wrong" in cli("run-batch", *home, *models, *simulated, code=6).stderr
    assert first in cli("repair", *home, *models).stdout
    cli("run-batch", *home, *models, *simulated)
    Bucket(url).write("v9-00000000", {"model.txt": b"never finished"})
    cli("models", "rollback", second, *home, *models)
    cli("prune", "--keep-versions", 1, *home, *models)
    assert sorted(folders(Bucket(url))) == sorted([first, second])


def test_a_place_that_cannot_be_written_to(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 6, and the batch will be taken again."""
    (tmp_path / "full").write_text("a file where a folder should be")
    models = ("--models", f"file://{tmp_path}/full/models")
    simulated = ("--source", "simulated", "--rounds", 5, "--threads", 1)
    told = cli("run-batch", "--home", tmp_path / "home", *models, *simulated, code=6).stderr
    assert "full/models" in told and "taken again" in told
    with Ledger.open(tmp_path / "home", read_only=True) as ledger:
        assert ledger.next_sequence() == 1 and ledger.champion() is None
