"""Commands: options -> settings -> one call -> text and exit code; nothing heavy is imported."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wine_drift.errors import (
    DRIFT_FOUND,
    SettingsError,
    StateUnreadable,
    Unhealthy,
    WineDriftError,
)
from wine_drift.logline import run_line
from wine_drift.roster import more_waits
from wine_drift.settings import DEFAULT_FILE, Settings, kind, load_settings, specification
from wine_drift.voice import bar, give_up, log, progress, say, speak, structured, tell, wipe

if TYPE_CHECKING:
    from wine_drift.record import Report

F = TypeVar("F", bound=Callable[..., Any])

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
WRITING = ("lock_wait", "keep_history", "backup_every")  # whatever changes a home
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

TIMING = ("every", "cron", "timezone")
LOGGING = ("quiet", "log_format", "log_file")
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
            tell(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            say("interrupted: what was not recorded will be taken again")
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            raise  # the reader of our output went away; click ends quietly
        except OSError as error:
            told = _translated(error)
            tell(told)
            ctx.exit(told.exit_code)


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
    "max_bytes",
    *PUBLISHING,
    *WRITING,
    *TIMING,
    *LOGGING,
    "drain",
    "dry_run",
    "json",
    "fail_on",
)
def run_batch_command(batch: Path | None, file: str | None, **options: Any) -> None:
    """Process one batch: BATCH, or the next of the inbox or the stream."""
    settings = _settings(file, options)
    if batch is not None and settings.drain:
        raise SettingsError(
            f"{batch} and --drain: one batch, or all of the inbox", remedy="leave one of them out"
        )
    code, more = _run_once(settings, batch)
    while settings.drain and more:
        latest, more = _run_once(settings, batch)
        code = code or latest
    if code:
        raise SystemExit(code)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[RUN-BATCH OPTIONS]")
@takes(*TIMING, "run_deadline", "warm", "metrics_port", "metrics_host", *LOGGING, "drain")
def schedule(options: tuple[str, ...], file: str | None, **own: Any) -> None:
    """Run run-batch when it is due, each run in a process of its own, until SIGTERM.

    Due is every so many seconds, or what a line of crontab says (--cron). All options of run-batch,
    which its own --help tells, are passed on to each run.
    """
    shared = {name: own[name] for name in ("home", *TIMING, *LOGGING)}
    arguments = [*_as_options({"settings": file} | shared), *options]
    # mistakes are told now, not by each run
    with run_batch_command.make_context("wine-drift run-batch", list(arguments)) as ctx:
        given = {k: v for k, v in ctx.params.items() if k in specification() and k != "drain"}
    if ctx.params["batch"] is not None:
        raise SettingsError(f"{ctx.params['batch']}: a schedule takes no batch", remedy="set inbox")
    settings = _settings(file, own | given)
    if settings.dry_run:
        raise SettingsError("a schedule has no dry run", remedy="try `wine-drift run-batch` alone")
    from wine_drift.service import keep_running

    context = click.get_current_context()

    def keep_log(line: Mapping[str, Any]) -> None:
        with context.scope(cleanup=False):  # it is told from a thread, too
            log(line, file=settings.log_file, show=not settings.quiet or line["level"] == "error")

    # The schedule and the log are those of the scheduler, whatever becomes of the settings file.
    when = "every" if settings.cron is None else "cron"
    kept = {name: getattr(settings, name) for name in (when, "timezone", *LOGGING)}
    arguments += _as_options(kept | {"drain": False})
    keep_running(settings, ["run-batch", *arguments], _once, log=keep_log)


@main.command()
@takes(
    "data",
    "schema",
    "seed",
    *TRAINING,
    "window_rows",
    "force",
    "threads",
    "max_bytes",
    *PUBLISHING,
    *WRITING,
    "json",
)
def train(file: str | None, **options: Any) -> None:
    """Train the first model on all of the table; later, a challenger through the gate."""
    settings = _settings(file, options)
    from wine_drift.run import train_now

    _finish(settings, train_now(settings, say=say, progress=progress))


@main.command("add-labels")
@click.argument("batch")
@click.argument("labels", metavar="FILE", type=click.Path(path_type=Path))
@takes(
    "schema",
    "seed",
    *JUDGING,
    *TRAINING,
    *KEEPING,
    "threads",
    "max_bytes",
    *PUBLISHING,
    *WRITING,
    "json",
)
def add_labels_command(batch: str, labels: Path, file: str | None, **options: Any) -> None:
    """Add labels that came late to BATCH, its number or id, and do what follows from them."""
    settings = _settings(file, options)
    from wine_drift.labels import add_labels

    _finish(settings, add_labels(settings, batch, labels, progress=progress))


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
@takes(*PUBLISHING, *WRITING)
def push(file: str | None, **options: Any) -> None:
    """Send every metric to the sinks again."""
    settings = _settings(file, options)
    from wine_drift.home import writing
    from wine_drift.outbox import publish

    # Not of a home that is not there: an empty set would replace the real one. And under the lock:
    # an older set pushed after a newer one would turn the counters back.
    with writing(settings, say=say, new=False) as ledger:
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

    with Ledger.open(settings.home, read_only=True) as ledger, ledger.still():
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

        found = getattr(tests, name)(settings, progress=bar)
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
    "power",
    "The smallest shift of each feature that is found; published from then on.",
    "dry_run",
    *WRITING,
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
@takes(*PUBLISHING, *WRITING, "json")
def models_rollback(version: str | None, file: str | None, **options: Any) -> None:
    """Let VERSION, an earlier or imported one, serve; default: the champion's parent."""
    settings = _settings(file, options)
    from wine_drift.report import rollback_text
    from wine_drift.versions import rollback

    report = rollback(settings, version)
    _answer(settings, report.record, rollback_text, report.error)


