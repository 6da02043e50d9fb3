"""Hostile input: files, names, settings, labels, schemas and versions that nobody should send.

Each case goes through the whole command line, in a process of its own: no traceback, no hang, no
blow-up of memory, the right exit code, nothing for a terminal to obey, nothing written elsewhere;
the file is in quarantine with its reason, or processed; and a good file is processed afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hostile_files as made
from drill import Row
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from wine_drift.dataset import load_schema
from wine_drift.errors import SettingsError
from wine_drift.ledger import Ledger
from wine_drift.settings import Settings, load_settings, specification
from wine_drift.supply import write_simulated

MOST = 32 << 20  # bytes that a file may have in this drill
MEMORY = 700 << 20  # bytes that a run may take beyond what it starts with
PATIENCE = 20  # seconds of a run
ROWS = 60  # of a batch
FILES = 60  # good files, and cases that share a home
TRAINING = ("--rounds", "5", "--threads", "1")
ENV = {name: word for name, word in os.environ.items() if not name.startswith("WINE_DRIFT_")}

# For each line of input, a fork runs the command line. It has done the imports, and computes
# nothing itself. What hangs is killed; what asks for far too much memory does not get it.
PARENT = """
import gc, json, os, resource, signal, sys, time, traceback
import wine_drift.model, wine_drift.run, wine_drift.labels, wine_drift.exchange, wine_drift.report
import pandas, pyarrow.parquet, sklearn.model_selection, scipy.stats
from wine_drift.cli import main

def pages():
    with open("/proc/self/statm") as file:
        return [int(word) * resource.getpagesize() for word in file.read().split()[:2]]

