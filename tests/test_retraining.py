"""Training on the real table: honest scores, no leaks, and the same bits each time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from wine_drift import recipes
from wine_drift.detector import DRIFT, Detector, Limits, judge_drift
from wine_drift.errors import StateUnreadable
from wine_drift.gate import Candidate
from wine_drift.model import Model, Version, read_version, write_version
from wine_drift.outcomes import mean_log_loss
from wine_drift.recipes import RECIPES, Training
from wine_drift.retraining import Challenge, InHand, challenge, first_version, group_folds
from wine_drift.rows import LabelledRows, concatenate
from wine_drift.schema import Schema, parse_schema

HOW = Training(rounds=200, half_life=10.0, seed=0, threads=1, window_rows=20_000)
QUICK = replace(HOW, rounds=40)
FACTS: dict[str, Any] = {"reason": "first", "parent": None, "trained_at": 0.0, "dataset": "test"}


@pytest.fixture(scope="module")
def red_rows(red_wine_csv: Path) -> LabelledRows:
    """Every wine of the table, repeats included."""
    table = np.loadtxt(red_wine_csv, delimiter=";", skiprows=1)
    return LabelledRows(table[:, :11], table[:, 11] > 6.5, np.zeros(len(table), dtype=np.int64))


def schema_of(n_features: int, duplicates: str = "keep") -> Schema:
    """A schema of so many nameless features."""
    features = [{"name": f"x{j}"} for j in range(n_features)]
    target = {"column": "y", "positive": "> 0.5"}
    return parse_schema(
        {"name": "t", "duplicates": duplicates, "target": target, "feature": features}
    )


def shuffled(rows: LabelledRows, seed: int = 0) -> LabelledRows:
    """The rows in another order."""
    return rows.take(np.random.default_rng(seed).permutation(len(rows)))


def arriving(rows: LabelledRows, sequence: int, shift: float = 0.0) -> LabelledRows:
    """The rows as batch number `sequence`, one feature moved."""
    features = rows.features.copy()
    features[:, 0] += shift
    return LabelledRows(features, rows.positive, np.full(len(rows), sequence, dtype=np.int64))


def test_red_wine_is_as_hard_as_it_is(red_rows: LabelledRows) -> None:
    """Out of fold with repeats kept together: AUC 0.87 and log loss 0.275, not the leaked 0.92."""
    version = first_version(red_rows, schema_of(11), HOW, number=1, facts=FACTS)
    found = version.manifest["out_of_fold"]
    assert found["roc_auc"] == pytest.approx(0.87, abs=0.03)
    assert found["log_loss"] == pytest.approx(0.275, abs=0.02)
    binned = mean_log_loss(version.reference.summary.outcomes)
    assert binned == pytest.approx(found["log_loss"], rel=1e-3)
    assert sum(version.manifest["reliance"].values()) == pytest.approx(1)
    assert max(version.manifest["reliance"], key=version.manifest["reliance"].get) == "x10"
    assert version.cut == pytest.approx(217 / 1599)
    scores = version.model.score(red_rows.features)
    in_sample = roc_auc_score(red_rows.positive, scores)
    assert in_sample > found["roc_auc"] + 0.05  # which is why a reference must not use it
    assert log_loss(red_rows.positive, scores) < found["log_loss"] - 0.05


def test_repeats_would_leak_if_folds_parted_them(red_rows: LabelledRows) -> None:
    """Making each repeat a group of its own flatters the model by more than 0.02 of AUC."""
    rng = np.random.default_rng(1)
    apart = red_rows.features * (1 + 1e-9 * rng.random((len(red_rows), 1)))
    leaky = LabelledRows(apart, red_rows.positive, red_rows.sequence)
    honest, flattered = (
        first_version(rows, schema_of(11), HOW, number=1, facts=FACTS).manifest["out_of_fold"]
        for rows in (red_rows, leaky)
    )
    assert flattered["roc_auc"] > honest["roc_auc"] + 0.02


def test_training_gives_the_same_bits_each_time(red_rows: LabelledRows) -> None:
    """Two trainings agree in model, reference and name."""
    one, two = (first_version(red_rows, schema_of(11), HOW, number=1, facts=FACTS) for _ in "ab")
    assert one.model.text == two.model.text
    assert one.version == two.version
    assert one.reference.to_dict() == two.reference.to_dict()


def judged_by_all(n: int, seed: int, *, columns: int = 1) -> LabelledRows:
    """Rows of a table whose answer is a matter of all its columns, and of luck."""
    rng = np.random.default_rng(seed)
    features = rng.normal(10, 2, (n, columns)).round(3)
    signal = (features - 10).sum(axis=1) / columns**0.5
    positive = signal + rng.normal(0, 2, n) > 2
    return LabelledRows(features, positive, np.zeros(n, dtype=np.int64))


def watches_score(version: Version) -> bool:
    """Whether the score is a column of the reference."""
    return bool(version.reference.profile.counts[-1].sum())


def test_a_score_that_no_two_models_agree_on_is_not_monitored() -> None:
    """Of one column, or of five trees on two; with five columns and all trees it is."""
    made = {
        (columns, rounds): first_version(
            judged_by_all(600, 3, columns=columns),
            schema_of(columns),
            replace(HOW, rounds=rounds),
            number=1,
            facts=FACTS,
        )
        for columns, rounds in [(1, 200), (5, 200), (2, 5)]
    }
    assert [key for key, version in made.items() if watches_score(version)] == [(5, 200)]


def test_the_score_of_wines_is_monitored(red_rows: LabelledRows) -> None:
    """The models of its folds score alike."""
    assert watches_score(first_version(red_rows, schema_of(11), HOW, number=1, facts=FACTS))


def test_healthy_batches_of_one_column_raise_no_alarm() -> None:
    """Wherever the model that serves has its few scores."""
    limits = Limits(budget=1000, severity_drift=0.1, severity_major=0.25, min_rows=50)
    worst = 0
    for seed in range(4):
        version = first_version(judged_by_all(300, seed), schema_of(1), HOW, number=1, facts=FACTS)
        usual = version.reference
        state = Detector.fresh(usual).drift
        for n in range(8):
            rows = judged_by_all(200, 100 * seed + n + 10)
            scores = version.model.score(rows.features)
            labelled = np.ones(len(rows), dtype=bool)
            batch = usual.summarise(rows.features, scores, labelled, rows.positive).profile
            known = usual.profile, usual.correlation, usual.n_rows
            reading, state = judge_drift(*known, state, batch, limits)
            worst = max(worst, int(reading.status))
    assert worst < DRIFT


def test_too_few_of_a_kind_is_said() -> None:
    """Nine positives are not enough to train on."""
    positive = np.arange(200) < 9
    rows = LabelledRows(
        np.random.default_rng(0).normal(size=(200, 2)), positive, np.zeros(200, int)
    )
    with pytest.raises(ValueError, match="200 usable labelled rows, 9 of them positive"):
        first_version(rows, schema_of(2), HOW, number=1, facts=FACTS)


@pytest.fixture(scope="module")
def champion_and_rest(red_rows: LabelledRows):
    """A champion of 800 wines, and the other 799."""
    _, first = np.unique(red_rows.features, axis=0, return_index=True)
    rows = shuffled(red_rows.take(np.sort(first)))
    version = first_version(rows.take(slice(0, 800)), schema_of(11), HOW, number=1, facts=FACTS)
    return version, rows.take(slice(800, None))


def test_a_broken_relation_is_learnt(champion_and_rest) -> None:
    """After the answers are inverted, the challenger wins and its reference is the recent rows."""
    champion, rest = champion_and_rest
    batches = [
        LabelledRows(part.features, ~part.positive, part.sequence)
        for part in (arriving(rest.take(slice(k * 100, k * 100 + 100)), k + 1) for k in range(4))
    ]
    attempt = challenge(
        champion,
        InHand(champion, concatenate(batches, 11), schema_of(11), HOW, min_rows=100),
        schema_of(11),
        HOW,
        recipe="scratch",
        min_rows=100,
        alpha=0.1,
        number=2,
        facts=FACTS | {"parent": champion.version},
    )
    assert attempt.report.outcome == "promoted" and attempt.report.rows == 300
    challenger = attempt.challenger
    assert challenger is not None
    assert challenger.reference.n_rows == 300
    assert len(challenger.rows) == len(champion.rows) + 400
    assert challenger.version.startswith("v2-")


def test_on_healthy_data_the_champion_mostly_stays(champion_and_rest) -> None:
    """Challengers with a few more rows of the same kind are promoted about as rarely as alpha."""
    champion, rest = champion_and_rest
    promoted = 0
    for seed in range(12):
        rows = arriving(shuffled(rest, seed).take(slice(0, 150)), 1)
        attempt = challenge(
            champion,
            InHand(champion, rows, schema_of(11), replace(HOW, rounds=60, seed=seed), min_rows=100),
            schema_of(11),
            replace(HOW, rounds=60, seed=seed),
            recipe="scratch",
            min_rows=100,
            alpha=0.1,
            number=2,
            facts=FACTS,
        )
        promoted += attempt.report.outcome == "promoted"
    assert promoted <= 4


def test_a_version_survives_its_folder(champion_and_rest, tmp_path: Path) -> None:
    """What is read back scores, judges and explains itself as what was written."""
    champion, rest = champion_and_rest
    written = write_version(tmp_path, champion)
    again = read_version(tmp_path, written.manifest)
    assert (again.model.score(rest.features) == champion.model.score(rest.features)).all()
    assert again.reference.to_dict() == champion.reference.to_dict()
    assert again.reference_rows.to_bytes() == champion.reference_rows.to_bytes()
    assert again.cut == champion.cut
    assert again.rows.to_bytes() == champion.rows.to_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [champion.version]
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".joblib")]


FILES = ["model.txt", "base.txt", "reference.json", "reference.npy.z", "rows.npy.z"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["torn", "gone"])
def test_a_damaged_version_is_refused(
    quick: Version, batches: list[LabelledRows], tmp_path: Path, name: str, damage: str
) -> None:
    """A file that is not what was written is told by name, before anything reads it."""
    written = write_version(tmp_path, made(quick, batches[:3], recipe="continue"))
    assert sorted(written.manifest["files"]) == sorted(FILES)
    assert read_version(tmp_path, written.manifest).version == written.version
    path = tmp_path / written.version / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StateUnreadable, match=written.version):
        read_version(tmp_path, written.manifest)


def test_a_score_of_few_positives_is_not_monitored(red_rows: LabelledRows) -> None:
    """Below 50 positives the folds' models score unlike the one that serves: no column of its own.

    Quality is still judged by the out-of-fold scores.
    """
    few = np.concatenate(
        [np.flatnonzero(red_rows.positive)[:30], np.flatnonzero(~red_rows.positive)]
    )
    version = first_version(red_rows.take(few), schema_of(11), HOW, number=1, facts=FACTS)
    profile = version.reference.profile
    assert profile.counts[-1].sum() == profile.missing[-1] == 0
    assert version.reference.summary.outcomes.n_labelled == len(few)


def test_missing_values_that_are_usual_are_in_the_reference(red_rows: LabelledRows) -> None:
    """Rows with a gap train no model, but their share is what batches are compared with."""
    missing = np.zeros(11)
    missing[3] = 0.1
    version = first_version(red_rows, schema_of(11), HOW, number=1, facts=FACTS, missing=missing)
    profile = version.reference.profile
    share = profile.missing[3] / (profile.missing[3] + profile.counts[3].sum())
    assert share == pytest.approx(0.1, abs=0.001)
    assert profile.missing.sum() == profile.missing[3]


# --- challenges, with few trees to be quick ---


@pytest.fixture(scope="module")
def batches(red_rows: LabelledRows) -> list[LabelledRows]:
    """Seven batches of 120 wines that no champion knows, no wine twice."""
    _, first = np.unique(red_rows.features, axis=0, return_index=True)
    rows = shuffled(red_rows.take(np.sort(first)))
    return [arriving(rows.take(slice(k * 120, k * 120 + 120)), k) for k in range(1, 8)]


@pytest.fixture(scope="module")
def quick(red_rows: LabelledRows) -> Version:
    """A champion of few trees and 500 wines: those after the 960 that `batches` are cut from."""
    _, first = np.unique(red_rows.features, axis=0, return_index=True)
    rows = shuffled(red_rows.take(np.sort(first))).take(slice(-399, None))
    return first_version(rows, schema_of(11), QUICK, number=1, facts=FACTS)


def tried(champion: Version, parts: list[LabelledRows], **changes: Any) -> Challenge:
    """A challenge by these batches, with some argument other than usual."""
    usual = {
        "schema": schema_of(11),
        "how": QUICK,
        "recipe": "scratch",
        "alpha": 0.1,
        "min_rows": 100,
        "number": champion.manifest["number"] + 1,
        "facts": FACTS | {"parent": champion.version},
    }
    given = usual | changes
    schema, how, min_rows = (given[name] for name in ("schema", "how", "min_rows"))
    lessons = InHand(champion, concatenate(parts, 11), schema, how, min_rows=min_rows)
    return challenge(champion, lessons, **given)


def made(champion: Version, parts: list[LabelledRows], **changes: Any) -> Version:
    """The challenger of such a challenge, promoted whatever the gate says."""
    challenger = tried(champion, parts, force=True, **changes).challenger
    assert challenger is not None
    return challenger


def inverted(rows: LabelledRows) -> LabelledRows:
    """The rows with the opposite answers."""
    return replace(rows, positive=~rows.positive)


def test_the_report_tells_all_that_the_gate_saw(
    quick: Version, batches: list[LabelledRows]
) -> None:
    """Each recipe with its figures and what came of it; the manifest of the winner holds it all."""
    attempt = tried(quick, [inverted(batch) for batch in batches[:4]], recipe="auto")
    report, challenger = attempt.report, attempt.challenger
    assert challenger is not None
    assert (report.outcome, report.rows, report.forced) == ("promoted", 360, False)
    assert report.positives == sum(int((~batch.positive).sum()) for batch in batches[1:4])
    assert report.level == pytest.approx(0.1 / 3)
    gate_rows = concatenate([inverted(batch) for batch in batches[1:4]], 11)
    champion_loss = log_loss(gate_rows.positive, quick.model.score(gate_rows.features))
    assert report.champion_log_loss == pytest.approx(champion_loss)
    assert [each.recipe for each in report.candidates] == list(RECIPES)
    for each in report.candidates:
        assert each.error is None and each.outcome in ("won", "beaten")
        assert each.log_loss is not None and each.p_value is not None
        assert each.mean_gain == pytest.approx(champion_loss - each.log_loss)
        assert 0 <= each.p_value <= 1
        most = {"scratch": 40, "continue": 90, "refit": 40}[each.recipe]
        assert each.trees in range(most - 5, most + 1)  # some find nothing to split
    best = max(report.candidates, key=lambda each: each.mean_gain or 0.0)
    assert report.winner == best
    manifest = challenger.manifest
    assert (manifest["recipe"], manifest["trees"]) == (best.recipe, best.trees)
    assert manifest["out_of_fold"]["log_loss"] == pytest.approx(best.log_loss)
    assert json.loads(json.dumps(manifest["gate"])) == json.loads(json.dumps(asdict(report)))
    assert quick.manifest["gate"] is None and quick.manifest["recipe"] == "scratch"


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_winner_is_made_of_all_that_is_there(
    quick: Version, batches: list[LabelledRows], recipe: str
) -> None:
    """What serves is the recipe on the old rows and all new ones, those of the gate included."""
    challenger = made(quick, batches[:4], recipe=recipe)
    by_hand = RECIPES[recipe](quick.model, quick.rows, concatenate(batches[:4], 11), QUICK)
    assert challenger.model.text == by_hand.text
    assert (challenger.base is None) == (recipe == "scratch")
    everything = concatenate([quick.rows, *batches[:4]], 11)
    assert challenger.rows.to_bytes() == everything.to_bytes()
    digests = challenger.manifest["data_sha256"]
    packed = np.column_stack([everything.features, everything.positive, everything.sequence])
    assert digests["training"] == hashlib.sha256(packed.tobytes()).hexdigest()
    assert digests["reference"] == concatenate(batches[1:4], 11).digest()


def test_a_version_keeps_the_newest_rows(quick: Version, batches: list[LabelledRows]) -> None:
    """No more than window_rows of them, for its successors."""
    challenger = made(quick, batches[:4], how=replace(QUICK, window_rows=300))
    assert len(challenger.rows) == 300
    assert np.unique(challenger.rows.sequence, return_counts=True)[1].tolist() == [60, 120, 120]


@pytest.mark.parametrize(
    ("min_rows", "n_batches"), [(1, 3), (360, 3), (361, 4), (700, 6), (9999, 7)]
)
def test_the_gate_looks_at_three_batches_or_as_many_as_it_takes(
    quick: Version, batches: list[LabelledRows], min_rows: int, n_batches: int
) -> None:
    """The newest ones; older rows are learnt from and not compared on."""
    attempt = tried(quick, batches, min_rows=min_rows, force=True)
    assert attempt.report.rows == 120 * n_batches
    assert attempt.challenger is not None
    assert sorted(set(attempt.challenger.reference_rows.sequence)) == list(range(8 - n_batches, 8))


def test_scores_of_the_gate_are_out_of_fold(quick: Version, batches: list[LabelledRows]) -> None:
    """Each row is scored by a model of all rows but those of its fold, by hand."""
    challenger = made(quick, batches[:3])
    rows = concatenate(batches[:3], 11)
    scores = np.full(len(rows), np.nan)
    for training, held_out in group_folds(rows, 4, QUICK.seed):
        model = RECIPES["scratch"](None, quick.rows, rows.take(training), QUICK)
        scores[held_out] = model.score(rows.features[held_out])
    assert (challenger.reference_rows.features[:, -1] == scores).all()


@pytest.mark.parametrize("seed", range(5))
def test_folds_never_part_equal_features(seed: int) -> None:
    """Every row is held out once, rows with equal features together, each fold of either kind."""
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 5, size=(300, 3)).astype(float)  # 125 sets of features
    rows = LabelledRows(features, rng.random(300) < 0.2, np.zeros(300, dtype=np.int64))
    groups, held = rows.groups(), []
    for training, held_out in group_folds(rows, 4, seed):
        assert not set(groups[training]) & set(groups[held_out])
        assert sorted([*training, *held_out]) == list(range(300))
        assert 0.1 < rows.positive[held_out].mean() < 0.3
        held += held_out.tolist()
    assert sorted(held) == list(range(300))


# --- rows that say nothing new ---


def test_rows_of_the_champion_are_no_gate_rows(quick: Version, batches: list[LabelledRows]) -> None:
    """Where repeats say nothing, rows that were seen before are neither compared on nor counted.

    Those of the champion's training, those of an older batch, and those of the same batch; with
    the opposite answer a row is another one. Where repeats are kept, all of them are.
    """
    other = inverted(batches[0].take(slice(0, 10)))  # seen in batch 1, with another answer
    repeats = [
        replace(rows, sequence=np.full(len(rows), 4))
        for rows in (
            quick.rows.take(slice(0, 30)),
            batches[0].take(slice(20, 50)),
            batches[3].take(slice(0, 30)),
            other,
        )
    ]
    older = replace(quick.rows.take(slice(30, 40)), sequence=np.full(10, 1))
    history = [*batches[:4], *repeats, older, batches[0].take(slice(60, 70))]
    attempt = tried(quick, history, schema=schema_of(11, "reject"), force=True)
    assert attempt.report.rows == 3 * 120 + 10
    challenger = attempt.challenger
    assert challenger is not None
    assert len(challenger.rows) == len(quick.rows) + 4 * 120 + 10
    compared = replace(
        challenger.reference_rows, features=challenger.reference_rows.features[:, :-1]
    )
    assert not compared.seen_in(quick.rows).any()
    assert not compared.seen_in(batches[0]).any()
    assert other.seen_in(compared).all()
    kept = tried(quick, history, schema=schema_of(11, "keep"), force=True)
    assert kept.report.rows == 3 * 120 + 100


def test_too_little_that_is_new_waits(quick: Version, batches: list[LabelledRows]) -> None:
    """Fewer than four rows of a kind, once repeats are gone, are no comparison; four are."""
    reject = schema_of(11, "reject")
    known = replace(quick.rows, sequence=np.full(len(quick.rows), 1))
    everything = concatenate(batches, 11)
    everything = replace(everything, sequence=np.full(len(everything), 2))
    good, bad = (everything.take(np.flatnonzero(everything.positive == kind)) for kind in (1, 0))

    def outcome(*parts: LabelledRows) -> tuple[str, int, int]:
        attempt = tried(quick, list(parts), schema=reject, alpha=0.07, force=True)
        assert (attempt.challenger is None) == (attempt.report.outcome == "waiting")
        if attempt.challenger is None:
            assert attempt.report.candidates == () and attempt.report.winner is None
            assert attempt.report.champion_log_loss is None and attempt.report.error == ""
        return attempt.report.outcome, attempt.report.rows, attempt.report.positives

    assert outcome() == ("waiting", 0, 0)
    assert outcome(known) == ("waiting", 0, 0)
    assert outcome(bad, good.take(slice(0, 3))) == ("waiting", len(bad) + 3, 3)
    assert outcome(bad, good.take(slice(0, 3)), known) == ("waiting", len(bad) + 3, 3)
    assert outcome(good, bad.take(slice(0, 3))) == ("waiting", len(good) + 3, len(good))
    assert outcome(bad, good.take(slice(0, 4))) == ("promoted", len(bad) + 4, 4)


# --- what goes wrong ---


class Broken:
    """A recipe that fails at one of its calls."""

    def __init__(self, name: str, at: int) -> None:
        self.real, self.left, self.name = RECIPES[name], at, name

    def __call__(
        self, base: Model | None, old: LabelledRows, new: LabelledRows, how: Training
    ) -> Model:
        """Make a challenger, or fail."""
        self.left -= 1
        if self.left == 0:
            raise ArithmeticError(f"no {self.name} today")
        return self.real(base, old, new, how)


@pytest.mark.parametrize("at", [1, 4, 5], ids=["first fold", "last fold", "whole model"])
def test_a_recipe_that_fails_leaves_the_others_to_compete(
    quick: Version, batches: list[LabelledRows], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """It is told with its error; the others share the level, and one of them wins."""
    monkeypatch.setitem(dict_of_recipes(), "continue", Broken("continue", at))
    attempt = tried(quick, [inverted(batch) for batch in batches[:3]], recipe="auto")
    report = attempt.report
    assert report.outcome == "promoted" and attempt.challenger is not None
    assert [each.recipe for each in report.candidates] == ["scratch", "refit", "continue"]
    assert report.level == pytest.approx(0.05)
    assert report.candidates[-1] == Candidate(
        "continue", "failed", error="ArithmeticError: no continue today"
    )
    assert report.error == "continue: ArithmeticError: no continue today"
    assert {each.outcome for each in report.candidates[:2]} == {"won", "beaten"}
    assert attempt.challenger.manifest["recipe"] in ("scratch", "refit")


@pytest.mark.parametrize("recipe", ["scratch", "auto"])
@pytest.mark.parametrize("force", [False, True])
def test_where_all_fail_there_is_no_challenger(
    quick: Version,
    batches: list[LabelledRows],
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    force: bool,
) -> None:
    """Each with its error; force makes none either."""
    for name in RECIPES:
        monkeypatch.setitem(dict_of_recipes(), name, Broken(name, 2))
    attempt = tried(quick, batches[:3], recipe=recipe, force=force)
    tried_names = list(RECIPES) if recipe == "auto" else [recipe]
    assert attempt.challenger is None
    assert (attempt.report.outcome, attempt.report.rows) == ("failed", 360)
    assert attempt.report.candidates == tuple(
        Candidate(name, "failed", error=f"ArithmeticError: no {name} today") for name in tried_names
    )
    assert attempt.report.winner is None


def dict_of_recipes() -> dict[str, recipes.Recipe]:
    """The table of recipes itself, to put a broken one in."""
    assert isinstance(RECIPES, dict)
    return RECIPES


# --- what is forgotten ---


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_forgotten_is_told(
    quick: Version, batches: list[LabelledRows], champion_and_rest, recipe: str
) -> None:
    """Of a concept that is inverted the winner knows the old rows far worse than the champion did.

    On a stream that stays as it is, about as well: neither has seen the rows it is asked about.
    """
    how = replace(QUICK, half_life=1.0)
    flipped = tried(quick, [inverted(batch) for batch in batches], recipe=recipe, how=how)
    forgotten = flipped.report.forgetting
    assert flipped.report.outcome == "promoted" and forgotten is not None
    assert forgotten.rows == len(quick.reference_rows)
    known = quick.manifest["out_of_fold"]["log_loss"]
    assert forgotten.champion_log_loss == pytest.approx(known)
    assert forgotten.challenger_log_loss > known + 0.2
    champion, rest = champion_and_rest
    parts = [arriving(rest.take(slice(k * 50, k * 50 + 50)), k + 1) for k in range(3)]
    same = tried(champion, parts, recipe=recipe, how=HOW, force=True).report.forgetting
    known = champion.manifest["out_of_fold"]["log_loss"]
    assert same is not None
    assert same.champion_log_loss == pytest.approx(known)
    assert same.challenger_log_loss == pytest.approx(known, abs=0.02)


def test_what_is_forgotten_is_told_by_models_that_never_saw_the_row(
    quick: Version, batches: list[LabelledRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each old row is hidden once, with all that has its features, whatever the answer."""
    given: list[LabelledRows] = []

    def watched(base: Model | None, old: LabelledRows, new: LabelledRows, how: Training) -> Model:
        given.append(concatenate([old, new], 11))
        return recipes.scratch(base, old, new, how)

    monkeypatch.setitem(dict_of_recipes(), "scratch", watched)
    twins = replace(inverted(quick.rows), sequence=np.full(len(quick.rows), 3))
    tried(quick, [*batches[:3], twins], force=True)
    assert len(given) == 4 + 1 + 4
    known = [{tuple(row) for row in rows.features.tolist()} for rows in given]
    old = {tuple(row) for row in quick.rows.features.tolist()}
    assert all(old <= rows for rows in known[:-4])
    assert {sum(row not in rows for rows in known[-4:]) for row in old} == {1}


