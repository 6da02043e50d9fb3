"""The catalogue of metrics, and what the ledger knows turned into them.

`exposition(snapshot)` is pure: every sink gets the same families, and a push can be lost, late or
repeated without anything being wrong afterwards. Undefined values are left out, never 0, and
`wine_drift_metric_undefined` says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from platform import python_version
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from wine_drift.policy import LOOP_BATCHES, LOOP_TRIES
from wine_drift.schema import CAUSES, FAULTS, SOURCE_FAULTS
from wine_drift.snapshot import Labels, Snapshot

PREFIX = "wine_drift_"
LEVELS = {"ok": 0, "warn": 1, "minor": 2, "drift": 3, "major": 4}
QUALITY_LEVELS = {"ok": 0, "warn": 1, "minor": 2, "drop": 3}
OUTCOMES = ("success", "quarantined")
PUSH_FAILURES = ("connection", "timeout", "rejected")
RUN_ENDS = ("deadline", "killed", "crashed")
RETRAIN_REASONS = ("drift_major", "quality_drop", "follow_up", "forced", "manual")
RETRAIN_OUTCOMES = ("promoted", "rejected", "waiting", "failed")
ACTIONS = ("keep", "hold", "retrain")
QUANTILES = ("0.1", "0.5", "0.9")  # of each column in the record

# Name after the prefix -> (labels, help). Help texts never change: a Pushgateway complains for ever
# about two that differ.
GAUGES: dict[str, tuple[tuple[str, ...], str]] = {
    "build_info": (
        ("version", "python_version", "lightgbm_version", "dataset"),
        "Release that ran, what trained the champion, and the table it watches.",
    ),
    "model_info": (("version", "algorithm"), "Champion; constant 1."),
    "model_trained_timestamp_seconds": ((), "When the champion was trained."),
    "model_training_rows": ((), "Rows that the champion was trained on."),
    "schedule_interval_seconds": ((), "Longest expected time between the starts of two runs."),
    "next_run_timestamp_seconds": ((), "When the next run is due, as of the last one."),
    "last_run_timestamp_seconds": ((), "End of the last run."),
    "last_success_timestamp_seconds": ((), "End of the last run without an error."),
    "last_run_success": ((), "1 if the last run ended without an error, else 0."),
    "last_run_duration_seconds": ((), "Time that the last run took up to its commit."),
    "last_run_stage_duration_seconds": (
        ("stage",),
        "Time by stage of the last run; with many rows some go on beside each other.",
    ),
    "last_run_max_rss_bytes": ((), "Peak memory of the last run."),
    "batches_pending": ((), "Files that waited in the inbox when the last run ended."),
    "batch_number": ((), "Number of the last batch processed; refused ones are numbered too."),
    "last_batch_timestamp_seconds": ((), "When the last batch was processed."),
    "batch_wait_threshold_seconds": ((), "Time from which no new batch is too long."),
    "batch_rows": ((), "Rows of the last batch as it arrived."),
    "batch_accepted_rows": ((), "Rows of the last batch that were scored."),
    "batch_labeled_rows": ((), "Scored rows of the last batch with a label."),
    "batch_positive_rows": ((), "Labelled rows of the last batch that were positive."),
    "batch_rejected_rows": (("reason",), "Rows of the last batch that were set aside."),
    "batch_rejected_ratio": ((), "Share of faulty rows in the last batch, duplicates apart."),
    "batch_rejected_ratio_threshold": ((), "Share of faulty rows from which decisions are held."),
    "batch_missing_ratio": (("feature",), "Share of cells without a finite number."),
    "batch_out_of_range_ratio": (("feature",), "Share of cells outside the plausible range."),
    "model_logloss": (("dataset",), "Log loss: last batch with labels (current); out of fold."),
    "model_roc_auc": (("dataset",), "Area under the ROC curve."),
    "model_brier_score": (("dataset",), "Brier score."),
    "model_accuracy": (("dataset",), "Accuracy at the cut."),
    "model_precision": (("dataset",), "Precision at the cut."),
    "model_recall": (("dataset",), "Recall at the cut."),
    "model_f1": (("dataset",), "F1 at the cut."),
    "model_calibration_error": (("dataset",), "Expected calibration error over ten bins."),
    "model_bound": (("metric", "bound"), "95 percent confidence limits of a quality measure."),
    "model_logloss_threshold": ((), "Recent log loss from which a rise is worth a new model."),
    "model_logloss_recent": ((), "Log loss of recent batches, older ones weighing less."),
    "model_logloss_expected": ((), "Log loss that the scores promise; blind to changed answers."),
    "model_roc_auc_expected": ((), "AUC that the scores promise; blind to changed answers."),
    "model_quality_pvalue": (("test",), "P-value of a drop: log_loss, roc_auc or calibration."),
    "model_quality_evidence": ((), "Log10 of the evidence of a drop, over all batches so far."),
    "model_quality_level": ((), "0 ok, 1 warn, 2 minor (real but small), 3 drop."),
    "model_observed_minus_expected_z": ((), "Surplus of positives, in standard deviations."),
    "model_cut": ((), "Score from which a row is predicted positive."),
    "unlabeled_batches": ((), "Batches with rows whose labels may still come."),
    "unlabeled_rows": ((), "Rows whose labels may still come."),
    "unlabeled_since_timestamp_seconds": ((), "When the oldest of these batches was recorded."),
    "labeled_batch_number": ((), "Number of the last batch with labels; quality is of this one."),
    "label_lag_seconds": ((), "How long after their batch its labels came; 0: with it."),
    "model_logloss_gap": ((), "Log loss minus what the scores of the same rows promised."),
    "target_ratio": ((), "Share of positives among the labels of the last batch with labels."),
    "prediction_probability_mean": ((), "Mean score of the last batch."),
    "metric_undefined": (("metric", "reason"), "1 for each metric that the last batch left open."),
    "dataset_drift_pvalue": ((), "P-value of the whole batch, all tests combined."),
    "dataset_drift_pvalue_threshold": ((), "P-value below which there is evidence: 1 / budget."),
    "dataset_drift_severity": ((), "Largest severity of all columns."),
    "dataset_drift_level": ((), "0 ok, 1 warn, 2 minor (real but small), 3 drift, 4 major."),
    "dataset_drift_evidence": ((), "Log10 of the evidence of drift, over all batches so far."),
    "evidence_threshold": ((), "Evidence that an alarm takes: log10 of the budget."),
    "drift_cause": (("cause",), "1 for each cause of an alarm that labels tell, else 0."),
    "data_fault": (("kind",), "Features with such a fault of the source in the last batch."),
    "source_at_fault": ((), "1 if the last batch is held for faults of its source, else 0."),
    "feature_data_fault": (("feature", "kind"), "1 for each fault that was found."),
    "multivariate_drift_pvalue": ((), "P-value of T-squared over all columns together."),
    "feature_drift_pvalue": (("feature",), "P-value of a column, corrected for all tests made."),
    "feature_drift_evidence": (("feature",), "Log10 of the evidence of drift in a column."),
    "feature_reliance_ratio": (("feature",), "Share of a feature in what makes the scores."),
    "feature_min_detectable_shift": (
        ("feature",),
        "Smallest shift that one batch tells 95 times in 100, in the feature's unit; of categories,"
        " as a share of the rows.",
    ),
    "feature_min_detectable_deviations": (("feature",), "The same in standard deviations."),
    "min_detectable_shift_timestamp_seconds": ((), "When selftest power measured it."),
    "feature_drift_severity": (("feature",), "Debiased population stability index of a column."),
    "feature_drift_psi": (("feature",), "Textbook index of the batch; grows as rows get fewer."),
    "feature_drifted": (("feature",), "1 if a column has both evidence and severity, else 0."),
    "feature_quantile": (
        ("feature", "dataset", "q"),
        "Quantiles of a column, in the feature's unit: current batch, and reference.",
    ),
    "drift_severity_threshold": (("level",), "Severity that makes evidence drift, or major."),
    "drifted_features_ratio": ((), "Share of columns that drifted."),
    "decision": (("action",), "1 for the action that was decided on, else 0."),
    "waiting_for_labels": ((), "1 if retraining waits for labels, else 0."),
    "waiting_for_labels_since_timestamp_seconds": ((), "Since when retraining waits for labels."),
    "label_wait_threshold_seconds": ((), "Time from which waiting for labels takes too long."),
    "recent_retrains": ((), f"Challengers that alarms led to in the last {LOOP_BATCHES} batches."),
    "recent_retrains_threshold": ((), "More of these than this are a loop."),
    "last_retrain_timestamp_seconds": ((), "When a challenger was last tried."),
    "last_retrain_gain": (("recipe",), "Mean gain in log loss on the rows of the gate."),
    "last_retrain_pvalue": (("recipe",), "P-value of that gain, paired and one-sided."),
    "last_retrain_level": ((), "P-value that it took, divided among the recipes."),
    "last_retrain_forgetting": ((), "Log loss on old rows, challenger minus champion."),
}  # fmt: skip
COUNTERS: dict[str, tuple[tuple[str, ...], str]] = {
    "batches": (("outcome",), "Batches by outcome, each counted once."),
    "rows": ((), "Rows scored."),
    "rows_rejected": (("reason",), "Rows set aside."),
    "late_labels": ((), "Labels that came after their batch."),
    "retrains": (("reason", "outcome"), "Retrainings tried."),
    "push_failures": (("reason",), "Pushes that failed; told by the next that succeeds."),
    "runs_missed": ((), "Runs that were due and did not take place."),
    "runs_skipped": ((), "Runs that were due while an earlier one was still at work."),
    "runs_ended": (("reason",), "Runs that the scheduler ended or found dead."),
}
# On no dashboard and in no rule: to be asked for, when one of the others is being explained.
READING_ONLY = frozenset(
    {
        *("dataset_drift_pvalue", "multivariate_drift_pvalue", "drifted_features_ratio"),
        *("model_accuracy", "model_precision", "model_recall", "model_f1", "model_brier_score"),
        *("model_calibration_error", "model_observed_minus_expected_z", "model_logloss_gap"),
        *("model_quality_pvalue", "model_training_rows", "waiting_for_labels"),
    }
)
# The three gauges of the project that this one replaces, spelled as they were.
LEGACY = {
    "logloss_gaude": "Log loss of the last batch.",
    "auc_gaude": "Area under the ROC curve of the last batch.",
    "count_batch": "Batches processed.",
}
# Measure of the record -> metric.
QUALITY = {
    "log_loss": "model_logloss",
    "roc_auc": "model_roc_auc",
    "brier_score": "model_brier_score",
    "accuracy": "model_accuracy",
    "precision": "model_precision",
    "recall": "model_recall",
    "f1": "model_f1",
    "calibration_error": "model_calibration_error",
}


class _Families:
    """Collects samples under the names of the catalogue."""

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}

    def gauge(self, name: str, value: float | None, *labels: str) -> None:
        """Add a sample; None is undefined and adds nothing."""
        self._add(GaugeMetricFamily, GAUGES, name, value, labels)

    def counter(self, name: str, value: float, *labels: str) -> None:
        """Add the total of a counter."""
        self._add(CounterMetricFamily, COUNTERS, name, value, labels)

    def legacy(self, name: str, value: float | None) -> None:
        """Add a gauge under its old name."""
        self._add(GaugeMetricFamily, {name: ((), LEGACY[name])}, name, value, (), prefix="")

    def _add(
        self,
        kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
        catalogue: Mapping[str, tuple[tuple[str, ...], str]],
        name: str,
        value: float | None,
        labels: tuple[str, ...],
        prefix: str = PREFIX,
    ) -> None:
        if value is None:
            return
        label_names, text = catalogue[name]
        if name not in self._families:
            self._families[name] = kind(prefix + name, text, labels=["pipeline", *label_names])
        self._families[name].add_metric([self._pipeline, *labels], float(value))

    def all(self) -> list[Metric]:
        """Families that have a sample, by name."""
        return [self._families[name] for name in sorted(self._families)]


def exposition(
    snapshot: Snapshot, *, pipeline: str, version: str, legacy: bool = False
) -> list[Metric]:
    """Build every metric family from what the ledger knows.

    Parameters
    ----------
    snapshot : Snapshot
    pipeline : str
        Label of every sample; together with the job it is the grouping key of the Pushgateway.
    version : str
        Of wine-drift, for as long as there was no run.
    legacy : bool
        Also `logloss_gaude`, `auc_gaude` and `count_batch`.

    Examples
    --------
    >>> families = exposition(Snapshot(), pipeline="p", version="1")
    >>> next(f for f in families if f.name == "wine_drift_rows").samples[0].value
    0.0
    """
    out = _Families(pipeline)
    trained = snapshot.champion or {}
    dataset = (snapshot.run or trained).get("dataset", "")
    lightgbm = trained.get("libraries", {}).get("lightgbm", "")
    ran = snapshot.run or {"version": version, "python_version": python_version()}
    out.gauge("build_info", 1, ran["version"], ran["python_version"], lightgbm, dataset)
    _counters(out, snapshot.counters)
    if snapshot.champion is not None:
        _champion(out, snapshot.champion)
        if snapshot.record is None:
            _reference(out, snapshot.champion["out_of_fold"])
    if snapshot.run is not None:
        _run(out, snapshot.run)
    out.gauge("last_success_timestamp_seconds", snapshot.last_success or None)
    if snapshot.retraining is not None:
        _retraining(out, snapshot.retraining)
    if snapshot.record is not None:
        _batch(out, snapshot.record["batch"], snapshot.record["thresholds"])
        _labels(out, snapshot)
        answered = snapshot.labelled or snapshot.record
        at_fault = "data_fault" in answered["decision"]["reasons"]
        _quality(out, snapshot.record["quality"], answered["quality"], at_fault=at_fault)
        out.gauge("model_logloss_threshold", snapshot.record["thresholds"]["log_loss"])
        out.gauge("last_batch_timestamp_seconds", snapshot.batch_at)
        held = "data_fault" in snapshot.record["decision"]["reasons"]
        out.gauge("source_at_fault", held)
        for cause in CAUSES:
            out.gauge("drift_cause", cause in answered["drift"]["causes"], cause)
        _drift(out, snapshot.record["drift"], snapshot.record["thresholds"])
        decision = snapshot.decision or snapshot.record["decision"]
        out.gauge("waiting_for_labels", "waiting_for_labels" in decision["reasons"])
        out.gauge("waiting_for_labels_since_timestamp_seconds", snapshot.waiting_since)
        out.gauge("label_wait_threshold_seconds", snapshot.record["thresholds"]["label_wait"])
        out.gauge("recent_retrains", snapshot.recent_retrains)
        out.gauge("recent_retrains_threshold", LOOP_TRIES)
        for action in ACTIONS:
            out.gauge("decision", action == decision["action"], action)
    if snapshot.power is not None:
        out.gauge("min_detectable_shift_timestamp_seconds", snapshot.power["measured_at"])
        for feature in snapshot.power["features"]:
            name, shift, deviations = feature["name"], feature["shift_own"], feature["shift_sd"]
            out.gauge("feature_min_detectable_shift", shift, name)
            out.gauge("feature_min_detectable_deviations", deviations, name)
    if legacy:
        quality = (snapshot.labelled or snapshot.record or {}).get("quality", {})
        out.legacy("logloss_gaude", quality.get("log_loss"))
        out.legacy("auc_gaude", quality.get("roc_auc"))
        done = snapshot.counters.get(("batches", (("outcome", "success"),)), 0)
        out.legacy("count_batch", done)
    return out.all()


def _counters(out: _Families, counters: Mapping[tuple[str, Labels], float]) -> None:
    """Every combination from the first push on: a series that starts at 1 never increased."""

    def total(name: str, **labels: str) -> None:
        out.counter(name, counters.get((name, tuple(labels.items())), 0), *labels.values())

    for outcome in OUTCOMES:
        total("batches", outcome=outcome)
    total("rows")
    total("late_labels")
    for reason in FAULTS:
        total("rows_rejected", reason=reason)
    for reason in RETRAIN_REASONS:
        for outcome in RETRAIN_OUTCOMES:
            total("retrains", reason=reason, outcome=outcome)
    for reason in PUSH_FAILURES:
        total("push_failures", reason=reason)
    total("runs_missed")
    total("runs_skipped")
    for reason in RUN_ENDS:
        total("runs_ended", reason=reason)


def _champion(out: _Families, manifest: Mapping[str, Any]) -> None:
    out.gauge("model_info", 1, manifest["version"], manifest["algorithm"])
    out.gauge("model_trained_timestamp_seconds", manifest["trained_at"])
    out.gauge("model_training_rows", manifest["training_rows"])


def _reference(out: _Families, measures: Mapping[str, float | None]) -> None:
    for measure, name in QUALITY.items():
        out.gauge(name, measures[measure], "reference")


def _run(out: _Families, run: Mapping[str, Any]) -> None:
    out.gauge("schedule_interval_seconds", run["interval"])
    out.gauge("next_run_timestamp_seconds", run.get("next_run"))  # early releases did not tell
    out.gauge("last_run_timestamp_seconds", run["finished_at"])
    out.gauge("last_run_success", run["success"])
    out.gauge("last_run_duration_seconds", run["duration"])
    out.gauge("last_run_max_rss_bytes", run["max_rss_bytes"])
    out.gauge("batches_pending", run["pending"])
    for stage, seconds in run["stages"].items():
        out.gauge("last_run_stage_duration_seconds", seconds, stage)


def _batch(out: _Families, batch: Mapping[str, Any], thresholds: Mapping[str, float]) -> None:
    out.gauge("batch_number", batch["sequence"])
    out.gauge("batch_wait_threshold_seconds", thresholds["batch_wait"])
    out.gauge("batch_rows", batch["rows"])
    out.gauge("batch_accepted_rows", batch["accepted"])
    out.gauge("batch_labeled_rows", batch["labelled"])
    out.gauge("batch_positive_rows", batch["positive"])
    for reason, number in batch["set_aside"].items():
        out.gauge("batch_rejected_rows", number, reason)
    out.gauge("batch_rejected_ratio", batch["faulty_share"])
    out.gauge("batch_rejected_ratio_threshold", thresholds["max_set_aside"])
    for feature, share in batch["missing"].items():
        out.gauge("batch_missing_ratio", share, feature)
    for feature, share in batch["out_of_range"].items():
        out.gauge("batch_out_of_range_ratio", share, feature)


def _retraining(out: _Families, retraining: Mapping[str, Any]) -> None:
    out.gauge("last_retrain_timestamp_seconds", retraining["at"])
    gate = retraining["gate"]
    if gate is None:
        return
    out.gauge("last_retrain_level", gate["level"])
    for candidate in gate["candidates"]:
        out.gauge("last_retrain_gain", candidate["mean_gain"], candidate["recipe"])
        out.gauge("last_retrain_pvalue", candidate["p_value"], candidate["recipe"])
    if gate["forgetting"] is not None:
        old = gate["forgetting"]
        change = old["challenger_log_loss"] - old["champion_log_loss"]
        out.gauge("last_retrain_forgetting", change)


def _labels(out: _Families, snapshot: Snapshot) -> None:
    """Labels that came, and those that are still to come."""
    waiting = snapshot.waiting
    out.gauge("unlabeled_batches", waiting.get("batches", 0))
    out.gauge("unlabeled_rows", waiting.get("rows", 0))
    out.gauge("unlabeled_since_timestamp_seconds", waiting.get("oldest_at") or None)
    if snapshot.labelled is not None:
        late = snapshot.labelled["labels"]
        out.gauge("labeled_batch_number", snapshot.labelled["batch"]["sequence"])
        batch = snapshot.labelled["batch"]
        out.gauge("target_ratio", batch["positive"] / batch["labelled"])
        out.gauge("label_lag_seconds", late["lag_seconds"] if late else 0)
        out.gauge("model_logloss_gap", snapshot.labelled["quality"]["log_loss_gap"])


def _quality(
    out: _Families, scored: Mapping[str, Any], quality: Mapping[str, Any], *, at_fault: bool
) -> None:
    """Of the last batch its scores, of the last one with labels the answers to them."""
    for measure, name in QUALITY.items():
        out.gauge(name, quality[measure], "current")
        interval = quality["intervals"].get(measure)
        for bound, limit in zip(("lower", "upper"), interval or (), strict=False):
            out.gauge("model_bound", limit, name, bound)
    for measure, reason in quality["undefined"].items():
        out.gauge("metric_undefined", 1, QUALITY[measure], reason)
    for measure, reason in quality["no_interval"].items():
        out.gauge("metric_undefined", 1, f"{QUALITY[measure]}_bound", reason)
    _reference(out, quality["reference"])  # of the model that these figures are about
    for test in ("log_loss", "roc_auc", "calibration"):
        out.gauge("model_quality_pvalue", quality[f"{test}_p_value"], test)
    if quality["status"] in QUALITY_LEVELS and not at_fault:
        out.gauge("model_quality_level", QUALITY_LEVELS[quality["status"]])
    else:
        few = (quality["judged_rows"] or quality["log_loss"] is None) and not at_fault
        why = "too few labelled rows" if few else "labels of another champion or of a faulty batch"
        out.gauge("metric_undefined", 1, "model_quality_level", why)
    out.gauge("model_quality_evidence", quality["log10_evidence"])
    out.gauge("model_logloss_recent", quality["recent_log_loss"])
    out.gauge("model_observed_minus_expected_z", quality["observed_minus_expected_z"])
    out.gauge("model_logloss_expected", scored["expected_log_loss"])
    out.gauge("model_roc_auc_expected", scored["expected_roc_auc"])
    out.gauge("model_cut", scored["cut"])
    out.gauge("prediction_probability_mean", scored["mean_score"])


def _drift(out: _Families, drift: Mapping[str, Any], thresholds: Mapping[str, float]) -> None:
    out.gauge("dataset_drift_pvalue_threshold", thresholds["p_value"])
    out.gauge("evidence_threshold", thresholds["log10_evidence"])
    for kind in SOURCE_FAULTS:
        out.gauge("data_fault", sum(fault["kind"] == kind for fault in drift["faults"]), kind)
    for fault in drift["faults"]:
        out.gauge("feature_data_fault", 1, fault["feature"], fault["kind"])
    for level in ("drift", "major"):
        out.gauge("drift_severity_threshold", thresholds[f"severity_{level}"], level)
    if drift["status"] not in LEVELS:
        out.gauge("metric_undefined", 1, "dataset_drift_level", "too few rows")
        return
    out.gauge("dataset_drift_level", LEVELS[drift["status"]])
    out.gauge("dataset_drift_pvalue", drift["p_value"])
    out.gauge("dataset_drift_evidence", drift["log10_evidence"])
    out.gauge("dataset_drift_severity", drift["severity"])
    out.gauge("multivariate_drift_pvalue", drift["multivariate_p_value"])
    features: Iterable[Mapping[str, Any]] = drift["features"]
    for feature in features:
        for key in ("p_value", "severity", "psi"):
            name = f"feature_drift_{key.replace('_', '')}"
            out.gauge(name, feature[key], feature["name"])
        out.gauge("feature_drift_evidence", feature["log10_evidence"], feature["name"])
        out.gauge("feature_drifted", feature["drifted"], feature["name"])
        out.gauge("feature_reliance_ratio", feature["reliance"], feature["name"])
        for dataset, key in (("current", "quantiles"), ("reference", "reference_quantiles")):
            for q, value in zip(QUANTILES, feature[key], strict=True):
                out.gauge("feature_quantile", value, feature["name"], dataset, q)
    drifted = [feature["drifted"] for feature in drift["features"]]
    out.gauge("drifted_features_ratio", sum(drifted) / len(drifted))
