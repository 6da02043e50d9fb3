"""The four layers of settings, and every mistake told with its place."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
import pytest

from wine_drift import simulate
from wine_drift.cli import main
from wine_drift.errors import SettingsError
from wine_drift.settings import (
    SCENARIOS,
    Settings,
    kind,
    load_settings,
    settings_toml,
    specification,
)
from wine_drift.timetable import Cron, Every

NAMES = list(specification())
SELFTEST, MODELS, HISTORY = (main.commands[name] for name in ("selftest", "models", "history"))
assert isinstance(SELFTEST, click.Group) and isinstance(MODELS, click.Group)
assert isinstance(HISTORY, click.Group)
BOUNDED = [
    (name, side, bound)
    for name, f in specification().items()
    for side, bound in (("low", f.metadata["low"]), ("high", f.metadata["high"]))
    if bound is not None
]
SAMPLES = {  # of texts that have a form
    "pushgateway": "https://gateway.example:9091",
    "ledger": "postgresql://database.example/wines",
    "cron": "*/5 9-17 * * mon-fri",
    "timezone": "Europe/Berlin",
    "dask_scheduler": "tcp://localhost:8786",
}
NEEDED = {"dask_scheduler": {"engine": "dask"}}
DURATIONS = [name for name, f in specification().items() if f.metadata["duration"]]
LINES = [line[2:] for line in settings_toml().splitlines() if re.match(r"# \w+ = ", line)]


def sample(name: str) -> Any:
    """Return a valid value of the setting's kind that is not its default."""
    f, wanted = specification()[name], kind(name)
    if f.metadata["choices"]:
        return next(word for word in f.metadata["choices"] if word != f.default)
    if name in SAMPLES:
        return SAMPLES[name]
    if wanted is bool:
        return not f.default
    if wanted is int:
        return (f.default or 0) + 1
    if wanted is float:
        return round(f.default + 0.05, 3)
    return "folder/file.prom" if wanted is Path else "some text"


def partner(name: str) -> dict[str, str]:
    """Return what a setting cannot do without."""
    pair = {"username": "password_file", "password_file": "username", "drain": "inbox"}
    return {pair[name]: "other"} if name in pair else NEEDED.get(name, {})


def toml(values: dict[str, Any]) -> str:
    """Write values as TOML."""
    shown = {True: "true", False: "false"}
    return "".join(
        f"{name} = {shown[value] if isinstance(value, bool) else repr(value)}\n"
        for name, value in values.items()
    )


def expected(name: str) -> Any:
    """Return the sample as the setting holds it."""
    return kind(name)(sample(name))


def mistakes(
    options: dict[str, Any] | None = None,
    environ: dict[str, str] | None = None,
    file: Path | None = None,
) -> list[str]:
    """Return the lines of the error that loading raises, [] if it raises none."""
    try:
        load_settings(options or {}, environ or {}, file=file)
    except SettingsError as error:
        assert error.remedy
        return str(error).splitlines()
    return []


def write(text: str | bytes, name: str = "s.toml") -> Path:
    """Write a settings file into the current folder."""
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("in_file", "in_variable", "in_option", "found"),
    [
        pytest.param(None, None, None, 1000, id="default"),
        pytest.param(200, None, None, 200, id="file over default"),
        pytest.param(200, "300", None, 300, id="variable over file"),
        pytest.param(200, "300", "400", 400, id="option over all"),
        pytest.param(200, None, "400", 400, id="option over file"),
        pytest.param(None, "300", "400", 400, id="option over variable"),
        pytest.param(200, "", None, 200, id="empty variable is none"),
    ],
)
def test_the_stronger_layer_wins(
    in_file: int | None, in_variable: str | None, in_option: str | None, found: int
) -> None:
    """Options win over variables, variables over the file, the file over the defaults."""
    file = None if in_file is None else write(f"budget = {in_file}\n")
    environ = {} if in_variable is None else {"WINE_DRIFT_BUDGET": in_variable}
    assert load_settings({"budget": in_option}, environ, file=file).budget == found


