"""The stack in Docker: what its files promise, read as `docker compose` itself understands them.

That it also runs is shown by `make compose-drill`, which needs a Docker engine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from wine_drift.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "compose"
TEXT = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
ENV = dict(
    line.split("=", 1)
    for line in (FOLDER / ".env").read_text(encoding="utf-8").splitlines()
    if line[:1].isalpha()
)
DASHBOARDS = ROOT / "dashboards"
TARGETS = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
LASTING = ("scheduler", "pushgateway", "prometheus", "alertmanager", "grafana")
ONCE = ("run-batch", "demo", "backfill", "backfilled")
CLUSTER = ("dask-scheduler", "dask-worker")
STATE = {
    **dict.fromkeys(("scheduler", "run-batch", "demo", "backfilled"), "/var/lib/wine-drift"),
    **dict.fromkeys(("prometheus", "backfill"), "/prometheus"),
    "pushgateway": "/pushgateway",
    "alertmanager": "/alertmanager",
    "grafana": "/var/lib/grafana",
    "dask-worker": "/scratch",
    "dask-scheduler": None,
}


def absent(needs: str) -> None:
    """Skip the test; with WINE_DRIFT_REQUIRE_STACK=1 fail it."""
    if os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
        pytest.fail(needs)
    pytest.skip(needs)


def compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run compose on our file, with nothing of this shell's that the file might ask for."""
    environ = {
        name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ
    }
    for program in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(program[0]) is None:
            continue
        told = subprocess.run([*program, "version"], capture_output=True, text=True)
        if told.returncode == 0 and "Compose version" in told.stdout:
            command = [*program, "-f", "compose/compose.yaml", *arguments]
            options: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True}
            return subprocess.run(command, env=environ | variables, **options)
    absent("needs `docker compose`; the program is enough")
    raise AssertionError


