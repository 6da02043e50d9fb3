"""Files and folders appear whole or not at all, for one owner."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wine_drift import failpoints, files
from wine_drift.errors import SettingsError


@pytest.fixture(params=[0o000, 0o022, 0o077], ids="umask {:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """What the system takes away from the modes of new files."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def moments() -> Iterator[list[str]]:
    """Named moments, as they are reached."""
    seen: list[str] = []
    failpoints.hook = seen.append
    yield seen
    failpoints.hook = failpoints._go_on


def mode(path: Path) -> int:
    """Rights of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


def write(path: Path, content: bytes) -> None:
    """A file in one go."""
    with files.whole(path, "test") as file:
        file.write(content)


def test_rights_are_those_of_one_owner_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """Files 0600 and folders 0700, those on the way included; what others read is 0644."""
    folder = tmp_path / "a" / "b"
    files.make_folder(folder)
    write(folder / "own", b"x")
    with files.whole(folder / "shared", "test", mode=files.SHARED) as file:
        file.write(b"x")
    files.copy(folder / "shared", folder / "copy", "test")
    files.append(folder / "log", "line")
    files.write_folder(folder / "version", {"model.txt": b"tree"}, "test")
    with files.by_name(folder / "ledger", "test"):
        pass
    modes = {str(path.relative_to(tmp_path)): mode(path) for path in tmp_path.rglob("*")}
    assert modes == {
        "a": 0o700,
        "a/b": 0o700,
        "a/b/own": 0o600,
        "a/b/shared": 0o644,
        "a/b/copy": 0o600,
        "a/b/version": 0o700,
        "a/b/version/model.txt": 0o600,
        "a/b/log": 0o600,
        "a/b/ledger": 0o600,
    }


def test_a_folder_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    """An owner who lets a group in is not overruled."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o750)
    files.make_folder(tmp_path / "a" / "b", mode=0o755)
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o750, 0o755)


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    """With its name, and it stays."""
    (tmp_path / "a").write_text("in the way")
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(OSError) as caught:
            files.make_folder(path)
        assert str(tmp_path / "a") in str(caught.value)
    assert (tmp_path / "a").read_text() == "in the way"


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """Whatever is raised on the way, also by the system, and nothing is left beside it."""
    path = tmp_path / "a"
    write(path, b"old")

    def half() -> None:
        with files.whole(path, "test") as file:
            file.write(b"new")
            file.flush()
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("a", b"old")]
    write(path, b"new")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("a", b"new")]


