"""Status, the past and the versions of a home as tables for people: pure, one text each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wine_drift.diagnosis import Check
from wine_drift.explanation import ranked
from wine_drift.layout import DRAWS, PLAIN, Paper, bar, drawn, pairs, sheet, trend
from wine_drift.verdict import Verdict
from wine_drift.wording import action, counted, evidence, number, when

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = 6  # of drift that are told; `wine-drift explain` tells all
TREND = 20  # batches of a trend
_BATCH = ("#", "batch", "rows", "log loss", "AUC", "drift", "severity", "most", "decision")
_VERSION = (
    *("", "version", "trained (UTC)", "reason", "recipe", "rows", "log loss", "AUC", "parent"),
    "files",
)
# Why the champion was changed where no batch did it, but for its labels -> what was done.
_WHY = {
    "first": "first model",
    "manual": "by hand: train",
    "rollback": "by hand: rollback",
    "imported": "by hand: import",
}
# Measure of the record -> its title.
MEASURES = {
    "log_loss": "log loss",
    "roc_auc": "AUC",
    "brier_score": "Brier score",
    "precision": "precision",
    "recall": "recall",
}


def status_text(
    verdict: Verdict,
    records: Sequence[Mapping[str, Any]],
    champion: Mapping[str, Any] | None,
    run: Mapping[str, Any] | None,
    *,
    home: str,
    labelled: Mapping[str, Any] | None = None,
    serves_since: tuple[int, float] | None = None,
    paper: Paper = PLAIN,
) -> str:
    """The verdict with what to do; then model, runs, quality, drift and the last batches.

    Parameters
    ----------
    verdict : Verdict
    records : sequence of mapping
        Of the last batches, oldest first.
    champion, run, labelled
        As in `Snapshot`.
    home : str
    serves_since : tuple of int and float, or None
        Batch and Unix time at which the champion took over; None: it was the first.
    paper : Paper
    """
    parts: list[str | Table] = [
        pairs([*_judged(verdict)]),
        "",
        pairs([("home", home), *_model(champion, serves_since), *_run(run, verdict)]),
    ]
    judged = [record for record in records if record["outcome"] == "processed"]
    answered = labelled or (judged[-1] if judged else None)
    if answered is not None and answered["batch"]["labelled"]:
        parts += ["", _quality(answered)]
    if judged and judged[-1]["drift"]["features"]:
        parts += ["", _drift(judged, paper)]
    table = sheet(_BATCH, map(_batch, records), paper, ("most",))
    parts += ["", table if records else "no batches yet"]
    return drawn(parts, paper)


def models_text(
    manifests: Sequence[Mapping[str, Any]],
    champion: str | None,
    pruned: Collection[str] = (),
    paper: Paper = PLAIN,
) -> str:
    """All versions as a table; the champion is marked, and those whose files were removed."""
    if not manifests:
        return "no models yet; the first `wine-drift run-batch` or `wine-drift train` makes one"
    rows = (
        (
            "*" if manifest["version"] == champion else "",
            manifest["version"],
            _moment(manifest["trained_at"]),
            manifest["reason"],
            manifest["recipe"],
            str(manifest["training_rows"]),
            number(manifest["out_of_fold"]["log_loss"]),
            number(manifest["out_of_fold"]["roc_auc"]),
            manifest["parent"] or "-",
            "removed" if manifest["version"] in pruned else "kept",
        )
        for manifest in manifests
    )
    return drawn([sheet(_VERSION, rows, paper, ("recipe", "rows", "AUC"))], paper)


def past_text(past: Sequence[Mapping[str, Any]], paper: Paper = PLAIN) -> str:
    """Batches with what was decided, and changes of the champion, one line each."""
    if not past:
        return "nothing happened in that time"
    titles = ("when (UTC)", *_BATCH, "serves")
    spare = ("rows", "log loss", "AUC", "severity", "most")
    return drawn([sheet(titles, map(_event, past), paper, spare)], paper)


def doctor_text(checks: Sequence[Check], paper: Paper = PLAIN) -> str:
    """What was looked at, what was found, and what to do about it."""
    rows = ((check.level, check.subject, check.text, check.step) for check in checks)
    return drawn([sheet(("", "about", "what it is", "what to do"), rows, paper)], paper)


def _judged(verdict: Verdict) -> Iterator[tuple[str, str]]:
    yield verdict.level.upper(), verdict.sentence
    yield from _titled("also", [finding.text for finding in verdict.findings[1:]])
    yield from _titled("to do", verdict.steps)


def _model(
    champion: Mapping[str, Any] | None, since: tuple[int, float] | None
) -> Iterator[tuple[str, str]]:
    if champion is None:
        yield "champion", "no model yet; the first `wine-drift run-batch` trains one"
        return
    quality, rows = champion["out_of_fold"], counted(champion["training_rows"], "row", "rows")
    told = f"{champion['version']}, trained {when(champion['trained_at'])} on {rows}"
    if since is not None:
        told += f"; it serves since batch {since[0]} ({when(since[1])})"
    if champion["parent"]:
        told += f", after {champion['parent']}"
    yield "champion", told
    loss, area = number(quality["log_loss"]), number(quality["roc_auc"])
    yield "", f"out of fold: log loss {loss}, AUC {area}"


def _run(run: Mapping[str, Any] | None, verdict: Verdict) -> Iterator[tuple[str, str]]:
    if run is not None:
        ended = "ended well" if run["success"] else f"FAILED ({run['outcome']})"
        yield "last run", f"{when(run['finished_at'])}, {ended}"
        if run["dataset"] == "simulated":
            yield "", "SIMULATED DATA: these are not measurements of real wines"
    yield from _titled("ahead", verdict.ahead)


def _titled(title: str, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Several texts under one title."""
    for k, text in enumerate(texts):
        yield "" if k else title, text


