"""The sinks against a local HTTP server and a temporary folder."""

from __future__ import annotations

import base64
import errno
import gzip
import http.client
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer
from typing import Any
from urllib.error import URLError

import pytest
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wine_drift import publishing
from wine_drift.errors import PushFailed, SettingsError, StateUnreadable
from wine_drift.publishing import Gateway, push, render, serve, write_textfile

Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(status: int, body: str = "", **headers: str) -> Answer:
    """Make an answer with this status, body and headers."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        content = body.encode()
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


@dataclass
class Request:
    """What the server saw of one request."""

    method: str
    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Server:
    """A server that gives `answers` in turn, the last one for ever."""

    answers: list[Answer] = field(default_factory=lambda: [reply(200)])
    requests: list[Request] = field(default_factory=list)
    address: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            server.requests.append(Request(self.command, self.path, dict(self.headers), body))
            answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
            answer(self)

        do_PUT = do_POST = do_GET = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.address = f"127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield server
        http.shutdown()
        thread.join()


@dataclass
class Time:
    """A clock that only its own `sleep` moves."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


def families(value: float = 1) -> list[Metric]:
    runs = CounterMetricFamily("wine_drift_runs", "Runs so far.", labels=["outcome"])
    runs.add_metric(["ok"], 3)
    return [GaugeMetricFamily("wine_drift_up", "1 if it runs.", value=value), runs]


def gateway(address: str, **changes: Any) -> Gateway:
    return replace(Gateway(address, "wine_drift", "red"), **changes)


def send(to: Gateway, time: Time | None = None, jitter: float = 0.0) -> Time:
    time = time or Time()
    push(families(), to, clock=time.clock, sleep=time.sleep, jitter=lambda: jitter)
    return time


def failure(to: Gateway, time: Time | None = None, jitter: float = 0.0) -> PushFailed:
    with pytest.raises(PushFailed) as caught:
        send(to, time, jitter)
    return caught.value


def test_render_writes_help_type_and_samples() -> None:
    """The text has HELP, TYPE and value of each family, counters with `_total`, no extras."""
    assert render(families()).splitlines() == [
        "# HELP wine_drift_up 1 if it runs.",
        "# TYPE wine_drift_up gauge",
        "wine_drift_up 1.0",
        "# HELP wine_drift_runs_total Runs so far.",
        "# TYPE wine_drift_runs_total counter",
        'wine_drift_runs_total{outcome="ok"} 3.0',
    ]


@pytest.mark.parametrize("scheme", ["", "http://", "HTTP://"])
@pytest.mark.parametrize("end", ["", "/"])
def test_push_is_one_put_of_everything(server: Server, scheme: str, end: str) -> None:
    """One PUT with the full text goes to the group of job and pipeline, whatever the URL's form."""
    send(gateway(f"{scheme}{server.address}{end}"))
    (request,) = server.requests
    assert request.method == "PUT"
    assert request.path == "/metrics/job/wine_drift/pipeline/red"
    assert request.body == render(families())
    assert request.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "Authorization" not in request.headers


@pytest.mark.parametrize("name", ["red/white", "red wine", "red wine/2"])
def test_push_escapes_pipeline_names(server: Server, name: str) -> None:
    """Names with a slash or a space go in base64, the gateway's own escape."""
    send(gateway(server.address, pipeline=name))
    path = server.requests[0].path
    assert path.startswith("/metrics/job/wine_drift/pipeline@base64/")
    assert base64.urlsafe_b64decode(path.rsplit("/", 1)[1]).decode() == name


def test_push_keeps_the_path_of_the_url(server: Server) -> None:
    """A gateway behind a path prefix is reached there."""
    send(gateway(f"http://{server.address}/gateway"))
    assert server.requests[0].path == "/gateway/metrics/job/wine_drift/pipeline/red"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_push_succeeds_on_the_third_attempt(server: Server, status: int) -> None:
    """A server that is busy twice gets the same PUT a third time, after growing pauses."""
    server.answers = [reply(status), reply(status), reply(200)]
    assert send(gateway(server.address)).pauses == [0.5, 1.0]
    assert len({request.body for request in server.requests}) == 1
    assert len(server.requests) == 3


