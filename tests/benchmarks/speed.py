"""What a run costs beside the least that could do its work: `python tests/benchmarks/speed.py`.

The floor imports pandas and LightGBM, reads the batch, scores it with the same model, and computes
log loss and AUC: no drift, no ledger, no push. It sees no other package than it needs, for LightGBM
imports scikit-learn wherever it can. Both are processes of their own, in turn; ratios are of one
round, to the floor beside them. Seconds and memory are the operating system's own account of each
process. Needs a Pushgateway on PATH; without one the run writes its textfile only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from wine_drift.dataset import load_schema
from wine_drift.settings import Settings
from wine_drift.supply import write_simulated

ROUNDS = {100: 15, 10_000: 9, 1_000_000: 3}  # rows of a batch, and how often it is tried
QUICK = {100: 9, 10_000: 5, 100_000: 3}
TREES = 100
NEEDED = ("numpy", "scipy", "pandas", "lightgbm", "dateutil", "six", "pytz", "tzdata", "narwhals")
FLOOR = """
import sys
import numpy, pandas, lightgbm
batch, model = sys.argv[1:]
frame = pandas.read_csv(batch, sep=";")
y = frame.pop("quality").to_numpy() > 6.5
p = lightgbm.Booster(model_file=model).predict(frame.to_numpy())
log_loss = -numpy.log(numpy.where(y, p, 1 - p)).mean()
ranks = numpy.empty(len(p))
ranks[numpy.argsort(p)] = numpy.arange(1, len(p) + 1)
n = y.sum()
auc = (ranks[y].sum() - n * (n + 1) / 2) / (n * (len(y) - n))
"""


@dataclass(frozen=True)
class Cost:
    """Of one process."""

    seconds: float
    cpu: float  # seconds, of all its threads
    megabytes: float  # resident, at most


def cost(command: Sequence[str], **environment: str) -> Cost:
    """Run a command to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        assert process.stderr is not None
        sys.exit(f"{command[:3]}: {process.stderr.read().decode()}")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def apart(folder: Path) -> Path:
    """A folder of packages with nothing in it but what the floor needs."""
    folder.mkdir()
    for name in NEEDED:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            origin = Path(found.origin)
            package = origin.parent if origin.name == "__init__.py" else origin
            for path in (package, package.with_name(f"{name}.libs")):
                if path.exists():
                    (folder / path.name).symlink_to(path)
    return folder


@contextlib.contextmanager
def gateway() -> Iterator[list[str]]:
    """Options that reach a real Pushgateway, for as long as the block lasts."""
    program = shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")
    if program is None:
        yield []
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    call = [program, "--persistence.file=", f"--web.listen-address={address}"]
    opener = build_opener(ProxyHandler({}))
    with subprocess.Popen(call, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                with contextlib.suppress(URLError):
                    opener.open(f"http://{address}/-/ready", timeout=1).close()
                    break
                time.sleep(0.05)
            yield ["--pushgateway", f"http://{address}"]
        finally:
            process.terminate()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    sizes = QUICK if parser.parse_args().quick else ROUNDS
    head = ("rows", "floor s", "MB", "wine-drift s", "MB", "ratio", "CPU ratio")
    print("{:>10} {:>8} {:>6} {:>13} {:>6} {:>6} {:>10}".format(*head))
    with tempfile.TemporaryDirectory() as place, gateway() as sink:
        folder = Path(place)
        home, packages = folder / "home", apart(folder / "packages")
        drawn = Settings(source="simulated", batch_rows=1_600)
        schema = load_schema(None)
        (table,) = write_simulated(drawn, schema, n_batches=1, out=folder / "table")
        ours = [sys.executable, "-m", "wine_drift"]
        cost([*ours, "train", "--home", str(home), "--data", str(table), "--rounds", str(TREES)])
        (model,) = home.glob("models/*/model.txt")
        for n_rows, rounds in sizes.items():
            costs = []
            for number in range(rounds + 1):
                drawn = replace(drawn, batch_rows=n_rows, seed=1 + number)
                (batch,) = write_simulated(drawn, schema, n_batches=1, out=folder / "batches")
                floor = [sys.executable, "-S", "-c", FLOOR, str(batch), str(model)]
                run = [*ours, "run-batch", str(batch), "--home", str(home), "--retrain", "never"]
                pair = (cost(floor, PYTHONPATH=str(packages)), cost([*run, "--quiet", *sink]))
                costs.append(pair)
                batch.unlink()
            del costs[0]  # it filled the caches
            least, found = zip(*costs, strict=True)
            ratio = statistics.median(b.seconds / a.seconds for a, b in costs)
            cpu = statistics.median(b.cpu / a.cpu for a, b in costs)
            print(
                f"{n_rows:>10,} {statistics.median(a.seconds for a in least):>8.3f}"
                f" {max(a.megabytes for a in least):>6.0f}"
                f" {statistics.median(b.seconds for b in found):>13.3f}"
                f" {max(b.megabytes for b in found):>6.0f} {ratio:>6.2f} {cpu:>10.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
