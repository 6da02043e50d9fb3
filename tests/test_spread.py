"""Challengers of rows that stay elsewhere: the gate is as honest as at home."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_shards import SCHEMA, WORDS, claimed, labelled, small, table, there  # noqa: F401 - fixtures

from wine_drift.dataset import load_schema
from wine_drift.errors import ClusterLost
from wine_drift.ledger import Ledger
from wine_drift.model import Version, train
from wine_drift.recipes import RECIPES, Training
from wine_drift.retraining import InHand, challenge, first_version
from wine_drift.rows import LabelledRows, concatenate, row_hashes
from wine_drift.schema import Schema
from wine_drift.shards import ShardWriter
from wine_drift.spread import Spread, evenly

Cli = Callable[..., Any]
Kept = Callable[..., dict[str, Any]]

HOW = Training(rounds=20, half_life=10.0, seed=0, threads=1, window_rows=100_000)
FACTS = {"reason": "test", "parent": None, "trained_at": 0.0, "dataset": "made"}


class AtHome:
    """Calls what it is given at once, and trains in this process."""

    def __init__(self) -> None:
        self.trained: list[tuple[np.ndarray[Any, Any], ...]] = []  # features, answers, weights

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Give what it gives."""
        return function(*arguments)

    def result(self, future: Any) -> Any:
        """Give it."""
        return future

    def train(
        self,
        parts: Sequence[Any],
        lengths: Sequence[int],
        n_features: int,
        *,
        rounds: int,
        seed: int,
        categorical: Sequence[int],
    ) -> str:
        """Train on all parts."""
        assert [len(part[1]) for part in parts] == list(lengths)
        features, answers, weights = map(np.concatenate, zip(*parts, strict=True))
        assert features.shape[1] == n_features
        self.trained.append((features, answers, weights))
        rows = LabelledRows(features, answers == 1, np.zeros(len(answers), dtype=np.int64))
        return train(
            rows, weights, rounds=rounds, seed=seed, threads=1, categorical=categorical
        ).text


@pytest.fixture
def schema(tmp_path: Path) -> Schema:
    """Two features; repeats are kept."""
    (tmp_path / "made.toml").write_text(SCHEMA)
    return load_schema(tmp_path / "made.toml")


def answered(n_rows: int, sequence: int, seed: int, *, slope: float = 2.0) -> LabelledRows:
    """Rows whose answers follow from the first feature."""
    rng = np.random.default_rng(seed)
    features = np.round(rng.normal(size=(n_rows, 2)), 6)
    positive = rng.random(n_rows) < 1 / (1 + np.exp(1 - slope * features[:, 0]))
    return LabelledRows(features, positive, np.full(n_rows, sequence))


def spread(
    place: Path,
    champion: Version,
    schema: Schema,
    how: Training,
    *,
    old: LabelledRows,
    new: LabelledRows,
    recent: LabelledRows,
    trainers: AtHome | None = None,
) -> Spread:
    """Lessons of rows in files of a hundred or so."""

    def written(name: str, rows: LabelledRows) -> Any:
        cut = (rows.take(slice(k, k + 100)) for k in range(0, len(rows), 100))
        writer = ShardWriter(place, name)
        return [writer.write(part) for part in cut]

    return Spread(
        trainers or AtHome(),
        place,
        champion,
        schema,
        how,
        old=written("old", old),
        new=written("new", new),
        recent=written("recent", recent),
        continued_from=2,
        most=10_000,
    )


def tried(
    champion: Version, lessons: Any, schema: Schema, how: Training = HOW, **changes: Any
) -> Any:
    """What comes of a challenge."""
    usual = {"recipe": "scratch", "alpha": 0.1, "min_rows": 100, "number": 2, "facts": FACTS}
    return challenge(champion, lessons, schema, how, **(usual | changes))


def champion_of(rows: LabelledRows, schema: Schema) -> Version:
    """A first version."""
    return first_version(rows, schema, HOW, number=1, facts=FACTS)


# --- what is held out ---