@models.command("prune")
@takes("keep_versions", *WRITING, "dry_run", "json")
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
@takes("schema", *PUBLISHING, *WRITING, "json")
def models_import(path: Path, file: str | None, **options: Any) -> None:
    """Register a version that `export` wrote to FILE; the first one of a home serves at once."""
    settings = _settings(file, options)
    from wine_drift.exchange import import_version
    from wine_drift.report import import_text

    report = import_version(settings, path)
    _answer(settings, report.record, import_text, report.error)


@main.command()
@takes("keep_files", "keep_versions", *WRITING, "dry_run", "json")
def prune(file: str | None, **options: Any) -> None:
    """Remove old files, versions and history; with --dry-run, only tell of them."""
    settings = _settings(file, options)
    from wine_drift.report import retention_text
    from wine_drift.retention import prune as prune_home

    _answer(settings, prune_home(settings), retention_text)


@main.command()
@takes("inbox", *PUBLISHING, *WRITING, "json")
def repair(file: str | None, **options: Any) -> None:
    """Put a damaged ledger or model back from the last backup, and tell what was lost."""
    settings = _settings(file, options)
    from wine_drift.repair import repair as repair_home
    from wine_drift.report import repair_text

    report = repair_home(settings)
    _answer(settings, report.record, repair_text, report.error)


@main.command()
@takes("out", "batches", "data", "max_bytes", "schema", "source", *STREAM)
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

    click.echo(fetch(settings.home, url=settings.url or URL))


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

    told = export_history(settings, settings.openmetrics, progress=bar)
    click.echo(f"wrote {told} entries of the ledger to {settings.openmetrics}")


