"""Finding and fetching the red-wine table, against a local server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from wine_drift.cli import main
from wine_drift.dataset import FILE_NAME, SHA256, fetch, file_sha256, find_table, packaged_text
from wine_drift.errors import SettingsError


@dataclass
class Server:
    """A server that answers everything with `content`."""

    content: bytes = b""
    status: int = 200
    announced: int | None = None  # Content-Length, where it is not the true one
    requests: list[str] = field(default_factory=list)
    address: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server on a free port of this machine, reached without a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            self.send_response(state.status)
            length = len(state.content) if state.announced is None else state.announced
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(state.content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.address = f"http://127.0.0.1:{http.server_port}/wine/{FILE_NAME}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def refused(url: str) -> SettingsError:
    """Fetch from an address that cannot give the table; nothing may be left behind."""
    with pytest.raises(SettingsError) as caught:
        fetch(Path("home"), url=url)
    assert [path for path in Path().rglob("*") if path.is_file()] == []
    assert str(caught.value).startswith(f"{url}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return caught.value


def test_fetch(server: Server, red_wine_csv: Path) -> None:
    """The right file lands in the home folder, and nothing beside it."""
    server.content = red_wine_csv.read_bytes()
    path = fetch(Path("home"), url=server.address)
    assert path.read_bytes() == server.content
    assert file_sha256(path) == SHA256
    assert [p for p in Path("home").rglob("*") if p.is_file()] == [Path("home/data") / FILE_NAME]
    assert find_table(None, Path("home")) == Path("home/data") / FILE_NAME


def test_the_second_call_downloads_nothing(server: Server, red_wine_csv: Path) -> None:
    """A table that is there is not fetched again."""
    server.content = red_wine_csv.read_bytes()
    first = fetch(Path("home"), url=server.address)
    assert fetch(Path("home"), url=server.address) == first
    assert len(server.requests) == 1


def test_a_damaged_copy_is_fetched_again(server: Server, red_wine_csv: Path) -> None:
    """A file of that name that is not the table is replaced."""
    server.content = red_wine_csv.read_bytes()
    old = Path("home/data") / FILE_NAME
    old.parent.mkdir(parents=True)
    old.write_text("half a table")
    assert fetch(Path("home"), url=server.address).read_bytes() == server.content


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>"], ids=["nothing", "a page"])
def test_wrong_content(server: Server, content: bytes) -> None:
    """What is not the table is refused, and nothing of it is kept."""
    server.content = content
    error = refused(server.address)
    assert "is not the table" in str(error)
    assert SHA256[:12] in str(error)


def test_nearly_the_table(server: Server, red_wine_csv: Path) -> None:
    """One more byte, and it is not the table."""
    server.content = red_wine_csv.read_bytes() + b"\n"
    assert "is not the table" in str(refused(server.address))


def test_what_never_ends_is_not_the_table(server: Server) -> None:
    """It is read up to a length that the table does not have, not to where memory ends."""
    server.content, server.announced = bytes(4 << 20), 1 << 40
    assert "is not the table" in str(refused(server.address))


def test_broken_download(server: Server, red_wine_csv: Path) -> None:
    """A connection that ends too early keeps nothing."""
    server.content = red_wine_csv.read_bytes()
    server.announced = 2 * len(server.content)
    refused(server.address)


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_server_that_refuses(server: Server, status: int) -> None:
    """The server's status is told, with what to do instead."""
    server.status = status
    error = refused(server.address)
    assert str(status) in str(error)
    assert "--data" in error.remedy


def test_nobody_listens() -> None:
    """A refused connection is told as such, with what to do instead."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = refused(f"http://127.0.0.1:{port}/{FILE_NAME}")
    assert "Connection refused" in str(error)
    assert "--data" in error.remedy


@pytest.mark.parametrize(
    "url", ["not-an-address", "ftp://127.0.0.1/x", "file:///etc/hostname", "http://", "//x/y"]
)
def test_address_that_is_none(url: str) -> None:
    """An address that cannot be asked is told as such, not as a wrong table."""
    assert "SHA-256" not in str(refused(url))


def test_home_that_is_a_file(server: Server, red_wine_csv: Path) -> None:
    """Where the table cannot be kept, the folder is named."""
    server.content = red_wine_csv.read_bytes()
    Path("home").write_text("a file")
    with pytest.raises(SettingsError, match="home"):
        fetch(Path("home"), url=server.address)
    assert Path("home").read_text() == "a file"


def test_fetch_data_prints_the_path(server: Server, red_wine_csv: Path) -> None:
    """The command prints where the table is, and only that."""
    server.content = red_wine_csv.read_bytes()
    arguments = ["fetch-data", "--url", server.address, "--home", "home"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert Path(result.stdout.rstrip("\n")).read_bytes() == server.content
    assert result.stderr == ""


def test_fetch_data_fails_with_2(server: Server) -> None:
    """The command tells a failure in two lines and exits with 2."""
    server.content = b"<html>moved</html>"
    result = CliRunner().invoke(main, ["fetch-data", "--url", server.address, "--home", "home"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 2
    assert result.stderr.startswith(f"error: {server.address}: ")


def test_find_table(red_wine_csv: Path) -> None:
    """The table named wins over the one fetched; without either there is none."""
    home = Path("home")
    assert find_table(None, home) is None
    assert find_table(red_wine_csv, home) == red_wine_csv
    fetched = home / "data" / FILE_NAME
    fetched.parent.mkdir(parents=True)
    assert find_table(None, home) is None
    fetched.write_bytes(red_wine_csv.read_bytes())
    assert find_table(None, home) == fetched
    assert find_table(red_wine_csv, home) == red_wine_csv


@pytest.mark.parametrize("name", ["none.csv", "."], ids=["missing", "a folder"])
def test_a_table_that_was_named_and_is_not_there(name: str) -> None:
    """A table that was named is never silently replaced by the fetched one."""
    fetched = Path("home/data") / FILE_NAME
    fetched.parent.mkdir(parents=True)
    fetched.write_text("x")
    with pytest.raises(SettingsError, match="data: no file") as caught:
        find_table(Path(name), Path("home"))
    assert "WINE_DRIFT_DATA" in caught.value.remedy


def test_the_pinned_hash_is_that_of_the_published_table(red_wine_csv: Path) -> None:
    """The pin in the code is the hash of the table that the tests use."""
    assert file_sha256(red_wine_csv) == SHA256


def test_packaged_files() -> None:
    """The schema and the figures ship with the package."""
    assert 'name = "red wine"' in packaged_text("red_wine.toml")
    assert "provenance" in packaged_text("red_wine_figures.json")