gc.freeze()
for line in sys.stdin:
    order = json.loads(line)
    size, resident = pages()
    child = os.fork()
    if child == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(order["folder"])
        os.environ.update(order["env"])
        most = size + order["most"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        try:
            main([os.fsdecode(bytes.fromhex(word)) for word in order["arguments"]])
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)  # taking the interpreter down would take most of the time
    signal.setitimer(signal.ITIMER_REAL, order["seconds"])
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    began = time.monotonic()
    _, status, used = os.wait4(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    answer = os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024 - resident
    print(json.dumps([*answer, time.monotonic() - began]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int  # negative: the signal that ended it
    out: str
    err: str
    memory: int  # bytes beyond what it started with
    seconds: float
    garbled: bool  # what it printed is not text

    def problems(self, codes: Collection[int]) -> Iterator[str]:
        """Promises that it broke, in words."""
        last = " / ".join(self.err.strip().splitlines()[-1:])[:200]
        if self.seconds >= PATIENCE:
            yield f"hangs for {self.seconds:.0f} s"
        elif self.code not in codes:
            yield f"exit code {self.code}, not one of {sorted(codes)}: {last!a}"
        if self.memory > MEMORY:
            yield f"takes {self.memory >> 20} MB of memory"
        text = self.out + self.err
        controls = {c for c in text if unicodedata.category(c) == "Cc" and c != "\n"}
        if controls:
            yield f"prints what a terminal obeys: {''.join(sorted(controls))!a}"
        if self.garbled:
            yield "prints what is not UTF-8"

    @property
    def traceback(self) -> bool:
        """Whether it was a bug."""
        return "Traceback (most recent call last)" in self.out + self.err


class Program:
    """The command line, ready to start at once."""

    def __init__(self, place: Path) -> None:
        self._answers = place
        self._process = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=ENV | {"TMPDIR": str(place)},
        )

    def __call__(self, *arguments: object, folder: Path, env: dict[str, str] | None = None) -> Done:
        """Run a command to its end, or for as long as is decent."""
        assert self._process.stdin is not None and self._process.stdout is not None
        out, err = self._answers / "out", self._answers / "err"
        order = {
            "folder": str(folder),
            "out": str(out),
            "err": str(err),
            "env": env or {},
            "most": 4 << 30,
            "seconds": PATIENCE,
            "arguments": [os.fsencode(str(argument)).hex() for argument in arguments],
        }
        print(json.dumps(order), file=self._process.stdin, flush=True)
        code, memory, seconds = json.loads(self._process.stdout.readline())
        told = [path.read_bytes() for path in (out, err)]
        texts = [data.decode(errors="replace") for data in told]
        garbled = any(text.encode() != data for text, data in zip(texts, told, strict=True))
        return Done(code, *texts, memory, seconds, garbled)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass
class Tally:
    """What came of one kind of fault."""

    fault: str
    keep: Path  # where what broke a promise is kept
    tried: int = 0
    lost: int = 0
    doubled: int = 0
    tracebacks: int = 0
    broken: Counter[str] = field(default_factory=Counter)

    def note(
        self, done: Done, codes: Collection[int], case: str, data: bytes | None = None
    ) -> None:
        """Hold what came of a command against what should have."""
        self.tracebacks += done.traceback
        for problem in done.problems(codes):
            self.breaks(problem, case, data, done.err)

    def breaks(self, problem: str, case: str, data: bytes | None = None, err: str = "") -> None:
        """A promise was broken; the first case of each is kept."""
        problem = f"{case}: {re.sub(r'/[^ ]*/', '', problem)}"
        self.broken[problem] += 1
        if self.broken[problem] == 1:
            self.keep.mkdir(exist_ok=True, parents=True)
            number = len(self.broken)
            name = re.sub(r"\W+", "-", f"{self.fault}-{case}")[:80]
            (self.keep / f"{name}-{number}.err").write_text(f"{problem}\n{err}", encoding="utf-8")
            if data is not None:
                (self.keep / f"{name}-{number}.data").write_bytes(data)

    def miscounts(
        self, n_lost: int, n_doubled: int, case: str, done: Done, seen: object, data: bytes
    ) -> None:
        """So many were lost and doubled; if any, what was seen is kept."""
        self.lost += n_lost
        self.doubled += n_doubled
        if n_lost or n_doubled:
            told = f"exit {done.code}\n{seen}\n{done.out}\n{done.err}"
            self.breaks(f"{n_lost} lost, {n_doubled} doubled", case, data, told)

    @property
    def row(self) -> Row:
        """As a line of the table."""
        told = tuple(f"{problem} ({times} times)" for problem, times in self.broken.items())
        return Row(self.fault, self.tried, self.lost, self.doubled, self.tracebacks, told)


@dataclass
class Yard:
    """A home with its inbox, used for some cases, and then another one."""

    program: Program
    place: Path
    trained: Path
    good: Sequence[bytes]
    base: Path = field(init=False)
    used: int = 0
    homes: int = 0
    sent: set[str] = field(default_factory=set)  # content ids
    outside: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.renew()

    @property
    def home(self) -> Path:
        """The home in use."""
        return self.base / "home"

    @property
    def inbox(self) -> Path:
        """Its inbox."""
        return self.base / "inbox"

    def renew(self, *, trained: bool = True) -> None:
        """Begin with another home."""
        if self.homes:
            shutil.rmtree(self.base)
        self.homes, self.used, self.sent = self.homes + 1, 0, set()
        self.base = self.place / f"yard{self.homes}"
        for name in ("inbox", "outside", "here"):
            (self.base / name).mkdir(parents=True)
        (self.base / "outside" / "canary").write_text("sings", encoding="utf-8")
        os.mkfifo(self.base / "outside" / "pipe")
        if trained:
            shutil.copytree(self.trained, self.home)
        self.outside = self.around()

    def around(self) -> set[str]:
        """All that is not home or inbox, with its size."""
        found = set()
        for folder, folders, names in os.walk(self.base):
            if Path(folder) == self.base:
                folders[:] = [name for name in folders if name not in ("home", "inbox")]
            for name in (*folders, *names):
                path = Path(folder) / name
                found.add(f"{path.relative_to(self.base)} {path.lstat().st_size}")
        return found

    def run(self, *arguments: object, env: dict[str, str] | None = None) -> Done:
        """A command in this home."""
        return self.program(*arguments, "--home", self.home, folder=self.base / "here", env=env)

    def take(self, *more: object) -> Done:
        """`run-batch` on the inbox."""
        return self.run(
            *("run-batch", "--inbox", self.inbox, "--max-bytes", MOST, *TRAINING, *more)
        )

    def send(self, data: bytes, name: str = "good.csv") -> str:
        """Put a file into the inbox, older than those that come later; its content id."""
        self.used += 1
        path = self.inbox / name
        path.write_bytes(data)
        os.utime(path, (1e9 + self.used, 1e9 + self.used))
        found = hashlib.sha256(data).hexdigest()
        self.sent.add(found)
        return found

    def good_one(self) -> bytes:
        """A good file that this home has not seen."""
        return self.good[self.used % len(self.good)].replace(
            b"\n", b"\n" * (1 + self.used // len(self.good))
        )

    def kept(self, content_id: str, name: str) -> bool:
        """Whether archive or quarantine has a file, byte for byte."""
        return any(
            hashlib.sha256(path.read_bytes()).hexdigest() == content_id
            for path in (self.home / name).glob(f"{content_id[:12]}-*")
        )

    def settle(self, content_id: str, done: Done, tally: Tally, case: str, data: bytes) -> None:
        """Where a file of the inbox has gone to, and what the ledger says of it."""
        places = [name for name in ("archive", "quarantine") if self.kept(content_id, name)]
        waits = any(self.inbox.iterdir())
        record = self.record(content_id)
        outcome = record["outcome"] if record else None
        lost, doubled = not places and not waits, len(places) + waits > 1
        tally.miscounts(lost, doubled, case, done, (places, record), data)
        expected = {0: ("processed", ["archive"]), 3: ("quarantined", ["quarantine"])}
        if done.code in expected and (outcome, places) != expected[done.code]:
            tally.breaks(f"exit {done.code}, {outcome}, in {places or 'inbox'}", case, data)
        if outcome == "quarantined" and not record["error"]:
            tally.breaks("no reason in the record", case, data)
        if waits:  # whatever it was, the next case begins with an empty inbox
            self.renew()

    def record(self, content_id: str) -> dict[str, Any] | None:
        """What the ledger knows of a file."""
        with Ledger.open(self.home, read_only=True) as ledger:
            return ledger.batch(content_id)

    def still_works(self, tally: Tally, case: str, *, more: Collection[int] = ()) -> None:
        """A good file is processed, each file is counted once, and nothing lies elsewhere."""
        data = self.good_one()
        found = self.send(data)
        done = self.take("--retrain", "never")
        tally.note(done, {0, *more}, f"{case}, then a good file", data)
        if not self.kept(found, "archive"):
            lost = not (self.inbox / "good.csv").exists()
            seen = sorted(map(str, self.home.glob("*/*"))), self.record(found)
            tally.miscounts(lost, 0, f"{case}, then a good file", done, seen, data)
            self.renew()
            return
        with Ledger.open(self.home, read_only=True) as ledger:
            counters = ledger.snapshot().counters
            known = [each for each in self.sent if ledger.batch(each) is not None]
        counted = sum(int(value) for (name, _), value in counters.items() if name == "batches")
        lost, doubled = max(len(known) - counted, 0), max(counted - len(known), 0)
        tally.miscounts(lost, doubled, f"{case}, counted", done, (counters, known), data)
        if self.around() != self.outside:
            changed = ", ".join(sorted(self.around() ^ self.outside))[:200]
            tally.breaks(f"something changed elsewhere: {changed!a}", case)
            self.renew()
        if self.used >= FILES:
            self.renew()


def each(cases: st.SearchStrategy[Any], n: int, number: int, test: Callable[[Any], None]) -> None:
    """Call a test with so many cases, the same ones for the same seed."""

    @seed(number)
    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def run(case: Any) -> None:
        test(case)

    run()


CHANCE = st.integers(0, 2**32).map(random.Random)


def ways(group: Sequence[made.Way]) -> st.SearchStrategy[tuple[made.Way, random.Random]]:
    """One of the ways to be hostile, and its chance."""
    return st.tuples(st.sampled_from(group), CHANCE)


TEXT = st.one_of(
    st.binary(max_size=300),
    st.text(alphabet='ab1.,;"\n\r\0 é-eN\x1b', max_size=80).map(lambda text: text.encode()),
)

# --- the parts of the drill ---


def tables(
    yard: Yard, tally: Tally, n: int, number: int, group: Sequence[made.Way], suffix: str
) -> None:
    """Files in the inbox that hold anything but good rows."""
    rng = random.Random(number)

    def test(case: Any) -> None:
        if isinstance(case, bytes):
            data, told = case, "any bytes"
        else:
            way, chance = case
            data, told = way(chance, chance.choice(yard.good)), way.__name__
        if hashlib.sha256(data).hexdigest() in yard.sent:
            return  # known content has other rules
        tally.tried += 1
        found = yard.send(data, f"{tally.tried}{suffix}")
        done = yard.take("--retrain", rng.choice(("never", "never", "never", "auto")))
        tally.note(done, {0, 3}, told, data)
        yard.settle(found, done, tally, told, data)
        if tally.tried % 8 == 0:
            yard.still_works(tally, told)

    each(st.one_of(ways(group), ways(group), ways(group), TEXT), n, number, test)
    yard.still_works(tally, "all of it")


def large(yard: Yard, tally: Tally, number: int, *, thorough: bool) -> None:
    """Files that are large once they are unpacked, or have very many parts."""
    rng = random.Random(number)
    kinds = sorted(made.LARGE)
    for _ in range(4 if thorough else 1):
        for told in kinds if thorough else rng.sample(kinds, 7):
            suffix, way = made.LARGE[told]
            data = way(rng, rng.choice(yard.good))
            if hashlib.sha256(data).hexdigest() in yard.sent:
                yard.renew()
            tally.tried += 1
            found = yard.send(data, f"{tally.tried}{suffix}")
            done = yard.take("--retrain", "never")
            tally.note(done, {0} if told == "10,000 columns" else {0, 3}, told)
            yard.settle(found, done, tally, told, data[:1000])
        yard.still_works(tally, "all of it")


def _odd_entries(yard: Yard, name: bytes, data: bytes) -> dict[str, Callable[[str], None]]:
    """What can lie in an inbox and is no file; each is given where to be made."""
    outside = yard.base / "outside"

    def link(target: object) -> Callable[[str], None]:
        return lambda path: Path(path).symlink_to(str(target))

    def listen(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            folder = os.open(yard.inbox, os.O_RDONLY)
            server.bind(f"/proc/self/fd/{folder}/{Path(path).name}")
            os.close(folder)

    def folder(path: str) -> None:
        Path(path).mkdir()
        (Path(path) / "a.csv").write_bytes(data)

    return {
        "a dangling link": link("nowhere.csv"),
        "a link to a folder": link(outside),
        "a link to /dev/zero": link("/dev/zero"),
        "a link to /dev/stdin": link("/dev/stdin"),
        "a link to itself": lambda path: Path(path).symlink_to(Path(path).name),
        "a link to a FIFO": link(outside / "pipe"),
        "a FIFO": os.mkfifo,
        "a socket": listen,
        "a folder": folder,
    }


def entries(yard: Yard, tally: Tally, n: int, number: int) -> None:
    """Names that trick paths, shells and terminals; links, pipes, sockets and folders."""
    rng = random.Random(number)
    kinds = ["file", "file", "link", "secret", *_odd_entries(yard, b"", b"")]

    def test(case: tuple[str, bytes, bool]) -> None:
        kind, raw, good = case
        name = os.fsdecode(raw)
        if kind == "a socket":
            name = "s.csv"
        data = yard.good_one() if good else b"a;b\n%d\n" % yard.used
        path, told = str(yard.inbox / name), kind
        tally.tried += 1
        if kind in ("file", "link", "secret"):
            if kind == "secret" and os.geteuid() == 0:
                kind = "file"  # root reads all
            if kind == "link":
                target = yard.base / "outside" / "target"
                target.write_bytes(data)
                Path(path).symlink_to(target)
            found = yard.send(data, name)
            if kind == "secret":
                Path(path).chmod(0)
            more = rng.choice(((), ("--json",), ("--log-format", "json"), ("--dry-run",)))
            done = yard.take("--retrain", "never", *more)
            right = {0} if good or kind == "secret" else {3}
            tally.note(done, right, told, data)
            if kind == "secret" or "--dry-run" in more:
                if not Path(path).exists():
                    tally.lost += 1
                Path(path).unlink(missing_ok=True)
                yard.sent.discard(found)
            if kind == "link":  # what it points to is somebody else's
                tally.lost += target.read_bytes() != data
                target.unlink()
            if found in yard.sent:
                yard.settle(found, done, tally, told, data)
        else:
            _odd_entries(yard, raw, data)[kind](path)
            homes = yard.homes
            yard.still_works(tally, told)  # it does not block the queue
            if yard.homes > homes:
                return  # it is gone with its home
            if not os.path.lexists(path):
                tally.lost += 1
            elif Path(path).is_dir() and not Path(path).is_symlink():
                shutil.rmtree(path)
            else:
                Path(path).unlink()
        if tally.tried % 8 == 0:
            yard.still_works(tally, told)

    name = st.one_of(
        st.sampled_from(made.NAMES),
        st.binary(min_size=1, max_size=60).map(
            lambda raw: b"n" + raw.replace(b"\0", b"").replace(b"/", b"") + b".csv"
        ),
    )
    for kind in sorted({*kinds}):
        test((kind, b"plain.csv", True))
    each(st.tuples(st.sampled_from(kinds), name, st.booleans()), n, number, test)
    yard.renew()


def named(yard: Yard, tally: Tally, number: int, *, thorough: bool) -> None:
    """What can be given to commands in the place of a file: nothing is done, and that is told."""
    odd = yard.base / "here"
    for what, make in _odd_entries(yard, b"", b"").items():
        if what != "a socket":
            make(str(odd / (re.sub(r"\W", "-", what) + ".csv")))
    yard.outside = yard.around()
    paths = [
        "",
        " ",
        ".",
        "/",
        "nowhere.csv",
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/proc/self/mem",
    ]
    paths += ["x" * 300, "a\nb", "\x1b[2J", "-", "~", "https://example.org/a.csv", "\udcff.csv"]
    paths += sorted(path.name for path in odd.iterdir())
    yard.sent.add(hashlib.sha256(b"").hexdigest())
    folders = {".", "/", "~", *(path.name for path in odd.iterdir() if "folder" in path.name)}
    before = sorted(str(path) for path in yard.home.rglob("*"))
    for path in paths if thorough else random.Random(number).sample(paths, 4):
        for words in (
            ("run-batch", path),
            ("add-labels", "1", path),
            ("models", "import", path),
            ("run-batch", "--dry-run", "--inbox", yard.inbox, "--schema", path),
            ("status", "--settings", path),
            ("run-batch", "--inbox", path),
        ):
            tally.tried += 1
            told = f"{' '.join(map(str, words[:-1]))} {ascii(path)[:60]}"
            told = told.replace(str(yard.base), "")
            right = {2, 3, 6} if words[0] == "add-labels" else {2, 6}
            if words[-2] == "--inbox" and path in folders:
                right = {0, 2, 3}  # one of them holds an empty file
            if words == ("run-batch", path) and path in folders:
                right = {2, 3, 6}  # the files in it are the batch
            if path == "" or (words[0] == "run-batch" and path == "/dev/null"):
                right = {0, 2, 3, 6}
            if words[-2] in ("--settings", "--schema") and path in ("", "/dev/null"):
                right = {0, 2}
            if words[0] == "run-batch" and path == "-":
                right = {2, 6}
            tally.note(yard.run(*words), right, told)
    after = sorted(str(path) for path in yard.home.rglob("*"))
    tally.lost += len(set(before) - set(after))
    yard.outside = yard.around()
    yard.still_works(tally, "all of it")
    yard.renew()


WORDS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1",
        "1e308",
        "1e999",
        "-inf",
        "nan",
        "9" * 30,
        "9" * 5000,
        "1_000",
        "0x10",
    ),
    *(
        "true",
        "no",
        "x",
        "x" * 5000,
        "é",
        "\x1b[2J",
        "a\nb",
        "a\tb",
        "\x9b1m",
        "\u202ex",
        "1.5",
        "1e9",
    ),
    *(
        "1s",
        "-1d",
        "1e400d",
        "http://",
        "http://[",
        "http://a:99999",
        "http://\x1b[2J",
        "http://a b",
    ),
    *(
        "ftp://a",
        "http://u:p@a",
        "http://127.0.0.1:1",
        "* * * * *",
        "* * * *",
        "61 * * * *",
        "@daily",
    ),
    *(
        "*/0 * * * *",
        "1-99999999 * * * *",
        "Europe/Berlin",
        "../etc/passwd",
        "/etc/passwd",
        "UTC+99",
    ),
    *("ramp@1,ramp@2", "switch@-1", "none@1e9", "alcohol", "alcohol,", "drift", "major", "auto"),
    *("folder", "folder/x.prom", "a.prom", "file", "file/x", "~nobody", "..", ".", "loop", "1e5"),
)
TOML = (
    *(
        "[]",
        "{}",
        "nan",
        "inf",
        "-1e308",
        "1e308",
        "9" * 20,
        "9" * 5000,
        "true",
        "1979-05-27",
        "[[1]]",
    ),
    *("0.1", "1", "-1", "2", "1000000", "{a = 1}", '"\\u0000"', '"\\u001b[2J"', '"""\na\n"""'),
)


def tuned(yard: Yard, tally: Tally, n: int, number: int) -> None:
    """Settings from the command line, variables and a file: told as mistakes, or obeyed."""
    here = yard.base / "here"
    (here / "folder").mkdir()
    (here / "file").write_text("x", encoding="utf-8")
    (here / "loop").symlink_to("loop")
    known = sorted(specification())
    # what it is to write to, and how long it may take, is not left to chance
    free = [name for name in known if name not in ("home", "inbox", "out", "openmetrics", "rounds")]
    taken = _options_of("run-batch")

    def test(case: list[tuple[str, str, str, str]]) -> None:
        options: dict[str, str] = {}
        env: dict[str, str] = {}
        lines: list[str] = []
        for name, how, word, value in case:
            if how == "option" and name in taken and specification()[name].type != "bool":
                options[name] = word
            elif how == "variable":
                env["WINE_DRIFT_" + name.upper()] = word.replace("\0", "")
            elif how == "unknown":
                lines.append(f"{name[:-1]}z = {value}")
            else:
                lines.append(f"{name} = {value if how == 'file' else json.dumps(word)}")
        file = here / "s.toml"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")
        words = [
            word
            for name, value in options.items()
            for word in ("--" + name.replace("_", "-"), value)
        ]
        told = ", ".join(f"{name} {how}" for name, how, *_ in case)
        tally.tried += 1
        try:
            with contextlib.chdir(here):
                asked = load_settings(options | {"inbox": "../inbox"}, env, file=file)
            right = {0, 2, 3, 4, 6, 8, 9}
        except SettingsError:
            asked, right = None, {2}
        arguments = ("run-batch", "--inbox", "../inbox", "--settings", "s.toml", *words)
        sent = yard.send(yard.good_one()) if asked else None
        data = json.dumps([words, env, lines]).encode()
        done = yard.run(*arguments, env=env)
        tally.note(done, right, told if done.code != 2 else "settings", data)
        if sent and not (
            any(yard.inbox.iterdir()) or yard.kept(sent, "archive") or yard.kept(sent, "quarantine")
        ):
            tally.lost += 1
        if sent:
            for path in yard.inbox.iterdir():
                path.unlink()
                yard.sent.discard(sent)
        for path in (here / "a.prom", here / "folder" / "x.prom"):
            path.unlink(missing_ok=True)
        if yard.used >= FILES:
            for name in ("folder", "file", "loop"):
                _remove(here / name)
            yard.renew()
            _again(yard)

    def _again(yard: Yard) -> None:
        nonlocal here
        here = yard.base / "here"
        (here / "folder").mkdir()
        (here / "file").write_text("x", encoding="utf-8")
        (here / "loop").symlink_to("loop")

    one = st.tuples(
        st.sampled_from(free),
        st.sampled_from(("option", "variable", "file", "file text", "unknown")),
        st.one_of(st.sampled_from(WORDS), st.text(max_size=12)),
        st.sampled_from(TOML),
    )
    # each at least once, if there is time
    for name in free if n > 500 else random.Random(number).sample(free, 5):
        for how in ("option", "variable", "file") if n > 500 else ("option",):
            rng = random.Random(f"{name} {how} {number}")
            test([(name, how, rng.choice(WORDS), rng.choice(TOML))])
    each(st.lists(one, min_size=1, max_size=3), n, number, test)
    yard.renew()


def _options_of(command: str) -> set[str]:
    from wine_drift.cli import main

    return {parameter.name or "" for parameter in main.commands[command].params}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def late_labels(yard: Yard, tally: Tally, n: int, number: int) -> None:
    """Labels that come late and do not fit: nothing is changed, or they are counted once."""
    batch, good = "", b""

    def begin() -> None:
        nonlocal batch, good
        rows = made.lines_of(yard.good_one())
        labels = [row[-1] for row in rows[1:]]
        yard.send(made.joined([rows[0], *([*row[:-1], ""] for row in rows[1:])]))
        good = "\n".join([rows[0][-1], *labels, ""]).encode()
        tally.note(yard.take("--retrain", "never"), {0}, "a batch without labels")
        with Ledger.open(yard.home, read_only=True) as ledger:
            batch = str(ledger.next_sequence() - 1)

    def state() -> tuple[Any, ...]:
        with Ledger.open(yard.home, read_only=True) as ledger:
            counters = ledger.snapshot().counters
            return ledger.find(batch), sorted(counters.items()), ledger.labelled_counts(after=0)

    def test(case: tuple[random.Random, str, bytes | None]) -> None:
        chance, suffix, raw = case
        data = raw if raw is not None else made.odd_labels(chance, good)
        if suffix == ".gz":
            data = made.gzip.compress(data)
        if suffix == ".zip":
            data = made.zipped(("../l.csv", data))
        file = yard.base / "here" / f"labels{suffix}"
        file.write_bytes(data)
        before = state()
        done = yard.run("add-labels", batch, file, "--retrain", "never", *TRAINING)
        file.unlink()
        tally.tried += 1
        told = f"labels{suffix}"
        tally.note(done, {0, 3}, told, data)
        after = state()
        if done.code != 0:
            tally.doubled += before != after
            return
        added = sum(value for (name, _), value in after[1] if name == "late_labels")
        added -= sum(value for (name, _), value in before[1] if name == "late_labels")
        tally.doubled += added > ROWS
        if added:
            begin()
        if yard.used >= FILES:
            yard.renew()
            begin()

    begin()
    raw = st.one_of(st.none(), st.none(), st.none(), TEXT)
    suffix = st.sampled_from((".csv", ".csv", ".csv", ".gz", ".zip", ".parquet"))
    each(st.tuples(CHANCE, suffix, raw), n, number, test)
    file = yard.base / "here" / "right.csv"
    file.write_bytes(good)
    tally.note(yard.run("add-labels", batch, file, "--retrain", "never"), {0}, "right labels")
    file.unlink()
    yard.still_works(tally, "all of it")
    yard.renew()


def schemas(yard: Yard, tally: Tally, n: int, number: int) -> None:
    """Files that describe another table, or none."""
    good = (Path(load_schema.__code__.co_filename).parent / "data" / "red_wine.toml").read_bytes()
    (yard.base / "outside" / "t.csv").write_bytes(yard.good[0])
    yard.outside = yard.around()

    def test(case: tuple[random.Random, bytes | None, bool]) -> None:
        chance, raw, train = case
        data = raw if raw is not None else made.odd_toml(chance, good)
        file = yard.base / "here" / "schema.toml"
        file.write_bytes(data)
        tally.tried += 1
        if train and n > 100:
            home = yard.base / "here" / "new"
            words = ("train", "--data", yard.base / "outside" / "t.csv", *TRAINING)
            done = yard.program(
                *(*words, "--schema", file, "--home", home), folder=yard.base / "here"
            )
            shutil.rmtree(home, ignore_errors=True)
        else:
            done = yard.take("--schema", file, "--dry-run")
        file.unlink()
        tally.note(done, {0, 2}, "train --schema" if train else "run-batch --schema", data)

    raw = st.one_of(st.none(), st.none(), st.none(), TEXT)
    each(st.tuples(CHANCE, raw, st.sampled_from((True, False, False, False))), n, number, test)
    yard.still_works(tally, "all of it")
    yard.renew()


def versions(yard: Yard, tally: Tally, n: int, number: int) -> None:
    """Versions that a stranger wrote: refused and nothing changed, or they can be worked with."""
    out = yard.base / "v.tar"
    with Ledger.open(yard.home, read_only=True) as ledger:
        champion = ledger.champion()
    assert champion is not None
    tally.note(yard.run("models", "export", champion["version"], "--out", out), {0}, "export")
    good, rng = out.read_bytes(), random.Random(number)
    out.unlink()

    def test(case: tuple[made.Way, random.Random] | bytes) -> None:
        data = case if isinstance(case, bytes) else case[0](case[1], good)
        told = "any bytes" if isinstance(case, bytes) else case[0].__name__
        empty = rng.random() < 0.5
        if empty:
            yard.renew(trained=False)
        file = yard.base / "outside" / "v.tar"
        file.write_bytes(data)
        tally.tried += 1
        done = yard.run("models", "import", file, "--json")
        tally.note(done, {0, 2}, told, data)
        file.unlink()
        if done.code == 0 and empty:  # it serves at once
            yard.still_works(tally, f"{told}, served")
            tally.note(yard.run("explain"), {0}, f"{told}, explained", data)
            tally.note(yard.run("models", "list"), {0}, f"{told}, listed", data)
            tally.note(yard.run("metrics"), {0}, f"{told}, published", data)
        elif empty and (yard.home / "ledger.sqlite").exists():
            with Ledger.open(yard.home, read_only=True) as ledger:
                tally.doubled += ledger.champion() is not None
        if empty or done.code == 0:
            yard.renew()

    each(st.one_of(ways(made.BUNDLES), ways(made.BUNDLES), TEXT.filter(bool)), n, number, test)
    yard.still_works(tally, "all of it")


# --- all of it ---


def _start(place: Path, program: Program, number: int) -> tuple[Path, list[bytes]]:
    """A home with a champion, and good files."""
    drawn = Settings(source="simulated", batch_rows=ROWS, seed=number + 1)
    out = place / "wines"
    paths = write_simulated(drawn, load_schema(None), n_batches=FILES, out=out)
    good = [path.read_bytes() for path in paths]
    table = place / "table.csv"
    header = good[0][: good[0].index(b"\n") + 1]
    table.write_bytes(header + b"".join(data[len(header) :] for data in good[:10]))
    done = program("train", "--data", table, "--home", place / "home", *TRAINING, folder=place)
    if done.code != 0:
        raise RuntimeError(f"no champion: {done.err}")
    return place / "home", good[10:]


PARTS: dict[str, tuple[int, int, Callable[[Yard, Tally, int, int], None]]] = {
    "hostile CSV files": (30, 3500, lambda y, t, n, s: tables(y, t, n, s, made.TEXTS, ".csv")),
    "hostile gzip files": (8, 1000, lambda y, t, n, s: tables(y, t, n, s, made.GZIPS, ".csv.gz")),
    "hostile zip files": (10, 1300, lambda y, t, n, s: tables(y, t, n, s, made.ZIPS, ".zip")),
    "hostile Parquet files": (
        16,
        1700,
        lambda y, t, n, s: tables(y, t, n, s, made.PARQUETS, ".parquet"),
    ),
    "hostile names, links, pipes and folders": (8, 700, entries),
    "hostile settings": (12, 1500, tuned),
    "hostile label files": (8, 700, late_labels),
    "hostile schema files": (8, 500, schemas),
    "hostile versions": (14, 1200, versions),
}


def drill(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """Send everything that nobody should send."""
    answers = place / "answers"
    answers.mkdir()
    program = Program(answers)
    try:
        home, good = _start(place, program, seed)

        def begin(fault: str) -> tuple[Yard, Tally]:
            folder = Path(tempfile.mkdtemp(dir=place))
            return Yard(program, folder, home, good), Tally(fault, place / "broken")

        for fault, (few, many, part) in PARTS.items():
            yard, tally = begin(fault)
            part(yard, tally, many if thorough else few, seed)
            yield tally.row
        yard, tally = begin("bombs and other large files")
        large(yard, tally, seed, thorough=thorough)
        yield tally.row
        yard, tally = begin("what is no file, given as one")
        named(yard, tally, seed, thorough=thorough)
        yield tally.row
    finally:
        program.close()
    if thorough:
        yield from coverage_guided(place, seed=seed)


def coverage_guided(place: Path, *, seed: int, seconds: int = 60) -> Iterator[Row]:
    """Fuzz the readers with atheris, where it is installed."""
    if find_spec("atheris") is None:
        sys.stdout.write("left out: coverage-guided fuzzing, as atheris is not installed\n")
        return
    for target in ("table", "bundle", "trees"):
        folder = place / f"atheris-{target}"
        folder.mkdir()
        script = Path(__file__).with_name("hostile_atheris.py")
        flags = (f"-seed={seed + 1}", f"-max_total_time={seconds}", "-rss_limit_mb=2048")
        done = subprocess.run(
            [sys.executable, script, target, *flags, f"-artifact_prefix={folder}/", folder],
            env=ENV,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        count = re.findall(r"Done (\d+) runs", done.stderr) or re.findall(r"#(\d+)\t", done.stderr)
        wrong = () if done.returncode == 0 else (ascii(done.stderr[-600:]),)
        crashed = int("Traceback" in done.stderr or "ERROR: libFuzzer" in done.stderr)
        yield Row(
            f"coverage-guided: {target}", int(count[-1]) if count else 0, 0, 0, crashed, wrong
        )
