"""Models and ledgers that are damaged: told by each command that needs them, and repaired.

A home has taken files, with a backup of its ledger in between. Then a file of it is torn, emptied,
overwritten, exchanged or gone. Each command either does what it does in a sound home, or says with
exit code 6 what is wrong; `wine-drift repair` puts back what it can and says what was lost, and
when the files that it gave back have been taken again, everything is as if nothing had happened.

Pages of the ledger are overwritten as a whole, as by a disk that loses writes. What nobody can see
is left out: a number in a sound page that has become another one, as SQLite keeps no checksums. So
of sectors within pages only this is asked: no traceback, and nothing fails any more after a repair
that found all well.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

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
    exposition,
    make_goods,
    must,
    remove,
    warm,
)

from wine_drift.errors import StateUnreadable

PAGE, SECTOR = 4096, 512
BEFORE, BETWEEN = ("0.csv",), ("bad.csv", "1.csv")  # known to the older backup, to the newest
AFTER = ("no-labels.csv", "2.csv", "some-bad.csv")  # taken later
NEXT = "3.csv"  # waits in the inbox
STREAM = ("--source", "simulated", "--batch-rows", "60", *TRAINING)
# Commands that read, with what they print when they are asked again.
READING = (("status", "--json"), ("models", "list", "--json"), ("explain", "--json"))
COMMANDS = (
    *(("run-batch",), ("add-labels", "4", "LABELS"), ("train",), ("push",), ("metrics",)),
    *(("status",), ("explain",), ("health",), ("models", "list"), ("models", "rollback")),
    *(("models", "prune"), ("prune",), ("prune", "--dry-run"), ("repair",), ("selftest", "null")),
    *(("models", "show"), ("models", "diff"), ("run-batch", "--dry-run")),
)


def drill(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """Damage a home in many ways, and have it repaired."""
    yield from driven(__file__, place, thorough=thorough, seed=seed)


def rows(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """Every kind of damage."""
    rng = random.Random(seed)
    story = Story.told(place, make_goods(place, seed))
    yield models(place / "models", story, rng, thorough=thorough)
    for fault, damages in (
        ("ledger: pages overwritten", pages),
        ("ledger: cut short", cuts),
        ("ledger: header, exchanged, gone", exchanges),
        ("ledger: texts and rows destroyed in sound pages", texts),
        ("ledger: a leftover journal of another one", journals),
    ):
        yield ledger(place / "ledger", story, fault, damages(story, rng, thorough=thorough))
    yield sectors(place / "sectors", story, rng, n=100 if thorough else 2)
    yield newer(place / "newer", story, thorough=thorough)
    yield backups(place / "backups", story)
    yield stream(place / "stream", rng, n=6 if thorough else 1)


# --- the home that is damaged ---


@dataclass(frozen=True)
class Story:
    """A home, and what it comes to when nobody damages it."""

    start: Path  # with home, inbox, table and labels
    promoted: Path  # the same, with a second version
    calm: Mapping[Path, State]  # of both, once the file that waits was taken
    text: str  # exposition of `start`
    heard: Mapping[tuple[str, ...], str]  # what commands print there
    after: Mapping[int, Mapping[str, str]]  # batch ids by file, since each backup
    own: bytes  # the ledger, as it was left by another seed

    @classmethod
    def told(cls, place: Path, goods: Goods) -> Story:
        """Let it happen."""
        start = place / "start"
        start.mkdir()
        shutil.copy(goods.data, start / "data.csv")
        (start / "labels.csv").write_bytes(goods.labels)
        home, inbox = start / "home", start / "inbox"
        for part in (BEFORE, BETWEEN, AFTER):
            goods.send(inbox, *part)
            must(call(*batch(start), "--drain"))
            if part != AFTER:
                due(home)
                must(call("push", "--home", home))
        after = {1: _ids(home, AFTER), 2: _ids(home, (*BETWEEN, *AFTER))}
        promoted = _copy(start, place / "promoted")
        goods.send(promoted / "inbox", "flip-0.csv", "flip-1.csv")
        must(call(*batch(promoted), "--drain"))
        calm = {}
        for folder in (start, promoted):
            goods.send(folder / "inbox", NEXT)
            copy = _copy(folder, place / f"calm-{folder.name}")
            must(call(*batch(copy)))
            calm[folder] = State.of(copy / "home", copy / "inbox")
        other = _copy(start, place / "other")
        must(call("push", "--home", other / "home"))
        heard: dict[tuple[str, ...], str] = {}
        heard |= {words: timeless(call(*words, "--home", home).out) for words in READING}
        own = (other / "home" / "ledger.sqlite").read_bytes()
        return cls(start, promoted, calm, exposition(home), heard, after, own)

    def copy(self, place: Path, *, promoted: bool = False) -> Path:
        """A folder of one's own to damage."""
        shutil.rmtree(place, ignore_errors=True)
        return _copy(self.promoted if promoted else self.start, place)

    @property
    def size(self) -> int:
        """Bytes of the ledger."""
        return (self.start / "home" / "ledger.sqlite").stat().st_size