def test_as_at_home_where_recent_rows_are_few(tmp_path: Path, schema: Schema) -> None:
    """Same rows, same folds, same models, same report; but for what is not told."""
    old, new, recent = (answered(n, k, k, slope=-2.0) for k, n in enumerate((500, 300, 400)))
    champion = champion_of(old, schema)
    history = concatenate([replace(new, sequence=new.sequence), recent], 2)
    how = replace(HOW, half_life=2.0)
    at_home = tried(champion, InHand(champion, history, schema, how, min_rows=400), schema, how)
    # the last three batches are the gate's, so all of the history is
    lessons = spread(
        tmp_path, champion, schema, how, old=old, new=new.take(slice(0, 0)), recent=history
    )
    elsewhere = tried(champion, lessons, schema, how)
    assert replace(elsewhere.report, forgetting=None) == replace(at_home.report, forgetting=None)
    assert at_home.challenger is None or at_home.challenger.model == elsewhere.challenger.model


def test_categories_are_such_elsewhere_too(tmp_path: Path, schema: Schema) -> None:
    """Whoever trains is told which columns hold them."""

    def coded(rows: LabelledRows) -> LabelledRows:
        kinds = np.floor(5 * np.abs(rows.features[:, 1])) % 6
        return replace(rows, features=np.column_stack([rows.features[:, 0], kinds]))

    old, new, recent = (coded(answered(n, k, k)) for k, n in enumerate((500, 300, 400)))
    champion, how = champion_of(old, schema), replace(HOW, categorical=(1,))
    lessons = spread(tmp_path, champion, schema, how, old=old, new=new, recent=recent)
    for recipe in ("scratch", "continue"):
        model = lessons.train(recipe, lessons.folds()[0])
        assert "\n[categorical_feature: 1]\n" in model.text


def test_no_row_like_one_held_out_is_trained_on(tmp_path: Path, schema: Schema) -> None:
    """Whichever batch it came with, and whatever its answer was."""
    trainers = AtHome()
    recent = answered(300, 3, 3)
    twins = replace(recent.take(slice(0, 150)), sequence=np.full(150, 2))
    old = concatenate([answered(200, 0, 0), replace(twins, positive=~twins.positive)], 2)
    champion = champion_of(answered(200, 0, 0), schema)
    lessons = spread(
        tmp_path, champion, schema, HOW, old=old, new=twins, recent=recent, trainers=trainers
    )
    folds = lessons.folds()
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(300))
    for fold in folds:
        lessons.train("scratch", fold)
        hidden = row_hashes(lessons.recent.features[fold[1]])
        assert not np.isin(row_hashes(trainers.trained[-1][0]), hidden).any()
    lessons.train_to_serve("scratch", [])
    assert len(trainers.trained[-1][0]) == len(old) + len(twins) + len(recent)


