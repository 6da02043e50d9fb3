"""A real PostgreSQL for tests and drills: Debian's own, in a folder of theirs."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from trouble import Missing

NEEDS = "needs Debian's postgresql"
USER, PASSWORD = "cellarman", "Korkenzieher-5d20c7"  # of whoever comes over TCP


def programs() -> Path:
    """The folder of initdb and postgres, the newest release of those that are installed."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda path: int(path.parts[-3]), default=None)
    if newest is not None:
        return newest.parent
    if path := shutil.which("initdb"):
        return Path(path).resolve().parent
    raise Missing(NEEDS)


class Database:
    """A server on a free port of loopback and on a socket, which keeps its files over restarts.

    It runs as another user than root, as which it would refuse to. Over TCP it asks for a
    password; through the socket, which only its own user and root can reach, it asks for nothing.
    """

    def __init__(self, folder: Path, *, listen: str = "127.0.0.1") -> None:
        self._bin, self._data, self._log = programs(), folder / "data", folder / "log"
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._user: pwd.struct_passwd | None = None
        if os.geteuid() == 0:
            with contextlib.suppress(KeyError):
                self._user = pwd.getpwnam("nobody")
                self._user = pwd.getpwnam("postgres")
            assert self._user is not None
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        secret = folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)  # in a folder that nobody else can enter
        options = f"--username={USER}", f"--pwfile={secret}", "--auth-host=scram-sha-256"
        more = "--auth-local=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"
        self._run("initdb", "--pgdata", str(self._data), *options, *more)
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(
                f"port = {self.port}\nlisten_addresses = '{listen}'\n"
                f"unix_socket_directories = '{folder}'\nmax_connections = 60\n"
                "shared_buffers = 16MB\n"
            )
        with (self._data / "pg_hba.conf").open("a") as file:
            file.write("host all all samenet scram-sha-256\n")

    def _run(self, program: str, *words: str) -> None:
        with self._log.open("ab") as log:
            done = subprocess.run(
                [str(self._bin / program), *words],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=None if self._user is None else self._user.pw_uid,
                group=None if self._user is None else self._user.pw_gid,
                extra_groups=None if self._user is None else [],
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
            )
        if done.returncode:
            raise RuntimeError(self._log.read_text(encoding="utf-8"))

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-s", "start")

    def stop(self, how: str = "immediate") -> None:
        """Stop it: "fast" as a service manager does, "immediate" as if its power was cut."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-s", "-m", how, "stop")

    def address(self, schema: str, *, host: str = "127.0.0.1", password: str = PASSWORD) -> str:
        """Address of a schema, for whoever knows the password."""
        found = f"{host}:{self.port}/postgres?options=-csearch_path%3D{schema}"
        return f"postgresql://{USER}:{password}@{found}"

    def ask(self, query: str) -> list[list[str]]:
        """Run statements as the server's owner; rows of the last one, as texts."""
        words = ["-h", str(self._folder), "-p", str(self.port), "-U", USER, "-d", "postgres"]
        done = subprocess.run(
            [self._bin / "psql", *words, "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-c", query],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return [line.split("|") for line in done.stdout.splitlines()]

    def make(self, schema: str) -> str:
        """Make a schema; its address."""
        self.ask(f'CREATE SCHEMA "{schema}"')
        return self.address(schema)

    def wait_for(self, query: str, seconds: float = 20) -> None:
        """Ask until there are rows."""
        end = time.monotonic() + seconds
        while not self.ask(query):
            if time.monotonic() > end:
                raise RuntimeError(f"not within {seconds} s: {query}")
            time.sleep(0.02)


@contextlib.contextmanager
def running(*, listen: str = "127.0.0.1") -> Iterator[Database]:
    """A server for the block, in a folder that its user can get to, of a short name for sockets."""
    programs()
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        server = Database(Path(folder), listen=listen)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(RuntimeError):  # it may be stopped already
                server.stop()