def test_what_was_forgotten_is_left_open_where_nothing_can_be_told(
    quick: Version, batches: list[LabelledRows]
) -> None:
    """A reference with fewer than four rows of a kind cannot be split."""
    reference = quick.reference_rows
    few = np.concatenate(
        [np.flatnonzero(~reference.positive), np.flatnonzero(reference.positive)[:3]]
    )
    report = tried(replace(quick, reference_rows=reference.take(few)), batches, force=True).report
    assert report.outcome == "promoted" and report.forgetting is None


# --- a change, and who is to confirm it ---


@pytest.mark.parametrize(
    ("changed_at", "min_rows", "first"),
    [
        pytest.param(0, 100, 5, id="no change"),
        pytest.param(6, 100, 6, id="two batches since"),
        pytest.param(7, 120, 7, id="one batch since, just enough"),
        pytest.param(7, 121, 5, id="one batch since, too small"),
        pytest.param(8, 1, 5, id="no row since"),
        pytest.param(2, 100, 5, id="longer ago than the gate looks"),
    ],
)
def test_the_reference_is_of_the_rows_since_the_change(
    quick: Version, batches: list[LabelledRows], changed_at: int, min_rows: int, first: int
) -> None:
    """Where there are enough of them; what the gate compares on stays the same."""
    attempt = tried(quick, batches, changed_at=changed_at, min_rows=min_rows, force=True)
    challenger = attempt.challenger
    assert challenger is not None and attempt.report.rows == 360
    assert sorted(set(challenger.reference_rows.sequence)) == list(range(first, 8))
    assert challenger.reference.n_rows == challenger.manifest["reference_rows"] == 120 * (8 - first)
    assert len(challenger.rows) == len(quick.rows) + 840
    whole = made(quick, batches)
    here = whole.reference_rows.sequence >= first
    assert challenger.reference_rows.to_bytes() == whole.reference_rows.take(here).to_bytes()


