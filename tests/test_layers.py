"""Who imports whom, read from the code and from running commands."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from pyarrow import csv, parquet

import wine_drift
from wine_drift.cli import main

PACKAGE = Path(wine_drift.__file__).parent

CORE = {
    *("schema", "simulate", "screening", "bins", "rows", "drift", "measures", "policy"),
    *("evidence", "outcomes", "faults", "reference", "detector", "causes", "streams"),
    *(
        "trees",
        "forest",
        "frame",
        "gate",
        "measurement",
        "counted",
        "decimals",
        "repeats",
        "proposal",
        "gathering",
        "exposition",
        "record",
        "explanation",
        "report",
    ),
    *("timeline", "timetable", "roster", "logline", "wording", "verdict"),
    *("layout", "overview", "snapshot", "diagnosis", "chronicle", "charts", "page"),
}
EDGES = {
    "settings",
    "dataset",
    "tables",
    "batches",
    "model",
    "ledger",
    "publishing",
    "scheduling",
    "locking",
    "bundle",
    "shards",
}
CONDUCTORS = [
    "home",
    "standing",
    "outbox",
    "recipes",
    "retraining",
    "spread",
    "supply",
    "parts",
    "training",
    "cluster",
    "champion",
    "versions",
    "retention",
    "repair",
    "exchange",
    "labels",
    "run",
    "selftest",
    "history",
    "doctor",
    "demo",
    "portrait",
    "service",
]  # each may import those before it
FRONT = {"cli", "voice", "api", "__main__", "__init__"}
BOTTOM = {
    *("errors", "failpoints", "files", "places", "shelf", "sqlite", "postgres", "bucket"),
    "special",
}

CORE_MAY_IMPORT = {
    # no files, clock, network, logging or randomness of their own
    *("__future__", "collections", "contextlib", "dataclasses", "typing", "math", "operator", "re"),
    *("io", "textwrap", "json", "zlib", "hashlib", "bisect", "datetime", "functools", "itertools"),
    *("decimal", "numbers", "difflib", "statistics"),
    *("numpy", "prometheus_client", "rich"),
    *("matplotlib", "jinja2", "markupsafe"),
}
# What else is allowed where, and why.
EXCEPTIONS = {
    "exposition": {"platform"},  # the release of Python, for build_info
    "wording": {"time"},  # to write a moment as text; see the test of the clock
    "charts": {"warnings"},  # to keep matplotlib from telling of letters that it lacks
}
OF_SEVERAL_HOSTS = ("psycopg", "fsspec")
DRAWING = ("matplotlib", "jinja2")
HEAVY = (
    *("numpy", "pandas", "scipy", "sklearn", "lightgbm", "pyarrow", "prometheus_client"),
    *DRAWING,
)


def trees() -> dict[str, ast.Module]:
    """Return the code of every module by its name inside the package."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in PACKAGE.rglob("*.py")
    }


TREES = trees()


def imported(node: ast.AST) -> Iterator[str]:
    """Yield what a node imports: `wine_drift.x` for the package's own modules."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports are not used here"
        if node.module == "wine_drift":
            yield from (f"wine_drift.{alias.name}" for alias in node.names)
        elif node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def all_imports(module: str) -> set[str]:
    """Return everything that a module imports, wherever in it."""
    return {name for node in ast.walk(TREES[module]) for name in imported(node)}


def own_imports(module: str) -> set[str]:
    """Return the package's modules that a module imports."""
    found = {name.split(".")[1] for name in all_imports(module) if name.startswith("wine_drift.")}
    return found & set(TREES)


def foreign_imports(module: str) -> set[str]:
    """Return the top-level names of what a module imports from elsewhere."""
    return {name.split(".")[0] for name in all_imports(module)} - {"wine_drift"}


def module_level(module: str) -> set[str]:
    """Return what is imported as soon as the module is."""

    def walk(node: ast.AST) -> Iterator[str]:
        yield from imported(node)
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not checking and not isinstance(node, ast.FunctionDef | ast.Lambda):
            for child in ast.iter_child_nodes(node):
                yield from walk(child)

    return set(walk(TREES[module]))


def importers(package: str) -> set[str]:
    """Return the modules that import a package."""
    return {module for module in TREES if package in foreign_imports(module)}


