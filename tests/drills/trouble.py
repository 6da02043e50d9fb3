"""Servers that misbehave, on loopback, and a real Pushgateway that can be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

T = TypeVar("T")

REASONS = {200: "OK", 302: "Found", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden"}
REASONS |= {404: "Not Found", 407: "Proxy Authentication Required", 429: "Too Many Requests"}
REASONS |= {500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable"}


class Missing(Exception):
    """A program that is needed is not installed."""


def program(*names: str, needs: str) -> str:
    """Path of a program, under the first of its names that is there."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise Missing(needs)


# --- servers that misbehave ---


class Line:
    """One connection to a server that misbehaves."""

    def __init__(self, client: socket.socket, over: threading.Event) -> None:
        self.client = client
        self.heard = b""  # all that came
        self._over = over

    def hear(self, least: int | None = None) -> bytes:
        """Read a whole request, or the first bytes of it."""
        while not self._enough(least):
            data = self.client.recv(1 << 16)
            if not data:
                raise ConnectionError("the client hung up")
            self.heard += data
        return self.heard

    def _enough(self, least: int | None) -> bool:
        if least is not None:
            return len(self.heard) >= least
        head, end, body = self.heard.partition(b"\r\n\r\n")
        _, found, length = head.lower().partition(b"content-length:")
        return bool(end) and len(body) >= int(length.split()[0] if found else 0)

    def say(self, data: bytes) -> None:
        """Send bytes."""
        self.client.sendall(data)

    def drip(self, data: bytes, every: float) -> None:
        """Send byte after byte, with so many seconds between."""
        for byte in data:
            self.say(bytes([byte]))
            if self._over.wait(every):
                raise ConnectionError("the server ends")

    def stay(self) -> None:
        """Say nothing until one of both hangs up."""
        while self.client.recv(1 << 16):
            pass

    def rest(self) -> None:
        """Take no notice of the client until the server ends."""
        self._over.wait()

    def reset(self) -> None:
        """Hang up as a machine does that knows of no connection."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Behaviour = Callable[[Line], None]


class Server:
    """A server that treats each connection as `behave` says, which may be changed meanwhile."""

    def __init__(
        self, behave: Behaviour, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.behave, self._tls = behave, tls
        self.lines: list[Line] = []  # every connection that there was
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Bound and not listening, it refuses connections, and nobody else gets the port.
        self._bound = socket.socket(family)
        self._bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._bound.bind((host, 0))
        self._family, self._place = family, self._bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._place[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        self.up()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.down()
        self._bound.close()

    def up(self) -> None:
        """Listen; after `down` again, on the same port."""
        self._over = threading.Event()
        self._listener = socket.socket(self._family)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._listener.bind(self._place)
        self._listener.listen()
        self._begin(self._accept, self._listener)

    def down(self) -> None:
        """Listen no more, and hang up on everybody."""
        if self._listener is None:
            return
        self._over.set()
        _hang_up(self._listener)
        self._listener = None
        self._threads.pop(0).join()  # from here on nobody is let in
        for line in self.lines:
            _hang_up(line.client)
        while self._threads:
            self._threads.pop().join()

    def wait(self, condition: Callable[[], bool], seconds: float = 20) -> bool:
        """Wait until it is so; whether it was in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def settle(self, seconds: float = 10) -> None:
        """Wait until nobody is connected any more."""
        self.wait(lambda: not any(thread.is_alive() for thread in self._threads[1:]), seconds)

    def _begin(self, work: Callable[[T], None], what: T) -> None:
        thread = threading.Thread(target=work, args=(what,))
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while not self._over.is_set():
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                line = self._line(client)
                self.lines.append(line)
                self._begin(self._serve, line)

    def _line(self, client: socket.socket) -> Line:
        if self._tls is not None:
            # The handshake is for the thread of the connection; it may take for ever.
            wrap = partial(self._tls.wrap_socket, server_side=True)
            client = wrap(client, do_handshake_on_connect=False)
        return Line(client, self._over)

    def _serve(self, line: Line) -> None:
        behave = self.behave
        # Whatever the client does, hanging up among it, is no fault of ours.
        with line.client, contextlib.suppress(OSError):
            if isinstance(line.client, ssl.SSLSocket):
                line.client.do_handshake()
            behave(line)


