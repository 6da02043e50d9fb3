"""The statistics as functions, for a notebook: rows in, frozen results out; no home, no files.

They are the very functions that the job calls. `profile` makes what a champion has, a reference;
`compare` is a run's measurement of one batch, `decide` what the run would do next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wine_drift import explanation, policy
from wine_drift.bins import Floats
from wine_drift.counted import Counted
from wine_drift.detector import Detector, Limits
from wine_drift.faults import Fault
from wine_drift.measurement import Measurement, Tally, measure
from wine_drift.measures import Quality as Quality  # this and the like: to be named by users
from wine_drift.measures import count_answers, measure_quality
from wine_drift.outcomes import count_outcomes
from wine_drift.policy import Change, Labels, follow
from wine_drift.policy import Decision as Decision
from wine_drift.record import drift_part, drop_part
from wine_drift.reference import Reference as Reference
from wine_drift.reference import build_reference
from wine_drift.report import drift_text, drop_text
from wine_drift.schema import FAULTS, SCORE
from wine_drift.settings import Settings, specification
from wine_drift.wording import evidence, number

_MOST = 10**15  # of a limit: whole numbers up to here are exact as floats
_LARGEST = 1e300  # of values: beyond it a range or a difference of two is infinite


class Frame(Protocol):
    """What data frames of pandas, Polars and others have in common."""

    @property
    def columns(self) -> Iterable[Any]:
        """Names of the columns."""

    def __getitem__(self, name: Any, /) -> Any:
        """The column of that name."""


Rows = Frame | Mapping[str, ArrayLike] | ArrayLike  # an array is of shape (n_rows, n_columns)


@dataclass(frozen=True)
class ColumnDrift:
    """What a batch says of one column; the score of the model is one more, named "score"."""

    name: str
    p_value: float  # of this batch, corrected for all tests that were made
    log10_evidence: float  # over all batches so far; compares with that of all columns together
    severity: float  # >= 0: stability index without the share that few rows give it
    drifted: bool  # both are large enough
    quantiles: tuple[float | None, ...]  # 10, 50 and 90 %, of this batch; None without values
    reference_quantiles: tuple[float | None, ...]
    psi: float  # the textbook stability index of this batch
    chi2_p_value: float
    location_scale_p_value: float
    missing_p_value: float


@dataclass(frozen=True, repr=False)
class Drift:
    """What a batch says of drift, as `drift` in the job's record; None where nothing was judged."""

    status: str  # ok | warn | minor | drift | major | not_judged
    judged_rows: int  # those that had waited included; or that wait
    p_value: float | None  # of this batch: all tests together
    log10_evidence: float | None  # over all batches so far; an alarm takes log10 of the budget
    severity: float | None  # the largest of the columns
    multivariate_p_value: float | None  # of all columns together alone
    reason: str | None  # why nothing was judged
    faults: tuple[Fault, ...]  # of the source
    causes: tuple[str, ...]  # of an alarm, where labels tell
    unwatched: tuple[str, ...]  # columns that nothing can be said of
    features: tuple[ColumnDrift, ...]

    def __getitem__(self, name: str) -> ColumnDrift:
        """A column by its name; KeyError if there is nothing to say of it."""
        return {column.name: column for column in self.features}[name]

    def __repr__(self) -> str:
        """The verdict, then the columns in the order in which they explain it."""
        part = asdict(self)
        lines = [f"Drift {drift_text(part)}"]
        for feature in explanation.ranked(part["features"]):
            sure, large = evidence(feature["log10_evidence"]), number(feature["severity"], 2)
            text = (
                f"{explanation.change({**feature, 'unit': ''})}: evidence {sure}, severity {large}"
            )
            lines.append(("* " if feature["drifted"] else "  ") + text)
        return "\n".join(lines)


@dataclass(frozen=True)
class Drop:
    """What labelled rows say of a drop in quality; None where nothing was judged."""

    status: str  # ok | warn | minor | drop | not_judged
    judged_rows: int  # those that had waited included; or that wait
    p_value: float | None  # of this batch: all tests together
    log10_evidence: float | None  # over all batches so far; an alarm takes log10 of the budget
    recent_log_loss: float | None  # of recent batches, older ones weighing less
    log_loss_p_value: float | None
    roc_auc_p_value: float | None
    calibration_p_value: float | None