def batch(place: Path) -> list[str]:
    """The command that takes files."""
    return [
        *("run-batch", "--home", str(place / "home"), "--inbox", str(place / "inbox")),
        *("--data", str(place / "data.csv"), *TRAINING),
        *("--every", "20d"),  # else `status` tells after a while how late the next run is
    ]


def repair(place: Path) -> Done:
    """The command that repairs."""
    return call("repair", "--home", place / "home", "--inbox", place / "inbox", "--json")


def _copy(start: Path, place: Path) -> Path:
    return Path(shutil.copytree(start, place, symlinks=True))


def _ids(home: Path, names: tuple[str, ...]) -> dict[str, str]:
    kept = [path.name for part in ("archive", "quarantine") for path in (home / part).iterdir()]
    return {name[13:]: name[:12] for name in kept if name[13:] in names}


# --- models ---


def models(place: Path, story: Story, rng: random.Random, *, thorough: bool) -> Row:
    """Every file of the champion, damaged in every way: told, put back, or rolled back."""
    tally = Tally("model: each file torn, flipped, gone, exchanged")
    (champion,) = [path.name for path in (story.start / "home" / "models").iterdir()]
    cases = list(_model_damages(story.start / "home" / "models" / champion, rng))
    for about, damage in cases if thorough else rng.sample(cases, 3):
        folder = story.copy(place)
        damage(folder / "home" / "models" / champion)
        tally.tried += 1
        refused(tally, folder, about)
        done = repair(folder)
        if tally.look(done, (0,), about=f"{about}: "):
            told = json.loads(done.out)
            tally.expect(told["versions"] == [champion], f"{about}: put back {told['versions']}")
            tally.expect(not told["lost"], f"{about}: lost {told['lost']}")
        settle(tally, folder, story.calm[story.start], about)
    # No copy is left: the parent serves instead.
    names = ("model.txt", "rows.npy.z") if thorough else ("reference.json",)
    for name in names:
        folder = story.copy(place, promoted=True)
        home = folder / "home"
        (second,) = (path.name for path in (home / "models").iterdir() if path.name != champion)
        (home / "models" / second / name).write_bytes(b"torn")
        shutil.rmtree(home / "backups" / second)
        tally.tried += 1
        refused(tally, folder, name)
        done = repair(folder)
        tally.look(done, (6,), about=f"{name}, no copy: ")
        tally.expect(second in done.err and "rollback" in done.err, f"{name}: not told: {done}")
        tally.look(call("models", "rollback", "--home", home), (0,), about=f"{name}: ")
        tally.look(call(*batch(folder)), (0,), about=f"{name}: rolled back: ")
        tally.compare(
            State.of(home, folder / "inbox"),
            story.calm[story.promoted],
            exact=False,
            about=f"{name}: rolled back: ",
        )
    return tally.row()


def _model_damages(
    version: Path, rng: random.Random
) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """What can happen to the files of a version; the manifest is the ledger's own."""
    for name in sorted(path.name for path in version.iterdir() if path.name != "manifest.json"):
        size = (version / name).stat().st_size
        for length in (1, size - 1, *(rng.randrange(2, size) for _ in range(2))):
            yield f"{name} torn at {length}", _on(name, partial(os.truncate, length=length))
        for bit in (rng.randrange(8 * size) for _ in range(2)):
            yield f"{name}, bit {bit} flipped", _on(name, partial(_flip, bit=bit))
        yield f"{name} empty", _on(name, lambda path: os.truncate(path, 0))
        yield f"{name} gone", _on(name, lambda path: path.unlink())
        yield f"{name} a folder", _on(name, _make_folder)
        yield f"{name} a loop of links", _on(name, _make_loop)
    yield "the folder gone", shutil.rmtree
    yield "the folder a file", _make_file
    yield "the folder a loop of links", _make_loop
    yield "all of them gone", lambda path: shutil.rmtree(path.parent)


def _on(name: str, damage: Callable[[Path], object]) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        damage(folder / name)

    return do


