"""A ledger in PostgreSQL: what differs from a file. tests/test_ledger.py has what does not."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from database import PASSWORD, USER, Database
from test_ledger import ROOM, V1, commit

from wine_drift import failpoints
from wine_drift.errors import AlreadyRunning, SettingsError, StateUnreadable
from wine_drift.home import writing
from wine_drift.ledger import Ledger
from wine_drift.locking import locked
from wine_drift.postgres import Postgres
from wine_drift.settings import Settings

Cli = Callable[..., Result]
Kept = Callable[..., dict[str, Any]]

TRAINING = ("--rounds", 5, "--threads", 1)
SECRETS = (USER, PASSWORD)
STEPS = (
    *("ledger: connect", "ledger: lock", "ledger: begin", "ledger: commit", "ledger: committed"),
    "archive: move",
)


def schema_of(address: str) -> str:
    """Name of the schema that an address leads to."""
    return address.rpartition("%3D")[2]


def tables(server: Database, address: str) -> list[str]:
    """What is in a schema."""
    query = f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema_of(address)}' ORDER BY 1"
    return [row[0] for row in server.ask(query)]


# --- the ledger itself ---


def test_numbers_never_come_again(address: str, tmp_path: Path) -> None:
    """Of entries and of the window, though the newest rows are gone; and none is left out."""
    with Ledger.open(tmp_path, address) as ledger:
        ledger.commit_batch(commit("a"), ROOM)
        with pytest.raises(KeyError):
            ledger.commit_batch(commit("b", 2, run={"success": True}), ROOM)
        ledger.commit_batch(commit("c", 2), ROOM)
        assert ledger.find("2") is not None and ledger.next_sequence() == 3
        assert [entry for entry, _ in ledger.history()] == [1, 2]
        ledger._connection.execute("DELETE FROM history WHERE entry > 1")
        ledger._connection.execute('DELETE FROM "window"')
    with Ledger.open(tmp_path, address) as ledger:
        ledger.commit_champion(V1, None)
        ledger.commit_batch(commit("d", 3), ROOM)
        assert [entry for entry, _ in ledger.history()] == [1, 3, 4]
        (number,) = ledger._connection.execute('SELECT number FROM "window"').fetchone()
        assert number == 3


def test_ledgers_of_one_database_are_apart(server: Database, tmp_path: Path, address: str) -> None:
    """Each is a schema of its own, with its own lock."""
    other = server.make(f"{schema_of(address)}_other")
    with Ledger.open(tmp_path, address) as one, Ledger.open(tmp_path, other) as two:
        one.commit_batch(commit("a"), ROOM)
        assert two.batch("a") is None and two.next_sequence() == 1
        two.commit_champion(V1, None)
        assert one.champion() is None


def test_reading_makes_nothing(server: Database, address: str, tmp_path: Path) -> None:
    """A ledger that is not there reads as empty and stays away; a reader cannot write."""
    home = tmp_path / "none"
    with Ledger.open(home, address, read_only=True) as ledger:
        assert ledger.champion() is None and ledger.snapshot().run is None
    assert tables(server, address) == [] and not home.exists()
    assert not Ledger.exists(home, address)
    with Ledger.open(home, address) as ledger:
        ledger.commit_batch(commit("a"), ROOM)
    assert Ledger.exists(home, address)
    with Ledger.open(home, address, read_only=True) as ledger:
        with pytest.raises(StateUnreadable, match="read-only"):
            ledger.commit_batch(commit("b", 2), ROOM)
        assert ledger.next_sequence() == 2


def test_what_is_read_together_is_of_one_moment(address: str, tmp_path: Path) -> None:
    """While a run writes, who does not wait for its readers."""
    opened = Ledger.open(tmp_path, address), Ledger.open(tmp_path, address, read_only=True)
    with opened[0] as writer:
        writer.commit_batch(commit("a"), ROOM)
        with opened[1] as reader:
            with reader.still():
                assert reader.next_sequence() == 2
                writer.commit_batch(commit("b", 2), ROOM)
                assert reader.next_sequence() == 2 and len(reader.records(9)) == 1
            assert reader.next_sequence() == 3


@pytest.mark.parametrize(
    ("number", "told"), [(99, "newer release"), (1, "before the first"), (3, "before the first")]
)
def test_another_ledger_is_refused_untouched(
    server: Database, address: str, tmp_path: Path, number: int, told: str
) -> None:
    """A ledger from another release is told apart and not written to."""
    with Ledger.open(tmp_path, address):
        pass
    server.ask(f"UPDATE {schema_of(address)}.schema_number SET number = {number}")
    for read_only in (False, True):
        with (
            pytest.raises(StateUnreadable, match=told) as caught,
            Ledger.open(tmp_path, address, read_only=read_only),
        ):
            pass
        assert "nothing was changed" in caught.value.remedy


def test_tables_of_others_are_left_alone(server: Database, address: str, tmp_path: Path) -> None:
    """Other names do no harm; a table that has one of ours is not taken for a ledger."""
    server.ask(f"CREATE TABLE {schema_of(address)}.wines (name TEXT)")
    with Ledger.open(tmp_path, address) as ledger:
        ledger.commit_champion(V1, None)
    for table in (
        name for name in tables(server, address) if name not in ("wines", "schema_number")
    ):
        other = server.make(f"{schema_of(address)}_{table}")
        server.ask(f'CREATE TABLE {schema_of(other)}."{table}" (year INTEGER)')
        with (
            pytest.raises(StateUnreadable, match="no ledger") as caught,
            Ledger.open(tmp_path, other),
        ):
            pass
        assert "empty schema" in caught.value.remedy
        assert tables(server, other) == [table]


def test_the_tables_are_those_of_a_file(server: Database, address: str, tmp_path: Path) -> None:
    """Table by table and column by column, but for the number of the schema."""
    with Ledger.open(tmp_path) as file, Ledger.open(tmp_path, address):
        execute = file._connection.execute
        names = execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        expected = {
            (name, row[1])
            for (name,) in names
            if not name.startswith("sqlite")
            for row in execute(f"PRAGMA table_info({name})").fetchall()
        }
    query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema ="
    found = {tuple(row) for row in server.ask(f"{query} '{schema_of(address)}'")}
    own = {("schema_number", "number"), ("numbers", "name"), ("numbers", "last")}
    assert found - own == expected
    indexes = server.ask(
        "SELECT indexname FROM pg_indexes WHERE indexname ~ '_by_|labelled_' AND schemaname ="
        f" '{schema_of(address)}' ORDER BY 1"
    )
    assert [row[0] for row in indexes] == [
        *("batches_by_entry", "labelled_batches", "scored_by_batch", "window_by_batch")
    ]


def test_a_schema_that_is_not_there(server: Database, tmp_path: Path) -> None:
    """It is told what to do; nothing lands in another one."""
    with (
        pytest.raises(SettingsError, match="no schema") as caught,
        Ledger.open(tmp_path, server.address("nowhere")),
    ):
        pass
    assert "create the schema" in caught.value.remedy


def test_a_commit_is_on_the_disk(server: Database, address: str, tmp_path: Path) -> None:
    """Whatever the server does by default; and nobody waits for ever."""
    server.ask(f"ALTER ROLE {USER} SET synchronous_commit = off")
    server.ask(f"ALTER ROLE {USER} SET default_transaction_isolation = serializable")
    try:
        with Ledger.open(tmp_path, address) as ledger:
            ask = ledger._connection.execute
            found = {
                name: ask(f"SHOW {name}").fetchone()[0]
                for name in ("synchronous_commit", "statement_timeout", "lock_timeout")
            }
            ledger.commit_batch(commit("a"), ROOM)
    finally:
        server.ask(f"ALTER ROLE {USER} RESET ALL")
    assert found == {
        "synchronous_commit": "on",
        "statement_timeout": "5min",
        "lock_timeout": "10s",
    }


def test_the_address_has_the_last_word(server: Database, address: str, tmp_path: Path) -> None:
    """On how long things may take, and on all else that libpq knows."""
    there = f"{address}%20-cstatement_timeout%3D7s&application_name=cellar"
    with Ledger.open(tmp_path, there, lock_wait=5) as ledger:
        ask = ledger._connection.execute
        found = [
            ask(f"SHOW {name}").fetchone()[0] for name in ("statement_timeout", "lock_timeout")
        ]
        assert found == ["7s", "10s"]
        assert server.ask("SELECT 1 FROM pg_stat_activity WHERE application_name = 'cellar'")


# --- one at a time ---


def test_one_run_at_a_time_over_homes(address: str, tmp_path: Path) -> None:
    """Whoever comes second is told so at once, or waits its turn, or gives up in time."""
    settings = Settings(home=tmp_path / "a", ledger=address)
    other = Settings(home=tmp_path / "b", ledger=address)
    with writing(settings):
        began = time.monotonic()
        with pytest.raises(AlreadyRunning) as caught, writing(other):
            pass
        assert time.monotonic() - began < 5
        assert not [word for word in SECRETS if word in str(caught.value)]
        began = time.monotonic()
        waiting = Settings(home=tmp_path / "b", ledger=address, lock_wait=0.5)
        with pytest.raises(AlreadyRunning), writing(waiting):
            pass
        assert 0.5 <= time.monotonic() - began < 5
    with writing(other) as ledger:
        assert ledger.next_sequence() == 1


def test_one_wait_for_both_locks(address: str, tmp_path: Path) -> None:
    """What the lock of the home has taken is not there for that of the ledger."""
    other = Settings(home=tmp_path / "b", ledger=address, lock_wait=2.0)
    held = threading.Event()

    def hold() -> None:
        with locked(tmp_path / "b"):
            held.set()
            time.sleep(1.6)

    with writing(Settings(home=tmp_path / "a", ledger=address)):
        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(20)
        began = time.monotonic()
        with pytest.raises(AlreadyRunning, match="postgresql"), writing(other):
            pass
        assert 1.9 < time.monotonic() - began < 3.2
        thread.join()


def test_who_waits_gets_its_turn(address: str, tmp_path: Path) -> None:
    """As soon as the run before it is over."""
    taken: list[float] = []

    def second() -> None:
        with Ledger.open(tmp_path / "b", address, lock_wait=60) as ledger:
            taken.append(time.monotonic())
            ledger.commit_batch(commit("b", 2), ROOM)
            limit = ledger._connection.execute("SHOW lock_timeout").fetchone()
            taken.append(limit == ("10s",))

    with Ledger.open(tmp_path / "a", address) as ledger:
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        ledger.commit_batch(commit("a"), ROOM)
        done = time.monotonic()
        assert taken == []
    thread.join(30)
    assert taken[0] > done and taken[1] is True


def test_a_run_that_was_overtaken_writes_nothing(address: str, tmp_path: Path) -> None:
    """Should the lock fail, as behind a pooler that hands out connections by the transaction."""
    with Ledger.open(tmp_path, address) as ledger:
        ledger.commit_batch(commit("a"), ROOM)
        ledger._connection.execute("SELECT pg_advisory_unlock_all()")
        with Ledger.open(tmp_path, address) as other:
            other.commit_batch(commit("b", 2), ROOM)
        with pytest.raises(AlreadyRunning, match="has written meanwhile"):
            ledger.commit_batch(commit("c", 2), ROOM)
    with Ledger.open(tmp_path, address, read_only=True) as ledger:
        assert ledger.batch("c") is None and ledger.next_sequence() == 3


def test_two_transactions_are_one_after_the_other(address: str, tmp_path: Path) -> None:
    """Also without the lock of the connection: the second finds what the first has written."""
    going, ends = threading.Event(), []
    with Ledger.open(tmp_path / "a", address) as first:
        first._connection.execute("SELECT pg_advisory_unlock_all()")
        with Ledger.open(tmp_path / "b", address) as second:
            second._connection.execute("SELECT pg_advisory_unlock_all()")

            def slowly() -> None:
                with first._entry():
                    going.set()
                    time.sleep(0.5)
                ends.append(time.monotonic())

            thread = threading.Thread(target=slowly)
            thread.start()
            assert going.wait(20)
            with pytest.raises(AlreadyRunning, match="has written meanwhile"):
                second.commit_batch(commit("b"), ROOM)
            refused = time.monotonic()
            thread.join()
        assert refused > ends[0] - 0.1 and len(first.history()) == 1


# --- a server that is away ---


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a server that takes a connection and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield "{}:{}".format(*listener.getsockname())


def test_a_server_that_cannot_be_reached(
    cli: Cli, tmp_path: Path, silent: str, server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 6, soon, with a remedy and without user and password; the batch stays."""
    addresses = [
        f"postgresql://{USER}:{PASSWORD}@127.0.0.1:1/wines",
        f"postgresql://{USER}:{PASSWORD}@{silent}/wines?connect_timeout=2",
        f"postgresql://{USER}:{PASSWORD}@nowhere.invalid/wines",
        f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{server.port}/nothing",
        server.address("public", password=f"{PASSWORD}-not"),
        server.address("public").replace(USER, "nobody"),
    ]
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a.csv").write_text("a;b\n1;2\n")
    for address in addresses:
        monkeypatch.setenv("WINE_DRIFT_LEDGER", address)
        began = time.monotonic()
        for words in (
            ("run-batch", "--inbox", inbox, "--log-format", "json", "--json"),
            ("metrics",),
            ("health",),
            ("push",),
        ):
            told = cli(*words, "--home", tmp_path / "home", code=6)
            assert "postgresql://" in told.stderr and "server" in told.stderr
            for word in (*SECRETS, "Korkenzieher"):
                assert word not in told.output
        assert time.monotonic() - began < 20
    assert (inbox / "a.csv").exists()


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://{USER}:{PASSWORD}%zz@localhost/wines",
        f"postgresql://{USER}:{PASSWORD}@localhost/wines?colour=red",
        f"postgresql://{USER}:{PASSWORD}@localhost:port/wines",
    ],
)
def test_an_address_that_the_driver_does_not_take(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """It is told without repeating any of its secrets."""
    monkeypatch.setenv("WINE_DRIFT_LEDGER", address)
    result = cli("status", "--home", tmp_path, code=6 if ":port" in address else 2)
    for word in SECRETS:
        assert word not in result.output


def test_without_a_driver(tmp_path: Path) -> None:
    """What is to be installed is told; nothing else is touched."""
    words = ["status", "--home", str(tmp_path), "--ledger", "postgresql://localhost/wines"]
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        f"from wine_drift.cli import main; main({words!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'wine-drift[postgres]'" in done.stderr and "Traceback" not in done.stderr


# --- whole runs ---


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table to train on, and an inbox of files: a shift half-way, a bad one, one sent twice."""
    from wine_drift.dataset import load_schema
    from wine_drift.supply import write_simulated

    place, schema = tmp_path_factory.mktemp("sent"), load_schema(None)
    drawn = Settings(source="simulated", batch_rows=120, scenario="switch@4", seed=3)
    files = list(write_simulated(drawn, schema, n_batches=9, out=place / "out"))
    table = Settings(source="simulated", batch_rows=600, seed=4)
    (trained,) = write_simulated(table, schema, n_batches=1, out=place / "table")
    trained.rename(place / "table.csv")
    (place / "inbox").mkdir()
    for number, file in enumerate(files):
        data = file.read_bytes() if number != 2 else b"no;wine\n1;2\n"
        data = data if number != 6 else files[1].read_bytes()
        if number == 7:  # whose labels come later
            lines = data.decode().splitlines()
            later = [lines[0].rpartition(";")[2], *(line.rpartition(";")[2] for line in lines[1:])]
            (place / "late.csv").write_text("\n".join(later) + "\n")
            bare = [lines[0], *(line.rpartition(";")[0] + ";" for line in lines[1:])]
            data = ("\n".join(bare) + "\n").encode()
        target = place / "inbox" / f"{number}.csv"
        target.write_bytes(data)
        os.utime(target, (1e9 + number, 1e9 + number))
    return place


def start(sent: Path, place: Path) -> tuple[object, ...]:
    """A folder with the files, and the options of a home in it."""
    shutil.copytree(sent / "inbox", place / "inbox")
    shutil.copy(sent / "table.csv", place / "table.csv")
    paths = ("--home", place / "home", "--inbox", place / "inbox", "--data", place / "table.csv")
    return (*paths, *TRAINING)


def test_the_same_files_give_the_same(
    cli: Cli,
    kept: Kept,
    sent: Path,
    tmp_path: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records, detectors, window, models, counters and every metric, as with SQLite."""
    found, published = {}, {}
    for name, there in (("file", None), ("server", address)):
        place = tmp_path / name
        place.mkdir()
        with monkeypatch.context() as patch:
            if there is not None:
                patch.setenv("WINE_DRIFT_LEDGER", there)
            options = start(sent, place)
            cli("run-batch", "--drain", *options, code=3)
            with Ledger.open(place / "home", there, read_only=True) as ledger:
                number = ledger.next_sequence() - 2
            home = ("--home", place / "home")
            cli("add-labels", number, sent / "late.csv", *home, *TRAINING)
            cli("models", "rollback", *home)
            cli("prune", "--keep-versions", 1, *home)
            assert "sound" in cli("repair", *home).stdout
            cli("health", *home)
            assert "its schema is of this release" in cli("doctor", *home).stdout
            for words in (
                *(("status",), ("history", "list"), ("explain",)),
                *(("models", "list"), ("models", "diff")),
            ):
                told = cli(*words, *home).stdout
                published[name, words] = re.sub(r"\d+\.\d s|\d\d:\d\d:\d\d", "", told)
            cli("history", "export", "--openmetrics", place / "past", *home)
            cli("report", "--out", place / "page.html", *home)
            page = re.sub(r"\d\d:\d\d(:\d\d)?", "", (place / "page.html").read_text())
            published[name, ("report",)] = page
        found[name] = kept(place / "home", there)
        for record in found[name]["records"]:
            if record["labels"] is not None:
                record["labels"] |= {"added_at": 0, "lag_seconds": 0}
        found[name]["metrics"].pop(("wine_drift_label_lag_seconds",))
        assert (place / "home" / "ledger.sqlite").exists() is (there is None)
        assert list((place / "home" / "backups").glob("ledger*")) == [] or there is None
    assert found["server"].keys() == found["file"].keys()
    for key, value in found["file"].items():
        assert found["server"][key] == value, key
    assert len(found["file"]["records"]) == 8 and len(found["file"]["versions"]) > 1
    for name, words in published:
        expected = published["file", words].replace("/file/", "/server/")
        assert published[name, words].replace("/file/", "/server/") == expected


@pytest.mark.parametrize(
    ("moment", "how"),
    [
        (moment, how)
        for moment in STEPS
        for how in ("killed", "server gone", "connection gone")
        if (moment, how) != ("ledger: connect", "connection gone")  # there is none yet
    ],
)
def test_a_run_that_is_cut_short(
    cli: Cli,
    kept: Kept,
    sent: Path,
    tmp_path: Path,
    address: str,
    server: Database,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    how: str,
) -> None:
    """In mid-transaction, or right after it: the next runs end where undisturbed ones do."""
    ends = []
    monkeypatch.setenv("WINE_DRIFT_LEDGER", address)
    for name in ("peace", "cut"):
        place = tmp_path / name
        place.mkdir()
        options = start(sent, place)
        for path in sorted((place / "inbox").iterdir())[2:]:
            path.unlink()
        there = address
        if name == "cut":
            there = server.make(f"{schema_of(address)}_cut")
            monkeypatch.setenv("WINE_DRIFT_LEDGER", there)
        cli("run-batch", *options)
        if name == "cut":
            _cut(cli, server, moment, how, options)
        cli("run-batch", "--drain", *options)
        assert not list((place / "inbox").iterdir())
        found = kept(place / "home", there)
        found.pop("metrics")  # which tell of runs that failed
        found["counters"] = {k: v for k, v in found["counters"].items() if "runs" not in k[0]}
        ends.append(found)
    assert ends[0] == ends[1]


def _cut(cli: Cli, server: Database, moment: str, how: str, options: tuple[object, ...]) -> None:
    """A run that does not get beyond a moment."""
    from wine_drift.cli import main

    mine = "application_name = 'wine-drift'"
    done = []

    def strike(name: str) -> None:
        if name != moment or done:
            return
        done.append(name)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "server gone":
            server.stop("immediate")
        else:
            server.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")

    pid = os.fork()
    if pid == 0:
        os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT), 2)
        os.dup2(2, 1)
        failpoints.hook = strike
        try:
            main([*map(str, ("run-batch", *options))])
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1)
        os._exit(99)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if how == "killed":
        assert code == -signal.SIGKILL
        return
    if how == "server gone":
        cli("status", "--home", options[1], code=6)
        server.start()
    said = Path("said").read_text()
    assert code == 6, said
    assert "Traceback" not in said
    for word in SECRETS:
        assert word not in said


