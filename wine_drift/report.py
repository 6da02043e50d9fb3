"""Records and manifests as text for people: pure, one string each."""

from __future__ import annotations

import io
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    "unconfirmed": "answers changed in one batch only: the next one with labels has to confirm it",
    "tried_before": "a challenger was tried; the next one takes twice the labelled rows",
    "cooldown": "the champion has only just been changed",
    "follow_up": "the change led to a new champion; there are more rows to learn from now",
    "forced": "retraining was asked for",
    "retrain_never": "retraining is switched off",
}
IDLE = {
    "nothing_waiting": "nothing waits in the inbox",
    "end_of_stream": "the stream has ended: every row of the table was used once",
    "waiting_for_labels": "nothing was trained: too few labelled rows",
}
KNOWN = {
    "already_processed": " (already processed: nothing was counted again)",
    "already_labelled": " (no label of it was open: nothing was changed)",
}
# What came of a candidate, as the end of a sentence.
CANDIDATES = {
    "won": "won",
    "no_gain": "no better than the champion",
    "unconfirmed": "better, but not in each batch after the alarm",
    "not_proven": "better, but chance alone could do that",
    "beaten": "beaten by another one",
    "failed": "failed",
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
            lines += _retraining(record["retraining"])
        return "\n".join([*lines, *_published(record)])
    batch = record["batch"]
    if outcome == "quarantined":
        return f"batch {batch['name']} is in quarantine"
    known = KNOWN.get(outcome, "")
    if record["drift"] is None:
        told = f"batch {batch['sequence']} · {batch['name']}{known}; its record is no longer kept"
        return "\n".join([told, *_published(record)])
    lines = [
        f"batch {batch['sequence']} · {batch['name']}{known} · {batch['rows']} rows, "
        f"{batch['accepted']} scored, {batch['labelled']} labelled"
    ]
    aside = {reason: n for reason, n in batch["set_aside"].items() if n}
    if aside:
        told = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in aside.items())
        lines.append(_row("set aside", told))
    lines += _late(record)
    lines.append(_row("quality", _quality(record["quality"])))
    if batch["seen_in_training"]:
        told = f"{batch['seen_in_training']} labelled rows were in the champion's training"
        lines.append(_row("", f"{told}: this quality flatters it"))
    lines.append(_row("drift", _drift(record["drift"])))
    lines += [_row("fault", fault_text(fault)) for fault in record["drift"]["faults"]]
    decision = (record["labels"] or record)["decision"]
    why = "; ".join(REASONS[reason] for reason in decision["reasons"])
    lines.append(_row("decision", f"{decision['action']}: {why}"))
    if record["retraining"]:
        lines += _retraining(record["retraining"])
    return "\n".join([*lines, *_published(record)])


def explain_text(record: Mapping[str, Any]) -> str:
    """Why a batch was judged as it was."""
    batch, drift, quality = record["batch"], record["drift"], record["quality"]
    verb = "wait" if drift["status"] == "not_judged" else "judged"
    lines = [f"batch {batch['sequence']} · {batch['name']} · {drift['judged_rows']} rows {verb}"]
    if drift["judged_rows"] > batch["rows"]:
        lines.append(_row("", f"with those that waited; below is what its own {batch['rows']} say"))
    lines.append(_row("drift", _drift(drift)))
    lines += _late(record)
    lines.append(_row("quality", _drop(quality)))
    if record["retraining"]:
        lines += _retraining(record["retraining"])
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


def story_text(told: Sequence[tuple[float, Mapping[str, Any]]]) -> str:
    """Where alarms began and models were replaced, one line each."""
    lines = []
    for at, record in told:
        reasons = "; ".join(REASONS[code] for code in record["decision"]["reasons"])
        tried = record["retraining"]
        came = f" -> {tried['challenger']} serves" if tried and tried["challenger"] else ""
        lines.append(f"{_when(at)}  batch {record['batch']['sequence']}: {reasons}{came}")
    return "\n".join(lines)


