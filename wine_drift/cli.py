"""Commands: options -> settings -> one call -> text and exit code; nothing heavy is imported."""

from __future__ import annotations

import json
import os
import sys
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
from wine_drift.files import STDOUT, is_stdout
from wine_drift.logline import run_line
from wine_drift.roster import more_waits
from wine_drift.settings import (
    DEFAULT_FILE,
    Settings,
    kind,
    load_settings,
    specification,
    wants_json,
)
from wine_drift.voice import (
    bar,
    give_up,
    log,
    paper,
    progress,
    put,
    say,
    speak,
    structured,
    tell,
    wipe,
)
from wine_drift.wording import LATE, counted, harmless

if TYPE_CHECKING:
    from wine_drift.record import Report

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130  # as a shell gives it: 128 + SIGINT
PLACES = ("home", "ledger", "models")  # of what is kept
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
LEARNING = ("window_rows", "memory_rows", "threads", "engine", "dask_scheduler")
KEEPING = ("window_age", "waiting_rows", "row_id")
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


def takes(*names: str, places: tuple[str, ...] = PLACES) -> Callable[[F], F]:
    """Give a command the options of these settings, besides its places and --settings."""

    def decorate(command: F) -> F:
        for name in reversed((*places, *names)):
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
                option = click.option(
                    flag,
                    name,
                    metavar=METAVARS[kind(name)],
                    help=text,
                    shell_complete=_completes(name),
                )
            command = option(command)
        where = f"TOML file with settings (default: ./{DEFAULT_FILE} if it is there)"
        return click.option("--settings", "file", metavar="FILE", help=where)(command)

    return decorate