def _flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def _make_folder(path: Path) -> None:
    remove(path)
    path.mkdir()
    (path / "something").write_text("in the way")


def _make_file(path: Path) -> None:
    remove(path)
    path.write_text("in the way")


def _make_loop(path: Path) -> None:
    remove(path)
    path.symlink_to(path)


def refused(tally: Tally, folder: Path, about: str) -> None:
    """A run says what is wrong and how to put it right, and leaves the batch where it is."""
    done = call(*batch(folder))
    if tally.look(done, (6,), about=f"{about}: "):
        tally.expect("wine-drift repair" in done.err, f"{about}: no way out: {done}")
    tally.expect((folder / "inbox" / NEXT).is_file(), f"{about}: the batch is gone")


def settle(tally: Tally, folder: Path, calm: State, about: str) -> None:
    """After a repair all that was given back is taken again, and all is as if nothing had been."""
    done = call(*batch(folder), "--drain")
    tally.look(done, (0, 3), about=f"{about}: then ")
    try:
        found = State.of(folder / "home", folder / "inbox")
    except Exception as error:
        tally.broken.append(f"{about}: cannot be read after the repair: {error!r}")
        tally.lost += len(calm.batches)
        return
    tally.compare(found, calm, about=f"{about}: ")
    again = repair(folder)
    if tally.look(again, (0,), about=f"{about}: again "):
        tally.expect(json.loads(again.out)["outcome"] == "sound", f"{about}: not sound: {again}")


# --- ledgers ---

Damage = tuple[str, Callable[[Path], object]]  # its name, and what it does to a home


def ledger(place: Path, story: Story, fault: str, damages: Iterator[Damage]) -> Row:
    """Damages to the ledger: each command works as ever or tells; then all is put right."""
    tally = Tally(fault)
    for about, damage in damages:
        folder = story.copy(place)
        damage(folder / "home")
        tally.tried += 1
        honest(tally, folder, story, about)
        done = call(*batch(folder))
        tally.look(done, (0, 6), about=f"{about}: ")
        done = repair(folder)
        if tally.look(done, (0,), about=f"{about}: "):
            truthful(tally, json.loads(done.out), story, about)
        settle(tally, folder, story.calm[story.start], about)
    return tally.row()


def timeless(told: str) -> str:
    """What a command tells, but for how long ago something was."""
    return re.sub(r"\b[\d.]+ (min|h|days)\b", "some time", told)


def honest(tally: Tally, folder: Path, story: Story, about: str) -> None:
    """Commands that read print what they print in a sound home, or say that they cannot."""
    try:
        same = exposition(folder / "home") == story.text
        tally.expect(same, f"{about}: other figures, and no word")
    except StateUnreadable:
        pass
    except Exception as error:
        tally.tracebacks += 1
        tally.broken.append(f"{about}: metrics: {error!r}")
    for words in READING:
        done = call(*words, "--home", folder / "home")
        if tally.look(done, (0, 6), about=f"{about}: ") and done.code == 0:
            same = timeless(done.out) == story.heard[words]
            tally.expect(same, f"{about}: {words} tell otherwise")


def truthful(tally: Tally, told: Mapping[str, Any], story: Story, about: str) -> None:
    """What a repair says is lost is what was lost, and what it says came back did."""
    if told["outcome"] == "sound" or told["problem"] is None:
        tally.expect(not told["lost"] and not told["returned"], f"{about}: {told}")
        return
    returned = {Path(name).name for name in told["returned"]}
    number = next((n for n in (1, 2) if returned >= set(story.after[n]) - {NEXT}), None)
    tally.expect(number is not None, f"{about}: only {sorted(returned)} came back")
    if number is None or not told["known"]:
        return
    lost = {each["id"] for each in told["lost"]}
    true = set(story.after[number].values())
    newer = {
        each["id"] for each in told["lost"] if each["sequence"] > len(BEFORE + BETWEEN + AFTER)
    }
    tally.expect(lost - newer == true, f"{about}: says {sorted(lost)} are lost, not {sorted(true)}")


def pages(story: Story, rng: random.Random, *, thorough: bool) -> Iterator[Damage]:
    """Each page, with noise or with zeros."""
    n_pages = story.size // PAGE
    chosen = [(number, rng.choice(("noise", "zeros"))) for number in range(n_pages)]
    for number, kind in chosen if thorough else rng.sample(chosen, 3):
        page = bytes(PAGE) if kind == "zeros" else rng.randbytes(PAGE)
        yield f"page {number} of {n_pages}: {kind}", overwrite(page, number * PAGE)