def test_push_gives_up_after_four_busy_answers(server: Server) -> None:
    """A server that stays busy is asked four times and quoted."""
    server.answers = [reply(503, "no leader")]
    error = failure(gateway(server.address))
    assert len(server.requests) == 4
    assert error.reason == "rejected"
    assert "after 4 attempts: HTTP 503 Service Unavailable: no leader" in str(error)


def test_push_quotes_a_refusal_and_does_not_repeat_it(server: Server) -> None:
    """A 400 is final; its first lines are in the message without terminal codes or tail."""
    server.answers = [reply(400, "one\n\n\x1b[31mtwo\nthree\nfour\n")]
    error = failure(gateway(server.address))
    assert len(server.requests) == 1
    assert error.reason == "rejected"
    assert f"push to {server.address} failed after 1 attempt: HTTP 400 Bad Request: " in str(error)
    assert str(error).endswith("one |  [31mtwo | three")
    assert "clashes" in error.remedy
    assert "`wine-drift push`" in error.remedy


@pytest.mark.parametrize(("status", "remedy"), [(401, "password"), (404, "correct `pushgateway`")])
def test_push_does_not_repeat_other_refusals(server: Server, status: int, remedy: str) -> None:
    """A wrong password or a wrong path is final, and the remedy says which."""
    server.answers = [reply(status)]
    error = failure(gateway(server.address))
    assert (len(server.requests), error.reason) == (1, "rejected")
    assert f"HTTP {status}" in str(error)
    assert remedy in error.remedy


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_push_refuses_redirects(server: Server, status: int) -> None:
    """A redirect is a mistake in the settings: neither followed nor repeated."""
    server.answers = [reply(status, Location=f"http://{server.address}/else"), reply(200)]
    error = failure(gateway(server.address))
    assert (len(server.requests), error.reason) == (1, "rejected")
    assert f"HTTP {status}" in str(error)
    assert "final address" in error.remedy


@pytest.mark.parametrize(("jitter", "pauses"), [(0.0, [0.5, 1, 2]), (1.0, [0.75, 1.5, 3])])
def test_push_tries_a_closed_port_four_times(jitter: float, pauses: list[float]) -> None:
    """Nobody listens: four attempts, pauses that jitter makes longer, and a way out."""
    time = Time()
    error = failure(gateway("127.0.0.1:1"), time, jitter)
    assert time.pauses == pauses
    assert error.reason == "connection"
    assert str(error) == "push to 127.0.0.1:1 failed after 4 attempts: Connection refused"
    assert "start the Pushgateway" in error.remedy


def test_push_starts_no_pause_beyond_the_deadline() -> None:
    """The pauses count towards the deadline: with 1 s only one fits."""
    time = Time()
    error = failure(gateway("127.0.0.1:1", deadline_seconds=1), time)
    assert time.pauses == [0.5]
    assert "after 2 attempts" in str(error)


