"""One verdict: what is told, how heavy it is, and that alerts agree."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from wine_drift.policy import Change, Labels
from wine_drift.settings import Settings
from wine_drift.snapshot import Snapshot
from wine_drift.standing import Standing, standing
from wine_drift.verdict import ACT, HEALTHY, LOOK, Finding, Verdict, verdict

NOW = 1_000_000.0
RUN = {
    "success": True,
    "outcome": "processed",
    "finished_at": NOW - 60,
    "interval": 900.0,
    "next_run": NOW + 840,
    "schedule": "every 900 s",
}
STUCK = {"feature": "pH", "kind": "stuck", "share": 1.0, "usual": 0.03, "detail": None}
RULES = Path(__file__).parents[1] / "compose" / "prometheus" / "rules" / "wine-drift.yml"


def column(name: str, severity: float) -> dict[str, Any]:
    """Of a record."""
    told = {"name": name, "severity": severity, "log10_evidence": 9.0, "reliance": 0.1}
    return told | {"drifted": severity >= 0.1}


def record(
    drift: str = "ok",
    *reasons: str,
    quality: str = "ok",
    tried: dict[str, Any] | None = None,
    faults: tuple[dict[str, Any], ...] = (),
    faulty_share: float = 0.0,
    number: int = 5,
    by: str = "v1-0",
) -> dict[str, Any]:
    """As much of a record as a verdict looks at."""
    return {
        "outcome": "processed",
        "batch": {"sequence": number, "name": "five.csv", "faulty_share": faulty_share},
        "model": {"version": by},
        "drift": {
            "status": drift,
            "faults": list(faults),
            "features": [column("pH", 0.02), column("alcohol", 0.5), column("density", 0.2)],
        },
        "quality": {"status": quality},
        "decision": {"action": "keep", "reasons": list(reasons or ("no_drift",))},
        "retraining": tried,
        "labels": None,
        "error": None,
        "thresholds": {"batch_wait": 5000.0, "label_wait": 5000.0, "max_set_aside": 0.2},
    }


def snapshot(told: dict[str, Any] | None = None, **parts: Any) -> Snapshot:
    """Of a home whose last run ended well a minute ago, with this record."""
    usual = Snapshot(
        record=told or record(),
        batch_at=NOW - 60,
        champion={"version": "v1-0"},
        run=RUN,
        last_success=NOW - 60,
    )
    return replace(usual, **parts)


def failed(outcome: str) -> dict[str, Any]:
    """A run that did not end well."""
    return RUN | {"success": False, "outcome": outcome}


PROMOTED = {"outcome": "promoted", "challenger": "v2-1"}
FAILED = {"outcome": "failed", "error": "no room", "gate": None}
REFUSED = {"outcome": "quarantined", "batch": {"name": "bad.csv"}, "error": "no rows"}
MAJOR = record("major", "drift_major")
CASES: dict[str, tuple[Snapshot, dict[str, Any] | None, str, list[str], str]] = {
    "nothing yet": (Snapshot(), None, LOOK, ["absent"], "nothing has run here yet"),
    "trained only": (snapshot(run=None, record=None), None, LOOK, ["absent"], "no run yet"),
    "only idle runs": (snapshot(record=None), None, HEALTHY, [], "waits for its first batch"),
    "all well": (
        snapshot(),
        None,
        HEALTHY,
        [],
        "batch 5: no evidence of drift .* quality is as it",
    ),
    "too little": (
        snapshot(record("not_judged", "too_few_rows", quality="not_judged")),
        *(None, HEALTHY, [], "too few rows to judge drift; quality is not judged yet"),
    ),
    "nothing waited": (
        snapshot(run=RUN | {"outcome": "nothing_waiting"}),
        *(None, HEALTHY, [], "batch 5"),
    ),
    "a hint": (snapshot(record("warn", "drift_warn")), None, HEALTHY, [], "may be changing"),
    "overdue": (
        snapshot(last_success=NOW - 1801),
        *(None, ACT, ["overdue"], "no run has ended well for 30 min, .* every 15 min"),
    ),
    "late": (
        snapshot(run=RUN | {"interval": 1e6, "next_run": NOW - 3601}),
        *(None, ACT, ["run_not_started"], "a run was due 1.0 h ago"),
    ),
    "ended": (snapshot(run=failed("deadline")), None, ACT, ["run_failed"], "last run failed: dead"),
    "refused": (
        snapshot(run=failed("quarantined")),
        *(REFUSED, ACT, ["run_failed"], "batch bad.csv is in quarantine: no rows"),
    ),
    "refused, then nothing waited": (
        snapshot(run=RUN | {"outcome": "nothing_waiting"}),
        *(REFUSED, ACT, ["run_failed"], "batch bad.csv is in quarantine: no rows"),
    ),
    "refused, then another failure": (
        snapshot(run=failed("FileUnreadable")),
        *(REFUSED, ACT, ["run_failed", "run_failed"], "batch bad.csv is in quarantine: no rows"),
    ),
    "no challenger": (
        snapshot(
            record("major", "drift_major", tried=FAILED),
            run=failed("retraining_failed"),
        ),
        *(None, ACT, ["retrain_failed", "major_drift"], "goes on serving: no room"),
    ),
    "no batches": (
        snapshot(batch_at=NOW - 5001),
        *(None, ACT, ["no_batch"], "no new batch for 1.4 h"),
    ),
    "fault": (
        snapshot(record("major", "data_fault", faults=(STUCK, STUCK), faulty_share=0.2)),
        *(None, ACT, ["data_fault", "rows_rejected"], "at fault: pH: stuck, .*, and 1 more"),
    ),
    "drift": (
        snapshot(record("drift", "drift")),
        *(None, LOOK, ["drift"], r"the data has drifted \(alcohol, density\)$"),
    ),
    "learnt": (
        snapshot(
            record("major", "drift_major", tried=PROMOTED),
            champion={"version": "v2-1"},
        ),
        *(None, LOOK, ["major_drift"], r"a lot \(alcohol, density\); v2-1 has learnt from it"),
    ),
    "no better": (
        snapshot(record("major", "drift_major", tried={"outcome": "rejected"})),
        *(None, LOOK, ["major_drift"], "tried and is no better"),
    ),
    "few labels": (
        snapshot(record("major", "drift_major", "waiting_for_labels"), waiting_since=NOW - 4999),
        *(None, LOOK, ["major_drift"], "retraining waits for more labelled rows"),
    ),
    "no labels": (
        snapshot(record("major", "drift_major", "waiting_for_labels"), waiting_since=NOW - 5001),
        *(None, ACT, ["waiting_for_labels", "major_drift"], "waited for labels for 1.4 h"),
    ),
    "switched off": (
        snapshot(record("major", "drift_major", "retrain_never")),
        *(None, ACT, ["major_drift"], "retraining is switched off"),
    ),
    "worse": (
        snapshot(labelled=record(quality="drop"), decision={"reasons": ["unconfirmed"]}),
        *(None, LOOK, ["quality_drop"], "clearly worse than the reference; answers changed in one"),
    ),
    "both": (
        snapshot(record("major", "quality_drop", quality="drop")),
        *(None, LOOK, ["quality_drop", "major_drift"], "clearly worse"),
    ),
    "followed up": (
        snapshot(record("ok", "follow_up", tried=PROMOTED), champion={"version": "v2-1"}),
        *(None, HEALTHY, [], "more rows to learn from now; .*; v2-1 serves from now on"),
    ),
    "rolled back": (
        snapshot(record("major", "drift_major", tried=PROMOTED)),
        *(None, LOOK, ["major_drift"], "v2-1 has learnt from it, but v1-0 serves again$"),
    ),
    "rolled back further": (
        snapshot(record("major", "drift_major", tried=PROMOTED), champion={"version": "v0-0"}),
        *(None, LOOK, ["major_drift"], "; v0-0 has taken over since$"),
    ),
    "trained by hand": (
        snapshot(
            record("major", "drift_major", "retrain_never", quality="drop"),
            champion={"version": "v2-1"},
            waiting_since=NOW - 5001,
        ),
        *(None, LOOK, ["quality_drop", "major_drift"], "reference; v2-1 has taken over since$"),
    ),
    "trained by hand in calm": (
        snapshot(champion={"version": "v2-1"}),
        *(None, HEALTHY, [], "as it should be; v2-1 has taken over since$"),
    ),
    "no challenger, then one by hand": (
        snapshot(
            record("major", "drift_major", tried=FAILED),
            run=failed("retraining_failed"),
            retraining={"gate": {"outcome": "promoted"}, "error": None},
            champion={"version": "v2-1"},
        ),
        *(None, LOOK, ["major_drift"], "; v2-1 has taken over since$"),
    ),
    "no challenger, then one that is no better": (
        snapshot(
            record("major", "drift_major", tried=FAILED),
            run=failed("retraining_failed"),
            retraining={"gate": {"outcome": "rejected"}, "error": None},
        ),
        *(None, LOOK, ["major_drift"], "drifted a lot"),
    ),
    "no challenger, then an earlier version": (
        snapshot(
            record("major", "drift_major", tried=FAILED),
            run=failed("retraining_failed"),
            retraining={"gate": None, "error": "no room"},
            champion={"version": "v0-0"},
        ),
        *(None, LOOK, ["major_drift"], "; v0-0 has taken over since$"),
    ),
    "no challenger, and none by hand": (
        snapshot(
            record("major", "drift_major", tried=FAILED),
            run=RUN | {"outcome": "nothing_waiting"},
            retraining={"gate": {"outcome": "failed"}, "error": "no memory"},
        ),
        *(None, ACT, ["retrain_failed", "major_drift"], "goes on serving: no memory"),
    ),
    "in circles": (snapshot(recent_retrains=7), None, ACT, ["retrain_loop"], "7 challengers in"),
    "what must be done comes first": (
        snapshot(record("drift", "drift"), recent_retrains=7),
        *(None, ACT, ["retrain_loop", "drift"], "7 challengers"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_verdict(case: str) -> None:
    """Level, findings in their order, and the sentence."""
    known, last, level, codes, sentence = CASES[case]
    found = verdict(known, last, now=NOW)
    assert (found.level, [each.code for each in found.findings]) == (level, codes)
    assert re.search(sentence, found.sentence), found.sentence
    assert (
        found.level == max((each.level for each in found.findings), key=[LOOK, ACT].index)
        if (codes)
        else HEALTHY
    )
    assert all(each.text and each.step and not each.text.endswith(".") for each in found.findings)


def test_findings_are_named_like_alerts() -> None:
    """So that a page can lead to the runbook, and nothing is found that no alert tells."""
    alerts = set(re.findall(r"alert: WineDrift(\w+)", RULES.read_text(encoding="utf-8")))
    codes = {code for *_, codes, _ in CASES.values() for code in codes}
    assert {"".join(word.title() for word in code.split("_")) for code in codes} <= alerts
    assert len(codes) == 13


def test_steps_are_told_once() -> None:
    """Two findings may ask for the same."""
    one, two = Finding(ACT, "a", "x", "do"), Finding(LOOK, "b", "y", "do")
    assert Verdict(ACT, "x", (one, two), ()).steps == ("do",)
    assert Verdict(ACT, "x", (one, two), ()).to_dict()["findings"][1]["code"] == "b"


FEW = record("not_judged", "too_few_rows", quality="not_judged", number=7)
STAYS: dict[str, tuple[Snapshot, dict[str, Any], str, list[str], str]] = {
    "major drift": (
        snapshot(FEW),
        {"judged": record("major", "drift_major", "waiting_for_labels")},
        *(LOOK, ["major_drift"], "waits for more labelled rows; batch 7 has too few rows to be"),
    ),
    "drift": (
        snapshot(FEW),
        {"judged": record("drift", "drift")},
        *(LOOK, ["drift"], "the data has drifted .*; batch 7 has too few rows to be judged"),
    ),
    "nobody retrains": (
        snapshot(FEW, decision=FEW["decision"]),
        {"judged": record("major", "drift_major", "retrain_never")},
        *(ACT, ["major_drift"], "retraining is switched off; batch 7 has too few"),
    ),
    "a drop in quality": (
        snapshot(FEW, labelled=FEW),
        {"judged": record(), "answered": record("ok", "unconfirmed", quality="drop")},
        *(LOOK, ["quality_drop"], "; the labels of batch 7 could not be judged"),
    ),
    "a drop before a fault": (
        snapshot(record(number=8), labelled=record("ok", "data_fault", quality="drop", number=7)),
        {"answered": record(quality="drop")},
        *(LOOK, ["quality_drop"], "the labels of batch 7 are not judged: its source was at"),
    ),
    "a fault": (
        snapshot(FEW),
        {"judged": record("major", "data_fault", faults=(STUCK,), faulty_share=0.2)},
        *(ACT, ["data_fault", "rows_rejected"], "usually 3%.; batch 7 has too few rows"),
    ),
    "no challenger": (
        snapshot(FEW),
        {"judged": record("major", "drift_major", tried=FAILED)},
        *(ACT, ["retrain_failed", "major_drift"], "goes on serving: no room"),
    ),
    "a change": (
        snapshot(record("warn", "drift_warn", number=7)),
        {"change": Change(5)},
        *(LOOK, ["major_drift"], "the alarm of batch 5 is not over"),
    ),
    "a change of answers": (
        snapshot(record("ok", "quality_warn", quality="warn", number=7)),
        {"change": Change(5, answers=True)},
        *(LOOK, ["quality_drop"], "the alarm of batch 5 is not over"),
    ),
    "no change that is answered": (
        snapshot(record("warn", "drift_warn", number=7)),
        {"change": Change(5, 100, left=2)},
        *(HEALTHY, [], "may be changing"),
    ),
    "no drop of a batch at fault": (
        snapshot(record(number=8), labelled=record("ok", "data_fault", quality="drop", number=7)),
        {"answered": record()},
        *(HEALTHY, [], "no evidence .*; quality of batch 7 is not judged: its source was at"),
    ),
    "no drop of the only labels, of a batch at fault": (
        snapshot(record(number=8), labelled=record("ok", "data_fault", quality="drop", number=7)),
        *({}, HEALTHY, [], "quality of batch 7 is not judged"),
    ),
}


@pytest.mark.parametrize("case", STAYS)
def test_an_alarm_stays_until_a_batch_ends_it(case: str) -> None:
    """One that says nothing does not, nor do labels that say nothing."""
    known, before, level, codes, sentence = STAYS[case]
    found = verdict(known, now=NOW, **before)
    assert (found.level, [each.code for each in found.findings]) == (level, codes)
    assert re.search(sentence, found.sentence), found.sentence


def test_the_step_names_the_batch_that_is_to_be_explained() -> None:
    """By default `explain` tells of the last one, which says nothing."""
    found = verdict(snapshot(FEW), now=NOW, judged=record("major", "drift_major"))
    assert found.steps == ("see `wine-drift explain 5`",)


def test_what_was_mended_is_not_advised() -> None:
    """What `health` says meanwhile is told as well."""
    known, *_ = CASES["no challenger, then one by hand"]
    found = verdict(known, now=NOW)
    assert found.steps == ("see `wine-drift explain`",)
    assert "`wine-drift health` tells that the last run failed, until one ends well" in found.ahead
    failing = verdict(CASES["no challenger"][0], now=NOW)
    assert "then `wine-drift train`" in failing.steps[0]
    assert not any("health" in told for told in failing.ahead)


def test_nothing_begins_with_a_name() -> None:
    """A page makes sentences of it, whose first letter is a capital one; a name has its own."""
    for known, last, *_ in CASES.values():
        found = verdict(known, last, now=NOW, change=Change(5, 100, left=2), labels=LABELS)
        for told in (found.sentence, *(each.text for each in found.findings), *found.ahead):
            assert not told.startswith(("v1", "v2", "bad", "five", "alcohol")), told


LABELS = Labels(80, 9, 300, 3, 100, 10)


@pytest.mark.parametrize(
    ("change", "labels", "told"),
    [
        (None, LABELS, "retraining: nothing asks for it"),
        (
            Change(5),
            LABELS,
            "retraining waits for 100 labelled rows, 10 of them positive (there are 80, 9)",
        ),
        (
            Change(5, tried=200),
            replace(LABELS, n_rows=300, n_positive=30),
            "retraining waits for 400 labelled rows since batch 5 (there are 300)",
        ),
        (
            Change(5),
            replace(LABELS, n_rows=300, n_positive=30, n_batches=0),
            "retraining may come with the next batch",
        ),
        (
            Change(5, tried=100, left=2),
            replace(LABELS, n_rows=300, n_positive=30),
            "champion v1-0 is followed up, at most 2 times more; the next try may come with the",
        ),
    ],
)
def test_what_retraining_waits_for(change: Change | None, labels: Labels, told: str) -> None:
    """Rows since the last champion, and twice those of the last try."""
    ahead = verdict(snapshot(), now=NOW, change=change, labels=labels).ahead
    assert ahead[1].startswith(told)


@pytest.mark.parametrize("change", [None, Change(5)])
def test_retraining_that_is_switched_off(change: Change | None) -> None:
    """By these settings, or by those of the last run; then nothing is said to be tried."""
    many = replace(LABELS, n_rows=300, n_positive=30)
    off = snapshot(record("major", "drift_major", "retrain_never"))
    for known, retrain in ((snapshot(), "never"), (off, "auto")):
        found = verdict(known, now=NOW, change=change, labels=many, retrain=retrain)
        assert found.ahead[1:] == ("retraining is switched off",)


def test_what_comes() -> None:
    """The next run, files that wait, runs that did not come, labels to come."""
    known = snapshot(
        run=RUN | {"pending": 3, "missed": 2},
        counters={("runs_missed", ()): 7.0},
        waiting={"rows": 90, "batches": 1, "oldest_at": NOW - 7200},
    )
    assert verdict(known, now=NOW).ahead == (
        "the next run is due 1970-01-12 14:00:40 UTC (every 900 s)",
        "3 files waited in the inbox when the last run ended",
        "runs that were due and did not come: 7, 2 of them before the last one",
        "labels are missing for 90 rows of 1 batch, the oldest for 2.0 h",
    )
    assert verdict(known, now=NOW + 900).ahead[0].startswith("the next run was due")


def judged(home: Path, now: float, **settings: Any) -> Standing:
    """How a real home stands."""
    return standing(Settings(home=home, **settings), now=now)


def test_of_real_homes(cli: Callable[..., Result], home: Path, red_wine_csv: Path) -> None:
    """Healthy at first; drift is told, with what retraining waits for; then the schedule dies."""
    with_one = judged(home, 0)
    assert (with_one.verdict.level, with_one.serves_since) == (HEALTHY, None)
    assert len(with_one.records) == 1
    finished = (with_one.snapshot.run or {})["finished_at"]
    assert judged(home, finished + 1801).verdict.findings[0].code == "overdue"
    words = ("--home", home, "--data", red_wine_csv, "--scenario", "switch")
    cli("run-batch", *words, "--min-labelled", 5000)
    found = judged(home, 0, min_labelled=5000).verdict
    assert [each.code for each in found.findings] == ["major_drift"]
    assert "retraining waits for 5000 labelled rows" in " ".join(found.ahead)
    cli("run-batch", *words)
    cli("train", "--home", home, "--force")
    after = judged(home, 0)
    assert after.serves_since is not None and after.serves_since[0] == 3
    assert (after.snapshot.champion or {})["version"].startswith("v2-")


def codes_of(home: Path, **settings: Any) -> list[str]:
    """What is found right after the last run."""
    return [each.code for each in judged(home, 0, **settings).verdict.findings]


def test_what_ends_no_alarm(
    cli: Callable[..., Result], home: Path, red_wine_csv: Path, wines: Callable[..., Path]
) -> None:
    """A batch of three rows, and a refused one; nor does a run that finds nothing end that one."""
    few = ("--home", home, "--min-labelled", 5000)
    cli("run-batch", "--data", red_wine_csv, "--scenario", "switch", *few)
    cli("run-batch", wines("few.csv", 1500, 1503), *few)
    found = judged(home, 0, min_labelled=5000).verdict
    assert [each.code for each in found.findings] == ["major_drift"]
    assert found.sentence.endswith("; batch 3 has too few rows to be judged")
    inbox = wines("inbox/bad.csv", 0, 0).parent
    cli("run-batch", "--inbox", inbox, *few, code=3)
    refused = judged(home, 0, min_labelled=5000).verdict
    cli("run-batch", "--inbox", inbox, *few)
    assert judged(home, 0, min_labelled=5000).verdict.findings == refused.findings
    assert [each.code for each in refused.findings] == ["run_failed", "major_drift"]


def test_a_batch_at_fault_tells_nothing_of_quality(
    cli: Callable[..., Result],
    home: Path,
    red_wine_csv: Path,
    published: Callable[[Path], dict[tuple[str, ...], float]],
) -> None:
    """Its labels are held; the next batch, which has none, does not bring them up."""
    head, *lines = red_wine_csv.read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(lines)  # as they come, they drift
    rows = [line.rpartition(";")[::2] for line in lines]
    flipped = [f"{row};{3 if int(label) >= 7 else 8}" for row, label in rows[:200]]
    faulty = [f"{row};bad" for row, _ in rows[200:400]]
    Path("bad.csv").write_text("\n".join([head, *flipped, *faulty]), encoding="utf-8")
    unlabelled = [f"{row};" for row, _ in rows[400:600]]
    Path("good.csv").write_text("\n".join([head, *unlabelled]), encoding="utf-8")
    cli("run-batch", "bad.csv", "--home", home)
    assert codes_of(home) == ["rows_rejected"]
    cli("run-batch", "good.csv", "--home", home)
    known = judged(home, 0)
    assert (known.snapshot.labelled or {})["quality"]["status"] == "drop"
    assert known.verdict.level == HEALTHY
    assert "quality of batch 2 is not judged: its source was at fault" in known.verdict.sentence
    metrics = published(home)
    assert ("wine_drift_model_quality_level",) not in metrics
    why = "labels of another champion or of a faulty batch"
    assert metrics["wine_drift_metric_undefined", "model_quality_level", why] == 1


def test_what_was_done_by_hand(
    cli: Callable[..., Result],
    record: Callable[..., dict[str, Any]],
    home: Path,
    red_wine_csv: Path,
) -> None:
    """Who serves, since when, and why is told as it is, and not as the last batch left it."""
    at = ("--home", home)
    cli("run-batch", *at, "--data", red_wine_csv, "--scenario", "switch", "--retrain", "never")
    assert judged(home, 0).verdict.steps[-1].endswith("then `wine-drift train`")
    cli("train", *at, "--force", "--min-labelled", 50)
    trained = judged(home, 0)
    cli("models", "rollback", *at)
    back = judged(home, 0)
    first, second = (str((each.snapshot.champion or {})["version"]) for each in (back, trained))
    assert trained.verdict.level == LOOK
    assert trained.verdict.sentence.endswith(f"; {second} has taken over since")
    assert trained.verdict.steps == ("see `wine-drift explain`",)
    assert "has learnt from it" not in back.verdict.sentence
    assert "retraining is switched off" in judged(home, 0, retrain="never").verdict.ahead
    events = record("history", "list", *at)["events"]
    assert [(each["champion"], each["why"]) for each in events] == [
        *((first, "first"), (None, None), (None, None)),
        *((second, "manual"), (first, "rollback")),
    ]
    assert [trained.serves_since, back.serves_since] == [(2, each["at"]) for each in events[-2:]]
    lines = cli("history", "list", *at).stdout.splitlines()
    assert "by hand: train" in lines[-2] and "by hand: rollback" in lines[-1]


def test_a_failed_retraining_that_was_made_up_for(
    cli: Callable[..., Result], home: Path, red_wine_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not advised again; `health` goes on telling of the last run, which failed."""

    def failing(*_: object, **__: object) -> None:
        raise MemoryError("no memory")

    at = ("--home", home)
    with monkeypatch.context() as patch:
        patch.setattr("wine_drift.champion.challenge", failing)
        words = ("--data", red_wine_csv, "--scenario", "switch", "--min-labelled", 50)
        cli("run-batch", *at, *words, code=9)
        found = judged(home, 0).verdict
        assert found.steps[0] == "mend that, then `wine-drift train`"
        assert codes_of(home) == ["retrain_failed", "major_drift"]
        cli("train", *at, "--force", "--min-labelled", 50, code=9)
        assert judged(home, 0).verdict.findings == found.findings
    cli("train", *at, "--force", "--min-labelled", 50)
    after = judged(home, 0).verdict
    assert [each.code for each in after.findings] == ["major_drift"]
    assert after.steps == ("see `wine-drift explain`",)
    assert "`wine-drift health` tells that the last run failed, until one ends well" in after.ahead
    assert "the last run failed: retraining_failed" in cli("health", *at, code=7).stderr


def test_an_imported_champion_waits_for_a_run(
    cli: Callable[..., Result], record: Callable[..., dict[str, Any]], home: Path
) -> None:
    """All tell it alike."""
    version = record("models", "list", "--home", home)["champion"]
    cli("models", "export", version, "--home", home, "--out", "v.tar")
    cli("models", "import", "v.tar", "--home", "new")
    found = judged(Path("new"), 0).verdict
    assert (found.level, found.steps) == (LOOK, ("start `wine-drift run-batch`, then a schedule",))
    assert found.findings[0].code == "absent" and found.sentence.startswith("no run yet")
    assert "no run yet" in cli("health", "--home", "new", code=7).stderr
    assert record("history", "list", "--home", "new")["events"][0]["why"] == "imported"


def test_of_no_home() -> None:
    """It has nothing to tell, and is not made."""
    found = judged(Path("none"), 0)
    assert (found.verdict.sentence, found.records) == ("nothing has run here yet", [])
    assert not Path("none").exists()
