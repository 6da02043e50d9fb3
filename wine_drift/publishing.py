"""The sinks: where finished metric families go.

Each sink gets the full set every time, so a repeated push is harmless and a metric that is gone
from the set is gone from the sink.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import json
import os
import random
import socket
import ssl
import stat
import sys
import threading
import time
import urllib.request
import wsgiref.simple_server
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from prometheus_client import (
    CollectorRegistry,
    Metric,
    generate_latest,
    make_wsgi_app,
    push_to_gateway,
)
from prometheus_client.registry import Collector

from wine_drift.errors import PushFailed, SettingsError, WineDriftError
from wine_drift.failpoints import reached
from wine_drift.files import SHARED, make_folder, whole

_PAUSES = (0.5, 1.0, 2.0)  # seconds between the attempts; one attempt more than pauses
_AGAIN = "`wine-drift push` repeats it"
_LONGEST = 4096  # bytes of a password
_ANSWER = 1 << 26  # bytes of what a gateway has
_WORDS = 1000  # characters of what a server says
_CROWD = 16  # requests to /metrics that are answered at the same time


@dataclass(frozen=True)
class Gateway:
    """A Pushgateway and how to reach it."""

    url: str  # "host:port" means http
    job: str  # job and pipeline are the whole grouping key: any other label never expires
    pipeline: str
    timeout_seconds: float = 5  # for one attempt, first byte to last
    deadline_seconds: float = 20  # for all attempts with their pauses
    username: str | None = None  # basic authentication if set
    password_file: Path | None = None
    ca_file: Path | None = None  # PEM; the system's authorities if not set
    use_proxy: bool = False  # True: obey http_proxy, https_proxy and no_proxy


@dataclass(frozen=True)
class _Failure:
    """Why one attempt did not succeed."""

    reason: str
    words: str
    remedy: str
    again: bool = False  # another attempt may succeed
    on_the_way: bool = False  # if there is a proxy, it may be its fault


_LATE = _Failure(
    "timeout",
    "no complete answer in time",
    "see why the Pushgateway is slow",
    again=True,
    on_the_way=True,
)


class _Families(Collector):
    """A collector of families that are already made."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        return self.families


def _registry(families: Iterable[Metric]) -> CollectorRegistry:
    # Never the default registry: its go_* and process_* names clash with the gateway's own.
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return registry


def render(families: Sequence[Metric]) -> str:
    """Write metric families in the Prometheus text format 0.0.4.

    Examples
    --------
    >>> from prometheus_client.core import GaugeMetricFamily
    >>> print(render([GaugeMetricFamily("batch_rows", "Rows in the batch.", value=200)]), end="")
    # HELP batch_rows Rows in the batch.
    # TYPE batch_rows gauge
    batch_rows 200.0
    """
    return generate_latest(_registry(families)).decode()