def test_every_module_has_its_place() -> None:
    """A new module must be put into a layer here."""
    layers = [CORE, EDGES, set(CONDUCTORS), FRONT, BOTTOM]
    assert set(TREES) == set().union(*layers)
    assert sum(map(len, layers)) == len(TREES)


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("lightgbm", "model"),
        ("pandas", "tables"),
        ("sqlite3", "sqlite"),
        ("psycopg", "postgres"),
        ("apscheduler", "scheduling"),
        ("distributed", "cluster"),
        ("matplotlib", "charts"),
        ("jinja2", "page"),
        ("scipy", "special"),
    ],
)
def test_only_importer(package: str, module: str) -> None:
    """One module knows LightGBM, one each kind of database, one APScheduler, one Dask, ..."""
    assert importers(package) == {module}


def test_importers_of_fsspec() -> None:
    """One reads the files of a batch by it, the other keeps versions."""
    assert importers("fsspec") == {"places", "bucket"}


@pytest.mark.parametrize("module", sorted(CORE))
def test_core(module: str) -> None:
    """The core imports the core, errors, special functions, and libraries that compute."""
    allowed = EXCEPTIONS.get(module, set())
    assert own_imports(module) - CORE - {"errors", "special"} - allowed == set()
    assert foreign_imports(module) - CORE_MAY_IMPORT - allowed == set()


@pytest.mark.parametrize("module", sorted(CORE))
def test_core_is_pure(module: str) -> None:
    """The core opens no file, prints nothing, reads no clock and makes no random numbers."""
    names, attributes = set(), set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            attributes.add(ast.unparse(node))
    assert names & {"open", "print", "input", "exec", "eval", "globals", "__import__"} == set()
    assert {a for a in attributes if a.startswith("time.")} <= {"time.strftime", "time.gmtime"}
    assert {a for a in attributes if a.startswith("np.random.")} <= {"np.random.Generator"}


@pytest.mark.parametrize("module", sorted(EDGES))
def test_edges(module: str) -> None:
    """An edge imports the core and what is at the bottom, and never another edge."""
    assert own_imports(module) - CORE - BOTTOM == set()


@pytest.mark.parametrize("module", CONDUCTORS)
def test_conductors(module: str) -> None:
    """A conductor imports what is below it, and conductors before it."""
    before = set(CONDUCTORS[: CONDUCTORS.index(module)])
    assert own_imports(module) - CORE - EDGES - BOTTOM - before == set()


def test_only_the_command_line_imports_run() -> None:
    """Nothing stands above the run but the commands, and the demo that runs many."""
    assert {module for module in TREES if "run" in own_imports(module)} == {"cli", "demo"}
    assert {module for module in TREES if "cli" in own_imports(module)} == {"__main__"}
    assert importers("click") == {"cli", "voice"}


def test_the_library_stands_on_the_core() -> None:
    """What a notebook calls knows no files: of the edges it has the defaults of settings."""
    assert own_imports("api") - CORE == {"settings"}
    assert foreign_imports("api") <= {*CORE_MAY_IMPORT}
    assert own_imports("__init__") == {"api"}
    assert "wine_drift.api" not in module_level("__init__")


def test_the_bottom_imports_nothing_of_the_package() -> None:
    """Errors and fail points are at the bottom; files, databases and versions stand on them."""
    found = {module: own_imports(module) for module in BOTTOM}
    assert found.pop("files") == {"errors", "failpoints"}
    assert found.pop("shelf") == {"errors", "files", "failpoints", "bucket"}
    assert found.pop("sqlite") == {"errors", "files", "failpoints"}
    assert found.pop("postgres") == found.pop("bucket") == {"errors", "failpoints"}
    assert found.pop("places") == {"errors"}
    assert set().union(*found.values()) == set()


def test_no_cycles() -> None:
    """The modules can be put in an order in which each imports only earlier ones."""
    left = {module: own_imports(module) - {module} for module in TREES}
    while left:
        ready = [module for module, needed in left.items() if not needed & set(left)]
        assert ready, f"a cycle among {sorted(left)}"
        for module in ready:
            del left[module]


@pytest.mark.parametrize("module", sorted(TREES))
def test_slow_packages_are_imported_where_they_are_needed(module: str) -> None:
    """No module imports scikit-learn or rich merely by being imported."""
    assert {name.split(".")[0] for name in module_level(module)} & {"sklearn", "rich"} == set()


# --- what a command loads ---

RUN = """
import json, sys
from wine_drift.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def loaded_by(*arguments: str) -> tuple[int, set[str]]:
    """Run a command in a new process; return its exit code and the modules that it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.stderr, done
    code, loaded = json.loads(done.stderr.splitlines()[-1])
    return code or 0, set(loaded)


