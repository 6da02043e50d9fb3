"""Write the three Grafana dashboards: `python dashboards/generate.py [FOLDER]`, else beside itself.

Thresholds, limits and references are drawn from what the job exports, and the names of levels come
from its catalogue: nothing that a metric says is typed in here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from panels import (
    Query,
    bars,
    board,
    event,
    graph,
    history,
    listing,
    note,
    number,
    timeline,
    variable,
)

from wine_drift.exposition import ACTIONS, COUNTERS, GAUGES, LEVELS, PREFIX, QUALITY_LEVELS

OVERVIEW, FEATURE, JOB = "wine-drift-overview", "wine-drift-feature", "wine-drift-job"
PIPELINE = 'pipeline="$pipeline"'
# Alerts about the stack belong to no pipeline; the watchdog, of no severity, always fires.
ALERTS = (
    'ALERTS{alertstate="firing", alertname=~"WineDrift.+", severity!="none", '
    'pipeline=~"$pipeline|"}'
)
TO_FEATURE = (
    f"/d/{FEATURE}?${{datasource:queryparam}}&${{pipeline:queryparam}}"
    "&var-feature=${__field.labels.feature}&${__url_time_range}"
)
NO_YES, FAILED_OK = {"no": 0, "yes": 1}, {"failed": 0, "ok": 1}
DECISIONS = {action: code for code, action in enumerate(ACTIONS)}  # keep, hold, retrain
# Multiples of the exported threshold of severity.
RELATIVE = ((None, "green"), (0.5, "yellow"), (1, "orange"), (2, "red"))


def metric(name: str, within: str = "", **labels: str) -> str:
    """Select a metric of the catalogue in the pipeline that is looked at; `within` is a range."""
    if name not in GAUGES and name.removesuffix("_total") not in COUNTERS:
        raise KeyError(name)
    matchers = ", ".join([PIPELINE, *(f'{key}="{value}"' for key, value in labels.items())])
    return f"{PREFIX}{name}{{{matchers}}}" + (f"[{within}]" if within else "")


def of_feature(name: str, **labels: str) -> str:
    """Select a metric of the feature that is looked at."""
    return metric(name, feature="$feature", **labels)


def worst(name: str, **labels: str) -> str:
    """Take the largest value in each step, so that a wide time range hides no short alarm."""
    return f"max_over_time({metric(name, '$__interval', **labels)})"


def added(name: str, by: str = "") -> str:
    """Count what a counter grew by; `increase` extrapolates, so it is rounded."""
    total = f"sum by ({by})" if by else "sum"
    return f"{total} (round(increase({metric(name, '$__range')})))"


def age(name: str) -> str:
    """Seconds since a point in time."""
    return f"time() - {metric(name)}"


def ago(name: str) -> str:
    """Give a point in time as Grafana wants it."""
    return f"{metric(name)} * 1000"


def relative(severity: str) -> str:
    """Divide severities by the exported threshold."""
    threshold = metric("drift_severity_threshold", level="drift")
    return f"{severity} / ignoring (feature, level) group_left () {threshold}"


def decision(select: Any) -> str:
    """Code the decision as in DECISIONS."""
    hold, retrain = select("decision", action="hold"), select("decision", action="retrain")
    return f"clamp_max({hold} + ignoring (action) 2 * {retrain}, 2)"


def last_success() -> Any:
    """Both dashboards about runs begin with this one."""
    return number(
        "Last success, in intervals",
        "Time since a run ended well, divided by the interval of the schedule. Below 1 the next "
        "run is not due yet. Worry from 2 on: a run is overdue.",
        Query(
            f"({age('last_success_timestamp_seconds')}) / {metric('schedule_interval_seconds')}",
            "intervals",
        ),
        limits=((None, "green"), (1.5, "orange"), (2, "red")),
        decimals=1,
        none="never",
    )


INTERVAL = Query(metric("schedule_interval_seconds"), "interval of the schedule", "reference")
EVIDENCE = Query(metric("evidence_threshold"), "an alarm takes", "threshold")
SEVERITIES = (
    Query(metric("drift_severity_threshold", level="drift"), "drift", "threshold"),
    Query(metric("drift_severity_threshold", level="major"), "major", "major"),
)


def overview() -> str:
    """Is the model healthy, and did the job run?"""
    now = [
        note(
            "How to read this",
            "**All is well** when *Drift* and *Quality* are green, *Last success* is below 1.5 and "
            "no alert fires. The job answers a drift by itself: row *Drift* tells what changed, "
            "row *Retraining* what came of it. Purple marks are new models, red ones alerts. "
            "Every panel tells at its **i** what it shows and when to worry.",
        ),
        number(
            "Drift",
            "Verdict on the inputs of the last batch. *warn*: something may be building up. "
            "*minor*: real, but too small to matter. *drift*, *major*: evidence and size are both "
            "there.",
            Query(metric("dataset_drift_level"), "drift"),
            levels=LEVELS,
            none="too few rows",
        ),
        number(
            "Quality",
            "Verdict on what the model said, by the labels that came. *drop*: worth a new model. "
            "Without labels there is no verdict, nor by those of a batch at fault.",
            Query(metric("model_quality_level"), "quality"),
            levels=QUALITY_LEVELS,
            none="not judged",
        ),
        number(
            "Decision",
            "What was done after the last batch. *hold*: there is an alarm, and a reason to wait; "
            "`wine-drift status` tells it.",
            Query(decision(metric), "decision"),
            levels=DECISIONS,
        ),
        last_success(),
        number(
            "Last run",
            "When the last run ended, well or not. *Job and stack* has the rest.",
            Query(ago("last_run_timestamp_seconds"), "ended"),
            unit="dateTimeFromNow",
        ),
        number(
            "Alerts firing",
            "Alerts that fire for this pipeline or for the stack. `docs/runbooks.md` has a section "
            "for each; *Job and stack* lists them.",
            Query(f"count({ALERTS}) or vector(0)", "alerts"),
            limits=((None, "green"), (1, "red")),
        ),
        number(
            "Log loss now",
            "Lower is better. Of the last batch with labels, and what the model showed when it was "
            "trained. One batch is noisy; *Quality* weighs that.",
            Query(metric("model_logloss", dataset="current"), "now"),
            Query(metric("model_logloss", dataset="reference"), "reference"),
            width=6,
            decimals=3,
        ),
        number(
            "AUC now",
            "How well positives are told from negatives: 1 is perfect, 0.5 is a coin. Of the last "
            "batch with labels, and what the model showed when it was trained.",
            Query(metric("model_roc_auc", dataset="current"), "now"),
            Query(metric("model_roc_auc", dataset="reference"), "reference"),
            width=6,
            decimals=3,
        ),
        number(
            "Model",
            "Version that scores. `wine-drift models list` has all of them.",
            Query(metric("model_info"), "{{version}}"),
            width=6,
            by_name=True,
        ),
        number(
            "Model trained",
            "Age of that version. An old model is no fault while the verdicts are green.",
            Query(ago("model_trained_timestamp_seconds"), "trained"),
            unit="dateTimeFromNow",
            width=6,
        ),
    ]
    quality = [
        graph(
            "Log loss",
            "Of each batch with its 95 % limits, and of recent batches together. Worry when "
            "*recent* comes to the dashed threshold: from there on a rise is worth a new model. "
            "*promised* is what the scores expect of themselves, also before labels come.",
            Query(metric("model_logloss", dataset="current"), "batch", "main"),
            Query(metric("model_bound", metric="model_logloss", bound="lower"), "from", "lower"),
            Query(metric("model_bound", metric="model_logloss", bound="upper"), "to", "upper"),
            Query(metric("model_logloss_recent"), "recent", "second"),
            Query(metric("model_logloss_expected"), "promised"),
            Query(metric("model_logloss", dataset="reference"), "reference", "reference"),
            Query(metric("model_logloss_threshold"), "threshold", "threshold"),
            height=9,
        ),
        graph(
            "AUC",
            "Of each batch with its 95 % limits, which few positives make wide. Worry when the "
            "reference stays above them.",
            Query(metric("model_roc_auc", dataset="current"), "batch", "main"),
            Query(metric("model_bound", metric="model_roc_auc", bound="lower"), "from", "lower"),
            Query(metric("model_bound", metric="model_roc_auc", bound="upper"), "to", "upper"),
            Query(metric("model_roc_auc_expected"), "promised"),
            Query(metric("model_roc_auc", dataset="reference"), "reference", "reference"),
            height=9,
        ),
        graph(
            "Evidence of a drop in quality",
            "Log10 of how sure it is that answers got worse, added up over all batches of this "
            "model. An alarm takes the dashed line and a rise in log loss.",
            Query(metric("model_quality_evidence"), "evidence", "main"),
            EVIDENCE,
            scale="symlog",
        ),
        graph(
            "Positives, seen and promised",
            "Share of positives among the labels, and mean score. When they part for long, the "
            "labels have shifted, or the answers mean something else.",
            Query(metric("target_ratio"), "among the labels", "main"),
            Query(metric("prediction_probability_mean"), "mean score", "second"),
            Query(metric("model_cut"), "predicted positive from here on", "reference"),
            unit="percentunit",
        ),
    ]
    drift = [
        timeline(
            "Verdicts and decisions",
            "What was said of each batch and done about it, the worst of each stretch of time. "
            "Orange or red, then purple, then green again is the job at work. A gap: nothing could "
            "be judged, of too few rows or labels, or of a source at fault.",
            LEVELS,
            Query(worst("dataset_drift_level"), "drift"),
            Query(worst("model_quality_level"), "quality", levels=QUALITY_LEVELS),
            Query(decision(worst), "decision", levels=DECISIONS),
            width=24,
            height=6,
            none="not judged",
        ),
        history(
            "Severity by feature",
            "A row for each column, a box for each stretch of time: how far the column had drifted "
            "at its worst, in multiples of the severity that counts as drift. Orange: over it. "
            "Red: twice that. Size alone is no alarm, it takes evidence too. `score` is what the "
            "model says. A click leads to the feature.",
            Query(relative(worst("feature_drift_severity")), "{{feature}}"),
            limits=RELATIVE,
            url=TO_FEATURE,
            width=16,
        ),
        bars(
            "Severity now",
            "The same of the last batch, the largest first. Below 1 there is nothing to do. A "
            "click leads to the feature.",
            Query(f"sort_desc({relative(metric('feature_drift_severity'))})", "{{feature}}"),
            limits=RELATIVE,
            url=TO_FEATURE,
            width=8,
        ),
        graph(
            "Evidence of drift",
            "Log10 of how sure it is that the inputs changed, added up over all batches of this "
            "model. An alarm takes the dashed line and severity.",
            Query(metric("dataset_drift_evidence"), "evidence", "main"),
            EVIDENCE,
            scale="symlog",
        ),
        graph(
            "Severity of drift",
            "How far the column that drifted most has drifted. Worry above *drift*; above *major*, "
            "and with evidence, a new model is tried.",
            Query(metric("dataset_drift_severity"), "severity", "main"),
            *SEVERITIES,
        ),
        timeline(
            "Causes of an alarm",
            "What labels tell of an alarm: other inputs (*covariate drift*), another share of "
            "positives (*label shift*), other answers to the same inputs (*concept drift*).",
            NO_YES,
            Query(worst("drift_cause"), "{{cause}}"),
            width=24,
            height=5,
        ),
    ]
    retraining = [
        number(
            "Retrainings in this time",
            "Challengers that were tried, by reason and outcome. *rejected* is no fault: the model "
            "that scores was not beaten. *failed* is one.",
            Query(f"{added('retrains_total', 'reason, outcome')} > 0", "{{reason}}: {{outcome}}"),
            width=12,
            none="none",
        ),
        number(
            "Last try",
            "When a challenger was last tried.",
            Query(ago("last_retrain_timestamp_seconds"), "tried"),
            unit="dateTimeFromNow",
            none="never",
        ),
        number(
            "Recent tries",
            "Challengers that alarms led to in the last 20 batches. More than the second number is "
            "a loop: the model cannot follow the data.",
            Query(metric("recent_retrains"), "tries"),
            Query(metric("recent_retrains_threshold"), "no loop up to"),
        ),
        number(
            "Waiting for labels",
            "How long retraining has been waiting for labels, as a share of how long it may. Worry "
            "from 100 % on: somebody has to bring them.",
            Query(
                f"({age('waiting_for_labels_since_timestamp_seconds')})"
                f" / {metric('label_wait_threshold_seconds')}",
                "of the time it may take",
            ),
            unit="percentunit",
            limits=((None, "green"), (1, "red")),
            none="not waiting",
        ),
        graph(
            "Gain of the last challengers",
            "How much lower the log loss was on rows that neither model was trained on; below 0 "
            "the challenger was worse. The grey line is what it forgot: its rise on old rows.",
            Query(metric("last_retrain_gain"), "{{recipe}}"),
            Query(metric("last_retrain_forgetting"), "rise on old rows", "reference"),
            none="no challenger yet",
        ),
        graph(
            "Could chance have done that?",
            "P-value of the gain. A challenger needs less than the dashed line to be promoted.",
            Query(metric("last_retrain_pvalue"), "{{recipe}}"),
            Query(metric("last_retrain_level"), "it takes less than", "threshold"),
            scale="log",
            none="no challenger yet",
        ),
    ]
    data = [
        graph(
            "Rows of a batch",
            "Rows that arrived, were scored, had labels with them, and were positive. Worry when "
            "the first two part.",
            Query(metric("batch_rows"), "arrived", "reference"),
            Query(metric("batch_accepted_rows"), "scored", "main"),
            Query(metric("batch_labeled_rows"), "labelled", "second"),
            Query(metric("batch_positive_rows"), "positive"),
            width=8,
        ),
        graph(
            "Rows set aside",
            "Rows that were not scored, by reason. Repeats are harmless, the rest is a fault of "
            "the source.",
            Query(metric("batch_rejected_rows"), "{{reason}}"),
            width=8,
            stacked=True,
        ),
        graph(
            "Share of faulty rows",
            "From the dashed line on the source is at fault, and decisions are held.",
            Query(metric("batch_rejected_ratio"), "faulty", "main"),
            Query(metric("batch_rejected_ratio_threshold"), "threshold", "threshold"),
            unit="percentunit",
            width=8,
        ),
        graph(
            "Missing cells",
            "Share of cells without a number, by feature. A step means that the source changed.",
            Query(metric("batch_missing_ratio"), "{{feature}}"),
            unit="percentunit",
            width=8,
        ),
        timeline(
            "Faults of the source",
            "Features with values missing, in another unit, stuck, rounded or out of range. Worry "
            "at any: no model can mend a source.",
            NO_YES,
            Query(f"clamp_max({worst('data_fault')}, 1)", "{{kind}}"),
            width=8,
        ),
        listing(
            "Figures left open",
            "What the last batch could not tell, and why. Too few rows or labels is usual.",
            Query(metric("metric_undefined")),
            ["metric", "reason"],
            width=8,
        ),
    ]
    rows = {"Now": now, "Quality": quality, "Drift": drift, "Retraining": retraining}
    rows["Rows and source"] = data
    return wine_drift(OVERVIEW, "Overview", "Is the model healthy, and did the job run?", rows)


def feature() -> str:
    """One feature: has it drifted, how, and does it matter?"""
    now = [
        number(
            "Verdict",
            "Whether the last batch showed both evidence and severity in this feature.",
            Query(of_feature("feature_drifted"), "verdict"),
            levels={"ok": 0, "drift": 1},
        ),
        number(
            "Severity now",
            "How far its values are from those that the model was trained on; 0 is not at all.",
            Query(of_feature("feature_drift_severity"), "severity"),
            Query(metric("drift_severity_threshold", level="drift"), "drift from"),
            decimals=2,
        ),
        number(
            "Evidence now",
            "Log10 of how sure its drift is.",
            Query(of_feature("feature_drift_evidence"), "evidence"),
            Query(metric("evidence_threshold"), "an alarm takes"),
            decimals=1,
        ),
        number(
            "Weight in the model",
            "Share of this feature in what makes the scores. Drift of a feature of little weight "
            "harms little.",
            Query(of_feature("feature_reliance_ratio"), "share"),
            unit="percentunit",
            none="not a feature",
        ),
        number(
            "Smallest shift found",
            "Smallest shift that one batch tells 95 times in 100, in the unit of the feature and "
            "in standard deviations.",
            Query(of_feature("feature_min_detectable_shift"), "own unit"),
            Query(of_feature("feature_min_detectable_deviations"), "deviations"),
            decimals=2,
            none="not measured",
        ),
        number(
            "Found when",
            "When `wine-drift selftest power` last measured that.",
            Query(ago("min_detectable_shift_timestamp_seconds"), "measured"),
            unit="dateTimeFromNow",
            none="never",
        ),
    ]
    parts = (("0.1", "10 %", "lower"), ("0.9", "90 %", "upper"), ("0.5", "median", ""))
    values = [
        graph(
            "Values",
            "Median, and the band in which 80 % of the values are: blue in this batch, grey in "
            "what the model was trained on. Drift is where blue leaves grey.",
            *(
                Query(
                    of_feature("feature_quantile", dataset="reference", q=q),
                    f"reference {part}",
                    f"reference {line}".strip(),
                )
                for q, part, line in parts
            ),
            *(
                Query(of_feature("feature_quantile", dataset="current", q=q), part, line or "main")
                for q, part, line in parts
            ),
            width=24,
            height=10,
        ),
        graph(
            "Missing and out of range",
            "Share of cells without a number, and outside the plausible range. A step means that "
            "the source changed.",
            Query(of_feature("batch_missing_ratio"), "missing", "main"),
            Query(of_feature("batch_out_of_range_ratio"), "out of range", "second"),
            unit="percentunit",
        ),
        timeline(
            "Faults of the source",
            "Values missing, in another unit, stuck, rounded or out of range. Worry at any: no "
            "model can mend a source.",
            NO_YES,
            Query(worst("feature_data_fault", feature="$feature"), "{{kind}}"),
            none="none",
        ),
    ]
    drift = [
        graph(
            "Severity",
            "Worry above *drift*, if evidence is there too. *textbook* is the index as books have "
            "it, which grows when rows get fewer.",
            Query(of_feature("feature_drift_severity"), "severity", "main"),
            Query(of_feature("feature_drift_psi"), "textbook", "reference"),
            *SEVERITIES,
        ),
        graph(
            "Evidence",
            "Log10 of how sure the drift is, added up over all batches of this model.",
            Query(of_feature("feature_drift_evidence"), "evidence", "main"),
            EVIDENCE,
            scale="symlog",
        ),
        graph(
            "P-value of a batch",
            "How often chance alone would do that, corrected for all tests made. One low value is "
            "no alarm; evidence adds them up.",
            Query(of_feature("feature_drift_pvalue"), "p-value", "main"),
            Query(metric("dataset_drift_pvalue_threshold"), "1 / budget", "threshold"),
            scale="log",
        ),
        timeline(
            "Drifted",
            "When this feature had both evidence and severity.",
            NO_YES,
            Query(worst("feature_drifted", feature="$feature"), "{{feature}}"),
        ),
    ]
    about = "One feature: has it drifted, how, and does it matter?"
    chosen = variable("feature", "Feature", metric("feature_drift_severity"))
    return wine_drift(
        FEATURE, "Feature", about, {"Now": now, "Values": values, "Drift": drift}, chosen
    )


def job() -> str:
    """Does the job run, and does what it says arrive?"""
    group = f'{{job="wine_drift", {PIPELINE}}}'  # of the Pushgateway
    run = [
        last_success(),
        number(
            "Last run",
            "How the last run ended. `wine-drift status` tells the error.",
            Query(metric("last_run_success"), "outcome"),
            levels=FAILED_OK,
        ),
        number(
            "Batch",
            "Number of the last batch, and of the last one with labels.",
            Query(metric("batch_number"), "last"),
            Query(metric("labeled_batch_number"), "with labels"),
        ),
        number(
            "Batches in this time",
            "By outcome. A quarantined one was refused as a whole; the folder `quarantine` has it.",
            Query(added("batches_total", "outcome"), "{{outcome}}"),
        ),
        number(
            "Files waiting",
            "Files in the inbox when the last run ended; a run takes one. Worry when they grow.",
            Query(metric("batches_pending"), "files"),
        ),
        number(
            "Release",
            "What runs, and on what.",
            Query(metric("build_info"), "{{version}} on Python {{python_version}}"),
            by_name=True,
        ),
        number(
            "Next run",
            "When it is due, as the last run knew it. Worry when that was a while ago.",
            Query(ago("next_run_timestamp_seconds"), "due"),
            unit="dateTimeFromNow",
            height=8,
        ),
        number(
            "Runs left out in this time",
            "Missed: due, and nobody started them. Skipped: due while an earlier one was at work. "
            "The rest hung, crashed or were killed. Their batches are taken by later runs.",
            Query(added("runs_missed_total"), "missed"),
            Query(added("runs_skipped_total"), "skipped"),
            Query(added("runs_ended_total", "reason"), "{{reason}}"),
            width=8,
            height=8,
        ),
        graph(
            "Time since the last success",
            "A saw that falls with each run. Worry when it comes to twice the interval. Runs that "
            "find nothing to do end well: *since the last batch* tells whether data still comes.",
            Query(age("last_success_timestamp_seconds"), "since the last success", "main"),
            Query(age("last_batch_timestamp_seconds"), "since the last batch", "second"),
            INTERVAL,
            unit="s",
        ),
        graph(
            "Duration of a run",
            "The last run and its stages. Retraining takes longest; worry when the whole nears the "
            "interval. With many rows some stages go on beside each other: their sum may be more.",
            Query(metric("last_run_stage_duration_seconds"), "{{stage}}"),
            Query(metric("last_run_duration_seconds"), "whole run", "total"),
            unit="s",
            stacked=True,
            width=8,
        ),
        timeline(
            "Outcome of runs",
            "How runs ended. A run that could not even push shows as a gap in time only.",
            FAILED_OK,
            Query(f"min_over_time({metric('last_run_success', '$__interval')})", "run"),
            width=8,
        ),
        graph(
            "Memory",
            "Peak of the last run. Worry when it grows from day to day, or nears the limit of the "
            "container.",
            Query(metric("last_run_max_rss_bytes"), "peak", "main"),
            unit="bytes",
            width=8,
        ),
    ]
    rows = [
        graph(
            "Rows in a day",
            "Rows scored, set aside and labelled late, over 24 hours each.",
            Query(f"round(increase({metric('rows_total', '1d')}))", "scored", "main"),
            Query(f"sum(round(increase({metric('rows_rejected_total', '1d')})))", "set aside"),
            Query(f"round(increase({metric('late_labels_total', '1d')}))", "labelled late"),
            width=8,
        ),
        graph(
            "Rows without labels",
            "Rows and batches whose labels may still come. Worry when they only grow: without "
            "labels there is no verdict on answers and no retraining.",
            Query(metric("unlabeled_rows"), "rows", "main"),
            Query(metric("unlabeled_batches"), "batches", "second"),
            width=8,
        ),
        graph(
            "How late labels are",
            "Time from a batch to its labels, and since the oldest batch that has none.",
            Query(metric("label_lag_seconds"), "labels came after", "main"),
            Query(age("unlabeled_since_timestamp_seconds"), "oldest without", "second"),
            unit="s",
            width=8,
        ),
    ]
    push = [
        graph(
            "Time since the last push",
            "The gateway keeps the last values for ever: only this tells how old they are. Worry "
            "when it comes to two intervals.",
            Query(f"time() - push_time_seconds{group}", "since the last push", "main"),
            INTERVAL,
            unit="s",
            width=8,
        ),
        graph(
            "Answers of the gateway in an hour",
            "Pushes by HTTP code. Worry at any 400: the metrics were refused.",
            Query(
                'sum by (code) (increase(pushgateway_http_requests_total{handler="push"}[1h]))',
                "{{code}}",
            ),
            width=8,
        ),
        number(
            "Last refused push",
            "When the gateway last refused metrics of this pipeline.",
            Query(f"(push_failure_time_seconds{group} > 0) * 1000", "refused"),
            unit="dateTimeFromNow",
            height=8,
            none="never",
        ),
        number(
            "Failed pushes in this time",
            "By reason; the next push that arrives tells of them. Nothing is lost.",
            Query(added("push_failures_total", "reason"), "{{reason}}"),
            height=8,
        ),
    ]
    stack = [
        timeline(
            "Targets",
            "What Prometheus could reach. Worry when the gateway is down: nothing arrives.",
            {"down": 0, "up": 1},
            Query("min_over_time(up[$__interval])", "{{job}}"),
        ),
        timeline(
            "Alerts",
            "Alerts that fired, for this pipeline and for the stack.",
            {"firing": 1},
            Query(f"max by (alertname) ({ALERTS})", "{{alertname}}"),
            none="none",
        ),
        listing(
            "Alerts firing now",
            "`docs/runbooks.md` has a section for each.",
            Query(ALERTS),
            ["alertname", "severity", "pipeline"],
            width=12,
        ),
        graph(
            "Faults of the alerting itself",
            "Rules that could not be evaluated, alerts that Prometheus dropped, messages that "
            "Alertmanager could not send. Worry at anything but 0: alerts may be lost.",
            Query(faults("prometheus_rule_evaluation_failures_total"), "rules"),
            Query(faults("prometheus_notifications_dropped_total"), "dropped"),
            Query(faults("alertmanager_notifications_failed_total"), "not sent"),
        ),
    ]
    about = "Does the job run, and does what it says arrive?"
    found = {"Runs": run, "Rows and labels": rows, "Push": push, "Prometheus and alerts": stack}
    return wine_drift(JOB, "Job and stack", about, found)


def faults(name: str) -> str:
    """Count faults of the stack in each step."""
    return f"sum(increase({name}[$__rate_interval]))"


def wine_drift(uid: str, title: str, about: str, rows: dict[str, list[Any]], *choices: Any) -> str:
    """Every dashboard offers the pipelines, and marks new models and alerts."""
    trained = event(
        "New models",
        "purple",
        ago("model_trained_timestamp_seconds"),
        title="New model",
        about="was trained",
    ).use_value_for_time(True)
    alerts = event("Alerts", "red", ALERTS, title="{{alertname}}", about="{{severity}}")
    variables = [variable("pipeline", "Pipeline", f"{PREFIX}build_info"), *choices]
    return board(uid, f"Wine drift / {title}", about, rows, variables, [trained, alerts])


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, made in (("overview", overview()), ("feature", feature()), ("job", job())):
        (folder / f"{name}.json").write_text(made, encoding="utf-8")