def models_text(
    manifests: Sequence[Mapping[str, Any]], champion: str | None, pruned: Collection[str] = ()
) -> str:
    """All versions as a table; the champion is marked, and those whose files were removed."""
    if not manifests:
        return "no models yet"
    titles = ("version", "trained", "reason", "recipe", "rows", "log loss", "AUC", "parent")
    table = _table("", *titles, "files" if pruned else "")
    for manifest in manifests:
        quality = manifest["out_of_fold"]
        table.add_row(
            "*" if manifest["version"] == champion else "",
            manifest["version"],
            _when(manifest["trained_at"]),
            manifest["reason"],
            manifest["recipe"],
            str(manifest["training_rows"]),
            number(quality["log_loss"]),
            number(quality["roc_auc"]),
            manifest["parent"] or "-",
            "removed" if manifest["version"] in pruned else "",
        )
    return _drawn(table)


def rollback_text(record: Mapping[str, Any]) -> str:
    """Which version serves now.

    >>> rollback_text({"outcome": "serves_already", "version": "v1-9a7d89b7"})
    'v1-9a7d89b7 serves already; nothing was changed'
    """
    if record["outcome"] == "serves_already":
        return f"{record['version']} serves already; nothing was changed"
    lines = [f"{record['version']} serves again, {record['before']} no longer"]
    if record["tries_at_rows"]:
        wanted = record["tries_at_rows"]
        lines.append(_row("retraining", f"while an alarm lasts, next at {wanted} labelled rows"))
    return "\n".join([*lines, *_published(record)])


def prune_text(found: Mapping[str, Any]) -> str:
    """What was removed.

    >>> prune_text({"removed": [], "leftovers": [".v3-9a7d89b7.part"], "dry_run": True})
    'would remove .v3-9a7d89b7.part, which is no version'
    """
    verb = "would remove" if found["dry_run"] else "removed"
    lines = [f"{verb} the files of {version}" for version in found["removed"]]
    lines += [f"{verb} {name}, which is no version" for name in found["leftovers"]]
    return "\n".join(lines) or "nothing to remove"


def retention_text(found: Mapping[str, Any]) -> str:
    """What `wine-drift prune` removed, or would."""
    would = "would remove" if found["dry_run"] else "removed"
    before, after = (size / 1e6 for size in found["ledger_bytes"])
    lines = [
        f"{would} {found['files']} old files and {found['unfinished']} unfinished ones, "
        f"{found['bytes'] / 1e6:.1f} MB",
        f"{would} {found['entries']} entries of the history",
        f"{would} versions: {', '.join(found['versions']) or 'none'}",
    ]
    if found["leftovers"]:
        lines.append(f"{would} folders of no version: {', '.join(found['leftovers'])}")
    ledger = f"the ledger has {after:.1f} MB"
    return "\n".join([*lines, ledger if before == after else f"{ledger}, before {before:.1f}"])


def repair_text(record: Mapping[str, Any]) -> str:
    """What was damaged, what was put back, and what was lost by that."""
    if record["outcome"] == "sound":
        return "the ledger is sound, nothing was changed"
    lines = []
    if record["problem"] is not None:
        lines.append(f"the ledger was damaged: {record['problem']}")
        lines.append(f"restored as of {_when(record['backup_at'])}, from the last sound backup")
        lines += _lost(record)
    lines += _strays(record)
    if record["kept_as"] is not None:
        lines.append(f"the damaged ledger is kept as {record['kept_as']}")
    if record["versions"]:
        lines.append(f"put back from the backup: {', '.join(record['versions'])}")
    return "\n".join(lines)


def _lost(record: Mapping[str, Any]) -> Iterator[str]:
    """Batches after the backup."""
    lost = [f"{each['sequence']} ({each['id']}, {each['outcome']})" for each in record["lost"]]
    if not record["known"]:
        yield "the damaged ledger does not tell which batches came after that"
    else:
        yield f"lost: {len(lost)} batches after that{': ' * bool(lost)}{', '.join(lost[:20])}"
    yield "lost: late labels, versions and runs after that"


def _strays(record: Mapping[str, Any]) -> Iterator[str]:
    """Files of batches that the ledger does not know."""
    if record["returned"]:
        yield f"{len(record['returned'])} files went back to the inbox; the next runs take them"
    if record["unreturned"]:
        yield (
            f"{len(record['unreturned'])} files that were put away are unknown to the ledger; "
            "`wine-drift run-batch FILE` takes each again, in the order of their batches: "
            + ", ".join(record["unreturned"][:20])
        )


