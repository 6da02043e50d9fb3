"""Ways to run the job on a schedule: each file is right by the tool that it is for, and by ours.

`problems_of_...` say what is wrong with a crontab, with units or with manifests. They find nothing
in those of `jobs/`, and they find what was planted in a copy.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click
import kubernetes_validate
import pytest
import yaml

from wine_drift import __version__
from wine_drift.cli import main
from wine_drift.errors import SettingsError
from wine_drift.scheduling import GRACE
from wine_drift.settings import Settings, load_settings, specification

ROOT = Path(__file__).resolve().parents[1]
JOBS = ROOT / "jobs"
DOCKERFILE = (ROOT / "compose" / "Dockerfile").read_text(encoding="utf-8")
SETTINGS_FILE = "/etc/wine-drift/wine-drift.toml"
PREFIX = "WINE_DRIFT_"
SETTINGS = specification()
Wrong = (click.ClickException, SettingsError)


def absent(needs: str) -> NoReturn:
    """Skip the test; with WINE_DRIFT_REQUIRE_STACK=1 fail it."""
    if os.environ.get("WINE_DRIFT_REQUIRE_STACK") == "1":
        pytest.fail(f"needs {needs}")
    pytest.skip(f"needs {needs}")


def program(*names: str, needs: str) -> str:
    """Find a program, which ordinary users may not have on PATH."""
    for name in names:
        if path := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            return path
    absent(needs)


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, **options)


def accepted(
    words: Sequence[str], environ: Mapping[str, str], file: Path | None = None
) -> Settings:
    """Settings of a command line; one of Wrong where something in it is not known."""
    name, *rest = words
    if name not in main.commands:
        raise click.UsageError(f"no such command: {name}")
    with main.commands[name].make_context(name, rest) as ctx:
        given = dict(ctx.params)
    if passed := given.pop("options", ()):  # of `schedule`, for run-batch
        with main.commands["run-batch"].make_context("run-batch", list(passed)) as ctx:
            given |= {key: value for key, value in ctx.params.items() if value is not None}
    unknown = [
        variable
        for variable in environ
        if variable.startswith(PREFIX) and variable.removeprefix(PREFIX).lower() not in SETTINGS
    ]
    if unknown:
        raise SettingsError(f"no such settings: {unknown}")
    return load_settings({k: v for k, v in given.items() if k in SETTINGS}, environ, file=file)


def broken(promises: Mapping[str, bool]) -> list[str]:
    """Those that are not kept."""
    return [name for name, kept in promises.items() if not kept]


def planted(source: Path, target: Path, file: str, old: str, new: str) -> Path:
    """A copy of a folder with a fault in one file."""
    folder = Path(shutil.copytree(source, target))
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text, f"{file} has no {old!r} to spoil"
    (folder / file).write_text(text.replace(old, new), encoding="utf-8")
    return folder


# --- cron ---


def read_crontab(text: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The environment, and the lines as (schedule, command); ValueError for any other line."""
    environ: dict[str, str] = {}
    lines = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if found := re.fullmatch(r"(\w+)=(\"?)(.*?)\2", line):
            environ[found[1]] = found[3]
        elif found := re.fullmatch(r"(\S+ \S+ \S+ \S+ \S+) (.+)", line):
            lines.append((found[1], found[2]))
        else:
            raise ValueError(f"neither a variable nor a schedule: {line}")
    return environ, lines


def problems_of_crontab(path: Path) -> list[str]:
    """What is wrong with a crontab."""
    crontab = program("crontab", needs="Debian's cron")
    environ, lines = read_crontab(path.read_text(encoding="utf-8"))
    if len(lines) != 1:
        return [f"{len(lines)} lines instead of one"]
    ((schedule, line),) = lines
    checked = run(crontab, "-n", path)
    found = [] if checked.returncode == 0 else [f"crontab: {checked.stderr}"]
    if (shell := run(environ["SHELL"], "-n", "-c", line)).returncode:
        return [*found, f"shell: {shell.stderr}"]
    job = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    file = job.pop("WINE_DRIFT_SETTINGS", None)
    words = shlex.split(line)
    lock = re.search(r'flock -n -E 5 "\$WINE_DRIFT_HOME/(\S+)" ', line)
    found += broken(
        {
            "a percent sign ends the command": "%" not in line,
            "no variable of another": not any("$" in value for value in environ.values()),
            "the settings file": file == SETTINGS_FILE,
            "the schedule that is told": job.get("WINE_DRIFT_CRON") == schedule,
            "a lock of its own": lock is not None and lock[1] != "run.lock",
            "no run for ever": "timeout -v " in line,
            "mail only if it matters": "--quiet" in words and bool(environ.get("MAILTO")),
            "the log": ">" not in line and "WINE_DRIFT_LOG_FILE" in job,
            "absolute paths": all(
                Path(part).is_absolute() for part in [*environ["PATH"].split(":"), str(file)]
            ),
        }
    )
    try:
        accepted(words[words.index("wine-drift") + 1 :], job)
    except Wrong as error:
        found.append(f"wine-drift: {error}")
    return found