class Cutter:
    """Stands between a run and its server, and hangs up at a commit: before it, or after it.

    The server has committed in the second case, and the run never hears of it.
    """

    def __init__(self, port: int, *, answers: bool) -> None:
        self._port, self._answers = port, answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cuts = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed: it is over
            while True:
                client, _ = self._listener.accept()
                with client, socket.create_connection(("127.0.0.1", self._port)) as server:
                    self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        committing = False
        while True:
            for source in select.select([client, server], [], [])[0]:
                data = source.recv(65536)
                if not data or (committing and source is server):
                    return
                if source is client and b"COMMIT\0" in data:
                    self.cuts += 1
                    if not self._answers:
                        return
                    committing = True
                (server if source is client else client).sendall(data)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)


@pytest.mark.parametrize("answers", [False, True], ids=["before", "after"])
def test_a_commit_of_which_nobody_hears(
    cli: Cli,
    sent: Path,
    tmp_path: Path,
    address: str,
    server: Database,
    monkeypatch: pytest.MonkeyPatch,
    answers: bool,
) -> None:
    """The run ends with 6 in either case; the next one sees whether the batch is done."""
    options = start(sent, tmp_path)
    inbox, home = tmp_path / "inbox", tmp_path / "home"
    monkeypatch.setenv("WINE_DRIFT_LEDGER", address)
    cli("run-batch", *options)
    with contextlib.closing(Cutter(server.port, answers=answers)) as cutter:
        there = address.replace(f":{server.port}/", f":{cutter.port}/")
        monkeypatch.setenv("WINE_DRIFT_LEDGER", there)
        cli("run-batch", *options, code=6)
        assert cutter.cuts == 1 and (inbox / "1.csv").exists()
    monkeypatch.setenv("WINE_DRIFT_LEDGER", address)
    with Ledger.open(home, address, read_only=True) as ledger:
        assert ledger.next_sequence() == (3 if answers else 2)
    cli("run-batch", "--drain", *options, code=3)
    with Ledger.open(home, address, read_only=True) as ledger:
        assert ledger.next_sequence() == 9  # nine files, of which one was sent twice
        counters = ledger.snapshot().counters
    assert counters["batches", (("outcome", "success"),)] == 7
    assert not list(inbox.iterdir()) and len(list((home / "archive").glob("*-1.csv"))) == 1


