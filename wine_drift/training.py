"""A model that is trained by the workers of a Dask cluster: LightGBM's own work, and watched here.

While it trains, each worker talks with the others over lines of LightGBM's own. It does not survive
the loss of one: who is left gets an error, or waits for ever. So the workers are watched; if one is
lost the others are freed, and the training begins again.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wine_drift.bins import Floats
from wine_drift.errors import ClusterLost
from wine_drift.model import TIME_OUT, forget_network, load_spread, train_spread

_ATTEMPTS = 4
_LOOK = 2.0  # seconds from one look at the workers to the next
_REACTION = 60.0  # seconds in which LightGBM should come to see that a line is dead
_LEAST = 1_000  # rows that a worker is worth its while for
_TIMEVAL = struct.Struct("ll")
_LINE = re.compile(r"(?i)socket|port \d+|network")  # LightGBM, where a line to another one broke

Rows = tuple[Floats, Floats, Floats]  # features, answers (0 or 1), weights


class Fleet(Protocol):
    """The workers of a cluster; see `cluster.Cluster`."""

    client: Any  # distributed.Client

    def settle(self, future: Any) -> None:
        """Wait until a worker has what it gives, or raise what it raised."""

    def look(self) -> dict[str, int]:
        """Threads of each worker by its address, once there are any."""

    def run(self, workers: Iterable[str], function: Callable[..., Any], *given: Any) -> set[str]:
        """Call it on workers in the midst of what they are at; gives those that say yes."""

    def send(self, worker: str, function: Callable[..., Any], *given: Any) -> None:
        """Have a worker call it when it has a thread to spare; nobody waits for that."""


def train(
    fleet: Fleet,
    parts: Sequence[Any],
    lengths: Sequence[int],
    n_features: int,
    *,
    rounds: int,
    seed: int,
    categorical: Sequence[int] = (),
    own: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> str:
    """Train a classifier where the rows are, by LightGBM's own Dask training.

    The rows are dealt to the workers by lot, the same number to each: LightGBM makes the bins of a
    column from the rows of one worker alone. If a worker is lost, all begins again with those that
    are left.

    Parameters
    ----------
    fleet : Fleet
    parts : sequence of futures
        Each gives features of shape (n, n_features), answers (n,), 0 or 1, and weights (n,), all
        float64.
    lengths : sequence of int
        Rows of each part, n.
    n_features : int
    rounds : int
        Trees.
    seed : int, >= 0
    categorical : sequence of int
        Columns that hold numbers of categories.
    own : bool
        Whether what the workers print is nobody's business.
    progress : callable
        Told of each attempt.

    Returns
    -------
    str
        LightGBM's text format.

    Raises
    ------
    ClusterLost
        There is no scheduler any more, or no worker.
    WineDriftError
        What a part raised.
    Exception
        Whatever the training raised, or that it lost a worker each time that it was tried.
    """
    filled = [(part, n) for part, n in zip(parts, lengths, strict=True) if n]
    if not filled:
        raise ValueError("there are no rows to train on")
    most = max(1, sum(n for _, n in filled) // _LEAST)
    problem: BaseException | None = None
    for _ in range(_ATTEMPTS):
        for part, _n in filled:
            fleet.settle(part)
        workers = sorted(fleet.look())[:most]
        progress(f"a Dask cluster trains a model, on {len(workers)} of its workers")
        found = _Attempt(fleet, workers).outcome(
            partial(
                _dealt_and_trained,
                filled,
                n_features,
                rounds=rounds,
                seed=seed,
                categorical=categorical,
                own=own,
            )
        )
        if isinstance(found, str):
            return found
        problem = found
    detail = f": {problem}" if problem else ""
    raise RuntimeError(f"a worker was lost in each of {_ATTEMPTS} trainings{detail}") from problem


# --- one attempt ---


class Asked:
    """A client that keeps in mind what it was asked for.

    Its futures are released when the attempt ends: whoever waits for one in vain waits no more. And
    what is made of something that was asked of a worker is asked of the same one. LightGBM leaves
    that to the scheduler for a socket, which no other worker can take: a worker that trains and
    waits for the others would have to give one of them its socket first, after the training.
    """

    def __init__(self, client: Any, workers: Sequence[str]) -> None:
        self._client = client
        self.workers = list(workers)
        self.futures: list[Any] = []
        self.bound = set(workers)  # workers that a task can run on only
        self.keys: list[str] = []  # of the tasks with which LightGBM trains
        self._places: dict[str, Sequence[str]] = {}  # workers by the key of a task bound to them

    def submit(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """See `distributed.Client`."""
        if "workers" not in options:
            for argument in arguments:
                if place := self._places.get(getattr(argument, "key", "")):
                    options["workers"] = place
        future = self._client.submit(function, *arguments, **options)
        self.futures.append(future)
        if place := options.get("workers"):
            self._places[future.key] = place
            self.bound.update(place)
        if "machines" in options:  # as LightGBM calls its own part on a worker
            self.keys.append(future.key)
        return future

    def compute(self, *arguments: Any, **options: Any) -> Any:
        """See `distributed.Client`."""
        futures = self._client.compute(*arguments, **options)
        self.futures += futures
        return futures

    def release(self) -> None:
        """Have all of it forgotten."""
        for future in self.futures:
            future.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class _Attempt:
    """A training that is watched."""

    def __init__(self, fleet: Fleet, workers: Sequence[str]) -> None:
        self._fleet, self._asked = fleet, Asked(fleet.client, workers)
        self._there: dict[str, int] = {}

    def outcome(self, training: Callable[[Asked], str]) -> str | BaseException | None:
        """The text; what is none is worth another attempt. Other problems are raised."""
        call = Call(partial(training, self._asked))
        try:
            self._there = self._fleet.look()
            self._watch(call)
            problem = call.problem[0] if call.problem else None
            lost = self._asked.bound - set(self._there)
            if problem is not None and not lost and not _is_loss(problem):
                raise problem
            if call.found:  # LightGBM has left all in good order
                self._asked.release()
                return str(call.found[0])
            free(self._fleet, self._asked, self._there, _REACTION)
            return problem
        except ClusterLost:
            raise  # there is nobody to be told
        except BaseException:
            free(self._fleet, self._asked, self._there, 0.0)
            raise

    def _watch(self, call: Call) -> None:
        """Return when it has ended, or when one of its workers is gone."""
        while call.is_alive() and self._asked.bound <= set(self._there):
            call.join(_LOOK)
            self._there = self._fleet.look()


def free(fleet: Fleet, asked: Asked, there: dict[str, int], patience: float) -> None:
    """Forget what was asked for, and see that no worker is still waiting for another.

    Who cannot be brought to its senses within `patience` seconds is ended: it would be of no use to
    anybody, for ever. With a patience of 0 nobody is.
    """
    asked.release()
    if not asked.keys:
        return
    waiting, deadline = asked.bound & set(there), time.monotonic() + patience
    while waiting := fleet.run(waiting, let_go, asked.keys):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    ended = waiting if patience else set()
    if ended:
        fleet.run(ended, _end)
    for worker in (asked.bound & set(there)) - ended:
        # what LightGBM knows of its network is known by thread: each is to forget it
        for _ in range(there[worker]):
            fleet.send(worker, forget_network, 0.1 if there[worker] > 1 else 0.0)


def _is_loss(problem: BaseException) -> bool:
    """Whether a training ended because another worker was gone, as far as its words tell."""
    cancelled = "Cancelled" in type(problem).__name__
    return cancelled or bool(_LINE.search(str(problem)))


class Call(threading.Thread):
    """A call that nobody has to wait for."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.found: list[Any] = []
        self.problem: list[BaseException] = []
        self.start()

    def run(self) -> None:
        """See `threading.Thread`."""
        try:
            self.found.append(self.call())
        except BaseException as error:  # raised by who waits for it
            self.problem.append(error)