def test_crontab() -> None:
    """cron, the shell and wine-drift understand the crontab, and it says one schedule twice."""
    assert problems_of_crontab(JOBS / "crontab") == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("\n*/15 * * * *", "\n*/15 * * * 9", "crontab"),
        ('"$WINE_DRIFT_HOME/cron', "'$WINE_DRIFT_HOME/cron", "shell"),
        ("\n*/15 * * * *", "\n*/5 * * * *", "the schedule that is told"),
        ("cron.lock", "run.lock", "a lock of its own"),
        ("--quiet", "--quite", "wine-drift"),
        ("WINE_DRIFT_LOG_FILE", "WINE_DRIFT_LOGFILE", "no such settings"),
        ('CRON="*/15', 'CRON="0/15', "WINE_DRIFT_CRON"),
        ("--quiet", "--quiet >>$(date +%F).log", "percent"),
    ],
)
def test_faults_in_a_crontab_are_found(tmp_path: Path, old: str, new: str, told: str) -> None:
    """Not even one of them passes."""
    folder = planted(JOBS, tmp_path / "jobs", "crontab", old, new)
    assert told in "\n".join(problems_of_crontab(folder / "crontab"))


@pytest.fixture
def crontab_line(tmp_path: Path) -> Callable[..., tuple[int, str, list[str]]]:
    """Run the line of the crontab as cron would, with a stand-in for wine-drift that takes notes.

    `crontab_line(seconds=0, deadline="1h")` gives exit code, what was printed and the notes; the
    stand-in takes so many seconds.
    """
    program("flock", needs="flock of util-linux")
    environ, ((_, line),) = read_crontab((JOBS / "crontab").read_text(encoding="utf-8"))
    (tmp_path / "home").mkdir()
    stand_in = tmp_path / "bin" / "wine-drift"
    stand_in.parent.mkdir()
    environ |= {
        "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
        "WINE_DRIFT_HOME": str(tmp_path / "home"),
    }

    def call(seconds: int = 0, deadline: str = "1h") -> tuple[int, str, list[str]]:
        notes = tmp_path / "notes"
        notes.write_text("")
        script = f'#!/bin/sh\necho "$* $WINE_DRIFT_CRON" >>{notes}\nexec sleep {seconds}\n'
        stand_in.write_text(script)
        stand_in.chmod(0o755)
        assert " 1h " in line
        words = (environ["SHELL"], "-c", line.replace(" 1h ", f" {deadline} "))
        done = run(*words, env=environ, cwd=tmp_path, timeout=30)
        return done.returncode, done.stdout + done.stderr, notes.read_text().splitlines()

    return call


def test_cron_starts_a_run(crontab_line: Any) -> None:
    """The run knows its schedule, and nothing is printed besides."""
    assert crontab_line() == (0, "", ["run-batch --drain --quiet */15 * * * *"])