def import_text(record: Mapping[str, Any]) -> str:
    """What became of a file with a version.

    >>> import_text({"outcome": "known", "version": "v1-9a7d89b7"})
    'it is v1-9a7d89b7 already; nothing was changed'
    """
    version = record["version"]
    if record["outcome"] == "known":
        return f"it is {version} already; nothing was changed"
    serves = (
        "it serves" if record["serves"] else f"`wine-drift models rollback {version}` lets it serve"
    )
    told = f"{record['imported_from']} imported as {version}; {serves}"
    return "\n".join([told, *_published(record)])


def diff_text(found: Mapping[str, Any]) -> str:
    """What differs between two versions."""
    old, new = found["old"], found["new"]
    lines = []
    if found["differences"]:
        table = _table("", f"{old} (old)", f"{new} (new)")
        for each in found["differences"]:
            title = f"{each['what']} {each['of'] or ''}".replace("_", " ").rstrip()
            table.add_row(title, _part(each, "old"), _part(each, "new"))
        lines += [_drawn(table), ""]
    else:
        lines.append(f"the manifests of {old} and {new} tell the same")
    scores = found["scores"]
    if scores is None:
        gone = " and ".join(found["removed"])
        return "\n".join([*lines, f"scores not compared: the files of {gone} were removed"])
    told = (
        f"scores differ by {number(scores['mean_absolute'])} on average and "
        f"{number(scores['largest'])} at most; {scores['decisions_changed']:.1%} of the decisions, "
        "each at its own cut, are others"
    )
    rows = f"on the {scores['rows']} reference rows of {new}, which it was trained on"
    return "\n".join([*lines, told, rows])


def _part(difference: Mapping[str, Any], side: str) -> str:
    """One side of a difference, short."""
    value, what = difference[side], difference["what"]
    if value is None:
        return "-"
    if what == "reliance":
        return f"{value:.1%}"
    if what == "data_sha256":
        return f"{value[:12]}…"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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


def _retraining(part: Mapping[str, Any]) -> list[str]:
    """What came of a retraining: the verdict, then a line for each candidate."""
    outcome, gate = part["outcome"], part["gate"]
    if gate is None or outcome == "failed":
        told = f"failed, the champion goes on serving: {part['error']}"
        return [_row("retraining", told)]
    rows = f"{gate['rows']} held-out rows, {gate['positives']} of them positive"
    if outcome == "waiting":
        return [_row("retraining", f"waits for labels: {rows}")]
    verdict = f"{part['challenger']} promoted" if outcome == "promoted" else "champion kept"
    if gate["forced"]:
        verdict += ", as it was asked for"
    loss = number(gate["champion_log_loss"])
    lines = [_row("retraining", f"{verdict}: {rows}; log loss of the champion {loss}")]
    for each in gate["candidates"]:
        why = CANDIDATES[each["outcome"]]
        told = f"{each['recipe']}: {why}: {each['error']}"
        if each["error"] is None:
            told = (
                f"{each['recipe']}: log loss {number(each['log_loss'])}, gain "
                f"{number(each['mean_gain'])}, p {probability(each['p_value'])} (takes less than "
                f"{probability(gate['level'])}), {each['trees']} trees: {why}"
            )
        lines.append(_row("", told))
    old = gate["forgetting"]
    if old is not None:
        after, before = number(old["challenger_log_loss"]), number(old["champion_log_loss"])
        lines.append(_row("", f"log loss on {old['rows']} old rows: {before} before, {after} now"))
    return lines


def _late(record: Mapping[str, Any]) -> list[str]:
    """Of labels that came after their batch."""
    late, gap = record["labels"], record["quality"]["log_loss_gap"]
    if late is None:
        return []
    told = f"{late['rows']} came {_duration(late['lag_seconds'])} after the batch"
    if gap is not None:
        side = "above" if gap >= 0 else "below"
        told += f"; log loss is {number(abs(gap))} {side} what the scores promised"
    return [_row("labels", told)]


def _duration(seconds: float) -> str:
    """Seconds for people.

    >>> _duration(90), _duration(7200), _duration(3 * 86400)
    ('2 min', '2.0 h', '3.0 days')
    """
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


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
    # names and texts may hold brackets, which are no markup
    Console(file=out, width=140, no_color=True, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