@pytest.mark.parametrize(("n_positive", "first"), [(9, 5), (10, 7)])
def test_a_reference_has_ten_of_either_kind(
    quick: Version, batches: list[LabelledRows], n_positive: int, first: int
) -> None:
    """With fewer positives since the change it is made of all that the gate compared on."""
    answers = np.arange(120) < n_positive
    parts = [*batches[:6], replace(batches[6], positive=answers)]
    challenger = made(quick, parts, changed_at=7)
    assert challenger.reference_rows.sequence.min() == first


def test_wrong_labels_of_one_batch_are_not_learnt(
    quick: Version, batches: list[LabelledRows]
) -> None:
    """What only the batch in doubt tells is not promoted; a change that goes on is."""
    bad, good = inverted(batches[0]), batches[1:3]
    assert tried(quick, [bad, *good]).report.outcome == "promoted"
    report = tried(quick, [bad, *good], confirm_after=1).report
    assert report.outcome == "rejected"
    assert [each.outcome for each in report.candidates] == ["unconfirmed"]
    assert tried(quick, [bad, *good], confirm_after=1, force=True).report.outcome == "promoted"
    lasting = [inverted(batch) for batch in batches[:3]]
    assert tried(quick, lasting, confirm_after=1).report.outcome == "promoted"
    assert tried(quick, lasting, confirm_after=3).report.outcome == "rejected"


