"""Records and manifests as text for people: pure, one string each."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wine_drift.explanation import explain, pattern, ranked

if TYPE_CHECKING:
    from rich.table import Table

# Reason codes of a decision, as sentences.
REASONS = {
    "no_drift": "no evidence of drift within the false-alarm budget",
    "too_few_rows": "too few rows to judge drift",
    "drift_warn": "something may be changing; not enough evidence for an alarm",
    "drift_minor": "a real difference from the reference, too small to matter",
    "drift": "the data has drifted",
    "drift_major": "the data has drifted a lot",
    "covariate_drift": "other inputs than the champion was trained on",
    "label_shift": "another share of positives, the inputs of either answer as before",
    "concept_drift": "other answers to the same inputs",
    "quality_drop": "quality is clearly worse than the reference",
    "quality_minor": "a real change of quality, too small to matter",
    "quality_warn": "quality may be changing; not enough evidence for an alarm",
    "data_fault": "the source is at fault: mend it rather than the model, or --accept it",
    "waiting_for_labels": "retraining waits for more labelled rows",
    "retrain_never": "retraining is switched off",
}
IDLE = {
    "nothing_waiting": "nothing waits in the inbox",
    "end_of_stream": "the stream has ended: every row of the table was used once",
    "waiting_for_labels": "nothing was trained: too few labelled rows",
}


def number(value: float | None, digits: int = 3) -> str:
    """A figure with so many decimals, or a dash where there is none.

    >>> number(0.27512), number(None)
    ('0.275', '-')
    """
    return "-" if value is None else f"{value:.{digits}f}"


def probability(value: float | None) -> str:
    """A p-value, the small ones by their power of ten.

    >>> probability(0.0312), probability(0.0000213), probability(1.0), probability(0.0)
    ('0.031', '2.1e-05', '1', '0')
    """
    if value is None:
        return "-"
    return f"{value:.1e}" if 0 < value < 0.001 else f"{value:.2g}"


def evidence(log10: float | None) -> str:
    """Evidence as a number, large and small ones as powers of ten.

    >>> evidence(3.2), evidence(0.5), evidence(-1.0)
    ('10^3.2', '3.2', '0.1')
    """
    if log10 is None:
        return "-"
    if abs(log10) >= 3:
        return f"10^{log10:.1f}"
    return f"{10**log10:.0f}" if log10 >= 1 else f"{10**log10:.2g}"


def fault_text(fault: Mapping[str, Any]) -> str:
    """One fault of the source, in a sentence.

    >>> fault_text({"feature": "pH", "kind": "stuck", "share": 1.0, "usual": 0.03, "detail": None})
    'pH: stuck, 100% of the values are the same one (usually 3%)'
    """
    share, usual = f"{fault['share']:.0%}", f"usually {fault['usual']:.0%}"
    told = {
        "missing_values": f"{share} of the values are missing ({usual})",
        "unit_change": f"another unit? {share} of the values are about {fault['detail'] or 0:g} "
        "times the usual",
        "stuck": f"stuck, {share} of the values are the same one ({usual})",
        "rounding": f"rounded to {fault['detail'] or 0:.0f} decimals, {share} of the values have "
        f"more ({usual})",
        "out_of_range": f"{share} of the values are beyond the plausible range",
    }
    return f"{fault['feature']}: {told[fault['kind']]}"


def run_text(record: Mapping[str, Any]) -> str:
    """What one run did, in a few lines.

    >>> run_text({"outcome": "nothing_waiting", "push": None})
    'nothing waits in the inbox'
    """
    outcome = record["outcome"]
    if outcome in IDLE:
        return "\n".join([IDLE[outcome], *_published(record)])
    if outcome == "trained":
        lines = [f"champion {record['model']['version']}"]
        if record["retraining"]:
            lines.append(_row("retraining", _retraining(record["retraining"])))
        return "\n".join([*lines, *_published(record)])
    batch = record["batch"]
    if outcome == "quarantined":
        return f"batch {batch['name']} is in quarantine"
    known = " (already processed: nothing was counted again)" if outcome != "processed" else ""
    lines = [
        f"batch {batch['sequence']} · {batch['name']}{known} · {batch['rows']} rows, "
        f"{batch['accepted']} scored, {batch['labelled']} labelled"
    ]
    aside = {reason: n for reason, n in batch["set_aside"].items() if n}
    if aside:
        told = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in aside.items())
        lines.append(_row("set aside", told))
    lines.append(_row("quality", _quality(record["quality"])))
    if batch["seen_in_training"]:
        told = f"{batch['seen_in_training']} labelled rows were in the champion's training"
        lines.append(_row("", f"{told}: this quality flatters it"))
    lines.append(_row("drift", _drift(record["drift"])))
    lines += [_row("fault", fault_text(fault)) for fault in record["drift"]["faults"]]
    decision = record["decision"]
    why = "; ".join(REASONS[reason] for reason in decision["reasons"])
    lines.append(_row("decision", f"{decision['action']}: {why}"))
    if record["retraining"]:
        lines.append(_row("retraining", _retraining(record["retraining"])))
    return "\n".join([*lines, *_published(record)])


def explain_text(record: Mapping[str, Any]) -> str:
    """Why a batch was judged as it was."""
    batch, drift, quality = record["batch"], record["drift"], record["quality"]
    verb = "wait" if drift["status"] == "not_judged" else "judged"
    lines = [f"batch {batch['sequence']} · {batch['name']} · {drift['judged_rows']} rows {verb}"]
    if drift["judged_rows"] > batch["rows"]:
        lines.append(_row("", f"with those that waited; below is what its own {batch['rows']} say"))
    lines.append(_row("drift", _drift(drift)))
    lines.append(_row("quality", _drop(quality)))
    lines += [_row("fault", fault_text(fault)) for fault in drift["faults"]]
    lines += [_row("cause", REASONS[cause]) for cause in drift["causes"]]
    if not drift["features"]:
        return "\n".join(lines)
    table = _table("", "what changed", "evidence", "severity", "reliance")
    for column in explain(record):
        table.add_row(
            "*" if column["drifted"] else "",
            column["change"],
            evidence(column["log10_evidence"]),
            number(column["severity"], 2),
            "-" if column["reliance"] is None else f"{column['reliance']:.0%}",
        )
    threshold = evidence(record["thresholds"]["log10_evidence"])
    note = (
        f"* drifted: evidence from {threshold} and severity from "
        f"{number(record['thresholds']['severity_drift'], 2)}; reliance: share in what makes "
        "the scores"
    )
    return "\n".join([*lines, "", _drawn(table), note])


def selftest_text(found: Mapping[str, Any]) -> str:
    """What a selftest measured."""
    lines = [
        f"selftest {found['test']} · champion {found['version']}, {found['reference_rows']} "
        f"reference rows · batches of {found['batch_rows']} rows · budget {found['budget']}"
    ]
    if found["test"] == "null":
        table = _table("healthy batches with", "drift", "95 % limits", "quality", "95 % limits")
        for level, drift in found["rates"]["drift"].items():
            quality = found["rates"]["quality"][level]
            cells = [cell for rate in (drift, quality) for cell in _rate(rate)]
            table.add_row(f"p < {level}", *cells)
        table.add_row("a fault of the source", *_rate(found["faults"]), "", "")
        last = f"{found['alarms']} alarms began in {found['batches']} healthy batches"
        return "\n".join([*lines, "", _drawn(table), last])
    if found["test"] == "longrun":
        head = f"{found['streams']} healthy streams of {found['batches']} batches"
        table = _table(head, "streams", "95 % limits", "promised at most")
        bound = f"{found['bound']:.1%}"
        table.add_row("drift evidence of an alarm", *_rate(found["drift_evidence"]), bound)
        table.add_row("quality evidence of an alarm", *_rate(found["quality_evidence"]), bound)
        table.add_row("an alarm, drift or quality", *_rate(found["alarms"]), "")
        return "\n".join([*lines, "", _drawn(table)])
    if found["test"] == "power":
        head = "smallest shift with an alarm in 95 % of batches"
        table = _table("feature", head, "in sd", "batches to evidence at half of it")
        for feature in found["features"]:
            shift, sd = feature["shift_own"], feature["shift_sd"]
            table.add_row(
                feature["name"],
                "none up to 4 sd" if shift is None else f"{shift:.3g} {feature['unit']}".strip(),
                number(sd, 2),
                "> 50 batches" if feature["mean_delay"] >= 50 else f"{feature['mean_delay']:.1f}",
            )
        return "\n".join([*lines, "", _drawn(table)])
    table = _table("95 % interval of", "holds the true value", "95 % limits", "batches with one")
    for name, measure in found["measures"].items():
        table.add_row(name.replace("_", " "), *_rate(measure), f"{measure['told']:.1%}")
    return "\n".join([*lines, "", _drawn(table)])


def status_text(
    records: Sequence[Mapping[str, Any]],
    champion: Mapping[str, Any] | None,
    run: Mapping[str, Any] | None,
    *,
    home: str,
) -> str:
    """The last batches as a table, with the champion and the last run above it."""
    lines = [f"home      {home}"]
    if champion is None:
        lines.append("champion  no model yet; the first `wine-drift run-batch` trains one")
    else:
        quality = champion["out_of_fold"]
        lines.append(
            f"champion  {champion['version']}, trained {_when(champion['trained_at'])} on "
            f"{champion['training_rows']} rows; out of fold: log loss "
            f"{number(quality['log_loss'])}, AUC {number(quality['roc_auc'])}"
        )
    if run is not None:
        ended = "ended well" if run["success"] else f"FAILED ({run['outcome']})"
        lines.append(f"last run  {_when(run['finished_at'])}, {ended}")
        if run["dataset"] == "simulated":
            lines.append("SIMULATED DATA: these are not measurements of real wines")
    if not records:
        return "\n".join([*lines, "no batches yet"])
    table = _table("#", "batch", "rows", "log loss", "AUC", "drift", "severity", "most", "decision")
    for record in records:
        table.add_row(*_status_row(record))
    return "\n".join([*lines, "", _drawn(table)])


def models_text(manifests: Sequence[Mapping[str, Any]], champion: str | None) -> str:
    """All versions as a table; the champion is marked."""
    if not manifests:
        return "no models yet"
    table = _table("", "version", "trained", "reason", "rows", "log loss", "AUC", "parent")
    for manifest in manifests:
        quality = manifest["out_of_fold"]
        table.add_row(
            "*" if manifest["version"] == champion else "",
            manifest["version"],
            _when(manifest["trained_at"]),
            manifest["reason"],
            str(manifest["training_rows"]),
            number(quality["log_loss"]),
            number(quality["roc_auc"]),
            manifest["parent"] or "-",
        )
    return _drawn(table)


def _status_row(record: Mapping[str, Any]) -> list[str]:
    batch = record["batch"]
    if record["outcome"] == "quarantined":
        return ["-", batch["name"], "-", "-", "-", "-", "-", "-", "quarantined"]
    drift, quality, decision = record["drift"], record["quality"], record["decision"]
    most = max(drift["features"], key=lambda f: f["severity"], default=None)
    action = decision["action"]
    if record["retraining"]:
        action += f": {record['retraining']['outcome']}"
    return [
        str(batch["sequence"]),
        batch["name"],
        str(batch["rows"]),
        number(quality["log_loss"]),
        number(quality["roc_auc"]),
        drift["status"].replace("_", " "),
        number(drift["severity"], 2),
        most["name"] if most and drift["status"] != "ok" else "",
        action,
    ]


def _quality(quality: Mapping[str, Any]) -> str:
    parts = []
    for measure, title in (("log_loss", "log loss"), ("roc_auc", "AUC")):
        interval = quality["intervals"].get(measure)
        bounds = f" ({number(interval[0])} to {number(interval[1])})" if interval else ""
        undefined = quality["undefined"].get(measure)
        if undefined:
            parts.append(f"{title} undefined: {undefined}")
        else:
            usual = number(quality["reference"][measure])
            parts.append(f"{title} {number(quality[measure])}{bounds}, reference {usual}")
    return "; ".join(parts)


def _drift(drift: Mapping[str, Any]) -> str:
    if drift["status"] == "not_judged":
        return f"not judged: {drift['reason']}"
    text = (
        f"{drift['status']}: evidence {evidence(drift['log10_evidence'])}, "
        f"p {probability(drift['p_value'])}, severity {number(drift['severity'])}"
    )
    drifted = [feature for feature in ranked(drift["features"]) if feature["drifted"]]
    if pattern(drift):
        text += f" · {pattern(drift)}"
    if drifted:
        text += " · " + ", ".join(f"{f['name']} {number(f['severity'], 2)}" for f in drifted[:4])
        text += f" and {len(drifted) - 4} more" if len(drifted) > 4 else ""
    return text


def _drop(quality: Mapping[str, Any]) -> str:
    if quality["status"] == "not_judged":
        return f"not judged: {quality['judged_rows']} labelled rows wait for more"
    tests = ", ".join(
        f"{title} p {probability(quality[key])}"
        for key, title in (
            ("log_loss_p_value", "log loss up"),
            ("roc_auc_p_value", "AUC down"),
            ("calibration_p_value", "calibration off"),
        )
    )
    return f"{quality['status']}: evidence {evidence(quality['log10_evidence'])}; {tests}"


def _rate(found: Mapping[str, float]) -> tuple[str, str]:
    return f"{found['rate']:.2%}", f"{found['low']:.2%} to {found['high']:.2%}"


def _retraining(part: Mapping[str, Any]) -> str:
    if part["outcome"] == "failed":
        return f"failed, the champion goes on serving: {part['error']}"
    gate = part["gate"]
    found = (
        f"gain {number(gate['mean_gain'])} in log loss on {gate['n_rows']} held-out rows, "
        f"p {probability(gate['p_value'])}"
    )
    if part["outcome"] == "promoted":
        return f"{part['challenger']} promoted: {found}"
    return f"challenger rejected: {found}"


def _published(record: Mapping[str, Any]) -> list[str]:
    push = record.get("push")
    return [_row("published", ", ".join(push["sinks"]))] if push and push["sinks"] else []


def _row(title: str, text: str) -> str:
    return f"  {title:<10} {text}"


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment)) + " UTC"


def _table(*titles: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    figures = {"#", "rows", "log loss", "AUC", "severity", "evidence", "reliance", "in sd"}
    for title in titles:
        table.add_column(title, justify="right" if title in figures else "left", no_wrap=True)
    return table


def _drawn(table: Table) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=140, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