def overwrite(content: bytes, at: int) -> Callable[[Path], None]:
    """Write bytes over those of a ledger."""

    def do(home: Path) -> None:
        with (home / "ledger.sqlite").open("r+b") as file:
            file.seek(at)
            file.write(content)

    return do


def cuts(story: Story, rng: random.Random, *, thorough: bool) -> Iterator[Damage]:
    """Lengths from nothing up."""
    lengths = [0, 1, 99, 100, 512, PAGE, story.size - PAGE, story.size - 1]
    lengths += [rng.randrange(story.size) for _ in range(12)]
    for length in lengths if thorough else rng.sample(lengths, 2):
        yield f"{length} bytes", _on("ledger.sqlite", partial(os.truncate, length=length))


def exchanges(story: Story, rng: random.Random, *, thorough: bool) -> Iterator[Damage]:
    """Another file in its place, or none."""

    def write(content: bytes) -> Callable[[Path], object]:
        return lambda home: (home / "ledger.sqlite").write_bytes(content)

    def foreign(home: Path, *statements: str) -> None:
        (home / "ledger.sqlite").unlink()
        with closing(sqlite3.connect(home / "ledger.sqlite")) as other:
            for statement in ("CREATE TABLE wines (name TEXT)", *statements):
                other.execute(statement)
            other.commit()

    cases: list[Damage] = [
        ("gone", lambda home: (home / "ledger.sqlite").unlink()),
        ("header of noise", overwrite(rng.randbytes(100), 0)),
        ("header of zeros", overwrite(bytes(100), 0)),
        ("no magic words", overwrite(bytes(16), 0)),
        ("another size of pages", overwrite(b"\x02\x00", 16)),
        ("schema number 0", overwrite(bytes(4), 60)),
        ("garbage", write(rng.randbytes(5000))),
        ("a text", write(b"wines and ledgers\n" * 400)),
        ("another database", foreign),
        ("another database of schema 7", lambda h: foreign(h, "PRAGMA user_version = 7")),
        ("a folder", lambda home: _make_folder(home / "ledger.sqlite")),
        ("a loop of links", lambda home: _make_loop(home / "ledger.sqlite")),
    ]
    yield from cases if thorough else rng.sample(cases, 3)


def texts(story: Story, rng: random.Random, *, thorough: bool) -> Iterator[Damage]:
    """What is in a column is no longer what was written; SQLite itself finds nothing wrong."""
    statements = (
        "UPDATE records SET record = ?",
        "UPDATE facts SET value = ? WHERE name IN ('run', 'decision', 'waiting', 'change')",
        "UPDATE versions SET manifest = ?",
        "UPDATE detector SET state = ?",
        "UPDATE counters SET labels = ? WHERE counter = 1",
        "UPDATE window SET rows = ?",
        "UPDATE scored SET rows = ?",
    )
    for statement in statements if thorough else rng.sample(statements, 3):
        for content in ('{"a', b"\x00\xff") if thorough else ('{"a',):

            def damage(home: Path, text: str = statement, content: object = content) -> None:
                with closing(sqlite3.connect(home / "ledger.sqlite")) as broken:
                    broken.execute(text, (content,))
                    broken.commit()

            yield f"{statement} {content!r}", damage


def journals(story: Story, rng: random.Random, *, thorough: bool) -> Iterator[Damage]:
    """A journal that looks as if its transaction had been cut short, and is of another file."""
    for n_rows in (3, 400, 3000) if thorough else (400,):

        def damage(home: Path, n_rows: int = n_rows) -> None:
            beside = home / "other.sqlite"
            with closing(sqlite3.connect(beside, isolation_level=None)) as other:
                other.execute("CREATE TABLE wines (name TEXT)")
                other.execute("PRAGMA cache_size = 2")  # so that it is in the file before the end
                other.execute("BEGIN")
                fill = "INSERT INTO wines SELECT hex(randomblob(20))"
                other.executemany(fill, [()] * n_rows)
                other.execute("COMMIT")
                other.execute("BEGIN")
                other.execute("UPDATE wines SET name = hex(randomblob(20))")
                journal = (home / "other.sqlite-journal").read_bytes()
                other.execute("ROLLBACK")
            beside.unlink()
            (home / "ledger.sqlite-journal").write_bytes(journal)

        yield f"of {n_rows} rows", damage
    noise = rng.randbytes(3000)
    yield "of noise", lambda home: (home / "ledger.sqlite-journal").write_bytes(noise)