def test_layers_mix() -> None:
    """Each setting comes from its own strongest layer."""
    file = write("budget = 200\nseed = 7\nrounds = 9\n")
    loaded = load_settings({"rounds": 7}, {"WINE_DRIFT_SEED": "8"}, file=file)
    assert (loaded.budget, loaded.seed, loaded.rounds, loaded.min_rows) == (200, 8, 7, 50)


@pytest.mark.parametrize("name", NAMES)
def test_reachable_from_the_file(name: str) -> None:
    """Every setting is a key of the TOML file."""
    file = write(toml({name: sample(name), **partner(name)}))
    assert getattr(load_settings({}, {}, file=file), name) == expected(name)


@pytest.mark.parametrize("name", NAMES)
def test_reachable_from_the_environment(name: str) -> None:
    """Every setting is a variable WINE_DRIFT_<NAME>."""
    values = {name: sample(name), **partner(name)}
    environ = {f"WINE_DRIFT_{key.upper()}": str(value) for key, value in values.items()}
    assert getattr(load_settings({}, environ), name) == expected(name)


@pytest.mark.parametrize("name", NAMES)
def test_reachable_from_the_command_line(name: str) -> None:
    """Every setting is an option of a command, under the same name."""
    groups = (main, MODELS, SELFTEST, HISTORY)
    commands = [pair for group in groups for pair in group.commands.items()]
    ordered = sorted(commands, key=lambda item: item[0] != "run-batch")
    command = next(c for _, c in ordered if name in {p.name for p in c.params})
    arguments = []
    for key, value in {name: sample(name), **partner(name)}.items():
        flag = "--" + key.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        else:
            arguments += [flag, str(value)]
    options = command.make_context("test", arguments).params
    options = {key: value for key, value in options.items() if key in NAMES}
    assert getattr(load_settings(options, {}), name) == expected(name)


def test_no_option_without_a_setting() -> None:
    """Every command has --home, and no option shares a setting's name with another meaning."""
    commands = {**main.commands, **MODELS.commands, **SELFTEST.commands, **HISTORY.commands}
    for command in commands.values():
        names = {p.name for p in command.params}
        homeless = isinstance(command, click.Group) or command.name in ("init", "completion")
        assert homeless or "home" in names
        flags = {p.opts[0] for p in command.params if p.name in NAMES}
        assert flags <= {"--" + name.replace("_", "-") for name in NAMES}


def test_settings_are_frozen() -> None:
    """A run cannot change its own settings."""
    with pytest.raises(AttributeError):
        load_settings({}, {}).seed = 1


@pytest.mark.parametrize(
    ("variable", "in_folder", "found"),
    [
        pytest.param(None, True, 201, id="folder"),
        pytest.param("other.toml", True, 202, id="variable over folder"),
        pytest.param(None, False, 1000, id="none"),
    ],
)
def test_which_file_is_read(variable: str | None, in_folder: bool, found: int) -> None:
    """WINE_DRIFT_SETTINGS names the file, else ./wine-drift.toml is read if it is there."""
    write("budget = 202\n", "other.toml")
    if in_folder:
        write("budget = 201\n", "wine-drift.toml")
    environ = {"WINE_DRIFT_SETTINGS": variable} if variable else {}
    assert load_settings({}, environ).budget == found


def test_the_file_given_wins_over_the_variable() -> None:
    """--settings wins over WINE_DRIFT_SETTINGS."""
    write("budget = 202\n", "other.toml")
    file = write("budget = 203\n")
    assert load_settings({}, {"WINE_DRIFT_SETTINGS": "other.toml"}, file=file).budget == 203


