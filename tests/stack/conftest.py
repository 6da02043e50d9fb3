"""A real Pushgateway and a real Prometheus for the tests in this folder, on ports of their own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import pytest

HERE = Path(__file__).parent
COMPOSE = HERE.parents[1] / "compose"
STACK = "needs Debian's prometheus and prometheus-pushgateway"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, so that `-m "not stack"` leaves out all of them."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.stack)


def find(*names: str, needs: str = STACK) -> str:
    """Find a program on PATH, or skip the test; with WINE_DRIFT_REQUIRE_STACK=1 fail it."""
    for name in names:
        if path := shutil.which(name):
            return path
    if os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
        pytest.fail(needs)
    pytest.skip(needs)


def get(url: str) -> str:
    """GET without a proxy and without checking certificates."""
    https = HTTPSHandler(context=ssl._create_unverified_context())
    with build_opener(ProxyHandler({}), https).open(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def wait(condition: Callable[[], bool], timeout: float, message: Callable[[], str]) -> None:
    """Ask every 20 ms until it is so."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s: {message()}"
        time.sleep(0.02)


class Server:
    """A server process on a free port of 127.0.0.1, which it keeps over restarts."""

    def __init__(self, folder: Path, *command: str, scheme: str = "http") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = "{}:{}".format(*probe.getsockname())
        self.url = f"{scheme}://{self.address}"
        self.command = (*command, f"--web.listen-address={self.address}")
        self.log = folder / f"{Path(command[0]).name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        try:
            wait(self.ready, 20, self.log.read_text)
        except BaseException:
            self.stop()
            raise

    def ready(self) -> bool:
        """Tell whether it answers; raise if it is dead."""
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            get(f"{self.url}/-/ready")
        except HTTPError as error:
            with error:
                return error.code == 401  # it is up, and wants a password even for this
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Stop it, as a service manager would; again is harmless."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium without a window, which asks for nothing by itself."""
    program = find("chromium", "chromium-browser", needs="needs Debian's chromium")
    from playwright.sync_api import sync_playwright

    switches = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
    switches += ("--disable-background-networking", "--disable-component-update", "--disable-sync")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=switches)
        yield chromium
        chromium.close()


def make_alertmanager(folder: Path) -> Server:
    """An Alertmanager with the configuration of the stack, not started yet."""
    return Server(
        folder,
        find("prometheus-alertmanager", "alertmanager"),
        f"--config.file={COMPOSE / 'alertmanager' / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        "--cluster.listen-address=",
    )


class Pushgateway(Server):
    """A Pushgateway that keeps its groups in a file over restarts."""

    def groups(self) -> list[dict[str, str]]:
        """List the grouping keys that it holds."""
        return [group["labels"] for group in json.loads(get(f"{self.url}/api/v1/metrics"))["data"]]

    def metrics(self) -> str:
        """Read what Prometheus would scrape."""
        return get(f"{self.url}/metrics")


