"""A home as a page: what the ledger and the champion's folder hold, put together for people."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wine_drift.bins import in_order
from wine_drift.chronicle import Estimate, Point, point
from wine_drift.detector import Detector
from wine_drift.errors import SettingsError, StateUnreadable
from wine_drift.explanation import ranked
from wine_drift.files import named
from wine_drift.home import models_place
from wine_drift.ledger import Ledger
from wine_drift.measures import wilson
from wine_drift.model import read_reference
from wine_drift.outcomes import score_groups
from wine_drift.publishing import POLICY
from wine_drift.reference import Reference
from wine_drift.settings import Settings
from wine_drift.standing import Standing, standing_of
from wine_drift.verdict import Verdict

RECENT, TRIED, FAULTY, VERSIONS = 20, 5, 8, 20  # most of each that are told
GROUPS = 6  # of rows by their score
MIN_LABELLED = 50  # rows: fewer make no curve

# Where it can keep no cache, matplotlib says so as soon as it is imported.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
from wine_drift import page  # noqa: E402 - after what keeps matplotlib quiet


def write_report(settings: Settings, path: Path, *, now: Callable[[], float] = time.time) -> str:
    """Write the page of a home to a file; gives the verdict in a word.

    Raises
    ------
    SettingsError
        The file cannot be written.
    StateUnreadable
        The ledger is damaged, or of another release.
    """
    with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
        gathered = gather(settings, ledger, standing_of(ledger, settings, now=now()))
    if path.is_dir():
        raise SettingsError(f"{path}: a folder", remedy="name a file in it")
    text = page.render(gathered, policy=POLICY)
    with named(path, "report") as file:
        file.write(text.encode())
    return gathered.verdict.level


class Live:
    """The page of a home as it is now, made anew when there is something new."""

    def __init__(self, settings: Settings, *, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._now = now
        self._making = threading.Lock()  # matplotlib's settings are those of the process
        self._known: tuple[int, Verdict] | None = None
        self._text = b""

    def __call__(self) -> bytes:
        """The page, as UTF-8.

        Raises
        ------
        StateUnreadable
            The ledger cannot be read.
        """
        settings, now = self._settings, self._now()
        with (
            self._making,
            Ledger.open(settings.home, settings.ledger, read_only=True) as ledger,
        ):
            stands = standing_of(ledger, settings, now=now)
            # that there is no news for long is news, too, and how long
            known = ledger.newest, stands.verdict
            if self._known != known:
                gathered = gather(settings, ledger, stands)
                self._text = page.render(gathered, policy=POLICY).encode()
                self._known = known
            return self._text


def gather(settings: Settings, ledger: Ledger, stands: Standing) -> page.Page:
    """All that stands on the page.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    stands : Standing
        As of now.
    """
    snapshot = stands.snapshot
    points: list[Point] = []
    recent: deque[page.Told] = deque(maxlen=RECENT)
    tried: deque[page.Told] = deque(maxlen=TRIED)
    faulty: deque[page.Told] = deque(maxlen=FAULTY)
    latest, alarm = None, None
    for at, record in ledger.timed_records():
        told = page.Told(at, record)
        recent.append(told)
        if record["outcome"] != "processed":
            faulty.append(told)
            continue
        latest = told
        points.append(point(at, record))
        if any(each["drifted"] for each in record["drift"]["features"]):
            alarm = told
        if record["drift"]["faults"] or "data_fault" in record["decision"]["reasons"]:
            faulty.append(told)
        if record["retraining"] is not None and record["retraining"]["outcome"] != "waiting":
            tried.append(told)
    manifests, removed = ledger.versions(), ledger.pruned()
    shapes, no_shapes = _shapes(settings, manifests, alarm)
    groups, no_groups = _groups(ledger, snapshot.champion)
    run = snapshot.run
    return page.Page(
        title=settings.pipeline,
        verdict=stands.verdict,
        simulated=run is not None and run.get("dataset") == "simulated",
        run=run,
        champion=None if snapshot.champion is None else snapshot.champion["version"],
        versions=tuple(manifests[-VERSIONS:]),
        removed=frozenset(removed),
        points=tuple(points),
        latest=latest,
        answered=snapshot.labelled or snapshot.record,
        alarm=alarm,
        shapes=shapes,
        no_shapes=no_shapes,
        groups=groups,
        no_groups=no_groups,
        tried=tuple(reversed(tried)),
        faulty=tuple(reversed(faulty)),
        recent=tuple(reversed(recent)),
    )


def _shapes(
    settings: Settings, manifests: list[dict[str, Any]], alarm: page.Told | None
) -> tuple[tuple[page.Shape, ...], str]:
    """Drifted columns of a batch beside their reference; or why there are none."""
    if alarm is None:
        return (), ""
    version = alarm.record["model"]["version"]
    drifted = [each for each in ranked(alarm.record["drift"]["features"]) if each["drifted"]]
    if any(each.get("counts") is None for each in drifted):
        return (), "the batch was recorded by a release that kept no histograms"
    manifest = next((each for each in manifests if each["version"] == version), None)
    if manifest is None:
        return (), f"the ledger does not know {version}"
    try:
        reference = read_reference(models_place(settings), manifest)
    except StateUnreadable as error:
        return (), f"the reference of {version} cannot be read: {error}"
    return tuple(_shape(reference, each) for each in drifted), ""


def _shape(reference: Reference, feature: Mapping[str, Any]) -> page.Shape:
    if categories := feature.get("categories"):
        usual, here, names = (
            tuple(each[key] for each in categories) for key in ("reference_share", "share", "name")
        )
        return page.Shape(feature["name"], usual, here, (), names)
    j = reference.columns.index(feature["name"])
    edges = reference.edges[j]

    def shares(counts: Sequence[float]) -> tuple[float, ...]:
        there = in_order(counts, edges)
        return tuple(n / max(sum(there), 1) for n in there)

    before, after = shares(reference.profile.counts[j].tolist()), shares(feature["counts"])
    return page.Shape(feature["name"], before, after, tuple(edges.tolist()))


def _groups(
    ledger: Ledger, champion: Mapping[str, Any] | None
) -> tuple[tuple[page.Group, ...], str]:
    """Recent rows that the champion scored, by their score; or why there are none."""
    state = None if champion is None else ledger.detector(champion["version"])
    if state is None:
        return (), "the champion has scored no batch yet"
    window = Detector.from_dict(state).quality.window
    n_labelled = float(window.n_labelled)
    if n_labelled < MIN_LABELLED:
        return (
            (),
            f"too few labelled rows in recent batches: {n_labelled:.0f}, not {MIN_LABELLED}",
        )
    groups = []
    for n_rows, n_positive, score in score_groups(window, GROUPS):
        n = max(round(n_rows), 1)
        share = n_positive / n_rows
        groups.append(page.Group(score, Estimate(share, *wilson(round(share * n), n)), n_rows))
    return tuple(groups), ""
