"""What only a Docker engine can show, on a stack of its own beside yours: `make compose-drill`.

Up from nothing; the alert of a drifted batch reaches a webhook; every container is killed, comes
back and has lost nothing; Dask's workers count a batch as one process does, whichever of them dies;
down, and up again over the same volumes; gone. A failure ends it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "wine-drift-drill"
SINK = f"{PROJECT}-sink"
COMPOSE = ("docker", "compose", "-f", "compose/compose.yaml", "--profile", "*")
SERVICES = ("scheduler", "pushgateway", "prometheus", "alertmanager", "grafana")
LISTEN = """
import http.server, json
class Sink(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in told["alerts"]:
            print(alert["status"], alert["labels"]["alertname"], flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("", 8000), Sink).serve_forever()
"""
ALERTMANAGER = f"""
route: {{receiver: sink, group_wait: 0s, group_interval: 1s, group_by: [alertname]}}
receivers: [{{name: sink, webhook_configs: [{{url: "http://{SINK}:8000/"}}]}}]
"""
DRIFTED = """# wines as they were before the demo's changes
wine-drift simulate --out /tmp/drifted --scenario none --seed 7
wine-drift run-batch /tmp/drifted/*.csv
"""
TWIN = """# the same batch of many files for two homes that are alike
wine-drift simulate --out /inbox/parts --scenario none --seed 8 --batches 12 --batch-rows 200000
cp -r /var/lib/wine-drift /backfill/twin
"""
MID_RUN = """
import sys, time
from distributed import Client
with Client("tcp://127.0.0.1:8786") as client:
    for _ in range(1200):
        done, busy = str(client.has_what()), map(str, client.processing().values())
        if "count_file" in done and all("count_file" in tasks for tasks in busy):
            sys.exit()
        time.sleep(0.05)
sys.exit("the workers did nothing")
"""


def say(text: str) -> None:
    """One line, with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
    sys.stdout.flush()


def run(*command: str) -> str:
    """Run a command; its output, or the end of the drill."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def until(what: str, condition: Callable[[], Any], seconds: float = 180) -> Any:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            sys.exit(f"not within {seconds:g} s: {what}")
        time.sleep(0.5)
    return found


def ask(port: str, path: str, body: object = None, **parameters: str) -> Any:
    """GET, or POST of a body, as JSON; None if there is no answer."""
    url = f"http://127.0.0.1:{os.environ[port]}{path}?{urlencode(parameters)}"
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return None


def query(promql: str) -> float:
    """One number of Prometheus; 0 if there is none."""
    found = ask("PROMETHEUS_PORT", "/api/v1/query", query=promql)
    return (
        float(found["data"]["result"][0]["value"][1]) if found and found["data"]["result"] else 0.0
    )


def figures() -> dict[str, float]:
    """What may only grow."""
    status = run(*COMPOSE, "exec", "-T", "scheduler", "wine-drift", "status", "--json", "--last=1")
    silences = ask("ALERTMANAGER_PORT", "/api/v2/silences") or []
    return {
        "ledger": float(json.loads(status)["batches"][0]["batch"]["sequence"]),
        "counter": query("sum(wine_drift_batches_total)"),
        "hours": query("max(count_over_time(wine_drift_batch_number[30d:1h]))"),
        "silences": float(sum(silence["status"]["state"] == "active" for silence in silences)),
    }


def container(service: str, template: str) -> str:
    """Something that the engine knows of a service's container."""
    return run("docker", "inspect", "-f", template, f"{PROJECT}-{service}-1").strip()


def strike(service: str) -> None:
    """SIGKILL to its first process, as the kernel does when memory ends; nothing is told before.

    Not `docker kill`: what a person ended on purpose is not started again.
    """
    code = f"import os; os.kill({container(service, '{{.State.Pid}}')}, 9)"
    host = ("docker", "run", "--rm", "--pid=host", "--user=0", "--entrypoint=python")
    run(*host, "wine-drift:local", "-c", code)


def back(service: str) -> None:
    """Wait until it was started again, and is well."""
    until(f"{service} back", lambda: container(service, "{{.RestartCount}}") == "1")
    until(f"{service} healthy", lambda: container(service, "{{.State.Health.Status}}") == "healthy")
    say(f"{service}: killed, back and healthy")


def kill(service: str) -> None:
    """Kill it; nothing is lost. (A scheduled run is too short to be hit; tests/soak.py hits it.)"""
    before = figures()
    strike(service)
    back(service)
    compare(before)


def compare(before: dict[str, float]) -> None:
    """Nothing is less than it was, one more batch came through, and no counter ever went back."""
    until("one more batch", lambda: query("sum(wine_drift_batches_total)") > before["counter"])
    after = figures()
    lost = {name: (before[name], after[name]) for name in before if after[name] < before[name]}
    resets = query("max(resets(wine_drift_batches_total[1h]))")
    if lost or resets:
        sys.exit(f"lost: {lost}, counters went back {resets:g} times")
    say(", ".join(f"{name} {before[name]:g} -> {after[name]:g}" for name in before))


def webhook() -> None:
    """A drifted batch becomes an alert, and the alert a POST."""
    network = ("--network", f"{PROJECT}_monitor", "--entrypoint", "python")
    run("docker", "run", "--rm", "-d", "--name", SINK, *network, "wine-drift:local", "-c", LISTEN)
    run(*COMPOSE, "stop", "scheduler")  # else the next batch may be there before Prometheus looks
    run(*COMPOSE, "run", "--rm", "-T", "--entrypoint", "sh", "run-batch", "-ec", DRIFTED)
    alert = "firing WineDriftMajorDrift"
    until(alert, lambda: alert in run("docker", "logs", SINK))
    say(f"the webhook was told: {', '.join(sorted(set(run('docker', 'logs', SINK).splitlines())))}")
    run(*COMPOSE, "start", "scheduler")


def cluster() -> None:
    """A worker that dies in mid-run changes nothing; if the scheduler does, a later run can do it.

    The twin comes second: both push, and its counters must not be ahead.
    """
    once = (*COMPOSE, "run", "--rm", "-T")
    run(*COMPOSE, "stop", "scheduler")  # else the homes would not stay alike
    run(*COMPOSE, "up", "--detach", "--wait", "dask-worker")
    run(*once, "--entrypoint", "sh", "run-batch", "-ec", TWIN)
    dask = ("--engine=dask", "--dask-scheduler=tcp://dask-scheduler:8786")
    for service, files, code in (("dask-worker", "*", 0), ("dask-scheduler", "*[2-9]", 6)):
        count = (*once, "run-batch", "run-batch", f"/inbox/parts/{files}.csv", "--json")
        with subprocess.Popen((*count, *dask), cwd=ROOT, stdout=subprocess.PIPE, text=True) as hit:
            run(*COMPOSE, "exec", "-T", "dask-scheduler", "python", "-c", MID_RUN)
            strike(service)
            record, _ = hit.communicate()
        if hit.returncode != code:
            sys.exit(f"{service} killed in mid-run: exit code {hit.returncode}, not {code}")
        back(service)
        alone = run(*count, "--home=/backfill/twin")
        spread = run(*count, *dask) if code else record
        if json.loads(spread) != json.loads(alone):
            sys.exit(f"counted on the workers:\n{spread}\nby one process:\n{alone}")
        say(f"{service}: killed in mid-run, exit code {code}; the record is that of one process")
    run(*COMPOSE, "rm", "--stop", "--force", "dask-worker", "dask-scheduler")
    run(*COMPOSE, "start", "scheduler")


def silence() -> None:
    """Something of Alertmanager's own to lose."""
    matcher = {"name": "alertname", "value": "Nothing", "isRegex": False}
    span = {
        "startsAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "endsAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400)),
    }
    text = {"createdBy": "drill", "comment": "drill"}
    if not ask("ALERTMANAGER_PORT", "/api/v2/silences", {"matchers": [matcher], **span, **text}):
        sys.exit("Alertmanager took no silence")


def main() -> None:
    """All of it."""
    ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    names = ("GRAFANA_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT")
    os.environ |= {n: str(s.getsockname()[1]) for n, s in zip(names, ports, strict=True)}
    for probe in ports:
        probe.close()
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)  # Alertmanager is another user
        Path(scratch, "alertmanager.yml").write_text(ALERTMANAGER, encoding="utf-8")
        os.environ |= {"COMPOSE_PROJECT_NAME": PROJECT, "ALERTMANAGER_CONFIG": scratch}
        os.environ |= {"COMPOSE_PROFILES": "demo", "DEMO_DAYS": "2"}
        try:
            say(run("make", "--no-print-directory", "compose-up"))
            silence()
            webhook()
            for service in SERVICES:
                kill(service)
            cluster()
            say(run("make", "--no-print-directory", "compose-smoke"))
            before = figures()
            say(run("make", "--no-print-directory", "compose-down"))
            say(run("make", "--no-print-directory", "compose-up"))
            compare(before)
        finally:
            subprocess.run(["docker", "rm", "-fv", SINK], check=False, capture_output=True)
            run(*COMPOSE, "down", "--volumes")
    say("all of it held")


if __name__ == "__main__":
    main()
