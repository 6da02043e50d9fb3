"""What a run costs beside the least that could do its work, and beside others: `make bench`.

Each contender is a process of its own: reads the batch, scores it with the same model of 100 trees,
measures log loss, AUC and drift of 11 features, pushes. The floor only reads, scores and measures
log loss and AUC. Every round has a new batch, which each contender takes once, in rotating order; a
ratio is to the floor of the same round. docs/performance.md tells more.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from threading import Timer

# rows of a batch: rounds of the floor and wine-drift, rounds of the others
ROUNDS = {100: (15, 9), 10_000: (15, 9), 1_000_000: (7, 3), 10_000_000: (3, 0)}
QUICK = {100: (15, 5), 10_000: (9, 5), 100_000: (5, 3)}
COMMAND_ROUNDS = 15
PROFILED = (100, 1_000_000)
TREES = 100
TABLE_ROWS = 1_600
BLOCK_ROWS = 100_000
LIMIT = 300.0  # seconds that one process may take
TOLERANCE = 1e-6  # of log loss and AUC

# What pip is asked for, by contender. Evidently and alibi-detect import no pandas 3, nor
# alibi-detect NumPy 2; NannyML forgets that it needs statsmodels, and takes no newer LightGBM.
COMMON = ("scikit-learn==1.9.1", "scipy==1.17.1", "prometheus-client==0.26.0")
PEERS = {
    "scipy": ("numpy==2.4.6", "pandas==3.1.1", "lightgbm==4.7.0"),
    "alibi-detect": ("alibi-detect==0.13.0", "numpy==1.26.4", "pandas==2.3.3", "lightgbm==4.7.0"),
    "nannyml": (
        *("nannyml==0.13.1", "numpy==2.4.6", "pandas==3.1.1", "lightgbm==4.5.0"),
        "statsmodels==0.15.0",
    ),
    "evidently": ("evidently==0.7.23", "numpy==2.4.6", "pandas==2.3.3", "lightgbm==4.7.0"),
}
FLOOR = ("numpy", "scipy", "pandas", "lightgbm", "dateutil", "six", "pytz", "tzdata", "narwhals")
SCRIPTS = Path(__file__).with_name("contenders")
OURS = (sys.executable, "-m", "wine_drift")


# --- One process ----------------------------------------------------------------------------------


class Failed(Exception):
    """A process did not do its work; says why, in a few words."""


@dataclass(frozen=True)
class Cost:
    """Of one process, as the operating system accounts for it."""

    seconds: float
    cpu: float  # seconds, of all its threads
    megabytes: float  # resident, at most


def environment(**more: str) -> dict[str, str]:
    """What a process finds: compiled modules are kept, and nobody is told of it."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "WINE_DRIFT_"))}
    return ours | {"NO_PROXY": "127.0.0.1", "NML_DISABLE_USAGE_LOGGING": "1"} | more


def spend(command: Sequence[str], env: Mapping[str, str]) -> tuple[Cost, str, str]:
    """Run a command to its end; return its cost, and what it wrote to stdout and stderr.

    This process has to stay small: a child's peak of memory begins with what its parent holds.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=env, stdout=out, stderr=err)
        killer = Timer(LIMIT, os.kill, (process.pid, signal.SIGKILL))
        killer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        finally:
            killer.cancel()
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        stdout, stderr = (file.read().decode(errors="replace") for file in (out, err))
    if seconds >= LIMIT:
        raise Failed(f"over {LIMIT:.0f} s")
    if status:
        raise Failed(": ".join([f"exit code {process.returncode}", *stderr.splitlines()[-1:]]))
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024), stdout, stderr


def quality(stdout: str) -> dict[str, float]:
    """Log loss and AUC, of the JSON that ends what a contender printed."""
    found = re.search(r"^\{.*", stdout, flags=re.MULTILINE | re.DOTALL)
    if found is None:
        raise Failed("told no quality")
    told = json.loads(found[0])["quality"]
    return {name: told[name] for name in ("log_loss", "roc_auc")}


# --- What they work on ----------------------------------------------------------------------------


def simulate(folder: Path, n_rows: int, seed: int) -> Path:
    """A table of simulated wines."""
    options = {"home": folder / "nothing", "out": folder, "batch-rows": n_rows, "seed": seed}
    words = [f"--{name}={value}" for name, value in options.items()]
    _, told, _ = spend([*OURS, "simulate", "--source=simulated", *words], environment())
    return Path(told.strip())


def write_batch(block: Path, path: Path, n_rows: int, number: int) -> None:
    """Write the rows of a block, over and over until there are `n_rows`; no two rows are the same.

    Every copy of the block adds other digits, fewer than one decimal, to one column. Which digits
    they are depends on `number`, so two batches are never the same either.
    """
    head, *lines = block.read_text(encoding="utf-8").splitlines(keepends=True)
    column = head.split(";").index("total sulfur dioxide")
    lines = [*{line.rpartition(";")[0]: line for line in lines}.values()]
    lines = lines[: min(n_rows, BLOCK_ROWS)]
    copies = -(-n_rows // len(lines))
    marked = []
    for line in lines:
        cells = line.split(";")
        assert cells[column][-2] == ".", line  # so that more digits make no two cells equal
        cells[column] += "@"
        marked.append(";".join(cells))
    text, last = "".join(marked), "".join(marked[: n_rows - (copies - 1) * len(lines)])
    with path.open("w", encoding="utf-8") as file:
        file.write(head)
        for copy in range(copies):
            digits = f"{number * copies + copy + 1:04d}"
            file.write((last if copy == copies - 1 else text).replace("@", digits))


def in_a_process(function: Callable[..., None], *arguments: object) -> None:
    """Call a function where its memory goes with it."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{function.__name__} failed")