def test_force_promotes_what_the_gate_would_not(
    quick: Version, batches: list[LabelledRows]
) -> None:
    """At a level that nothing passes the best candidate is promoted by force alone, as is told."""
    refused = tried(quick, batches, recipe="auto", alpha=1e-9)
    forced = tried(quick, batches, recipe="auto", alpha=1e-9, force=True)
    assert refused.report.outcome == "rejected" and refused.challenger is None
    assert refused.report.forgetting is None
    assert forced.report.outcome == "promoted" and forced.report.forced
    assert forced.challenger is not None and forced.challenger.manifest["gate"]["forced"]
    figures: list[Callable[[Candidate], object]] = [lambda c: c.recipe, lambda c: c.p_value]
    for figure in figures:
        assert list(map(figure, refused.report.candidates)) == list(
            map(figure, forced.report.candidates)
        )


def test_what_is_being_trained_is_told(quick: Version, batches: list[LabelledRows]) -> None:
    """One line before each model, by recipe and fold."""
    told: list[str] = []
    tried(quick, batches[:3], recipe="auto", force=True, progress=told.append)
    expected = []
    for name in RECIPES:
        folds = [f": fold {fold} of 4" for fold in range(1, 5)]
        expected += [f"training a challenger by {name}{fold}" for fold in (*folds, "")]
    assert told == [*expected, "looking for what was forgotten"]