def sectors(place: Path, story: Story, rng: random.Random, *, n: int) -> Row:
    """Sectors and misplaced pages: nothing crashes, and what a repair calls sound works."""
    tally = Tally("ledger: sectors of noise within pages, misplaced pages")
    for number in range(n):
        folder = story.copy(place)
        home = folder / "home"
        at = rng.randrange(story.size // SECTOR) * SECTOR
        about, content = f"sector at {at}", rng.randbytes(SECTOR)
        if number % 2:
            at, start = (rng.randrange(1, story.size // PAGE) * PAGE for _ in range(2))
            content = (home / "ledger.sqlite").read_bytes()[start : start + PAGE]
            about = f"page at {at} as at {start}"
        overwrite(content, at)(home)
        tally.tried += 1
        tally.look(call("status", "--home", home), (0, 6), about=f"{about}: ")
        tally.look(call(*batch(folder)), (0, 6), about=f"{about}: ")
        if tally.look(repair(folder), (0,), about=f"{about}: "):
            for words in (batch(folder), ("status", "--home", home), ("metrics", "--home", home)):
                tally.look(call(*words), (0, 3), about=f"{about}, repaired: ")
    return tally.row()


def newer(place: Path, story: Story, *, thorough: bool) -> Row:
    """A ledger of schema 99: each command says what to do, and changes nothing."""
    tally = Tally("ledger of a newer release: refused, untouched")
    folder = story.copy(place)
    home = folder / "home"
    overwrite((99).to_bytes(4, "big"), 60)(home)
    before = _contents(folder)
    for words in COMMANDS if thorough else COMMANDS[::3]:
        given = [str(folder / "labels.csv") if word == "LABELS" else word for word in words]
        more = batch(folder)[3:] if words[0] == "run-batch" else []
        done = call(*given, "--home", home, *more)
        tally.tried += 1
        tally.look(done, (6,), about="schema 99: ")
        tally.expect("upgrade wine-drift" in done.err, f"{words}: no remedy: {done}")
        tally.expect(_contents(folder) == before, f"{words}: it changed something")
    return tally.row()


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def backups(place: Path, story: Story) -> Row:
    """Backups that are damaged themselves."""
    tally = Tally("backups damaged, too")

    def spoil(folder: Path, *names: str) -> None:
        for name in names:
            path = folder / "home" / name
            content = path.read_bytes()
            path.write_bytes(content[: 2 * PAGE] + bytes(3 * PAGE) + content[5 * PAGE :])

    newest, older = "backups/ledger-1.sqlite", "backups/ledger-2.sqlite"
    folder = story.copy(place)
    spoil(folder, "ledger.sqlite", newest, older)
    before = _contents(folder)
    done = repair(folder)
    tally.tried += 1
    tally.look(done, (6,), about="all damaged: ")
    tally.expect(_contents(folder) == before, "all damaged: something was changed")
    folder = story.copy(place)
    spoil(folder, "ledger.sqlite", newest)
    done = repair(folder)
    tally.tried += 1
    if tally.look(done, (0,), about="the newest damaged: "):
        truthful(tally, json.loads(done.out), story, "the newest damaged")
    settle(tally, folder, story.calm[story.start], "the newest damaged")
    folder = story.copy(place)
    spoil(folder, newest, older)
    (folder / "home" / newest).unlink()
    tally.tried += 1
    tally.look(call(*batch(folder)), (0,), about="only backups damaged: ")
    settle(tally, folder, story.calm[story.start], "only backups damaged")
    return tally.row()


def stream(place: Path, rng: random.Random, *, n: int) -> Row:
    """Slices of a stream that were lost with a ledger are read again."""
    tally, home = Tally("ledger of a stream: what was lost is read again"), place / "home"
    place.mkdir()
    words = ("run-batch", "--home", home, *STREAM)
    for number in range(5):
        if number == 2:
            due(home)
        must(call(*words))
    calm = State.of(home)
    for _ in range(n):
        again = Path(shutil.copytree(home, place / "again"))
        path = again / "ledger.sqlite"
        os.truncate(path, rng.randrange(path.stat().st_size - PAGE))
        tally.tried += 1
        tally.look(call("run-batch", "--home", again, *STREAM), (6,))
        done = call("repair", "--home", again, "--json")
        tally.look(done, (0,))
        for _ in range(2):
            tally.look(call("run-batch", "--home", again, *STREAM), (0,))
        tally.compare(State.of(again), calm)
        shutil.rmtree(again)
    return tally.row()


if __name__ == "__main__":
    warm()
    drive(rows)