def test_what_a_restored_database_does_not_know_is_given_back(
    cli: Cli,
    sent: Path,
    tmp_path: Path,
    address: str,
    server: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After its server was set back, `repair` of each host finds the files, and runs take them."""
    monkeypatch.setenv("WINE_DRIFT_LEDGER", address)
    options = start(sent, tmp_path)
    home, inbox = ("--home", tmp_path / "home"), tmp_path / "inbox"
    cli("run-batch", *options)
    schema = schema_of(address)
    every = [
        row[0]
        for row in server.ask(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")
    ]
    for table in every:
        server.ask(f'CREATE TABLE public."{schema}_{table}" AS TABLE {schema}."{table}"')
    cli("run-batch", *options)
    assert not (inbox / "1.csv").exists()
    for table in every:
        server.ask(
            f'TRUNCATE {schema}."{table}"; INSERT INTO {schema}."{table}"'
            f' SELECT * FROM public."{schema}_{table}"'
        )
    said = cli("repair", "--inbox", inbox, *home).stdout
    assert "1 files went back" in said and (inbox / "1.csv").exists()
    cli("run-batch", *options)
    with Ledger.open(tmp_path, address, read_only=True) as ledger:
        assert ledger.next_sequence() == 3


def test_a_damaged_ledger_is_the_business_of_its_server(
    cli: Cli,
    sent: Path,
    tmp_path: Path,
    address: str,
    server: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`repair` finds the damage, says whose backups are to be used, and changes nothing."""
    monkeypatch.setenv("WINE_DRIFT_LEDGER", address)
    options = start(sent, tmp_path)
    cli("run-batch", *options)
    server.ask(f"UPDATE {schema_of(address)}.records SET record = 'torn'")
    told = cli("repair", "--home", tmp_path / "home", code=6).stderr
    assert "the ledger is damaged" in told and "backup of its own" in told


def test_files_go_after_their_time(
    cli: Cli, sent: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for a backup that is none of ours; and room is told."""
    monkeypatch.setenv("WINE_DRIFT_LEDGER", address)
    options = start(sent, tmp_path)
    cli("run-batch", *options)
    archive = tmp_path / "home" / "archive"
    assert len(list(archive.iterdir())) == 1
    cli("prune", "--home", tmp_path / "home")
    assert len(list(archive.iterdir())) == 1
    time.sleep(1.1)
    cli("prune", "--home", tmp_path / "home", "--keep-files", 1)
    assert list(archive.iterdir()) == []
    with Ledger.open(tmp_path, address, read_only=True) as ledger:
        size, free = ledger.size()
    assert size > 100_000 and free == 0


def test_commands_where_there_is_no_ledger(
    cli: Cli, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They make none; and a demo, which fills a home of its own, refuses."""
    monkeypatch.setenv("WINE_DRIFT_LEDGER", address)
    home = ("--home", tmp_path / "home")
    for words in (("push",), ("repair",), ("prune",)):
        assert "there is none" in cli(*words, *home, code=2).stderr
    assert "leave out ledger" in cli("demo", *home, code=2).stderr
    assert not Ledger.exists(tmp_path, address)


def test_another_host_goes_on_with_the_same_models(
    cli: Cli, sent: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one has trained the other serves; without the folder it says what is missing."""
    monkeypatch.setenv("WINE_DRIFT_LEDGER", address)
    options = start(sent, tmp_path)
    shared = ("--models", tmp_path / "shelf")
    cli("run-batch", *options, *shared)
    assert not (tmp_path / "home" / "models").exists()
    elsewhere = tmp_path / "elsewhere"
    alone = ("--home", elsewhere, *options[2:])
    assert "No such file" in cli("run-batch", *alone, code=6).stderr
    cli("run-batch", *alone, *shared)
    with Ledger.open(tmp_path, address, read_only=True) as ledger:
        assert ledger.next_sequence() == 3 and len(ledger.versions()) == 1


def test_a_driver_that_says_nothing_secret(server: Database) -> None:
    """Whatever the server says of a user, or an error repeats."""
    with contextlib.closing(Postgres.reader(server.address("public"))) as connection:
        for query in (f"SET ROLE {USER}_none", f"SELECT '{PASSWORD}'::int", f"SELECT {USER}"):
            with pytest.raises(StateUnreadable) as caught, connection.told():
                connection.execute(query)
            assert USER not in re.sub(rf"{USER}_none", "", str(caught.value))
            assert PASSWORD not in str(caught.value)


# --- secrets ---


def _processes(mark: str) -> Iterator[bytes]:
    """Command lines of all processes that carry a mark in their environment."""
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with contextlib.suppress(OSError):  # it is gone by now
                if mark.encode() in (place / "environ").read_bytes():
                    yield (place / "cmdline").read_bytes()


@pytest.mark.parametrize("how", ["address", "PGPASSWORD", "PGPASSFILE", "file"])
def test_the_password_is_told_to_the_server_alone(
    server: Database, address: str, sent: Path, tmp_path: Path, how: str
) -> None:
    """Nothing that a schedule and its runs print, write or show to `ps` has user or password."""
    options = [str(each) for each in start(sent, tmp_path)]
    mark = f"POSTGRES_TEST={tmp_path}"
    env = {**os.environ, "POSTGRES_TEST": str(tmp_path), "WINE_DRIFT_LOG_FORMAT": "json"}
    bare = address.replace(f":{PASSWORD}", "")
    (tmp_path / "secret").mkdir()
    if how == "address":
        env["WINE_DRIFT_LEDGER"] = address
    elif how == "file":
        (tmp_path / "secret" / "s.toml").write_text(f'ledger = "{address}"\n')
        options += ["--settings", str(tmp_path / "secret" / "s.toml")]
    elif how == "PGPASSWORD":
        env |= {"WINE_DRIFT_LEDGER": bare, "PGPASSWORD": PASSWORD}
    else:
        passwords = tmp_path / "secret" / "pgpass"
        passwords.write_text(f"*:*:*:{USER}:{PASSWORD}\n")
        passwords.chmod(0o600)
        env |= {"WINE_DRIFT_LEDGER": bare, "PGPASSFILE": str(passwords)}
    words = ["schedule", "--every", "1", "--drain", *options]
    shown: set[bytes] = set()
    with (
        (tmp_path / "said").open("w+b") as said,
        subprocess.Popen(
            [sys.executable, "-m", "wine_drift", *words], env=env, stdout=said, stderr=said
        ) as process,
    ):
        try:
            end = time.monotonic() + 60
            while list((tmp_path / "inbox").iterdir()) and time.monotonic() < end:
                shown |= set(_processes(mark))
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert process.returncode == 0 and not list((tmp_path / "inbox").iterdir())
    assert any(b"wine_drift" in line for line in shown)
    with Ledger.open(tmp_path, address, read_only=True) as ledger:
        assert ledger.next_sequence() == 9  # nine files, of which one was sent twice
    told = [*shown, *(row[0].encode() for row in server.ask(_everything(address)))]
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.parent.name != "secret":
            told.append(path.read_bytes())
    for word in SECRETS:
        assert not [text for text in told if word.encode() in text], word


def _everything(address: str) -> str:
    """What reads all texts of a ledger."""
    name = schema_of(address)
    texts = {"facts": "value", "records": "record", "versions": "manifest", "cursors": "stream"}
    return " UNION ALL ".join(f"SELECT {text} FROM {name}.{table}" for table, text in texts.items())