@pytest.mark.parametrize("step", ["write", "sync", "rename"])
@pytest.mark.parametrize("what", ["file", "copy", "folder", "move"])
def test_a_disk_that_fails_at_a_step_changes_nothing(
    tmp_path: Path, what: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old content stays, and what was begun takes no room."""
    target, source = tmp_path / "target", tmp_path / "source"
    source.write_bytes(b"new")
    if what == "folder":
        files.write_folder(target, {"a": b"old"}, "test")
    else:
        target.write_bytes(b"old")

    def exchange(path: Path, other: Path) -> Path:
        raise OSError(errno.EXDEV, "another file system")

    def fail(name: str) -> None:
        if name.endswith(f": {step}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    works: dict[str, Callable[[], None]] = {
        "file": lambda: write(target, b"new"),
        "copy": lambda: files.copy(source, target, "test"),
        "folder": lambda: files.write_folder(target, {"a": b"new"}, "test"),
        "move": lambda: files.move(source, target, "test"),
    }
    if what == "move":
        replace = Path.replace
        monkeypatch.setattr(
            Path, "replace", lambda a, b: exchange(a, b) if a == source else replace(a, b)
        )
    monkeypatch.setattr(failpoints, "hook", fail)
    with pytest.raises(OSError, match="No space left"):
        works[what]()
    content = (target / "a").read_bytes() if what == "folder" else target.read_bytes()
    assert content == b"old"
    assert source.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_what_a_dead_process_left_is_taken_away(tmp_path: Path) -> None:
    """Its half of a file does not keep anybody from writing there, nor does it show."""
    partial = tmp_path / ".a.part"
    pid = os.fork()
    if pid == 0:
        with files.whole(tmp_path / "a", "test") as file:
            file.write(b"half")
            file.flush()
            os._exit(0)
    os.waitpid(pid, 0)
    assert partial.read_bytes() == b"half" and not (tmp_path / "a").exists()
    write(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_what_a_living_process_writes_is_left_to_it(tmp_path: Path) -> None:
    """Whoever comes second is told; the first one ends as if he had been alone."""
    with files.whole(tmp_path / "a", "test") as file:
        file.write(b"first")
        with pytest.raises(OSError) as caught:
            write(tmp_path / "a", b"second")
        assert caught.value.errno == errno.EBUSY and ".a.part" in str(caught.value)
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_user_names_is_written_as_by_other_programs(tmp_path: Path) -> None:
    """A file is replaced whole, also behind links, which stay; readable, whatever it was."""

    def put(path: Path, content: bytes) -> None:
        with files.named(path, "test") as file:
            file.write(content)

    (tmp_path / "sub").mkdir()
    plain, link, far = (tmp_path / name for name in ("plain", "link", "far"))
    link.symlink_to("sub/../plain")
    far.symlink_to("link")
    put(far, b"new")  # it leads to nothing yet
    put(link, b"one")
    with pytest.raises(KeyError), files.named(far, "test") as file:
        file.write(b"half")
        assert plain.read_bytes() == b"one"
        raise KeyError
    assert plain.read_bytes() == b"one" and mode(plain) == 0o644
    put(far, b"two")
    assert plain.read_bytes() == b"two" and not plain.is_symlink()
    assert link.is_symlink() and far.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "link", "plain", "sub"]


def test_a_device_and_a_pipe_are_written_into(tmp_path: Path) -> None:
    """Neither is replaced by a file; a link to one neither."""
    leader, follower = os.openpty()
    device, link, pipe = Path(os.ttyname(follower)), tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(device)
    with files.named(link, "test") as file:
        file.write(b"page")
    assert os.read(leader, 9) == b"page"
    assert link.is_symlink() and device.is_char_device()
    os.close(leader), os.close(follower)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with files.named(pipe, "test") as file:
        file.write(b"page")
    assert os.read(reader, 9) == b"page" and pipe.is_fifo()
    os.close(reader)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_no_folder_is_made_for_a_name_that_may_be_mistyped(tmp_path: Path) -> None:
    """It is told; so is a file in the place of a folder, and a folder in the place of a file."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("none/x")
    for path, told in (
        ("none/x", f"there is no folder {tmp_path}/none"),
        ("link", f"there is no folder {tmp_path}/none"),
        ("file/x", "Not a directory"),
        ("", "Is a directory"),
    ):
        with pytest.raises(SettingsError, match=told), files.named(tmp_path / path, "test"):
            raise AssertionError(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_where_there_are_no_locks_files_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none."""

    def none(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    (tmp_path / ".a.part").write_bytes(b"left")
    write(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("what", ["file", "folder", "begun"])
def test_a_link_in_the_place_of_what_is_begun_is_not_followed(tmp_path: Path, what: str) -> None:
    """What it points to is not written to, whoever put it there."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "a").write_bytes(b"precious")
    aim = precious / "a" if what != "folder" else precious
    (tmp_path / ".a.part").symlink_to(aim)
    if what == "file":
        write(tmp_path / "a", b"new")
    elif what == "folder":
        files.write_folder(tmp_path / "a", {"a": b"new"}, "test")
    else:
        with files.by_name(tmp_path / "a", "test") as partial:
            partial.write_bytes(b"new")
    assert (precious / "a").read_bytes() == b"precious"
    assert not (tmp_path / "a").is_symlink() and not (tmp_path / ".a.part").is_symlink()


def test_a_link_to_a_folder_that_is_removed_is_not_followed(tmp_path: Path) -> None:
    """The link goes, the folder stays; nothing there is fine."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    files.remove_folder(tmp_path / "link")
    files.remove_folder(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_file_moves_to_another_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a copy with its time, and only then is it taken away; another error is raised."""
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"wine")
    os.utime(source, ns=(1, 1_234_567_890_123_456_789))
    replace, number = Path.replace, errno.EXDEV

    def refuse(path: Path, other: Path) -> Path:
        if path == source:
            raise OSError(number, "no")
        return replace(path, other)

    monkeypatch.setattr(Path, "replace", refuse)
    files.move(source, target, "test")
    assert not source.exists() and target.read_bytes() == b"wine"
    assert target.stat().st_mtime_ns == 1_234_567_890_123_456_789 and mode(target) == 0o600
    source.write_bytes(b"more")
    number = errno.EACCES
    with pytest.raises(OSError, match="no"):
        files.move(source, target, "test")
    assert source.read_bytes() == b"more" and target.read_bytes() == b"wine"


def test_a_file_is_on_the_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content, then name, then the folder that holds the name; a moved file in both folders."""
    done: list[tuple[str, str]] = []
    replace, rename = Path.replace, Path.rename

    def name(handle: int) -> str:
        return os.path.relpath(Path(f"/proc/self/fd/{handle}").readlink(), tmp_path)

    def note_rename(path: Path, target: Path) -> Path:
        done.append(("rename", os.path.relpath(target, tmp_path)))
        return (rename if path.is_dir() else replace)(path, target)

    monkeypatch.setattr(os, "fsync", lambda handle: done.append(("sync", name(handle))))
    monkeypatch.setattr(Path, "replace", note_rename)
    monkeypatch.setattr(Path, "rename", note_rename)
    write(tmp_path / "a", b"x")
    assert done == [("sync", ".a.part"), ("rename", "a"), ("sync", ".")]
    done.clear()
    files.write_folder(tmp_path / "v", {"m": b"1"}, "test")
    assert done[1:] == [
        *(("sync", ".v.part/.m.part"), ("rename", ".v.part/m"), ("sync", ".v.part")),
        *(("rename", "v"), ("sync", ".")),
    ]
    (tmp_path / "archive").mkdir()
    done.clear()
    files.move(tmp_path / "a", tmp_path / "archive" / "a", "test")
    assert done == [("rename", "archive/a"), ("sync", "archive"), ("sync", ".")]
    done.clear()
    with files.by_name(tmp_path / "l", "test"):
        pass
    assert done == [("sync", ".l.part"), ("rename", "l"), ("sync", ".")]


def test_each_step_is_named(tmp_path: Path, moments: list[str]) -> None:
    """Where tests break a run."""
    write(tmp_path / "a", b"x")
    assert moments == ["test: write", "test: sync", "test: rename", "test: done"]
    moments.clear()
    files.write_folder(tmp_path / "v", {"m": b"1"}, "version")
    files.move(tmp_path / "a", tmp_path / "b", "archive")
    assert moments[0] == "version: write" and "version, a file: sync" in moments
    assert moments[-2:] == ["archive: move", "archive: moved"]


def test_lines_are_added_to_a_log_in_one_piece(tmp_path: Path) -> None:
    """What is there stays."""
    files.append(tmp_path / "log", "one")
    files.append(tmp_path / "log", "zwölf")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\nzwölf\n"


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    """All of it: a file that it no longer has is gone."""
    files.write_folder(tmp_path / "v", {"a": b"1", "b": b"2"}, "test")
    files.write_folder(tmp_path / "v", {"a": b"3"}, "test")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"v", "v/a"} and (tmp_path / "v" / "a").read_bytes() == b"3"