def _quality(record: Mapping[str, Any]) -> Table:
    quality, rows = record["quality"], []
    for measure, title in MEASURES.items():
        low_high = quality["intervals"].get(measure)
        limits = f"{number(low_high[0])} to {number(low_high[1])}" if low_high else "-"
        limits = quality["undefined"].get(measure, limits)
        rows.append(
            (title, number(quality[measure]), limits, number(quality["reference"][measure]))
        )
    head = f"quality of batch {record['batch']['sequence']}: {quality['status']}"
    return sheet((head.replace("_", " "), "now", "95 % limits", "reference"), rows)


def _drift(records: Sequence[Mapping[str, Any]], paper: Paper) -> Table:
    """Columns that explain most, with their severity in the last batches."""
    last, records = records[-1], records[-TREND:]
    full, drift = last["thresholds"]["severity_major"], last["drift"]
    severities = [{f["name"]: f["severity"] for f in r["drift"]["features"]} for r in records]
    head = f"drift of batch {last['batch']['sequence']}: {drift['status']}"
    titles = ("", head, "severity", f"{full:g} is full", "evidence", f"last {len(records)} batches")
    rows = [
        (
            "*" if column["drifted"] else "",
            column["name"],
            number(column["severity"], 2),
            bar(column["severity"], full),
            evidence(column["log10_evidence"]),
            trend((known.get(column["name"]) for known in severities), full),
        )
        for column in ranked(drift["features"])[:COLUMNS]
    ]
    draws = paper.blocks and (paper.width is None or paper.width >= DRAWS)
    shown = [k for k in range(len(titles)) if draws or k not in (3, 5)]
    cells = [[row[k] for k in shown] for row in rows]
    return sheet([titles[k] for k in shown], cells, paper, named=head)


def _batch(record: Mapping[str, Any]) -> list[str]:
    batch = record["batch"]
    if record["outcome"] == "quarantined":
        return ["-", batch["name"], *["-"] * 6, "quarantined"]
    drift, quality = record["drift"], record["quality"]
    most = max(drift["features"], key=lambda f: f["severity"], default=None)
    return [
        str(batch["sequence"]),
        batch["name"],
        str(batch["rows"]),
        number(quality["log_loss"]),
        number(quality["roc_auc"]),
        drift["status"].replace("_", " "),
        number(drift["severity"], 2),
        most["name"] if most and drift["status"] != "ok" else "",
        action(record),
    ]


def _event(event: Mapping[str, Any]) -> list[str]:
    """A line about what happened: a batch, or another champion, or both."""
    record = event["record"]
    cells = [*[""] * (len(_BATCH) - 1), _WHY.get(event["why"] or "", "late labels")]
    if record is not None:
        cells = _batch(record)
    return [_moment(event["at"]), *cells, event["champion"] or ""]


def _moment(at: float) -> str:
    return when(at).removesuffix(" UTC")
