"""Trouble on the way to the Pushgateway: the batch is safe, and the next push is complete.

Each fault meets a run of the real command line. The ledger has to hold its batch once, the run has
to end in time and say what failed, and what a real Pushgateway holds after the next push has to be
what `wine-drift metrics` prints. Runs are forked from a process that has done the imports.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import itertools
import json
import os
import random
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import trouble
from drill import Row
from prometheus_client.parser import text_string_to_metric_families
from trouble import Certificate, Line, Pushgateway, Server, answer, relay, says, silent

from wine_drift.dataset import load_schema
from wine_drift.ledger import Ledger
from wine_drift.settings import Settings
from wine_drift.supply import write_simulated

ROWS = 60  # of a batch
USER, PASSWORD = "cellar", "correct horse"
BCRYPT = "$2b$04$zOCuUVQqbhMozgFCCdgEF.hhH8MbXMR637MV12GL39P09YW8JR7RW"  # of it, the cheapest
PROXY_WORD = "battery-staple"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, BASIC.split()[1], PROXY_WORD)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY")
ENV = {
    name: word
    for name, word in os.environ.items()
    if not name.startswith("WINE_DRIFT_") and "proxy" not in name.lower()
}
SLACK = 5.0  # seconds that a run may take besides its push, and
BUSY = 10  # so many times what the next one takes without trouble: the machine may be busy
MEMORY = 64 << 20  # bytes that a run may take more than one without trouble
USUAL = 1.0  # seconds; where the next one takes longer, a timeout is no wonder
LATE_WORDS = "no complete answer in time"
HANG = 200.0  # seconds after which nobody waits any more
LONGEST = 3_000  # characters that a person may be told
WORKERS = 4  # most of the time is spent waiting

# Seconds for one attempt, and for all. Where an answer comes at once, they are long enough for a
# busy machine; those that are tried again have time for a second attempt, or none.
FINAL = (5.0, 5.0)
AGAIN = (1.45, 1.45)
LATE = (0.3, 0.45)


# --- runs ---


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int  # negative: the signal that killed it
    seconds: float
    peak: int  # bytes
    out: str
    err: str


@dataclass(frozen=True)
class Begun:
    """A command at work."""

    pid: int
    wait: Callable[[], Done]


class Warm:
    """Forks commands from a process that has done their imports.

    Each is a process of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, itertools.count()
        self._place = str(folder / "warm")
        command = [sys.executable, __file__, self._place]
        self._process = subprocess.Popen(command, env=ENV, stdin=subprocess.PIPE)
        self._lock = threading.Lock()

    def __enter__(self) -> Warm:
        end = time.monotonic() + 60
        while not Path(self._place).exists():
            assert self._process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def begin(
        self,
        *arguments: object,
        names: bool = True,
        environment: Mapping[str, str] | None = None,
        slowly: bool = False,
    ) -> Begun:
        """Start a command.

        Parameters
        ----------
        names : bool
            Whether anybody answers it what address a name has.
        environment : mapping, optional
            Variables that it has besides the usual ones.
        slowly : bool
            Let the interpreter take itself apart in the end, as it does without us.
        """
        with self._lock:
            number = next(self._numbers)
        paths = [self._folder / f"{number}.{stream}" for stream in ("out", "err")]
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(self._place)
        lines = channel.makefile("r")
        asked: dict[str, Any] = {"arguments": list(map(str, arguments)), "slowly": slowly}
        asked |= {"names": names, "environment": environment or {}, "paths": list(map(str, paths))}
        channel.sendall(json.dumps(asked).encode() + b"\n")
        pid = int(lines.readline())

        def wait() -> Done:
            with channel, lines:
                told = json.loads(lines.readline())
            out, err = (path.read_text(encoding="utf-8", errors="replace") for path in paths)
            for path in paths:
                path.unlink()
            return Done(told["code"], told["seconds"], told["peak"], out, err)

        return Begun(pid, wait)

    def call(self, *arguments: object) -> str:
        """Run a command that has to succeed; what it prints."""
        done = self.begin(*arguments).wait()
        assert done.code == 0, f"{arguments}: exit code {done.code}\n{done.err}"
        return done.out


def cold(
    *arguments: object, names: bool = True, environment: Mapping[str, str] | None = None
) -> Begun:
    """Start a command as a shell does."""
    process = subprocess.Popen(
        # What a shell starts in the background would take no notice of SIGINT, nor would we.
        ["env", "--default-signal=INT", sys.executable, "-m", "wine_drift", *map(str, arguments)],
        env=ENV | dict(environment or {}),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    started = time.monotonic()

    def wait() -> Done:
        out, err = process.communicate()
        return Done(process.returncode, time.monotonic() - started, 0, out, err)

    return Begun(process.pid, wait)


def patient(begun: Begun) -> Done:
    """Wait for the end of a command; one that hangs is killed, and has the exit code of that."""
    limit = threading.Timer(HANG, os.kill, (begun.pid, signal.SIGKILL))
    limit.start()
    try:
        return begun.wait()
    finally:
        limit.cancel()


def stay_warm(place: str) -> None:
    """Import what runs need, then fork one for each connection, until the drill is gone."""
    import wine_drift.cli
    import wine_drift.model
    import wine_drift.outbox
    import wine_drift.report
    import wine_drift.run

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{place}.new")
    listener.listen(100)
    Path(f"{place}.new").rename(place)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)  # has an end when the drill has
    gc.freeze()  # what is here already is not looked at when a forked process ends
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                _tell_end(selector, key)
                continue
            if key.fileobj is sys.stdin:
                os._exit(0)
            channel, _ = listener.accept()
            asked = json.loads(channel.makefile("r").readline())
            pid = os.fork()
            if pid == 0:
                _become(asked)
                try:
                    wine_drift.cli.main(asked["arguments"], prog_name="wine-drift")
                except SystemExit as end:
                    if asked["slowly"]:
                        raise
                    sys.stdout.flush()
                    os._exit(end.code if isinstance(end.code, int) else 1)
            channel.sendall(f"{pid}\n".encode())
            ends = os.pidfd_open(pid)
            selector.register(ends, selectors.EVENT_READ, (channel, pid, time.monotonic()))