# --- rows, dealt to workers ---


def _dealt_and_trained(
    filled: Sequence[tuple[Any, int]],
    n_features: int,
    asked: Asked,
    *,
    rounds: int,
    seed: int,
    categorical: Sequence[int],
    own: bool,
) -> str:
    """Deal the rows to workers, and train there."""
    import dask.array as da
    from dask.delayed import delayed

    n_shares = len(asked.workers)
    asked.run(_prepare, own, workers=asked.workers)
    dealt: list[list[Any]] = [[], [], []]
    for k, worker in enumerate(asked.workers):
        place = {"workers": [worker], "pure": False}
        shares = [
            asked.submit(share, part, number, k, n_shares, seed, pure=False)
            for number, (part, _) in enumerate(filled)
        ]
        n_rows = sum(
            len(range(n)[_share_of(n, number, k, n_shares)]) for number, (_, n) in enumerate(filled)
        )
        rows = asked.submit(joined, shares, **place)
        for column, shape in enumerate([(n_rows, n_features), (n_rows,), (n_rows,)]):
            array = delayed(asked.submit(itemgetter(column), rows, **place))
            dealt[column].append(da.from_delayed(array, shape=shape, dtype=float))
    features, answers, weights = map(da.concatenate, dealt)
    return train_spread(
        asked, features, answers, weights, rounds=rounds, seed=seed, categorical=categorical
    )


