"""Commands under a terminal of their own, as a person would run them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(*arguments: object, columns: int = 80, **environment: str) -> tuple[int, str]:
    """Run a command under a pseudo-terminal of that width; its exit code and what it showed."""
    words = [sys.executable, "-m", "wine_drift", *map(str, arguments)]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = kept | {"TERM": "xterm-256color", "PYTHONUTF8": "1"} | environment
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(words, env=environment, stdin=its, stdout=its, stderr=its) as running:
        os.close(its)
        shown = b""
        while part := _read(ours):
            shown += part
    os.close(ours)
    return running.returncode, shown.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """Text without what makes colours."""
    return _CODES.sub("", text)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
