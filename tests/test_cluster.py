"""A batch counted by a Dask cluster: to the last bit what it is at home, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gathering import CELL, LABEL, YARDSTICK, plain

from wine_drift import cluster as module
from wine_drift.cluster import connected, gather
from wine_drift.errors import BadBatch, ClusterLost, SettingsError
from wine_drift.gathering import Line
from wine_drift.parts import Here
from wine_drift.places import digested, find_places
from wine_drift.rows import LabelledRows, ScoredRows
from wine_drift.shards import NoWriter
from wine_drift.tables import SUFFIXES

distributed = pytest.importorskip("distributed")

MOST = 1 << 20


# --- the logic, without Dask ---


class Alone:
    """Calls what it is given at once."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Give what a function gives, or raises, in a list that stands for a future."""
        try:
            return _Done(function(*map(_known, arguments)))
        except BadBatch as error:
            return _Done(error)

    def result(self, future: Any) -> Any:
        """Give or raise it."""
        if isinstance(future.value, BadBatch):
            raise future.value
        return future.value


class _Done:
    def __init__(self, value: Any) -> None:
        self.value = value


def _known(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(_known, value))
    if not isinstance(value, _Done):
        return value
    return Alone().result(value)


# few values, so that rows are often equal
GOOD = st.tuples(
    st.sampled_from([1.0, 2.0, 4.0]), st.just(3.0), st.sampled_from([None, None, 0, 1])
)
ROW = GOOD | GOOD | st.tuples(CELL, st.sampled_from([0.0, 3.0]), LABEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples put their files."""
    return tmp_path_factory.mktemp("examples")


@settings(max_examples=200, deadline=None)
@given(
    files=st.lists(st.lists(ROW, max_size=7), min_size=1, max_size=5),
    most=st.sampled_from([2, 7, 1000]),
    most_keys=st.sampled_from([3, 1000]),
    part_rows=st.sampled_from([2, 1000]),
    reject=st.booleans(),
)
def test_however_files_are_cut(
    folder: Path,
    files: list[list[tuple[Any, ...]]],
    most: int,
    most_keys: int,
    part_rows: int,
    reject: bool,
) -> None:
    """Counted apart and put together, they give what they give one after the other."""
    for path in folder.iterdir():
        path.unlink()
    for k, table in enumerate(files):
        rows = [",".join("" if c is None else str(c) for c in row) for row in table]
        names = [f"{line},row {k} {n}" for n, line in enumerate(rows)]
        (folder / f"{k}.csv").write_text("\n".join(["x,z,y,id", *names, ""]))
    places = [digested(place) for place in find_places(str(folder), SUFFIXES)[0]]
    schema = replace(YARDSTICK.schema, reject_duplicates=reject)
    yardstick = replace(YARDSTICK, schema=schema, window_rows=most, waiting_rows=most)
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_KEYS", most_keys)
        patch.setattr("wine_drift.parts.read_parts", _cut(part_rows))
        for count in (Here(MOST).gather, _apart):
            lines: list[Line] = []
            try:
                told.append(plain([count(places, yardstick, lines.extend, NoWriter()), lines]))
            except BadBatch as error:
                told.append(str(error))
    assert told[0] == told[1]


def _apart(places: Sequence[Any], yardstick: Any, keep: Any, spill: Any) -> Any:
    return gather(Alone(), places, yardstick, keep, spill, MOST)


def _cut(part_rows: int) -> Callable[..., Any]:
    from wine_drift.tables import read_table

    def read(path: Path, **how: Any) -> Iterator[Any]:
        frame = read_table(path, **how)
        for start in range(0, max(len(frame), 1), part_rows):
            yield frame.take(slice(start, start + part_rows))

    return read


def test_only_files_with_known_rows_are_counted_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second pass is for those that need it; where repeats are kept there is none."""
    for name, value in {"a": 1, "b": 2, "c": 1, "d": 3}.items():
        (folder / f"{name}.csv").write_text(f"x,z,y\n{value},3,\n4.{value},3,1\n")
    places = [digested(place) for place in find_places(f"{folder}/[a-d].csv", SUFFIXES)[0]]
    counted, count = [], module.count_file

    def noted(place: Any, *arguments: Any) -> Any:
        counted.append(Path(place.address).stem)
        return count(place, *arguments)

    monkeypatch.setattr(module, "count_file", noted)
    _apart(places, YARDSTICK, lambda lines: None, NoWriter())
    assert counted == ["a", "b", "c", "d", "c"]
    counted.clear()
    schema = replace(YARDSTICK.schema, reject_duplicates=False)
    _apart(places, replace(YARDSTICK, schema=schema), lambda lines: None, NoWriter())
    assert counted == ["a", "b", "c", "d"]


def test_rows_are_brought_here_from_the_end_only(folder: Path) -> None:
    """As many as are kept, and never all."""
    for k in range(9):
        rows = [f"{k},{n},{n % 2}" for n in range(10)]
        (folder / f"{k}.csv").write_text("\n".join(["x,z,y", *rows, ""]))
    places = [digested(place) for place in find_places(f"{folder}/[0-8].csv", SUFFIXES)[0]]
    brought: dict[type, int] = {}

    class Noting(Alone):
        def result(self, future: Any) -> Any:
            value = super().result(future)
            for part in value if type(value) is tuple else ():
                rows = part[0] if isinstance(part, tuple) else part
                if isinstance(rows, ScoredRows | LabelledRows):
                    brought[type(rows)] = brought.get(type(rows), 0) + len(rows)
            return value

    yardstick = replace(YARDSTICK, waiting_rows=15, window_rows=6)
    gather(Noting(), places, yardstick, lambda lines: None, NoWriter(), MOST)
    assert 15 < brought[ScoredRows] <= 15 + 10 and 6 < brought[LabelledRows] <= 6 + 10


# --- a real cluster ---


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Dask, ended at last."""
    command = [sys.executable, "-m", *arguments, "--no-dashboard"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Stack:
    """A scheduler and two workers, each a process that a test may kill."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        file = folder / "scheduler.json"
        words = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        self.scheduler = stack.enter_context(started("distributed.cli.dask_scheduler", *words))
        self.workers = [
            stack.enter_context(
                started(
                    *("distributed.cli.dask_worker", "--scheduler-file", str(file)),
                    *("--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", "--name", str(k)),
                    *("--local-directory", str(folder)),
                )
            )
            for k in range(2)
        ]
        self.client = stack.enter_context(
            distributed.Client(scheduler_file=str(file), set_as_default=False, timeout=60)
        )
        self.client.wait_for_workers(2, timeout=60)
        self.address = self.client.scheduler.address

    def wait_for_work(self) -> None:
        """Return when some files are counted, and others are not."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            done = str(self.client.has_what())
            busy = all("count_file" in str(v) for v in self.client.processing().values())
            if "count_file" in done and busy:
                return
            time.sleep(0.01)
        pytest.fail("the workers did nothing")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A cluster of the test's own."""
    with contextlib.ExitStack() as opened:
        yield Stack(tmp_path, opened)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A cluster that is not killed."""
    with contextlib.ExitStack() as opened:
        yield Stack(tmp_path_factory.mktemp("cluster"), opened)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("scheduler", ["own", "other"])
def test_the_same_home(
    cli: Callable[..., Any],
    kept: Callable[[Path], Any],
    parts: Callable[[str], Path],
    home: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    kind: str,
    scheduler: str,
) -> None:
    """Ledger, models, rows set aside and metrics are those of the local engine."""
    folder, other = parts(kind), Path(shutil.copytree(home, tmp_path / "other"))
    cli("run-batch", folder, "--home", home, "--retrain", "force")
    words = ["--engine", "dask", "--threads", 2, "--retrain", "force"]
    if scheduler == "other":
        words += ["--dask-scheduler", request.getfixturevalue("cluster").address]
    result = cli("run-batch", folder, "--home", other, *words)
    assert "distributed" not in result.stderr
    ours = kept(home)
    assert ours["records"][-1]["batch"]["set_aside"]["duplicate"] > 90
    assert kept(other) == ours
    assert "already processed" in cli("run-batch", folder, "--home", home, *words).stdout


def test_a_first_batch(
    cli: Callable[..., Any],
    kept: Callable[[Path], Any],
    wines: Any,
    cluster: Stack,
    red_wine_csv: Path,
) -> None:
    """A bad first file trains nothing, and a good one a model, as at home."""
    wines("in/b.csv", 0, 60)
    Path("in/a.csv").write_text("a;b\n1;2\n")
    words = ("--data", red_wine_csv, "--rounds", 5)
    dask = ("--engine", "dask", "--dask-scheduler", cluster.address)
    cli("run-batch", "in", "--home", "new", *words, *dask, code=3)
    assert not Path("new/models").exists()
    Path("in/a.csv").unlink()
    cli("run-batch", "in", "--home", "one", *words)
    cli("run-batch", "in", "--home", "two", *words, *dask)
    assert kept(Path("two")) == kept(Path("one"))


@pytest.mark.parametrize("spoil", ["line", "column", "text", "gone"])
def test_a_bad_file(
    cli: Callable[..., Any],
    kept: Callable[[Path], Any],
    parts: Callable[[str], Path],
    home: Path,
    tmp_path: Path,
    cluster: Stack,
    spoil: str,
) -> None:
    """It is told and recorded as at home; of two, the first in order."""
    folder, other = parts("csv"), Path(shutil.copytree(home, tmp_path / "other"))
    code = 3
    if spoil == "line":
        for name in ("part-2", "part-5"):
            with (folder / f"{name}.csv").open("a") as file:
                file.write("1;2;3\n")
    elif spoil == "column":
        (folder / "part-4.csv").write_text("a;b\n1;2\n")
    elif spoil == "gone":
        code = 6
        (folder / "part-3.csv").unlink()
        (folder / "part-3.csv").symlink_to("/proc/self/mem")  # nobody can read its begin
    else:
        for path in folder.glob("part-*.csv"):
            head, *lines = path.read_text().splitlines()
            rows = [line.split(";") for line in lines]
            path.write_text("\n".join([head, *(";".join(["2 g", *row[1:]]) for row in rows), ""]))
    here = cli("run-batch", folder, "--home", home, code=code)
    words = ("--engine", "dask", "--dask-scheduler", cluster.address)
    there = cli("run-batch", folder, "--home", other, *words, code=code)
    assert here.stderr.splitlines()[0] == there.stderr.splitlines()[0]
    assert kept(other) == kept(home)


@contextlib.contextmanager
def running(folder: Path, home: Path, *address: str) -> Iterator[subprocess.Popen[str]]:
    """A run on a cluster, in a process of its own, which leads a group."""
    words = ["run-batch", str(folder), "--home", str(home), "--engine", "dask"]
    words += ["--dask-scheduler", *address] if address else ["--threads", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "wine_drift", *words],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_worker_is_killed(
    cli: Callable[..., Any],
    kept: Callable[[Path], Any],
    parts: Callable[..., Path],
    home: Path,
    tmp_path: Path,
    stack: Stack,
) -> None:
    """kill -9 in mid-run costs time, and changes nothing."""
    folder, other = parts("csv", times=150), Path(shutil.copytree(home, tmp_path / "other"))
    cli("run-batch", folder, "--home", home)
    with running(folder, other, stack.address) as run:
        stack.wait_for_work()
        stack.workers[0].send_signal(signal.SIGKILL)
        _, told = run.communicate(timeout=120)
    assert run.returncode == 0 and "Traceback" not in told, told
    assert len(stack.client.nthreads()) == 1
    assert kept(other) == kept(home)


def test_the_scheduler_is_killed(
    cli: Callable[..., Any],
    kept: Callable[[Path], Any],
    parts: Callable[..., Path],
    home: Path,
    stack: Stack,
) -> None:
    """The run ends soon, with 6, and leaves the batch for the next one."""
    folder, before = parts("csv", times=150), kept(home)
    with running(folder, home, stack.address) as run:
        stack.wait_for_work()
        stack.scheduler.send_signal(signal.SIGKILL)
        since = time.monotonic()
        _, told = run.communicate(timeout=120)
    assert run.returncode == 6 and "Traceback" not in told, told
    assert "the Dask cluster is lost" in told and "distributed" not in told
    assert time.monotonic() - since < 60
    after = kept(home)
    for name in ("records", "next_sequence", "counters", "detectors", "rows", "scored", "files"):
        assert after[name] == before[name], name
    cli("run-batch", folder, "--home", home)


def test_an_interrupted_run_leaves_the_cluster_free(
    kept: Callable[[Path], Any], parts: Callable[..., Path], home: Path, stack: Stack
) -> None:
    """Ctrl-C ends the run at once, and what it asked for is forgotten."""
    folder, before = parts("csv", times=150), kept(home)
    with running(folder, home, stack.address) as run:
        stack.wait_for_work()
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=30)
    assert run.returncode == 130 and "Traceback" not in told, told
    assert kept(home)["records"] == before["records"]
    deadline = time.monotonic() + 30
    while "count_file" in f"{stack.client.processing()}{stack.client.has_what()}":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_interrupted_run_on_a_cluster_of_its_own(parts: Callable[..., Path], home: Path) -> None:
    """Ctrl-C reaches the workers, too, which have nothing to say; none of them is left."""
    import psutil

    with running(parts("csv", times=150), home) as run:
        process = psutil.Process(run.pid)
        deadline = time.monotonic() + 60
        while len(workers := process.children(recursive=True)) < 3 or not _busy(workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)
        _, told = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "interrupted" in told and len(told.splitlines()) == 1
    assert psutil.wait_procs(workers, timeout=10)[1] == []


def _busy(processes: Sequence[Any]) -> bool:
    """Whether two of them are past their start, or nearly so."""
    return sum(process.cpu_times().user > 1 for process in processes) >= 2


# --- what can be wrong with a cluster ---


def test_nobody_there(
    cli: Callable[..., Any], home: Path, wines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address at which there is no scheduler: exit code 6, after the patience."""
    monkeypatch.setattr(module, "_PATIENCE", 1.0)
    wines("in/a.csv", 0, 60)
    words = ("--engine", "dask", "--dask-scheduler", "tcp://127.0.0.1:9")
    since = time.monotonic()
    result = cli("run-batch", "in", "--home", home, *words, code=6)
    assert "the batch is safe and will be taken again" in result.stderr
    assert time.monotonic() - since < 10
    cli("run-batch", "in", "--home", home)


def test_no_scheduler_there(home: Path, wines: Any) -> None:
    """Whatever else listens at the address is not waited for for ever, and the process ends."""
    wines("in/a.csv", 0, 60)
    code = "import sys; from wine_drift import cluster; cluster._PATIENCE = 1.0\n"
    code += "from wine_drift.cli import main; main(sys.argv[1:])"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        words = ["run-batch", "in", "--home", str(home), "--engine", "dask"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--dask-scheduler", address],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 6 and "Traceback" not in done.stderr, done.stderr
    assert "the Dask cluster is lost" in done.stderr


def test_a_cluster_of_one_s_own_is_nobody_else_s() -> None:
    """It listens on loopback alone, speaks TLS with a certificate of its own, and has no pages."""
    import psutil

    own = psutil.Process()
    before = set(own.children(recursive=True))
    with connected(None, n_workers=1, most_bytes=MOST, progress=print):
        listening = {
            each.laddr
            for process in [own, *(set(own.children(recursive=True)) - before)]
            for each in process.net_connections()
            if each.status == "LISTEN"
        }
        assert listening and {ip for ip, _ in listening} == {"127.0.0.1"}
        spoken = [_spoken(port) for _, port in listening]
    assert set(spoken) == {"TLS", "no page"}, spoken


def _spoken(port: int) -> str:
    """What is heard at a port: of a page that Dask has, if it has any."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
    except urllib.error.HTTPError as error:
        with error:
            return "no page" if error.code == 404 else str(error)
    except OSError:
        ours = ssl.create_default_context()
        ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            ours.wrap_socket(plain) as connection,
        ):
            return "TLS" if connection.version() else "plain"
    return "a page"


@pytest.mark.parametrize("name", ["distributed", "cryptography"])
def test_dask_is_not_installed(
    cli: Callable[..., Any],
    home: Path,
    wines: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, name, None)
    wines("in/a.csv", 0, 60)
    result = cli("run-batch", "in", "--home", home, "--engine", "dask", code=2)
    assert "pip install 'wine-drift[dask]'" in result.stderr


def asked(address: str | None, *call: Any) -> Any:
    """What a function gives on a cluster."""
    with connected(address, n_workers=1, most_bytes=MOST, progress=print) as cluster:
        return cluster.result(cluster.submit(*call))


def test_a_task_that_fails(cluster: Stack) -> None:
    """Whatever it raises is told in one line, and is no bug of this process."""
    with pytest.raises(ClusterLost, match=r"failed: ValueError: invalid literal .*taken again$"):
        asked(cluster.address, int, "x")


def test_a_file_that_kills_every_worker() -> None:
    """It ends as an error, and is not tried for ever."""
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(ClusterLost, match="lost 1 workers, one after the other"),
    ):
        asked(None, os._exit, 1)


def test_no_worker(monkeypatch: pytest.MonkeyPatch, stack: Stack) -> None:
    """A scheduler alone is not waited for for ever, neither at the begin nor later."""
    monkeypatch.setattr(module, "_PATIENCE", 2.0)
    monkeypatch.setattr(module, "_LOOK", 0.2)
    with connected(stack.address, n_workers=1, most_bytes=MOST, progress=print) as cluster:
        future = cluster.submit(time.sleep, 60)
        for worker in stack.workers:
            worker.kill()
        with pytest.raises(ClusterLost, match="has had no worker for 2 s"):
            cluster.result(future)
    with pytest.raises(ClusterLost):
        asked(stack.address, int)


def test_a_scheduler_that_answers_no_more(monkeypatch: pytest.MonkeyPatch, stack: Stack) -> None:
    """Stopped, and not gone: it is not waited for for ever."""
    monkeypatch.setattr(module, "_PATIENCE", 2.0)
    with connected(stack.address, n_workers=1, most_bytes=MOST, progress=print) as cluster:
        future = cluster.submit(time.sleep, 60)
        stack.scheduler.send_signal(signal.SIGSTOP)
        with pytest.raises(ClusterLost, match="its scheduler does not answer"):
            cluster.result(future)
        stack.scheduler.send_signal(signal.SIGCONT)


def test_another_release(cluster: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that may count in another way are refused."""
    here = module._release()
    monkeypatch.setattr(module, "_release", lambda: "99")
    with pytest.raises(SettingsError, match=rf"worker tcp.* has wine-drift {here}, not 99"):
        asked(cluster.address, int)


def test_no_release(cluster: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that cannot unpack what goes to the workers is refused; so is a worker."""
    run, absent = distributed.Client.run_on_scheduler, "no-such-package"
    monkeypatch.setattr(
        distributed.Client, "run_on_scheduler", lambda self, call, name: run(self, call, absent)
    )
    with pytest.raises(SettingsError, match="the Dask scheduler has no wine-drift"):
        asked(cluster.address, int)