def test_all_mistakes_are_told_at_once_with_their_place() -> None:
    """One line for every mistake of file, variables and options, also of overridden values."""
    file = write('budget = 1\nsede = 1\nrounds = "many"\nretrain = "often"\n')
    environ = {"WINE_DRIFT_SEED": "-1", "WINE_DRIFT_BATCHROWS": "5", "WINE_DRIFT_JSON": "maybe"}
    options = {"budget": "50", "max_set_aside": "2", "textfile": "out.txt"}
    told = mistakes(options, environ, file)
    places = [
        "s.toml: budget: ",
        "s.toml: sede: ",
        "s.toml: rounds: ",
        "s.toml: retrain: ",
        "WINE_DRIFT_SEED: ",
        "WINE_DRIFT_BATCHROWS: ",
        "WINE_DRIFT_JSON: ",
        "--max-set-aside: ",
        "--textfile: ",
    ]
    assert len(told) == len(places)
    assert [p for p in places if sum(line.startswith(p) for line in told) != 1] == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("budgett = 200", "budgett: unknown; did you mean budget?", id="near"),
        pytest.param("colour = 'red'", "colour: unknown", id="far"),
        pytest.param("[run]\nseed = 1", "run: unknown", id="section"),
        pytest.param("Seed = 1", "Seed: unknown", id="case"),
    ],
)
def test_unknown_key(text: str, told: str) -> None:
    """An unknown key of the file is a mistake, with the key that was likely meant."""
    (line,) = mistakes(file=write(text))
    assert line.startswith(f"s.toml: {told}")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("WINE_DRIFT_SEDE", "WINE_DRIFT_SEED"),
        ("WINE_DRIFT_BATCHROWS", "WINE_DRIFT_BATCH_ROWS"),
        ("WINE_DRIFT_PUSH_GATEWAY", "WINE_DRIFT_PUSHGATEWAY"),
        ("WINE_DRIFT_SETTING", "WINE_DRIFT_SETTINGS"),
    ],
)
def test_variable_that_is_nearly_a_setting(variable: str, meant: str) -> None:
    """A variable that is nearly the name of a setting is a mistake, with what was meant."""
    assert mistakes(environ={variable: "1"}) == [f"{variable}: unknown; did you mean {meant}?"]


@pytest.mark.parametrize(
    "variable",
    [
        "WINE_DRIFT_SERVICE_HOST",
        "WINE_DRIFT_SERVICE_PORT",
        "WINE_DRIFT_SERVICE_PORT_HTTP",
        "WINE_DRIFT_PORT",
        "WINE_DRIFT_PORT_9091_TCP",
        "WINE_DRIFT_PORT_9091_TCP_ADDR",
        "WINE_DRIFT_PORT_9091_TCP_PROTO",
        "WINE_DRIFT_METRICS_PORT",
        "WINE_DRIFT_METRICS_PORT_80_TCP",
        "WINE_DRIFT_METRICS_PORT_80_TCP_PORT",
        "WINE_DRIFT_METRICS_SERVICE_HOST",
        "WINE_DRIFT_METRICS_SERVICE_PORT_HTTP",
        "WINE_DRIFT_VERSION",
        "WINE_DRIFT_IMAGE",
        "WINE_DRIFT_REQUIRE_STACK",
        "WINE_DRIFTER_SEDE",
        "PATH",
    ],
)
def test_unrelated_variable(variable: str) -> None:
    """Variables that others make, such as Kubernetes for a service, are left alone."""
    assert mistakes(environ={variable: "tcp://10.0.0.1:9091"}) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(b"budget = ", "not a TOML file", id="syntax"),
        pytest.param(b"seed = 1\nseed = 2", "not a TOML file", id="key twice"),
        pytest.param(b'pipeline = "\xff"', "not a TOML file", id="not UTF-8"),
        pytest.param(b"seed = " + b"9" * 5000, "not a TOML file", id="endless number"),
    ],
)
def test_bad_toml(content: bytes, told: str) -> None:
    """A file that is not TOML is named with its trouble, and the other layers are still checked."""
    first, second = mistakes({"seed": "x"}, file=write(content))
    assert first.startswith(f"s.toml: {told}")
    assert second.startswith("--seed: ")


def test_settings_file_that_is_not_there() -> None:
    """A settings file that was named and is not there is a mistake, not a default."""
    assert mistakes(file=Path("none.toml")) == ["none.toml: No such file or directory"]
    assert mistakes(environ={"WINE_DRIFT_SETTINGS": "."}) == [".: Is a directory"]