def test_cron_holds_back_a_second_run(crontab_line: Any, tmp_path: Path) -> None:
    """While one is at work the next is not started: no mail, and the exit code of a held lock."""
    with (tmp_path / "home" / "cron.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert crontab_line() == (5, "", [])
    assert crontab_line()[0] == 0


def test_cron_tells_of_a_home_that_is_gone(crontab_line: Any, tmp_path: Path) -> None:
    """A home that is not mounted is mail; no new one is begun in its place."""
    (tmp_path / "home").rmdir()
    code, printed, notes = crontab_line()
    assert (code != 0, notes) == (True, [])
    assert str(tmp_path / "home") in printed
    assert not (tmp_path / "home").exists()


def test_cron_ends_a_run_that_hangs(crontab_line: Any) -> None:
    """It is ended, somebody is told, and the next one is not held back."""
    code, printed, notes = crontab_line(seconds=60, deadline="0.1")
    assert (code, len(notes)) == (124, 1)
    assert "TERM" in printed and "wine-drift" in printed
    assert crontab_line()[0] == 0


def test_logrotate_loses_no_line(tmp_path: Path) -> None:
    """Lines of a run that has the log open and of the next one are all there, each once."""
    logrotate = program("logrotate", needs="Debian's logrotate")
    environ, _ = read_crontab((JOBS / "crontab").read_text(encoding="utf-8"))
    text = (JOBS / "logrotate").read_text(encoding="utf-8")
    pattern = re.findall(r"^(/\S+) \{", text, flags=re.MULTILINE)
    assert len(pattern) == 1 and Path(environ["WINE_DRIFT_LOG_FILE"]).match(pattern[0])
    folder = tmp_path / "log"
    folder.mkdir(mode=0o750)
    rules = tmp_path / "logrotate"
    # the user is not on this machine; only root could become another one
    text = text.replace("    su wine-drift wine-drift\n", "")
    rules.write_text(text.replace(str(Path(pattern[0]).parent), str(folder)), encoding="utf-8")
    rules.chmod(0o644)
    log = folder / "runs.log"
    wanted = []
    for turn in range(3):
        with log.open("a") as at_work:
            at_work.write(f"{turn} before\n")
            at_work.flush()
            done = run(logrotate, "--force", "--state", tmp_path / "state", rules)
            assert (done.returncode, done.stderr) == (0, "")
            at_work.write(f"{turn} after\n")
        with log.open("a") as later:
            later.write(f"{turn} later\n")
        wanted += [f"{turn} {when}" for when in ("before", "after", "later")]
    lines = "".join(run("zcat", "-f", path).stdout for path in folder.iterdir()).splitlines()
    assert sorted(lines) == sorted(wanted)
    assert len(list(folder.glob("*.gz"))) == 2


# --- systemd ---

UNITS = ("wine-drift.service", "wine-drift.timer", "wine-drift-scheduler.service")
SAME = "# --- both services have the same from here to [Install]"
BINARY = "/opt/wine-drift/bin/wine-drift"
EXPOSURE = 1.5  # of 10; systemd calls less than 5 medium and less than 2 ok


def read_unit(path: Path) -> dict[str, list[str]]:
    """Values by directive, whatever their section."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.match(r"[A-Z]\w*=", line):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def systemd(*words: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Ask systemd-analyze, which needs no systemd that runs; units of `folder` are found first."""
    analyze = program("systemd-analyze", needs="Debian's systemd")
    environ = os.environ | {"TZ": "UTC", "LC_ALL": "C", "SYSTEMD_UNIT_PATH": f"{folder}:"}
    return run(analyze, "--no-pager", *words, env=environ)


def seconds(span: str) -> float:
    """A time span as systemd reads it."""
    told = re.search(r"[uμ]s: (\d+)", systemd("timespan", span).stdout)
    assert told, f"{span} is no time span"
    return int(told[1]) / 1e6


def elapses(calendar: str) -> list[str]:
    """When a calendar expression is due, from the start of 2026 on."""
    since = "--base-time=2026-01-01 00:00:00 UTC"
    told = systemd("calendar", "--iterations=40", since, calendar)
    assert told.returncode == 0, told.stderr
    return re.findall(r"(?:elapse|#\d+): \w+ (\S+ \S+) UTC$", told.stdout, flags=re.MULTILINE)


def due(settings: Settings, count: int) -> list[str]:
    """The same of our own settings."""
    moment, found = datetime(2026, 1, 1, tzinfo=UTC).timestamp(), []
    for _ in range(count):
        moment = settings.timetable.due_after(moment, since=moment)
        found.append(f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}")
    return found


def problems_of_units(folder: Path) -> list[str]:
    """What is wrong with the units of a folder."""
    found = []
    once, timer, scheduler = (read_unit(folder / name) for name in UNITS)
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in UNITS}
    checked = folder / "checked"
    checked.mkdir()
    for name, text in texts.items():
        # a program that is there, and with everything that is only an example
        text = re.sub(r"^#(?=[A-Z]\w*=)", "", text.replace(BINARY, "/bin/true"), flags=re.MULTILINE)
        (checked / name).write_text(text, encoding="utf-8")
    for name in UNITS:
        told = systemd("verify", "--man=no", checked / name, folder=checked)
        found += [line for line in told.stderr.splitlines() if "wine-drift" in line]
    for name in ("wine-drift.service", "wine-drift-scheduler.service"):
        threshold = f"--threshold={EXPOSURE * 10:.0f}"
        told = systemd("security", "--offline=true", threshold, folder / name)
        if told.returncode:
            exposure = re.findall(r"Overall exposure level.*", told.stdout)
            found.append(f"exposure: {exposure or told.stderr}")
    settings = {}
    for name, unit in (("run-batch", once), ("schedule", scheduler)):
        environ = dict(
            word.split("=", 1) for value in unit["Environment"] for word in shlex.split(value)
        )
        file = environ.pop("WINE_DRIFT_SETTINGS", None)
        words = shlex.split(unit["ExecStart"][0])
        try:
            settings[name] = accepted(words[1:], environ)
        except Wrong as error:
            return [*found, f"wine-drift: {error}"]
        found += broken(
            {
                "the program": words[:2] == [BINARY, name] and len(unit["ExecStart"]) == 1,
                "the settings file": file == SETTINGS_FILE,
                "its state folder": environ.get("WINE_DRIFT_HOME")
                == f"%S/{unit['StateDirectory'][0]}",
                "writes where it must": unit["ReadWritePaths"] == [f"-{settings[name].inbox}"],
                "a user that lasts": unit["User"] == ["wine-drift"],
            }
        )
    stop = settings["schedule"].run_deadline + GRACE
    times = elapses(timer["OnCalendar"][0])
    same = [text.partition(SAME)[2].partition("\n[Install]")[0].strip() for text in texts.values()]
    return found + broken(
        {
            "timer and WINE_DRIFT_CRON agree": times == due(settings["run-batch"], len(times)),
            "both services are alike": bool(same[0]) and same[0] == same[2],
            "only a held lock is no failure": once.get("SuccessExitStatus") == ["5"],
            "no run for ever": seconds(once["TimeoutStartSec"][0]) < 86400,
            "started at boot": timer.get("WantedBy") == ["timers.target"]
            and scheduler.get("WantedBy") == ["multi-user.target"],
            "starts that were missed": timer.get("Persistent") == ["true"],
            "to the second": seconds(timer["AccuracySec"][0]) <= 1,
            "the run in hand may end": scheduler.get("KillMode") == ["mixed"]
            and seconds(scheduler["TimeoutStopSec"][0]) > stop,
            "a killed run does not end the scheduler": scheduler.get("OOMPolicy") == ["continue"],
            "not again with wrong settings": scheduler.get("RestartPreventExitStatus") == ["2"],
            "not both": scheduler.get("Conflicts") == ["wine-drift.timer"],
        }
    )