def _hang_up(connection: socket.socket) -> None:
    """Wake whoever waits for this connection; closing would not."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def answer(status: int, body: str = "", *headers: str) -> bytes:
    """A whole answer; headers as `Name: value`."""
    content = body.encode()
    lines = (f"HTTP/1.1 {status} {REASONS.get(status, 'So It Is')}", *headers)
    head = "\r\n".join([*lines, f"Content-Length: {len(content)}"])
    return head.encode() + b"\r\n\r\n" + content


def says(*parts: bytes, last: bytes = b"", every: float | None = None) -> Behaviour:
    """Hear the request, say the parts, then `last` for ever; all byte after byte if so wanted."""

    def behave(line: Line) -> None:
        line.hear()
        for part in parts:
            if every is None:
                line.say(part)
            else:
                line.drip(part, every)
        while last:
            line.say(last)

    return behave


def silent(least: int | None = 0) -> Behaviour:
    """Hear so many bytes, or all of the request if None, and say nothing."""

    def behave(line: Line) -> None:
        line.hear(least)
        line.stay()

    return behave


def deaf(line: Line) -> None:
    """Read nothing, and say nothing."""
    line.rest()


def resets(line: Line) -> None:
    """Hang up at once, rudely."""
    line.reset()


def hangs_up(line: Line) -> None:
    """Hear the request and hang up without a word."""
    line.hear()


def relay(target: str, *, heard: bool = True) -> Behaviour:
    """Pass a request on to another server, and its answer back, if that is wanted."""

    def behave(line: Line) -> None:
        with connected(target) as other:
            other.sendall(line.hear())
            while data := other.recv(1 << 16):  # clients here ask for `Connection: close`
                if heard:
                    line.say(data)

    return behave


def proxy(line: Line) -> None:
    """What a proxy does: pass on to where the request says."""
    head = line.hear().split(b"\r\n")[0].split()
    method, target = head[0], head[1].decode()
    if method != b"CONNECT":
        relay(target.split("/")[2])(line)
        return
    with connected(target) as other:
        line.say(b"HTTP/1.1 200 Connection established\r\n\r\n")

        def back() -> None:
            with contextlib.suppress(OSError):
                while data := other.recv(1 << 16):
                    line.say(data)
            _hang_up(line.client)

        beside = threading.Thread(target=back)
        beside.start()
        with contextlib.suppress(OSError):
            while data := line.client.recv(1 << 16):
                other.sendall(data)
        _hang_up(other)
        beside.join()


def connected(address: str) -> socket.socket:
    """A connection to a server."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=20)


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Address of a machine that takes no notice of whoever wants to connect."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):  # more than may wait; whoever comes after them is not answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield "{}:{}".format(*listener.getsockname())


def has_ipv6() -> bool:
    """Whether this machine can talk to itself by IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


# --- certificates ---


@dataclass(frozen=True)
class Certificate:
    """A certificate that has signed itself, and its key."""

    path: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """For a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key)
        return context


SIGNING = """[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
x509_extensions = extensions
[any]
commonName = supplied
[req]
distinguished_name = any_name
[any_name]
[extensions]
subjectAltName = {whose}
"""


def certify(
    folder: Path, whose: str = "IP:127.0.0.1", years: tuple[int, int] = (2020, 2049)
) -> Certificate:
    """A certificate of that name or address, good from the first year on up to the second."""
    openssl = program("openssl", needs="needs openssl")
    folder.mkdir()
    (folder / "ca.cnf").write_text(SIGNING.format(whose=whose))
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("01")
    config = ("-config", "ca.cnf")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", "key.pem")
    ask = (openssl, "req", "-new", "-nodes", *key, "-subj", "/CN=test", "-out", "asked.pem")
    sign = (openssl, "ca", "-batch", "-notext", "-selfsign", "-keyfile", "key.pem")
    dates = ("-startdate", f"{years[0]}0101000000Z", "-enddate", f"{years[1]}0101000000Z")
    for command in (
        (*ask, *config),
        (*sign, *config, *dates, "-in", "asked.pem", "-out", "cert.pem"),
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return Certificate(folder / "cert.pem", folder / "key.pem")


# --- the real one ---


class Pushgateway(AbstractContextManager["Pushgateway"]):
    """Debian's Pushgateway, on a port that it keeps over its lives; started by `start`.

    One that is to be killed wants a loopback address of its own, or somebody else gets its port.
    """

    def __init__(
        self, folder: Path, *options: str, host: str = "127.0.0.1", scheme: str = "http"
    ) -> None:
        names = ("prometheus-pushgateway", "pushgateway")
        binary = program(*names, needs="needs Debian's prometheus-pushgateway")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((host, 0))
            port = probe.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{port}"
        self.url = f"{scheme}://{self.address}"
        self.to: tuple[str, ...] = ("--pushgateway", self.url)  # options that reach it
        if not any(option.startswith("--persistence.file=") for option in options):
            options += ("--persistence.file=",)  # none; Debian has one for all of the machine
        self._command = (binary, *options, f"--web.listen-address={self.address}")
        self._log = folder / f"pushgateway-{host.replace(':', '.')}-{port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> Pushgateway:
        """Start it and wait until it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        end = time.monotonic() + 20
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > end:
                raise Missing(f"the Pushgateway does not start: {self._log.read_text()}")
            time.sleep(0.02)
        return self

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            self._ask("GET", "/-/ready")
        except HTTPError as error:
            with error:
                return error.code == 401  # it is up, and wants a password even for this
        except (OSError, HTTPException):
            return False
        return True

    def stop(self) -> None:
        """Stop it as a service manager would."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def kill(self) -> None:
        """Kill it, as the kernel does that needs memory; again is harmless."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def halt(self) -> None:
        """Let it stand still: it is connected to and does not answer."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """After `halt`; returns when it has found back."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)
        while not self.ready():
            time.sleep(0.02)

    def text(self, authorization: str | None = None) -> str:
        """What Prometheus would scrape."""
        return self._ask("GET", "/metrics", authorization)

    def _ask(self, method: str, path: str, authorization: str | None = None) -> str:
        headers = {} if authorization is None else {"Authorization": authorization}
        # The certificate is our own, and is checked by those who push.
        https = HTTPSHandler(context=ssl._create_unverified_context())
        request = Request(f"{self.url}{path}", headers=headers, method=method)
        with build_opener(ProxyHandler({}), https).open(request, timeout=5) as found:
            text: str = found.read().decode()
        return text
