"""The files of a batch counted by the workers of a Dask cluster: the only importer of distributed.

Each worker counts a file by the same function as at home, and the counts are added up there, as in
a tree. What comes here is their sum, the rows set aside, and the last good rows.

A model can be trained there, too; see `training`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import zip_longest
from operator import add, attrgetter, itemgetter
from typing import Any, NamedTuple, Protocol

from wine_drift.errors import ClusterLost, SettingsError, WineDriftError
from wine_drift.gathering import Gathered, Gatherer, Keep, Spill, Told, Yardstick
from wine_drift.measurement import Tally
from wine_drift.parts import check_begin, count_parts
from wine_drift.places import EXTRA, Place, digested
from wine_drift.repeats import Keys, Known, in_earlier, split
from wine_drift.rows import LabelledRows, ScoredRows
from wine_drift.schema import Schema
from wine_drift.training import Call, train

Progress = Callable[[str], None]
_AT_ONCE = 8  # sums that one task adds up
_MOST_KEYS = 1 << 22  # that one task holds against each other, about
_PATIENCE = 20.0  # seconds for a scheduler to answer, and without any worker
_PAUSE = 120.0  # seconds after which a worker that takes no work is not believed to go on
_LOOK = 2.0  # seconds from one look at the cluster to the next
_OWN: dict[str, Any] = {  # of a cluster that is started here: no dashboard, nothing told by HTTP
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Dask has glibc give back all memory at once, which makes counting take more than twice as long
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
}
_AGAIN = "the batch is safe and will be taken again"


class Workers(Protocol):
    """Calls functions elsewhere."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Have it called; what it gives stays there, and can be an argument of another call."""

    def result(self, future: Any) -> Any:
        """Wait for what it gives, or raises, and bring it here."""


class Sizes(NamedTuple):
    """Of what a file gives."""

    keys: int
    scored: int
    fresh: int


@dataclass(frozen=True)
class Counted:
    """What a file gives; it stays where it was counted."""

    counted: Tally | None  # None if there are no rows
    told: tuple[Told, ...]  # of each part of it, as are the two that follow
    fresh: tuple[LabelledRows, ...]
    scored: tuple[tuple[ScoredRows, Keys], ...]
    keys: Keys  # of all its rows without a fault, sorted, without repeats

    @property
    def sizes(self) -> Sizes:
        """How much there is of it."""
        scored = sum(len(rows) for rows, _ in self.scored)
        return Sizes(len(self.keys), scored, sum(map(len, self.fresh)))


def count_file(place: Place, yardstick: Yardstick, most_bytes: int, *earlier: Keys) -> Counted:
    """Count one file, given the keys of rows of earlier files that are like some of its own."""
    known = Known(earlier)
    parts = list(count_parts(place, yardstick, known, most_bytes))
    return Counted(
        reduce(add, (part.counted for part in parts)) if parts else None,
        tuple(part.told for part in parts),
        tuple(part.fresh for part in parts),
        tuple((part.scored, part.keys) for part in parts),
        Known().all() if earlier else known.all(),  # they are asked for once
    )


def gather(
    workers: Workers,
    places: Sequence[Place],
    yardstick: Yardstick,
    keep: Keep,
    spill: Spill,
    most_bytes: int,
) -> Gathered:
    """Count files on workers: what `parts.Here` gives, to the last bit.

    Each file is counted as if it were the only one. Those with rows that earlier ones have, too,
    are counted again, knowing these rows.
    """
    stick = workers.submit(_same, yardstick)  # a result, which goes to each worker once
    files = [workers.submit(count_file, place, stick, most_bytes) for place in places]
    sizes = _sizes(workers, files)
    n_keys = sum(size.keys for size in sizes)
    if n_keys:
        for k, keys in _in_earlier(workers, files, n_keys).items():
            files[k] = workers.submit(count_file, places[k], stick, most_bytes, *keys)
        sizes = _sizes(workers, files)
    gatherer = Gatherer(yardstick, keep, spill)
    total = _added(workers, files)
    told = _each(workers, "told", files, 0)
    learns = _needed_from([size.fresh for size in sizes], yardstick.window_rows)
    fresh = _each(workers, "fresh", files, learns)
    waits = _needed_from([size.scored for size in sizes], yardstick.waiting_rows)
    scored = _each(workers, "scored", files, waits)
    for place, *parts in zip(places, told, fresh, scored, strict=True):
        gatherer.begin(place.shown)
        tells, learnt, waiting = (workers.result(part) if part else () for part in parts)
        for one, kept in zip_longest(tells, waiting):
            gatherer.tell(one)
            if kept is not None:
                gatherer.wait(*kept)
        for rows in learnt:
            gatherer.learn(rows)
    counted = workers.result(total)
    if counted is not None:
        gatherer.count(counted)
    return gatherer.finish(whole_file=True)