def test_a_share_of_many_recent_rows_is_held_out_once(
    tmp_path: Path, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that was tested is the one that serves; like rows are on one side."""
    for module in ("spread", "retraining"):
        monkeypatch.setattr(f"wine_drift.{module}.GATE_ROWS", 400)
    trainers = AtHome()
    recent = answered(4_000, 3, 3)
    recent = concatenate([recent, recent.take(slice(0, 2_000))], 2)
    champion = champion_of(answered(500, 0, 0, slope=-1.0), schema)
    lessons = spread(
        tmp_path,
        champion,
        schema,
        HOW,
        old=champion.rows,
        new=answered(100, 2, 2),
        recent=recent,
        trainers=trainers,
    )
    attempt = tried(champion, lessons, schema)
    assert attempt.report.outcome == "promoted" and attempt.report.forgetting is None
    ((features, _, _),) = trainers.trained
    held_out = lessons.recent
    assert 250 < len(held_out) < 600 and len(features) == 6_600 - len(held_out)
    assert not np.isin(row_hashes(features), row_hashes(held_out.features)).any()
    made = attempt.challenger
    assert made.manifest["training_rows"] == 6_600 and len(made.shards) == 66
    assert made.reference.n_rows == len(held_out)
    assert made.learnt.newest == 3 and made.learnt.n_rows == 6_600


def test_a_share_is_held_out_at_home_too(
    tmp_path: Path, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows, and no row like one of them is trained on; nearly the same comes of it."""
    for module in ("spread", "retraining"):
        monkeypatch.setattr(f"wine_drift.{module}.GATE_ROWS", 400)
    recent = answered(4_000, 3, 3)
    recent = concatenate([recent, recent.take(slice(0, 2_000))], 2)
    champion = champion_of(answered(500, 0, 0, slope=-1.0), schema)
    new = answered(100, 2, 2)
    elsewhere = spread(tmp_path, champion, schema, HOW, old=champion.rows, new=new, recent=recent)
    monkeypatch.setattr("wine_drift.retraining.GATE_BATCHES", 1)
    history = concatenate([new, recent], 2)
    at_home = InHand(champion, history, schema, HOW, min_rows=100)
    trained = []

    def noted(base: Any, old: LabelledRows, seen: LabelledRows, how: Training) -> Any:
        trained.append(concatenate([old, seen], 2))
        return RECIPES["scratch"](base, old, seen, how)

    with monkeypatch.context() as patch:
        patch.setattr("wine_drift.retraining.RECIPES", {"scratch": noted})
        one = tried(champion, at_home, schema)
    two = tried(champion, elsewhere, schema)
    assert sorted(at_home.recent.features.tolist()) == sorted(elsewhere.recent.features.tolist())
    ((rows,), held_out) = trained, at_home.recent
    assert len(rows) == 6_600 - len(held_out)
    assert not np.isin(row_hashes(rows.features), row_hashes(held_out.features)).any()
    assert one.report.outcome == two.report.outcome == "promoted"
    assert one.report.candidates[0].log_loss == pytest.approx(
        two.report.candidates[0].log_loss, abs=2e-3
    )
    assert one.challenger.manifest["training_rows"] == 6_600 and one.report.forgetting is None


def test_few_kinds_of_rows_each_many_times(
    tmp_path: Path, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then kinds are held out, and what comes here stays bounded."""
    for module in ("spread", "retraining"):
        monkeypatch.setattr(f"wine_drift.{module}.GATE_ROWS", 300)
    rng = np.random.default_rng(4)
    kinds = np.round(rng.normal(size=(40, 2)), 3)
    features = kinds[rng.integers(0, 40, 20_000)]
    positive = rng.random(20_000) < 1 / (1 + np.exp(-3 * features[:, 0]))
    recent = LabelledRows(features, positive, np.full(20_000, 3))
    champion = champion_of(answered(500, 0, 0, slope=-1.0), schema)
    lessons = spread(
        tmp_path, champion, schema, HOW, old=champion.rows, new=recent.take([]), recent=recent
    )
    assert len(np.unique(lessons.recent.features, axis=0)) >= 3
    assert 100 < len(lessons.recent) <= 4 * 300 + 200
    assert tried(champion, lessons, schema).report.outcome == "promoted"


def test_rows_that_the_champion_knows_are_not_compared_on(tmp_path: Path, schema: Schema) -> None:
    """Where repeats are accidents: features and answer, in any of its files."""
    schema = replace(schema, reject_duplicates=True)
    old, new, recent = answered(300, 1, 1), answered(250, 2, 2), answered(200, 3, 3)
    again = concatenate([old.take(slice(0, 50)), new.take(slice(200, 230))], 2)
    other = replace(old.take(slice(60, 70)), positive=~old.positive[60:70])
    champion = champion_of(old, schema)
    late = concatenate([recent, again, other, recent.take(slice(0, 20))], 2)
    late = replace(late, sequence=np.full(len(late), 3))
    lessons = spread(tmp_path, champion, schema, HOW, old=old, new=new, recent=late)
    expected = {*row_hashes(recent.features), *row_hashes(other.features)}
    assert len(lessons.recent) == 210 and {*row_hashes(lessons.recent.features)} == expected


def test_older_rows_weigh_less(tmp_path: Path, schema: Schema) -> None:
    """By the age of their batch, as at home."""
    trainers = AtHome()
    how = replace(HOW, half_life=2.0)
    old, new, recent = answered(100, 0, 0), answered(110, 4, 2), answered(120, 6, 3)
    champion = champion_of(old, schema)
    lessons = spread(
        tmp_path, champion, schema, how, old=old, new=new, recent=recent, trainers=trainers
    )
    lessons.train_to_serve("scratch", [])
    weights = trainers.trained[-1][2].tolist()
    assert weights == [0.125] * 100 + [0.5] * 110 + [1.0] * 120


@pytest.mark.parametrize("recipe", ["continue", "refit"])
def test_other_recipes_learn_here(tmp_path: Path, schema: Schema, recipe: str) -> None:
    """From the newest batches, and from nothing that is held out."""
    trainers = AtHome()
    old, new, recent = answered(500, 1, 1), answered(300, 2, 2), answered(300, 3, 3, slope=-2.0)
    champion = champion_of(old, schema)
    lessons = spread(
        tmp_path, champion, schema, HOW, old=old, new=new, recent=recent, trainers=trainers
    )
    attempt = tried(champion, lessons, schema, recipe=recipe, force=True)
    assert attempt.challenger.base == champion.model and not trainers.trained
    (candidate,) = attempt.report.candidates
    assert (candidate.trees > 20) == (recipe == "continue") and candidate.trees <= 70
    assert candidate.mean_gain > 0


def test_all_recipes_compete(tmp_path: Path, schema: Schema) -> None:
    """And one that fails leaves the others."""
    old, new, recent = answered(500, 1, 1), answered(300, 2, 2), answered(300, 3, 3, slope=-2.0)
    champion = champion_of(old, schema)

    class Broken(AtHome):
        def train(self, *arguments: Any, **words: Any) -> str:
            raise ClusterLost("gone", remedy="none")

    lessons = spread(
        tmp_path, champion, schema, HOW, old=old, new=new, recent=recent, trainers=Broken()
    )
    report = tried(champion, lessons, schema, recipe="auto").report
    outcomes = {each.recipe: each.outcome for each in report.candidates}
    assert outcomes["scratch"] == "failed" and "won" in outcomes.values()
    assert "ClusterLost: gone" in report.error


@pytest.mark.parametrize("gate_rows", [50, 1 << 16])
def test_noise_is_not_promoted(
    tmp_path: Path, schema: Schema, monkeypatch: pytest.MonkeyPatch, gate_rows: int
) -> None:
    """Each row comes twice and its answer tells nothing: only a leak could gain by it."""
    for module in ("spread", "retraining"):
        monkeypatch.setattr(f"wine_drift.{module}.GATE_ROWS", gate_rows)
    promoted = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = labelled(250, 3, seed)
        twice = rows.take(np.tile(np.arange(250), 2)[rng.permutation(500)])
        old = labelled(300, 0, 1_000 + seed)
        champion = champion_of(old, schema)
        how = replace(HOW, rounds=60, seed=seed)
        lessons = spread(tmp_path, champion, schema, how, old=old, new=rows.take([]), recent=twice)
        promoted += tried(champion, lessons, schema, how).report.outcome == "promoted"
    assert promoted <= 5  # nearly all, if one of two like rows is trained on


def test_hashes_are_spread_evenly() -> None:
    """Whatever the rows are: a share of them is that share."""
    grid = np.stack(np.meshgrid(np.arange(200.0), np.arange(100.0)), axis=-1).reshape(-1, 2)
    for rows in (grid, grid / 100, np.random.default_rng(0).normal(size=(20_000, 2))):
        numbers = evenly(row_hashes(rows))
        assert numbers.min() >= 0 and numbers.max() < 1
        assert stats.kstest(numbers, "uniform").pvalue > 1e-3


# --- homes ---


@pytest.fixture
def at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, request: pytest.FixtureRequest
) -> Path:
    """A folder with a home that was trained on 600 rows, and a cluster that is this process."""
    monkeypatch.chdir(tmp_path)
    Path("made.toml").write_text(SCHEMA)
    table("first.csv", 600, 1)
    cli("train", "--home", "home", "--data", "first.csv", *WORDS[:-1])

    @contextlib.contextmanager
    def connected(*arguments: Any, **words: Any) -> Iterator[AtHome]:
        yield AtHome()

    if "a_real_cluster" not in request.node.name:
        monkeypatch.setattr("wine_drift.cluster.connected", connected)
    return tmp_path


DASK = ("--engine", "dask", "--memory-rows", 1_000)


def fed(cli: Cli, seeds: Sequence[int], *words: object, home: str = "home") -> None:
    """Batches of 500 rows whose answers are turned round."""
    for seed in seeds:
        batch = table(f"{home}-{seed}.csv", 500, seed, turned=True)
        cli("run-batch", batch, "--home", home, *WORDS, *words)


def champion(home: str = "home") -> dict[str, Any]:
    """Its manifest."""
    with Ledger.open(Path(home), read_only=True) as ledger:
        found = ledger.champion()
    assert found is not None
    return found


@pytest.mark.parametrize("in_files", [False, True])
def test_a_window_that_does_not_fit(
    at: Path, cli: Cli, request: pytest.FixtureRequest, in_files: bool
) -> None:
    """All of its rows are learnt from, wherever they were; the next one begins with them."""
    if in_files:
        request.getfixturevalue("small")
    fed(cli, [2, 3, 4], "--retrain", "never")
    assert bool(there()) == in_files
    cli("train", "--home", "home", "--force", *DASK, *WORDS[:-1])
    first = champion()
    assert first["number"] == 2 and first["training_rows"] == 600 + 1_500
    assert sum(shard[1] for shard in first["shards"]) == 2_100
    assert claimed() == there() >= {shard[0] for shard in first["shards"]}
    fed(cli, [5, 6], "--retrain", "never", *DASK)
    cli("train", "--home", "home", "--force", *DASK, *WORDS[:-1])
    second = champion()
    assert second["number"] == 3 and second["training_rows"] == 3_000 + 100  # by whole files
    assert claimed() == there()


def test_a_rejected_challenger_leaves_nothing(at: Path, cli: Cli) -> None:
    """Files that were written for it go."""
    words = ("--home", "large", *WORDS, *DASK)
    cli("train", "--home", "large", "--data", table("second.csv", 2_500, 7), *WORDS[:-1])
    cli("run-batch", table("b.csv", 200, 8), *words, "--retrain", "never")
    words = ("--home", "large", "--gate-alpha", 1e-6, *DASK, *WORDS[:-1])
    told = cli("train", *words, "--json").stdout
    assert json.loads(told)["retraining"]["outcome"] == "rejected"
    assert there("large") == claimed("large") == set()
    assert Path("large/models/window").is_dir()  # there were some


def test_a_cluster_that_is_lost(at: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is recorded, the champion serves on, and the run says so."""

    def lost(*arguments: Any, **words: Any) -> Any:
        raise ClusterLost("no scheduler", remedy="start one")

    fed(cli, [2, 3, 4], "--retrain", "never")
    monkeypatch.setattr("wine_drift.cluster.connected", lost)
    words = (*WORDS, *DASK, "--retrain", "force")
    result = cli("run-batch", table("b.csv", 500, 5), "--home", "home", *words, code=9)
    assert "no scheduler" in result.stderr and champion()["number"] == 1
    assert "retrain: failed" in cli("status", "--home", "home").stdout


@pytest.mark.usefixtures("small")
def test_after_a_cluster_at_home_again(at: Path, cli: Cli) -> None:
    """The newest rows of its files are what a home without one learns from; a rollback works."""
    fed(cli, [2, 3, 4], "--retrain", "never")
    cli("train", "--home", "home", "--force", *DASK, *WORDS[:-1])
    made = champion()
    fed(cli, [5], "--retrain", "never")
    cli("train", "--home", "home", "--force", *WORDS[:-1], "--memory-rows", 1_000)
    assert champion()["training_rows"] == 1_000 and "shards" not in champion()
    cli("models", "rollback", "--home", "home")
    assert champion()["version"] == made["version"]
    cli("train", "--home", "home", "--force", *WORDS[:-1])
    assert champion()["training_rows"] == 600 + 2_000
    assert claimed() == there()


@pytest.mark.usefixtures("small")
def test_a_version_of_many_rows_travels(at: Path, cli: Cli) -> None:
    """With a sample of them, which its successors elsewhere learn from."""
    fed(cli, [2, 3, 4], "--retrain", "never")
    cli("train", "--home", "home", "--force", *DASK, *WORDS[:-1])
    made = champion()["version"]
    cli("models", "export", made, "--home", "home", "--out", "made.tar")
    table("first.csv", 600, 1)
    cli("models", "import", "made.tar", "--home", "other", "--schema", "made.toml")
    there_now = champion("other")
    assert there_now["training_rows"] == 2_100 and "shards" not in there_now
    assert there_now["gate"]["rows"] == champion()["gate"]["rows"]
    cli("run-batch", table("b.csv", 500, 9), "--home", "other", *WORDS)
    again = cli("models", "import", "made.tar", "--home", "home", "--schema", "made.toml")
    assert "already" in again.stdout  # it is known where it was made


@pytest.mark.usefixtures("small")
def test_pruned_versions_claim_nothing(at: Path, cli: Cli) -> None:
    """Files go with the last version that was trained on them."""
    for k in range(4):
        fed(cli, [10 + k, 20 + k, 30 + k], "--retrain", "never")
        cli("train", "--home", "home", "--force", *DASK, *WORDS[:-1])
    before = there()
    assert before == claimed()
    cli("models", "prune", "--home", "home", "--keep-versions", 1)
    kept = {shard[0] for shard in champion()["shards"]}
    assert kept <= there() == claimed() < before


@pytest.mark.usefixtures("small")
def test_repair_of_a_version_that_lost_rows(at: Path, cli: Cli) -> None:
    """It serves on; its successor learns from the rest."""
    fed(cli, [2, 3, 4], "--retrain", "never")
    cli("train", "--home", "home", "--force", *DASK, *WORDS[:-1])
    (lost,) = [s for s in champion()["shards"] if s[0].startswith("v2-old-00001")]
    Path("home/models/window", lost[0]).unlink()
    assert f"{lost[1]} labelled rows" in cli("repair", "--home", "home").stdout
    fed(cli, [5], "--retrain", "never")
    cli("train", "--home", "home", "--force", *DASK, *WORDS[:-1])
    assert champion()["training_rows"] == 2_600 - lost[1]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("models", ["home/models", "file://{at}/elsewhere"])
def test_a_real_cluster_learns_from_all_rows(
    at: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, models: str
) -> None:
    """By itself, after a batch of many files; the challenger is as good as one made at home."""
    pytest.importorskip("distributed")
    if "://" in models:
        shutil.move("home/models", "elsewhere")
        monkeypatch.setenv("WINE_DRIFT_MODELS", models.format(at=at))
    fed(cli, [2, 3, 4], "--retrain", "never")
    shutil.copytree("home", "other")
    for k in range(2):
        table(f"parts-{k}.csv", 400, 8 + k, turned=True)
    words = ("parts-*.csv", *WORDS, "--retrain", "force", "--engine", "dask", "--threads", 2)
    cli("run-batch", *words, "--home", "home", "--memory-rows", 1_000)
    if "://" in models:  # such a place belongs to one ledger
        shutil.copytree("elsewhere", "other-place")
        monkeypatch.setenv("WINE_DRIFT_MODELS", f"file://{at}/other-place")
    cli("run-batch", *words, "--home", "other")
    spread, at_home = champion("home"), champion("other")
    assert spread["training_rows"] == at_home["training_rows"] == 600 + 1_500 + 800
    assert sum(shard[1] for shard in spread["shards"]) == 2_900 and "shards" not in at_home
    gates = [each["gate"] for each in (spread, at_home)]
    assert gates[0]["rows"] == gates[1]["rows"]
    ours, theirs = (gate["candidates"][0]["log_loss"] for gate in gates)
    assert ours == pytest.approx(theirs, abs=0.02)
    window = Path("elsewhere" if "://" in models else "home/models", "window")
    assert claimed() <= {path.name for path in window.iterdir()}