def test_a_continued_version_survives_its_folder(
    quick: Version, batches: list[LabelledRows], tmp_path: Path
) -> None:
    """The model that it was continued from is read back with it, and is what the next one uses."""
    second = made(quick, batches[:3], recipe="continue")
    again = read_version(tmp_path, write_version(tmp_path, second).manifest)
    assert again.base is not None and again.scratch_base.text == quick.model.text
    assert again.model.n_trees == 90
    third, by_reading = (made(each, batches[3:6], recipe="refit") for each in (second, again))
    assert third.version == by_reading.version


def test_rows_sent_again_tell_no_challenger_its_answers() -> None:
    """On noise, a batch that comes twice wins nothing, also where repeats are kept."""
    promoted = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)

        def batch(n: int, sequence: int, rng: np.random.Generator = rng) -> LabelledRows:
            return LabelledRows(rng.normal(size=(n, 4)), rng.random(n) < 0.3, np.full(n, sequence))

        how = replace(HOW, rounds=60)
        champion = first_version(batch(600, 0), schema_of(4), how, number=1, facts=FACTS)
        older = batch(300, 1)
        again = replace(older, sequence=np.full(300, 5))
        history = concatenate([older, batch(60, 3), batch(60, 4), again], 4)
        attempt = challenge(
            champion,
            InHand(champion, history, schema_of(4), how, min_rows=100),
            schema_of(4),
            how,
            recipe="scratch",
            alpha=0.1,
            min_rows=100,
            number=2,
            facts=FACTS,
        )
        assert attempt.report.rows == 420
        promoted += attempt.report.outcome == "promoted"
    assert promoted <= 4  # all twelve, if the older copy is left in the training


def test_a_full_window_trains_on_what_it_tells(quick: Version, batches: list[LabelledRows]) -> None:
    """Rows beyond the window are not trained on, and the manifest counts those that are."""
    how = replace(HOW, rounds=quick.model.n_trees, window_rows=300)
    attempt = challenge(
        quick,
        InHand(quick, concatenate(batches[:3], 11), schema_of(11), how, min_rows=100),
        schema_of(11),
        how,
        recipe="scratch",
        alpha=0.1,
        min_rows=100,
        number=2,
        facts=FACTS,
        force=True,
    )
    version = attempt.challenger
    assert version is not None and len(version.rows) == 300
    assert version.manifest["training_rows"] == 300
    nothing = version.rows.take(slice(0, 0))
    assert recipes.scratch(None, nothing, version.rows, how).score(version.rows.features) == (
        pytest.approx(version.model.score(version.rows.features), abs=1e-12)
    )