def test_units(tmp_path: Path) -> None:
    """systemd accepts them, examples included, and finds little that they could harm."""
    assert problems_of_units(Path(shutil.copytree(JOBS / "systemd", tmp_path / "units"))) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("wine-drift.service", "PrivateTmp=", "PrivatTmp=", "PrivatTmp"),
        ("wine-drift.service", "PrivateTmp=yes", "PrivateTmp=maybe", "maybe"),
        ("wine-drift.service", "#LoadCredential=", "#LoadCredentials=", "LoadCredentials"),
        ("wine-drift-scheduler.service", "SystemCallFilter=", "#SystemCallFilter=", "exposure"),
        ("wine-drift-scheduler.service", "UMask=0077", "UMask=0022", "alike"),
        ("wine-drift.timer", "*:0/15", "*:0/10", "WINE_DRIFT_CRON"),
        ("wine-drift.timer", "*:0/15", "*/15", "verify"),
        ("wine-drift.timer", "Persistent=true", "", "missed"),
        ("wine-drift-scheduler.service", "11min", "10min", "the run in hand"),
        ("wine-drift-scheduler.service", "KillMode=mixed", "KillMode=process", "the run in hand"),
        ("wine-drift-scheduler.service", "--run-deadline", "--deadline", "wine-drift"),
        ("wine-drift.service", "=WINE_DRIFT_INBOX", "=WINE_DRIFT_INBOXES", "no such settings"),
    ],
)
def test_faults_in_units_are_found(
    tmp_path: Path, file: str, old: str, new: str, told: str
) -> None:
    """Not even one of them passes."""
    folder = planted(JOBS / "systemd", tmp_path / "units", file, old, new)
    try:
        found = problems_of_units(folder)
    except AssertionError as error:  # of elapses()
        found = [f"verify: {error}"]
    assert told in "\n".join(found)