@pytest.fixture(scope="module")
def used_home(red_wine_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A home that was used once."""
    path = str(tmp_path_factory.mktemp("home"))
    arguments = ["run-batch", "--home", path, "--data", str(red_wine_csv), "--rounds", "5"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in sorted(main.commands)),
        *(["models", name, "--help"] for name in ("list", "rollback", "import")),
        ["selftest", "power", "--help"],
        ["init", "new.toml"],
        ["run-batch", "--budget", "many"],
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """Help, the version, a settings file and a settings error come without numerical packages."""
    code, loaded = loaded_by(*arguments)
    assert code == (2 if "many" in arguments else 0)
    assert loaded & set(HEAVY) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["explain"],
        ["metrics"],
        ["push"],
        ["health"],
        ["history", "list"],
        ["models", "list"],
        ["models", "show"],
    ],
    ids=" ".join,
)
def test_reading_the_ledger_loads_no_model(used_home: str, arguments: list[str]) -> None:
    """Commands that read the ledger load neither LightGBM nor pandas nor scikit-learn."""
    code, loaded = loaded_by(*arguments, "--home", used_home)
    assert code == 0
    if arguments[0] == "status":
        assert loaded & set(HEAVY) == set()
    never = {"lightgbm", "pandas", "sklearn", "pyarrow", *OF_SEVERAL_HOSTS, *DRAWING}
    assert loaded & never == set()


def test_a_page_loads_no_model(used_home: str) -> None:
    """It draws, and needs neither LightGBM nor pandas nor scikit-learn."""
    code, loaded = loaded_by("report", "--home", used_home, "--out", "report.html")
    assert code == 0
    assert set(DRAWING) <= loaded
    assert loaded & {"lightgbm", "pandas", "sklearn", "pyarrow", *OF_SEVERAL_HOSTS} == set()


def test_several_hosts_load_what_one_does_not(address: str) -> None:
    """The way of looking is able to see."""
    places = ("--models", "memory://models", "--settings", "several.toml")
    Path("several.toml").write_text(f'ledger = "{address}"\n')
    training = ("--source", "simulated", "--rounds", "5")
    code, loaded = loaded_by("run-batch", "--home", "home", *places, *training)
    assert code == 0
    assert set(OF_SEVERAL_HOSTS) <= loaded


@pytest.mark.parametrize(
    "source", ["a stream", "a file", "a file with rows set aside", "a folder with rows set aside"]
)
def test_a_plain_run_loads_little(used_home: str, red_wine_csv: Path, source: str) -> None:
    """What scores and judges a hundred rows needs numpy, and the compiled part of scipy.special."""
    lines = red_wine_csv.read_text().splitlines()[:101]
    if source.endswith("aside"):
        lines[-1] = ";" + lines[-1].partition(";")[2]
    batch = Path("batch.csv")
    batch.write_text("\n".join(lines))
    words = ["--data", str(red_wine_csv)] if source == "a stream" else [str(batch)]
    if source.startswith("a folder"):
        Path("parts").mkdir()
        for name in "ab":
            (Path("parts") / name).with_suffix(".csv").write_text(batch.read_text())
        words = ["parts"]
    code, loaded = loaded_by("run-batch", "--home", used_home, *words, "--retrain", "never")
    assert code == 0
    assert {"numpy", "scipy.special._ufuncs"} <= loaded
    never = {"lightgbm", "pandas", "sklearn", "pyarrow", "narwhals", "distributed", "rich"}
    never |= {"scipy.special", "scipy.stats", "scipy.sparse", "numpy.f2py", "numpy.testing"}
    assert loaded & (never | {*OF_SEVERAL_HOSTS, *DRAWING}) == set()


def test_a_large_file_of_plain_numbers_loads_no_pandas(used_home: str, red_wine_csv: Path) -> None:
    """Nor does Parquet, for which there is pyarrow."""
    head, *lines = red_wine_csv.read_text().splitlines()
    Path("large.csv").write_text("\n".join([head, *(lines * 60)]))  # in several parts
    table = csv.read_csv(red_wine_csv, parse_options=csv.ParseOptions(delimiter=";"))
    parquet.write_table(table, "table.parquet")
    for batch in ("large.csv", "table.parquet"):
        code, loaded = loaded_by("run-batch", "--home", used_home, batch, "--retrain", "never")
        assert code == 0
        assert loaded & {"lightgbm", "pandas", "sklearn", "narwhals"} == set()
        assert ("pyarrow" in loaded) == (batch == "table.parquet")


def test_training_loads_what_a_run_does_not(red_wine_csv: Path) -> None:
    """The way of looking is able to see."""
    code, loaded = loaded_by("train", "--home", "home", "--data", str(red_wine_csv))
    assert code == 0
    assert {"lightgbm", "pandas", "sklearn"} <= loaded