@dataclass(frozen=True, repr=False, eq=False)
class State:
    """What is known of the batches so far, for the next one."""

    detector: Detector
    reference: str  # a hash of the one that the batches were compared with
    n_batches: int = 0
    change: Change | None = None  # that began with an alarm and is not over
    n_labelled: int = 0  # rows of batches without a fault, as the next three
    n_positive: int = 0
    n_since_change: int = 0
    n_batches_since_change: int = 0  # batches with labels

    def __repr__(self) -> str:
        drift, quality = (
            evidence(float(part.evidence.log10()))
            for part in (self.detector.drift, self.detector.quality)
        )
        waiting = int(self.detector.waiting.profile.n_rows)
        told = f"evidence of drift {drift}, of a drop in quality {quality}"
        return f"State of {self.n_batches} batches: {told}; {waiting} rows wait"

    def __eq__(self, other: object) -> bool:
        """Whether the same is known: so it is of one that was kept and read back."""
        return self.to_dict() == other.to_dict() if isinstance(other, State) else NotImplemented

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        change = None if self.change is None else self.change.to_dict()
        return vars(self) | {"detector": self.detector.to_dict(), "change": change}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> State:
        """Inverse of `to_dict`."""
        parts = {
            "detector": Detector.from_dict(data["detector"]),
            "change": Change.from_dict(data["change"]),
        }
        return cls(**(dict(data) | parts))


