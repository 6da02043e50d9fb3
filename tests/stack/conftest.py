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
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import pytest

HERE = Path(__file__).parent
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

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Evaluate now: a list of {"metric": labels, "value": float}."""
        answer = json.loads(get(f"{self.url}/api/v1/query?{urlencode({'query': promql})}"))
        return [
            {"metric": row["metric"], "value": float(row["value"][1])}
            for row in answer["data"]["result"]
        ]

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


@pytest.fixture(scope="session")
def promtool() -> str:
    """Path of promtool."""
    return find("promtool")


@pytest.fixture(scope="session")
def openssl() -> str:
    """Path of openssl."""
    return find("openssl", needs="needs openssl")