@pytest.mark.parametrize(("name", "side", "bound"), BOUNDED)
def test_bounds(name: str, side: str, bound: float) -> None:
    """The ends of a range belong to it, what lies beyond is refused and the bound told."""
    if name not in ("severity_drift", "severity_major"):  # these two are checked together as well
        assert mistakes({name: str(bound)}) == []
    beyond = bound + (1 if side == "high" else -1)
    (line,) = mistakes({name: str(beyond)})
    assert f"{'<=' if side == 'high' else '>='} {bound:g}" in line


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        pytest.param("batch_rows", "ten", id="word"),
        pytest.param("batch_rows", "1.5", id="fraction as text"),
        pytest.param("batch_rows", 1.5, id="fraction"),
        pytest.param("batch_rows", True, id="truth"),
        pytest.param("batch_rows", float("nan"), id="nan"),
        pytest.param("batch_rows", float("inf"), id="infinity"),
        pytest.param("batch_rows", [1], id="list"),
        pytest.param("batch_rows", 10**400, id="huge"),
        pytest.param("batch_rows", "1" + 400 * "0", id="huge as text"),
        pytest.param("push_timeout", "nan", id="nan as text"),
        pytest.param("push_timeout", "inf", id="infinity as text"),
        pytest.param("push_timeout", 10**400, id="huge number"),
        pytest.param("json", 2, id="two is no truth"),
        pytest.param("pipeline", 5, id="number for text"),
        pytest.param("pipeline", "  ", id="blank text"),
        pytest.param("home", "a\0b", id="NUL in path"),
        pytest.param("home", "~no-such-user-here/x", id="unknown user"),
        pytest.param("source", "Inbox", id="choice with capital"),
    ],
)
def test_bad_value(name: str, raw: Any) -> None:
    """A value of the wrong kind is one mistake that names its place."""
    (line,) = mistakes({name: raw})
    assert line.startswith("--" + name.replace("_", "-") + ": ")


@pytest.mark.parametrize("layer", ["file", "variable", "option"])
@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ("900", 900),
        ("90s", 90),
        ("15m", 900),
        ("2h", 7_200),
        ("7d", 604_800),
        ("1.5h", 5_400),
        (" 15 m ", 900),
        (900, 900),
        (1.5, 1.5),
    ],
)
def test_durations(name: str, raw: Any, found: float, layer: str) -> None:
    """Seconds, or a number with a unit, in every layer; in the file a number or a text."""
    if layer == "file":
        loaded = load_settings({}, {}, file=write(toml({name: raw})))
    elif layer == "variable":
        loaded = load_settings({}, {f"WINE_DRIFT_{name.upper()}": str(raw)})
    else:
        loaded = load_settings({name: raw}, {})
    assert getattr(loaded, name) == found and isinstance(getattr(loaded, name), float)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    "raw",
    [
        *("soon", "m", "15 minutes", "15M", "1h30m", "1w", "15m m", "-15m", "-1"),
        *("nan", "nanm", "inf", "infd", "1e300d", True, [900]),
    ],
)
def test_bad_durations(name: str, raw: Any) -> None:
    """What is no time, or no time to wait, is told with what would be one."""
    (line,) = mistakes({name: raw})
    assert line.startswith(f"--{name.replace('_', '-')}: ")
    assert line.endswith("of seconds, nor one with a unit such as 90s, 15m, 2h or 7d")


def test_only_a_wait_may_be_none_at_all() -> None:
    """Who waits no time for a lock gives up at once; all else takes some time."""
    for name in DURATIONS:
        assert len(mistakes({name: "0s"})) == (name != "lock_wait"), name


def test_what_is_no_duration_takes_no_unit() -> None:
    """Numbers of intervals, days and rows are plain."""
    options = {"max_age": "2h", "days": "7d", "step": "4m", "batch_rows": "9s"}
    assert len(mistakes(options)) == len(options)


def test_the_schedule() -> None:
    """When runs are due, and the same in words: an interval, or a line and its zone."""
    loaded = load_settings({}, {})
    assert (loaded.timetable, loaded.schedule) == (Every(900), "every 900 s")
    loaded = load_settings({"every": "1.5h"}, {})
    assert (loaded.timetable, loaded.schedule) == (Every(5400), "every 5400 s")
    loaded = load_settings({"cron": "@daily"}, {})
    assert (loaded.timetable, loaded.schedule) == (Cron("@daily", ZoneInfo("UTC")), "@daily UTC")
    environ = {"WINE_DRIFT_CRON": "0 6 * * *", "WINE_DRIFT_TIMEZONE": "Europe/Berlin"}
    loaded = load_settings({}, environ)
    assert loaded.timetable == Cron("0 6 * * *", ZoneInfo("Europe/Berlin"))
    assert loaded.schedule == "0 6 * * * Europe/Berlin"


