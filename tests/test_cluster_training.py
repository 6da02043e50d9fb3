"""A model trained by the workers of a Dask cluster: as good as at home, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spread_rows import (
    N_FEATURES,
    pause,
    slowly,
    sorted_table,
    table,
    threads_at_work,
    unhappy,
    works,
)
from test_cluster import Stack, started

from wine_drift import training as module
from wine_drift.bins import Floats
from wine_drift.cluster import Cluster, _in_time, connected
from wine_drift.errors import BadBatch, ClusterLost
from wine_drift.model import ALGORITHM, compared_model, read_model, train, train_spread
from wine_drift.rows import LabelledRows
from wine_drift.training import Asked, Call, Rows, free, joined, share
from wine_drift.trees import check_trees

distributed = pytest.importorskip("distributed")

MOST = 1 << 20
DRILLS = str(Path(__file__).parent / "drills")
LENGTHS = (2500, 0, 3000, 7)


def trained(cluster: Cluster, rounds: int = 40, make: Callable[[int, int], Rows] = table) -> str:
    """A model of some parts, of which one is empty and one is small."""
    parts = [cluster.submit(make, seed, n) for seed, n in enumerate(LENGTHS)]
    return cluster.train(parts, LENGTHS, N_FEATURES, rounds=rounds, seed=3)


def loss(scores: Floats, answers: Floats) -> float:
    """The mean log loss."""
    return float(-np.mean(np.log(np.where(answers == 1, scores, 1 - scores))))


def at_home(rounds: int = 40) -> str:
    """What this process makes of the same rows."""
    features, answers, weights = map(
        np.concatenate, zip(*(table(seed, n) for seed, n in enumerate(LENGTHS)), strict=True)
    )
    rows = LabelledRows(features, answers > 0, np.zeros(len(answers), int))
    return train(rows, weights, rounds=rounds, seed=3).text


def parameters(text: str) -> list[str]:
    """The lines that tell how a model was trained."""
    return text.partition("\nparameters:\n")[2].partition("\nend of parameters")[0].splitlines()


@contextlib.contextmanager
def over(address: str | None, n_workers: int = 2) -> Iterator[Cluster]:
    """A cluster that is there, or one of one's own."""
    with connected(
        address, n_workers=n_workers, most_bytes=MOST, progress=lambda line: None
    ) as cluster:
        yield cluster


@pytest.fixture(autouse=True, scope="module")
def known_to_workers() -> Iterator[None]:
    """What is called there can be imported there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", DRILLS)
        yield


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two workers that are not killed."""
    with contextlib.ExitStack() as opened:
        yield Stack(tmp_path_factory.mktemp("cluster"), opened)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A scheduler and two workers of the test's own."""
    with contextlib.ExitStack() as opened:
        yield Stack(tmp_path, opened)


