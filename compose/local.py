"""The stack without Docker, `make stack-local`: the same files, and programs from PATH on loopback.

Debian has them: prometheus-pushgateway, prometheus and prometheus-alertmanager. What they keep lies
beside the demo's home; Ctrl-C stops all of them, and nothing is lost.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

HERE = Path(__file__).resolve().parent
PORTS = {"prometheus": 9090, "pushgateway": 9091, "alertmanager": 9093}
RETENTION_DAYS = 400  # as much as a demo can have
PART_DAYS = 20  # of the past at a time: promtool reads a file once for each block it makes


class Trouble(Exception):
    """Something that a person can mend."""


def program(name: str) -> str:
    """Path of a program, under Debian's name or its maker's."""
    for each in (f"prometheus-{name}", name):
        if path := shutil.which(each):
            return path
    raise Trouble(
        f"{name} is not on PATH: apt-get install --no-install-recommends prometheus "
        "prometheus-pushgateway prometheus-alertmanager"
    )


def number(name: str, default: float) -> float:
    """A number that the environment names."""
    text = os.environ.get(name, str(default))
    try:
        return float(text)
    except ValueError:
        raise Trouble(f"{name}: {text!r} is no number") from None


def wine_drift(*arguments: object) -> list[str]:
    """A command of wine-drift, by the Python that runs this."""
    return [sys.executable, "-m", "wine_drift", *map(str, arguments)]


def backfill(home: Path, storage: Path, days: float) -> None:
    """Make the demo and put its past into the storage of Prometheus, once."""
    if not (home / "ledger.sqlite").exists():
        shutil.rmtree(storage, ignore_errors=True)  # it is of another home
    subprocess.run(wine_drift("demo", "--home", home, "--days", days), check=True)
    if storage.exists():
        return
    print("reading the past into Prometheus", flush=True)
    making, part = storage.with_name("making"), storage.with_name("part.om")
    shutil.rmtree(making, ignore_errors=True)  # what an interrupted one left
    blocks = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics"]
    blocks += [f"--max-block-duration={PART_DAYS * 24}h", str(part), str(making)]
    end = time.time()
    while True:  # backwards, until there is nothing earlier
        begin = end - PART_DAYS * 86_400
        span = ("--since", f"{begin:.3f}", "--until", f"{end - 0.001:.3f}")
        export = wine_drift("history", "export", "--home", home, *span, "--openmetrics", part)
        told = subprocess.run(export, check=True, stdout=subprocess.PIPE, text=True).stdout
        if told.startswith("wrote 0 "):
            break
        subprocess.run(blocks, check=True, stdout=subprocess.DEVNULL)
        end = begin
    part.unlink()
    making.rename(storage)


def configure(folder: Path, ports: dict[str, int]) -> Path:
    """A copy of what compose mounts, with targets on this machine."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(HERE / "prometheus", folder)
    for target in (folder / "targets").glob("*.yml"):
        target.write_text(f'- targets: ["127.0.0.1:{ports[target.stem]}"]\n', encoding="utf-8")
    return folder / "prometheus.yml"


class Stack:
    """Processes that live and end together."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str, ready: str | None = None) -> None:
        """Start one, and wait until it answers."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            # a session of its own: Ctrl-C is for us, who end them in order
            self.running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        opener, end = build_opener(ProxyHandler({})), time.monotonic() + 60
        while ready is not None:
            self.check()
            try:
                opener.open(ready, timeout=2).close()
                return
            except (URLError, OSError) as error:
                if time.monotonic() > end:
                    raise Trouble(
                        f"{name} does not answer: {error}; see {self.log(name)}"
                    ) from None
                time.sleep(0.05)

    def log(self, name: str) -> Path:
        """Where one prints to."""
        return self.logs / f"{name}.log"

    def check(self) -> None:
        """See that all are alive."""
        for name, process in self.running.items():
            if process.poll() is not None:
                last = (
                    self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
                )
                raise Trouble(f"{name} ended: {''.join(last)}; see {self.log(name)}")

    def stop(self) -> None:
        """End them, the last one first: the run in hand finishes and is pushed and scraped."""
        for process in reversed(self.running.values()):
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> None:
    """Start everything, and wait for Ctrl-C."""
    days = number("DEMO_DAYS", 91)
    place = Path(os.environ.get("DEMO_HOME", ".demo")).resolve()
    home, storage = place / "home", place / "tsdb"
    ports = {name: int(number(f"{name.upper()}_PORT", n)) for name, n in PORTS.items()}
    alerts = Path(os.environ.get("ALERTMANAGER_CONFIG", HERE / "alertmanager"))
    settings = Path(os.environ.get("JOB_CONFIG", HERE / "job")) / "wine-drift.toml"
    at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    programs = {name: program(name) for name in ports}
    for name, port in ports.items():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise Trouble(f"port {port} is taken: set {name.upper()}_PORT to another")
    place.mkdir(parents=True, exist_ok=True)
    backfill(home, storage, days)
    config = configure(place / "prometheus", ports)
    stack = Stack(place / "logs")
    try:
        stack.start(
            "pushgateway",
            programs["pushgateway"],
            f"--web.listen-address={at['pushgateway']}",
            f"--persistence.file={place / 'pushgateway.store'}",
            "--persistence.interval=30s",
            ready=f"http://{at['pushgateway']}/-/ready",
        )
        stack.start(
            "alertmanager",
            programs["alertmanager"],
            f"--config.file={alerts / 'alertmanager.yml'}",
            f"--storage.path={place / 'alertmanager'}",
            f"--web.listen-address={at['alertmanager']}",
            "--cluster.listen-address=",
            ready=f"http://{at['alertmanager']}/-/ready",
        )
        stack.start(
            "prometheus",
            programs["prometheus"],
            f"--config.file={config}",
            f"--storage.tsdb.path={storage}",
            f"--storage.tsdb.retention.time={RETENTION_DAYS}d",
            f"--web.listen-address={at['prometheus']}",
            ready=f"http://{at['prometheus']}/-/ready",
        )
        job = ("--settings", settings, "--home", home, "--pushgateway", at["pushgateway"])
        stack.start("scheduler", *wine_drift("schedule", *job))
        for name, address in at.items():
            print(f"{name:<13} http://{address}")
        print(f"{'scheduler':<13} a batch a minute, see {stack.log('scheduler')}")
        print("Ctrl-C stops them", flush=True)
        while True:
            stack.check()
            time.sleep(0.5)
    finally:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)  # or impatience would leave some of them behind
        stack.stop()


def interrupt(signum: int, frame: FrameType | None) -> None:
    """SIGTERM, or a terminal that is closed, is Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupt)
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
    except Trouble as trouble:
        sys.exit(f"error: {trouble}")
    except subprocess.CalledProcessError as failed:
        sys.exit(f"error: {' '.join(map(str, failed.cmd))} ended with {failed.returncode}")