def test_one_schedule_only() -> None:
    """An interval and a line in one layer are one too many; else the stronger layer says when."""
    told = mistakes({"cron": "@daily", "every": "15m"})
    assert told == ["--cron and --every: both tell when runs start; leave one out"]
    file = write('every = "15m"\ncron = "@daily"\n')
    told = mistakes({}, file=file)
    assert told == ["s.toml: cron and s.toml: every: both tell when runs start; leave one out"]
    assert load_settings({"cron": "@weekly"}, {}, file=file).schedule == "@weekly UTC"
    file = write('every = "15m"\n')
    assert load_settings({}, {"WINE_DRIFT_CRON": "@daily"}, file=file).schedule == "@daily UTC"
    environ = {"WINE_DRIFT_CRON": "@daily"}
    assert load_settings({"every": "5m"}, environ, file=file).schedule == "every 300 s"


@pytest.mark.parametrize(
    "zone",
    [
        *("../etc/passwd", "/etc/localtime", "Europe", "Europe/", "Mars/Base", "Europe/Berlin/"),
        *("UTC ", "Europe\\Berlin", "zone.tab", "M\u00e4rz", "x" * 300, "a\nb"),
    ],
)
@pytest.mark.parametrize("line", ["@daily", None], ids=["with a line", "without"])
def test_bad_zones(zone: str, line: str | None) -> None:
    """A zone that there is not is one mistake, with or without a line that needs it."""
    (told,) = mistakes({"timezone": zone, "cron": line})
    assert (
        told == f"--timezone: {zone!r} is no time zone; take a name such as Europe/Berlin, or UTC"
    )


def test_an_empty_zone() -> None:
    """In a variable it is none; as an option it is a mistake."""
    assert load_settings({}, {"WINE_DRIFT_TIMEZONE": ""}).timezone == "UTC"
    assert mistakes({"timezone": ""}) == ["--timezone: '' is not a text"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("61 * * * *", "--cron: minute '61': 61 is out of range; write 0 to 59"),
        ("* * * *", "--cron: '* * * *': five fields are needed"),
        ("0 0 30 2 *", "--cron: '0 0 30 2 *': there is no such day"),
        ("@reboot", "--cron: '@reboot' is no time"),
        (" ", "--cron: ' ' is not a text"),
    ],
)
def test_bad_lines(line: str, told: str) -> None:
    """A line that cron would not take, or that never comes, is told before anything runs."""
    (found,) = mistakes({"cron": line})
    assert found.startswith(told)


def test_mistakes_of_line_and_zone_are_told_together() -> None:
    """As all others."""
    assert len(mistakes({"cron": "61 * * * *", "timezone": "Mars/Base"})) == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"drain": True}, 1),
        ({"drain": True, "source": "inbox"}, 1),
        ({"drain": True, "inbox": "in", "source": "stream"}, 1),
        ({"drain": True, "inbox": "in", "source": "simulated"}, 1),
        ({"drain": True, "inbox": "in"}, 0),
        ({"drain": "yes", "inbox": "in", "source": "inbox"}, 0),
        ({"drain": False}, 0),
    ],
)
def test_draining_needs_an_inbox(options: dict[str, Any], told: int) -> None:
    """A stream would never end, or at once."""
    expected = ["--drain: there is no inbox to empty; set inbox"] * told
    assert mistakes(options) == expected


@pytest.mark.parametrize(
    ("raw", "found"),
    [("1", True), ("YES", True), ("true", True), ("0", False), ("no", False), ("False", False)],
)
def test_words_for_truth(raw: str, found: bool) -> None:
    """Variables say true or false in the usual words."""
    assert load_settings({}, {"WINE_DRIFT_JSON": raw}).json is found