def services(**variables: str) -> dict[str, dict[str, Any]]:
    """Every service, as compose understands it."""
    done = compose("--profile", "*", "config", "--format", "json", **variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return found


@pytest.fixture(scope="module")
def stack() -> dict[str, dict[str, Any]]:
    """Every service, with .env as it is."""
    return services()


@pytest.mark.parametrize("profiles", ["", "demo", "oneshot", "cluster", "demo,oneshot", "*"])
def test_compose_accepts_the_file(profiles: str) -> None:
    """With every profile the file is right and its variables are set, without a secret too."""
    done = compose("config", "--quiet", COMPOSE_PROFILES=profiles)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("profile", ["", "demo", "oneshot", "cluster"])
def test_profiles(profile: str) -> None:
    """The demo is what a first start shows; without profiles there are the five that stay."""
    done = compose("config", "--services", COMPOSE_PROFILES=profile)
    more = {"": (), "demo": ("demo", "backfill", "backfilled"), "oneshot": ("run-batch",)}
    assert sorted(done.stdout.split()) == sorted((*LASTING, *more.get(profile, CLUSTER)))
    assert ENV["COMPOSE_PROFILES"] == "demo"


def test_every_service_is_known_here(stack: dict[str, dict[str, Any]]) -> None:
    """A service that is added is added to these checks."""
    assert sorted(stack) == sorted((*LASTING, *ONCE, *CLUSTER))


def test_the_dockerfile_is_clean() -> None:
    """hadolint has nothing to say."""
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    hadolint = shutil.which("hadolint", path=places)
    if hadolint is None:
        absent("needs hadolint")
    command = [str(hadolint), "--failure-threshold", "style", "compose/Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_nobody_s() -> None:
    """The last stage is of a pinned Python that the package supports, and ends as a plain user."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    last = text[text.rindex("\nFROM ") :]
    assert re.findall(r"^FROM (\S+) AS base", text, flags=re.MULTILINE) == ["python:3.13-slim"]
    assert re.findall(r"^USER (.*)", last, flags=re.MULTILINE) == ["10001:10001"]
    assert re.search(r"^HEALTHCHECK .*CMD \[\"wine-drift\", \"health\"\]", last, flags=re.MULTILINE)
    assert "pip uninstall" in last and "build-essential" not in text


def test_ports_are_this_machine_s_own(stack: dict[str, dict[str, Any]]) -> None:
    """Three ports are published, each on 127.0.0.1, and a variable moves each of them."""
    published = {name: service["ports"] for name, service in stack.items() if "ports" in service}
    assert set(published) == {"prometheus", "alertmanager", "grafana"}
    for name, ports in published.items():
        (port,) = ports
        variable = f"{name.upper()}_PORT"
        assert (port["host_ip"], port["published"]) == ("127.0.0.1", ENV[variable])
        (moved,) = services(**{variable: "12345"})[name]["ports"]
        assert (moved["host_ip"], moved["published"]) == ("127.0.0.1", "12345")


def test_nobody_outside_reaches_the_gateway(stack: dict[str, dict[str, Any]]) -> None:
    """Gateway and job are on the internal network alone, Grafana and Alertmanager not on it."""
    done = compose("config", "--format", "json")
    assert json.loads(done.stdout)["networks"]["push"]["internal"] is True
    networks = {name: sorted(service.get("networks", ())) for name, service in stack.items()}
    assert {name for name, on in networks.items() if on == ["monitor"]} == {
        "alertmanager",
        "grafana",
    }
    assert networks.pop("prometheus") == ["monitor", "push"]
    assert networks.pop("run-batch") == ["cluster", "push"]
    assert networks.pop("backfill") == []
    alone = {"pushgateway", "scheduler", "demo", "backfilled"}
    assert {name for name, on in networks.items() if on == ["push"]} == alone
    assert stack["backfill"]["network_mode"] == "none"


def test_the_cluster_is_reached_by_run_batch_alone(stack: dict[str, dict[str, Any]]) -> None:
    """What a scheduler or a worker of Dask is sent can be code."""
    done = compose("--profile", "*", "config", "--format", "json")
    assert json.loads(done.stdout)["networks"]["cluster"]["internal"] is True
    on = {name for name, each in stack.items() if "cluster" in each.get("networks", ())}
    assert on == {*CLUSTER, "run-batch"}
    for name in CLUSTER:
        assert "ports" not in stack[name] and list(stack[name]["networks"]) == ["cluster"]
        assert "--dashboard-address=127.0.0.1:8787" in stack[name]["entrypoint"]
    # the image's volume for a home would be made anew, writable, and be left behind
    assert "/var/lib/wine-drift:ro" in stack["dask-scheduler"]["tmpfs"]
    worker = stack["dask-worker"]
    assert worker["deploy"]["replicas"] == 2
    assert "tcp://dask-scheduler:8786" in worker["entrypoint"]
    assert "--memory-limit=1.0" in worker["entrypoint"]  # a share, of what the container has
    assert worker["environment"]["DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE"] == "False"
    # files of a batch, and rows to train on, are where run-batch has them
    targets = {volume["target"]: volume for volume in worker["volumes"]}
    assert targets.keys() == {"/inbox", "/scratch", "/var/lib/wine-drift"}
    assert all(targets[each]["read_only"] is True for each in ("/inbox", "/var/lib/wine-drift"))


@pytest.mark.parametrize("name", [*LASTING, *ONCE, *CLUSTER])
def test_hardened(name: str, stack: dict[str, dict[str, Any]]) -> None:
    """Nothing can be written but state and scratch, no right is had or gained, all has a limit."""
    service = stack[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]
    assert int(service["mem_limit"]) > 0
    assert 0 < float(service["cpus"]) <= 1  # Docker refuses more than the machine has
    assert service["pids_limit"] > 0
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert "user" not in service and "privileged" not in service  # the images' own users are plain
    volumes = service.get("volumes", ())
    for volume in volumes:
        if volume["type"] == "bind":
            assert volume["read_only"] is True and Path(volume["source"]).is_dir()
    state = [v["type"] for v in volumes if v["target"] == STATE[name]]
    assert state == (["volume"] if STATE[name] else [])


@pytest.mark.parametrize("name", [*LASTING, *CLUSTER])
def test_what_stays_is_watched(name: str, stack: dict[str, dict[str, Any]]) -> None:
    """It starts again by itself, and a health check asks it without a shell, over IPv4."""
    service = stack[name]
    assert service["restart"] == "unless-stopped"
    program, *words = service["healthcheck"]["test"]
    assert program == "CMD"
    if name in CLUSTER:
        assert words[:2] == ["python", "-c"] and "//127.0.0.1:8787/health" in words[2]
    elif name != "scheduler":
        assert words[0] == "wget" and words[-1].startswith("http://127.0.0.1:")
        ports = [port["target"] for port in service.get("ports", ())]
        assert urlsplit(words[-1]).port in (ports or [9091])


@pytest.mark.parametrize("name", ONCE)
def test_what_runs_once_ends(name: str, stack: dict[str, dict[str, Any]]) -> None:
    """It is not started again; the history is whole before Prometheus opens its data."""
    assert stack[name]["restart"] == "no"
    after = stack["prometheus"]["depends_on"]["backfilled"]
    assert after == {"condition": "service_completed_successfully", "required": False}
    assert stack["backfill"]["depends_on"]["demo"]["condition"] == after["condition"]
    assert stack["scheduler"]["depends_on"]["demo"] == after
    # the file is emptied only once Prometheus has read it
    assert stack["backfilled"]["depends_on"]["backfill"]["condition"] == after["condition"]


def test_the_run_in_hand_has_time_to_end(stack: dict[str, dict[str, Any]]) -> None:
    """Docker's ten seconds are too short for a training."""
    assert stack["scheduler"]["stop_grace_period"] == "2m0s"
    assert stack["scheduler"]["init"] is True


def test_images_are_pinned_in_one_place(stack: dict[str, dict[str, Any]]) -> None:
    """Each foreign image has a full version, and .env has it; ours is built here."""
    for name, service in stack.items():
        image, _, tag = service["image"].partition(":")
        if image == "wine-drift":
            assert tag == "local" and service["pull_policy"] in ("build", "never")
            continue
        variable = f"{image.partition('/')[2].upper()}_VERSION"
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag) and tag == ENV[variable], name
        assert services(**{variable: "v0.0.1"})[name]["image"] == f"{image}:v0.0.1"


def test_variables() -> None:
    """.env sets what the file asks for, and but for the profiles nothing else; defaults agree."""
    asked = re.findall(r"\$\{(\w+)(?::-([^}]*)|:\?)\}", TEXT)
    assert {name for name, _ in asked} == ENV.keys() - {"COMPOSE_PROFILES"}
    assert {name for name, default in asked if default not in ("", ENV[name])} == set()


def test_folders_of_one_s_own() -> None:
    """Settings, receivers and inbox can be anywhere; a folder that is not there is not made."""
    own = {"JOB_CONFIG": "/own/job", "ALERTMANAGER_CONFIG": "/own/am", "INBOX_DIR": "/own/inbox"}
    stack = services(**own)
    for name, target, source in (
        ("scheduler", "/etc/wine-drift", "/own/job"),
        ("alertmanager", "/etc/alertmanager", "/own/am"),
        ("scheduler", "/inbox", "/own/inbox"),
    ):
        (volume,) = (v for v in stack[name]["volumes"] if v["target"] == target)
        assert (volume["type"], volume["source"]) == ("bind", source)
    assert TEXT.count("bind: {create_host_path: false}") == TEXT.count("type: bind")


def test_no_password_is_written_down(stack: dict[str, dict[str, Any]]) -> None:
    """Grafana reads its password from a secret whose folder git leaves alone."""
    environ = [
        pair for service in stack.values() for pair in service.get("environment", {}).items()
    ]
    (secret,) = stack["grafana"]["secrets"]
    path = f"/run/secrets/{secret['source']}"
    passwords = [(name, value) for name, value in environ if "PASSWORD" in name]
    assert passwords == [("GF_SECURITY_ADMIN_PASSWORD__FILE", path)]
    assert "/compose/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_secret_that_make_makes(tmp_path: Path) -> None:
    """It is random, others cannot come to it, Grafana's user can read it, and it is not shown."""
    made = []
    for folder in ("one", "two"):
        path = tmp_path / folder / "secret"
        command = ["make", f"SECRET={path}", f"PYTHON={sys.executable}", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made.append(path.read_text().strip())
        assert str(path) in done.stdout and made[-1] not in done.stdout + done.stderr
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        assert path.read_text().strip() == made[-1]  # made once
    assert made[0] != made[1] and min(map(len, made)) >= 24


@pytest.mark.parametrize("target", ["up", "down", "logs", "config", "drill"])
def test_without_docker_make_says_so(target: str) -> None:
    """Whoever has no Docker is told what is missing, and no secret is made."""
    make = shutil.which("make")
    assert make
    done = subprocess.run(
        [make, f"compose-{target}", "SECRET=compose/secrets/none"],
        cwd=ROOT,
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "needs Docker with its compose plugin" in done.stdout
    assert not (FOLDER / "secrets" / "none").exists()


def test_make_targets_of_the_stack() -> None:
    """`make help` lists them, and the README names no target that is not there."""
    for name in ("up", "down", "logs", "smoke", "config"):
        assert f"compose-{name}" in TARGETS
    named = re.findall(r"`make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(named) <= set(TARGETS)


def test_the_job_s_settings_are_settings(stack: dict[str, dict[str, Any]]) -> None:
    """Every setting in the job's file exists, those that are commented out too."""
    file = FOLDER / "job" / "wine-drift.toml"
    settings = load_settings({}, {}, file=file)
    gateway = urlsplit(str(settings.pushgateway))
    assert (gateway.hostname, gateway.port) == ("pushgateway", 9091)
    own = dict(re.findall(r'^# (\w+) = "(.*)"$', file.read_text(), flags=re.MULTILINE))
    mounted = {volume["target"] for volume in stack["scheduler"]["volumes"]}
    assert load_settings(own, {}).source == "inbox" and own["inbox"] in mounted
    assert str(file.name) in stack["scheduler"]["environment"]["WINE_DRIFT_SETTINGS"]


def test_addresses_lead_to_services(stack: dict[str, dict[str, Any]]) -> None:
    """Scrape targets and datasources name services, and the ports that they listen on."""
    ports = {"pushgateway": "9091", "prometheus": "9090", "alertmanager": "9093"}
    for name, port in ports.items():
        target = (FOLDER / "prometheus" / "targets" / f"{name}.yml").read_text()
        assert f'"{name}:{port}"' in target and name in stack
    sources = (FOLDER / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    found = re.findall(r"url: http://(\w+):(\d+)$", sources, flags=re.MULTILINE)
    assert dict(found) == {name: ports[name] for name in ("prometheus", "alertmanager")}


def test_grafana_finds_its_dashboards(stack: dict[str, dict[str, Any]]) -> None:
    """They are mounted where its provider looks; the home dashboard is one of them."""
    (volume,) = (v for v in stack["grafana"]["volumes"] if v["source"] == str(DASHBOARDS))
    provider = (FOLDER / "grafana/provisioning/dashboards/wine-drift.yaml").read_text()
    assert f"path: {volume['target']}\n" in provider
    home = Path(stack["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == volume["target"] and (DASHBOARDS / home.name).is_file()


def test_the_image_gets_what_the_wheel_is_made_of() -> None:
    """What the build copies is let through, and nothing else is sent to the engine."""
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY ([^-].*) \S+$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for names in copied for name in names.split()} == sent
    assert "*" in lines and all((ROOT / name).exists() for name in sent)


class Answers(BaseHTTPRequestHandler):
    """Prometheus, Alertmanager and Grafana at once, as the smoke check sees them."""

    told: dict[str, Any]

    def do_GET(self) -> None:
        """Give what the test has put under this path; for a query, under the query."""
        url = urlsplit(self.path)
        answer = self.told.get(url.path)
        if url.path == "/api/v1/query":
            value = next((v for text, v in self.told.items() if text in url.query), None)
            answer = {"data": {"result": [] if value is None else [{"value": [0, str(value)]}]}}
        if url.path.endswith("/prometheus/health") and "Authorization" not in self.headers:
            answer = None
        self.send_response(404 if answer is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Keep silent."""


@pytest.fixture
def smoke(tmp_path: Path) -> Iterator[Any]:
    """Run a copy of the smoke check, and of what it reads, against `Answers`."""
    uids = {json.loads(path.read_text())["uid"] for path in DASHBOARDS.glob("*.json")}
    Answers.told = {
        "/api/v1/targets": {
            "data": {
                "activeTargets": [
                    {"labels": {"job": job}, "health": "up", "lastError": ""}
                    for job in ("pushgateway", "prometheus", "alertmanager")
                ]
            }
        },
        "last_success": 30,
        "schedule_interval": 60,
        "count%28%7B": 300,
        "count_over_time": 167,
        "/api/v1/rules": {
            "data": {
                "groups": [
                    {
                        "rules": [
                            {"name": t, "type": t, "health": "ok"}
                            for t in ("alerting", "recording")
                        ]
                    }
                ]
            }
        },
        "/-/ready": "OK",
        "/api/v2/alerts": [{"labels": {"alertname": "WineDriftWatchdog"}}],
        "/api/health": {"version": "13.2.3"},
        "/api/search": [{"uid": uid} for uid in uids],
        "/api/datasources/uid/prometheus/health": {"status": "OK"},
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    copy = tmp_path / "compose"
    (copy / "secrets").mkdir(parents=True)
    (copy / "secrets" / "grafana_admin_password").write_text("x\n")
    shutil.copytree(DASHBOARDS, tmp_path / "dashboards")
    for name in ("smoke.py", ".env"):
        shutil.copy(FOLDER / name, copy)
    ports = dict.fromkeys(
        ("PROMETHEUS_PORT", "ALERTMANAGER_PORT", "GRAFANA_PORT"), str(server.server_port)
    )

    def run(**variables: str) -> tuple[int, str]:
        command = [sys.executable, str(copy / "smoke.py")]
        environ = os.environ | ports | {"SMOKE_SECONDS": "0"} | variables
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert done.stderr == ""
        return done.returncode, done.stdout

    yield run
    server.shutdown()
    server.server_close()


def test_smoke_of_a_stack_that_works(smoke: Any) -> None:
    """Six checks, all well."""
    code, told = smoke()
    assert (code, re.findall(r"^(ok|skip|FAIL) ", told, re.MULTILINE)) == (0, ["ok"] * 6), told


@pytest.mark.parametrize(
    ("path", "answer", "check"),
    [
        ("/api/v1/targets", {"data": {"activeTargets": []}}, "targets"),
        ("last_success", 121, "metrics"),
        ("last_success", None, "metrics"),
        ("count_over_time", 100, "history"),
        ("/api/v1/rules", {"data": {"groups": []}}, "rules"),
        ("/api/v2/alerts", [], "alerts"),
        ("/-/ready", None, "alerts"),
        ("/api/health", None, "dashboards"),
        ("/api/search", [], "dashboards"),
        ("/api/datasources/uid/prometheus/health", {"status": "ERROR"}, "dashboards"),
    ],
)
def test_smoke_of_a_stack_that_does_not(smoke: Any, path: str, answer: Any, check: str) -> None:
    """What is wrong is the one check that fails, and so does the command."""
    Answers.told[path] = answer
    code, told = smoke()
    assert (code, re.findall(r"^FAIL  (\w+)", told, re.MULTILINE)) == (1, [check]), told


def test_smoke_says_what_it_did_not_check(smoke: Any) -> None:
    """A stand-in for Grafana is called one, and a history that nobody asked for is not missed."""
    Answers.told["/api/health"] = {"version": "stub"}
    Answers.told["count_over_time"] = None
    code, told = smoke(COMPOSE_PROFILES="")
    assert (code, re.findall(r"^skip  (\w+)", told, re.MULTILINE)) == (0, ["history", "dashboards"])
    assert told.count("NOT CHECKED") == 2
