"""The sinks: where finished metric families go.

Each sink gets the full set every time, so a repeated push is harmless and a metric that is gone
from the set is gone from the sink.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import random
import socket
import ssl
import sys
import tempfile
import threading
import time
import urllib.request
import wsgiref.simple_server
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.error import HTTPError, URLError

from prometheus_client import (
    CollectorRegistry,
    Metric,
    generate_latest,
    make_wsgi_app,
    push_to_gateway,
)
from prometheus_client.registry import Collector

from wine_drift.errors import PushFailed, SettingsError, WineDriftError

_PAUSES = (0.5, 1.0, 2.0)  # seconds between the attempts; one attempt more than pauses
_AGAIN = "`wine-drift push` repeats it"


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


_LATE = _Failure(
    "timeout", "no complete answer in time", "see why the Pushgateway is slow", again=True
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
    if "@" in gateway.url:  # a password there would end up in messages and in name look-ups
        raise PushFailed(
            f"push to {gateway.url.rpartition('@')[2]}: user name or password in the address",
            reason="rejected",
            remedy=f"move them to their own settings; {_AGAIN}",
        )
    try:
        opener = _opener(gateway)
    except OSError as error:
        file = error.filename or gateway.ca_file  # ssl names no file
        raise PushFailed(
            f"push to {gateway.url} not tried: {file}: {error.strerror or error}",
            reason="rejected",
            remedy=f"correct the file or the setting that names it; {_AGAIN}",
        ) from error

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
        words = "".join(char if char.isprintable() else " " for char in failure.words)
        raise PushFailed(
            f"push to {gateway.url} failed after {attempt} attempt{'s' * (attempt > 1)}: {words}",
            reason=failure.reason,
            remedy=f"{failure.remedy}; {_AGAIN}",
        )

    # The client calls it with these names and without positions.
    def handler(
        url: str, method: str, timeout: float, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        def send(seconds: float) -> _Failure | None:
            request = urllib.request.Request(url, data, dict(headers), method=method)
            return _send(opener, request, seconds)

        return lambda: insist(send)

    key = {"pipeline": gateway.pipeline}
    push_to_gateway(gateway.url, gateway.job, _registry(families), key, handler=handler)


def _opener(gateway: Gateway) -> urllib.request.OpenerDirector:
    """Build what sends requests; it follows no redirect, as urllib never does so for a PUT."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(None if gateway.use_proxy else {}),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=gateway.ca_file)),
    )
    opener.addheaders = [("User-Agent", "wine-drift")]
    if gateway.username is not None:
        password = gateway.password_file.read_bytes() if gateway.password_file else b""
        pair = gateway.username.encode() + b":" + password.rstrip(b"\r\n")
        opener.addheaders.append(("Authorization", f"Basic {base64.b64encode(pair).decode()}"))
    return opener


def _bounded(send: Callable[[float], _Failure | None], seconds: float) -> _Failure | None:
    # urllib's timeout is for each read, so a server that drips bytes can hold a request for ever.
    # The request is left to a daemon thread: it neither holds this run nor the end of the process.
    future: Future[_Failure | None] = Future()

    def run() -> None:
        try:
            future.set_result(send(seconds))
        except BaseException as error:  # a bug: raised by the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, name="push", daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        return _LATE


def _send(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request, seconds: float
) -> _Failure | None:
    try:
        opener.open(request, timeout=seconds).close()
    except HTTPError as error:
        with error:
            return _refused(error)
    except (http.client.InvalidURL, ValueError):  # "host:port" without a number, no host name
        return _Failure("connection", "not a usable address", "correct `pushgateway`")
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, TimeoutError):
            return _LATE
        words = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _Failure("connection", words, "correct `pushgateway` or its CA file")
        remedy = "start the Pushgateway or correct `pushgateway`"
        return _Failure("connection", words, remedy, again=True)
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
        path.parent.mkdir(parents=True, exist_ok=True)
        # No .prom at the end of the temporary name, or node_exporter would read it half written.
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(handle, 0o644)
                os.fsync(handle)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PushFailed(
            f"{path}: cannot be written: {error.strerror or error}",
            reason="rejected",
            remedy=f"make {path.parent} a writable folder or correct the path; {_AGAIN}",
        ) from error


class _Server(ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """One thread a request; a slow reader holds nobody up, nor the end of the process."""

    daemon_threads = True

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

    timeout = 30  # seconds for a request to arrive

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serve(read: Callable[[], Sequence[Metric]], *, host: str, port: int) -> Iterator[str]:
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
        try:
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