def test_home_of_the_user() -> None:
    """A path may begin with ~."""
    assert load_settings({"home": "~/x"}, {}).home == Path.home() / "x"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:9091",
        "localhost:9091",
        "https://gateway.example",
        "https://gateway.example/under/a/path",
        "http://[::1]:9091",
        "[::1]:9091",
        "http://[2001:db8::1]",
        "10.0.0.1:9091",
    ],
)
def test_good_address(url: str) -> None:
    """Names, IPv4 and IPv6 addresses work with or without scheme and port."""
    assert load_settings({"pushgateway": url}, {}).pushgateway == url


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:99999",
        "http://localhost:port",
        "http://localhost:0",
        "http://localhost:-1",
        "http://",
        "http://:9091",
        "ftp://localhost",
        "file:///etc/passwd",
        "http://[::1",
        "::1",
        "http://two words",
    ],
)
def test_bad_address(url: str) -> None:
    """An address that cannot be one is told at once, not at the first push."""
    told = mistakes(environ={"WINE_DRIFT_PUSHGATEWAY": url})
    assert told == ["WINE_DRIFT_PUSHGATEWAY: not an address such as http://localhost:9091"]


@pytest.mark.parametrize(
    "url", ["http://me:secret@localhost:9091", "me:secret@localhost", "http://me@localhost"]
)
def test_address_with_user(url: str) -> None:
    """User and password do not belong in the address, and the error does not repeat them."""
    (line,) = mistakes({"pushgateway": url})
    assert line.startswith("--pushgateway: keep the user in username")
    assert "secret" not in line


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:///ledger.sqlite",
        "ledger.sqlite",
        "mysql://me:secret@localhost/wines",
        "host=localhost password=secret",
        "postgresql://me:secret@[::1/wines",
        "postgresql://me:secret@local host/wines",
        "postgresql://me:secret@localhost/wi\0nes",
        17,
    ],
)
def test_bad_address_of_a_database(address: object) -> None:
    """It is told, and not repeated, as it may hold a password."""
    (line,) = mistakes({"ledger": address})
    assert line == "--ledger: not an address such as postgresql://host/database"


WITH_PASSWORD = (
    "postgresql://me:secret@localhost/wines",
    "postgresql://localhost/wines?user=me&password=secret",
    "postgres://localhost/wines?sslpassword=secret",
)


@pytest.mark.parametrize("address", WITH_PASSWORD)
def test_a_password_in_an_option_is_seen_by_everybody(address: str) -> None:
    """As a variable or in a file it is as good as any other."""
    (line,) = mistakes({"ledger": address})
    assert line.startswith("--ledger: everybody sees") and "WINE_DRIFT_LEDGER" in line
    assert "secret" not in line
    assert load_settings({}, {"WINE_DRIFT_LEDGER": address}).ledger == address
    file = write(toml({"ledger": address}))
    assert load_settings({}, {}, file=file).ledger == address
    option = "postgresql://me@localhost/wines"
    assert load_settings({"ledger": option}, {}, file=file).ledger == option


@pytest.mark.parametrize(
    ("models", "found"),
    [
        ("shelf", "conf/shelf"),
        ("/srv/shelf", "/srv/shelf"),
        ("~/shelf", "~/shelf"),
        ("s3://bucket/shelf", "s3://bucket/shelf"),
    ],
)
def test_where_models_are(models: str, found: str) -> None:
    """A folder named in a file is beside the file, as with all paths; a URL is what it is."""
    Path("conf").mkdir()
    assert (
        load_settings({}, {}, file=write(toml({"models": models}), "conf/s.toml")).models == found
    )
    assert load_settings({"models": models}, {}).models == models


def test_a_url_of_models_may_be_any_text() -> None:
    """What fsspec cannot read is told by who opens it, not by a traceback of the settings."""
    assert load_settings({"models": "http://["}, {}).models == "http://["


@pytest.mark.parametrize("user", ["me:secret", "me:sec/ret", "me"])
def test_a_user_in_the_url_of_models(user: str) -> None:
    """Libraries look for theirs elsewhere, and the URL is told in messages."""
    (line,) = mistakes({"models": f"ftp://{user}@files.example/models"})
    assert line.startswith("--models: keep user and password") and "ret" not in line
    assert load_settings({"models": "s3://bucket/a@b"}, {}).models == "s3://bucket/a@b"


