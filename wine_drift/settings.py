"""Settings: defaults < TOML file < WINE_DRIFT_* < options; all mistakes are told at once.

Each field below is a key of the TOML file, an environment variable `WINE_DRIFT_<KEY>` and a command
line option `--<key>`, with the same name and the same check everywhere.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import stat
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from datetime import UTC
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from wine_drift.errors import SettingsError
from wine_drift.files import read_small
from wine_drift.wording import quoted

if TYPE_CHECKING:
    from datetime import tzinfo

    from wine_drift.detector import Limits
    from wine_drift.timetable import Cron, Every

ENV_PREFIX = "WINE_DRIFT_"
ENV_SETTINGS_FILE = "WINE_DRIFT_SETTINGS"
DEFAULT_FILE = "wine-drift.toml"
_NOT_SETTINGS = {ENV_SETTINGS_FILE, "WINE_DRIFT_REQUIRE_STACK"}
# Kubernetes makes such for every service in sight; one may be called wine-drift-metrics.
_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_[0-9]+_(TCP|UDP|SCTP)(_|$)")
_SCHEDULER = re.compile(r"(tcp|tls|ws|wss|ucx)://[^\s/?#@]+:[1-9][0-9]{0,4}")

STREAMS = ("stream", "simulated")
SCENARIOS = (
    "none",
    "ramp",
    "switch",
    "sensor_scaled",
    "stuck",
    "unit_change",
    "missing",
    "label_flip",
    "more_good",
)


def _default_home() -> Path:
    from platformdirs import user_data_path

    return user_data_path("wine-drift")


def _key(
    text: str,
    default: Any = None,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    factory: Callable[[], Any] | None = None,
    section: str = "",
    duration: bool = False,
) -> Any:
    """One setting: help text, default and what it may be; a duration may be told as 15m."""
    metadata = {"help": text, "low": low, "high": high, "choices": choices, "section": section}
    metadata["duration"] = duration
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Everything that a run can be told. Times are in seconds, shares in [0, 1]."""

    home: Path = _key(
        "folder that holds everything (default: wine-drift in the platform's data folder)",
        factory=_default_home,
        section="Where things are",
    )
    ledger: str | None = _key(
        "PostgreSQL database that holds the ledger, for several hosts, such as "
        "postgresql://host/name (default: HOME/ledger.sqlite)"
    )
    models: str | None = _key(
        "folder of the model versions, or a URL that fsspec knows, such as s3://bucket/models "
        "(default: HOME/models)"
    )
    data: Path | None = _key("table for training and for the stream (CSV, .zip, .gz, Parquet)")
    schema: Path | None = _key("TOML file that describes another table than red wine")
    inbox: Path | None = _key("folder whose files are the batches, oldest first")
    max_bytes: int = _key(
        "largest table file, in bytes once it is unpacked; a batch is read in parts, others whole",
        1 << 28,
        low=1_000,
        high=1 << 40,
    )

    source: str = _key(
        "where batches come from; auto: the inbox if one is set, else the stream of the table",
        "auto",
        choices=("auto", "inbox", *STREAMS),
        section="The stream: a table cut into batches, or an endless simulated one",
    )
    batch_rows: int = _key("rows of one batch of the stream", 100, low=1)
    training_share: float = _key(
        "part of the table that trains the first champion; the rest is the stream",
        0.5,
        low=0.05,
        high=0.95,
    )
    seed: int = _key("seed of the stream's order, of simulation and of training", 0, low=0)
    scenario: str = _key(
        "drift laid on the stream, to try things out; or several, such as switch@10,label_flip@20",
        "none",
        choices=SCENARIOS,
    )
    scenario_start: int = _key("first batch of the stream that the scenario touches", 0, low=0)
    scenario_feature: str | None = _key("feature that the scenario touches (default: the last one)")

    budget: int = _key(
        "at most one false alarm in so many batches",
        1000,
        low=10,
        section="When drift is an alarm",
    )
    severity_drift: float = _key("severity from which evidence is called drift", 0.10, low=0)
    severity_major: float = _key("severity from which drift is called major", 0.25, low=0)
    min_rows: int = _key(
        "fewer rows, or labels, wait and are judged with those of the next batch", 50, low=20
    )
    max_set_aside: float = _key(
        "from this share of faulty rows on, the source is at fault: hold", 0.2, low=0.001, high=1
    )

    accept: str | None = _key(
        "features, with commas between, whose faults are told and no longer held"
    )

    retrain: str = _key(
        "auto: when the policy says so; never; or force: try after every batch",
        "auto",
        choices=("auto", "never", "force"),
        section="Training and retraining",
    )
    recipe: str = _key(
        "how challengers are made; auto makes all and lets the gate choose",
        "scratch",
        choices=("scratch", "continue", "refit", "auto"),
    )
    cooldown: int = _key(
        "batches after a change of champion in which no alarm leads to another", 2, low=0
    )
    rounds: int = _key("trees of a model trained from nothing", 200, low=5, high=10_000)
    min_labelled: int = _key(
        "labelled rows since the last promotion that retraining needs", 100, low=10
    )
    min_positives: int = _key("positive ones among them", 10, low=1)
    gate_alpha: float = _key(
        "rate at which a challenger that is no better is promoted", 0.1, low=1e-6, high=0.5
    )
    half_life: float = _key("batches after which a row weighs half in training", 10.0, low=0.1)
    window_rows: int = _key("labelled rows kept for retraining", 20_000, low=100)
    memory_rows: int = _key(
        "labelled rows that are trained on here; engine dask trains on more where they are",
        500_000,
        low=1_000,
    )
    window_age: int = _key(
        "batches after which rows are forgotten, and labels come too late", 1_000, low=1
    )
    waiting_rows: int = _key("scored rows kept until their labels come", 1_000_000, low=100)
    label_wait: float = _key(
        "seconds that retraining may wait for labels before that is an alert",
        604_800.0,
        low=1,
        duration=True,
    )
    batch_wait: float = _key(
        "seconds without a new batch from which that is an alert", 604_800.0, low=1, duration=True
    )
    row_id: str | None = _key("column of batch files that names each row; add-labels goes by it")
    threads: int = _key("threads of LightGBM; 0: all cores", 0, low=0)
    engine: str = _key(
        "who counts a batch that is many files: this process, or the workers of a Dask cluster",
        "local",
        choices=("local", "dask"),
    )
    dask_scheduler: str | None = _key(
        "address of the cluster, such as tcp://scheduler:8786; else one is started on this machine"
    )

    pushgateway: str | None = _key(
        "address of the Pushgateway, such as http://localhost:9091",
        section="Publishing (with neither sink set, HOME/metrics/wine_drift.prom is written)",
    )
    textfile: Path | None = _key("file for node_exporter's textfile collector (*.prom)")
    pipeline: str = _key("name of this job in the metrics, one for each home", "red_wine")
    push_timeout: float = _key("seconds for one attempt to push", 5.0, low=0.1, duration=True)
    push_deadline: float = _key("seconds for all attempts together", 20.0, low=0.1, duration=True)
    username: str | None = _key("user name for the Pushgateway")
    password_file: Path | None = _key("file that holds the password for the Pushgateway")
    ca_file: Path | None = _key("certificates to trust for https")
    proxy: bool = _key("push through the proxy that the environment names", False)
    legacy_metrics: bool = _key("also publish logloss_gaude, auc_gaude and count_batch", False)

    force: bool = _key(
        "train: promote the best challenger whatever the gate says", False, section="One run"
    )
    lock_wait: float = _key(
        "seconds to wait while another run holds the lock; 0: exit with 5 at once",
        0.0,
        low=0,
        high=1_728_000,
        duration=True,
    )
    dry_run: bool = _key("change nothing; print the decision", False)
    json: bool = _key("print one JSON record instead of text", False)
    fail_on: str = _key(
        "exit with 8 on drift, or only on major drift",
        "never",
        choices=("never", "drift", "major"),
    )
    drain: bool = _key("go on until the inbox is empty", False)
    quiet: bool = _key("print only what a person should look at", False)
    log_format: str = _key("the line on stderr about each run", "text", choices=("text", "json"))
    log_file: Path | None = _key("file to which that line is added, also when quiet")

    every: float = _key(
        "seconds from the start of one run to the next, such as 900 or 15m",
        900.0,
        low=1,
        high=31_622_400,
        section="When runs start, whoever starts them: alerts, missed runs and health go by it",
        duration=True,
    )
    cron: str | None = _key('the same as a line of crontab, such as "*/15 * * * *"')
    timezone: str = _key("zone of that line, such as Europe/Berlin", "UTC")
    run_deadline: float = _key(
        "schedule: seconds after which a run is ended",
        3_600.0,
        low=1,
        high=1_728_000,
        duration=True,
    )
    warm: bool = _key(
        "schedule: keep one process ready from which runs start at once; takes some 200 MB", True
    )
    metrics_port: int | None = _key(
        "schedule, serve: port that serves /metrics (serve: 8000 if none is named)",
        low=0,
        high=65535,
    )
    metrics_host: str = _key(
        "schedule, serve: address that serves it; the default is reached from this machine only",
        "127.0.0.1",
    )

    keep_history: int = _key(
        "entries of the ledger that can be told of, one a run and some more, with the records of "
        "their batches; that a batch was done is known for ever",
        10_000,
        low=100,
        section="How long things are kept",
    )
    backup_every: float = _key(
        "seconds after which the next run makes another backup of the ledger",
        86_400.0,
        low=1,
        duration=True,
    )
    keep_files: float = _key(
        "prune: seconds after which files of archive, quarantine and repairs go",
        7_776_000.0,
        low=1,
        duration=True,
    )
    keep_versions: int = _key(
        "prune: newest versions whose files are kept, besides the champion and its parent",
        5,
        low=1,
    )

    repeats: int = _key("selftest: batches to simulate", 2_000, low=100, section="Other commands")
    horizon: int = _key("selftest longrun: batches of each stream", 200, low=10)
    openmetrics: Path | None = _key("history export, demo: file to write the past to")
    since: str | None = _key("history: from when on, such as 2026-11-23T06:00 (UTC)")
    until: str | None = _key("history export: up to when (default: now)")
    step: float = _key(
        "history export: seconds after which a value is repeated; Prometheus forgets it after 300",
        240.0,
        low=1,
    )
    days: float = _key("demo: days of hourly batches", 91.0, low=0.1, high=400)
    last: int = _key("status, history list: batches to show", 15, low=1)
    batches: int = _key("simulate: batch files to write", 1, low=1)
    out: Path | None = _key("simulate: folder to write to; models export, report: file to write")
    url: str | None = _key("fetch-data: another place that has the same file")
    max_age: float = _key(
        "health: oldest acceptable last success, in intervals",
        2.0,
        low=0.001,
        high=1000,
    )

    @property
    def limits(self) -> Limits:
        """When evidence and severity are an alarm."""
        from wine_drift.detector import Limits

        return Limits(self.budget, self.severity_drift, self.severity_major, self.min_rows)

    @property
    def timetable(self) -> Cron | Every:
        """When runs are due."""
        from wine_drift.timetable import Cron, Every

        if self.cron is None:
            return Every(self.every)
        return Cron(self.cron, _zone(self.timezone))

    @property
    def schedule(self) -> str:
        """The same in words."""
        return f"every {self.every:g} s" if self.cron is None else f"{self.cron} {self.timezone}"