class Prometheus(Server):
    """A Prometheus that scrapes one gateway every second."""

    def ask(self, path: str, **parameters: object) -> dict[str, Any]:
        """GET from its API and read the whole answer, refusals too."""
        try:
            text = get(f"{self.url}/api/v1/{path}?{urlencode(parameters)}")
        except HTTPError as error:
            with error:
                text = error.read().decode()
        answer: dict[str, Any] = json.loads(text)
        return answer

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Evaluate now: a list of {"metric": labels, "value": float}."""
        answer = json.loads(get(f"{self.url}/api/v1/query?{urlencode({'query': promql})}"))
        return [
            {"metric": row["metric"], "value": float(row["value"][1])}
            for row in answer["data"]["result"]
        ]

    def at(self, promql: str, moment: float) -> dict[tuple[tuple[str, str], ...], float]:
        """Evaluate at a Unix time: labels, sorted -> value."""
        query = urlencode({"query": promql, "time": f"{moment:.3f}"})
        answer = json.loads(get(f"{self.url}/api/v1/query?{query}"))
        return {
            tuple(sorted(row["metric"].items())): float(row["value"][1])
            for row in answer["data"]["result"]
        }

    def wait_for(
        self,
        promql: str,
        predicate: Callable[[list[dict[str, Any]]], bool] = bool,
        timeout: float = 20,
    ) -> list[dict[str, Any]]:
        """Evaluate until the predicate is true of the result, and return that result."""
        result: list[dict[str, Any]] = []

        def done() -> bool:
            result[:] = self.query(promql)
            return predicate(result)

        wait(done, timeout, lambda: f"{promql} is {result}")
        return result


@pytest.fixture
def start_pushgateway(tmp_path: Path) -> Iterator[Callable[..., Pushgateway]]:
    """Start Pushgateways: `start_pushgateway(*options, scheme="http")`."""
    binary = find("prometheus-pushgateway", "pushgateway")
    started: list[Pushgateway] = []

    def start(*options: str, scheme: str = "http") -> Pushgateway:
        store = f"--persistence.file={tmp_path / f'pushgateway{len(started)}.store'}"
        command = (binary, store, "--persistence.interval=1s", *options)
        started.append(Pushgateway(tmp_path, *command, scheme=scheme))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def pushgateway(start_pushgateway: Callable[..., Pushgateway]) -> Pushgateway:
    """A running Pushgateway: .url .address .stop() .start() .groups() .metrics()."""
    return start_pushgateway()


@pytest.fixture
def prometheus(pushgateway: Pushgateway, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes `pushgateway` every second: .url .query() .wait_for().

    It looks at its targets 5 s after its start for the first time, and no option changes that.
    """
    config = tmp_path / "prometheus.yml"
    scrape = {
        "job_name": "pushgateway",
        "honor_labels": True,
        "static_configs": [{"targets": [pushgateway.address]}],
    }
    # JSON is YAML
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))
    server = Prometheus(
        tmp_path,
        find("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def query() -> Callable[..., list[float]]:
    """Ask a Prometheus by its address: `query(url, promql, at=None)`, values alone."""

    def ask(url: str, promql: str, at: float | None = None) -> list[float]:
        moment = {} if at is None else {"time": at}
        answer = json.loads(get(f"{url}/api/v1/query?{urlencode({'query': promql, **moment})}"))
        return [float(row["value"][1]) for row in answer["data"]["result"]]

    return ask


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Server]:
    """A running Alertmanager with the configuration of the stack: .url."""
    server = make_alertmanager(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def past(tmp_path: Path, promtool: str) -> Iterator[Callable[..., Prometheus]]:
    """Start a Prometheus on files of OpenMetrics text and nothing else: `past(file, ...)`."""
    started: list[Prometheus] = []

    def start(*files: Path) -> Prometheus:
        config, storage = tmp_path / "nothing.yml", tmp_path / f"tsdb{len(started)}"
        config.write_text("{}")
        for file in files:
            command = (promtool, "tsdb", "create-blocks-from", "openmetrics", file, storage)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        options = (f"--config.file={config}", f"--storage.tsdb.path={storage}")
        started.append(Prometheus(tmp_path, find("prometheus"), *options))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def promtool() -> str:
    """Path of promtool."""
    return find("promtool")


@dataclass(frozen=True)
class Stack:
    """Servers with the configuration of compose/ and a past, from `start` on."""

    home: Path
    start: float
    pushgateway: Pushgateway
    alertmanager: Server
    prometheus: Prometheus


@pytest.fixture(scope="session")
def demo_stack(tmp_path_factory: pytest.TempPathFactory, promtool: str) -> Iterator[Stack]:
    """The whole stack but Grafana, with a past of 26 hours and something of everything.

    The past is a demo with two drifts and their retrainings, then a batch whose source is at fault.
    What is pushed live is a drifted batch without labels, after a push that the gateway refused.
    """
    # Here, as they load LightGBM.
    from wine_drift.dataset import load_schema
    from wine_drift.demo import HOUR, make_demo
    from wine_drift.history import export_history
    from wine_drift.ledger import Ledger
    from wine_drift.run import run_batch
    from wine_drift.settings import Settings
    from wine_drift.supply import write_simulated

    folder, now = tmp_path_factory.mktemp("stack"), time.time()
    settings = Settings(
        home=folder / "home", source="simulated", every=HOUR, days=1, rounds=20, threads=1
    )
    settings = replace(settings, legacy_metrics=True, scenario_feature="alcohol", seed=1)

    def batch(scenario: str) -> Path:
        drawn = replace(settings, scenario=scenario)
        (path,) = write_simulated(drawn, load_schema(None), n_batches=1, out=folder)
        return path

    make_demo(replace(settings, seed=0), now=lambda: now - 2 * HOUR)
    with Ledger.open(settings.home) as ledger:
        champion = (ledger.snapshot().champion or {})["version"]
        shift = {"name": "alcohol", "shift_own": 0.7, "shift_sd": 0.6}  # measuring takes too long
        power = {"version": champion, "measured_at": now - 2 * HOUR, "features": [shift]}
        ledger.record_power(power)
    run_batch(settings, batch("missing"), now=lambda: now - HOUR)
    export_history(settings, folder / "past.om", now=lambda: now)
    blocks = (promtool, "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=500h")
    command = (*blocks, folder / "past.om", folder / "tsdb")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    unlabelled = batch("none")
    lines = unlabelled.read_text(encoding="utf-8").splitlines()
    text = "".join(line.rpartition(";")[0] + "\n" for line in lines)  # labels come last
    unlabelled.write_text(text, encoding="utf-8")

    shutil.copytree(COMPOSE / "prometheus", folder / "prometheus")
    config = folder / "prometheus" / "prometheus.yml"
    config.write_text(config.read_text(encoding="utf-8").replace("15s", "1s"), encoding="utf-8")
    pushgateway = Pushgateway(
        folder, find("prometheus-pushgateway", "pushgateway"), "--persistence.file="
    )
    alertmanager = make_alertmanager(folder)
    prometheus = Prometheus(
        folder,
        find("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
    )
    servers = {"pushgateway": pushgateway, "alertmanager": alertmanager, "prometheus": prometheus}
    for name, server in servers.items():
        target = json.dumps([{"targets": [server.address]}])  # JSON is YAML
        (folder / "prometheus" / "targets" / f"{name}.yml").write_text(target, encoding="utf-8")
    try:
        for server in servers.values():
            server.start()
        group = f"{pushgateway.url}/metrics/job/wine_drift/pipeline/{settings.pipeline}"
        wrong_type = b"# TYPE go_goroutines counter\ngo_goroutines 1\n"  # a gauge of the gateway
        with pytest.raises(HTTPError, match="400") as refused:
            build_opener(ProxyHandler({})).open(Request(group, wrong_type), timeout=5)
        refused.value.close()
        run_batch(replace(settings, pushgateway=pushgateway.url), unlabelled)
        prometheus.wait_for("count(up == 1) == 3")
        prometheus.wait_for('ALERTS{alertstate="firing", severity!="none"}')
        prometheus.wait_for("count_over_time(pushgateway_http_requests_total[1m]) > 2")
        yield Stack(settings.home, now - 26 * HOUR, pushgateway, alertmanager, prometheus)
    finally:
        for server in servers.values():
            server.stop()


@pytest.fixture(scope="session")
def openssl() -> str:
    """Path of openssl."""
    return find("openssl", needs="needs openssl")