def _completes(name: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """What a shell offers for a setting: its choices, or files."""

    def offer(ctx: click.Context, param: click.Parameter, begun: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        if kind(name) is Path:
            return [CompletionItem(begun, type="file")]
        choices = specification()[name].metadata["choices"]
        return [choice for choice in choices if choice.startswith(begun)]

    return offer


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
        except click.ClickException as error:
            # a shell puts names of files in the place of `*`
            message = harmless(error.message)
            error.message = message  # type: ignore[misc]  # final, but click prints nothing else
            raise
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
    or cluster lost, 7 not healthy, 8 drift (only with --fail-on), 9 batch done but retraining
    failed, 130 interrupted, 1 a bug.
    """


@main.command("run-batch")
@click.argument("batch", required=False, type=click.Path(path_type=str))
@takes(
    "data",
    "schema",
    "inbox",
    "source",
    *STREAM,
    *JUDGING,
    *TRAINING,
    *LEARNING,
    *KEEPING,
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
def run_batch_command(batch: str | None, file: str | None, **options: Any) -> None:
    """Process one batch: BATCH, or the next of the inbox or the stream.

    BATCH is a file, or many: a folder, a pattern in quotes such as 'parts/*.parquet', or an address
    such as 's3://wines/*.parquet'.
    """
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
    shared = {name: own[name] for name in (*PLACES, *TIMING, *LOGGING)}
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
    *LEARNING,
    "force",
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
    *LEARNING,
    *KEEPING,
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

    with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
        text = render(families(settings, ledger))
    # what reads a pipe gets names as they are published
    click.echo(harmless(text) if sys.stdout.isatty() else text, nl=False, color=True)


@main.command()
@takes(*PUBLISHING, *WRITING, "json")
def push(file: str | None, **options: Any) -> None:
    """Send every metric to the sinks again."""
    settings = _settings(file, options)
    from wine_drift.home import writing
    from wine_drift.outbox import publish

    # Not of a home that is not there: an empty set would replace the real one. And under the lock:
    # an older set pushed after a newer one would turn the counters back.
    with writing(settings, say=say, new=False) as ledger:
        told, failure = publish(settings, ledger)
    if settings.json or failure is None:
        _answer(settings, told, lambda told: f"published {', '.join(told['sinks'])}")
    if failure is not None:
        raise failure


@main.command()
@takes("last", "min_labelled", "min_positives", "json")
def status(file: str | None, **options: Any) -> None:
    """Tell whether all is well, what to do, and what comes; then the model and the last batches."""
    settings = _settings(file, options)
    from wine_drift.standing import standing

    found = standing(settings, now=time.time())
    if settings.json:
        _print_json(found.to_dict())
        return
    from wine_drift.overview import status_text

    snapshot = found.snapshot
    text = status_text(
        found.verdict,
        found.records,
        snapshot.champion,
        snapshot.run,
        home=str(settings.home),
        labelled=snapshot.labelled,
        serves_since=found.serves_since,
        paper=paper(),
    )
    put(text)


@main.command()
@click.argument("run", required=False, default="")
@takes("json")
def explain(run: str, file: str | None, **options: Any) -> None:
    """Show why a batch was judged as it was: RUN is its number or id; default: the last one."""
    settings = _settings(file, options)
    from wine_drift import explanation
    from wine_drift.ledger import Ledger
    from wine_drift.report import explain_text

    with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
        record = ledger.find(run)
    if record is None and not run:
        raise SettingsError(
            f"{settings.home}: no processed batch yet",
            remedy="process one with `wine-drift run-batch`; is it the right --home?",
        )
    if record is None:
        raise SettingsError(
            f"{settings.home}: no processed batch {run}, or more than one that begins so",
            remedy="`wine-drift history list` has their numbers",
        )
    if settings.json:
        parts = {key: record[key] for key in ("batch", "drift", "quality", "decision")}
        _print_json(parts | {"columns": explanation.explain(record)})
    else:
        put(explain_text(record, paper()))


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
    from wine_drift.overview import models_text

    if settings.json:
        _print_json({"champion": champion, "versions": manifests, "pruned": sorted(pruned)})
    else:
        put(models_text(manifests, champion, pruned, paper()))


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
        raise SettingsError(
            f"{settings.home}: no model yet", remedy="the first `wine-drift run-batch` trains one"
        )
    known = ", ".join(manifest["version"] for manifest in manifests) or "none"
    raise SettingsError(f"{settings.home}: no model version {wanted}", remedy=f"there are: {known}")


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
@takes("out", "json")
def models_export(version: str, file: str | None, **options: Any) -> None:
    """Write VERSION to one file, for `import` in another home or for keeping."""
    settings = _settings(file, options)
    from wine_drift.exchange import export_version

    path = _goal(settings, "out", streams=False)
    export_version(settings, version, path)
    _wrote(settings, {"path": str(path)})


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
@takes(
    *("out", "batches", "data", "max_bytes", "schema", "source", *STREAM, "json"),
    places=("home",),
)
def simulate(file: str | None, **options: Any) -> None:
    """Write batch files with a drift scenario, of the table or of simulated wines."""
    settings = _settings(file, options)
    out = _goal(settings, "out", kind="folder", streams=False)
    from wine_drift.dataset import load_schema
    from wine_drift.supply import write_simulated

    schema = load_schema(settings.schema)
    paths = write_simulated(settings, schema, n_batches=settings.batches, out=out, progress=bar)
    found = {"files": [str(path) for path in paths]}
    _answer(settings, found, lambda found: "\n".join(found["files"]))


@main.command()
@takes("out", "pipeline", "json")
def report(file: str | None, **options: Any) -> None:
    """Write a page for people to --out FILE: is the model healthy, and if not, why not.

    FILE can be - for standard output.
    """
    settings = _settings(file, options)
    path = _goal(settings, "out")
    from wine_drift.portrait import write_report

    level = write_report(settings, path)
    _wrote(settings, {"path": str(path), "verdict": level})


@main.command()
@takes("metrics_port", "metrics_host", "pipeline", "legacy_metrics")
def serve(file: str | None, **options: Any) -> None:
    """Show the page of report at / beside /metrics, on port 8000, until SIGTERM; it only reads."""
    settings = _settings(file, options)
    from wine_drift.service import show

    show(settings, say=say)


@main.command("fetch-data")
@takes("url", "json", places=("home",))
def fetch_data(file: str | None, **options: Any) -> None:
    """Download the UCI red-wine table into HOME/data and print where it is."""
    settings = _settings(file, options)
    from wine_drift.dataset import URL, fetch

    progress("downloading the red-wine table")
    path = fetch(settings.home, url=settings.url or URL)
    _answer(settings, {"path": str(path)}, lambda told: str(told["path"]))


@main.command()
@click.argument("path", default=DEFAULT_FILE, type=click.Path(path_type=Path))
@click.option("--from", "table", metavar="FILE", help="a table to propose settings and schema from")
@click.option("--target", metavar="COLUMN", help="its column with the answer")
@click.option("--positive", metavar="RULE", help="what counts as positive: '> 6.5' or '== yes'")
def init(path: Path, table: str | None, target: str | None, positive: str | None) -> None:
    """Write a settings file with every setting explained, to PATH; - prints it.

    With --from, also a schema file, proposed from a table.
    """
    if table and str(path) == STDOUT:
        raise SettingsError("-: --from writes two files", remedy="name the settings file")
    if table and target and positive:
        from wine_drift.supply import write_proposal

        written, remarks = write_proposal(path, Path(table), target=target, positive=positive)
        for remark in remarks:
            say(f"look at this: {remark}")
        click.echo(harmless("\n".join(f"wrote {each}" for each in written)))
        return
    if (table, target, positive) != (None, None, None):
        raise SettingsError(
            "--from, --target and --positive go together",
            remedy="such as --from loans.csv --target repaid --positive '== no'",
        )
    from wine_drift.settings import settings_toml

    if str(path) == STDOUT:
        click.echo(settings_toml(), nl=False)
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(settings_toml())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", remedy="name another file") from error
    click.echo(harmless(f"wrote {path}"))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands and options, for its start-up file.

    Such as: eval "$(wine-drift completion bash)"
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None, shell
    click.echo(made(main, {}, "wine-drift", "_WINE_DRIFT_COMPLETE").source())


@main.group()
def history() -> None:
    """The past: as a table, or for a time series database that was not there."""


@history.command("list")
@takes("last", "since", "json")
def history_list(file: str | None, **options: Any) -> None:
    """Show what happened: batches, decisions, retrainings, and changes of the champion."""
    settings = _settings(file, options)
    from wine_drift.history import past
    from wine_drift.overview import past_text

    found = past(settings)
    if settings.json:
        _print_json({"events": found})
    else:
        put(past_text(found, paper()))


@history.command("export")
@takes("openmetrics", "since", "until", "step", "pipeline", "legacy_metrics", "json")
def history_export(file: str | None, **options: Any) -> None:
    """Write every metric of the past to --openmetrics FILE, with its times.

    FILE can be - for standard output.
    """
    settings = _settings(file, options)
    path = _goal(settings, "openmetrics")
    from wine_drift.history import export_history

    told = export_history(settings, path, progress=bar)
    _wrote(settings, {"path": str(path), "entries": told})


@main.command()
@takes(
    *("days", "scenario", "batch_rows", "seed", "openmetrics", "pipeline", "legacy_metrics", "json")
)
def demo(file: str | None, **options: Any) -> None:
    """Fill an empty home with a simulated past of hourly batches, to have something to look at."""
    settings = _settings(file, options)
    from wine_drift.demo import make_demo
    from wine_drift.history import export_history
    from wine_drift.report import demo_text

    path = settings.openmetrics and _goal(settings, "openmetrics", streams=False)
    story, entries = make_demo(settings, progress=bar), None
    if story is not None:
        say("SIMULATED DATA: these are not measurements of real wines")
    if path is not None and (story is not None or not path.exists()):
        entries = export_history(settings, path, progress=bar)
    found = {
        "home": str(settings.home),
        "days": settings.days,
        "changed": story is not None,
        "story": [{"at": at, "record": record} for at, record in story or ()],
        "path": path and str(path),
        "entries": entries,  # null: the file is left as it is, or there is to be none
    }
    _answer(settings, found, demo_text)


@main.command()
@takes("max_age", "json")
def health(file: str | None, **options: Any) -> None:
    """Exit with 0 if the last run ended well and not too many intervals ago, else with 7."""
    settings = _settings(file, options)
    from wine_drift.ledger import Ledger

    with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
        snapshot = ledger.snapshot()
    error, age, run = None, time.time() - snapshot.last_success, snapshot.run
    if run is None:
        error = Unhealthy(f"{settings.home}: no run yet", remedy="start `wine-drift run-batch`")
    elif not run["success"]:
        remedy = "`wine-drift status` tells what to do; the run's log has more"
        error = Unhealthy(f"the last run failed: {run['outcome']}", remedy=remedy)
    elif age > settings.max_age * run["interval"]:
        error = Unhealthy(
            f"the last success is {age:.0f} s old, more than max_age = {settings.max_age:g} times "
            f"every = {run['interval']:g} s",
            remedy=LATE,
        )
    told = {
        "healthy": error is None,
        "reason": error and str(error),
        "run": run,
        "last_success": snapshot.last_success or None,
    }
    if settings.json or error is None:
        _answer(settings, told, lambda told: f"healthy: the last success is {age:.0f} s old")
    if error is not None:
        raise error


@main.command()
@takes(
    *("data", "schema", "inbox"),
    *PUBLISHING,
    "backup_every",
    *TIMING,
    "json",
)
def doctor(file: str | None, **options: Any) -> None:
    """Look at settings, home, ledger, models, data, sinks and schedule; change nothing.

    Exits with 7 if there is a problem.
    """
    from wine_drift.diagnosis import PROBLEM, Check

    try:
        settings = _settings(file, options)
    except SettingsError as error:
        as_json = wants_json(options, os.environ, file=Path(file) if file else None)
        step = error.remedy
        checks = [Check(PROBLEM, "settings", line, step) for line in str(error).splitlines()]
    else:
        from wine_drift.doctor import examine

        as_json, checks = settings.json, list(examine(settings))
    if as_json:
        _print_json({"checks": [vars(check) for check in checks]})
    else:
        from wine_drift.overview import doctor_text

        put(doctor_text(checks, paper()))
    problems = sum(check.level == PROBLEM for check in checks)
    if problems:
        told = counted(problems, "problem", "problems")
        raise Unhealthy(told, remedy="what to do about each is told above")


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


def _run_once(settings: Settings, batch: str | None) -> tuple[int, bool]:
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
            _answer(settings, report.record, lambda record: run_text(record, paper()))
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

    with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger, ledger.still():
        champion = ledger.champion()
        return ledger.versions(), champion["version"] if champion else None, ledger.pruned()


def _goal(settings: Settings, name: str, *, kind: str = "file", streams: bool = True) -> Path:
    """What a command is to write to; `streams`: whether it can be standard output."""
    path: Path | None = getattr(settings, name)
    if path is None:
        raise SettingsError(f"no {kind} to write to", remedy=f"name one with --{name}")
    if not streams and str(path) == STDOUT:
        raise SettingsError(f"--{name} {path}: is no {kind}", remedy=f"name a {kind}")
    if streams and settings.json and is_stdout(path):
        raise SettingsError(
            f"--{name} {path} and --json: both write to standard output", remedy="leave one out"
        )
    return path


def _wrote(settings: Settings, found: Mapping[str, Any]) -> None:
    """Tell of a file, but not in the midst of what was written to standard output."""
    from wine_drift.report import written_text

    if is_stdout(Path(found["path"])):
        wipe()
    else:
        _answer(settings, found, written_text)


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
        click.echo(harmless(text(record)))
    if error is not None:
        raise error


def _finish(settings: Settings, report: Report) -> None:
    """Print what came of training or of late labels."""
    from wine_drift.report import run_text

    _answer(settings, report.record, lambda record: run_text(record, paper()), report.error)


def _print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    plain = text.replace("\n", "").isprintable()  # else it would steer a terminal
    click.echo(text if plain else json.dumps(value, indent=2))