def scenarios(text: str, start: int) -> list[tuple[str, int]]:
    """Scenarios that are laid on a stream, and the batch from which on each of them is.

    >>> scenarios("switch,stuck@20", 5)
    [('switch', 5), ('stuck', 20)]
    """
    found = []
    for part in text.split(","):
        name, _, first = part.strip().partition("@")
        started = "@" not in part or (first.isascii() and first.isdecimal())
        if name not in SCENARIOS or not started:
            raise ValueError(
                f"{part!r} is none of {', '.join(SCENARIOS)}, nor one of them with @ and a batch"
            )
        found.append((name, int(first) if first else start))
    return found


@cache
def specification() -> Mapping[str, Field[Any]]:
    """Every setting by name, in order."""
    return {f.name: f for f in fields(Settings)}


def kind(name: str) -> type:
    """Type of a setting without its `| None`: Path, str, int, float or bool."""
    hint = _hints()[name]  # these are compiled each time, and every option asks for its own
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return typing.cast(type, hint)


@cache
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(Settings)


def load_settings(
    options: Mapping[str, Any], environ: Mapping[str, str], *, file: Path | None = None
) -> Settings:
    """Put the four layers together.

    Parameters
    ----------
    options : mapping
        From the command line; None means not given.
    environ : mapping
        Environment variables. One that is nearly the name of a setting is a mistake; others that
        start alike (Kubernetes makes such) are left alone.
    file : Path, optional
        TOML file; else WINE_DRIFT_SETTINGS, else ./wine-drift.toml if it is there.

    Raises
    ------
    SettingsError
        One line for every mistake of all layers, each with its place.

    Examples
    --------
    >>> load_settings({"batch_rows": 50}, {"WINE_DRIFT_BUDGET": "200"}).budget
    200
    >>> load_settings({}, {"WINE_DRIFT_BUDGET": "many", "WINE_DRIFT_SEDE": "1"})
    Traceback (most recent call last):
    ...
    wine_drift.errors.SettingsError: WINE_DRIFT_BUDGET: 'many' is not a whole number >= 10
    WINE_DRIFT_SEDE: unknown; did you mean WINE_DRIFT_SEED?
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    mistakes: list[str] = []
    for name, place, raw in _layers(options, environ, file, mistakes):
        try:
            values[name] = _parse(name, raw)
            places[name] = place
            rival = {"cron": "every", "every": "cron"}.get(name)
            if rival in values and _layer(places[rival]) != _layer(place):
                del values[rival], places[rival]  # the stronger layer says when, in its own way
        except ValueError as error:
            mistakes.append(f"{place}: {error}")
    mistakes += _check_together(values, places)
    if mistakes:
        raise SettingsError(
            "\n".join(mistakes), remedy="`wine-drift init` writes a file with every setting"
        )
    return Settings(**values)


def wants_json(
    options: Mapping[str, Any], environ: Mapping[str, str], *, file: Path | None = None
) -> bool:
    """Whether JSON is asked for, also by settings of which others are wrong.

    >>> wants_json({"json": None}, {"WINE_DRIFT_JSON": "1", "WINE_DRIFT_BUDGET": "many"})
    True
    """
    wanted = False
    for name, _, raw in _layers(options, environ, file, []):
        if name == "json":
            with contextlib.suppress(ValueError):
                wanted = bool(_parse(name, raw))
    return wanted


def _layer(place: str) -> str:
    """Where a value comes from: its option, its variable, or else a file."""
    return next((sign for sign in ("--", ENV_PREFIX) if place.startswith(sign)), "file")


def settings_toml(values: Mapping[str, Any] | None = None) -> str:
    """A TOML file with every setting and its meaning: some values, the defaults commented out."""
    values = values or {}
    lines = [
        "# Settings of wine-drift. Each is also an option (--batch-rows) and an environment",
        "# variable (WINE_DRIFT_BATCH_ROWS); the option wins, then the variable, then this file.",
    ]
    for name, f in specification().items():
        if f.metadata["section"]:
            lines += ["", f"# --- {f.metadata['section']} ---"]
        choices = f.metadata["choices"]
        lines.append(f"# {f.metadata['help']}" + (f" ({', '.join(choices)})" if choices else ""))
        if name in values:
            value = values[name]
            told = quoted(value) if isinstance(value, str) else json.dumps(value)
            lines.append(f"{name} = {told}")
        else:
            lines.append(f"# {name} = {_toml_value(name, f)}")
    return "\n".join(lines) + "\n"


def _layers(
    options: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None,
    mistakes: list[str],
) -> Iterator[tuple[str, str, Any]]:
    """Every value given, as (setting, place, raw value), the weakest layer first."""
    known = specification()
    if file is None and environ.get(ENV_SETTINGS_FILE):
        file = Path(environ[ENV_SETTINGS_FILE])
    if file is None:
        with contextlib.suppress(OSError):  # a service user may not read the current folder
            file = Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None
            if file is not None and not _ours(file):
                mistakes.append(
                    f"{file}: others can write it, and it was not named; if it is to be trusted,"
                    " name it with --settings"
                )
                file = None
    if file is not None:
        path = file
        try:
            content = tomllib.loads(read_small(path).decode())
        except OSError as error:
            mistakes.append(f"{path}: {error.strerror or error}")
        except ValueError as error:  # not TOML, not text, or a number beyond all bounds
            mistakes.append(f"{path}: not a TOML file: {error}")
        else:
            for key, raw in content.items():
                if key in known:
                    names_file = kind(key) is Path or (key == "models" and "://" not in str(raw))
                    if names_file and isinstance(raw, str) and raw[:1] not in ("", "~"):
                        raw = str(path.parent / raw)  # a schedule starts in any folder
                    if raw != "":  # as with variables, empty is not given
                        yield key, f"{path}: {key}", raw
                else:
                    mistakes.append(f"{path}: {key}: unknown{_suggest(key, list(known))}")
    variables = {ENV_PREFIX + name.upper(): name for name in known}
    for variable in sorted(environ):
        if _LINK.search(variable) or (variable.endswith("_PORT") and "://" in environ[variable]):
            continue
        if variable in variables and environ[variable] != "":
            yield variables[variable], variable, environ[variable]
        elif variable.startswith(ENV_PREFIX) and variable not in (*variables, *_NOT_SETTINGS):
            hint = _suggest(variable.removeprefix(ENV_PREFIX), [*map(str.upper, known), "SETTINGS"])
            if hint:
                mistakes.append(f"{variable}: unknown{hint.replace('mean ', f'mean {ENV_PREFIX}')}")
    for name, raw in options.items():
        if raw is not None:
            yield name, "--" + name.replace("_", "-"), raw


def _ours(file: Path) -> bool:
    """Whether nobody but us, and root, can have written a file that happens to lie in a folder."""
    link, found = file.lstat(), file.stat()
    owners = {link.st_uid, found.st_uid}
    return owners <= {0, os.geteuid()} and not found.st_mode & stat.S_IWOTH


def _is_text(raw: Any) -> bool:
    """Whether it can be written as UTF-8; a variable may hold any bytes."""
    try:
        str(raw).encode()
    except UnicodeEncodeError:
        return False
    return True


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


def _parse(name: str, raw: Any) -> Any:
    """Check one raw value; ValueError says what would be right."""
    metadata = specification()[name].metadata
    wanted, low, high = kind(name), metadata["low"], metadata["high"]
    if wanted is bool:
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if isinstance(raw, bool):
            return raw
        if str(raw).lower() in words:
            return words[str(raw).lower()]
        raise ValueError(f"{raw!r} is neither true nor false")
    if wanted in (int, float):
        bounds = "".join(
            f" {sign} {bound:g}" for sign, bound in ((">=", low), ("<=", high)) if bound is not None
        )
        noun = ("a whole number" if wanted is int else "a number") + bounds
        if metadata["duration"]:
            noun += " of seconds, nor one with a unit such as 90s, 15m, 2h or 7d"
            raw = _seconds(raw)
        try:
            value = wanted(raw) if not isinstance(raw, bool | float) else wanted(float(raw))
            whole = wanted is float or float(value) == float(raw)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{str(raw)[:40]!r} is not {noun}") from None
        above = low is None or value >= low
        if isinstance(raw, bool) or not (whole and above and value <= (high or 1e18)):
            raise ValueError(f"{raw!r} is not {noun}")
        return value
    if name == "ledger":
        return _address(raw)
    if not isinstance(raw, str | Path) or not str(raw).strip() or "\0" in str(raw):
        raise ValueError(f"{raw!r} is not {'a path' if wanted is Path else 'a text'}")
    if wanted is str and not _is_text(raw):
        raise ValueError(f"{raw!r} is not UTF-8 text")
    if metadata["choices"] and raw not in metadata["choices"]:
        if name != "scenario":
            raise ValueError(f"{raw!r} is none of {', '.join(metadata['choices'])}")
        scenarios(str(raw), 0)
    if wanted is not Path:
        return raw
    try:
        return Path(raw).expanduser()
    except RuntimeError as error:  # ~nobody
        raise ValueError(f"{str(raw)!r}: {error}") from None


def _address(raw: Any) -> str:
    """The address of a database; no message repeats it, as it may hold a password."""
    if set(str(raw).partition("://")[2].rpartition("@")[0]) & set("/?#"):
        # where a user's name ends is not clear then, and not the same to all who read it
        raise ValueError("write / ? # before an @, and an @ in a query, as %2F %3F %23 and %40")
    try:
        parts = urlsplit(str(raw))
        known = parts.scheme in ("postgresql", "postgres")
        if known and _is_text(raw) and str(raw).isprintable() and " " not in str(raw):
            return str(raw)
    except ValueError:  # brackets that do not match
        pass
    raise ValueError("not an address such as postgresql://host/database")


def _has_password(address: str) -> bool:
    """Whether a password stands in an address, in whatever place."""
    parts = urlsplit(address)
    return ":" in parts.netloc.rpartition("@")[0] or "password" in unquote(parts.query).lower()


def _seconds(raw: Any) -> Any:
    """15m -> 900; what is none of this form stays as it is.

    >>> _seconds("1.5h"), _seconds("90"), _seconds("soon")
    (5400.0, '90', 'soon')
    """
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    if isinstance(raw, str) and raw.strip()[-1:] in units:
        with contextlib.suppress(ValueError):
            return float(raw.strip()[:-1]) * units[raw.strip()[-1]]
    return raw


def _zone(name: str) -> tzinfo:
    """A time zone by its name; ValueError if there is none."""
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # a folder of zones is an OSError
        raise ValueError(
            f"{name!r} is no time zone; take a name such as Europe/Berlin, or UTC"
        ) from None


def _check_schedule(values: Mapping[str, Any], places: Mapping[str, str]) -> Iterator[str]:
    """Mistakes in when runs are due."""
    if "cron" in values and "every" in values:
        yield f"{places['cron']} and {places['every']}: both tell when runs start; leave one out"
    zone: tzinfo = UTC
    try:
        zone = _zone(values["timezone"]) if "timezone" in values else zone
    except ValueError as error:
        yield f"{places['timezone']}: {error}"
    if "cron" not in values:
        return
    from wine_drift.timetable import Cron

    try:
        Cron(values["cron"], zone)
    except ValueError as error:
        yield f"{places['cron']}: {error}"


def _check_together(values: Mapping[str, Any], places: Mapping[str, str]) -> list[str]:
    """Mistakes that no single value shows."""
    mistakes = list(_check_schedule(values, places))
    if values.get("drain") and ("inbox" not in values or values.get("source") in STREAMS):
        mistakes.append(f"{places['drain']}: there is no inbox to empty; set inbox")
    drift = values.get("severity_drift", Settings.severity_drift)
    if values.get("severity_major", Settings.severity_major) < drift:
        place = places.get("severity_major") or places.get("severity_drift")
        mistakes.append(f"{place}: severity_major is below severity_drift")
    if _layer(places.get("ledger", "")) == "--" and _has_password(values["ledger"]):
        mistakes.append(
            f"{places['ledger']}: everybody sees the password of an option; give it as PGPASSWORD, "
            f"in PGPASSFILE, or the whole as {ENV_PREFIX}LEDGER or in a settings file"
        )
    _, is_url, rest = values.get("models", "").partition("://")
    if is_url and ("@" in rest.partition("/")[0] or ":" in rest.rpartition("@")[0]):
        mistakes.append(
            f"{places['models']}: keep user and password where its file system looks for them"
        )
    url = values.get("pushgateway")
    if url is not None:
        place = places["pushgateway"]
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            valid = valid and not (set(url) & set(" \t?#")) and not parts.netloc.endswith(":")
        except ValueError:  # a port that is no number, brackets that do not match
            valid = False
        if not valid:
            mistakes.append(f"{place}: not an address such as http://localhost:9091")
        elif "@" in parts.netloc:
            mistakes.append(f"{place}: keep the user in username and the password in password_file")
    if "dask_scheduler" in values:
        place = places["dask_scheduler"]
        if not _SCHEDULER.fullmatch(values["dask_scheduler"]):
            mistakes.append(f"{place}: not an address such as tcp://localhost:8786")
        if "engine" not in values:
            mistakes.append(f"{place}: only for engine dask; set engine")
    if ("username" in values) != ("password_file" in values):
        place = places.get("username") or places.get("password_file")
        mistakes.append(f"{place}: username and password_file go together")
    if ":" in values.get("username", ""):
        mistakes.append(f"{places['username']}: no user name of basic authentication has a colon")
    window = values.get("window_rows", Settings.window_rows)
    if window < values.get("min_labelled", Settings.min_labelled):
        place = places.get("window_rows") or places.get("min_labelled")
        mistakes.append(f"{place}: window_rows is below min_labelled: nothing could be trained")
    if "log_file" in values and values["log_file"].name == "-":
        mistakes.append(f"{places['log_file']}: - is no file; the log goes to stderr by itself")
    textfile = values.get("textfile")
    if textfile is not None and textfile.suffix != ".prom":
        mistakes.append(f"{places['textfile']}: node_exporter only reads names that end in .prom")
    return mistakes


def _toml_value(name: str, f: Field[Any]) -> str:
    if name == "home":
        return '"/var/lib/wine-drift"'
    if f.default is None:
        return '""'
    if isinstance(f.default, bool):
        return str(f.default).lower()
    return f'"{f.default}"' if isinstance(f.default, str) else str(f.default)