def test_push_repeats_after_a_dropped_connection(server: Server) -> None:
    """A server that hangs up without an answer is a connection error, tried again."""
    server.answers = [lambda handler: handler.connection.shutdown(2), reply(200)]
    assert send(gateway(server.address)).pauses == [0.5]


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n"])
def test_push_is_not_held_by_a_slow_server(server: Server, start: bytes) -> None:
    """One byte per 0.3 s, in the headers or in the body, cannot hold a push beyond its deadline."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(start)
            for _ in range(20):
                handler.wfile.write(b"H")
                time.sleep(0.3)
        except OSError:
            pass

    server.answers = [drip]
    to = gateway(server.address, timeout_seconds=0.5, deadline_seconds=1.5)
    begin = time.monotonic()
    with pytest.raises(PushFailed) as caught:
        push(families(), to, jitter=lambda: 0.0)
    assert time.monotonic() - begin < 2
    assert caught.value.reason == "timeout"
    assert "after 2 attempts: no complete answer in time" in str(caught.value)


@pytest.mark.parametrize(
    ("head", "more", "reason"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 50, "connection", id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: ", b"b" * 9_999, "connection", id="header"),
        pytest.param(b"HTTP/1.1 500 No\r\n\r\n", b"b" * 9_999, "rejected", id="body"),
        pytest.param(b"HTTP/1.1 400 No\r\n\r\n", b"\n" * 9_999, "rejected", id="empty lines"),
    ],
)
def test_push_stops_reading_an_endless_answer(
    server: Server, head: bytes, more: bytes, reason: str
) -> None:
    """Whoever talks for ever is hung up on long before the timeout."""

    def talk(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(head)
            while True:
                handler.wfile.write(more)
        except OSError:
            pass

    server.answers = [talk]
    begin = time.monotonic()
    assert failure(gateway(server.address, timeout_seconds=60)).reason == reason
    assert time.monotonic() - begin < 20


def test_push_times_out_on_a_silent_server(server: Server) -> None:
    """A server that says nothing is a timeout too, and tried again."""
    server.answers = [lambda handler: time.sleep(0.4), reply(200)]
    assert send(gateway(server.address, timeout_seconds=0.1)).pauses == [0.5]


@pytest.mark.parametrize("error", [TimeoutError("timed out"), URLError(TimeoutError())])
def test_push_takes_a_timeout_of_the_socket_for_one(
    monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """The socket gets what is left, never 0 or less, and its own timeout has the same reason."""
    timeouts = []

    def late(opener: object, request: object, timeout: float) -> None:
        timeouts.append(timeout)
        raise error

    class Overslept(Time):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds + 100)

    monkeypatch.setattr("urllib.request.OpenerDirector.open", late)
    assert failure(gateway("127.0.0.1:1", deadline_seconds=2), Overslept()).reason == "timeout"
    assert timeouts[0] == 2
    assert min(timeouts) > 0


def test_push_bears_a_broken_refusal(server: Server) -> None:
    """A 400 whose body cannot be read is a 400 all the same."""

    def broken(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\nnumber\r\n")

    server.answers = [broken]
    assert str(failure(gateway(server.address))).endswith("after 1 attempt: HTTP 400 Bad")


def test_push_passes_a_bug_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen exception in the sending thread is raised, not turned into a timeout."""
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *args, **names: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        send(gateway(server.address))


