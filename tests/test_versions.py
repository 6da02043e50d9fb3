"""Versions once they are made: one serves again, old files go, two are compared, one travels."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import tarfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from wine_drift.bundle import MOST, MOST_OF
from wine_drift.cli import main
from wine_drift.ledger import Ledger
from wine_drift.locking import locked
from wine_drift.model import read_version, refit, train
from wine_drift.policy import Change
from wine_drift.rows import LabelledRows
from wine_drift.trees import check_trees

Cli = Callable[..., Result]
Record = Callable[..., dict[str, Any]]
Wines = Callable[..., Path]
Kept = Callable[[Path], dict[str, Any]]
Published = Callable[[Path], dict[tuple[str, ...], float]]
Files = dict[str, bytes]

FEW = ("--rounds", 5, "--min-labelled", 10, "--min-positives", 1)
FORCED = ("--force", *FEW)


def told(result: Result) -> str:
    """Read the only error of a result: one line, and one with the remedy."""
    error, remedy, *rest = result.stderr.splitlines()
    assert error.startswith("error: ") and not rest, result.stderr
    assert remedy.startswith("       ") and remedy.strip(), result.stderr
    return error


def names(home: Path) -> list[str]:
    """Folders of versions that are there, oldest first."""
    return sorted(path.name for path in (home / "models").iterdir())


def ledger_state(home: Path) -> dict[str, Any]:
    """What the ledger holds of versions."""
    with Ledger.open(home, read_only=True) as ledger:
        versions = [manifest["version"] for manifest in ledger.versions()]
        champion = ledger.champion()
        return {
            "versions": versions,
            "champion": champion and champion["version"],
            "pruned": ledger.pruned(),
            "detectors": {version: ledger.detector(version) for version in versions},
            "change": ledger.change(),
        }


def content(home: Path) -> Files:
    """Every file of a home but the lock, by its path."""
    paths = [path for path in home.rglob("*") if path.is_file() and path.name != "run.lock"]
    return {str(path.relative_to(home)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def line(
    trained_home: Path, red_wine_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A home whose champion v4 follows v3, v2 and v1; not to be written to."""
    folder = tmp_path_factory.mktemp("line")
    home = shutil.copytree(trained_home, folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WINE_DRIFT_")]:
            patch.delenv(name)
        patch.chdir(folder)
        for command in 3 * (
            ("run-batch", "--data", str(red_wine_csv), "--retrain", "never"),
            ("train", *map(str, FORCED)),
        ):
            result = CliRunner().invoke(main, [*command, "--home", str(home)])
            assert result.exit_code == 0, result.output
    return home, names(home)


@pytest.fixture
def four(line: tuple[Path, list[str]], tmp_path: Path) -> tuple[Path, list[str]]:
    """A home of the test's own with versions v1 to v4, and their names."""
    home, versions = line
    return Path(shutil.copytree(home, tmp_path / "four")), versions


@pytest.fixture
def closed_port() -> str:
    """Address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "http://{}:{}".format(*probe.getsockname())


# --- rollback ---


def test_rollback_goes_back_to_the_parent(
    cli: Cli, record: Record, four: tuple[Path, list[str]], published: Published
) -> None:
    """Without a name the champion's parent serves again, and that is published."""
    home, (v1, _, v3, v4) = four
    done = record("models", "rollback", "--home", home)
    assert (done["outcome"], done["version"], done["before"]) == ("rolled_back", v3, v4)
    assert done["push"]["status"] == "ok"
    assert ("wine_drift_model_info", "lightgbm", v3) in published(home)
    assert v3 in (home / "metrics" / "wine_drift.prom").read_text()
    assert f"*  {v3}" in cli("models", "list", "--home", home).stdout
    assert f"{v1} serves again, {v3} no longer" in (
        cli("models", "rollback", v1, "--home", home).stdout
    )


def test_rollback_is_bit_for_bit(
    cli: Cli, record: Record, home: Path, tmp_path: Path, red_wine_csv: Path, wines: Wines
) -> None:
    """After a rollback the next batch is judged as where nothing was ever promoted."""
    stream = ("run-batch", "--data", red_wine_csv, "--retrain", "never")
    cli(*stream, "--home", home)
    undisturbed = shutil.copytree(home, tmp_path / "undisturbed")
    v1 = ledger_state(home)["champion"]
    before = ledger_state(home)["detectors"][v1]
    files = content(home / "models" / v1)
    cli("train", "--home", home, *FORCED)
    between = record("run-batch", wines("between.csv"), "--home", home, "--retrain", "never")
    assert between["model"]["version"] != v1
    cli("models", "rollback", "--home", home)

    assert before is not None and ledger_state(home)["detectors"][v1] == before
    assert content(home / "models" / v1) == files
    one, other = (record(*stream, "--home", each) for each in (home, undisturbed))
    assert one["model"]["version"] == v1 and one["decision"]["action"] == "keep"
    for each, sequence in ((one, 4), (other, 3)):
        assert each["batch"].pop("sequence") == sequence
        del each["push"]
    assert one == other
    states = [ledger_state(each)["detectors"][v1] for each in (home, undisturbed)]
    assert states[0] == states[1] != before


def test_what_was_rolled_back_is_not_promoted_at_the_next_alarm(
    cli: Cli, record: Record, home: Path, tmp_path: Path, red_wine_csv: Path
) -> None:
    """The alarm that led to the promotion waits for the cooldown, then for twice the rows."""
    out = tmp_path / "drifted"
    options = ("--data", red_wine_csv, "--scenario", "switch", "--batches", 7, "--out", out)
    paths = cli("simulate", *options).stdout.split()

    def run(path: str, *more: object) -> dict[str, Any]:
        return record("run-batch", path, "--home", home, *FEW, *more)

    for path in paths[:2]:
        assert run(path, "--retrain", "never")["drift"]["status"] == "major"
    cli("train", "--home", home, *FORCED)
    done = record("models", "rollback", "--home", home)
    with Ledger.open(home, read_only=True) as ledger:
        rows = ledger.labelled_rows(11, after=0)
        change = ledger.change()
    assert change == Change(since=1, tried=len(rows)) and len(rows) > 200
    assert done["tries_at_rows"] == 2 * len(rows)

    plain = shutil.copytree(home, tmp_path / "plain")
    decision = record("run-batch", paths[2], "--home", plain, *FEW)["decision"]
    assert decision["action"] == "hold" and "cooldown" in decision["reasons"]
    known = len(rows)
    for path in paths[2:]:
        assert known < 2 * len(rows)
        done = run(path, "--cooldown", 0)
        known += done["batch"]["labelled"]
        if done["decision"]["action"] == "retrain":
            break
        assert "tried_before" in done["decision"]["reasons"]
    assert known >= 2 * len(rows)


def test_rollback_without_new_labels_leaves_no_change(
    cli: Cli, four: tuple[Path, list[str]]
) -> None:
    """Where nothing was labelled since a version learnt there is nothing that was tried."""
    home, (*_, v3, v4) = four
    cli("models", "rollback", v3, "--home", home)
    assert ledger_state(home)["change"] is not None
    result = cli("models", "rollback", v4, "--home", home)
    assert "labelled rows" not in result.stdout
    assert ledger_state(home)["change"] is None


def test_late_labels_count_as_tried_too(cli: Cli, home: Path, wines: Wines) -> None:
    """A version learnt from half of a batch; the labels of the rest came later.

    All of its rows count as tried, as all count where the next try waits for twice as many.
    """
    numbers = iter(range(400))

    def every_other(cells: list[str]) -> list[str]:
        return cells if next(numbers) % 2 else [*cells[:-1], ""]

    cli("run-batch", wines("half.csv", 0, 400, edit=every_other), "--home", home, *FEW)
    cli("train", "--home", home, *FORCED)
    v2 = ledger_state(home)["champion"]
    cli("add-labels", 2, wines("labels.csv", 0, 400), "--home", home, "--retrain", "never")
    cli("models", "rollback", "--home", home)
    cli("models", "rollback", v2, "--home", home)
    with Ledger.open(home, read_only=True) as ledger:
        change, late = ledger.change(), ledger.labelled_counts(after=ledger.learnt(v2))[0]
        of_the_batch = ledger.labelled_since(2)
    assert change == Change(since=2, tried=of_the_batch)
    assert 0 < late < of_the_batch


def test_rollback_to_the_champion_changes_nothing(
    cli: Cli, record: Record, four: tuple[Path, list[str]]
) -> None:
    """The version that serves goes on serving."""
    home, (*_, v4) = four
    before = content(home)
    assert "serves already" in cli("models", "rollback", v4, "--home", home).stdout
    done = record("models", "rollback", v4, "--home", home)
    assert done["outcome"] == "serves_already" and done["push"] is None
    assert content(home) == before


@pytest.mark.parametrize("name", ["model.txt", "reference.json", "reference.npy.z", "rows.npy.z"])
@pytest.mark.parametrize("damage", ["torn", "gone"])
def test_a_damaged_version_does_not_serve(
    cli: Cli, four: tuple[Path, list[str]], name: str, damage: str
) -> None:
    """A version is read whole before the swap; what is wrong is told and nothing changes."""
    home, (v1, *_) = four
    path = home / "models" / v1 / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10])
    before = content(home)
    assert v1 in told(cli("models", "rollback", v1, "--home", home, code=6))
    assert content(home) == before


