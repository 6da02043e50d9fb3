"""One verdict: what is told, how heavy it is, and that alerts agree."""

from __future__ import annotations

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
) -> dict[str, Any]:
    """As much of a record as a verdict looks at."""
    return {
        "outcome": "processed",
        "batch": {"sequence": 5, "name": "five.csv", "faulty_share": faulty_share},
        "drift": {
            "status": drift,
            "faults": list(faults),
            "features": [column("pH", 0.02), column("alcohol", 0.5), column("density", 0.2)],
        },
        "quality": {"status": quality},
        "decision": {"action": "keep", "reasons": list(reasons or ("no_drift",))},
        "retraining": tried,
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


REFUSED = {"outcome": "quarantined", "batch": {"name": "bad.csv"}, "error": "no rows"}
MAJOR = record("major", "drift_major")
CASES: dict[str, tuple[Snapshot, dict[str, Any] | None, str, list[str], str]] = {
    "nothing yet": (Snapshot(), None, LOOK, ["absent"], "nothing has run here yet"),
    "trained only": (snapshot(run=None, record=None), None, HEALTHY, [], "waits for its first"),
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
        *(REFUSED, ACT, ["run_failed"], "bad.csv is in quarantine: no rows"),
    ),
    "no challenger": (
        snapshot(
            record("major", "drift_major", tried={"outcome": "failed", "error": "no room"}),
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
            record("major", "drift_major", tried={"outcome": "promoted", "challenger": "v2-1"})
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
        snapshot(record("ok", "follow_up", tried={"outcome": "promoted", "challenger": "v3-1"})),
        *(None, HEALTHY, [], "more rows to learn from now; .*; v3-1 serves from now on"),
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
            "retraining may be tried with the next batch",
        ),
        (
            Change(5, tried=100, left=2),
            replace(LABELS, n_rows=300, n_positive=30),
            "v1-0 is followed up, at most 2 times more; the next try may be tried with the next",
        ),
    ],
)
def test_what_retraining_waits_for(change: Change | None, labels: Labels, told: str) -> None:
    """Rows since the last champion, and twice those of the last try."""
    ahead = verdict(snapshot(), now=NOW, change=change, labels=labels).ahead
    assert ahead[1].startswith(told)


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


def test_of_no_home() -> None:
    """It has nothing to tell, and is not made."""
    found = judged(Path("none"), 0)
    assert (found.verdict.sentence, found.records) == ("nothing has run here yet", [])
    assert not Path("none").exists()