def test_push_ignores_proxy_variables(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead proxy in the environment does not matter unless the settings ask for it."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    send(gateway(server.address))
    assert len(server.requests) == 1
    assert failure(gateway(server.address, use_proxy=True)).reason == "connection"


def test_push_authenticates_from_the_password_file(server: Server, tmp_path: Path) -> None:
    """User name and the file's content without its newline make the header."""
    file = tmp_path / "password"
    file.write_text("pässword \n")
    send(gateway(server.address, username="cellar", password_file=file))
    scheme, pair = server.requests[0].headers["Authorization"].split()
    assert (scheme, base64.b64decode(pair).decode()) == ("Basic", "cellar:pässword ")


def test_push_never_tells_a_password(server: Server, tmp_path: Path) -> None:
    """Neither the password file's content nor userinfo in the URL gets into an error."""
    file = tmp_path / "password"
    file.write_text("corked")
    server.answers = [reply(401)]
    refused = failure(gateway(server.address, username="cellar", password_file=file))
    for url in ("cellar:corked@{}", "http://cellar:corked@{}", "HTTPS://cellar:a/corked@@{}/x"):
        error = failure(gateway(url.format(server.address)))
        assert server.address in str(error)
        assert "own settings" in error.remedy
        assert "cork" not in f"{error} {error.remedy} {error.__cause__} {error.__context__}"
    assert len(server.requests) == 1
    assert "cork" not in f"{refused} {refused.remedy} {refused.__cause__} {refused.__context__}"


@pytest.mark.parametrize("url", ["127.0.0.1:port", "http://a..b", "http://" + "a" * 64])
def test_push_does_not_repeat_an_impossible_address(url: str) -> None:
    """An address that can never work is told once, as such."""
    error = failure(gateway(url))
    assert error.reason == "connection"
    assert str(error) == f"push to {url} failed after 1 attempt: not a usable address"


@pytest.mark.parametrize("setting", ["password_file", "ca_file"])
@pytest.mark.parametrize("content", [None, ""])
def test_push_names_a_file_it_cannot_use(
    server: Server, tmp_path: Path, setting: str, content: str | None
) -> None:
    """A file that is missing or holds no password or no certificate is told before sending."""
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    to = gateway(server.address, username="cellar", **{setting: file})
    error = failure(to)
    assert (server.requests, error.reason) == ([], "rejected")
    empty = "empty" if setting == "password_file" else "certificate"
    assert ("No such file" if content is None else empty) in str(error)
    assert str(file) in str(error)


def test_push_cuts_what_a_server_says(server: Server) -> None:
    """A log line holds no page of garbage."""
    server.answers = [reply(400, "a" * 1_900)]
    assert len(str(failure(gateway(server.address)))) < 1100
    server.answers = [lambda handler: handler.wfile.write(b"b" * 60_000 + b"\r\n")]
    assert len(str(failure(gateway(server.address)))) < 1100


def test_push_repeats_no_password_that_a_server_repeats(server: Server, tmp_path: Path) -> None:
    """Some refusals quote the request, to help."""
    file = tmp_path / "password"
    file.write_text("corked\n")

    def echo(handler: BaseHTTPRequestHandler) -> None:
        reply(403, f"{handler.headers['Authorization']} is cellar:corked")(handler)

    server.answers = [echo]
    error = str(failure(gateway(server.address, username="cellar", password_file=file)))
    assert "cork" not in error and base64.b64encode(b"cellar:corked").decode() not in error
    assert error.endswith("Basic *** is ***")


@pytest.mark.parametrize("location", ["http://[", "file:///etc/passwd", "//elsewhere:x", ""])
def test_push_does_not_look_where_a_redirect_leads(server: Server, location: str) -> None:
    """An address that is none makes no other error of it."""
    server.answers = [reply(302, Location=location)]
    error = failure(gateway(server.address))
    assert error.reason == "rejected" and "HTTP 302" in str(error)
    assert "final address" in error.remedy


def test_push_names_the_proxy_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address, without its password; it is not the Pushgateway that has to be started."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://someone:corked@127.0.0.1:1")
    error = failure(gateway("gateway:9091", use_proxy=True))
    assert "push to gateway:9091 through proxy 127.0.0.1:1 failed" in str(error)
    assert "proxy that the environment names" in error.remedy and "cork" not in str(error)


def test_textfile_has_the_rendered_text_and_is_readable(tmp_path: Path) -> None:
    """The file holds the same text as a push, mode 0644 under any umask, in a new folder."""
    path = tmp_path / "new" / "folder" / "wine.prom"
    umask = os.umask(0o077)
    try:
        write_textfile(families(), path)
    finally:
        os.umask(umask)
    assert path.read_text() == render(families())
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_textfile_is_replaced_whole(tmp_path: Path) -> None:
    """A reader with the old file open keeps the old content: the name moves, no byte is changed."""
    path = tmp_path / "wine.prom"
    write_textfile(families(1), path)
    with path.open() as reader:
        write_textfile(families(0), path)
        assert reader.read() == render(families(1))
    assert path.read_text() == render(families(0))


@pytest.mark.parametrize("function", ["os.fsync", "pathlib.Path.replace"])
def test_textfile_survives_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """A failure on the way leaves the old file and nothing half written."""
    path = tmp_path / "wine.prom"
    write_textfile(families(1), path)

    def full(*args: object) -> None:
        # What is there at this moment must not look like metrics to node_exporter.
        assert [file.name for file in tmp_path.glob("*.prom")] == ["wine.prom"]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(function, full)
    with pytest.raises(PushFailed, match="No space left on device") as caught:
        write_textfile(families(0), path)
    assert caught.value.reason == "rejected"
    assert [file.read_text() for file in tmp_path.iterdir()] == [render(families(1))]