def test_rollback_refuses_what_is_not_there(
    cli: Cli, home: Path, four: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """A version nobody knows, one without files, no parent, no home: each is told."""
    many, (v1, *_) = four
    result = cli("models", "rollback", "v9-none", "--home", many, code=2)
    assert "v9-none" in told(result) and v1 in result.stderr
    cli("models", "prune", "--home", many, "--keep-versions", 1)
    before = content(many)
    assert "removed" in told(cli("models", "rollback", v1, "--home", many, code=2))
    assert content(many) == before
    assert "has no parent" in told(cli("models", "rollback", "--home", home, code=2))
    for command in (("rollback",), ("prune",), ("prune", "--dry-run"), ("diff",)):
        arguments = ("models", *command, "--home", tmp_path / "none")
        assert "no ledger" in told(cli(*arguments, code=2))
    assert not (tmp_path / "none").exists()


def test_a_failed_push_does_not_undo_the_swap(
    cli: Cli, record: Record, four: tuple[Path, list[str]], closed_port: str
) -> None:
    """Exit 4 tells of the push; the parent serves."""
    home, (_, v2, v3, _) = four
    sink = ("--pushgateway", closed_port, "--push-deadline", 0.1)
    done = record("models", "rollback", "--home", home, *sink, code=4)
    assert done["outcome"] == "rolled_back" and done["push"]["status"] == "failed"
    assert ledger_state(home)["champion"] == v3
    result = cli("models", "rollback", "--home", home, *sink, code=4)
    assert v2 in result.stdout and closed_port in result.stderr


def test_changes_wait_for_the_lock(cli: Cli, four: tuple[Path, list[str]], tmp_path: Path) -> None:
    """While another run holds the lock nothing is changed; what only reads goes on."""
    home, (*_, v4) = four
    cli("models", "export", v4, "--home", home, "--out", tmp_path / "v4.tar")
    before = content(home)
    with locked(home):
        for command in (("rollback",), ("prune", "--keep-versions", 1), ("import", "v4.tar")):
            assert "another run" in told(cli("models", *command, "--home", home, code=5))
        cli("models", "diff", "--home", home)
        cli("models", "prune", "--keep-versions", 1, "--dry-run", "--home", home)
    assert content(home) == before


# --- prune ---


def test_prune_keeps_the_newest_the_champion_and_its_parent(
    cli: Cli, record: Record, four: tuple[Path, list[str]]
) -> None:
    """Of v1 to v4 with champion v2, keeping one: v4 as the newest, v2 and its parent v1."""
    home, (v1, v2, v3, v4) = four
    cli("models", "rollback", v2, "--home", home)
    detectors = ledger_state(home)["detectors"]
    done = record("models", "prune", "--home", home, "--keep-versions", 1)
    assert done == {"removed": [v3], "leftovers": [], "kept": [v1, v2, v4], "dry_run": False}
    assert names(home) == [v1, v2, v4]
    state = ledger_state(home)
    assert state["pruned"] == {v3} and state["versions"] == [v1, v2, v3, v4]
    assert state["detectors"] == detectors | {v3: None}
    listed = cli("models", "list", "--home", home).stdout.splitlines()
    assert ["removed" in row for row in listed] == [False, False, False, True, False]
    shown = record("models", "list", "--home", home)
    assert shown["pruned"] == [v3] and shown["champion"] == v2
    assert json.loads(cli("models", "show", v3, "--home", home).stdout) == shown["versions"][2]


def test_prune_keeps_five_by_default_and_runs_twice(
    cli: Cli, record: Record, four: tuple[Path, list[str]]
) -> None:
    """Four versions are fewer than five; a second prune finds nothing to do."""
    home, versions = four
    before = content(home)
    assert cli("models", "prune", "--home", home).stdout == "nothing to remove\n"
    assert content(home) == before
    assert (
        record("models", "prune", "--home", home, "--keep-versions", 1)["removed"] == versions[:2]
    )
    pruned = content(home)
    assert cli("models", "prune", "--home", home, "--keep-versions", 1).stdout == (
        "nothing to remove\n"
    )
    assert content(home) == pruned
    cli("models", "prune", "--home", home, "--keep-versions", 0, code=2)


def test_prune_removes_leftovers_and_nothing_else(
    cli: Cli, record: Record, four: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Half-written and never committed versions go; what this program did not make stays."""
    home, versions = four
    leftovers = [".v5-0123abcd.part", "v5-0123abcd"]
    for name in leftovers:
        shutil.copytree(home / "models" / versions[0], home / "models" / name)
    mine = ["mine", f"{versions[0]}.bak", "v5-0123abcd-old"]
    for name in mine:
        (home / "models" / name).mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("kept")
    (home / "models" / "v6-0123abcd").symlink_to(elsewhere)

    before = content(home)
    planned = record("models", "prune", "--home", home, "--dry-run")
    assert planned["leftovers"] == leftovers and planned["dry_run"] is True
    text = cli("models", "prune", "--home", home, "--dry-run").stdout
    assert text.count("would remove") == 2 and content(home) == before
    done = record("models", "prune", "--home", home)
    assert done == planned | {"dry_run": False}
    assert names(home) == sorted([*versions, *mine, "v6-0123abcd"])
    assert (elsewhere / "file").read_text() == "kept"


def test_a_dry_prune_changes_nothing(cli: Cli, four: tuple[Path, list[str]]) -> None:
    """What would go is told and stays."""
    home, (v1, v2, *_) = four
    before = content(home)
    told_so = cli("models", "prune", "--home", home, "--keep-versions", 1, "--dry-run").stdout
    assert told_so == f"would remove the files of {v1}\nwould remove the files of {v2}\n"
    assert content(home) == before


def test_a_prune_that_is_cut_short_is_finished_by_the_next(
    cli: Cli, record: Record, four: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between ledger and folders the ledger knows of the removal: nothing relies on the files."""
    home, (v1, v2, v3, v4) = four

    def cut(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut)
        result = cli("models", "prune", "--home", home, "--keep-versions", 1, code=6)
        assert v1 in told(result)
    assert names(home) == [v1, v2, v3, v4]
    assert ledger_state(home)["pruned"] == {v1, v2}
    assert "removed" in told(cli("models", "rollback", v1, "--home", home, code=2))
    done = record("models", "prune", "--home", home, "--keep-versions", 1)
    assert done["removed"] == [] and done["leftovers"] == [v1, v2]
    assert names(home) == [v3, v4]


def test_a_pruned_home_goes_on(
    cli: Cli, record: Record, four: tuple[Path, list[str]], red_wine_csv: Path
) -> None:
    """Runs, rollback and retraining need none of the files that were removed."""
    home, (v1, v2, v3, _) = four
    cli("models", "prune", "--home", home, "--keep-versions", 1)
    done = record("run-batch", "--data", red_wine_csv, "--home", home, "--retrain", "never")
    assert done["outcome"] == "processed"
    cli("train", "--home", home, *FORCED)
    assert record("models", "rollback", v3, "--home", home)["version"] == v3
    assert record("models", "prune", "--home", home, "--keep-versions", 1)["removed"] != []
    assert ledger_state(home)["pruned"] >= {v1, v2}


# --- diff ---


def test_diff_tells_what_differs(cli: Cli, record: Record, four: tuple[Path, list[str]]) -> None:
    """Every difference of the manifests is there with both values, and nothing that is equal."""
    home, (v1, _, v3, v4) = four
    manifests = {m["version"]: m for m in record("models", "list", "--home", home)["versions"]}
    found = record("models", "diff", v1, v4, "--home", home)
    old, new = manifests[v1], manifests[v4]
    assert (found["old"], found["new"], found["removed"]) == (v1, v4, [])
    by_key = {(each["what"], each["of"]): each for each in found["differences"]}
    assert by_key["parameters", "rounds"]["old"] == 200 != by_key["parameters", "rounds"]["new"]
    assert by_key["trees", None]["new"] == new["trees"] == 5
    assert by_key["parent", None]["old"] is None and by_key["parent", None]["new"] == v3
    assert ("libraries", "lightgbm") not in by_key and ("recipe", None) not in by_key
    for what in ("training_rows", "training_positives", "reference_rows", "reason"):
        assert (by_key[what, None]["old"], by_key[what, None]["new"]) == (old[what], new[what])
    for what in ("data_sha256", "out_of_fold", "reliance"):
        for of, value in new[what].items():
            assert (value == old[what][of]) == ((what, of) not in by_key)
    text = cli("models", "diff", v1, v4, "--home", home).stdout
    assert "reliance alcohol" in text and "parameters rounds" in text
    assert f"reference rows of {v4}, which it was trained on" in text


def test_diff_of_scores_is_that_of_the_models(record: Record, four: tuple[Path, list[str]]) -> None:
    """Mean, largest and changed decisions are those of both models on the reference rows of NEW."""
    home, (v1, *_, v4) = four
    manifests = {m["version"]: m for m in record("models", "list", "--home", home)["versions"]}
    old, new = (read_version(home / "models", manifests[name]) for name in (v1, v4))
    features = new.reference_rows.features[:, :11]
    before, after = old.model.score(features), new.model.score(features)
    scores = record("models", "diff", v1, v4, "--home", home)["scores"]
    assert scores["rows"] == len(features)
    assert scores["mean_absolute"] == pytest.approx(np.mean(np.abs(before - after)))
    assert scores["largest"] == np.max(np.abs(before - after)) > 0
    changed = np.mean((before >= old.cut) != (after >= new.cut))
    assert scores["decisions_changed"] == changed > 0


def test_diff_knows_whom_to_compare(
    cli: Cli, record: Record, home: Path, four: tuple[Path, list[str]]
) -> None:
    """No names: the parent and the champion; one: that one and the champion; or with itself."""
    many, (v1, _, v3, v4) = four
    for arguments, pair in (((), (v3, v4)), ((v1,), (v1, v4)), ((v4, v1), (v4, v1))):
        found = record("models", "diff", *arguments, "--home", many)
        assert (found["old"], found["new"]) == pair
    same = record("models", "diff", v4, "--home", many)
    assert same["differences"] == [] and same["scores"]["largest"] == 0
    assert "tell the same" in cli("models", "diff", v4, "--home", many).stdout
    assert "v9-none" in told(cli("models", "diff", "v9-none", "--home", many, code=2))
    assert "has no parent" in told(cli("models", "diff", "--home", home, code=2))


def test_diff_without_files_compares_manifests(
    cli: Cli, record: Record, four: tuple[Path, list[str]]
) -> None:
    """A pruned version still tells what it was; scores are not made up."""
    home, (v1, *_, v4) = four
    full = record("models", "diff", v1, "--home", home)
    cli("models", "prune", "--home", home, "--keep-versions", 1)
    found = record("models", "diff", v1, "--home", home)
    assert found["scores"] is None and found["removed"] == [v1]
    assert found["differences"] == full["differences"]
    assert f"the files of {v1} were removed" in cli("models", "diff", v1, "--home", home).stdout
    (home / "models" / v4 / "model.txt").write_text("torn")
    cli("models", "diff", v1, "--home", home)


# --- what a manifest tells ---


def test_manifests_tell_how_a_version_was_made(
    record: Record, four: tuple[Path, list[str]]
) -> None:
    """Data, parameters, libraries, parent, reason and the gate's report are in every manifest."""
    home, versions = four
    manifests = record("models", "list", "--home", home)["versions"]
    for before, manifest in pairwise([None, *manifests]):
        assert manifest is not None
        assert manifest["parent"] == (before and before["version"])
        assert set(manifest["libraries"]) == {
            *("python", "wine-drift", "lightgbm", "numpy", "scikit-learn", "scipy"),
        }
        assert all(value[0].isdigit() for value in manifest["libraries"].values())
        assert manifest["parameters"]["seed"] == 0 and "half_life" in manifest
        version = read_version(home / "models", manifest)
        assert manifest["data_sha256"]["training"] == version.rows.digest()
    assert [each["reason"] for each in manifests] == ["first", "manual", "manual", "manual"]
    assert manifests[0]["gate"] is None
    assert all(each["gate"]["outcome"] == "promoted" for each in manifests[1:])
    assert [each["version"] for each in manifests] == versions


# --- export and import ---


@pytest.fixture
def exported(cli: Cli, four: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """A file with v4."""
    home, (*_, v4) = four
    path = tmp_path / "v4.tar"
    cli("models", "export", v4, "--home", home, "--out", path)
    return path


def unpacked(path: Path) -> Files:
    """Contents of an exported file, by name."""
    with tarfile.open(path, "r:") as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
    return found


def packed(files: Mapping[str, bytes]) -> bytes:
    """A tar of regular files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def forged(files: Files, changes: Files, /, **manifest: Any) -> bytes:
    """An exported file with other contents, whose manifest fits them."""
    files = files | changes
    known = json.loads(files.pop("manifest.json")) | manifest
    if "files" not in manifest:
        known["files"] = {n: hashlib.sha256(data).hexdigest() for n, data in files.items()}
    text = files["model.txt"]
    if "version" not in manifest:
        known["version"] = f"v{known['number']}-{hashlib.sha256(text).hexdigest()[:8]}"
    return packed(files | {"manifest.json": json.dumps(known).encode()})


def test_an_export_is_the_same_bytes_each_time(
    cli: Cli, four: tuple[Path, list[str]], exported: Path, tmp_path: Path
) -> None:
    """Twice the same file: sorted, of nobody, from 1970, for the owner's eyes."""
    home, (*_, v4) = four
    again = tmp_path / "again.tar"
    os.utime(home / "models" / v4 / "model.txt", (1, 1))
    assert str(again) in cli("models", "export", v4, "--home", home, "--out", again).stdout
    assert again.read_bytes() == exported.read_bytes()
    assert exported.stat().st_mode & 0o777 == 0o600
    with tarfile.open(exported, "r:") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == sorted(content(home / "models" / v4))
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members} == {
        (0, 0, 0, "", "", 0o600, tarfile.REGTYPE)
    }
    assert unpacked(exported) == content(home / "models" / v4)
    assert not list(tmp_path.glob(".*"))


def test_export_overwrites_nothing_and_tells_why(
    cli: Cli, four: tuple[Path, list[str]], exported: Path, tmp_path: Path
) -> None:
    """A file that is there stays; what cannot be exported leaves no file."""
    home, (v1, *_, v4) = four
    before = exported.read_bytes()

    def export(version: str, out: Path, code: int) -> str:
        return told(cli("models", "export", version, "--home", home, "--out", out, code=code))

    assert "already" in export(v1, exported, 2) and exported.read_bytes() == before
    assert "absent" in export(v1, tmp_path / "absent" / "v1.tar", 2)
    assert "v9-none" in export("v9-none", tmp_path / "v9.tar", 2)
    assert "--out" in cli("models", "export", v1, "--home", home, code=2).stderr
    (home / "models" / v4 / "rows.npy.z").write_bytes(b"torn")
    assert "rows.npy.z" in export(v4, tmp_path / "torn.tar", 6)
    cli("models", "prune", "--home", home, "--keep-versions", 1)
    assert "removed" in export(v1, tmp_path / "v1.tar", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["four", "v4.tar"]


def test_an_export_that_fails_leaves_no_part(
    cli: Cli, four: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is told, and what was written so far is gone."""
    home, (v1, *_) = four

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        arguments = ("models", "export", v1, "--home", home, "--out", tmp_path / "v1.tar")
        assert "No space left" in told(cli(*arguments, code=2))
    assert [path.name for path in tmp_path.iterdir()] == ["four"]


def test_an_imported_version_scores_and_judges_as_where_it_came_from(
    cli: Cli,
    record: Record,
    four: tuple[Path, list[str]],
    exported: Path,
    tmp_path: Path,
    wines: Wines,
) -> None:
    """A new home needs no training: the version serves at once, with the same figures."""
    home, (*_, v4) = four
    new = tmp_path / "new"
    done = record("models", "import", exported, "--home", new)
    name = "v1" + v4[2:]
    assert done["outcome"] == "imported" and done["serves"] is True
    assert (done["version"], done["imported_from"]) == (name, v4)
    assert done["push"]["status"] == "ok" and (new / "metrics" / "wine_drift.prom").is_file()
    (manifest,) = record("models", "list", "--home", new)["versions"]
    origin = json.loads(cli("models", "show", v4, "--home", home).stdout)
    assert manifest["reason"] == "imported" and manifest["parent"] is None
    assert manifest["origin"] == {key: origin[key] for key in ("reason", "parent", "files")}
    own = {"version", "number", "reason", "parent", "files", "imported_from", "origin"}
    own |= {"data_sha256"}  # of rows with other batch numbers
    assert manifest.keys() == origin.keys() | own
    assert all(manifest[key] == origin[key] for key in origin.keys() - own)

    path = wines("a.csv", 0, 300)
    here, there = (record("run-batch", path, "--home", each) for each in (home, new))
    assert here["batch"].pop("sequence") > there["batch"].pop("sequence")
    for each in (here, there):
        del each["push"], each["model"], each["decision"], each["retraining"]
    assert here == there


def test_an_imported_version_waits_for_rollback(
    cli: Cli, record: Record, home: Path, exported: Path, four: tuple[Path, list[str]]
) -> None:
    """Where a champion serves, another version is only registered until it is told to serve."""
    champion = ledger_state(home)["champion"]
    name = "v2" + four[1][-1][2:]
    said = cli("models", "import", exported, "--home", home).stdout
    assert f"`wine-drift models rollback {name}`" in said
    assert ledger_state(home)["champion"] == champion
    assert record("models", "rollback", name, "--home", home)["before"] == champion
    assert ledger_state(home)["champion"] == name
    assert record("models", "rollback", champion, "--home", home)["version"] == champion


@pytest.mark.parametrize("which", ["same home", "imported before"])
def test_importing_twice_changes_nothing(
    cli: Cli,
    record: Record,
    four: tuple[Path, list[str]],
    exported: Path,
    tmp_path: Path,
    which: str,
) -> None:
    """What a home has already is told by name."""
    place = four[0]
    if which == "imported before":
        place = tmp_path / "other"
        cli("models", "import", exported, "--home", place)
    before = content(place)
    done = record("models", "import", exported, "--home", place)
    assert done["outcome"] == "known" and done["version"] == ledger_state(place)["champion"]
    assert "nothing was changed" in cli("models", "import", exported, "--home", place).stdout
    assert content(place) == before


def test_an_import_that_is_cut_short_did_not_happen(
    cli: Cli, record: Record, home: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between folder and ledger only a folder is left: the next import or prune deals with it."""
    before = ledger_state(home)

    def cut(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit_version", cut)
        cli("models", "import", exported, "--home", home, code=130)
    assert len(names(home)) == 2 and ledger_state(home) == before
    done = record("models", "prune", "--home", home, "--dry-run")
    assert done["leftovers"] == names(home)[1:]
    assert record("models", "import", exported, "--home", home)["version"] == names(home)[1]
    assert record("models", "prune", "--home", home)["leftovers"] == []


def test_a_pruned_version_can_come_back(
    cli: Cli, record: Record, four: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """An export is a backup: after prune it is imported under a new number, and can serve."""
    home, (v1, *_) = four
    cli("models", "export", v1, "--home", home, "--out", tmp_path / "v1.tar")
    cli("models", "prune", "--home", home, "--keep-versions", 1)
    done = record("models", "import", tmp_path / "v1.tar", "--home", home)
    assert done["outcome"] == "imported" and done["version"] == "v5" + v1[2:]
    cli("models", "rollback", done["version"], "--home", home)
    assert ledger_state(home)["champion"] == done["version"]


def test_rows_of_an_imported_version_are_no_younger_than_the_home(
    cli: Cli, record: Record, exported: Path, four: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Batches are numbered by each home: v4's last rows, of its batch 4, came before batch 1 here.

    Or else its successor would take them for the newest.
    """
    home, _ = four
    new = tmp_path / "new"
    cli("models", "import", exported, "--home", new)
    both = []
    for each in (home, new):
        (manifest,) = record("models", "list", "--home", each)["versions"][-1:]
        both.append(read_version(each / "models", manifest).rows)
    here, there = both
    assert here.sequence.max() == 4 and there.sequence.max() == 0
    assert (here.features == there.features).all() and (here.positive == there.positive).all()


def test_an_imported_champion_is_retrained(
    cli: Cli, record: Record, exported: Path, tmp_path: Path, wines: Wines
) -> None:
    """It has what a successor needs."""
    new = tmp_path / "new"
    cli("models", "import", exported, "--home", new)

    def shifted(cells: list[str]) -> list[str]:
        return [str(float(cells[0]) + 0.013), *cells[1:]]

    cli("run-batch", wines("a.csv", 0, 400, edit=shifted), "--home", new, "--retrain", "never")
    done = record("train", "--home", new, *FORCED)
    assert done["retraining"]["outcome"] == "promoted"
    assert done["model"]["version"].startswith("v2-")


@pytest.mark.parametrize("recipe", ["continue", "refit"])
def test_a_version_with_a_base_travels(
    cli: Cli, record: Record, home: Path, red_wine_csv: Path, tmp_path: Path, recipe: str
) -> None:
    """A continued model takes the one it was continued from along."""
    cli("run-batch", "--data", red_wine_csv, "--home", home, "--retrain", "never")
    done = record("train", "--home", home, *FORCED, "--recipe", recipe)
    version = done["model"]["version"]
    cli("models", "export", version, "--home", home, "--out", tmp_path / "v2.tar")
    new = tmp_path / "new"
    done = record("models", "import", tmp_path / "v2.tar", "--home", new)
    one, other = content(home / "models" / version), content(new / "models" / done["version"])
    assert one["base.txt"] == other["base.txt"] and one["model.txt"] == other["model.txt"]
    rolled = record("models", "rollback", "--home", home)["version"]
    assert (home / "models" / rolled / "model.txt").read_bytes() == one["base.txt"]


def test_a_version_for_another_question_is_refused(
    cli: Cli, exported: Path, home: Path, tmp_path: Path
) -> None:
    """Columns and question must be those of the schema, and of the champion."""
    text = """
        name = "t"
        target = {column = "quality", positive = "> 5.5", minimum = 0, maximum = 10}
        feature = [{name = "pH", unit = "", minimum = 0, maximum = 14}]
    """
    (tmp_path / "t.toml").write_text(text)
    before = content(home)
    options = ("--schema", tmp_path / "t.toml", "--home")
    for place in (home, tmp_path / "new"):
        result = cli("models", "import", exported, *options, place, code=2)
        assert "the schema is another" in told(result) and "v4.tar" in result.stderr
    files = unpacked(exported)
    other = tmp_path / "other.tar"
    other.write_bytes(forged(files, {}, positive="quality > 5.5"))
    assert "the schema is another" in told(cli("models", "import", other, "--home", home, code=2))
    assert content(home) == before and not (tmp_path / "new").exists()


def test_the_champion_of_a_home_has_its_say(
    cli: Cli, exported: Path, home: Path, tmp_path: Path, red_wine_csv: Path
) -> None:
    """A file that fits the schema given does not come into a home that answers something else."""
    from wine_drift.dataset import packaged_text

    other = tmp_path / "other.toml"
    other.write_text(packaged_text("red_wine.toml").replace("> 6.5", "> 5.5"))
    place = tmp_path / "place"
    cli("train", "--home", place, "--data", red_wine_csv, "--schema", other, "--rounds", 5)
    before = content(place)
    assert "champion" in told(cli("models", "import", exported, "--home", place, code=2))
    assert content(place) == before


# --- hostile files ---


def with_member(files: Files, name: str, data: bytes = b"x", **attributes: Any) -> bytes:
    """An exported file with one member more."""
    out = io.BytesIO(packed(files))
    with tarfile.open(fileobj=out, mode="a") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        for key, value in attributes.items():
            setattr(member, key, value)
        tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return out.getvalue()


def declared(files: Files, name: str, size: int) -> bytes:
    """A file whose first member says that it is so large."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT if size < 8**11 else tarfile.GNU_FORMAT) + packed(
        files
    )


def without(files: Files, name: str) -> Files:
    return {key: value for key, value in files.items() if key != name}


def manifest_with(files: Files, /, **changes: Any) -> bytes:
    return forged(files, {}, **changes)


def manifest_without(files: Files, key: str) -> bytes:
    manifest = json.loads(files["manifest.json"])
    del manifest[key]
    return packed(files | {"manifest.json": json.dumps(manifest).encode()})


def edited(files: Files, name: str, old: bytes, new: bytes) -> bytes:
    """The text of a model with one place changed, and all hashes made to fit."""
    assert old in files[name]
    return forged(files, {name: files[name].replace(old, new, 1)})


def rows_of(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return zlib.compress(out.getvalue())


def reference_with(files: Files, change: Callable[[dict[str, Any]], None]) -> bytes:
    stored = json.loads(files["reference.json"])
    change(stored)
    return forged(files, {"reference.json": json.dumps(stored).encode()})


HOSTILE: dict[str, tuple[Callable[[Files], bytes], str]] = {
    # no tar, or less than one
    "empty": (lambda files: b"", "no manifest.json"),
    "not a tar": (lambda files: b"PK\3\4" + bytes(range(256)) * 9, "no tar file"),
    "compressed": (lambda files: zlib.compress(packed(files)), "no tar file"),
    "torn header": (lambda files: packed(files)[:300], "no tar file"),
    "torn member": (lambda files: packed(files)[:5000], "cut short"),
    "torn end": (lambda files: packed(files)[: 512 * 9], "cut short"),
    # members that are none of a version
    "path traversal": (lambda files: with_member(files, "../../evil.txt"), "'../../evil.txt'"),
    "absolute path": (lambda files: with_member(files, "/tmp/evil.txt"), "'/tmp/evil.txt'"),
    "another name": (lambda files: with_member(files, "evil.pkl"), "'evil.pkl'"),
    "in a folder": (lambda files: with_member(files, "a/model.txt"), "'a/model.txt'"),
    "long name": (lambda files: with_member(files, "a" * 300), "no part of a version"),
    "twice": (lambda files: with_member(files, "model.txt"), "'model.txt'"),
    "symlink": (
        lambda files: with_member(
            without(files, "model.txt"), "model.txt", b"", type=b"2", linkname="/etc/passwd"
        ),
        "'model.txt'",
    ),
    "hard link": (
        lambda files: with_member(
            without(files, "rows.npy.z"), "rows.npy.z", b"", type=b"1", linkname="model.txt"
        ),
        "'rows.npy.z'",
    ),
    "device": (
        lambda files: with_member(without(files, "model.txt"), "model.txt", b"", type=b"3"),
        "'model.txt'",
    ),
    "missing": (lambda files: packed(without(files, "rows.npy.z")), "its files are"),
    "without rows": (lambda files: forged(without(files, "rows.npy.z"), {}), "its files are"),
    "base of no use": (lambda files: with_member(files, "base.txt"), "its files are"),
    # sizes
    "huge": (lambda files: declared(files, "model.txt", MOST + 1), "too many"),
    "beyond octal": (lambda files: declared(files, "model.txt", 2**62), "too many"),
    "more than there is": (lambda files: declared(files, "model.txt", MOST), "cut short"),
    "large manifest": (
        lambda files: declared(files, "manifest.json", MOST_OF["manifest.json"] + 1),
        "too many",
    ),
    "bomb": (
        lambda files: forged(files, {"rows.npy.z": zlib.compress(bytes(MOST + 1), 9)}),
        "once it is unpacked",
    ),
    # the manifest
    "no JSON": (lambda files: packed(files | {"manifest.json": b"{"}), "not JSON"),
    "no text": (lambda files: packed(files | {"manifest.json": b"\xff\xfe{}"}), "not JSON"),
    "deep": (lambda files: packed(files | {"manifest.json": b"[" * 10**6}), "not JSON"),
    "no object": (lambda files: packed(files | {"manifest.json": b"[]"}), "not an object"),
    "not a number": (lambda files: manifest_with(files, half_life=float("nan")), "not JSON"),
    "infinite": (
        lambda files: packed(
            files
            | {
                "manifest.json": files["manifest.json"].replace(
                    b'"half_life": 10.0', b'"half_life": 1e999'
                )
            }
        ),
        "half_life",
    ),
    **{
        f"no {key}": (partial(manifest_without, key=key), f"{key} is missing")
        for key in ("version", "number", "features", "files", "out_of_fold", "recipe", "libraries")
    },
    **{
        f"{key} {value!r}": (
            partial(manifest_with, **{key: value}),
            f"{key} cannot be",
        )
        for key, value in (
            *(
                ("version", 4),
                ("number", "4"),
                ("number", True),
                ("number", -1),
                ("number", 10**400),
            ),
            *(("reason", None), ("reason", "\x1b[2J"), ("parent", 3), ("trained_at", 1e300)),
            *(("features", {}), ("features", [1]), ("gate", []), ("out_of_fold", {"roc_auc": "x"})),
            *(("reliance", {"pH": None}), ("files", {"model.txt": 1}), ("parameters", {"a": []})),
        )
    },
    "another name of the model": (
        lambda files: manifest_with(files, version="../../v4-00000000"),
        "another version",
    ),
    "other counts": (lambda files: manifest_with(files, training_rows=1), "another version"),
    "more trees": (lambda files: manifest_with(files, trees=6), "another version"),
    "no log loss": (lambda files: manifest_with(files, out_of_fold={}), "not complete"),
    "unknown log loss": (
        lambda files: manifest_with(
            files,
            out_of_fold=json.loads(files["manifest.json"])["out_of_fold"] | {"log_loss": None},
        ),
        "not complete",
    ),
    "no reliance": (lambda files: manifest_with(files, reliance={}), "not complete"),
    "no units": (lambda files: manifest_with(files, units={}), "not complete"),
    "no hashes": (lambda files: manifest_with(files, files={}), "its files are"),
    "wrong hash": (
        lambda files: packed(files | {"rows.npy.z": files["reference.npy.z"]}),
        "rows.npy.z: its hash is wrong",
    ),
    # the model
    "no model": (lambda files: forged(files, {"model.txt": b"hello"}), "no trees"),
    "empty model": (lambda files: forged(files, {"model.txt": b""}), "no trees"),
    "bytes for a model": (lambda files: forged(files, {"model.txt": b"\xff" * 99}), "damaged"),
    "half a model": (
        lambda files: forged(files, {"model.txt": files["model.txt"][:2000]}),
        "damaged",
    ),
    "another objective": (
        lambda files: edited(files, "model.txt", b"objective=binary", b"objective=poisson"),
        "objective",
    ),
    "bad base": (lambda files: forged(files, {"base.txt": b"tree\n"}), "no trees"),
    # rows and reference
    "no rows": (lambda files: forged(files, {"rows.npy.z": b"x" * 99}), "rows.npy.z"),
    "pickled rows": (
        lambda files: forged(files, {"rows.npy.z": rows_of(np.array([[{}] * 13]))}),
        "damaged",
    ),
    "rows of text": (
        lambda files: forged(files, {"rows.npy.z": rows_of(np.full((9, 13), "1"))}),
        "damaged",
    ),
    "flat rows": (lambda files: forged(files, {"rows.npy.z": rows_of(np.zeros(9))}), "damaged"),
    "narrow rows": (
        lambda files: forged(files, {"rows.npy.z": rows_of(np.zeros((9, 5)))}),
        "float64 and shape (9, 3)",
    ),
    "coarse rows": (
        lambda files: forged(files, {"rows.npy.z": rows_of(np.ones((9, 13), np.float32))}),
        "float32",
    ),
    "rows with a gap": (
        lambda files: forged(files, {"rows.npy.z": rows_of(np.where(np.eye(13), np.nan, 1.0))}),
        "damaged",
    ),
    "features with a gap": (
        lambda files: forged(
            files, {"rows.npy.z": rows_of(np.where(np.arange(13) == 3, np.nan, np.ones((9, 13))))}
        ),
        "rows with gaps",
    ),
    "none of the rows": (
        lambda files: forged(files, {"rows.npy.z": rows_of(np.zeros((0, 13)))}),
        "float64 and shape (0, 11)",
    ),
    "no reference": (lambda files: forged(files, {"reference.json": b"{}"}), "damaged"),
    "list for a reference": (lambda files: forged(files, {"reference.json": b"[]"}), "damaged"),
    "other columns": (
        lambda files: reference_with(files, lambda s: s["reference"]["columns"].reverse()),
        "not one of its rows",
    ),
    "fewer columns": (
        lambda files: reference_with(files, lambda s: s["reference"]["quantiles"].pop()),
        "not one of its rows",
    ),
    "counts of another shape": (
        lambda files: reference_with(
            files, lambda s: s["reference"]["summary"]["profile"]["missing"].pop()
        ),
        "not one of its rows",
    ),
    "bins back to front": (
        lambda files: reference_with(files, lambda s: s["reference"]["edges"][0].reverse()),
        "bins",
    ),
    "no finite count": (
        lambda files: reference_with(
            files, lambda s: s["reference"]["summary"]["profile"]["counts"][3].__setitem__(2, 1e300)
        ),
        "counts",
    ),
    "no correlation": (
        lambda files: reference_with(
            files, lambda s: s["reference"]["correlation"][3].__setitem__(2, float("nan"))
        ),
        "correlations",
    ),
    "cut above all scores": (
        lambda files: reference_with(files, lambda s: s.update(cut=2.0)),
        "cut = 2.0",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_changes_nothing(
    cli: Cli, exported: Path, home: Path, tmp_path: Path, kind: str
) -> None:
    """It is told in a line with its name and a remedy; no home is made or changed by it."""
    make, problem = HOSTILE[kind]
    path = tmp_path / "hostile.tar"
    path.write_bytes(make(unpacked(exported)))
    before = content(home)
    for place in (home, tmp_path / "new"):
        error = told(cli("models", "import", path, "--home", place, code=2))
        assert error.startswith(f"error: {path}: ") and problem in error, error
    assert content(home) == before and not (tmp_path / "new").exists()
    assert not Path("/tmp/evil.txt").exists() and not list(tmp_path.rglob("evil*"))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_batch_number_that_is_none_is_refused(cli: Cli, exported: Path, tmp_path: Path) -> None:
    """NumPy would warn, and make some number of it."""
    files = unpacked(exported)
    packed_rows = np.load(io.BytesIO(zlib.decompress(files["rows.npy.z"])))
    packed_rows[0, -1] = np.nan
    path = tmp_path / "nan.tar"
    path.write_bytes(forged(files, {"rows.npy.z": rows_of(packed_rows)}))
    told_so = told(cli("models", "import", path, "--home", tmp_path / "new", code=2))
    assert "invalid value" in told_so


def test_what_is_forged_is_otherwise_fine(cli: Cli, exported: Path, tmp_path: Path) -> None:
    """The tests above refuse for what they changed: unchanged, such a file comes in."""
    path = tmp_path / "fine.tar"
    path.write_bytes(forged(unpacked(exported), {}, stranger="key"))
    cli("models", "import", path, "--home", tmp_path / "new")
    assert "stranger" not in cli("models", "show", "--home", tmp_path / "new").stdout


def test_no_file_and_no_regular_file(cli: Cli, tmp_path: Path) -> None:
    """A name without a file, a folder, and a pipe that nobody writes to are told."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent.tar", "pipe", "."):
        error = told(cli("models", "import", tmp_path / name, "--home", tmp_path / "new", code=2))
        assert "no file of that name" in error
    assert not (tmp_path / "new").exists()


def test_a_file_too_large_is_not_read(cli: Cli, tmp_path: Path) -> None:
    """Its size is enough."""
    path = tmp_path / "large.tar"
    with path.open("wb") as file:
        file.truncate(MOST + 1)
    assert "larger than" in told(cli("models", "import", path, "--home", tmp_path / "new", code=2))


# --- LightGBM's text ---


def trained(n_rows: int = 300) -> tuple[LabelledRows, str]:
    """Rows, and the text of a small model of them."""
    rng = np.random.default_rng(0)
    features = rng.random((n_rows, 3))
    rows = LabelledRows(features, features[:, 0] > 0.6, np.zeros(n_rows, int))
    return rows, train(rows, np.ones(n_rows), rounds=3, seed=0).text


def test_texts_of_our_models_pass() -> None:
    """A first model, a continued one, a refitted one, and one without a split."""
    rows, _ = trained()
    weight = np.ones(len(rows))
    first = train(rows, weight, rounds=3, seed=0)
    few = rows.take(slice(0, 15))
    for model in (
        first,
        train(rows, weight, rounds=3, seed=0, start=first),
        refit(first, rows, decay=0.5),
        train(few, np.ones(15), rounds=3, seed=0),
    ):
        check_trees(model.text, 3)
    assert "num_leaves=1\n" in train(few, np.ones(15), rounds=3, seed=0).text


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("max_feature_idx", "1", "max_feature_idx"),
        ("num_class", "3", "num_class"),
        ("feature_names", "a b c", "feature_names"),
        ("feature_infos", "none none", "feature_infos"),
        ("tree_sizes", "-5", "tree 0"),
        ("tree_sizes", "999999999", "tree 0"),
        ("num_leaves", "2000000", "tree 0: split_feature has"),
        ("num_leaves", "0", "another kind of tree"),
        ("num_cat", "1", "lines are not those"),
        ("is_linear", "1", "another kind of tree"),
        ("left_child", "0", "tree 0: left_child has"),
        ("leaf_value", "nan", "no numbers"),
        ("leaf_value", "1e+999", "no numbers"),
        ("threshold", "1_0", "no numbers"),
        ("internal_count", "1.5", "no whole numbers"),
    ],
)
def test_a_text_that_would_end_the_process_is_refused(key: str, value: str, problem: str) -> None:
    """Most of these end LightGBM with a signal, or make it read memory that is not its own."""
    _, text = trained()
    before, rest = text.split(f"\n{key}=", 1)
    damaged = f"{before}\n{key}={value}\n{rest.split(chr(10), 1)[1]}"
    if key not in ("tree_sizes", "max_feature_idx", "num_class", "feature_names", "feature_infos"):
        damaged = with_sizes(damaged)
    with pytest.raises(ValueError, match=problem):
        check_trees(damaged, 3)
    check_trees(with_sizes(text), 3)


@pytest.mark.parametrize(
    ("key", "change", "problem"),
    [
        ("left_child", lambda numbers: [0, *numbers[1:]], "tangled"),  # a circle
        ("left_child", lambda numbers: [99, *numbers[1:]], "tangled"),
        ("right_child", lambda numbers: [*numbers[:-1], -99], "tangled"),
        ("right_child", lambda numbers: numbers[::-1], "tangled"),
        ("split_feature", lambda numbers: [3, *numbers[1:]], "feature that is not there"),
        ("split_feature", lambda numbers: [-1, *numbers[1:]], "feature that is not there"),
        ("decision_type", lambda numbers: [1, *numbers[1:]], "another kind of split"),
    ],
)
def test_a_tree_that_leads_astray_is_refused(
    key: str, change: Callable[[list[int]], list[int]], problem: str
) -> None:
    """Every branch leads on to a node or leaf that is there, by a feature that is there."""
    _, text = trained()
    before, rest = text.split(f"\n{key}=", 1)
    numbers, rest = rest.split("\n", 1)
    changed = " ".join(map(str, change([int(each) for each in numbers.split()])))
    with pytest.raises(ValueError, match=f"tree 0: .*{problem}"):
        check_trees(with_sizes(f"{before}\n{key}={changed}\n{rest}"), 3)


@pytest.mark.parametrize(
    ("key", "change", "problem"),
    [
        ("threshold", lambda sets: sets.replace("1", "0"), "categories are tangled"),
        ("threshold", lambda sets: sets.replace("1", "9"), "categories are tangled"),
        ("num_cat", lambda sets: "9", "categories are tangled"),
        ("cat_boundaries", lambda ends: f"{ends} 9", "categories are damaged"),
        ("cat_boundaries", lambda ends: ends.replace("1", "0"), "categories are damaged"),
        ("cat_boundaries", lambda ends: f"{ends[:-1]}99", "categories are damaged"),
        ("cat_threshold", lambda words: f"{words} 1", "categories are damaged"),
        ("cat_threshold", lambda words: f"4294967296{words[1:]}", "categories are no bits"),
        ("cat_threshold", lambda words: f"-{words}", "categories are no bits"),
        ("decision_type", lambda kinds: kinds.replace("1", "2"), "another kind of split"),
    ],
)
def test_sets_of_categories_that_are_not_there_are_refused(
    key: str, change: Callable[[str], str], problem: str
) -> None:
    """LightGBM would read bits where none are, or take numbers for categories."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(6, size=(4000, 1)).astype(float)
    share = np.array([0.1, 0.9, 0.5, 0.3, 0.7, 0.2])[kinds[:, 0].astype(int)]
    rows = LabelledRows(kinds, rng.random(4000) < share, np.zeros(4000, dtype=np.int64))
    text = train(rows, np.ones(4000), rounds=3, seed=0, categorical=(0,)).text
    check_trees(text, 1, [6])
    with pytest.raises(ValueError, match="feature_infos"):
        check_trees(text, 1)
    tree = "\nTree=2\n"
    head, tail = text.split(tree)
    before, rest = tail.split(f"\n{key}=", 1)
    value, rest = rest.split("\n", 1)
    damaged = with_sizes(f"{head}{tree}{before}\n{key}={change(value)}\n{rest}")
    with pytest.raises(ValueError, match=problem):
        check_trees(damaged, 1, [6])


def test_a_set_with_more_bits_than_categories_is_refused() -> None:
    """It would make masks of any size."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(40, size=(4000, 1)).astype(float)
    rows = LabelledRows(kinds, rng.random(4000) < kinds[:, 0] / 40, np.zeros(4000, dtype=np.int64))
    text = train(rows, np.ones(4000), rounds=3, seed=0, categorical=(0,)).text
    check_trees(text, 1, [40])
    with pytest.raises(ValueError, match="not listed"):
        check_trees(text, 1, [31])


@pytest.mark.parametrize(
    "start", ["tree", "Tree=1", "shrinkage=", "parameters:", "[seed", "pandas"]
)
def test_a_torn_text_is_refused(start: str) -> None:
    """Wherever it ends too soon, or has a line too many."""
    _, text = trained()
    place = text.index(start)
    for damaged in (
        text[:place],
        text[: place + 3],
        text[:place] + "\n" + text[place:],
        text[:place] + "x\n" + text[place:],
        text[:place] + "\0" + text[place:],
    ):
        with pytest.raises(ValueError):
            check_trees(damaged, 3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\nTree=1\n", "\nTree=7\n"),
        ("\n[seed: 0]\n", "\n[seed: 0]\n[seed: 0]\n"),
        ("\n[seed: 0]\n", "\n[seed]\n"),
        ("\n[seed: 0]\n", "\n[seed: \x01]\n"),
        ("\n[seed: 0]\n", '\n[seed: "]\n'),
        ("\nversion=v4\n", "\nversion=v4\0\n"),
        ("\nversion=v4\n", "\nversion=v4=4\n"),
        ("tree\n", "tree=1\n"),
        ("\n\nTree=0\n", "\n=1\nTree=0\n"),
        ("\nversion=v4\n", "\nversion=v4\r\n"),
        ("\nversion=v4\n", "\nversion=v\u2463\n"),
    ],
)
def test_a_text_with_one_line_changed_is_refused(old: str, new: str) -> None:
    """What LightGBM would read in another way than this program, or not survive."""
    _, text = trained()
    assert old in text
    with pytest.raises(ValueError):
        check_trees(text.replace(old, new, 1), 3)


def with_sizes(text: str) -> str:
    """The text with its table of sizes made to fit its trees."""
    head, rest = text.split("\nTree=0\n", 1)
    trees, end = ("Tree=0\n" + rest).split("end of trees", 1)
    parts = [part for part in trees.replace("\nTree=", "\n\0Tree=").split("\0") if part]
    sizes = " ".join(str(len(part)) for part in parts)
    head = head.split("\ntree_sizes=")[0]
    return f"{head}\ntree_sizes={sizes}\n\n{trees}end of trees{end}"


def test_a_fault_after_a_rollback_leaves_what_others_judged(
    cli: Cli, record: Record, tmp_path: Path
) -> None:
    """Rows that waited when a version was replaced make no later batch suspicious."""
    home = ("--home", tmp_path / "home", "--source", "simulated")
    for _ in range(5):
        cli("run-batch", *home, "--batch-rows", 30)
    cli("train", *home[:2], "--force", "--min-positives", 5)
    for _ in range(3):
        cli("run-batch", *home, "--batch-rows", 30)
    cli("models", "rollback", *home[:2])
    cli("simulate", "--source", "simulated", "--scenario", "unit_change", "--out", tmp_path / "out")
    (bad,) = (tmp_path / "out").iterdir()
    done = record("run-batch", bad, *home[:2])
    assert done["decision"]["reasons"] == ["data_fault"]
    with Ledger.open(tmp_path / "home", read_only=True) as ledger:
        assert ledger.window_batches(since=0) == set(range(1, 9))


def test_a_replaced_champion_keeps_what_it_saw_last(
    cli: Cli, record: Record, home: Path, white_wine_csv: Path, tmp_path: Path
) -> None:
    """Its state is that after the batch that replaced it, for the day that it serves again."""
    header, *lines = white_wine_csv.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "white.csv"
    path.write_text("\n".join([header, *lines[:300], ""]), encoding="utf-8")
    with Ledger.open(home, read_only=True) as ledger:
        old = (ledger.champion() or {})["version"]
        before = ledger.detector(old)
    twin = Path(shutil.copytree(home, tmp_path / "twin"))
    assert record("run-batch", path, "--home", home)["retraining"]["outcome"] == "promoted"
    record("run-batch", path, "--home", twin, "--retrain", "never")
    states = []
    for each in (home, twin):
        with Ledger.open(each, read_only=True) as ledger:
            states.append(ledger.detector(old))
    assert states[0] == states[1] != before