def push(
    families: Sequence[Metric],
    gateway: Gateway,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> None:
    """Replace the gateway's group of this pipeline by these families, in one PUT.

    Connection errors, timeouts, 429 and 5xx are tried up to four times; the pauses of 0.5, 1 and
    2 seconds grow by up to half with `jitter`. PUT is idempotent, so a repeat cannot count twice.

    Parameters
    ----------
    families : sequence of Metric
        The full set, without timestamps (the gateway refuses them).
    gateway : Gateway
        Where to, with the limits in seconds.
    clock, sleep, jitter : callable
        Seconds of a monotonic clock, a pause in seconds, and a random number in [0, 1).

    Raises
    ------
    PushFailed
        With `reason` "connection" (no gateway there), "timeout" or "rejected" (it said no, or a
        file named by `gateway` cannot be read). The gateway's content is as before, except after
        a timeout, when the PUT may have arrived.

    Notes
    -----
    Protocol: https://github.com/prometheus/pushgateway#put-method

    Examples
    --------
    >>> push([], Gateway("127.0.0.1:1", "wine_drift", "red"), sleep=lambda seconds: None)
    Traceback (most recent call last):
    ...
    wine_drift.errors.PushFailed: push to 127.0.0.1:1 failed after 4 attempts: Connection refused
    """
    client = _Client(gateway, "push to", f"; {_AGAIN}")

    def insist(send: Callable[[float], _Failure | None]) -> None:
        end = clock() + gateway.deadline_seconds
        attempt = 0
        while True:
            attempt += 1
            left = min(gateway.timeout_seconds, end - clock())
            failure = _bounded(send, max(left, 0.01))  # 0 would mean "do not block" to a socket
            if failure is None:
                return
            if not failure.again or attempt > len(_PAUSES):
                break
            pause = _PAUSES[attempt - 1] * (1 + jitter() / 2)
            if clock() + pause >= end:
                break
            sleep(pause)
        raise client.failed(failure, attempt)

    # The client calls it with these names and without positions.
    def handler(
        url: str, method: str, timeout: float, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        def send(seconds: float) -> _Failure | None:
            request = urllib.request.Request(url, data, dict(headers), method=method)
            return _send(client.opener, request, seconds)

        return lambda: insist(send)

    key = {"pipeline": gateway.pipeline}
    push_to_gateway(gateway.url, gateway.job, _registry(families), key, handler=handler)


def groups(gateway: Gateway) -> list[dict[str, Any]]:
    """What a Pushgateway has, group by group, as its API tells it; one try.

    Raises
    ------
    PushFailed
        It does not answer within `timeout_seconds`, or not as a Pushgateway does.
    """
    client = _Client(gateway, "a look at", "")
    address = gateway.url if "://" in gateway.url else f"http://{gateway.url}"
    request = urllib.request.Request(f"{address.rstrip('/')}/api/v1/metrics")
    answers: list[bytes] = []

    def send(seconds: float) -> _Failure | None:
        return _send(
            client.opener, request, seconds, lambda answer: answers.append(answer.read(_ANSWER))
        )

    failure = _bounded(send, gateway.timeout_seconds)
    if failure is None:
        try:
            found: list[dict[str, Any]] = json.loads(answers[0])["data"]
            return [group for group in found if isinstance(group["labels"], dict)]
        except (ValueError, LookupError, TypeError):
            other = "it does not answer as a Pushgateway does"
            failure = _Failure("rejected", other, "correct `pushgateway`", on_the_way=True)
    raise client.failed(failure, 1)


class _Client:
    """What asks a gateway, and tells of failures without what is secret."""

    def __init__(self, gateway: Gateway, doing: str, then: str) -> None:
        self._gateway, self._doing, self._then = gateway, doing, then
        if "@" in gateway.url:  # a password there would end up in messages and in name look-ups
            raise PushFailed(
                f"{doing} {gateway.url.rpartition('@')[2]}: user name or password in the address",
                reason="rejected",
                remedy=f"move them to their own settings{then}",
            )
        try:
            self._secrets = _credentials(gateway)
            self.opener = _opener(gateway, self._secrets)
        except OSError as error:
            file = error.filename or gateway.ca_file  # ssl names no file
            raise PushFailed(
                f"{doing} {gateway.url} not tried: {file}: {error.strerror or error}",
                reason="rejected",
                remedy=f"correct the file or the setting that names it{then}",
            ) from error

    def failed(self, failure: _Failure, attempts: int) -> PushFailed:
        """The error of a failure after so many attempts."""
        words = "".join(char if char.isprintable() else " " for char in failure.words)
        for secret in self._secrets:  # a careless server repeats what it was sent
            words = words.replace(secret, "***") if len(secret) > 3 else words
        if len(words) > _WORDS:
            words = f"{words[:_WORDS]} ..."
        remedy, proxy, place = failure.remedy, _proxy(self._gateway), self._gateway.url
        if proxy and failure.on_the_way:
            remedy = "see to the proxy that the environment names, or turn `proxy` off"
        if proxy:
            place = f"{place} through proxy {proxy}"
        return PushFailed(
            f"{self._doing} {place} failed after {attempts} attempt{'s' * (attempts > 1)}: {words}",
            reason=failure.reason,
            remedy=f"{remedy}{self._then}",
        )


def _proxy(gateway: Gateway) -> str | None:
    """Address of the proxy that a push goes through, without its password."""
    if not gateway.use_proxy:
        return None
    parts = urlsplit(gateway.url if "://" in gateway.url else f"http://{gateway.url}")
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    address = urllib.request.getproxies().get(parts.scheme)
    return address and address.rpartition("@")[2]


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, nor looks where it leads."""

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener(gateway: Gateway, secrets: Sequence[str]) -> urllib.request.OpenerDirector:
    """Build what sends requests; it follows no redirect."""
    opener = urllib.request.build_opener(
        _Stay(),
        urllib.request.ProxyHandler(None if gateway.use_proxy else {}),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=gateway.ca_file)),
    )
    opener.addheaders = [("User-Agent", "wine-drift")]
    if secrets:
        opener.addheaders.append(("Authorization", f"Basic {secrets[0]}"))
    return opener


def _credentials(gateway: Gateway) -> tuple[str, ...]:
    """What proves who we are, first as it is sent; then every other form of it.

    Raises
    ------
    OSError
        The password file is none: nobody shall send a wrong password for days.
    """
    if gateway.username is None:
        return ()
    password = b"" if gateway.password_file is None else _password(gateway.password_file)
    pair = gateway.username.encode(errors="surrogateescape") + b":" + password
    forms = (base64.b64encode(pair), pair, base64.b64encode(password).rstrip(b"="), password)
    return tuple(form.decode(errors="replace") for form in forms)


def _password(path: Path) -> bytes:
    """The one line of a password file."""

    def refused(reason: str) -> OSError:
        return OSError(errno.EINVAL, reason, str(path))

    # without waiting: nobody may ever write into a pipe
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kind = os.fstat(handle).st_mode
        if not stat.S_ISREG(kind):
            raise refused(os.strerror(errno.EISDIR) if stat.S_ISDIR(kind) else "not a file")
        content = os.read(handle, _LONGEST + 1)
    finally:
        os.close(handle)
    if len(content) > _LONGEST:
        raise refused(f"too long for a password: more than {_LONGEST} bytes")
    lines = content.splitlines()
    if not any(lines):
        raise refused("empty")
    if len(lines) > 1:
        raise refused("more than one line")
    return lines[0]


def _bounded(send: Callable[[float], _Failure | None], seconds: float) -> _Failure | None:
    # urllib's timeout is for each read, so a server that drips bytes can hold a request for ever.
    # The request is left to a daemon thread: it neither holds this run nor the end of the process.
    future: Future[_Failure | None] = Future()

    def run() -> None:
        try:
            future.set_result(send(seconds))
        except BaseException as error:  # a bug: raised by the thread that waits
            future.set_exception(error)

    try:
        threading.Thread(target=run, name="push", daemon=True).start()
    except RuntimeError:  # a limit of the container, say
        words, remedy = "no thread can be started", "see to the limits of processes"
        return _Failure("connection", words, remedy, again=True)
    try:
        return future.result(seconds)
    except TimeoutError:
        return _LATE


def _send(
    opener: urllib.request.OpenerDirector,
    request: urllib.request.Request,
    seconds: float,
    take: Callable[[IO[bytes]], object] = lambda answer: None,
) -> _Failure | None:
    try:
        reached("push: send")
        with opener.open(request, timeout=seconds) as answer:
            take(answer)
    except HTTPError as error:
        with error:
            return _refused(error)
    except (http.client.InvalidURL, ValueError):  # "host:port" without a number, no host name
        return _Failure(
            "connection", "not a usable address", "correct `pushgateway`", on_the_way=True
        )
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, TimeoutError):
            return _LATE
        words = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _Failure("connection", words, "correct `pushgateway` or its CA file")
        remedy = "start the Pushgateway or correct `pushgateway`"
        if isinstance(cause, ssl.SSLError):
            remedy = "see whether the Pushgateway speaks https, or correct `pushgateway`"
        return _Failure("connection", words, remedy, again=True, on_the_way=True)
    return None


def _refused(error: HTTPError) -> _Failure:
    body = b""
    with contextlib.suppress(OSError, http.client.HTTPException):
        body = error.read(2000)  # on 400 only the body names the offending metric
    lines = [line.strip() for line in body.decode(errors="replace").splitlines() if line.strip()]
    words = ": ".join(filter(None, (f"HTTP {error.code} {error.reason}", " | ".join(lines[:3]))))
    if error.code == 429 or error.code >= 500:
        return _Failure("rejected", words, "see the log of the Pushgateway", again=True)
    remedies = {
        400: "remove what clashes from the Pushgateway",
        401: "correct the user name or the password file of the Pushgateway",
        403: "correct the user name or the password file of the Pushgateway",
    }
    if error.code == 407:
        return _Failure("rejected", words, "correct `pushgateway`", on_the_way=True)
    moved = "set `pushgateway` to the final address, as redirects are not followed"
    other = moved if error.code < 400 else "correct `pushgateway`"
    return _Failure("rejected", words, remedies.get(error.code, other))


def write_textfile(families: Sequence[Metric], path: Path) -> None:
    """Write metric families to a file for the textfile collector of node_exporter, atomically.

    Readers see the old file or the new one, never a part. The folder is made if need be; the file
    is readable by everyone (0644), as node_exporter runs as another user.

    Raises
    ------
    ValueError
        The name does not end in `.prom`: node_exporter would not read it.
    PushFailed
        With `reason` "rejected": the file cannot be written. An older one is as before.

    Examples
    --------
    >>> write_textfile([], Path("metrics.txt"))
    Traceback (most recent call last):
    ...
    ValueError: metrics.txt: the name must end in .prom, node_exporter reads no other
    """
    if path.suffix != ".prom":
        raise ValueError(f"{path}: the name must end in .prom, node_exporter reads no other")
    text = render(families)
    try:
        make_folder(path.parent, mode=0o755)
        with whole(path, "textfile", mode=SHARED) as file:  # under a name that is not *.prom
            file.write(text.encode())
    except OSError as error:
        raise PushFailed(
            f"{path}: cannot be written: {error.strerror or error}",
            reason="rejected",
            remedy=f"make {path.parent} a writable folder or correct the path; {_AGAIN}",
        ) from error


# Of a page: it loads nothing and runs nothing; its styles and drawings stand in it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STRICT = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", f"{POLICY}; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]


class _Server(ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """One thread a request; a slow reader holds nobody up, nor the end of the process."""

    daemon_threads = True
    request_queue_size = 128  # with the usual five, a few that come together wait for seconds

    def __init__(self, *given: Any) -> None:
        self._begun: dict[Any, float] = {}  # connections, and the monotonic time of each
        self._changing = threading.Lock()
        super().__init__(*given)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; a crowd, or a machine without threads, must not stop the runs."""
        with self._changing:
            room = len(self._begun) < _CROWD
            if room:
                self._begun[request] = time.monotonic()
        if not room:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Let go of a connection."""
        with self._changing:
            self._begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Every half second: who takes too long over all is let go of, however busy it looks."""
        with self._changing:
            late = time.monotonic() - _Handler.timeout
            for request in [each for each, begun in self._begun.items() if begun < late]:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)  # its thread finds the end, and closes it

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's asks the name service, which may take a minute
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or never says what it wants, is no news."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Server6(_Server):
    """The same for addresses with colons."""

    address_family = socket.AF_INET6


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    """Quiet: a line for each scrape would be all that the log holds."""

    timeout = 30  # seconds for a request to arrive, and for all of it with its answer
    server_version, sys_version = "wine-drift", ""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse without repeating what was asked for."""
        super().send_error(code)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serve(
    read: Callable[[], Sequence[Metric]],
    *,
    host: str,
    port: int,
    page: Callable[[], bytes] | None = None,
) -> Iterator[str]:
    """Answer `GET /metrics` in threads for as long as the block lasts.

    Parameters
    ----------
    read : callable
        Gives the full set; called for each request. What it raises as a WineDriftError is told
        with status 503, so that a scrape fails rather than shows old figures.
    host : str
        Address of this machine to listen on.
    port : int, 0..65535
        0: one that is free.
    page : callable, optional
        Gives an HTML page, as UTF-8, for `GET /`; else there are the metrics, too. Called and
        refused as `read`.

    Yields
    ------
    str
        Host and port.

    Raises
    ------
    SettingsError
        The address cannot be had.

    Examples
    --------
    >>> with serve(list, host="127.0.0.1", port=0) as address:
    ...     with urllib.request.urlopen(f"http://{address}/metrics") as answer:
    ...         answer.status, answer.read()
    (200, b'')
    """

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        plain = [("Content-Type", "text/plain; charset=utf-8")]
        if environ["PATH_INFO"] not in ("/metrics", "/"):
            start_response("404 Not Found", plain)
            return [b"there is /metrics\n"]
        if environ["REQUEST_METHOD"] not in ("GET", "OPTIONS"):
            start_response("405 Method Not Allowed", [*plain, ("Allow", "GET, OPTIONS")])
            return [b"ask with GET\n"]
        try:
            if page is not None and environ["PATH_INFO"] == "/":
                text = page()
                start_response("200 OK", [*_STRICT, ("Content-Length", str(len(text)))])
                return [text]
            registry = _registry(read())
        except WineDriftError as error:
            start_response("503 Service Unavailable", plain)
            return [f"{error}\n".encode()]
        answer: Iterable[bytes] = make_wsgi_app(registry)(environ, start_response)
        return answer

    kind, shown = (_Server6, f"[{host}]") if ":" in host else (_Server, host)
    try:
        server = wsgiref.simple_server.make_server(host, port, app, kind, _Handler)
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"metrics on {shown}:{port}: {getattr(error, 'strerror', None) or error}",
            remedy="choose another metrics_port or metrics_host",
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield f"{shown}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
