"""Commands: options -> settings -> one call -> text and exit code; nothing heavy is imported."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wine_drift.errors import SettingsError, StateUnreadable, Unhealthy, WineDriftError
from wine_drift.settings import DEFAULT_FILE, Settings, kind, load_settings, specification

if TYPE_CHECKING:
    from wine_drift.record import Report

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

DRIFT_FOUND = 8  # exit code for those who set fail_on
WIPE = "\r\x1b[K"  # to the start of the line, and clear it
INTERRUPTED = 130  # as a shell gives it: 128 + SIGINT
STREAM = ("batch_rows", "seed", "scenario", "scenario_start", "scenario_feature")
TRAINING = (
    "training_share",
    "recipe",
    "rounds",
    "min_labelled",
    "min_positives",
    "gate_alpha",
    "half_life",
)
KEEPING = ("window_rows", "window_age", "waiting_rows", "row_id")
PUBLISHING = (
    "pushgateway",
    "textfile",
    "pipeline",
    "push_timeout",
    "push_deadline",
    "username",
    "password_file",
    "ca_file",
    "proxy",
    "legacy_metrics",
)
JUDGING = (
    "budget",
    "severity_drift",
    "severity_major",
    "min_rows",
    "max_set_aside",
    "accept",
    "retrain",
    "cooldown",
    "label_wait",
    "batch_wait",
)

JUDGED = ("budget", "severity_drift", "severity_major", "min_rows")

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
METAVARS: dict[type, str] = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def takes(*names: str) -> Callable[[F], F]:
    """Give a command the options of these settings, besides --home and --settings."""

    def decorate(command: F) -> F:
        for name in reversed(("home", *names)):
            metadata = specification()[name].metadata
            flag = "--" + name.replace("_", "-")
            text, default = metadata["help"], specification()[name].default
            if metadata["choices"]:
                text += f" [{'|'.join(metadata['choices'])}]"
            if isinstance(default, str | int | float) and kind(name) is not bool:
                text += f" (default {default})"
            if kind(name) is bool:
                option = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
            else:
                option = click.option(flag, name, metavar=METAVARS[kind(name)], help=text)
            command = option(command)
        where = f"TOML file with settings (default: ./{DEFAULT_FILE} if it is there)"
        return click.option("--settings", "file", metavar="FILE", help=where)(command)

    return decorate


class Commands(click.Group):
    """Tells errors: what, where, and what to do; then exits with the error's own code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except WineDriftError as error:
            _tell(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted: what was not recorded will be taken again", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            raise  # the reader of our output went away; click ends quietly
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            remedy = "check rights and free space; what was not recorded will be taken again"
            _tell(StateUnreadable(f"{place}{error.strerror or error}", remedy=remedy))
            ctx.exit(StateUnreadable.exit_code)


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(package_name="wine-drift", message="%(prog)s %(version)s")
def main() -> None:
    """Watch a model in production and keep it good, one batch a run.

    Exit codes: 0 done, 2 usage or settings, 3 the batch is bad and in quarantine, or its labels are
    bad, 4 batch done but push failed, 5 another run holds the lock, 6 ledger or model unreadable,
    7 not healthy, 8 drift (only with --fail-on), 9 batch done but retraining failed,
    130 interrupted, 1 a bug.
    """


@main.command("run-batch")
@click.argument("batch", required=False, type=click.Path(path_type=Path))
@takes(
    "data",
    "schema",
    "inbox",
    "source",
    *STREAM,
    *JUDGING,
    *TRAINING,
    *KEEPING,
    "threads",
    *PUBLISHING,
    "every",
    "dry_run",
    "json",
    "fail_on",
)
def run_batch_command(batch: Path | None, file: str | None, **options: Any) -> None:
    """Process one batch: BATCH, or the next of the inbox or the stream."""
    settings = _settings(file, options)
    from wine_drift.run import run_batch

    _finish(settings, run_batch(settings, batch, say=_say, progress=_progress))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[RUN-BATCH OPTIONS]")
@takes("every", "run_deadline")
def schedule(options: tuple[str, ...], file: str | None, **own: Any) -> None:
    """Run run-batch now and at regular intervals, each run in a process of its own."""
    passed = {"--settings": file, "--home": own.pop("home"), "--every": own["every"]}
    place = [word for flag, value in passed.items() if value for word in (flag, value)]
    arguments = [*place, *options]
    with run_batch_command.make_context("run-batch", list(arguments)) as ctx:  # mistakes now
        given = {k: v for k, v in ctx.params.items() if k in specification()}
    settings = _settings(file, own | given)
    from wine_drift.scheduling import run_every

    command = [sys.executable, "-m", "wine_drift", "run-batch", *arguments]
    run_every(settings.every, command, deadline=settings.run_deadline, say=_say)


@main.command()
@takes("data", "schema", "seed", *TRAINING, "window_rows", "force", "threads", *PUBLISHING, "json")
def train(file: str | None, **options: Any) -> None:
    """Train the first model on all of the table; later, a challenger through the gate."""
    settings = _settings(file, options)
    from wine_drift.run import train_now

    _finish(settings, train_now(settings, say=_say, progress=_progress))


@main.command("add-labels")
@click.argument("batch")
@click.argument("labels", metavar="FILE", type=click.Path(path_type=Path))
@takes("schema", "seed", *JUDGING, *TRAINING, *KEEPING, "threads", *PUBLISHING, "json")
def add_labels_command(batch: str, labels: Path, file: str | None, **options: Any) -> None:
    """Add labels that came late to BATCH, its number or id, and do what follows from them."""
    settings = _settings(file, options)
    from wine_drift.labels import add_labels

    _finish(settings, add_labels(settings, batch, labels, progress=_progress))


@main.command()
@takes("pipeline", "legacy_metrics")
def metrics(file: str | None, **options: Any) -> None:
    """Print every metric, in Prometheus' text format."""
    settings = _settings(file, options)
    from wine_drift.ledger import Ledger
    from wine_drift.outbox import families
    from wine_drift.publishing import render

    with Ledger.open(settings.home, read_only=True) as ledger:
        click.echo(render(families(settings, ledger)), nl=False)


@main.command()
@takes(*PUBLISHING)
def push(file: str | None, **options: Any) -> None:
    """Send every metric to the sinks again."""
    settings = _settings(file, options)
    from wine_drift.ledger import Ledger
    from wine_drift.locking import locked
    from wine_drift.outbox import publish

    if not Ledger.exists(settings.home):  # an empty set would replace the real one
        raise SettingsError(f"{settings.home}: no ledger", remedy="name the --home of the job")
    # an older set pushed after a newer one would turn the counters back
    with locked(settings.home), Ledger.open(settings.home) as ledger:
        told, failure = publish(settings, ledger)
    if failure is not None:
        raise failure
    click.echo(f"published {', '.join(told['sinks'])}")


@main.command()
@takes("last", "json")
def status(file: str | None, **options: Any) -> None:
    """Show the model, the last run and the last batches."""
    settings = _settings(file, options)
    from wine_drift.ledger import Ledger
    from wine_drift.report import status_text

    with Ledger.open(settings.home, read_only=True) as ledger:
        records, snapshot = ledger.records(settings.last), ledger.snapshot()
    if settings.json:
        _print_json({"champion": snapshot.champion, "run": snapshot.run, "batches": records})
    else:
        click.echo(status_text(records, snapshot.champion, snapshot.run, home=str(settings.home)))


@main.command()
@click.argument("run", required=False, default="")
@takes("json")
def explain(run: str, file: str | None, **options: Any) -> None:
    """Show why a batch was judged as it was: RUN is its number or id; default: the last one."""
    settings = _settings(file, options)
    from wine_drift import explanation
    from wine_drift.ledger import Ledger
    from wine_drift.report import explain_text

    with Ledger.open(settings.home, read_only=True) as ledger:
        record = ledger.find(run)
    if record is None:
        raise SettingsError(
            f"{settings.home}: no processed batch {run}".rstrip(),
            remedy="`wine-drift status` lists the last ones",
        )
    if settings.json:
        parts = {key: record[key] for key in ("batch", "drift", "quality", "decision")}
        _print_json(parts | {"columns": explanation.explain(record)})
    else:
        click.echo(explain_text(record))


@main.group()
def selftest() -> None:
    """Measure the detector on the champion's own rows, at the batch size that is set.

    Exits with 7 if a promise is broken by more than chance.
    """


def _selftest(name: str, text: str, *settings_taken: str) -> None:
    """One test as a command."""

    @takes(*settings_taken, "batch_rows", *JUDGED, "repeats", "seed", "threads", "json")
    def command(file: str | None, **options: Any) -> None:
        settings = _settings(file, options)
        from wine_drift import selftest as tests
        from wine_drift.report import selftest_text

        found = getattr(tests, name)(settings, progress=_bar)
        if settings.json:
            _print_json(found)
        else:
            click.echo(selftest_text(found))
        if name == "power" and not settings.dry_run:
            tests.keep(settings, found)
        broken = tests.broken_promise(found)
        if broken is not None:
            raise Unhealthy(broken, remedy="judge larger batches: raise batch_rows or min_rows")

    command.__doc__ = text
    selftest.command(name)(command)


_selftest("null", "How rare the p-values and alarms of healthy batches are.")
_selftest(
    "power", "The smallest shift of each feature that is found; published from then on.", "dry_run"
)
_selftest("longrun", "How many healthy streams ever come to an alarm.", "horizon")
_selftest("coverage", "How often the intervals of quality hold the true value.")


@main.group()
def models() -> None:
    """List, compare and move model versions; let an earlier or imported one serve."""


@models.command("list")
@takes("json")
def models_list(file: str | None, **options: Any) -> None:
    """List every version; * marks the champion."""
    settings = _settings(file, options)
    manifests, champion, pruned = _versions(settings)
    from wine_drift.report import models_text

    if settings.json:
        _print_json({"champion": champion, "versions": manifests, "pruned": sorted(pruned)})
    else:
        click.echo(models_text(manifests, champion, pruned))


@models.command("show")
@click.argument("version", required=False)
@takes()
def models_show(version: str | None, file: str | None, **options: Any) -> None:
    """Print the manifest of VERSION, or of the champion."""
    settings = _settings(file, options)
    manifests, champion, _ = _versions(settings)
    wanted = version or champion
    for manifest in manifests:
        if manifest["version"] == wanted:
            _print_json(manifest)
            return
    if wanted is None:
        raise SettingsError("no model yet", remedy="the first `wine-drift run-batch` trains one")
    known = ", ".join(manifest["version"] for manifest in manifests) or "none"
    raise SettingsError(f"no model version {wanted}", remedy=f"there are: {known}")


@models.command("rollback")
@click.argument("version", required=False)
@takes(*PUBLISHING, "json")
def models_rollback(version: str | None, file: str | None, **options: Any) -> None:
    """Let VERSION, an earlier or imported one, serve; default: the champion's parent."""
    settings = _settings(file, options)
    from wine_drift.report import rollback_text
    from wine_drift.versions import rollback

    report = rollback(settings, version)
    _answer(settings, report.record, rollback_text, report.error)


@models.command("prune")
@takes("keep_versions", "dry_run", "json")
def models_prune(file: str | None, **options: Any) -> None:
    """Remove the files of old versions, and what killed runs left; the manifests stay."""
    settings = _settings(file, options)
    from wine_drift.report import prune_text
    from wine_drift.versions import prune

    _answer(settings, prune(settings), prune_text)


@models.command("diff")
@click.argument("old", required=False)
@click.argument("new", required=False)
@takes("threads", "json")
def models_diff(old: str | None, new: str | None, file: str | None, **options: Any) -> None:
    """Compare OLD with NEW; default: the champion's parent, and the champion."""
    settings = _settings(file, options)
    from wine_drift.report import diff_text
    from wine_drift.versions import diff

    _answer(settings, diff(settings, old, new), diff_text)


@models.command("export")
@click.argument("version")
@takes("out")
def models_export(version: str, file: str | None, **options: Any) -> None:
    """Write VERSION to one file, for `import` in another home or for keeping."""
    settings = _settings(file, options)
    if settings.out is None:
        raise SettingsError("no file to write to", remedy="name one with --out")
    from wine_drift.exchange import export_version

    export_version(settings, version, settings.out)
    click.echo(f"wrote {settings.out}")


@models.command("import")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@takes("schema", *PUBLISHING, "json")
def models_import(path: Path, file: str | None, **options: Any) -> None:
    """Register a version that `export` wrote to FILE; the first one of a home serves at once."""
    settings = _settings(file, options)
    from wine_drift.exchange import import_version
    from wine_drift.report import import_text

    report = import_version(settings, path)
    _answer(settings, report.record, import_text, report.error)


@main.command()
@takes("out", "batches", "data", "schema", "source", *STREAM)
def simulate(file: str | None, **options: Any) -> None:
    """Write batch files with a drift scenario, of the table or of simulated wines."""
    settings = _settings(file, options)
    if settings.out is None:
        raise SettingsError("no folder to write to", remedy="name one with --out")
    from wine_drift.dataset import load_schema
    from wine_drift.supply import write_simulated

    schema = load_schema(settings.schema)
    for path in write_simulated(settings, schema, n_batches=settings.batches, out=settings.out):
        click.echo(path)


@main.command("fetch-data")
@takes("url")
def fetch_data(file: str | None, **options: Any) -> None:
    """Download the UCI red-wine table into HOME/data and print where it is."""
    settings = _settings(file, options)
    from wine_drift.dataset import URL, fetch

    click.echo(fetch(settings.home, url=settings.url or URL, progress=sys.stderr.isatty()))


@main.command()
@click.argument("path", default=DEFAULT_FILE, type=click.Path(path_type=Path))
def init(path: Path) -> None:
    """Write a settings file with every setting explained, to PATH."""
    from wine_drift.settings import settings_toml

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(settings_toml())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", remedy="name another file") from error
    click.echo(f"wrote {path}")


@main.group()
def history() -> None:
    """The past, for a time series database that was not there."""


@history.command("export")
@takes("openmetrics", "since", "until", "step", "pipeline", "legacy_metrics")
def history_export(file: str | None, **options: Any) -> None:
    """Write every metric of the past to --openmetrics FILE, with its times."""
    settings = _settings(file, options)
    if settings.openmetrics is None:
        raise SettingsError("no file to write to", remedy="name one with --openmetrics")
    from wine_drift.history import export_history

    told = export_history(settings, settings.openmetrics, progress=_bar)
    click.echo(f"wrote {told} entries of the ledger to {settings.openmetrics}")


@main.command()
@takes("days", "scenario", "batch_rows", "seed", "openmetrics", "pipeline", "legacy_metrics")
def demo(file: str | None, **options: Any) -> None:
    """Fill an empty home with a simulated past of hourly batches, to have something to look at."""
    settings = _settings(file, options)
    from wine_drift.demo import make_demo
    from wine_drift.history import export_history
    from wine_drift.report import story_text

    story = make_demo(settings, progress=_bar)
    if story is not None:
        _say("SIMULATED DATA: these are not measurements of real wines")
        click.echo(f"{settings.home}: {settings.days:g} days of hourly batches, up to now")
        if story:
            click.echo(story_text(story))
    else:
        click.echo(f"{settings.home}: has a past already; nothing was changed")
    if settings.openmetrics is None:
        return
    if story is None and settings.openmetrics.exists():
        click.echo(f"{settings.openmetrics}: left as it is")
        return
    told = export_history(settings, settings.openmetrics, progress=_bar)
    click.echo(f"wrote {told} entries of the ledger to {settings.openmetrics}")


@main.command()
@takes("max_age")
def health(file: str | None, **options: Any) -> None:
    """Exit with 0 if the last run ended well and not too many intervals ago, else with 7."""
    settings = _settings(file, options)
    from wine_drift.ledger import Ledger

    with Ledger.open(settings.home, read_only=True) as ledger:
        snapshot = ledger.snapshot()
    if snapshot.run is None:
        raise Unhealthy(f"{settings.home}: no run yet", remedy="start `wine-drift run-batch`")
    if not snapshot.run["success"]:
        raise Unhealthy(
            f"the last run failed: {snapshot.run['outcome']}", remedy="see what it printed"
        )
    age, interval = time.time() - snapshot.last_success, snapshot.run["interval"]
    if age > settings.max_age * interval:
        raise Unhealthy(
            f"the last success is {age:.0f} s old, more than max_age = {settings.max_age:g} times "
            f"every = {interval:g} s",
            remedy="see whether the schedule still runs",
        )
    click.echo(f"healthy: the last success is {age:.0f} s old")


def _settings(file: str | None, options: dict[str, Any]) -> Settings:
    return load_settings(options, os.environ, file=Path(file) if file else None)


def _versions(settings: Settings) -> tuple[list[dict[str, Any]], str | None, set[str]]:
    from wine_drift.ledger import Ledger

    with Ledger.open(settings.home, read_only=True) as ledger:
        champion = ledger.champion()
        return ledger.versions(), champion["version"] if champion else None, ledger.pruned()


def _answer(
    settings: Settings,
    record: Mapping[str, Any],
    text: Callable[[Mapping[str, Any]], str],
    error: WineDriftError | None = None,
) -> None:
    """Print what came of a command; its error, if there is one, goes on to `Commands.invoke`."""
    _wipe()
    if settings.json:
        _print_json(record)
    else:
        click.echo(text(record))
    if error is not None:
        raise error


def _finish(settings: Settings, report: Report) -> None:
    """Print what the run did."""
    from wine_drift.report import run_text

    _answer(settings, report.record, run_text, report.error)
    alarms = {"never": (), "drift": ("drift", "major"), "major": ("major",)}[settings.fail_on]
    drift = report.record["drift"]
    if report.record["outcome"] == "processed" and drift["status"] in alarms:
        raise SystemExit(DRIFT_FOUND)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _say(line: str) -> None:
    """What a person should know, also in cron's mail."""
    _wipe()
    click.echo(line, err=True)


def _progress(line: str) -> None:
    """What takes long, where somebody waits for it; each line takes the place of the last."""
    if sys.stderr.isatty():
        click.echo(f"{WIPE}{line} ...", err=True, nl=False)


def _wipe() -> None:
    """Before anything else is printed."""
    if sys.stderr.isatty():
        click.echo(WIPE, err=True, nl=False)


def _bar(steps: Sequence[T]) -> Iterable[T]:
    """A progress bar, where somebody waits for it."""
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(steps, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)
    return bar


def _tell(error: WineDriftError) -> None:
    _wipe()
    for line in str(error).splitlines():
        click.echo(f"error: {line}", err=True)
    if error.remedy:
        click.echo(f"       {error.remedy}", err=True)