def _become(asked: Mapping[str, Any]) -> None:
    """In the forked process: what a shell would have set up."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(asked["paths"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    os.environ.update(asked["environment"])
    os.chdir("/")  # where no settings lie
    if not asked["names"]:
        vars(socket)["getaddrinfo"] = lambda *arguments, **names: time.sleep(600)


def _tell_end(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    channel, pid, started = key.data
    selector.unregister(key.fileobj)
    os.close(key.fd)
    _, status, used = os.wait4(pid, 0)
    told = {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started}
    with channel, contextlib.suppress(OSError):
        channel.sendall(json.dumps(told | {"peak": used.ru_maxrss << 10}).encode() + b"\n")


# --- what all faults share ---


@dataclass
class World:
    """A home to begin with, batches, and Pushgateways in good order."""

    folder: Path
    warm: Warm
    home: Path  # trained, and no batch yet; to be copied
    batches: Sequence[Path]
    password: Path
    gateway: Pushgateway
    secure: Pushgateway  # https, and wants the password
    peak: int = 0  # bytes that a run without trouble takes
    good: Certificate = field(kw_only=True)
    elsewhere: Certificate = field(kw_only=True)  # of another machine
    expired: Certificate = field(kw_only=True)
    _hosts: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    @contextmanager
    def begin(cls, place: Path, *, n_batches: int, seed: int) -> Iterator[World]:
        """Make all of it in an empty folder."""
        schema, drawn = load_schema(None), Settings(source="simulated", seed=seed)
        batches = write_simulated(
            replace(drawn, batch_rows=ROWS), schema, n_batches=n_batches, out=place / "batches"
        )
        data = replace(drawn, batch_rows=800, seed=seed + 1)
        (table,) = write_simulated(data, schema, n_batches=1, out=place)
        good = trouble.certify(place / "good")
        password, web = place / "password", place / "web.yml"
        password.write_text(f"{PASSWORD}\n")
        web.write_text(
            f"tls_server_config: {{cert_file: {good.path}, key_file: {good.key}}}\n"
            f"basic_auth_users: {{{USER}: {BCRYPT}}}\n"
        )
        plain = Pushgateway(place)
        secure = Pushgateway(place, f"--web.config.file={web}", scheme="https")
        secure.to += ("--ca-file", str(good.path))
        with Warm(place) as warm, plain, secure:
            plain.start()
            secure.start()
            training = ("--rounds", 20, "--threads", 1)
            warm.call("train", "--home", place / "home", "--data", table, *training)
            world = cls(
                *(place, warm, place / "home", batches, password, plain, secure),
                good=good,
                elsewhere=trouble.certify(place / "elsewhere", "DNS:elsewhere.example"),
                expired=trouble.certify(place / "expired", years=(2020, 2021)),
            )
            undisturbed = Home.make(world, place / "undisturbed", "undisturbed")
            undisturbed.send(batches[0])
            done = warm.begin(*undisturbed.run(*plain.to), slowly=True).wait()
            assert done.code == 0, done.err
            world.peak = done.peak
            yield world

    def new_gateway(self, *options: str) -> Pushgateway:
        """One that may be killed: nobody else has its address."""
        number = next(self._hosts)
        host = f"127.0.{1 + number // 250}.{1 + number % 250}"
        return Pushgateway(self.folder, *options, host=host)


@dataclass
class Home:
    """A home of one fault, its inbox and what is known of both from outside."""

    world: World
    place: Path
    pipeline: str
    sent: list[Path] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)  # pushes, by reason

    @classmethod
    def make(cls, world: World, place: Path, pipeline: str) -> Home:
        """A copy of the trained one, with nothing in its inbox."""
        shutil.copytree(world.home, place / "home")
        (place / "inbox").mkdir()
        return cls(world, place, pipeline)

    def send(self, batch: Path) -> None:
        """Put a batch into the inbox."""
        shutil.copy(batch, self.place / "inbox" / f"{len(self.sent):04d}.csv")
        self.sent.append(batch)

    def common(self, *options: object) -> list[object]:
        """Options of every command that publishes."""
        whose = ("--home", self.place / "home", "--pipeline", self.pipeline)
        return [*whose, "--username", USER, "--password-file", self.world.password, *options]

    def run(self, *options: object) -> list[object]:
        """The command line of a run."""
        files = ("--inbox", self.place / "inbox", "--log-file", self.place / "log")
        how = ("--threads", 1, "--retrain", "never")
        return ["run-batch", *self.common(*files, *how, *options)]

    def metrics(self) -> str:
        """What `wine-drift metrics` prints."""
        return self.world.warm.call(
            "metrics", "--home", self.place / "home", "--pipeline", self.pipeline
        )

    def account(self) -> Row:
        """Ledger, counters and files against what was sent and what failed."""
        lost = doubled = 0
        broken: list[str] = []

        def compare(what: str, found: float, expected: float) -> None:
            nonlocal lost, doubled
            lost, doubled = lost + (found < expected), doubled + (found > expected)
            if found != expected:
                broken.append(f"{what}: {found:g}, not {expected:g}")

        ids = [hashlib.sha256(batch.read_bytes()).hexdigest()[:12] for batch in self.sent]
        with Ledger.open(self.place / "home", read_only=True) as ledger:
            records = ledger.records(10_000)
        kept = Counter(record["batch"]["id"] for record in records)
        for number, batch_id in enumerate(ids):
            compare(f"batch {number} in the ledger", kept.pop(batch_id, 0), 1)
        compare("other batches in the ledger", kept.total(), 0)
        figures = totals(self.metrics())
        total = total_of(figures)
        compare("batches_total", total("batches", "success"), len(ids))
        compare("rows", total("rows") + total("rows_rejected"), ROWS * len(ids))
        for reason in ("connection", "timeout", "rejected"):
            counted = total("push_failures", reason)
            compare(f"push_failures_total, {reason}", counted, self.failures[reason])
        found = sorted(path.name for path in (self.place / "home" / "archive").iterdir())
        expected = sorted(f"{one}-{number:04d}.csv" for number, one in enumerate(ids))
        compare("files in the archive", len(set(found) & set(expected)), len(expected))
        compare("other files there", len(set(found) - set(expected)), 0)
        compare("files left in the inbox", len(list((self.place / "inbox").iterdir())), 0)
        return Row("", 0, lost, doubled, 0, tuple(broken))

    def published(self, gateway: Pushgateway) -> list[str]:
        """How the group of the gateway differs from what the ledger knows."""
        text, here = gateway.text(BASIC), f'pipeline="{self.pipeline}"'
        of_us = [line for line in text.splitlines() if line.startswith("#") or here in line]
        found, expected = families("\n".join(of_us) + "\n"), families(self.metrics())
        names = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
        return [f"{', '.join(names)[:200]}: not as in the ledger"] if names else []

    def told_secrets(self, *texts: str) -> list[str]:
        """Passwords in what was printed, or anywhere in the home, the log and the textfile."""
        data = [text.encode() for text in texts]
        data += [path.read_bytes() for path in self.place.rglob("*") if path.is_file()]
        return ["tells a password" for secret in SECRETS if any(secret.encode() in d for d in data)]


class Family(NamedTuple):
    """A metric family; values go by sample and labels, those of the grouping key left out."""

    kind: str
    help: str
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float]


def families(text: str) -> dict[str, Family]:
    """Those of wine-drift in exposition text, by name."""
    found: dict[str, Family] = {}
    for family in text_string_to_metric_families(text):
        values = {}
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if v and k not in ("job", "pipeline")}
            values[sample.name, tuple(sorted(labels.items()))] = sample.value
        if values and family.name.startswith("wine_drift_"):
            found[family.name] = Family(family.type, family.documentation, values)
    return found


def totals(text: str) -> dict[tuple[str, ...], float]:
    """Counters in exposition text: name and label values -> value."""
    return {
        (name, *(value for _, value in labels)): number
        for family in families(text).values()
        if family.kind == "counter"
        for (name, labels), number in family.values.items()
    }


def total_of(figures: Mapping[tuple[str, ...], float]) -> Callable[..., float]:
    """Sum of a counter, over the labels that are not given."""

    def total(name: str, *labels: str) -> float:
        wanted = (f"wine_drift_{name}_total", *labels)
        return sum(value for key, value in figures.items() if key[: len(wanted)] == wanted)

    return total


# --- one fault ---


def nothing(*_: Any) -> Any:
    """All is well as it is."""
    return True


@dataclass(frozen=True)
class Case:
    """A fault that is ready for a run to meet, and what is to come of it."""

    url: str  # of the Pushgateway, as the run is told it
    reasons: tuple[str, ...]  # of the failures that are counted; a|b: one or the other
    limits: tuple[float, float] = FINAL  # push_timeout, push_deadline
    _: KW_ONLY
    words: str = ""  # the error has to hold this pattern
    at_fault: bool = True  # whether it is the Pushgateway that the error has to name
    code: int = 4
    options: tuple[object, ...] = ()  # more of them
    environment: Mapping[str, str] = field(default_factory=dict)
    names: bool = True  # whether anybody answers what address a name has
    during: Callable[[Begun], bool] = nothing  # done beside the run; False: it came too late
    after: Callable[[], Iterable[str]] = tuple  # promises that others saw broken
    restore: Callable[[], object] = nothing  # before the next push
    heal: Pushgateway | None = None  # where that goes; the plain one if not set


Setup = Callable[[World, Path], AbstractContextManager[Case]]


def meet(world: World, setup: Setup, number: int, *, warm: bool, patience: int) -> Row:
    """Let a run meet a fault, then push to a Pushgateway in good order."""
    place = world.folder / f"case-{number}"
    home = Home.make(world, place, threading.current_thread().name)
    home.send(world.batches[0])
    with setup(world, place) as case:
        if case.limits == LATE and patience > 1:
            case = replace(case, limits=(LATE[0], LATE[1] * patience))
        elif case.limits == AGAIN:
            case = replace(case, limits=(AGAIN[0], AGAIN[1] * patience))
        to = ("--pushgateway", case.url, *case.options)
        how = ("--push-timeout", case.limits[0], "--push-deadline", case.limits[1])
        shape = ("--log-format", ("text", "json")[number % 2], *["--json"] * (number % 3 == 0))
        begin: Callable[..., Begun] = world.warm.begin if warm else cold
        how_else = {"slowly": True, "names": case.names} if warm else {}
        begun = begin(*home.run(*to, *how, *shape), environment=case.environment, **how_else)
        met = case.during(begun)
        done = patient(begun)
        broken = [*case.after()]
        case.restore()
        reasons = list(case.reasons)
        late = LATE_WORDS in done.err  # on a busy machine it may be what comes first
        if late:
            reasons[-1:] = ["timeout"]
        for reason in reasons:
            home.failures[_which(reason, totals(home.metrics()), home.failures)] += 1
        first = home.account()
        heal = case.heal or world.gateway
        if number % 2:
            home.send(world.batches[1])
            then = patient(begin(*home.run(*heal.to)))
        else:
            then = patient(begin("push", *home.common(*heal.to)))
        if then.code:
            broken.append(f"the next push: exit code {then.code}: {then.err[-300:]}")
        else:
            broken += [f"after the next push: {each}" for each in home.published(heal)]
        second = home.account()
    over = done.seconds - case.limits[1]
    if case.code == 4 and over > SLACK + BUSY * then.seconds:
        broken.append(
            f"ended {over:.1f} s after its deadline; the next one took {then.seconds:.1f} s"
        )
    if not (late and then.seconds > USUAL):
        broken += _ending(case, done, world.peak)
    broken += home.told_secrets(done.out, done.err, then.out, then.err)
    row = Row(
        "",
        int(met),
        first.lost + second.lost,
        first.doubled + second.doubled,
        sum(text.count("Traceback") for text in (done.err, then.err)),
        (*broken, *first.broken, *(f"in the end, {each}" for each in second.broken)),
    )
    if not row.broken:
        shutil.rmtree(place)
    return row


def _which(reason: str, figures: Mapping[tuple[str, ...], float], known: Counter[str]) -> str:
    """The one of several reasons that was counted."""
    total = total_of(figures)
    ways = reason.split("|")
    return next((way for way in ways if total("push_failures", way) > known[way]), ways[0])


def _ending(case: Case, done: Done, peak: int) -> Iterator[str]:
    """What a run promises to whoever started it, as far as it was broken."""
    if done.code != case.code:
        yield f"exit code {done.code}, not {case.code}: {done.err[-300:]}"
    if case.code != 4:
        return
    if done.peak > peak + MEMORY:
        yield f"took {done.peak >> 20} MB of memory, one without trouble {peak >> 20} MB"
    if len(done.err) > LONGEST:
        yield f"the error has {len(done.err)} characters"
    named = re.escape(case.url) if case.at_fault else ""
    for pattern in (named, case.words, "`wine-drift push` repeats it"):
        if not re.search(pattern, done.err):
            yield f"{pattern!r} is not in the error: {done.err[:500]}"


# --- the faults ---


def served(
    behave: trouble.Behaviour,
    reason: str,
    limits: tuple[float, float] = AGAIN,
    words: str = "",
    *,
    secure: bool = False,
    host: str = "127.0.0.1",
) -> Setup:
    """A server that misbehaves."""

    @contextmanager
    def setup(world: World, place: Path) -> Iterator[Case]:
        tls = world.good.context() if secure else None
        trusted = ("--ca-file", world.good.path) if secure else ()
        with Server(behave, host=host, tls=tls) as server:
            yield Case(server.url, (reason,), limits, words=words, options=trusted)

    return setup


def refusal(status: int, *headers: str, body: str = "go away\n") -> Setup:
    """A server that answers with a status."""
    limits = AGAIN if status == 429 or status >= 500 else FINAL
    words = f"HTTP {status} .*go away" if body else f"HTTP {status}"
    return served(says(answer(status, body, *headers)), "rejected", limits, words)


def dripped(data: bytes, every: float = 0.05, *, secure: bool = False) -> Setup:
    """A server whose every byte comes in time, and whose answer never does."""
    return served(says(data * 100, every=every), "timeout", LATE, "in time", secure=secure)


@contextmanager
def unheard(world: World, place: Path) -> Iterator[Case]:
    """A port on which nothing listens."""
    with Server(nothing) as server:
        server.down()
        yield Case(server.url, ("connection",), AGAIN, words="Connection refused")


@contextmanager
def unheard_6(world: World, place: Path) -> Iterator[Case]:
    """The same by IPv6."""
    with Server(nothing, host="::1") as server:
        server.down()
        yield Case(server.address, ("connection",), AGAIN, words="Connection refused")


@contextmanager
def swallowed(world: World, place: Path) -> Iterator[Case]:
    """Packets go nowhere."""
    with trouble.black_hole() as address:
        yield Case(f"http://{address}", ("timeout",), LATE, words="in time")


@contextmanager
def no_such_name(world: World, place: Path) -> Iterator[Case]:
    """A name that nobody has; some resolvers take their time to say so."""
    yield Case("http://nowhere.invalid:9091", ("connection|timeout",), AGAIN)


@contextmanager
def no_names(world: World, place: Path) -> Iterator[Case]:
    """A resolver that never answers."""
    yield Case("http://gateway:9091", ("timeout",), LATE, words="in time", names=False)


def untrusted(whose: str, words: str) -> Setup:
    """A server with a certificate that must not be believed; it hears no word of ours."""

    @contextmanager
    def setup(world: World, place: Path) -> Iterator[Case]:
        certificate: Certificate = getattr(world, whose)
        known = world.good if whose == "good" else certificate
        trusted = () if whose == "good" else ("--ca-file", known.path)
        with Server(silent(), tls=certificate.context()) as server:
            yield Case(
                server.url,
                ("connection",),
                words=words,
                options=trusted,
                after=lambda: ["told something"] if any(e.heard for e in server.lines) else [],
                heal=world.secure,
            )

    return setup


@contextmanager
def no_tls(world: World, place: Path) -> Iterator[Case]:
    """Plain HTTP where https was promised."""

    def blunt(line: Line) -> None:
        line.hear(1)
        line.say(answer(400, "what is this"))

    with Server(blunt) as server:
        url = f"https://{server.address}"
        yield Case(url, ("connection",), AGAIN, words="SSL", heal=world.secure)


@contextmanager
def unexpected_tls(world: World, place: Path) -> Iterator[Case]:
    """Https where plain HTTP was told."""
    url = f"http://{world.secure.address}"
    yield Case(url, ("rejected",), words="HTTP 400", heal=world.secure)


@contextmanager
def wrong_password(world: World, place: Path) -> Iterator[Case]:
    """A real Pushgateway that wants another one."""
    password = place / "another"
    password.write_text("wrong " + PASSWORD[:3])
    yield Case(
        world.secure.url,
        ("rejected",),
        words="HTTP 401",
        options=("--ca-file", world.good.path, "--password-file", password),
        heal=world.secure,
    )


def unusable(option: str, content: str | None) -> Setup:
    """A file that is to be read for the push, and cannot be."""

    @contextmanager
    def setup(world: World, place: Path) -> Iterator[Case]:
        path = place / "unusable"
        if content is not None:
            path.write_text(content)
        options = (f"--{option}", path)
        yield Case(world.secure.url, ("rejected",), words=re.escape(str(path)), options=options)

    return setup


def moved(status: int, where: str) -> Setup:
    """A redirect, which nobody follows; `{here}` is its own server, `{there}` another one."""

    @contextmanager
    def setup(world: World, place: Path) -> Iterator[Case]:
        with Server(says(answer(200))) as other, Server(nothing) as server:
            place_to = where.format(here=server.url, there=other.url, far=other.address)
            server.behave = says(answer(status, "moved", f"Location: {place_to}"))

            def after() -> Iterator[str]:
                if other.lines:
                    yield f"followed to another host: {other.lines[0].heard[:100]!r}"
                if len(server.lines) != 1:
                    yield f"{len(server.lines)} requests"

            yield Case(server.url, ("rejected",), words=f"HTTP {status}", after=after)

    return setup


def proxies(url: str) -> dict[str, str]:
    """An environment that names a proxy for everything."""
    return dict.fromkeys(PROXIES, url.replace("://", f"://someone:{PROXY_WORD}@"))


@contextmanager
def proxy_not_asked_for(world: World, place: Path) -> Iterator[Case]:
    """The environment names a proxy, the settings do not: nobody goes there."""
    with Server(says(answer(200))) as trap:
        yield Case(
            world.gateway.url,
            (),
            code=0,
            environment=proxies(trap.url),
            after=lambda: ["the proxy was asked"] if trap.lines else [],
        )


def proxied(kind: str) -> Setup:
    """A proxy that works: what it passes on is whole."""

    @contextmanager
    def setup(world: World, place: Path) -> Iterator[Case]:
        gateway: Pushgateway = getattr(world, kind)
        with Server(trouble.proxy) as server:
            yield Case(
                gateway.url,
                (),
                code=0,
                options=("--proxy", *gateway.to[2:]),
                environment=proxies(server.url),
                after=lambda: [] if server.lines else ["the proxy was not asked"],
                heal=gateway,
            )

    return setup


def bad_proxy(
    behave: trouble.Behaviour | None,
    reason: str,
    limits: tuple[float, float] = AGAIN,
    *,
    kind: str = "gateway",
) -> Setup:
    """A proxy that is wanted and does not do its work; None: it is down."""

    @contextmanager
    def setup(world: World, place: Path) -> Iterator[Case]:
        gateway: Pushgateway = getattr(world, kind)
        with Server(behave or nothing) as server:
            if behave is None:
                server.down()
            yield Case(
                gateway.url,
                (reason,),
                limits,
                words="[Pp]roxy",
                options=("--proxy", *gateway.to[2:]),
                environment=proxies(server.url),
                heal=gateway,
            )

    return setup


@contextmanager
def no_proxy_address(world: World, place: Path) -> Iterator[Case]:
    """The environment names something that is no address."""
    environment = dict.fromkeys(PROXIES, f"http://someone:{PROXY_WORD}@[::1")
    url, option = world.gateway.url, ("--proxy",)
    yield Case(url, ("connection",), words="[Pp]roxy", options=option, environment=environment)


@contextmanager
def ipv6(world: World, place: Path) -> Iterator[Case]:
    """A busy server by IPv6, then a real one, whose address is told without a scheme."""
    busy = says(answer(503, "busy"))
    with Server(busy, host="::1") as server, Pushgateway(place, host="::1") as gateway:
        gateway.start()
        gateway.to = ("--pushgateway", gateway.address)
        yield Case(server.url, ("rejected",), AGAIN, words="HTTP 503", heal=gateway)


def pushed_before(world: World, place: Path, gateway: Pushgateway) -> None:
    """Let the gateway know the home as it is before its first batch."""
    home = Home(world, place, threading.current_thread().name)
    world.warm.call("push", *home.common(*gateway.to))


def killed(*, keeps: bool) -> Setup:
    """A real Pushgateway, killed between two pushes; it comes back with nothing, or with old."""

    @contextmanager
    def setup(world: World, place: Path) -> Iterator[Case]:
        file = f"--persistence.file={place / 'gateway.store'}"
        with world.new_gateway(*[file] * keeps) as gateway:
            gateway.start()
            pushed_before(world, place, gateway)
            if keeps:
                gateway.stop()  # by asking, or it would not have written
            else:
                gateway.kill()
            refused = "Connection refused"
            again = gateway.start
            yield Case(
                *(gateway.url, ("connection",), AGAIN), words=refused, restore=again, heal=gateway
            )

    return setup


@contextmanager
def killed_at_work(world: World, place: Path) -> Iterator[Case]:
    """A real Pushgateway, killed when it has half of a PUT."""
    with world.new_gateway() as gateway:
        gateway.start()
        pushed_before(world, place, gateway)

        def half(line: Line) -> None:
            data = line.hear()
            with trouble.connected(gateway.address) as other:
                other.sendall(data[: len(data) // 2])
                gateway.kill()
                relay(gateway.address)(line)

        with Server(half) as server:
            again = gateway.start
            yield Case(server.url, ("connection",), AGAIN, restore=again, heal=gateway)


@contextmanager
def halted(world: World, place: Path) -> Iterator[Case]:
    """A real Pushgateway that stands still for a while, then does what was asked meanwhile."""
    with world.new_gateway() as gateway:
        gateway.start()
        pushed_before(world, place, gateway)
        gateway.halt()
        again = gateway.go_on
        yield Case(gateway.url, ("timeout",), LATE, words="in time", restore=again, heal=gateway)


@contextmanager
def answer_lost(world: World, place: Path) -> Iterator[Case]:
    """The PUT arrives, the answer does not."""
    with Server(relay(world.gateway.address, heard=False)) as server:
        yield Case(server.url, ("connection",), AGAIN)


def cut(number: signal.Signals, code: int, *, arrived: bool = False) -> Setup:
    """The run itself is ended, in the middle of its PUT or when all of it has arrived."""

    @contextmanager
    def setup(world: World, place: Path) -> Iterator[Case]:
        there = threading.Event()

        def stall(line: Line) -> None:
            line.hear(None if arrived else 2_000)
            if arrived:
                with trouble.connected(world.gateway.address) as other:
                    other.sendall(line.heard)
                    while other.recv(1 << 16):
                        pass
            there.set()
            line.stay()

        def during(begun: Begun) -> bool:
            met = there.wait(30)
            os.kill(begun.pid, number)
            return met

        with Server(stall) as server:
            yield Case(server.url, (), (60, 60), code=code, during=during)

    return setup


@contextmanager
def textfile_alone(world: World, place: Path) -> Iterator[Case]:
    """Both sinks are set, and the gateway is down."""
    path = place / "textfile" / "wine.prom"

    def after() -> Iterator[str]:
        home = Home(world, place, threading.current_thread().name)
        written, known = (totals(text) for text in (path.read_text("utf-8"), home.metrics()))
        failed = {key: 0.0 for key in known if key[0] == "wine_drift_push_failures_total"}
        if written != known | failed:  # it was written before the push failed
            yield "the textfile is not as the ledger was"

    with Server(nothing) as server:
        server.down()
        options = ("--textfile", path)
        yield Case(server.url, ("connection",), AGAIN, options=options, after=after)


def no_textfile(*, gateway_too: bool) -> Setup:
    """The textfile cannot be written; the gateway is reached, or not either."""

    @contextmanager
    def setup(world: World, place: Path) -> Iterator[Case]:
        (place / "file").write_text("")
        path = place / "file" / "wine.prom"
        with Server(relay(world.gateway.address)) as server:
            if gateway_too:
                server.down()

            def after() -> Iterator[str]:
                if not (gateway_too or server.lines):
                    yield "the gateway was not asked"

            yield Case(
                *(server.url, ("rejected", "connection")[: 1 + gateway_too], AGAIN),
                words=re.escape(str(path)),
                at_fault=gateway_too,
                options=("--textfile", path),
                after=after,
            )

    return setup


def echo(where: str) -> trouble.Behaviour:
    """A refusal that repeats what it was sent, as some do to help; passwords among it."""

    def behave(line: Line) -> None:
        sent = next(e for e in line.hear().split(b"\r\n") if e.lower().startswith(b"authorization"))
        password = base64.b64decode(sent.split()[-1])
        say = {
            "body": answer(403, f"not with {sent.decode()}\nthat is {password.decode()}\n"),
            "status": b"HTTP/1.1 403 not with " + sent + b"\r\n\r\n",
            "redirect": answer(302, "", f"Location: file:///{sent.decode()}"),
            "garbage": b"what is " + sent + b"?\r\n",
        }
        line.say(say[where])

    return behave


LONG = b"a" * 100_000
GARBAGE = (
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"-ERR unknown command\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46",
    b"\x00" * 1_000,
    b"HTTP/1.1 OK 200\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"<html>\x1b[2J\x1b]0;owned\x07 %s {error}" + LONG[:20_000] + b"\r\n",
    bytes(random.Random(0).randbytes(5_000)),
)
FAULTS: dict[str, Sequence[Setup]] = {
    "down: nothing listens": [unheard],
    "down: packets go nowhere": [swallowed],
    "name does not resolve, or nobody says": [no_such_name, no_names],
    "connection reset, or closed without an answer": [
        served(trouble.resets, "connection"),
        served(trouble.hangs_up, "connection"),
        served(trouble.resets, "connection", secure=True),
    ],
    "takes the connection and never answers": [
        served(silent(), "timeout", LATE),
        served(silent(None), "timeout", LATE),
        served(trouble.deaf, "timeout", LATE),
    ],
    "drips byte after byte": [
        dripped(b"HTTP/1.1 200 OK and so on"),
        dripped(b"HTTP/1.1 200 OK\r\nA: b\r\nC: d"),
        dripped(answer(400, "no")[:-2] + b"\r\n"),
        dripped(b"HTTP/1.1 100 Continue\r\n\r\n", 0.005),
        served(says(b"H", LONG, every=1.0), "timeout", (2.5, 2.6)),
    ],
    "HTTP 400": [refusal(400), refusal(400, body="")],
    "HTTP 401 or 403": [refusal(401, "WWW-Authenticate: Basic"), refusal(403), wrong_password],
    "an answer that repeats the password": [
        served(echo("body"), "rejected", FINAL),
        served(echo("status"), "rejected", FINAL),
        served(echo("redirect"), "rejected", FINAL),
        served(echo("garbage"), "connection"),
    ],
    "HTTP 404, and others that are final": [refusal(404), refusal(405), refusal(410, body="")],
    "HTTP 429": [refusal(429), refusal(429, "Retry-After: 3600")],
    "HTTP 500": [refusal(500), refusal(500, body="")],
    "HTTP 502, 503 or 504": [refusal(503), refusal(503, "Retry-After: 0"), refusal(502)],
    "statuses that nobody knows": [refusal(999), refusal(599), refusal(304, body="")],
    "hangs up in the middle of its answer": [
        served(says(b"HTTP/1.1 20"), "connection"),
        served(says(b"HTTP/1.1 500 Internal Ser"), "rejected"),
        served(says(b"HTTP/1.1 500 No\r\nContent-Le"), "rejected"),
        served(says(answer(500, "and so on " * 50)[:-300]), "rejected"),
        served(says(b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"), "rejected"),
    ],
    "answers garbage": [served(says(each), "connection") for each in GARBAGE],
    "endless headers": [
        served(says(b"HTTP/1.1 200 OK\r\n", last=b"A: b\r\n" * 50), "connection"),
        served(says(b"HTTP/1.1 200 OK\r\nA: ", last=LONG), "connection"),
        served(says(b"HTTP/1.1 200 ", last=LONG), "connection"),
        served(says(last=b"HTTP/1.1 100 Continue\r\n\r\n"), "timeout", LATE),
        served(says(b"HTTP/1.1 500 " + LONG[:60_000] + b"\r\n\r\n"), "rejected"),
    ],
    "endless body": [
        served(says(b"HTTP/1.1 500 No\r\n\r\n", last=LONG), "rejected"),
        served(says(b"HTTP/1.1 400 No\r\n\r\n", last=b"\n" * 10_000), "rejected", FINAL),
        served(says(answer(500)[:-5] + b"9" * 30 + b"\r\n\r\n", last=LONG), "rejected"),
        served(
            says(
                b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n",
                last=b"FFFFF\r\n" + b"a" * 0xFFFFF + b"\r\n",
            ),
            "rejected",
            FINAL,
        ),
    ],
    "certificate of nobody, of another, or of the past": [
        untrusted("good", "self.signed certificate"),
        untrusted("elsewhere", "mismatch"),
        untrusted("expired", "expired"),
    ],
    "plain HTTP instead of https, or the other way round": [no_tls, unexpected_tls],
    "TLS that goes wrong on the way": [
        served(silent(), "timeout", LATE, secure=True),
        dripped(b"HTTP/1.1 200 OK\r\nA: b\r\nC: d", 0.01, secure=True),
        served(says(b"HTTP/1.1 50"), "connection", secure=True),
        refusal(503),
    ],
    "password or CA file that cannot be used": [
        unusable("password-file", None),
        unusable("ca-file", None),
        unusable("ca-file", "no certificate"),
    ],
    "redirect on the same host, or in a loop": [
        moved(status, where)
        for status in (301, 302, 303, 307, 308)
        for where in ("{here}/metrics/job/wine_drift", "", "/metrics")
    ],
    "redirect to elsewhere": [
        *(moved(status, "{there}/metrics/job/wine_drift") for status in (301, 302, 303, 307, 308)),
        *(moved(302, where) for where in ("//{far}/", "ftp://{far}/", "file:///etc/passwd")),
        moved(302, "http://["),
    ],
    "proxy in the environment that is not asked for": [proxy_not_asked_for],
    "proxy that is asked for": [proxied("gateway"), proxied("secure")],
    "proxy down": [bad_proxy(None, "connection"), bad_proxy(None, "connection", kind="secure")],
    "proxy refuses, or wants a password": [
        bad_proxy(says(answer(407, "who is there")), "rejected", FINAL),
        bad_proxy(says(answer(403, "proxy says no")), "rejected", FINAL),
        bad_proxy(says(answer(407, "who is there")), "connection|rejected", kind="secure"),
        bad_proxy(says(answer(403, "proxy says no")), "connection|rejected", kind="secure"),
    ],
    "proxy never answers, or has no address": [
        bad_proxy(silent(), "timeout", LATE),
        bad_proxy(silent(), "timeout", LATE, kind="secure"),
        no_proxy_address,
    ],
    "gateway killed between two pushes": [killed(keeps=False), killed(keeps=True)],
    "gateway killed in the middle of a push": [killed_at_work],
    "gateway stands still, then goes on": [halted],
    "pushed, and the answer is lost": [answer_lost],
    "run killed in the middle of its push": [
        cut(signal.SIGKILL, -signal.SIGKILL),
        cut(signal.SIGTERM, -signal.SIGTERM),
        cut(signal.SIGINT, 130),
    ],
    "run killed when its push has arrived": [cut(signal.SIGKILL, -signal.SIGKILL, arrived=True)],
    "textfile written, gateway down": [textfile_alone],
    "gateway reached, textfile not": [no_textfile(gateway_too=False)],
    "neither gateway nor textfile": [no_textfile(gateway_too=True)],
}
IPV6: dict[str, Sequence[Setup]] = {
    "by IPv6": [ipv6, unheard_6, served(silent(), "timeout", LATE, host="::1")],
}


# --- a stream of batches with outages ---


@dataclass(frozen=True)
class Outage:
    """A time in which pushes fail; `began` and `ended` are called with server and gateway."""

    behave: trouble.Behaviour | None
    reason: str | None  # of each failure; None: the run is killed
    limits: tuple[float, float] = AGAIN
    began: Callable[[Server, Pushgateway], object] = nothing
    ended: Callable[[Server, Pushgateway], object] = nothing
    batches: tuple[int, ...] = (1, 1, 2)


# A gateway that goes on after it stood still takes what has piled up in any order, and then holds
# the figures of any of these runs until the next push. No client can help that, so it is one run.
OUTAGES = (
    Outage(None, "connection", began=lambda s, g: s.down(), ended=lambda s, g: s.up()),
    Outage(None, "connection", began=lambda s, g: g.kill(), ended=lambda s, g: g.start()),
    Outage(None, "timeout", LATE, lambda s, g: g.halt(), lambda s, g: g.go_on(), (1,)),
    Outage(trouble.resets, "connection"),
    Outage(trouble.hangs_up, "connection"),
    Outage(silent(), "timeout", LATE),
    Outage(silent(None), "timeout", LATE),
    Outage(says(b"HTTP/1.1 200 OK and so on" * 100, every=0.05), "timeout", LATE),
    *(Outage(says(answer(status, "no")), "rejected", FINAL) for status in (400, 401, 403, 404)),
    *(Outage(says(answer(status, "no")), "rejected") for status in (429, 500, 503)),
    Outage(says(answer(302, "", "Location: /")), "rejected", FINAL),
    Outage(says(GARBAGE[0]), "connection"),
    Outage(says(answer(500, "and so on " * 50)[:-300]), "rejected"),
    Outage(silent(2_000), None, (60, 60)),
)


def stream(world: World, n_outages: int, seed: int) -> Row:
    """Batch after batch, with outages of all kinds in between; both sinks are set."""
    rng, place = random.Random(seed), world.folder / "stream"
    home = Home.make(world, place, "stream")
    left, textfile = iter(world.batches), place / "wine.prom"
    row, usual = Row("", 0), [SLACK]  # seconds of runs without trouble

    def one(limits: tuple[float, float], outage: Outage | None) -> Iterator[str]:
        home.send(next(left))
        how = ("--push-timeout", limits[0], "--push-deadline", limits[1], "--textfile", textfile)
        known = len(server.lines)
        begun = world.warm.begin(*home.run("--pushgateway", server.url, *how))
        expected = 4 if outage else 0
        if outage and outage.reason is None:
            server.wait(lambda: any(len(line.heard) >= 2_000 for line in server.lines[known:]))
            os.kill(begun.pid, signal.SIGKILL)
            expected = -signal.SIGKILL
        done = patient(begun)
        if outage and outage.reason:
            late = LATE_WORDS in done.err and usual[-1] > USUAL
            home.failures["timeout" if late else outage.reason] += 1
        if done.code != expected:
            yield f"exit code {done.code}, not {expected}: {done.err[-300:]}"
        if "Traceback" in done.err:
            yield "a traceback"
        over = done.seconds - limits[1]
        if done.code >= 0 and over > SLACK + BUSY * usual[-1]:
            yield f"ended {over:.1f} s after its deadline"
        if outage is None:
            usual.append(done.seconds)

    def recovered() -> Iterator[str]:
        yield from home.published(gateway)
        if families(textfile.read_text(encoding="utf-8")) != families(home.metrics()):
            yield "the textfile is not as the ledger"

    with (
        world.new_gateway() as gateway,
        Server(relay(gateway.address)) as server,
        watched(gateway, "stream") as backwards,
    ):
        gateway.start()
        broken = [*one(FINAL, None), *recovered()]
        chosen = [OUTAGES[number % len(OUTAGES)] for number in range(n_outages)]
        rng.shuffle(chosen)
        for number, outage in enumerate(chosen):
            found: list[str] = []
            server.behave = outage.behave or server.behave
            outage.began(server, gateway)
            for _ in range(rng.choice(outage.batches)):
                found += one(outage.limits, outage)
            outage.ended(server, gateway)
            server.settle()
            server.behave = relay(gateway.address)
            for _ in range(rng.choice((1, 1, 2))):
                found += one(FINAL, None)
            found += recovered()
            state = home.account()
            broken += [f"outage {number}: {each}" for each in (*found, *state.broken)]
            lost, doubled = row.lost + state.lost, row.doubled + state.doubled
            row = replace(row, tried=row.tried + 1, lost=lost, doubled=doubled)
    return replace(row, broken=(*broken, *backwards))


@contextmanager
def watched(gateway: Pushgateway, pipeline: str) -> Iterator[list[str]]:
    """Look at the gateway all the time; the counters that were seen to go backwards."""
    over, backwards = threading.Event(), []
    here, highest = f'pipeline="{pipeline}"', defaultdict[tuple[str, ...], float](float)

    def watch() -> None:
        while not over.wait(0.05):
            try:
                text = gateway.text()
            except (OSError, HTTPException):  # it has been killed
                continue
            counters = [line for line in text.splitlines() if "_total" in line]
            of_us = [line for line in counters if line.startswith("#") or here in line]
            for key, value in totals("\n".join(of_us) + "\n").items():
                if value < highest[key]:
                    backwards.append(f"{' '.join(key)} went from {highest[key]} to {value}")
                highest[key] = value

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield backwards
    finally:
        over.set()
        watcher.join()


# --- the drill ---


def drill(place: Path, *, thorough: bool, seed: int) -> Iterator[Row]:
    """Each fault and a stream with outages; thorough: all of their variants, several times.

    Raises
    ------
    trouble.Missing
        There is no Pushgateway, or no openssl, on this machine.
    """
    n_outages = 120 if thorough else 10
    numbers, rng = itertools.count(), random.Random(seed)
    faults = FAULTS | (IPV6 if trouble.has_ipv6() else {})
    with (
        World.begin(place.resolve(), n_batches=4 * n_outages + 2, seed=seed) as world,
        ThreadPoolExecutor(WORKERS + 1, thread_name_prefix="outages") as pool,
    ):
        outages = pool.submit(stream, world, n_outages, seed)
        met: dict[str, list[Future[Row]]] = {}
        for fault, setups in faults.items():
            plan = [(rng.choice(setups), True, 1)]
            if thorough:  # by one attempt or two, by all four, and started as a shell does
                plan = [(setup, True, patience) for setup in setups for patience in (1, 5, 1)]
                plan += [(rng.choice(setups), False, 1)] * (no_names not in setups)
            met[fault] = [
                pool.submit(meet, world, setup, next(numbers), warm=warm, patience=patience)
                for setup, warm, patience in plan
            ]
        try:
            for fault, futures in met.items():
                yield total(fault, [future.result() for future in futures])
            yield total("outages in a stream of batches", [outages.result()])
        finally:
            pool.shutdown(cancel_futures=True)


def total(fault: str, rows: Sequence[Row]) -> Row:
    """One row of many; what was broken in the same words is told once."""
    broken = Counter(each for row in rows for each in row.broken)
    return Row(
        fault,
        sum(row.tried for row in rows),
        sum(row.lost for row in rows),
        sum(row.doubled for row in rows),
        sum(row.tracebacks for row in rows),
        tuple(
            f"{words} ({times} times)" if times > 1 else words for words, times in broken.items()
        ),
    )


if __name__ == "__main__":
    stay_warm(sys.argv[1])