def test_as_good_as_at_home(there: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """By two workers, whatever the order and the lengths of the parts, and by one."""
    features, answers, _ = table(9, 4000)
    home = at_home()
    ours = loss(read_model(home, ALGORITHM).score(features), answers)
    with over(there.address) as cluster:
        text = trained(cluster)
        by_two = loss(read_model(text, ALGORITHM).score(features), answers)
        assert ours < 0.65 and abs(by_two - ours) < 0.04
        by_order = trained(cluster, make=sorted_table)
        assert abs(loss(read_model(by_order, ALGORITHM).score(features), answers) - by_two) < 0.02
        assert parameters(text) == parameters(home)
        assert text.partition("\nTree=0\n")[0].count("none") == 0  # all features have bins
        monkeypatch.setattr(module, "_LEAST", 10_000)
        alone = trained(cluster)
    assert alone.count("Tree=") == home.count("Tree=") == 40
    assert abs(loss(read_model(alone, ALGORITHM).score(features), answers) - ours) < 0.02


def test_the_text_is_one_of_ours(there: Stack) -> None:
    """It passes the check of texts from elsewhere, and is scored by masks as by LightGBM."""
    features, _, _ = table(9, 500)
    with over(there.address) as cluster:
        text = trained(cluster)
    check_trees(text, N_FEATURES)
    for trace in ("127.0.0.1", "machines: 1\n", "tree_learner: data"):
        assert trace not in text
    model = compared_model(text, features)
    assert model.forest is not None and model.n_trees == 40
    expected = model.booster.predict(features, raw_score=True)
    assert np.array_equal(model.forest.log_odds(features), expected)


def test_categories_on_a_cluster(there: Stack) -> None:
    """They are split as such there, too, and what was never listed scores the same to the bit."""

    def kinds(seed: int, n: int) -> Rows:
        features, _, weights = table(seed, n)
        features[:, 0] = np.arange(n) % 6
        return features, (np.arange(n) % 6 % 2).astype(float), weights

    with over(there.address) as cluster:
        parts = [cluster.submit(kinds, seed, 2000) for seed in range(3)]
        text = cluster.train(parts, [2000] * 3, N_FEATURES, rounds=20, seed=0, categorical=(0,))
    check_trees(text, N_FEATURES, [6, *[0] * (N_FEATURES - 1)])
    assert "\ncat_threshold=" in text
    features, answers, _ = kinds(9, 700)
    model = compared_model(text, features)
    assert ((model.score(features) > 0.5) == answers).all()
    features[:, 0] = np.arange(700) % 7
    expected = model.booster.predict(features, raw_score=True)
    assert model.forest is not None
    assert np.array_equal(model.forest.log_odds(features), expected)


def test_all_answers_of_a_worker_are_the_same(there: Stack) -> None:
    """Training asks for both answers among all rows, and not with each worker."""
    import dask.array as da
    from dask.delayed import delayed

    features, answers, weights = table(0, 4000)
    with over(there.address) as cluster:
        client = cluster.client
        trained(cluster, rounds=3)  # the workers' first training
        columns = []
        for column in (features, answers, weights):
            halves = [
                client.submit(itemgetter(0), [column[answers == k]], workers=[worker], pure=False)
                for k, worker in enumerate(client.nthreads())
            ]
            distributed.wait(halves)
            assert len(set(client.who_has(halves).values())) == 2
            arrays = [
                da.from_delayed(delayed(half), shape=column[answers == k].shape, dtype=float)
                for k, half in enumerate(halves)
            ]
            columns.append(da.concatenate(arrays))
        text = train_spread(Asked(client, []), *columns, rounds=40, seed=0)
    unseen, right, _ = table(9, 4000)
    assert loss(read_model(text, ALGORITHM).score(unseen), right) < 0.65


@pytest.mark.parametrize("lengths", [[3000], [0, 12, 0], [2000, 0, 1]])
def test_few_parts(there: Stack, lengths: list[int]) -> None:
    """Fewer than there are workers, and fewer rows than are worth spreading."""
    with over(there.address) as cluster:
        parts = [cluster.submit(table, seed, n) for seed, n in enumerate(lengths)]
        text = cluster.train(parts, lengths, N_FEATURES, rounds=3, seed=0)
    check_trees(text, N_FEATURES)


def test_no_rows(there: Stack) -> None:
    """There is nothing to learn."""
    with over(there.address) as cluster, pytest.raises(ValueError, match="no rows to train on"):
        cluster.train([cluster.submit(table, 0, 0)], [0], N_FEATURES, rounds=3, seed=0)


def test_nothing_is_left_on_the_cluster(there: Stack) -> None:
    """What was asked for is forgotten, parts excepted, which are the caller's."""
    with over(there.address) as cluster:
        parts = [cluster.submit(table, 0, 3000)]
        cluster.train(parts, [3000], N_FEATURES, rounds=3, seed=0)
        _until(lambda: set().union(*cluster.client.has_what().values()) == {parts[0].key})


def test_every_row_is_dealt_once() -> None:
    """The same number to each, whatever the parts; which ones is drawn by lot."""
    lengths = [7, 1, 0, 12]
    rows = [table(k, n) for k, n in enumerate(lengths)]
    shares = [joined([share(part, k, s, 3, 0) for k, part in enumerate(rows)]) for s in range(3)]
    assert sorted(len(answers) for _, answers, _ in shares) == [6, 7, 7]
    for column in range(3):
        ours, all_rows = (
            np.concatenate([part[column] for part in each]) for each in (shares, rows)
        )
        assert sorted(ours.tolist()) == sorted(all_rows.tolist())
    one, other = (share(table(0, 1000), 0, 0, 2, seed)[0] for seed in (0, 1))
    assert not np.array_equal(one, other)


# --- what can go wrong ---


def test_a_bad_part(there: Stack) -> None:
    """It is told as where it is counted."""
    with over(there.address) as cluster, pytest.raises(BadBatch, match="part 4 is bad"):
        cluster.train([cluster.submit(unhappy, 4)], [9], N_FEATURES, rounds=3, seed=0)


def test_training_fails(there: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """What LightGBM says is told, at once."""
    monkeypatch.setattr(module, "_ATTEMPTS", 1)
    monkeypatch.setattr("wine_drift.model._OF_SCIKIT", {"lambda_l2": "num_leaves"})
    with over(there.address) as cluster, pytest.raises(Exception, match="num_leaves"):
        trained(cluster)


def test_each_training_loses_a_worker(there: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried for ever, and the batch is not taken again for it."""
    tries = []

    def fail(*arguments: Any, **options: Any) -> str:
        tries.append(arguments)
        raise OSError("Socket recv error, Connection reset by peer (code: 104)")

    monkeypatch.setattr(module, "train_spread", fail)
    with (
        over(there.address) as cluster,
        pytest.raises(RuntimeError, match=r"lost in each of 4 trainings: Socket recv error"),
    ):
        trained(cluster)
    assert len(tries) == 4


def _until(done: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_training(client: Any, n_workers: int) -> dict[str, int]:
    """Return when so many workers train, past their greetings; gives their processes."""
    import psutil

    def busy() -> list[str]:
        tasks = client.processing().items()
        return [worker for worker, keys in tasks if "_train_part" in str(keys)]

    _until(lambda: len(busy()) == n_workers)
    numbers: dict[str, int] = client.run(os.getpid, workers=busy())
    processes = [psutil.Process(number) for number in numbers.values()]
    before = [process.cpu_times().user for process in processes]
    _until(
        lambda: all(p.cpu_times().user > b + 0.7 for p, b in zip(processes, before, strict=True))
    )
    assert len(busy()) == n_workers, "the training is too short"
    return numbers


@contextlib.contextmanager
def in_training(cluster: Cluster, n_workers: int) -> Iterator[tuple[Any, dict[str, int]]]:
    """A training that lasts: its outcome, and the processes at it."""
    lengths = [20_000] * 3
    parts = [cluster.submit(slowly, seed, n) for seed, n in enumerate(lengths)]
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(cluster.train, parts, lengths, N_FEATURES, rounds=800, seed=0)
        yield outcome, wait_for_training(cluster.client, n_workers)


@pytest.mark.parametrize("n_workers", [2, 3])
def test_a_worker_is_killed(
    n_workers: int, stack: Stack, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """kill -9 costs time; those that are left are as good as before."""
    words = ("--scheduler-file", str(tmp_path / "scheduler.json"), "--nthreads", "1", "--no-nanny")
    more = ("--host", "127.0.0.1", "--local-directory", str(tmp_path))
    with contextlib.ExitStack() as opened:
        for _ in range(n_workers - 2):
            opened.enter_context(started("distributed.cli.dask_worker", *words, *more))
        stack.client.wait_for_workers(n_workers, timeout=60)
        cluster = opened.enter_context(over(stack.address))
        with in_training(cluster, n_workers) as (outcome, numbers):
            os.kill(max(numbers.values()), signal.SIGKILL)
            text = outcome.result(timeout=120)
        check_trees(text, N_FEATURES)
        assert len(stack.client.nthreads()) == n_workers - 1
        assert not any(stack.client.run(threads_at_work).values())
        trained(cluster, rounds=3)
    assert capfd.readouterr() == ("", "")


def test_a_worker_of_one_s_own_is_killed(capfd: pytest.CaptureFixture[str]) -> None:
    """Its nanny starts another one; nobody says anything."""
    with over(None) as cluster, in_training(cluster, 2) as (outcome, numbers):
        os.kill(max(numbers.values()), signal.SIGKILL)
        check_trees(outcome.result(timeout=120), N_FEATURES)
    assert capfd.readouterr() == ("", "")


def test_who_does_not_come_to_its_senses_is_ended(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that waits for ever is of no use to anybody."""
    with over(stack.address) as cluster:
        worker, other = stack.client.nthreads()
        asked = Asked(cluster.client, [worker])
        asked.submit(time.sleep, 600, workers=[worker], pure=False)
        asked.keys = [asked.futures[0].key]
        _until(lambda: cluster.run([worker], works))
        free(cluster, asked, stack.client.nthreads(), 0.5)
        _until(lambda: set(stack.client.nthreads()) == {other})


def test_the_scheduler_is_killed(stack: Stack) -> None:
    """It is told within a minute."""
    with over(stack.address) as cluster, in_training(cluster, 2) as (outcome, _):
        stack.scheduler.send_signal(signal.SIGKILL)
        since = time.monotonic()
        with pytest.raises(ClusterLost):
            outcome.result(timeout=120)
        assert time.monotonic() - since < 60


def test_all_workers_are_killed(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told after the patience."""
    monkeypatch.setattr("wine_drift.cluster._PATIENCE", 4.0)
    with over(stack.address) as cluster, in_training(cluster, 2) as (outcome, numbers):
        for number in numbers.values():
            os.kill(number, signal.SIGKILL)
        with pytest.raises(ClusterLost, match="has had no worker for 4 s"):
            outcome.result(timeout=120)


INTERRUPTED = """
import sys
from spread_rows import N_FEATURES, slowly
from wine_drift.cluster import connected
if __name__ == "__main__":
    with connected(sys.argv[1], n_workers=2, most_bytes=9, progress=print) as cluster:
        parts = [cluster.submit(slowly, seed, 20_000) for seed in range(3)]
        cluster.train(parts, [20_000] * 3, N_FEATURES, rounds=20_000, seed=0)
"""


def test_an_interrupted_training_leaves_the_cluster_free(stack: Stack) -> None:
    """Ctrl-C ends it here, and there, where it would have gone on for minutes."""
    run = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, stack.address],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_training(stack.client, 2)
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert "KeyboardInterrupt" in told
    _until(lambda: not any(stack.client.run(threads_at_work).values()))


def test_a_cluster_of_one_s_own(capfd: pytest.CaptureFixture[str]) -> None:
    """Dask speaks TLS there, and LightGBM what it does; neither is heard."""
    with over(None) as cluster:
        check_trees(trained(cluster), N_FEATURES)
    assert capfd.readouterr() == ("", "")


def test_a_socket_stays_where_it_is(there: Stack) -> None:
    """No worker is asked for that of another one, which may be training, and waiting for it."""
    from lightgbm.dask import _acquire_port

    with over(there.address) as cluster:
        asked = Asked(cluster.client, [])
        worker = list(cluster.client.nthreads())[-1]
        both = asked.submit(_acquire_port, workers=[worker], pure=False)
        ports = [asked.submit(itemgetter(1), both, pure=False) for _ in range(20)]
        sockets = [asked.submit(itemgetter(0), both, pure=False) for _ in range(20)]
        distributed.wait([*ports, *sockets], timeout=60)
        places = cluster.client.who_has([*ports, *sockets]).values()
        assert {tuple(place) for place in places} == {(worker,)}
        asked.release()


def test_a_thread_s_error_is_heard() -> None:
    """Whatever it is."""
    call = Call(threading.Event().wait)
    assert call.daemon and call.is_alive()
    with pytest.raises(KeyboardInterrupt):
        _in_time(_interrupt)


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_a_worker_that_takes_no_work(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while it is waited for, and not for ever."""
    monkeypatch.setattr("wine_drift.cluster._LOOK", 0.2)
    monkeypatch.setattr("wine_drift.cluster._PAUSE", 3.0)
    with over(stack.address) as cluster:
        first, second = stack.client.nthreads()
        stack.client.run(pause, workers=[first])
        _until(lambda: cluster._look() and cluster._paused)
        assert cluster.result(cluster.submit(sum, [1, 2])) == 3
        stack.client.run(pause, workers=[second])
        _until(lambda: cluster._look() and len(cluster._paused) == 2)
        since = time.monotonic()
        with pytest.raises(ClusterLost, match="at rest for 3 s"):
            cluster.result(cluster.submit(sum, [1, 2]))
        assert time.monotonic() - since < 30