def share(rows: Rows, number: int, k: int, n_shares: int, seed: int) -> Rows:
    """Rows of a part that fall to one of several workers, drawn by lot."""
    order = np.random.default_rng([seed, number]).permutation(len(rows[0]))
    drawn = order[_share_of(len(rows[0]), number, k, n_shares)]
    features, answers, weights = (column[drawn] for column in rows)
    return features, answers, weights


def _share_of(n_rows: int, number: int, k: int, n_shares: int) -> slice:
    """Which ones of them; it is not always the same worker that gets one more."""
    return slice((k + number) % n_shares, n_rows, n_shares)


def joined(shares: Sequence[Rows]) -> Rows:
    """The shares of all parts that fall to a worker."""
    features, answers, weights = map(np.concatenate, zip(*shares, strict=True))
    return features, answers, weights


# --- what is called on workers ---


def _prepare(silent: bool) -> None:
    """Make a worker ready to train; what LightGBM prints there is for its log, if it has one."""
    load_spread()
    if silent:
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)
        os.close(null)


def let_go(keys: Sequence[str], dask_worker: Any = None) -> bool:
    """Have LightGBM in this process end a training that others have left.

    It waits for ever for a word of somebody who is gone: without rest, if the line was closed in
    good order. So its lines are exchanged for what is none, which it takes for an error.

    Returns
    -------
    bool
        Whether it is still at work on one of the tasks named.
    """
    if not set(keys) & set(dask_worker.active_threads.values()):
        gc.collect()  # a booster that failed frees the network when it goes: now, not in the next
        return False
    null = os.open(os.devnull, os.O_RDWR)
    for number, line in _lines():
        # not by its ends: of a line that is dead nobody knows the other one
        waits, _ = _TIMEVAL.unpack(
            line.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.size)
        )
        if waits == 60 * TIME_OUT:
            os.dup2(null, number)
            with contextlib.suppress(OSError):  # it is dead
                line.shutdown(socket.SHUT_RDWR)  # wakes who waits
    os.close(null)
    return True


def _lines() -> Iterator[tuple[int, socket.socket]]:
    """The sockets of this process, with their numbers."""
    for number in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        with contextlib.suppress(OSError):  # closed meanwhile
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as line:
                    yield number, line


def _end() -> None:
    """End this process at once; a nanny starts another one."""
    os.kill(os.getpid(), signal.SIGKILL)