@pytest.mark.parametrize("name", ["wine.txt", "wine", "wine.prom.tmp", ".prom", "wine.PROM"])
def test_textfile_needs_the_name_node_exporter_reads(tmp_path: Path, name: str) -> None:
    """Any name but `*.prom` is refused before anything is written."""
    with pytest.raises(ValueError, match=r"must end in \.prom"):
        write_textfile(families(), tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []


def test_textfile_in_no_folder_is_told_with_its_path(tmp_path: Path) -> None:
    """A parent that is a file makes a PushFailed with the path and what to do."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "wine.prom"
    with pytest.raises(PushFailed) as caught:
        write_textfile(families(), path)
    assert caught.value.reason == "rejected"
    assert str(path) in str(caught.value)
    assert f"make {path.parent} a writable folder" in caught.value.remedy


# --- /metrics ---

LOOPBACK = {"host": "127.0.0.1", "port": 0}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers look every hundredth of a second whether they are to end; the default is a half."""
    monkeypatch.setattr(BaseServer.serve_forever, "__defaults__", (0.01,))


@dataclass
class Reply:
    """What /metrics answered."""

    status: int
    kind: str
    body: bytes


def ask(address: str, path: str = "/metrics", method: str = "GET", **headers: str) -> Reply:
    """One request, as a scraper sends it."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        body = b"x" * 1000 if method == "POST" else None
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return Reply(answer.status, answer.getheader("Content-Type", ""), answer.read())
    finally:
        connection.close()


def plain_socket(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def threads() -> int:
    return sum(thread.name == "metrics" for thread in threading.enumerate())


@pytest.mark.parametrize("path", ["/metrics", "/", "/metrics?debug=1"])
def test_a_scrape_gives_the_rendered_text(path: str) -> None:
    """In the text format, read anew for each request."""
    values = iter([1.0, 2.0])
    with serve(lambda: families(next(values)), **LOOPBACK) as address:
        for value in (1.0, 2.0):
            reply = ask(address, path)
            assert (reply.status, reply.body.decode()) == (200, render(families(value)))
            assert reply.kind.startswith("text/plain; version=")


def test_a_scrape_in_the_format_that_prometheus_asks_for() -> None:
    """OpenMetrics if it is wanted, packed if it may be."""
    wanted = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"
    with serve(families, **LOOPBACK) as address:
        reply = ask(address, Accept=wanted, Accept_Encoding="gzip")
    assert reply.kind.startswith("application/openmetrics-text; version=1.0.0")
    found = {
        family.name: family
        for family in text_string_to_metric_families(gzip.decompress(reply.body).decode())
    }
    assert found["wine_drift_up"].samples[0].value == 1
    (runs,) = found["wine_drift_runs"].samples
    assert (runs.name, runs.value) == ("wine_drift_runs_total", 3)


@pytest.mark.parametrize("path", ["/metric", "/metrics/", "/favicon.ico", "/%00"])
def test_other_places_are_404(path: str) -> None:
    """There is nothing else; the ledger is not even read for it."""
    with serve(lambda: pytest.fail("was read"), **LOOPBACK) as address:
        reply = ask(address, path)
    assert (reply.status, reply.body) == (404, b"there is /metrics\n")


def test_what_cannot_be_read_is_503() -> None:
    """With the reason, until it can be read again; a bug is 500, and ends nothing either."""
    answers: list[Exception | None] = [
        *(StateUnreadable("ledger.sqlite: torn"), None, ZeroDivisionError("a bug"), None),
    ]

    def read() -> Sequence[Metric]:
        error = answers.pop(0)
        if error is not None:
            raise error
        return families()

    with serve(read, **LOOPBACK) as address:
        replies = [ask(address) for _ in range(4)]
    assert [reply.status for reply in replies] == [503, 200, 500, 200]
    assert replies[0].body == b"ledger.sqlite: torn\n"
    assert b"ZeroDivisionError" not in replies[2].body


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_other_methods_do_no_harm(method: str) -> None:
    """They are refused, and the next scrape is as ever."""
    with serve(families, **LOOPBACK) as address:
        assert ask(address, method=method).status == (200 if method == "OPTIONS" else 405)
        assert ask(address).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\r\n\r\n", id="empty lines"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n", id="endless address"),
        pytest.param(b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", id="headers"),
        pytest.param(b"GET /metrics HTTP/9.9\r\n\r\n", id="version"),
        pytest.param(b"GET /metrics HTTP/1.1\r\nHost: ", id="half"),
    ],
)
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_strange_clients_do_no_harm(
    sent: bytes, reset: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Port scanners, health checks and clients that hang up leave no trace in the log."""
    with serve(families, **LOOPBACK) as address:
        with plain_socket(address) as client:
            client.sendall(sent)
            if reset:  # closing sends RST
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert ask(address).status == 200
        time.sleep(0.02)
    assert capfd.readouterr().err == ""


def test_a_slow_client_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Some say half of what they want, some do not listen; each is let go of after a while."""
    assert publishing._Handler.timeout == 30
    monkeypatch.setattr(publishing._Handler, "timeout", 0.3)
    with serve(families, **LOOPBACK) as address:
        slow = [plain_socket(address) for _ in range(10)]
        for number, client in enumerate(slow):
            client.sendall(b"GET /metrics HTTP/1.0\r\n"[: 5 * number] + b"\r\n" * (number == 9))
        assert ask(address).status == 200
        for client in slow:
            with client:
                while client.recv(10_000):  # b"": it was let go of
                    pass
        assert ask(address).status == 200
    assert capfd.readouterr().err == ""


def test_scrapes_at_the_same_time() -> None:
    """One that is being answered does not wait for another."""
    both = threading.Barrier(2, timeout=10)

    def read() -> Sequence[Metric]:
        both.wait()  # passes when two are here
        return families()

    with serve(read, **LOOPBACK) as address:
        found: list[int] = []
        scrapers = [
            threading.Thread(target=lambda: found.append(ask(address).status)) for _ in range(2)
        ]
        for scraper in scrapers:
            scraper.start()
        for scraper in scrapers:
            scraper.join()
    assert found == [200, 200]


def test_nothing_is_left_after_the_block() -> None:
    """Neither a thread nor the port, which another server may have at once."""
    assert threads() == 0
    with serve(families, **LOOPBACK) as one, serve(families, **LOOPBACK) as other:
        assert one != other and threads() == 2
        assert ask(one).status == ask(other).status == 200
    assert threads() == 0
    with pytest.raises(ConnectionRefusedError):
        plain_socket(one)
    host, _, port = one.rpartition(":")
    with pytest.raises(ZeroDivisionError), serve(families, host=host, port=int(port)) as again:
        assert again == one and ask(again).status == 200
        raise ZeroDivisionError
    assert threads() == 0


def test_a_port_that_is_taken_is_told() -> None:
    """With the address, the system's words, and what to change."""
    with serve(families, **LOOPBACK) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(SettingsError) as caught, serve(families, host="127.0.0.1", port=port):
            pass
        assert str(caught.value) == f"metrics on {address}: Address already in use"
        assert "metrics_port" in caught.value.remedy
        assert ask(address).status == 200


@pytest.mark.parametrize(
    "host", ["203.0.113.7", "nowhere.invalid", "2001:db8::7", "[::1]", "::g", "a b", "x" * 300]
)
def test_a_host_that_is_not_ours_is_told(host: str) -> None:
    """Addresses of others, names that nobody has, and what is no address."""
    with pytest.raises(SettingsError) as caught, serve(families, host=host, port=0):
        pass
    assert host in str(caught.value) and "metrics_host" in caught.value.remedy


def test_addresses_with_colons() -> None:
    """IPv6, written with brackets where a port follows; if this machine has it, else it is told."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        with pytest.raises(SettingsError, match=str(error.strerror)):
            serve(families, host="::1", port=0).__enter__()
        return
    with serve(families, host="::1", port=0) as address:
        assert address.startswith("[::1]:") and ask(address).status == 200
        port = int(address.rpartition(":")[2])
        with pytest.raises(SettingsError) as caught, serve(families, host="::1", port=port):
            pass
    assert str(caught.value) == f"metrics on {address}: Address already in use"


def test_a_name_for_this_machine() -> None:
    """Names are looked up."""
    with serve(families, host="localhost", port=0) as address:
        assert address.startswith("localhost:") and ask(address).status == 200