@dataclass(frozen=True, repr=False)
class Comparison:
    """What a batch says against its reference, and what is known after it."""

    drift: Drift
    drop: Drop
    quality: Quality  # of the labelled rows of this batch
    at_fault: bool  # the source is: what it sent says nothing of the world
    limits: Limits  # by which evidence and severity were judged
    state: State  # for the next batch

    def __repr__(self) -> str:
        told = self.to_dict()
        return "\n".join(
            [
                f"Comparison: an alarm takes evidence {evidence(np.log10(self.limits.budget))}, "
                f"for at most one false alarm in {self.limits.budget} batches",
                f"  drift    {drift_text(told['drift'])}",
                f"  quality  {drop_text(told['quality'])}",
                *(f"  fault    {fault.feature}: {fault.kind}" for fault in self.drift.faults),
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the state; docs/record.md tells the keys of `drift` and `quality`."""
        return {
            "drift": asdict(self.drift),
            "quality": self.quality.to_dict() | asdict(self.drop),
            "at_fault": self.at_fault,
            "limits": asdict(self.limits),
        }


def profile(
    rows: Rows,
    *,
    y_true: ArrayLike | None = None,
    y_score: ArrayLike | None = None,
    columns: Sequence[str] | None = None,
    plausible: Mapping[str, tuple[float, float]] | None = None,
) -> Reference:
    """Make the reference that batches are compared with.

    Parameters
    ----------
    rows : data frame, mapping of names to columns, or array of shape (n_rows, n_columns)
        Numbers; NaN, infinity and what an array masks count as missing. The columns of an array
        without names are x0, x1, ... The promise of `budget` takes 200 rows or more.
    y_true : array of shape (n_rows,), 0 or 1, optional
        The answers; a drop in quality is judged against them. They need `y_score`.
    y_score : array of shape (n_rows,), in [0, 1], optional
        Probability of 1 according to the model, by which these rows must not have been learnt:
        out-of-fold, or of a holdout.
    columns : sequence of str, optional
        The columns to watch, by default all; of an array: their names.
    plausible : mapping of names to (smallest, largest), optional
        Values that a column can have at all; by default, or where one is infinite, the range of
        these rows, widened by its own width on either side.

    Raises
    ------
    ValueError
        There is no row, a column is missing, not numeric or without a value, lengths differ, a
        label or a score is none, or the smallest plausible value is not below the largest.
    TypeError
        `columns` is no sequence of names, or `plausible` no mapping.

    Examples
    --------
    >>> profile({"pH": [3.1, 3.3, 3.2], "alcohol": [9.4, 9.8, 11.2]})
    Reference of 3 rows, 0 of them labelled: pH, alcohol
    """
    if columns is not None and (isinstance(columns, str) or not hasattr(columns, "__getitem__")):
        raise TypeError(f"columns: a sequence of names, not a {type(columns).__name__}")
    names, matrix = _matrix(rows, columns)
    scores, labelled, positive = _answers(y_true, y_score, len(matrix))
    for name, column in zip(names, matrix.T, strict=True):
        if not np.isfinite(column).any():
            raise ValueError(f"column {name!r}: it has no value to compare with; leave it out")
    if SCORE in names:
        raise ValueError(f"column {SCORE!r}: the name is taken by the model's score, y_score")
    if y_score is not None and np.isnan(scores).any():
        raise ValueError("y_score: a row of a reference must have a score; leave out those without")
    if y_true is not None and not labelled.all():
        raise ValueError("y_true: each row of a reference must have a label, or none")
    limits = _plausible({} if plausible is None else plausible, names)
    if y_score is not None:
        names, matrix = [*names, SCORE], np.column_stack([matrix, scores])
    known = positive if y_true is not None else None
    return build_reference(matrix, names, known, limits)


def compare(
    reference: Reference,
    rows: Rows,
    *,
    y_true: ArrayLike | None = None,
    y_score: ArrayLike | None = None,
    state: State | None = None,
    budget: int = Settings.budget,
    severity_drift: float = Settings.severity_drift,
    severity_major: float = Settings.severity_major,
    min_rows: int = Settings.min_rows,
    cut: float = 0.5,
) -> Comparison:
    """Compare a batch with the reference, and with the batches before it.

    Parameters
    ----------
    reference : Reference
        From `profile`.
    rows : data frame, mapping of names to columns, or array of shape (n_rows, n_columns)
        With the columns of the reference; a data frame or a mapping may have others, which are
        passed over.
    y_true : array of shape (n_rows,), 0 or 1, optional
        The answers, NaN where they are not known. One says nothing where there is no score.
    y_score : array of shape (n_rows,), in [0, 1], optional
        Probability of 1 according to the model; NaN for a row that it did not score.
    state : State, optional
        From the comparison before; evidence adds up. None: this is the first batch.
    budget : int, >= 10
        At most one false alarm in so many batches.
    severity_drift, severity_major : float, >= 0
        Severity that makes evidence drift, or major drift.
    min_rows : int, >= 20
        Fewer rows, or labels, wait and are judged with those of the next batch.
    cut : float, in [0, 1]
        A score from here on predicts 1.

    Raises
    ------
    ValueError
        There is no row, a column is missing or not numeric, lengths differ, a label or a score is
        none, the state is of another reference, or a limit is out of its range.
    TypeError
        `reference` or `state` is something else: rows, say. Or a limit is no number.

    Examples
    --------
    Of 100 equal rows, none lies where a tenth of the reference did.

    >>> reference = profile({"x": [*range(1000)]})
    >>> found = compare(reference, {"x": [500] * 100})
    >>> found.drift.status, found.drift["x"].quantiles
    ('major', (500.0, 500.0, 500.0))
    >>> compare(reference, {"x": [500] * 10}).drift.reason
    '10 rows, fewer than min_rows = 50: they wait for the next batch'
    """
    if not isinstance(reference, Reference):
        raise TypeError(f"reference: what `profile` gives, not a {type(reference).__name__}")
    limits, cut = _limits(budget, severity_drift, severity_major, min_rows), _cut(cut)
    _, matrix = _matrix(rows, reference.features)
    scores, labelled, positive = _answers(y_true, y_score, len(matrix))
    before = State(Detector.fresh(reference), _hash(reference)) if state is None else state
    _check_state(before, reference)
    scored = ~np.isnan(scores)
    # what nothing was known of in the reference can be measured, and not judged
    judged = labelled & bool(reference.summary.outcomes.n_labelled)
    columns = [*map(Counted.of, matrix.T), Counted.of(scores[scored], is_share=True)]
    outcomes = count_outcomes(scores[scored], judged[scored], positive[scored])
    summary = reference.summed(columns, outcomes)
    counted = Tally(
        n_rows=len(matrix),
        by_fault=np.zeros(len(FAULTS), dtype=np.int64),  # nothing is set aside here
        missing=np.array([column.missing for column in columns[:-1]]),
        outside=summary.traits.outside.astype(np.int64),
        columns=tuple(column.bounded() for column in columns),
        answers=count_answers(positive[labelled], scores[labelled], cut=cut),
        summary=summary,
        ignored_columns=(),
    )
    sequence = before.n_batches + 1
    measured = measure(
        counted, reference, before.detector, limits, sequence=sequence, max_set_aside=1
    )
    drift, drop = _drift(counted, measured, reference, limits), _drop(measured)
    return Comparison(
        drift=drift,
        drop=drop,
        quality=measured.quality,
        at_fault=measured.at_fault,
        limits=limits,
        state=_after(before, measured, drift.status, drop.status),
    )


def quality(y_true: ArrayLike, y_score: ArrayLike, *, cut: float = 0.5) -> Quality:
    """Measure how well scores answer labels; the values are those of scikit-learn.

    Parameters
    ----------
    y_true : array of shape (n_rows,), 0 or 1
    y_score : array of shape (n_rows,), in [0, 1]
        Probability of 1 according to the model.
    cut : float, in [0, 1]
        A score from here on predicts 1.

    Returns
    -------
    Quality
        Each measure with its 95 % interval; one that is undefined is None, with the reason. Methods
        and sources: `wine_drift.measures.measure_quality`.

    Raises
    ------
    ValueError
        Lengths differ, a label is not 0 or 1, or a score or the cut is not in [0, 1].
    TypeError
        The cut is no number.

    Examples
    --------
    Three of the four pairs of a 0 and a 1 are in order.

    >>> quality([0, 0, 1, 1], [0.2, 0.6, 0.4, 0.8]).roc_auc.value
    0.75
    >>> quality([0, 0], [0.2, 0.3]).precision
    Estimate(value=None, low=None, high=None, reason='no positive predictions')
    """
    answers, scores = _vector("y_true", y_true), _vector("y_score", y_score)
    return measure_quality(answers, scores, cut=_cut(cut))


def decide(
    found: Comparison,
    *,
    min_labelled: int = Settings.min_labelled,
    min_positives: int = Settings.min_positives,
) -> Decision:
    """What the job would do after a batch, were nothing retrained since the reference.

    Parameters
    ----------
    found : Comparison
    min_labelled, min_positives : int, >= 10 and >= 1
        Labelled rows so far, and positive ones among them, that retraining needs.

    Returns
    -------
    Decision
        `action` is "keep", "hold" or "retrain"; docs/record.md lists the reasons.

    Raises
    ------
    ValueError
        A number of rows is out of its range.
    TypeError
        `found` is something else: its `drift`, say. Or a number of rows is none.

    Examples
    --------
    >>> reference = profile({"x": [*range(1000)]})
    >>> decide(compare(reference, {"x": [*range(0, 1000, 10)]}))
    Decision(action='keep', reasons=('no_drift',))
    >>> decide(compare(reference, {"x": [*range(900, 1000)]}))
    Decision(action='hold', reasons=('drift_major', 'waiting_for_labels'))
    """
    if not isinstance(found, Comparison):
        raise TypeError(f"found: a Comparison, as `compare` gives it, not a {type(found).__name__}")
    state = found.state
    labels = Labels(
        n_rows=state.n_labelled,
        n_positive=state.n_positive,
        n_since_change=state.n_since_change,
        n_batches=state.n_batches_since_change,
        min_rows=_whole("min_labelled", min_labelled),
        min_positives=_whole("min_positives", min_positives),
    )
    return policy.decide(
        state.change,
        labels,
        drift_status=found.drift.status,
        quality_status=found.drop.status,
        causes=found.drift.causes,
        at_fault=found.at_fault,
        retrain="auto",
    )


def _number(name: str, value: float, low: float, high: float) -> float:
    """A plain one, as JSON knows it, in its range."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: a number, not a {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} = {value}: has to be from {low} to {high:g}")
    return float(value)


def _cut(value: float) -> float:
    return _number("cut", value, 0, 1)


def _whole(name: str, value: int) -> int:
    """What the setting of this name could be."""
    number = _number(name, value, specification()[name].metadata["low"], _MOST)
    if number % 1:
        raise ValueError(f"{name} = {value}: has to be a whole number")
    return int(number)


def _limits(budget: int, drift: float, major: float, min_rows: int) -> Limits:
    drift = _number("severity_drift", drift, 0, _MOST)
    major = _number("severity_major", major, 0, _MOST)
    if drift > major:
        raise ValueError(f"severity_drift = {drift}, severity_major = {major}: not in this order")
    return Limits(_whole("budget", budget), drift, major, _whole("min_rows", min_rows))


def _plausible(given: Mapping[str, tuple[float, float]], names: Sequence[str]) -> Floats:
    """Smallest and largest value of each column, (n_columns, 2); infinite where none is given."""
    if not isinstance(given, Mapping):
        raise TypeError(f"plausible: a mapping of names, not a {type(given).__name__}")
    unknown = sorted(str(name) for name in given if name not in names)
    if unknown:
        raise ValueError(f"plausible: no such column: {', '.join(unknown)}")
    limits = np.tile([-np.inf, np.inf], (len(names), 1))
    for name, pair in given.items():
        ends = _numbers(f"plausible[{name!r}]", pair)
        if ends.shape != (2,) or not ends[0] < ends[1]:
            raise ValueError(
                f"plausible[{name!r}] = {pair!r}: has to be (smallest, largest), in this order"
            )
        limits[names.index(name)] = ends
    return limits


def _check_state(state: State, reference: Reference) -> None:
    if not isinstance(state, State):
        raise TypeError(f"state: a State, as a comparison has it, not a {type(state).__name__}")
    if state.reference != _hash(reference):
        raise ValueError("state: it is of another reference; start without it")


def _hash(reference: Reference) -> str:
    """Tells references apart by their columns, bins and counts."""
    usual = reference.profile
    parts = (*reference.edges, usual.counts, usual.missing, reference.summary.outcomes.counts)
    data = [part.tobytes() for part in parts]
    return hashlib.sha256("\n".join(reference.columns).encode() + b"".join(data)).hexdigest()


def _matrix(rows: Rows, wanted: Sequence[str] | None) -> tuple[list[str], Floats]:
    """Names, and an array of shape (n_rows, n_columns)."""
    if isinstance(rows, Mapping) or hasattr(rows, "columns"):
        table: Any = rows
        there = [*(rows if isinstance(rows, Mapping) else table.columns)]
        names = there if wanted is None else [*wanted]
        _check_names(names)
        _check_names([name for name in there if name in names])  # of others two do no harm
        lost = [name for name in names if name not in there]
        if lost:
            raise ValueError(f"no column {', '.join(map(repr, lost))} among {there}")
        hint = " (columns= may leave it out)" if wanted is None else ""
        columns = [_vector(f"column {name!r}{hint}", table[name]) for name in names]
        lengths = {name: len(column) for name, column in zip(names, columns, strict=True)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}")
        matrix = np.array(columns, dtype=float).T
    else:
        matrix = _numbers("rows", rows)
        if matrix.ndim != 2:
            raise ValueError(f"rows of shape {matrix.shape}: not (n_rows, n_columns)")
        names = [f"x{j}" for j in range(matrix.shape[1])] if wanted is None else [*wanted]
        _check_names(names)
        if len(names) != matrix.shape[1]:
            raise ValueError(f"{matrix.shape[1]} columns, not {len(names)}: {', '.join(names)}")
    if not matrix.size:
        raise ValueError("rows: there is none, or no column")
    large = np.argwhere(np.isfinite(matrix) & (np.abs(matrix) > _LARGEST))
    if len(large):
        row, j = large[0].tolist()
        found = f"{matrix[row, j]:g} in row {row}, counted from 0"
        raise ValueError(f"column {names[j]!r}: {found}: has to be within {_LARGEST:g} of 0")
    return names, matrix


def _check_names(names: Sequence[Any]) -> None:
    other = [type(name).__name__ for name in names if not isinstance(name, str)]
    if other:
        raise ValueError(f"names of columns have to be texts, not {other[0]}")
    if len(set(names)) < len(names):
        raise ValueError(f"a name of a column is there twice: {', '.join(names)}")


def _answers(
    y_true: ArrayLike | None, y_score: ArrayLike | None, n_rows: int
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Scores, NaN where there is none; rows with a label and a score; positive ones among them."""
    if y_true is not None and y_score is None:
        raise ValueError("y_true without y_score: answers are held against scores")
    nothing = np.full(n_rows, np.nan)
    answers = nothing if y_true is None else _vector("y_true", y_true)
    scores = nothing if y_score is None else _vector("y_score", y_score)
    for name, values in (("y_true", answers), ("y_score", scores)):
        if len(values) != n_rows:
            raise ValueError(f"{name}: {len(values)} values for {n_rows} rows")
    known, scored = ~np.isnan(answers), ~np.isnan(scores)
    count_answers(np.where(known, answers, 0), np.where(scored, scores, 0), cut=0)  # refuses
    labelled = known & scored
    return scores, labelled, labelled & (answers == 1)


def _vector(name: str, values: ArrayLike) -> Floats:
    vector = _numbers(name, values)
    if vector.ndim != 1:
        raise ValueError(f"{name}: of shape {vector.shape}, not (n_rows,)")
    return vector


def _numbers(name: str, values: Any) -> Floats:
    """As floats; None, pandas' NA and what is masked are NaN."""
    try:
        if isinstance(values, np.ma.MaskedArray):
            values = np.where(np.ma.getmaskarray(values), np.nan, values)
        array = np.asarray(values)
        if array.dtype.kind == "O":
            missing = np.asarray(np.frompyfunc(_is_missing, 1, 1)(array), dtype=bool)
            array = np.where(missing, np.nan, array)
        if array.dtype.kind in "OUSbiuf":
            return array.astype(float)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: not numeric: {error}") from error
    raise ValueError(f"{name}: not numeric, but {array.dtype}")


def _is_missing(cell: object) -> bool:
    """None, NaN, or NA, of which it cannot be told whether it differs from itself."""
    return cell is None or repr(cell) == "<NA>" or bool(cell != cell)


def _drift(counted: Tally, measured: Measurement, reference: Reference, limits: Limits) -> Drift:
    part = drift_part(counted, measured, reference, limits, features={}, reliance={})
    for feature in part["features"]:
        for key in ("unit", "reliance", "categories", "counts"):
            del feature[key]  # a notebook knows of none
        for key in ("quantiles", "reference_quantiles"):
            feature[key] = tuple(feature[key])
    features = tuple(ColumnDrift(**feature) for feature in part["features"])
    found = {
        "faults": measured.faults,
        "causes": measured.causes,
        "unwatched": tuple(part["unwatched"]),
        "features": features,
    }
    return Drift(**(part | found))


def _drop(measured: Measurement) -> Drop:
    return Drop(**drop_part(measured.quality_drift, measured.judged_labels))


def _after(before: State, measured: Measurement, drift_status: str, quality_status: str) -> State:
    """What is known after a batch: one at fault counts, and its rows say nothing."""
    sequence = before.n_batches + 1
    change = follow(
        before.change,
        drift_status=drift_status,
        quality_status=quality_status,
        at_fault=measured.at_fault,
        sequence=sequence,
    )
    trusted = 0 if measured.at_fault else 1
    n = trusted * measured.quality.n_rows
    goes_on = change is not None and change.since < sequence
    return State(
        detector=measured.detector,
        reference=before.reference,
        n_batches=sequence,
        change=change,
        n_labelled=before.n_labelled + n,
        n_positive=before.n_positive + trusted * measured.quality.n_positive,
        n_since_change=goes_on * before.n_since_change + n if change else 0,
        n_batches_since_change=goes_on * before.n_batches_since_change + (n > 0) if change else 0,
    )
