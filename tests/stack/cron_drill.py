"""The shipped crontab under Debian's own cron, for five minutes: `make cron-drill`.

jobs/crontab is edited as a person would, to every minute, and installed with crontab(1). Three
batches in three minutes; a minute in which the lock is held; a bad file, and the mail about it.
All of this is in a mount namespace of its own, with a spool and a sendmail that nobody else sees:
whatever happens, there is nothing to put back. Needs Debian's cron, and root or sudo.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families

from wine_drift.dataset import load_schema
from wine_drift.ledger import Ledger
from wine_drift.settings import Settings
from wine_drift.supply import write_simulated

CRONTAB = Path(__file__).resolve().parents[2] / "jobs" / "crontab"
SHIPPED = "*/15 * * * *"
EVERY_MINUTE = "* * * * *"
GRACE = 45  # seconds after a full minute by which its run has ended
SUDO = [] if os.geteuid() == 0 else ["sudo", "-n"]
SENDMAIL = """#!/bin/sh
set -e
PATH=/usr/bin:/bin
mail=$(mktemp {0}/.XXXXXX)
cat >"$mail"
chmod a+r "$mail"
mv "$mail" "{0}/mail-$$"
"""
# Runs as root. The machine's own jobs are hidden, or a second cron would do them a second time. It
# goes on until the drill ends, however that ends.
NAMESPACE = """set -eu
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sbin
mount --bind /usr/sbin /run/sbin
mount -t tmpfs -o mode=755 tmpfs /usr/sbin
ln -s /run/sbin/* /usr/sbin/
ln -sf "$1/sendmail" /usr/sbin/sendmail
: >/run/crontab
[ ! -f /etc/crontab ] || mount --bind /run/crontab /etc/crontab
[ ! -d /etc/cron.d ] || mount -t tmpfs tmpfs /etc/cron.d
install -d -g crontab -m 1730 /run/crontabs
mount --bind /run/crontabs /var/spool/cron/crontabs
crontab -u "$2" "$1/crontab"
cron -f &
trap 'kill $!' EXIT
echo started
read -r _ || :
"""


def say(text: str) -> None:
    """One line, with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
    sys.stdout.flush()


def hold(what: str, found: object, expected: object) -> None:
    """It is as promised, or the drill ends."""
    if found != expected:
        sys.exit(f"{what}: {found!r}, and not {expected!r}")
    say(f"{what}: {found}")


def edited(crontab: str, values: Mapping[str, object]) -> str:
    """A crontab with other values of its variables, and every minute.

    >>> edited("PATH=/bin\\n*/15 * * * * true\\n", {"PATH": "/usr/bin"})
    'PATH=/usr/bin\\n* * * * * true\\n'
    """
    for name, value in values.items():
        crontab, n = re.subn(rf"(?m)^{name}=.*$", f"{name}={value}", crontab)
        if n != 1:
            sys.exit(f"{name}= stands in {CRONTAB} {n} times")
    crontab, n = re.subn(rf"(?m)^{re.escape(SHIPPED)} ", f"{EVERY_MINUTE} ", crontab)
    if n != 1:
        sys.exit(f"{SHIPPED} stands in {CRONTAB} {n} times")
    return crontab


class Job:
    """The job in a folder of its own, and what is known of it."""

    def __init__(self, place: Path, sink: str | None) -> None:
        self.place, self.sink = place, sink
        self.home, self.inbox, self.mail = place / "home", place / "inbox", place / "mail"
        self.log = place / "runs.log"
        for folder in (self.inbox, self.mail):
            folder.mkdir()
        self._prepare(place / "wine-drift.toml")

    def _prepare(self, settings: Path) -> None:
        """What a person does before the crontab is installed."""
        wine_drift("init", settings)
        if self.sink is not None:
            with settings.open("a", encoding="utf-8") as file:
                file.write(f'pushgateway = "{self.sink}"\n')
        drawn = Settings(source="simulated", batch_rows=1600)
        (table,) = write_simulated(drawn, load_schema(None), n_batches=1, out=self.place)
        wine_drift("train", "--home", self.home, "--data", table, "--rounds", 20)
        values = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "WINE_DRIFT_SETTINGS": settings,
            "WINE_DRIFT_HOME": self.home,
            "WINE_DRIFT_INBOX": self.inbox,
            "WINE_DRIFT_LOG_FILE": self.log,
            "WINE_DRIFT_CRON": f'"{EVERY_MINUTE}"',
        }
        text = edited(CRONTAB.read_text(encoding="utf-8"), values)
        (self.place / "crontab").write_text(text, encoding="utf-8")
        sendmail = self.place / "sendmail"
        sendmail.write_text(SENDMAIL.format(self.mail))
        sendmail.chmod(0o755)

    def send(self, name: str, data: bytes, age: float = 0) -> None:
        """Put a file into the inbox as a sender does; the older one is taken first."""
        part = self.inbox / f".{name}"
        part.write_bytes(data)
        os.utime(part, (time.time() - age, time.time() - age))
        part.rename(self.inbox / name)

    def lines(self) -> list[str]:
        """The log, a line for each run."""
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []

    def tells(self, n_lines: int) -> None:
        """Wait until the log has so many lines."""
        until(f"line {n_lines} of the log", lambda: len(self.lines()) == n_lines)

    def told(self, key: str) -> list[str]:
        """One thing that the log tells of each run."""
        return [re.findall(rf" {key}=(\S+)", line)[0] for line in self.lines()]

    def mails(self) -> list[str]:
        """What cron has mailed."""
        return [path.read_text(encoding="utf-8") for path in self.mail.glob("mail-*")]

    def metrics(self) -> dict[tuple[str, ...], float]:
        """What is published: sample without its prefix, and its own labels -> value."""
        if self.sink is None:
            text = (self.home / "metrics" / "wine_drift.prom").read_text(encoding="utf-8")
        else:
            text = get(f"{self.sink}/metrics")
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                own = {k: v for k, v in sample.labels.items() if k in ("outcome", "reason")}
                found[(sample.name.removeprefix("wine_drift_"), *own.values())] = sample.value
        return found

    def publishes(self, *, success: int, quarantined: int, missed: int, skipped: int) -> None:
        """The counters, or the end of the drill."""
        found = self.metrics()
        names = ("batches_total", "success"), ("batches_total", "quarantined")
        totals = [found[name] for name in (*names, ("runs_missed_total",), ("runs_skipped_total",))]
        hold(
            "batches, quarantined, runs missed, skipped",
            totals,
            [success, quarantined, missed, skipped],
        )

    def by_hand(self) -> subprocess.CompletedProcess[str]:
        """The line of the crontab, as cron starts it."""
        text = (self.place / "crontab").read_text(encoding="utf-8")
        words = dict(re.findall(r'(?m)^(\w+)="?(.*?)"?$', text))
        (line,) = re.findall(rf"(?m)^{re.escape(EVERY_MINUTE)} (.*)$", text)
        usual = {"HOME": str(Path.home()), "LOGNAME": getpass.getuser()}
        call = [words["SHELL"], "-c", line]
        return subprocess.run(call, env=usual | words, capture_output=True, text=True, check=False)


def wine_drift(*arguments: object) -> None:
    """Run a command of the program; it has to end well."""
    words = [sys.executable, "-m", "wine_drift", *map(str, arguments)]
    env = {name: word for name, word in os.environ.items() if not name.startswith("WINE_DRIFT_")}
    subprocess.run(words, env=env, cwd="/", check=True, stdout=subprocess.DEVNULL)


def get(url: str) -> str:
    """GET without a proxy."""
    with build_opener(ProxyHandler({})).open(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def until(what: str, condition: Callable[[], Any], seconds: float = GRACE) -> Any:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            sys.exit(f"not within {seconds:g} s: {what}")
        time.sleep(0.2)
    return found


@contextlib.contextmanager
def gateway() -> Iterator[str | None]:
    """The address of a Pushgateway for as long as the block lasts; None where there is none."""
    program = shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")
    if program is None:
        say("no Pushgateway on PATH: the textfile is looked at")
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    store = "--persistence.file="  # none; Debian keeps one for all of the machine
    call = [program, store, f"--web.listen-address={address}"]
    with subprocess.Popen(call, stderr=subprocess.DEVNULL) as process:
        try:
            until("the Pushgateway", lambda: _ready(f"http://{address}/-/ready"))
            yield f"http://{address}"
        finally:
            process.terminate()


def _ready(url: str) -> bool:
    with contextlib.suppress(URLError):
        return bool(get(url))
    return False


@contextlib.contextmanager
def cron(place: Path) -> Iterator[None]:
    """Debian's cron with the crontab of this folder, for as long as the block lasts."""
    unshare = [*SUDO, "unshare", "--mount", "sh", "-c", NAMESPACE, "sh"]
    process = subprocess.Popen(
        [*unshare, str(place), getpass.getuser()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for us alone
    )
    with process:
        assert process.stdout is not None
        if process.stdout.readline() != "started\n":
            sys.exit("cron was not started; it takes root, or sudo without a password")
        yield


def three_minutes(job: Job, wines: Sequence[Path]) -> None:
    """A batch a minute, each taken in its minute, and not a word about it."""
    for number, wine in enumerate(wines, 1):
        job.send(wine.name, wine.read_bytes())
        next_minute()
        job.tells(number)
        say(job.lines()[-1])
    minutes = [int(moment(line) // 60) for line in job.lines()]
    hold("minutes from run to run", [b - a for a, b in pairwise(minutes)], [1, 1])
    hold("outcomes", job.told("outcome"), ["processed"] * 3)
    with Ledger.open(job.home, read_only=True) as ledger:
        records = ledger.records(9)
    hold("batches in the ledger", [r["batch"]["name"] for r in records], [w.name for w in wines])
    hold("files in the archive", len(list((job.home / "archive").iterdir())), 3)
    job.publishes(success=3, quarantined=0, missed=0, skipped=0)
    hold("interval", job.metrics()["schedule_interval_seconds",], 60)
    due = 60.0 * (minutes[-1] + 1)
    hold("next run", job.metrics()["next_run_timestamp_seconds",], due)
    hold("mails", job.mails(), [])


def lock_held(job: Job, wine: Path) -> None:
    """As if the last start were still at work: the line does nothing and says nothing."""
    with (job.home / "cron.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        job.send(wine.name, wine.read_bytes())
        next_minute()
        time.sleep(10)
        done = job.by_hand()
    hold("exit code and words of the line", (done.returncode, done.stdout + done.stderr), (5, ""))
    hold("lines of the log", len(job.lines()), 3)
    hold("files that wait", [path.name for path in job.inbox.iterdir()], [wine.name])
    hold("mails", job.mails(), [])


def bad_file(job: Job) -> None:
    """An older file is bad: it goes to quarantine, the next one is taken, a person is told."""
    job.send("bad.csv", b"not;wine\n1;2\n", age=3600)
    next_minute()
    job.tells(5)
    until("a mail", job.mails)
    hold("mails", len(job.mails()), 1)
    hold("outcomes", job.told("outcome")[3:], ["quarantined", "processed"])
    hold("exit codes", job.told("exit_code")[3:], ["3", "0"])
    hold("files in quarantine", len(list((job.home / "quarantine").iterdir())), 1)
    hold("files that wait", list(job.inbox.iterdir()), [])
    job.publishes(success=4, quarantined=1, missed=1, skipped=0)
    say("the mail:\n" + job.mails()[0])
    head, _, body = job.mails()[0].partition("\n\n")
    hold("it is for", re.findall("(?m)^To: (.*)$", head), ["root"])
    hold("it tells of the file", "bad.csv" in body and "quarantine" in body, True)
    hold("runs that it tells of", len(re.findall(r"\boutcome=", body)), 1)


def next_minute() -> None:
    """Wait until cron starts what is due."""
    time.sleep(60 - time.time() % 60)


def moment(line: str) -> float:
    """Unix time of a line of the log."""
    return datetime.fromisoformat(line.split()[0]).timestamp()


def main() -> None:
    """All of it."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for program in ("cron", "crontab", "flock", "unshare", *SUDO[:1]):
        if shutil.which(program) is None:
            sys.exit(f"needs {program}: apt-get install cron util-linux sudo")
    before = crontab_now()
    with tempfile.TemporaryDirectory(prefix="cron-drill-") as scratch, gateway() as sink:
        job = Job(Path(scratch), sink)
        drawn = Settings(source="simulated", batch_rows=100, seed=1)
        wines = write_simulated(drawn, load_schema(None), n_batches=4, out=Path(scratch, "wines"))
        if time.time() % 60 > 50:  # the first file should be there before the first minute ends
            next_minute()
        with cron(Path(scratch)):
            three_minutes(job, wines[:3])
            lock_held(job, wines[3])
            bad_file(job)
    hold("crontab of this machine's user, as before", crontab_now() == before, True)
    say("all of it held")


def crontab_now() -> str:
    """The crontab outside of the drill."""
    call = ["crontab", "-l"]
    return subprocess.run(call, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    main()