@main.command()
@takes("days", "scenario", "batch_rows", "seed", "openmetrics", "pipeline", "legacy_metrics")
def demo(file: str | None, **options: Any) -> None:
    """Fill an empty home with a simulated past of hourly batches, to have something to look at."""
    settings = _settings(file, options)
    from wine_drift.demo import make_demo
    from wine_drift.history import export_history
    from wine_drift.report import story_text

    story = make_demo(settings, progress=bar)
    if story is not None:
        say("SIMULATED DATA: these are not measurements of real wines")
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
    told = export_history(settings, settings.openmetrics, progress=bar)
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
    speak(options.get("log_format") or os.environ.get("WINE_DRIFT_LOG_FORMAT"))  # also of mistakes
    settings = load_settings(options, os.environ, file=Path(file) if file else None)
    if "log_format" in options:
        speak(settings.log_format)
    return settings


def _once(arguments: Sequence[str]) -> None:
    """A command in the process that a schedule made for it."""
    main(list(arguments), prog_name="wine-drift")


def _as_options(values: Mapping[str, Any]) -> list[str]:
    """Values of options as words of a command line; None is not given."""
    words: list[str] = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def _translated(error: OSError) -> StateUnreadable:
    """What the system refused, in the user's terms."""
    place = f"{error.filename}: " if error.filename else ""
    remedy = "check rights and free space; what was not recorded will be taken again"
    return StateUnreadable(f"{place}{error.strerror or error}", remedy=remedy)


def _run_once(settings: Settings, batch: Path | None) -> tuple[int, bool]:
    """One run with all that is told of it: its exit code, and whether more batches wait."""
    from wine_drift.record import Report
    from wine_drift.report import run_text
    from wine_drift.run import run_batch

    started, report = time.monotonic(), Report({})
    error: WineDriftError | None = None

    def line(code: int) -> dict[str, Any]:
        return run_line(
            report.record,
            report.run,
            error,
            at=time.time(),
            pipeline=settings.pipeline,
            duration=time.monotonic() - started,
            exit_code=code,
            news=report.news,
        )

    try:
        report = run_batch(settings, batch, say=say, progress=progress)
    except WineDriftError as raised:
        error = raised
    except OSError as raised:
        error = _translated(raised)
    except Exception:  # a bug, whose traceback follows
        log(line(1), file=settings.log_file)
        raise
    error = error or report.error
    code = error.exit_code if error else _drift_found(settings, report.record)
    told = line(code)
    show = not settings.quiet or told["level"] != "info"
    if report.record and show and (settings.json or not structured()):
        try:
            _answer(settings, report.record, run_text)
        except OSError as lost:  # nobody reads it, or there is no room; the run is done
            give_up(1)
            if not isinstance(lost, BrokenPipeError):
                say(f"stdout: {lost.strerror}; what the run did is recorded")
    log(told, file=settings.log_file, show=show, error=error)
    return code, more_waits(report.run)


def _drift_found(settings: Settings, record: Mapping[str, Any]) -> int:
    """The exit code of a run that ended well."""
    alarms = {"never": (), "drift": ("drift", "major"), "major": ("major",)}[settings.fail_on]
    found = record["outcome"] == "processed" and record["drift"]["status"] in alarms
    return DRIFT_FOUND if found else 0


def _versions(settings: Settings) -> tuple[list[dict[str, Any]], str | None, set[str]]:
    from wine_drift.ledger import Ledger

    with Ledger.open(settings.home, read_only=True) as ledger, ledger.still():
        champion = ledger.champion()
        return ledger.versions(), champion["version"] if champion else None, ledger.pruned()


def _answer(
    settings: Settings,
    record: Mapping[str, Any],
    text: Callable[[Mapping[str, Any]], str],
    error: WineDriftError | None = None,
) -> None:
    """Print what came of a command; its error, if there is one, goes on to `Commands.invoke`."""
    wipe()
    if settings.json:
        _print_json(record)
    else:
        click.echo(text(record))
    if error is not None:
        raise error


def _finish(settings: Settings, report: Report) -> None:
    """Print what came of training or of late labels."""
    from wine_drift.report import run_text

    _answer(settings, report.record, run_text, report.error)


def _print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    plain = text.replace("\n", "").isprintable()  # else it would steer a terminal
    click.echo(text if plain else json.dumps(value, indent=2))
