"""Records and manifests as text for people: pure, one string each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wine_drift.explanation import explain, pattern, ranked
from wine_drift.layout import PLAIN, Paper, drawn, sheet
from wine_drift.schema import SCORE
from wine_drift.wording import (
    CANDIDATES,
    REASONS,
    duration,
    evidence,
    fault_text,
    number,
    probability,
    when,
)

IDLE = {
    "nothing_waiting": "nothing waits in the inbox",
    "end_of_stream": "the stream has ended: every row of the table was used once",
    "waiting_for_labels": "nothing was trained: too few labelled rows",
}
UNWATCHED = "not watched: with so few rows, columns or trees each model has scores of its own"
KNOWN = {
    "already_processed": " (already processed: nothing was counted again)",
    "already_labelled": " (no label of it was open: nothing was changed)",
}


def run_text(record: Mapping[str, Any], paper: Paper = PLAIN) -> str:
    """What one run did, in a few lines.

    >>> run_text({"outcome": "nothing_waiting", "push": None})
    'nothing waits in the inbox'
    """
    return drawn([*_told(record), *_published(record)], paper)


def _told(record: Mapping[str, Any]) -> list[str]:
    outcome = record["outcome"]
    if outcome in IDLE:
        return [IDLE[outcome]]
    if outcome == "trained":
        retraining = _retraining(record["retraining"]) if record["retraining"] else []
        return [f"champion {record['model']['version']}", *retraining]
    batch = record["batch"]
    if outcome == "quarantined":
        return [f"batch {batch['name']} is in quarantine"]
    known = KNOWN.get(outcome, "")
    if record["drift"] is None:
        return [f"batch {batch['sequence']} · {batch['name']}{known}; its record is no longer kept"]
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
    lines.append(_row("drift", drift_text(record["drift"])))
    lines += [_row("fault", fault_text(fault)) for fault in record["drift"]["faults"]]
    decision = (record["labels"] or record)["decision"]
    why = "; ".join(REASONS[reason] for reason in decision["reasons"])
    lines.append(_row("decision", f"{decision['action']}: {why}"))
    if record["retraining"]:
        lines += _retraining(record["retraining"])
    return lines


def explain_text(record: Mapping[str, Any], paper: Paper = PLAIN) -> str:
    """Why a batch was judged as it was."""
    batch, drift, quality = record["batch"], record["drift"], record["quality"]
    verb = "wait" if drift["status"] == "not_judged" else "judged"
    lines = [f"batch {batch['sequence']} · {batch['name']} · {drift['judged_rows']} rows {verb}"]
    if drift["judged_rows"] > batch["rows"]:
        lines.append(_row("", f"with those that waited; below is what its own {batch['rows']} say"))
    lines.append(_row("drift", drift_text(drift)))
    lines += _late(record)
    lines.append(_row("quality", drop_text(quality)))
    if record["retraining"]:
        lines += _retraining(record["retraining"])
    lines += [_row("fault", fault_text(fault)) for fault in drift["faults"]]
    lines += [_row("cause", REASONS[cause]) for cause in drift["causes"]]
    if SCORE in drift.get("unwatched", ()):  # older records do not tell
        lines.append(_row("score", UNWATCHED))
    if not drift["features"]:
        return drawn(lines, paper)
    rows = [
        (
            "*" if column["drifted"] else "",
            column["change"],
            evidence(column["log10_evidence"]),
            number(column["severity"], 2),
            "-" if column["reliance"] is None else f"{column['reliance']:.0%}",
        )
        for column in explain(record)
    ]
    table = sheet(("", "what changed", "evidence", "severity", "reliance"), rows, paper)
    threshold = evidence(record["thresholds"]["log10_evidence"])
    note = (
        f"* drifted: evidence from {threshold} and severity from "
        f"{number(record['thresholds']['severity_drift'], 2)}; reliance: share in what makes "
        "the scores"
    )
    return drawn([*lines, "", table, note], paper)


def selftest_text(found: Mapping[str, Any]) -> str:
    """What a selftest measured."""
    lines = [
        f"selftest {found['test']} · champion {found['version']}, {found['reference_rows']} "
        f"reference rows · batches of {found['batch_rows']} rows · budget {found['budget']}"
    ]
    rows: list[Sequence[str]] = []
    if found["test"] == "null":
        titles = ("healthy batches with", "drift", "95 % limits", "quality", "95 % limits")
        rates = found["rates"]
        for level, drift in rates["drift"].items():
            rows.append((f"p < {level}", *_rate(drift), *_rate(rates["quality"][level])))
        rows.append(("a fault of the source", *_rate(found["faults"]), "", ""))
        last = f"{found['alarms']} alarms began in {found['batches']} healthy batches"
        return drawn([*lines, "", sheet(titles, rows), last], PLAIN)
    if found["test"] == "longrun":
        head = f"{found['streams']} healthy streams of {found['batches']} batches"
        bound = f"{found['bound']:.1%}"
        for kind in ("drift", "quality"):
            rate = _rate(found[f"{kind}_evidence"])
            rows.append((f"{kind} evidence of an alarm", *rate, bound))
        rows.append(("an alarm, drift or quality", *_rate(found["alarms"]), ""))
        table = sheet((head, "streams", "95 % limits", "promised at most"), rows)
        return drawn([*lines, "", table], PLAIN)
    if found["test"] == "power":
        head = "smallest shift with an alarm in 95 % of batches"
        for feature in found["features"]:
            shift, sd = feature["shift_own"], feature["shift_sd"]
            told = "none" if shift is None else f"{shift:.3g} {feature['unit']}".strip()
            late = feature["mean_delay"] >= 50
            delay = "> 50 batches" if late else f"{feature['mean_delay']:.1f}"
            rows.append((feature["name"], told, number(sd, 2), delay))
        table = sheet(("feature", head, "in sd", "batches to evidence at half of it"), rows)
        return drawn([*lines, "", table], PLAIN)
    for name, measure in found["measures"].items():
        rows.append((name.replace("_", " "), *_rate(measure), f"{measure['told']:.1%}"))
    table = sheet(
        ("95 % interval of", "holds the true value", "95 % limits", "batches with one"), rows
    )
    return drawn([*lines, "", table], PLAIN)


def demo_text(found: Mapping[str, Any]) -> str:
    """What a demo made: where alarms began and models were replaced, one line each."""
    if found["changed"]:
        lines = [f"{found['home']}: {found['days']:g} days of hourly batches, up to now"]
        lines += [_chapter(each["at"], each["record"]) for each in found["story"]]
    else:
        lines = [f"{found['home']}: has a past already; nothing was changed"]
    if found["entries"] is not None:
        lines.append(written_text(found))
    elif found["path"] is not None:
        lines.append(f"{found['path']}: left as it is")
    return "\n".join(lines)


def written_text(found: Mapping[str, Any]) -> str:
    """Of a file that was written.

    >>> written_text({"path": "a.tar"}), written_text({"path": "past.txt", "entries": 5})
    ('wrote a.tar', 'wrote 5 entries of the ledger to past.txt')
    >>> written_text({"path": "page.html", "verdict": "healthy"})
    'wrote page.html: healthy'
    """
    of = f"{found['entries']} entries of the ledger to " if "entries" in found else ""
    level = f": {found['verdict']}" if "verdict" in found else ""
    return f"wrote {of}{found['path']}{level}"


def _chapter(at: float, record: Mapping[str, Any]) -> str:
    reasons = "; ".join(REASONS[code] for code in record["decision"]["reasons"])
    tried = record["retraining"]
    came = f" -> {tried['challenger']} serves" if tried and tried["challenger"] else ""
    return f"{when(at)}  batch {record['batch']['sequence']}: {reasons}{came}"


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
    if found["rows"]:
        lines.append(f"{would} {found['rows']} files of labelled rows that nobody needs")
    ledger = f"the ledger has {after:.1f} MB"
    return "\n".join([*lines, ledger if before == after else f"{ledger}, before {before:.1f}"])


def repair_text(record: Mapping[str, Any]) -> str:
    """What was damaged, what was put back, and what was lost by that."""
    if record["outcome"] == "sound":
        return "the ledger is sound, nothing was changed"
    lines = []
    if record["problem"] is not None:
        lines.append(f"the ledger was damaged: {record['problem']}")
        lines.append(f"restored as of {when(record['backup_at'])}, from the last sound backup")
        lines += _lost(record)
    lines += _strays(record)
    if record["kept_as"] is not None:
        lines.append(f"the damaged ledger is kept as {record['kept_as']}")
    if record["versions"]:
        lines.append(f"put back from the backup: {', '.join(record['versions'])}")
    if record["rows_lost"]:
        lines.append(
            f"lost: {record['rows_lost']} labelled rows to learn from; their files were damaged or "
            "gone, and there is no copy of them"
        )
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
        rows = [
            (
                f"{each['what']} {each['of'] or ''}".replace("_", " ").rstrip(),
                _part(each, "old"),
                _part(each, "new"),
            )
            for each in found["differences"]
        ]
        lines += [drawn([sheet(("", f"{old} (old)", f"{new} (new)"), rows)], PLAIN), ""]
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
    on = f"on the {scores['rows']} reference rows of {new}, which it was trained on"
    return "\n".join([*lines, told, on])


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


def drift_text(drift: Mapping[str, Any]) -> str:
    """What the rows say of drift, and which columns drifted most."""
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


def drop_text(quality: Mapping[str, Any]) -> str:
    """What the labelled rows say of a drop in quality."""
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
    told = f"{late['rows']} came {duration(late['lag_seconds'])} after the batch"
    if gap is not None:
        side = "above" if gap >= 0 else "below"
        told += f"; log loss is {number(abs(gap))} {side} what the scores promised"
    return [_row("labels", told)]


def _published(record: Mapping[str, Any]) -> list[str]:
    push = record.get("push")
    return [_row("published", ", ".join(push["sinks"]))] if push and push["sinks"] else []


def _row(title: str, text: str) -> str:
    return f"  {title:<10} {text}"
