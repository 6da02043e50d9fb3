"""Words and figures for people, the same on the terminal and elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

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
# What to do where no run has come when one was due.
LATE = (
    "see whether the schedule still runs: `wine-drift doctor`; "
    "if runs are meant to come at other times, tell when: `every` or `cron`"
)
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
    ('0.031', '2.1e-05', '1', 'under 1e-300')
    """
    if value is None:
        return "-"
    if value == 0:  # too small for a number of its kind, not impossible
        return "under 1e-300"
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


def last_decision(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was decided on a batch last: when it came, or when late labels of it did."""
    decision: Mapping[str, Any] = (record["labels"] or record)["decision"]
    return decision


def action(record: Mapping[str, Any]) -> str:
    """What was done after a batch, in a word or two.

    >>> record = {"labels": None, "decision": {"action": "hold"}, "retraining": None}
    >>> action(record), action(record | {"retraining": {"outcome": "promoted"}})
    ('hold', 'retrain: promoted')
    """
    tried = record["retraining"]  # it stays, though labels that came later asked for nothing
    return f"retrain: {tried['outcome']}" if tried else str(last_decision(record)["action"])


def harmless(text: str) -> str:
    r"""Text without what would steer a terminal: files and columns are named by others.

    Also without what turns the direction of text around, which is why pages have it, too.

    >>> harmless("a\x1b[31m.csv")
    'a�[31m.csv'
    """
    kept = (c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "".join(kept)


def one_line(text: str) -> str:
    r"""The same on one line: a name could pretend to be the next.

    >>> one_line("a\n\x1b[31m.csv")
    'a �[31m.csv'
    """
    return harmless(text.replace("\n", " "))


def quoted(text: str) -> str:
    r"""A text as TOML has it, without what would steer who looks at it.

    >>> print(quoted('5" \u202epipe'))
    "5\" \u202epipe"
    """
    return "".join(
        c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}"
        for c in json.dumps(text, ensure_ascii=False)
    )


def counted(number: int, one: str, many: str) -> str:
    """A number with its word.

    >>> counted(1, "batch", "batches"), counted(0, "row", "rows")
    ('1 batch', '0 rows')
    """
    return f"{number} {one if number == 1 else many}"


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(90), duration(7200), duration(3 * 86400)
    ('2 min', '2.0 h', '3.0 days')
    """
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


def when(moment: float) -> str:
    """Unix time for people.

    >>> when(0)
    '1970-01-01 00:00:00 UTC'
    """
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment)) + " UTC"