def apart(folder: Path) -> Path:
    """A folder of packages with nothing in it but what the floor needs.

    LightGBM imports scikit-learn wherever it can, which takes longer than all the rest.
    """
    folder.mkdir()
    for name in FLOOR:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            origin = Path(found.origin)
            package = origin.parent if origin.name == "__init__.py" else origin
            for path in (package, package.with_name(f"{name}.libs")):
                if path.exists():
                    (folder / path.name).symlink_to(path)
    return folder


@contextlib.contextmanager
def gateway() -> Iterator[str]:
    """Address of a real Pushgateway, for as long as the block lasts; empty if there is none."""
    program = shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")
    if program is None:
        tell("no Pushgateway on PATH: nothing is pushed, and wine-drift writes its textfile")
        yield ""
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    call = [program, "--persistence.file=", f"--web.listen-address=127.0.0.1:{port}"]
    with subprocess.Popen(call, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                with contextlib.suppress(ConnectionError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


# --- Contenders -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """Something that is measured."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=environment)


@dataclass(frozen=True)
class Place:
    """Where it all happens."""

    folder: Path
    home: Path
    table: Path  # that trained the model, and is the reference
    model: Path
    block: Path  # of rows that batches are made of
    batch: Path  # the one in hand
    gateway: str

    @classmethod
    def make(cls, folder: Path, gateway: str) -> Place:
        """Train the model and draw the rows."""
        home, table = folder / "home", simulate(folder / "table", TABLE_ROWS, seed=1)
        train = [f"--home={home}", f"--data={table}", f"--rounds={TREES}"]
        spend([*OURS, "train", *train], environment())
        (model,) = home.glob("models/*/model.txt")
        block = simulate(folder / "block", BLOCK_ROWS + BLOCK_ROWS // 50, seed=2)
        return cls(folder, home, table, model, block, folder / "batch.csv", gateway)

    def write(self, n_rows: int, number: int) -> None:
        """Write the next batch."""
        in_a_process(write_batch, self.block, self.batch, n_rows, number)

    def floor(self) -> Contender:
        """The least that can be done."""
        packages = self.folder / "packages"
        path = str(packages if packages.exists() else apart(packages))
        script = str(SCRIPTS / "floor.py")
        command = (sys.executable, "-S", "-P", script, str(self.batch), str(self.model))
        return Contender("floor", command, environment(PYTHONPATH=path))

    def command(self, *words: str) -> Contender:
        """A command of wine-drift, in this home and with its gateway."""
        more = [f"--home={self.home}"] if words[0] != "--help" else []
        if self.gateway and words[0] in ("run-batch", "push"):
            more.append(f"--pushgateway={self.gateway}")
        return Contender(f"wine-drift {words[0]}", (*OURS, *words, *more))

    def wine_drift(self) -> Contender:
        """A run, however large its file."""
        words = ("--retrain=never", f"--max-bytes={1 << 40}", "--json")
        run = self.command("run-batch", str(self.batch), *words)
        return Contender("wine-drift", run.command)

    def peer(self, name: str) -> Contender:
        """Another package, which is installed for this and keeps its reference; or Failed."""
        python = str(install(name))
        call = (python, "-P", str(SCRIPTS / "peers.py"), name)
        folder = self.folder / name
        folder.mkdir()
        spend([*call, "prepare", str(self.table), str(folder)], environment())
        words = (str(self.batch), str(folder), str(self.model), self.gateway)
        return Contender(name, (*call, "run", *words))


def install(name: str) -> Path:
    """The Python of an environment with a peer in it, made unless it is there."""
    folder = Path(sys.prefix) / "bench" / name
    python, done = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join((*PEERS[name], *COMMON))
    if not done.exists() or done.read_text() != wanted:
        tell(f"{name}: installing into {os.path.relpath(folder)}")
        done.unlink(missing_ok=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for call in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [*pip, "--compile", *wanted.split()],
        ):
            ended = subprocess.run(call, capture_output=True, text=True)
            if ended.returncode:
                raise Failed(": ".join(["not installed", *ended.stderr.splitlines()[-1:]]))
        done.write_text(wanted)
    return python


def versions(python: str, packages: Iterable[str]) -> str:
    """What is installed of these packages."""
    code = "import sys; from importlib.metadata import version"
    code += "; print(*(f'{name} {version(name)}' for name in sys.argv[1:]), sep=', ')"
    return spend([python, "-c", code, *packages], environment())[1].strip()


# --- Measuring ------------------------------------------------------------------------------------

Costs = dict[int, Cost]  # by round
WALL, CPU = attrgetter("seconds"), attrgetter("cpu")


@dataclass
class Measured:
    """One block of the table."""

    costs: dict[str, Costs] = field(default_factory=dict)  # of those that failed, none
    failures: dict[str, str] = field(default_factory=dict)
    told: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)


def measure(
    contenders: Sequence[Contender],
    rounds: Mapping[str, int],
    *,
    write: Callable[[int], None] | None,
) -> Measured:
    """Let each have its rounds, and one before them that fills the caches and is not counted.

    With `write`, which makes the batch of a round, each has to tell the quality that it measured.
    Who fails is left out from then on; without the floor there is nothing to compare.
    """
    found = Measured({contender.name: {} for contender in contenders})
    for number in range(max(rounds.values()) + 1):
        if write is not None:
            write(number)
        turn = number % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            name = contender.name
            if number > rounds[name] or name in found.failures:
                continue
            try:
                cost, stdout, _ = spend(contender.command, contender.env)
                if write is not None:
                    found.told.setdefault(name, {})[number] = quality(stdout)
            except Failed as failure:
                if name == "floor":
                    raise
                found.failures[name] = str(failure)
                del found.costs[name]
            else:
                if number:
                    found.costs[name][number] = cost
    return found


def ratios(costs: Costs, base: Costs, of: Callable[[Cost], float]) -> list[float]:
    """Of each round in which both were measured."""
    return [of(cost) / of(base[number]) for number, cost in costs.items() if number in base]


def differences(told: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[str]:
    """Who measured another quality than the floor, on the same batch."""
    found = []
    for name, by_round in told.items():
        for number, figures in by_round.items():
            for what, value in figures.items():
                expected = told["floor"].get(number, {}).get(what, value)
                if not abs(value - expected) <= TOLERANCE:
                    found.append(f"{name}, round {number}: {what} {value}, floor {expected}")
    return found


# --- Telling --------------------------------------------------------------------------------------

Row = tuple[str, ...]
HEAD: Row = ("rows", "contender", "ratio", "min-max", "CPU ratio", "s", "CPU s", "MB", "rounds")
COMMAND_HEAD: Row = ("command", "to floor", "min-max", "to Python", "s", "CPU s", "MB", "rounds")


def tell(text: str) -> None:
    """Say what is going on."""
    print(text, file=sys.stderr, flush=True)


def short(ratio: float) -> str:
    """Two decimals, or three digits."""
    return f"{ratio:.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}"


def middle(values: Sequence[float]) -> str:
    """Median of ratios."""
    return short(statistics.median(values))


def spread(values: Sequence[float]) -> str:
    """Smallest and largest ratio."""
    return f"{short(min(values))}-{short(max(values))}"


def plain(costs: Costs) -> Row:
    """Medians of seconds and of CPU, the largest memory, and of how many rounds."""
    wall, cpu = (statistics.median(map(of, costs.values())) for of in (WALL, CPU))
    megabytes = max(cost.megabytes for cost in costs.values())
    return f"{wall:.3f}", f"{cpu:.3f}", f"{megabytes:.0f}", f"{len(costs)}"


def batch_lines(n_rows: int, found: Measured) -> list[Row]:
    """Lines of the table about batches of one size."""
    lines = []
    for name, costs in found.costs.items():
        wall, cpu = (ratios(costs, found.costs["floor"], of) for of in (WALL, CPU))
        lines.append((f"{n_rows:,}", name, middle(wall), spread(wall), middle(cpu), *plain(costs)))
    return lines + [(f"{n_rows:,}", *line) for line in failed(found, len(HEAD) - 1)]


def command_lines(found: Measured) -> list[Row]:
    """Lines of the table about commands."""
    lines = []
    for name, costs in found.costs.items():
        floor, python = (ratios(costs, found.costs[base], WALL) for base in ("floor", "python"))
        lines.append((name, middle(floor), spread(floor), middle(python), *plain(costs)))
    return lines + failed(found, len(COMMAND_HEAD))


def failed(found: Measured, width: int) -> list[Row]:
    """Lines about those that failed: who, in a few words why, and blanks."""
    blank = [""] * (width - 2)
    return [(name, why.split(":")[0], *blank) for name, why in found.failures.items()]


def show(head: Row, lines: Sequence[Row], *, markdown: bool) -> None:
    """Print a table."""
    if markdown:
        rule = ("---",) * len(head)
        text = ["| " + " | ".join(line) + " |" for line in (head, rule, *lines)]
    else:
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
        text = [
            "  ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True))
            for line in (head, *lines)
        ]
    print(*(line.rstrip() for line in text), "", sep="\n", flush=True)


# --- Where the time goes --------------------------------------------------------------------------


def stages(metrics: str) -> dict[str, float]:
    """Seconds by stage of the last run; `run` is all of it, up to its commit."""
    start = r"^wine_drift_last_run_(?:stage_)?duration_seconds\{.*?(?:stage=\"(\w+)\")?\} (\S+)$"
    return {name or "run": float(value) for name, value in re.findall(start, metrics, re.MULTILINE)}


def imports(stderr: str) -> dict[str, float]:
    """Seconds by package, most first, of what `python -X importtime` wrote."""
    found: dict[str, float] = defaultdict(float)
    for microseconds, module in re.findall(
        r"^import time: +(\d+) \| +\d+ \| +(\S+)", stderr, re.MULTILINE
    ):
        package = module.split(".")[0]
        known = package in sys.stdlib_module_names
        found["standard library" if known else package] += int(microseconds) / 1e6
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def profile(place: Place, n_rows: int) -> None:
    """Print where one run spends its time; one before it fills the caches."""
    run = place.wine_drift()
    for number in range(2):
        place.write(n_rows, number)
        cost, _, _ = spend(run.command, run.env)
    known = stages(spend(place.command("metrics").command, run.env)[1])
    place.write(n_rows, 2)
    python, *words = run.command
    _, _, traced = spend([python, "-X", "importtime", *words], run.env)
    total, start = known.pop("run"), spend([python, "-c", "pass"], run.env)[0].seconds
    parts = {
        "interpreter": start,
        "imports before the first stage, push and end": cost.seconds - start - total,
        "all stages and what is between them": total,
        **{f"  stage {name}": value for name, value in known.items()},  # many rows: side by side
    }
    print(f"{n_rows:,} rows: {cost.seconds:.3f} s, CPU {cost.cpu:.3f} s, {cost.megabytes:.0f} MB")
    for name, value in parts.items():
        print(f"  {value:7.3f} s  {value / cost.seconds:4.0%}  {name}")
    print("  imports, by package, traced in a run of its own (part of the above):")
    for name, value in imports(traced).items():
        if value >= 0.001:
            print(f"  {value:7.3f} s        {name}")
    print(flush=True)


# --- The command ----------------------------------------------------------------------------------


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="floor, wine-drift and commands, under two minutes")
    parts = ("wine-drift", *PEERS, "commands")
    add("--only", action="append", choices=parts, help="beside the floor; can be repeated")
    add("--rows", action="append", type=int, help="rows of a batch; can be repeated")
    add("--rounds", type=int, help="rounds of all, in place of the usual")
    add("--markdown", action="store_true", help="print the tables as Markdown")
    add("--json", type=Path, metavar="FILE", help="write each measurement to a file")
    add("--profile", action="store_true", help="print where a run spends its time, and no table")
    return parser.parse_args()


def usual_rounds(n_rows: int, *, quick: bool) -> tuple[int, int]:
    """Rounds of the floor and wine-drift, and of the others: those of the next larger size."""
    known = QUICK if quick else ROUNDS
    return known[min((size for size in known if size >= n_rows), default=max(known))]


def line_up(place: Place, names: Iterable[str]) -> tuple[list[Contender], dict[str, str]]:
    """The floor and these contenders; and why some of them cannot take part."""
    ready, missing = [place.floor()], {}
    for name in names:
        try:
            ready.append(place.peer(name) if name in PEERS else place.wine_drift())
        except Failed as failure:
            missing[name] = str(failure)
    return ready, missing


def measure_commands(place: Place, rounds: int) -> Measured:
    """What wine-drift's commands cost that read or send what the last run left."""
    place.write(100, 9_000)  # no batch of the table has such a number
    run = place.wine_drift()
    spend(run.command, run.env)
    words = ("--help", "status", "metrics", "push", "health")
    python = Contender("python", (sys.executable, "-c", "pass"))
    contenders = [python, place.floor(), *map(place.command, words)]
    return measure(contenders, dict.fromkeys((c.name for c in contenders), rounds), write=None)


def tell_versions(names: Iterable[str]) -> None:
    """Print what was measured, and on what."""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    ours = ("wine-drift", "numpy", "scipy", "pandas", "lightgbm")
    print(f"wine-drift and the floor: {versions(sys.executable, ours)}")
    for name in names:
        wanted = [pin.split("==")[0] for pin in (*PEERS[name], *COMMON)]
        print(f"{name}: {versions(str(install(name)), wanted)}")


def compare(place: Place, opts: argparse.Namespace, names: Sequence[str]) -> dict[int, Measured]:
    """Measure the floor and these contenders, with batches of each size."""
    contenders, missing = line_up(place, names)
    blocks = {}
    for n_rows in opts.rows or (QUICK if opts.quick else ROUNDS):
        ours, theirs = usual_rounds(n_rows, quick=opts.quick)
        rounds = {name: opts.rounds or (theirs if name in PEERS else ours) for name in names}
        if any(rounds.values()):
            rounds["floor"] = max(rounds.values())
            part = [contender for contender in contenders if rounds[contender.name]]
            found = measure(part, rounds, write=partial(place.write, n_rows))
            found.failures |= {name: why for name, why in missing.items() if rounds[name]}
            blocks[n_rows] = found
            for line in batch_lines(n_rows, found):
                tell("  ".join(line).rstrip())
    return blocks


def main() -> None:
    """Print the tables; exit with 1 if somebody measured another quality."""
    opts = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends, files go
    wanted = opts.only or ["wine-drift", "commands", *(() if opts.quick else PEERS)]
    names = [name for name in wanted if name != "commands"]
    blocks, commands = {}, Measured()
    try:
        with tempfile.TemporaryDirectory() as folder, gateway() as address:
            place = Place.make(Path(folder), address)
            if opts.profile:
                for n_rows in opts.rows or PROFILED:
                    profile(place, n_rows)
                return
            if "commands" in wanted:
                tell("commands")
                commands = measure_commands(place, opts.rounds or COMMAND_ROUNDS)
            if names:
                blocks = compare(place, opts, names)
    except Failed as failure:
        sys.exit(str(failure))
    if opts.json:
        kept = {"batches": {n_rows: asdict(found) for n_rows, found in blocks.items()}}
        opts.json.write_text(json.dumps(kept | {"commands": asdict(commands)}, indent=1))
    if blocks:
        lines = [line for n_rows, found in blocks.items() for line in batch_lines(n_rows, found)]
        show(HEAD, lines, markdown=opts.markdown)
    if commands.costs:
        show(COMMAND_HEAD, command_lines(commands), markdown=opts.markdown)
    measured = {name for found in blocks.values() for name in found.costs}
    tell_versions(name for name in names if name in PEERS and name in measured)
    parts = [*((f"{n_rows:,} rows, ", found) for n_rows, found in blocks.items()), ("", commands)]
    for part, found in parts:
        for name, why in found.failures.items():
            print(f"{part}{name}: {why}")
    if odd := [part + text for part, found in parts for text in differences(found.told)]:
        sys.exit("\n".join(odd))


if __name__ == "__main__":
    main()