@pytest.mark.parametrize("sign", "/?#")
@pytest.mark.parametrize("given", ["option", "variable"])
def test_a_password_that_is_read_in_two_ways(sign: str, given: str) -> None:
    """libpq and we could take another part of it for the password, and we would tell the rest."""
    address = f"postgresql://me:se{sign}cret@localhost/wines"
    options = {"ledger": address} if given == "option" else {}
    environ = {} if given == "option" else {"WINE_DRIFT_LEDGER": address}
    with pytest.raises(SettingsError, match="%2F %3F %23") as caught:
        load_settings(options, environ)
    assert "cret" not in str(caught.value)


def test_a_password_in_another_spelling() -> None:
    """The name of a parameter may be spelled with its bytes."""
    (line,) = mistakes({"ledger": "postgresql://localhost/wines?user=me&pass%77ord=secret"})
    assert "everybody sees the password" in line and "secret" not in line


@pytest.mark.parametrize("name", ["metrics.txt", "metrics", "metrics.prom.tmp", ".prom"])
def test_textfile_that_node_exporter_would_not_read(name: str) -> None:
    """The textfile's name must end in .prom."""
    (line,) = mistakes({"textfile": name})
    assert line.startswith("--textfile: ")


@pytest.mark.parametrize("name", ["username", "password_file"])
def test_username_and_password_file_go_together(name: str) -> None:
    """One without the other is a mistake, told at the one that is there."""
    (line,) = mistakes(file=write(f'{name} = "x"'))
    assert line == f"s.toml: {name}: username and password_file go together"


@pytest.mark.parametrize(
    "address", ["localhost:8786", "tcp://", "tcp://host", "tcp://host:0", "tcp://me@host:1", "x y"]
)
def test_bad_scheduler(address: str) -> None:
    """An address that Dask could not use is told at once."""
    (line,) = mistakes({"engine": "dask", "dask_scheduler": address})
    assert line == "--dask-scheduler: not an address such as tcp://localhost:8786"


def test_a_scheduler_that_nobody_would_ask() -> None:
    """A cluster that is named is meant to be used; that engine is local can be said, too."""
    (line,) = mistakes({"dask_scheduler": "tcp://h:1"})
    assert line == "--dask-scheduler: only for engine dask; set engine"
    assert mistakes({"dask_scheduler": "tcp://h:1", "engine": "local"}) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param({"severity_drift": 0.5}, 1, id="drift above the default of major"),
        pytest.param({"severity_major": 0.05}, 1, id="major below the default of drift"),
        pytest.param({"severity_drift": 0.3, "severity_major": 0.3}, 0, id="equal"),
        pytest.param({"severity_drift": 0.3, "severity_major": 0.6}, 0, id="in order"),
    ],
)
def test_severities_are_in_order(options: dict[str, float], told: int) -> None:
    """Major drift is never less severe than drift."""
    assert len(mistakes(options)) == told


def test_template_parses_back() -> None:
    """As written, the settings file changes nothing; it names every setting once, in order."""
    assert tomllib.loads(settings_toml()) == {}
    assert [line.split(" = ")[0] for line in LINES] == NAMES
    assert load_settings({}, {}, file=write(settings_toml())) == load_settings({}, {})


@pytest.mark.parametrize("line", LINES, ids=NAMES)
def test_template_line_uncommented(line: str) -> None:
    """Each line of the settings file, uncommented, loads to the default, but for the home."""
    loaded, defaults = load_settings({}, {}, file=write(line)), load_settings({}, {})
    name = line.split(" = ")[0]
    assert name == "home" or getattr(loaded, name) == getattr(defaults, name)


def test_template_explains_every_setting() -> None:
    """Above each line stands what it means, with its choices."""
    text = settings_toml()
    for f in fields(Settings):
        assert f"# {f.metadata['help']}" in text
        assert all(choice in text for choice in f.metadata["choices"])


def test_scenarios_are_those_of_simulate() -> None:
    """The choices of `scenario` are the scenarios that there are."""
    assert tuple(simulate.SCENARIOS) == SCENARIOS