def _each(workers: Workers, name: str, files: Sequence[Any], start: int) -> list[Any]:
    """An attribute of each file; None of the files before one."""
    there = [workers.submit(attrgetter(name), file) for file in files[start:]]
    return [None] * start + there


def _sizes(workers: Workers, files: Sequence[Any]) -> list[Sizes]:
    """Of all files; the error of the first one that has any is raised."""
    return [workers.result(one) for one in [workers.submit(attrgetter("sizes"), f) for f in files]]


def _in_earlier(workers: Workers, files: Sequence[Any], n_keys: int) -> dict[int, list[Any]]:
    """For each file that has some of them, the keys of earlier rows that are like its own."""
    n_ranges = -(-n_keys // _MOST_KEYS)
    pieces = [workers.submit(_pieces, file, n_ranges) for file in files]
    shared = [
        workers.submit(in_earlier, [workers.submit(itemgetter(r), piece) for piece in pieces])
        for r in range(n_ranges)
    ]
    found: dict[int, list[Any]] = {}
    for one in shared:
        for k, n in enumerate(workers.result(workers.submit(_lengths, one))):
            if n:
                found.setdefault(k, []).append(workers.submit(itemgetter(k), one))
    return found


def _added(workers: Workers, files: Sequence[Any]) -> Any:
    """The counts of all files, added up where they are."""
    sums = [workers.submit(attrgetter("counted"), file) for file in files]
    while len(sums) > 1:
        groups = [sums[k : k + _AT_ONCE] for k in range(0, len(sums), _AT_ONCE)]
        sums = [workers.submit(_sum, group) for group in groups]
    return sums[0]


def _needed_from(lengths: Sequence[int], most: int) -> int:
    """First of the last files that hold more than so many rows together; 0 if all do not.

    >>> _needed_from([5, 5, 5, 5], 9), _needed_from([5, 5], 10)
    (2, 0)
    """
    first, n_rows = len(lengths), 0
    while first and n_rows <= most:
        first -= 1
        n_rows += lengths[first]
    return first


def _same(value: Yardstick) -> Yardstick:
    return value


def _pieces(file: Counted, n_ranges: int) -> list[Keys]:
    return split(file.keys, n_ranges)


def _lengths(parts: Sequence[Keys]) -> list[int]:
    return list(map(len, parts))


def _sum(tallies: Sequence[Tally | None]) -> Tally | None:
    there = [tally for tally in tallies if tally is not None]
    return reduce(add, there) if there else None


class Cluster:
    """The workers of a Dask cluster."""

    def __init__(
        self, client: Any, most_bytes: int, progress: Progress, *, own: bool = False
    ) -> None:
        self.client, self._most_bytes, self._progress = client, most_bytes, progress
        self._own = own  # nobody else's
        self._seen = time.monotonic()  # when there was a worker last
        self._sent: list[Any] = []
        self._paused: dict[str, float] = {}  # workers that take no work, and since when

    # --- Counting ---

    def digest(self, places: Sequence[Place]) -> list[Place]:
        """See `parts.Counting`."""
        return [self.result(one) for one in [self.submit(digested, place) for place in places]]

    def check(self, place: Place, schema: Schema, row_id: str | None) -> None:
        """See `parts.Counting`."""
        self.result(self.submit(check_begin, place, schema, row_id, self._most_bytes))

    def gather(
        self, places: Sequence[Place], yardstick: Yardstick, keep: Keep, spill: Spill
    ) -> Gathered:
        """See `parts.Counting`.

        Raises
        ------
        ClusterLost
        """
        self._progress(f"{len(places)} files are counted by a Dask cluster")
        return gather(self, places, yardstick, keep, spill, self._most_bytes)

    # --- Training ---

    def train(
        self,
        parts: Sequence[Any],
        lengths: Sequence[int],
        n_features: int,
        *,
        rounds: int,
        seed: int,
        categorical: Sequence[int] = (),
    ) -> str:
        """See `training.train`."""
        return train(
            self,
            parts,
            lengths,
            n_features,
            rounds=rounds,
            seed=seed,
            categorical=categorical,
            own=self._own,
            progress=self._progress,
        )

    # --- Workers ---

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `Workers`."""
        with self._asking():
            return self.client.submit(function, *arguments, pure=False)

    def result(self, future: Any) -> Any:
        """See `Workers`.

        Raises
        ------
        WineDriftError
            What the function raised.
        ClusterLost
            It raised anything else, or cannot be called any more.
        """
        self.settle(future)
        with self._asking():
            return future.result(timeout=10 * _PATIENCE)

    def settle(self, future: Any) -> None:
        """See `training.Fleet`."""
        from distributed import wait

        while not future.done():
            with self._asking(), contextlib.suppress(TimeoutError):
                wait(future, timeout=_LOOK)
            if not future.done():
                self._look()
        if future.status in ("cancelled", "lost"):
            raise _lost("its scheduler is gone, or was started anew")
        if future.status == "error":
            raise _error_of(future.exception())

    def look(self) -> dict[str, int]:
        """See `training.Fleet`."""
        while not (there := self._look()):
            time.sleep(min(_LOOK, 0.5))
        return there

    def run(self, workers: Iterable[str], function: Callable[..., Any], *given: Any) -> set[str]:
        """See `training.Fleet`."""
        call = partial(self.client.run, function, *given, workers=[*workers], on_error="return")
        with self._asking():
            return {worker for worker, answer in _in_time(call).items() if answer is True}

    def send(self, worker: str, function: Callable[..., Any], *given: Any) -> None:
        """See `training.Fleet`."""
        with self._asking():
            future = self.client.submit(function, *given, workers=[worker], pure=False)
        # dropped before it is done it would not be; Dask's own way leaves some of the results there
        self._sent = [each for each in (*self._sent, future) if not each.done()]

    def _look(self) -> dict[str, int]:
        """See whether there is still somebody to wait for: threads of each worker."""
        scheduler = self.client.scheduler
        with self._asking():
            there: dict[str, int] = self.client.sync(scheduler.ncores, callback_timeout=_PATIENCE)
            at_work = self.client.sync(scheduler.ncores_running, callback_timeout=_PATIENCE)
        now = time.monotonic()
        self._seen = now if there else self._seen
        if now - self._seen > _PATIENCE:
            raise ClusterLost(
                f"the Dask cluster has had no worker for {_PATIENCE:g} s; {_AGAIN}",
                remedy="start workers",
            )
        self._paused = {each: self._paused.get(each, now) for each in there.keys() - at_work.keys()}
        for worker, since in self._paused.items():
            if now - since > _PAUSE:
                raise ClusterLost(
                    f"worker {worker} of the Dask cluster has been at rest for {_PAUSE:g} s, for "
                    f"want of memory; {_AGAIN}",
                    remedy="give the workers more memory, or have them not pause "
                    "(distributed.worker.memory.pause)",
                )
        return there

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Whatever the client says of a lost scheduler while this holds is told as one error."""
        try:
            yield
        except TimeoutError as error:
            raise _lost("its scheduler does not answer") from error
        except Exception as error:
            raise _lost(error) from error


def _error_of(error: BaseException) -> WineDriftError:
    """What a task raised, as an error for people."""
    from distributed import KilledWorker

    if isinstance(error, WineDriftError):
        return error
    if isinstance(error, KilledWorker):
        return ClusterLost(
            f"the Dask cluster lost {error.allowed_failures + 1} workers, one after the other, at "
            f"work on the same file; {_AGAIN}",
            remedy="give the workers more memory, or send smaller files",
        )
    detail = " ".join(str(error).split())[:300]
    return ClusterLost(
        f"a worker of the Dask cluster failed: {type(error).__name__}: {detail}; {_AGAIN}",
        remedy="see the log of the worker",
    )


def _lost(problem: BaseException | str) -> ClusterLost:
    detail = " ".join(str(problem).split()) or type(problem).__name__
    return ClusterLost(
        f"the Dask cluster is lost: {detail}; {_AGAIN}",
        remedy="see whether its scheduler runs, and can be reached",
    )


@contextlib.contextmanager
def connected(
    scheduler: str | None, *, n_workers: int, most_bytes: int, progress: Progress
) -> Iterator[Cluster]:
    """A cluster, while this holds: the one that is there, or one started on this machine.

    Parameters
    ----------
    scheduler : str or None
        Its address; None starts a cluster.
    n_workers : int
        Processes of a cluster that is started; 0: one for each core.
    most_bytes : int
        Of a file, once it is unpacked.
    progress : callable
        Told what takes long.

    Raises
    ------
    SettingsError
        Dask is not installed, or wine-drift is not, or in another release, on the cluster.
    ClusterLost
        There is no scheduler, or no worker.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
        from distributed.security import Security

        if importlib.util.find_spec("cryptography") is None:  # asked for only when it is too late
            raise ImportError("No module named 'cryptography'")
    except ImportError as error:
        raise SettingsError(f"engine dask: {error}", remedy=EXTRA) from error
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] == "distributed":  # what matters is told as an error of the run
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        security, address = None, scheduler
        try:
            if scheduler is None:
                # what it is sent can be code: nobody else on this machine shall send any
                security = Security.temporary()
                stack.enter_context(dask.config.set(_OWN))
                with _uninterrupted():
                    cluster = LocalCluster(
                        n_workers=n_workers or len(os.sched_getaffinity(0)),
                        threads_per_worker=1,
                        host="127.0.0.1",
                        dashboard_address=None,
                        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                        silence_logs=logging.CRITICAL,
                        security=security,
                    )
                address = stack.enter_context(cluster)
            client = stack.enter_context(
                _in_time(lambda: Client(address, timeout=_PATIENCE, security=security))
            )
            client.wait_for_workers(1, timeout=_PATIENCE)
            _check_release(client)
        except (OSError, RuntimeError) as error:  # TimeoutError is an OSError
            raise _lost(error) from error
        yield Cluster(client, most_bytes, progress, own=scheduler is None)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C is not heard while this holds, nor ever by the processes that are started in it.

    It is for this process to end them.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _in_time(connect: Callable[[], Any]) -> Any:
    """Give what a call gives, or stop waiting: the client never ends on what is no scheduler."""
    call = Call(connect)
    call.join(1.5 * _PATIENCE)
    if call.problem:
        raise call.problem[0]
    if not call.found:
        raise TimeoutError("what answers at the address is no scheduler of Dask, or speaks TLS")
    return call.found[0]


def _release() -> str:
    return importlib.metadata.version("wine-drift")


def _check_release(client: Any) -> None:
    """All of the cluster must count by the same function as this process."""
    ours = _release()
    call = importlib.metadata.version, "wine-drift"
    found = {f"worker {at}": one for at, one in client.run(*call, on_error="return").items()}
    try:
        found["scheduler"] = client.run_on_scheduler(*call)  # it unpacks what goes to the workers
    except importlib.metadata.PackageNotFoundError as error:
        found["scheduler"] = error
    for who, theirs in found.items():
        if theirs != ours:
            told = "no wine-drift" if isinstance(theirs, Exception) else f"wine-drift {theirs}"
            raise SettingsError(
                f"the Dask {who} has {told}, not {ours}",
                remedy="install the same release on the scheduler and all workers",
            )
