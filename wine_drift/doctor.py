"""Looks at everything around a home, and changes nothing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from wine_drift.batches import passed_over, waiting
from wine_drift.dataset import find_table, load_schema
from wine_drift.diagnosis import (
    NOTE,
    OK,
    PROBLEM,
    Check,
    Entry,
    of_backup,
    of_gateway,
    of_home,
    of_inbox,
    of_packages,
    of_schedule,
)
from wine_drift.errors import SettingsError, WineDriftError
from wine_drift.home import models_place
from wine_drift.ledger import LEDGER, Ledger
from wine_drift.outbox import JOB, gateway_of, textfile
from wine_drift.publishing import groups
from wine_drift.settings import Settings
from wine_drift.shelf import is_sound, restore_remedy
from wine_drift.standing import Standing, standing
from wine_drift.tables import SUFFIXES


def examine(settings: Settings) -> Iterator[Check]:
    """Look at one thing after the other; nothing is changed, and no lock is taken.

    The ledger is read for a moment only: `wine-drift repair` is what reads all of it.
    """
    yield Check(OK, "settings", "no mistakes")
    yield from of_versions()
    yield from _home(settings)
    if _is_shut(settings.home):
        return  # all else is in there, and only this would be told again
    yield from _seen("sinks", _sinks(settings))
    yield from _seen("ledger", _inside(settings))


def _seen(subject: str, checks: Iterator[Check]) -> Iterator[Check]:
    """Findings as far as the system lets us look."""
    try:
        yield from checks
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        told = f"{place}{error.strerror or error}"
        yield Check(PROBLEM, subject, told, "run as the one who runs the job, or give the right")


def _inside(settings: Settings) -> Iterator[Check]:
    """Ledger, backup, models, schedule and data."""
    try:
        if not Ledger.exists(settings.home, settings.ledger):
            told = "there is none yet; the first run makes it"
            yield Check(NOTE, "ledger", told, "is it the right --home? `wine-drift run-batch`")
            known = None
        else:
            known = standing(settings, now=time.time())
            yield Check(OK, "ledger", "its schema is of this release, and it can be read")
    except WineDriftError as error:
        known = None
        yield Check(PROBLEM, "ledger", str(error), error.remedy)
    if known is not None:
        yield from _seen("backup", _backup(settings, known))
        yield from _seen("models", _models(settings))
        yield from of_schedule(known.verdict, known.snapshot.run, settings.schedule)
    yield from _seen("data", _data(settings, known))


def of_versions() -> Iterator[Check]:
    """Python and the packages."""
    needed = requires("wine-drift") or []
    installed = {}
    for requirement in needed:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name)
    yield from of_packages(tuple(sys.version_info[:3]), needed, installed)


def _home(settings: Settings) -> Iterator[Check]:
    home = settings.home
    try:
        mode = stat.S_IMODE(home.stat().st_mode)
        with os.scandir(home) as found:
            entries = [
                Entry(entry.name, stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode))
                for entry in found
            ]
        ledger = home / LEDGER
        yield from of_home(
            str(home),
            entries,
            mode=mode,
            writable=os.access(home, os.W_OK | os.X_OK),
            free=shutil.disk_usage(home).free,
            ledger=ledger.stat().st_size if ledger.is_file() else 0,
        )
    except FileNotFoundError:
        yield Check(NOTE, "home", f"{home}: not there yet", "the first run makes it")
    except OSError as error:
        yield Check(PROBLEM, "home", f"{home}: {error.strerror}", "name a folder, and be its owner")


def _is_shut(home: Path) -> bool:
    """Whether it cannot be looked into; what is not there can."""
    try:
        with os.scandir(home):
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _backup(settings: Settings, known: Standing) -> Iterator[Check]:
    if settings.ledger is not None:
        yield Check(NOTE, "backup", "those of a PostgreSQL are its own", "see that it makes some")
        return
    made = Ledger.backed_up_at(settings.home)
    every, batches = settings.backup_every, bool(known.records)
    yield of_backup(made, now=time.time(), every=every, batches=batches)


def _models(settings: Settings) -> Iterator[Check]:
    """Each version whose files are kept is read, and compared with its hashes."""
    try:
        place = models_place(settings)
        with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
            pruned = ledger.pruned()
            kept = [each for each in ledger.versions() if each["version"] not in pruned]
            champion = (ledger.champion() or {}).get("version")
        sound = 0
        for manifest in kept:
            if is_sound(place, manifest):
                sound += 1
                continue
            serves = "; it serves" if manifest["version"] == champion else ""
            told = f"{manifest['version']}: damaged or not there{serves}"
            yield Check(PROBLEM, "models", told, restore_remedy(manifest))
        if kept and sound == len(kept):
            yield Check(OK, "models", f"as they were written: {sound}")
        if not kept:
            yield Check(
                NOTE, "models", "none yet", "the first run, or `wine-drift train`, makes one"
            )
    except WineDriftError as error:
        yield Check(PROBLEM, "models", str(error), error.remedy)


def _data(settings: Settings, known: Standing | None) -> Iterator[Check]:
    """The table, the schema and the inbox."""
    try:
        load_schema(settings.schema)
        table = find_table(settings.data, settings.home)
        if table is not None and not os.access(table, os.R_OK):
            yield Check(PROBLEM, "data", f"{table}: cannot be read", "give its reader the right")
        elif table is not None:
            yield Check(OK, "data", f"{table}: can be read")
        if settings.inbox is not None:
            yield from _inbox(settings, settings.inbox, known)
    except WineDriftError as error:
        yield Check(PROBLEM, "data", str(error), error.remedy)


def _inbox(settings: Settings, inbox: Path, known: Standing | None) -> Iterator[Check]:
    files, now = waiting(inbox, SUFFIXES), time.time()
    if not os.access(inbox, os.R_OK | os.W_OK | os.X_OK):
        step = "let the job write there: files that are done move to the archive"
        yield Check(PROBLEM, "inbox", f"{inbox}: cannot be read and written", step)
    oldest = None
    with contextlib.suppress(OSError):  # a run takes it just now
        oldest = now - files[0].stat().st_mtime if files else None
    strange = [path.name for path in passed_over(inbox, SUFFIXES, after=0, before=now)]
    run = known.snapshot.run if known is not None else None
    interval = run["interval"] if run is not None else settings.timetable.longest_gap
    yield from of_inbox(str(inbox), len(files), oldest, strange, interval=interval)


def _sinks(settings: Settings) -> Iterator[Check]:
    """Where the metrics go. The gateway is asked before the ledger: a run may end in between."""
    secret = settings.password_file
    if secret is not None:
        with contextlib.suppress(OSError):  # told below
            if stat.S_IMODE(secret.stat().st_mode) & 0o077:
                told = f"password_file {secret}: others can read it, or write to it"
                yield Check(PROBLEM, "gateway", told, "chmod 600 it")
    gateway = gateway_of(settings)
    if gateway is not None:
        try:
            found = groups(gateway)
            with Ledger.open(settings.home, settings.ledger, read_only=True) as ledger:
                run = ledger.last_run()
            ended = None if run is None else run["finished_at"]
            names = {"job": JOB, "pipeline": settings.pipeline}
            yield of_gateway(gateway.url, found, **names, last_run=ended)
        except SettingsError as error:
            yield Check(PROBLEM, "ledger", str(error), error.remedy)
        except WineDriftError as error:
            yield Check(PROBLEM, "gateway", str(error), error.remedy)
    path = textfile(settings)
    if path is not None:
        folder = next(each for each in path.parents if each.exists())
        if os.access(folder, os.W_OK | os.X_OK):
            yield Check(OK, "textfile", f"{path}: can be written")
        else:
            told = f"{path}: {folder} cannot be written to"
            yield Check(PROBLEM, "textfile", told, "let the job write there, or set `textfile`")