# --- Kubernetes ---

KUBERNETES = JOBS / "kubernetes"
VERSIONS = ("1.29", kubernetes_validate.latest_version())  # the oldest is told to the user
PROBES = ("readinessProbe", "livenessProbe")
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def read_documents(folder: Path) -> list[dict[str, Any]]:
    """Every resource that a kustomization names, and those of the ones that it builds on."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    found = []
    for name in kustomization["resources"]:
        path = folder / name
        if path.is_dir():
            found += read_documents(path)
        else:
            found += list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    return found


def invalid(documents: Sequence[dict[str, Any]]) -> list[str]:
    """What the published schemas say, which know every field."""
    found = []
    for version in VERSIONS:
        for document in documents:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                place = ".".join(map(str, error.path))
                found.append(f"{document['kind']} in {version}: {place}: {error.message}")
    return found


def problems_of_manifests(folder: Path, way: str) -> list[str]:
    """What is wrong with one of the two ways, cronjob or scheduler."""
    documents = read_documents(folder / way)
    if found := invalid(documents):
        return found
    kinds: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        kinds.setdefault(document["kind"], []).append(document)
    (workload,) = kinds["CronJob" if way == "cronjob" else "Deployment"]
    template = workload["spec"].get("jobTemplate", workload)["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    environ = {variable["name"]: variable["value"] for variable in container["env"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    toml = folder / "base" / Path(environ.pop("WINE_DRIFT_SETTINGS")).name
    try:
        settings = accepted(container["args"], environ, toml)
        probes = [container[name]["exec"]["command"] for name in PROBES if name in container]
        health = [accepted(command[1:], environ, toml) for command in probes]
    except Wrong as error:
        return [f"wine-drift: {error}"]
    generated = yaml.safe_load((folder / "base" / "kustomization.yaml").read_text())
    (config,) = generated["configMapGenerator"]
    user = int(re.findall(r"^USER (\d+):", DOCKERFILE, flags=re.MULTILINE)[-1])
    home = re.findall(r"WINE_DRIFT_HOME=(\S+)", DOCKERFILE)[0]
    claims = {claim["metadata"]["name"]: claim["spec"] for claim in kinds["PersistentVolumeClaim"]}
    modes = {mode for spec in claims.values() for mode in spec["accessModes"]}
    (policy,) = kinds["NetworkPolicy"]
    labels = template["metadata"]["labels"]
    opened = [
        (direction, port["port"])
        for direction in ("ingress", "egress")
        for rule in policy["spec"].get(direction, ())
        for port in rule["ports"]
    ]
    limits, requests = (container["resources"].get(name, {}) for name in ("limits", "requests"))
    kept = {
        "the image of this release": container["image"] == f"wine-drift:{__version__}",
        "the pod's rights": pod.get("securityContext") == POD_SECURITY
        and user == POD_SECURITY["runAsUser"],
        "the container's rights": container.get("securityContext") == CONTAINER_SECURITY,
        "no token, no addresses": pod.get("automountServiceAccountToken") is False
        and pod.get("enableServiceLinks") is False,
        "limits": limits.keys() == requests.keys() == {"cpu", "memory"},
        "something to write on": "emptyDir" in volumes[mounts["/tmp"]["name"]],
        "the home": volumes[mounts[home]["name"]]["persistentVolumeClaim"]["claimName"]
        == "wine-drift-home",
        "the inbox": volumes[mounts["/inbox"]["name"]]["persistentVolumeClaim"]["claimName"]
        in claims,
        "a home on one node": modes <= {"ReadWriteOnce", "ReadWriteOncePod"},
        "the settings": volumes[mounts["/etc/wine-drift"]["name"]]["configMap"]["name"]
        == config["name"]
        and toml.name in config["files"]
        and mounts["/etc/wine-drift"]["readOnly"] is True,
        "volumes are all used": {mount["name"] for mount in mounts.values()} == volumes.keys(),
        "the policy is about the pod": policy["spec"]["podSelector"]["matchLabels"] == labels,
        "both directions": policy["spec"]["policyTypes"] == ["Ingress", "Egress"],
    }
    spec, gap = workload["spec"], settings.timetable.longest_gap
    if way == "cronjob":
        job = spec["jobTemplate"]["spec"]
        gateway = re.search(r":(\d+)$", str(settings.pushgateway))
        kept |= {
            "schedule and settings agree": spec["schedule"] == settings.cron
            and spec.get("timeZone") == settings.timezone,
            "one at a time": spec.get("concurrencyPolicy") == "Forbid",
            "never a hundred missed": 10 <= spec.get("startingDeadlineSeconds", 0) < gap,
            "no job for ever": 0 < job.get("activeDeadlineSeconds", 0) <= 3600,
            "a pod for each try": pod["restartPolicy"] == "Never" and job["backoffLimit"] > 0,
            "pushes get out": gateway is not None and ("egress", int(gateway[1])) in opened,
            "nobody gets in": "ingress" not in dict(opened),
        }
    else:
        port = ("ingress", settings.metrics_port)
        ports = [port["containerPort"] for port in container["ports"]]
        scraped = template["metadata"]["annotations"]["prometheus.io/port"]
        grace = pod.get("terminationGracePeriodSeconds", 30)
        live = container["livenessProbe"]
        kept |= {
            "one scheduler": spec["replicas"] == 1 and spec["strategy"] == {"type": "Recreate"},
            "its own pods": spec["selector"]["matchLabels"] == labels,
            "the run in hand may end": grace > settings.run_deadline + GRACE,
            "health": len(health) == 2 and {each.max_age for each in health} == {2.0},
            "time for Python": all(container[name]["timeoutSeconds"] >= 10 for name in PROBES),
            "no new start for one failure": live["periodSeconds"] * live["failureThreshold"]
            > 2 * gap,
            "time for the first run": spec["progressDeadlineSeconds"] > gap,
            "/metrics from outside": settings.metrics_host == "0.0.0.0"
            and [settings.metrics_port] == ports == [int(scraped)],
            "scrapes get in, nothing out": opened == [port],
        }
    return broken(kept)


@pytest.mark.parametrize("way", ["cronjob", "scheduler"])
def test_manifests(way: str) -> None:
    """Kubernetes knows every field of them, and they say what the job needs."""
    assert problems_of_manifests(KUBERNETES, way) == []
    told = (KUBERNETES / "cronjob" / "kustomization.yaml").read_text(encoding="utf-8")
    assert f"Kubernetes {VERSIONS[0]} or newer" in told


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("cronjob/cronjob.yaml", "concurrencyPolicy", "concurencyPolicy", "concurencyPolicy"),
        ("cronjob/cronjob.yaml", "Policy: Forbid", "Policy: Allow", "one at a time"),
        ("cronjob/cronjob.yaml", '"*/15 * * * *"', '"*/5 * * * *"', "schedule and settings"),
        ("cronjob/cronjob.yaml", "timeZone: Etc/UTC", "", "schedule and settings"),
        ("base/wine-drift.toml", "timezone", "time_zone", "wine-drift"),
        ("base/wine-drift.toml", "*/15", "*/20", "schedule and settings"),
        ("cronjob/cronjob.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "the pod's rights"),
        ("cronjob/cronjob.yaml", "[run-batch]", "[run-batches]", "no such command"),
        ("cronjob/cronjob.yaml", ":9091", ":9092", "pushes get out"),
        ("base/volumes.yaml", "[ReadWriteOnce]", "[ReadWriteMany]", "a home on one node"),
        ("scheduler/scheduler.yaml", "replicas: 1", "replicas: 2", "one scheduler"),
        ("scheduler/scheduler.yaml", "Seconds: 660", "Seconds: 600", "the run in hand"),
        ("scheduler/scheduler.yaml", "--max-age", "--maxage", "wine-drift"),
        ("scheduler/scheduler.yaml", "Filesystem: true", "Filesystem: false", "container's rights"),
        ("scheduler/scheduler.yaml", "              memory: 1Gi\n", "", "limits"),
        ("scheduler/scheduler.yaml", "image: wine-drift:", "image: winedrift:", "the image"),
    ],
)
def test_faults_in_manifests_are_found(
    tmp_path: Path, file: str, old: str, new: str, told: str
) -> None:
    """Not even one of them passes."""
    folder = planted(KUBERNETES, tmp_path / "kubernetes", file, old, new)
    way = "scheduler" if file.startswith("scheduler") else "cronjob"
    assert told in "\n".join(problems_of_manifests(folder, way))


def build(folder: Path) -> list[dict[str, Any]]:
    """What kustomize makes of a folder."""
    needs = "kustomize (Debian trixie has it), or kubectl 1.21 or newer"
    builder = program("kustomize", "kubectl", needs=needs)
    done = run(builder, "kustomize" if Path(builder).name == "kubectl" else "build", folder)
    if "must be a file" in done.stderr:  # kubectl 1.20
        absent(needs)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("way", ["cronjob", "scheduler"])
def test_kustomize_builds(way: str) -> None:
    """All parts are there, and the pod mounts the settings under the name they were given."""
    documents = build(KUBERNETES / way)
    assert invalid(documents) == []
    (config,) = (document for document in documents if document["kind"] == "ConfigMap")
    others = sorted((d["kind"], d["metadata"]["name"]) for d in documents if d is not config)
    wanted = read_documents(KUBERNETES / way)
    assert others == sorted((d["kind"], d["metadata"]["name"]) for d in wanted)
    name = config["metadata"]["name"]
    assert re.fullmatch(r"wine-drift-\w+", name)
    assert f"'name': '{name}'" in str([d for d in documents if d is not config])
    toml = (KUBERNETES / "base" / "wine-drift.toml").read_text(encoding="utf-8")
    assert config["data"] == {"wine-drift.toml": toml}


def test_a_change_of_settings_reaches_the_pods(tmp_path: Path) -> None:
    """Another content is another name, so nothing goes on with what it has read before."""
    names = []
    for number, threads in enumerate(("1", "2")):
        target, toml = tmp_path / str(number), "base/wine-drift.toml"
        folder = planted(KUBERNETES, target, toml, "threads = 1", f"threads = {threads}")
        documents = build(folder / "scheduler")
        names += [d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"]
    assert len(set(names)) == 2


def test_examples_in_comments(tmp_path: Path) -> None:
    """What is commented out is right too: own data, and a gateway with a password."""
    toml = (KUBERNETES / "base" / "wine-drift.toml").read_text(encoding="utf-8")
    own = re.sub(r"^# (\w+ = )", r"\1", toml, flags=re.MULTILINE)
    own = re.sub(r"^(source|scenario) = .*\n", "", own, flags=re.MULTILINE)
    file = tmp_path / "wine-drift.toml"
    file.write_text(own, encoding="utf-8")
    settings = load_settings({}, {}, file=file)
    assert (str(settings.inbox), settings.drain, settings.source) == ("/inbox", True, "auto")
    assert settings.data is not None
    base = (KUBERNETES / "base" / "kustomization.yaml").read_text(encoding="utf-8")
    assert f"# - {settings.data.name} " in base

    folder = Path(shutil.copytree(KUBERNETES, tmp_path / "kubernetes"))
    manifest = folder / "cronjob" / "cronjob.yaml"
    text = manifest.read_text(encoding="utf-8")
    text, count = re.subn(r"^( +)# (?=- name|  )", r"\1", text, flags=re.MULTILINE)
    assert count == 11
    manifest.write_text(text, encoding="utf-8")
    assert problems_of_manifests(folder, "cronjob") == []


def test_the_three_ways_agree() -> None:
    """Who changes from one to another finds the same home, inbox, schedule and user."""
    crontab, _ = read_crontab((JOBS / "crontab").read_text(encoding="utf-8"))
    unit = read_unit(JOBS / "systemd" / "wine-drift.service")
    environ = dict(
        word.split("=", 1) for value in unit["Environment"] for word in shlex.split(value)
    )
    assert environ["WINE_DRIFT_HOME"].replace("%S", "/var/lib") == crontab["WINE_DRIFT_HOME"]
    for name in ("SETTINGS", "INBOX", "CRON", "TIMEZONE"):
        assert environ[PREFIX + name] == crontab[PREFIX + name]
    assert (
        load_settings({}, {}, file=KUBERNETES / "base" / "wine-drift.toml").cron
        == (crontab["WINE_DRIFT_CRON"])
    )
    scripts = (JOBS / "crontab", JOBS / "systemd" / "wine-drift.service")
    made = {re.findall(r"useradd .*", path.read_text(encoding="utf-8"))[0] for path in scripts}
    assert len(made) == 1
