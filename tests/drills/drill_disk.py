"""Disks that are full, or out of names for files, or that may not be written to.

A home and its inbox lie on a small file system in memory, of which a file takes all but some pages.
With each number of pages, from none to enough, a command is run, which mostly cannot do its work.
Then there is room again, it is given once more, and everything has to be as in a home where it was
given once. Where no file system can be mounted, the disk is full from each fail point on instead.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from drill import Row
from forks import drive, driven
from homes import (
    TRAINING,
    Done,
    Goods,
    State,
    Tally,
    call,
    due,
    empty,
    exposition,
    fork,
    make_goods,
    must,
    warm,
)

from wine_drift import failpoints
from wine_drift.settings import Settings

PAGE = 4096
SIZE = 6 << 20  # bytes of the file system, of which the largest home needs a part
LONG_AGO = 100 * 86_400  # seconds; older than what `prune` keeps
# Done; done, but the push or the retraining failed; settings; the batch; the disk.
TOLD = (0, 2, 3, 4, 6, 9)
READING = (
    *(("status",), ("metrics",), ("health", "--max-age", "1000"), ("explain",)),
    *(("models", "list"), ("models", "show"), ("prune", "--dry-run")),
)


def drill(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """Take away the room that a home needs, and give it back."""
    # In a mount namespace of its own, whatever is mounted is gone with the last process in it.
    ways = [["unshare", "-m"], ["unshare", "-r", "-m"]]
    prefix = next((way for way in ways if _can_mount(way, place)), [])
    yield from driven(__file__, place, thorough=thorough, seed=seed, prefix=prefix)


def _can_mount(way: list[str], place: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    attempt = [*way, "mount", "-t", "tmpfs", "none", str(place)]
    return subprocess.run(attempt, capture_output=True, check=False).returncode == 0


def rows(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """Every fault of the disk."""
    goods = make_goods(place, seed)
    works = {work.name: work for work in _works(place, goods, thorough=thorough)}
    disk, calm = Disk(place / "disk"), Calm(place / "calm")
    if disk.mounted:
        for work in list(works.values())[: None if thorough else 3]:
            yield full(disk, work, calm, thorough=thorough)
        yield out_of_names(disk, works, calm, thorough=thorough)
        yield read_only(disk, works, calm, thorough=thorough)
        yield elsewhere(disk, works, calm, place)
    yield spoilt(place / "spoilt", works, calm, thorough=thorough, mounted=disk.mounted)
    yield forbidden(place / "rights", works, calm, thorough=thorough)
    yield nowhere(place / "nowhere", works, calm, thorough=thorough)


# --- what is to be done on a full disk ---


@dataclass(frozen=True)
class Work:
    """A command, and the folder that it begins with: home, inbox and what else it needs."""

    name: str
    start: Path
    words: tuple[str, ...]  # PLACE is the folder
    code: int = 0
    codes: tuple[int, ...] = TOLD
    again: tuple[int, ...] = (0,)  # when it was given before, and did its work

    def given(self, place: Path) -> list[str]:
        """The command for a copy of the folder."""
        words = (*self.words, "--home", "PLACE/home")
        return [word.replace("PLACE", str(place)) for word in words]

    def begin(self, place: Path) -> None:
        """Put what it begins with into a folder, and nothing else."""
        empty(place)
        shutil.copytree(self.start, place, dirs_exist_ok=True)

    def is_well(self, done: Done) -> bool:
        """Whether it was done without a word of what could not be."""
        wrong = any(words in done.err for words in ("no backup", "not moved"))
        return done.code == self.code and not wrong


Works = Mapping[str, Work]


def _works(place: Path, goods: Goods, *, thorough: bool) -> Iterator[Work]:
    """Every command that writes, each with a home in which it has something to write."""
    base = place / "homes"
    base.mkdir()
    train = ("--data", "PLACE/data.csv", *TRAINING)
    batch = ("run-batch", "--inbox", "PLACE/inbox", *train)

    def make(name: str, *sent: str, begin: Path | None = None, age: float = 0) -> Path:
        """A folder that has taken these files, one after the other."""
        folder = base / name
        if begin is not None:
            shutil.copytree(begin, folder)
        else:
            folder.mkdir()
            shutil.copy(goods.data, folder / "data.csv")
            (folder / "labels.csv").write_bytes(goods.labels)
            (folder / "inbox").mkdir()
        for file in sent:
            goods.send(folder / "inbox", file)
            must(_run(folder, age))
        return folder

    def with_file(name: str, begin: Path, *files: str) -> Path:
        """The same with files that wait."""
        folder = make(name, begin=begin)
        goods.send(folder / "inbox", *files)
        return folder

    fresh = make("fresh")
    yield Work("first training", with_file("w-first", fresh, "0.csv"), batch)
    one = make("one", "0.csv")
    yield Work("a batch", with_file("w-batch", one, "1.csv"), batch)
    flipped = make("flipped", "flip-0.csv", begin=one)
    yield Work("a promotion", with_file("w-promotion", flipped, "flip-1.csv"), batch)
    late_backup = with_file("w-due", one, "1.csv")
    due(late_backup / "home")
    yield Work("a backup that is due", late_backup, batch)
    yield Work("a bad file", with_file("w-bad", one, "bad.csv"), batch, code=3)
    if not thorough:
        return
    yield Work("rows set aside", with_file("w-aside", one, "some-bad.csv"), batch)
    late = make("w-late", "no-labels.csv", begin=one)
    yield Work(
        "late labels", late, ("add-labels", "2", "PLACE/labels.csv", *TRAINING), again=(0, 3)
    )
    promoted = make("promoted", "flip-1.csv", begin=flipped)
    yield Work("a rollback", promoted, ("models", "rollback"), again=(0, 2))
    old = make("w-prune", "0.csv", "1.csv", "bad.csv", "2.csv", age=LONG_AGO)
    goods.send(old / "inbox", "3.csv")
    due(old / "home")
    must(call(*Work("", old, batch).given(old)))
    _make_room(old / "home")
    yield Work("prune", old, ("prune",))
    broken = with_file("w-repair", flipped)
    with (broken / "home" / "ledger.sqlite").open("r+b") as file:
        file.seek(3 * PAGE)
        file.write(b"\xff" * PAGE)
    shutil.rmtree(next((broken / "home" / "models").iterdir()))
    yield Work("repair", broken, ("repair", "--inbox", "PLACE/inbox"))


def _run(folder: Path, age: float = 0) -> Done:
    """One run as of some seconds ago."""
    from wine_drift.run import run_batch

    settings = Settings(
        home=folder / "home",
        inbox=folder / "inbox",
        data=folder / "data.csv",
        rounds=5,
        threads=1,
    )
    return fork(lambda: run_batch(settings, now=lambda: time.time() - age))


def _make_room(home: Path) -> None:
    """Let so much of a ledger be empty that `prune` writes it anew."""
    with closing(sqlite3.connect(home / "ledger.sqlite")) as ledger:
        ledger.execute("CREATE TABLE padding (x BLOB)")
        ledger.executemany("INSERT INTO padding VALUES (zeroblob(4000))", [()] * 60)
        ledger.commit()
        ledger.execute("DROP TABLE padding")
        ledger.commit()


# --- a small file system ---


class Disk:
    """A file system in memory, and a file in it that takes what is not to be had."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.place, self.filler = place, place / "filler"
        self.mounted = self._mount(f"size={SIZE}", "nr_inodes=4096")

    def _mount(self, *options: str) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(self.place)]
        try:
            return subprocess.run(words, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            return False

    def mode(self, options: str) -> None:
        """Mount it again, otherwise."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.place)], check=True)

    def fill(self, free: int) -> None:
        """Leave so many bytes free; each page of a file, and no file's name, takes some of them."""
        with self.filler.open("wb") as file:
            found = os.fstatvfs(file.fileno())
            taken = found.f_bavail * found.f_frsize - free
            if taken < 0:
                raise RuntimeError("the file system is too small")
            if taken:
                os.posix_fallocate(file.fileno(), 0, taken)

    def use_names(self, free: int) -> None:
        """Leave so many names for new files."""
        folder = self.place / "names"
        folder.mkdir()
        first = folder / "first"
        first.touch()
        for number in range(os.statvfs(self.place).f_ffree - free):
            os.mknod(folder / str(number))

    def room(self) -> None:
        """Take away what took the room."""
        self.filler.unlink(missing_ok=True)
        shutil.rmtree(self.place / "names", ignore_errors=True)


@dataclass
class Calm:
    """What each work comes to if nobody disturbs it."""

    place: Path
    known: dict[str, State] = field(default_factory=dict)

    def __call__(self, work: Work) -> State:
        """Work it out once."""
        if work.name not in self.known:
            folder = self.place / work.name
            shutil.copytree(work.start, folder)
            done = call(*work.given(folder))
            if done.code != work.code or done.traceback:
                raise RuntimeError(str(done))
            self.known[work.name] = State.of(folder / "home", folder / "inbox")
        return self.known[work.name]


def once_more(
    tally: Tally, calm: Calm, work: Work, place: Path, about: str, before: Done | None = None
) -> None:
    """With room again: the same command, and everything is as if it had been given once."""
    home = place / "home"
    done = call(*work.given(place))
    tally.look(done, (work.code, *work.again), about=f"{about}: then ")
    if before is not None and before.code == 4:  # done, and not published
        tally.look(call("push", "--home", home), (0,), about=f"{about}: then ")
    failed = before is not None and before.code == 9  # done, and retraining is to be tried again
    if failed:
        tally.look(call("train", "--home", home, *TRAINING), (0, 9), about=f"{about}: then ")
    found = State.of(home, place / "inbox")
    tally.compare(found, calm(work), exact=not failed, about=f"{about}: ")
    textfile = home / "metrics" / "wine_drift.prom"
    if work.words[0] != "prune":  # which publishes nothing
        same = textfile.read_text(encoding="utf-8") == found.text
        tally.expect(same, f"{about}: the textfile is not what `metrics` prints")


def left_behind(tally: Tally, home: Path, about: str) -> None:
    """A command that failed for want of room must not keep some of it."""
    left = [path for path in home.rglob(".*.part")]
    tally.expect(not left, f"{about}: it left {[str(path.relative_to(home)) for path in left]}")


def told(tally: Tally, done: Done, about: str, *, place: Path) -> None:
    """The error names a file, and why."""
    if done.code in (2, 4, 6, 9):
        named = str(place) in done.err
        tally.expect(named, f"{about}: it names no file: {done}")


def attempt(tally: Tally, calm: Calm, work: Work, disk: Disk, about: str) -> bool:
    """A command that may want for room, and the same with room; whether the first was well."""
    done = call(*work.given(disk.place))
    tally.look(done, work.codes, about=f"{about}: ")
    told(tally, done, about, place=disk.place)
    left_behind(tally, disk.place / "home", about)
    disk.room()
    well = work.is_well(done)
    tally.tried += not well
    once_more(tally, calm, work, disk.place, about, done)
    return well


# --- rows ---


def full(disk: Disk, work: Work, calm: Calm, *, thorough: bool) -> Row:
    """From no room at all to enough of it."""
    tally = Tally(f"full disk: {work.name}")
    step = _enough(disk, work) // 18 // PAGE * PAGE or PAGE if thorough else 24 * PAGE
    free, well = 0, 0
    while well < 2 and free < (SIZE // 2 if thorough else 2 * step):
        work.begin(disk.place)
        disk.fill(free)
        well += attempt(tally, calm, work, disk, f"{free // PAGE} pages free")
        free += step
    return tally.row()


def _enough(disk: Disk, work: Work) -> int:
    """Bytes with which a work is done without a word, up to a factor of two."""
    free = 8 * PAGE
    while free < SIZE // 2:
        work.begin(disk.place)
        disk.fill(free)
        if work.is_well(call(*work.given(disk.place))):
            break
        free *= 2
    return free


def out_of_names(disk: Disk, works: Works, calm: Calm, *, thorough: bool) -> Row:
    """Room, but no more files: from none to as many as are needed."""
    tally = Tally("no more files (inodes)")
    names = ("first training", "a batch", "a promotion", "repair")
    for work in [works[name] for name in names[: 4 if thorough else 1]]:
        free, well = 0 if thorough else 2, False
        while not well and free < (40 if thorough else 14):
            work.begin(disk.place)
            disk.use_names(free)
            well = attempt(tally, calm, work, disk, f"{work.name}, {free} more files")
            free += 1 if thorough else 6
    return tally.row()


def read_only(disk: Disk, works: Works, calm: Calm, *, thorough: bool) -> Row:
    """A file system that is suddenly read-only; what only reads goes on as before."""
    tally = Tally("read-only file system, between two runs")
    for work in works.values() if thorough else [works["a batch"]]:
        work.begin(disk.place)
        home = disk.place / "home"
        whole = work.name not in ("first training", "repair")
        before = exposition(home) if whole else ""
        disk.mode("ro")
        with ExitStack() as stack:
            stack.callback(disk.mode, "rw")
            done = call(*work.given(disk.place))
            tally.tried += 1
            tally.look(done, (2, 6), about=f"{work.name}: ")
            told(tally, done, work.name, place=disk.place)
            if whole:
                tally.expect(exposition(home) == before, f"{work.name}: other figures")
                for words in READING if thorough else READING[::3]:
                    tally.tried += 1
                    tally.look(call(*words, "--home", home), (0, 7), about=f"{work.name}: ")
                if work.words[0] == "run-batch":
                    tried = call(*work.given(disk.place), "--dry-run")
                    tally.look(tried, (work.code,), about=f"{work.name}: ")
        once_more(tally, calm, work, disk.place, work.name)
    return tally.row()


def elsewhere(disk: Disk, works: Works, calm: Calm, place: Path) -> Row:
    """Full is the disk of something that is not the home: the textfile, the log, the backups."""
    tally = Tally("full disk of textfile, log or backups only")
    work = works["a backup that is due"]
    for name in ("textfile", "log", "backups"):
        folder = place / f"elsewhere-{name}"
        shutil.copytree(work.start, folder)
        empty(disk.place)
        more: list[str] = []
        if name == "textfile":
            (disk.place / "a.prom").write_text("old\n")
            more = ["--textfile", str(disk.place / "a.prom")]
        elif name == "log":
            more = ["--log-file", str(disk.place / "log")]
        else:
            shutil.copytree(folder / "home" / "backups", disk.place, dirs_exist_ok=True)
            shutil.rmtree(folder / "home" / "backups")
            (folder / "home" / "backups").symlink_to(disk.place)
        disk.fill(0)
        tally.tried += 1
        done = call(*work.given(folder), *more)
        tally.look(done, (4,) if name == "textfile" else (0,), about=f"{name}: ")
        words = {"textfile": "cannot be written", "log": "log_file", "backups": "no backup"}[name]
        tally.expect(words in done.err, f"{name}: it is not told: {done}")
        if name == "textfile":
            tally.expect((disk.place / "a.prom").read_text() == "old\n", "the old textfile is gone")
        left_behind(tally, disk.place, name)
        disk.room()
        once_more(tally, calm, work, folder, name)
    return tally.row()


def spoilt(place: Path, works: Works, calm: Calm, *, thorough: bool, mounted: bool) -> Row:
    """The disk is full, or fails, from each fail point on, until the command ends."""
    why = "" if mounted else ", for want of a small file system"
    tally = Tally(f"disk fails from each fail point on{why}")
    place.mkdir()
    chosen = works.values() if thorough else (works["a promotion"], works["a backup that is due"])
    for number, work in enumerate(chosen):
        points = _points(place, work)
        step = 1 if thorough else max(1, len(points) // 2)
        for at in range(number % step, len(points), step):
            code = (errno.ENOSPC, errno.EIO)[at % 2]
            work.begin(place)
            done = call(*work.given(place), first=_failing(at, code))
            about = f"{work.name}, {points[at]} ({at}), {errno.errorcode[code]}"
            tally.tried += 1
            tally.look(done, work.codes, about=f"{about}: ")
            left_behind(tally, place / "home", about)
            once_more(tally, calm, work, place, about, done)
    return tally.row()


def _points(place: Path, work: Work) -> list[str]:
    """Moments of an undisturbed command at which something is to be written."""
    work.begin(place)
    told = place / "points"

    def listen() -> None:
        def note(name: str) -> None:
            if _writes(name):
                with told.open("a", encoding="utf-8") as file:
                    file.write(f"{name}\n")

        failpoints.hook = note

    call(*work.given(place), first=listen)
    return told.read_text(encoding="utf-8").splitlines()


def _writes(name: str) -> bool:
    """Whether something is to be written next: afterwards it is too late to fail."""
    return not name.endswith((": done", ": moved", ": committed", ": take"))


def _failing(at: int, code: int) -> Callable[[], None]:
    """From that moment on, nothing can be written."""

    def begin() -> None:
        seen = iter(range(1 << 30))

        def fail(name: str) -> None:
            if _writes(name) and next(seen) >= at:
                raise OSError(code, os.strerror(code))

        failpoints.hook = fail

    return begin


def forbidden(place: Path, works: Works, calm: Calm, *, thorough: bool) -> Row:
    """Files and folders of which the rights are missing, also for who is root here."""
    tally = Tally("missing rights")
    place.mkdir()
    batch, bad = works["a batch"], works["a bad file"]
    cases: list[tuple[Work, str, int, tuple[int, ...]]] = [
        (batch, "home", 0o500, (2, 6)),
        (batch, "home", 0o000, (2, 6)),
        (batch, "home/run.lock", 0o000, (2,)),
        (batch, "home/ledger.sqlite", 0o400, (6,)),
        (batch, "home/ledger.sqlite", 0o000, (6,)),
        (batch, "home/models", 0o000, (6,)),
        (batch, "home/backups", 0o000, (0, 6)),
        (batch, "home/archive", 0o500, (0,)),
        (batch, "home/metrics", 0o500, (4,)),
        (batch, "inbox", 0o500, (0,)),
        (batch, "inbox", 0o000, (2,)),
        (batch, "inbox/1.csv", 0o000, (0,)),
        (bad, "inbox", 0o500, (3,)),
        (bad, "home", 0o500, (2, 6)),
    ]
    for work, name, mode, codes in cases if thorough else cases[::4]:
        work.begin(place)
        target, about = place / name, f"{work.name}, {name} {mode:o}"
        usual = target.stat().st_mode
        target.chmod(mode)
        try:
            for again in range(2 if thorough else 1):
                done = call(*work.given(place), first=as_anybody)
                tally.tried += 1
                # a file that stays in the inbox is known the second time, and nothing else waits
                tally.look(done, codes if not again else (*codes, 0), about=f"{about}: ")
            told(tally, done, about, place=place)
            for words in READING[:2] if thorough else ():
                tally.look(
                    call(*words, "--home", place / "home", first=as_anybody),
                    (0, 6),
                    about=f"{about}: ",
                )
        finally:
            target.chmod(usual)
        once_more(tally, calm, work, place, about)
    return tally.row()


def as_anybody() -> None:
    """From now on the rights of files hold for this process, too, whoever it is."""

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    nothing = (ctypes.c_uint32 * 6)()
    header = Header(0x20080522, 0)  # version 3 of the interface, this process
    if ctypes.CDLL(None, use_errno=True).capset(ctypes.byref(header), nothing):
        raise OSError(ctypes.get_errno(), "capset")


def nowhere(place: Path, works: Works, calm: Calm, *, thorough: bool) -> Row:
    """Output that goes nowhere, and folders that cannot be: /dev/full, a file for a folder."""
    tally = Tally("/dev/full, and files in the place of folders")
    place.mkdir()
    batch = works["a batch"]
    full = Path("/dev/full")
    cases: list[tuple[str, list[str], Path | None, tuple[int, ...]]] = [
        ("log file", ["--log-file", str(full)], None, (0,)),
        ("stdout", [], full, (0,)),
        ("stdout as JSON", ["--json"], full, (0,)),
        ("log file is a folder", ["--log-file", "PLACE/inbox"], None, (0,)),
        ("textfile in a file", ["--textfile", "PLACE/data.csv/a.prom"], None, (4,)),
        ("textfile is a folder", ["--textfile", "PLACE/a.prom"], None, (4,)),
    ]
    for about, more, stdout, codes in cases if thorough else cases[:2]:
        batch.begin(place)
        (place / "a.prom").mkdir()
        words = [word.replace("PLACE", str(place)) for word in more]
        done = call(*batch.given(place), *words, stdout=stdout)
        tally.tried += 1
        tally.look(done, codes, about=f"{about}: ")
        once_more(tally, calm, batch, place, about)
    batch.begin(place)
    for printing in READING if thorough else READING[:1]:
        done = call(*printing, "--home", place / "home", stdout=full)
        tally.tried += 1
        tally.look(done, (6,), about=f"{printing} to /dev/full: ")
    for name in ("archive", "quarantine", "metrics", "backups", "models")[: 5 if thorough else 1]:
        batch.begin(place)
        folder = place / "home" / name
        kept = place / "kept"
        if folder.exists():
            folder.rename(kept)
        folder.write_text("in the way")
        done = call(*batch.given(place))
        tally.tried += 1
        codes = {"metrics": (4,), "models": (6,)}.get(name, (0, 6))
        tally.look(done, codes, about=f"{name} is a file: ")
        folder.unlink()
        if kept.exists():
            kept.rename(folder)
        once_more(tally, calm, batch, place, f"{name} is a file")
    home = place / "file"
    home.write_text("in the way")
    done = call("run-batch", "--home", home, "--inbox", place / "inbox", *TRAINING)
    tally.tried += 1
    tally.look(done, (2, 6), about="home is a file: ")
    return tally.row()


if __name__ == "__main__":
    warm()
    drive(rows)
