"""The `gloss` command on a terminal of its own."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Callable

_SECONDS = 30


class Screen:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._terminal, inside = pty.openpty()
        self.before = termios.tcgetattr(inside)
        self._inside = inside
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gloss_server.command", *arguments],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
            start_new_session=True,
        )
        os.set_blocking(self._terminal, False)
        self.seen = ""

    def until(self, condition: Callable[[str], bool]) -> None:
        """Wait for what is drawn from here on."""
        begun, end = len(self.seen), time.monotonic() + _SECONDS
        while not condition(self.seen[begun:]):
            assert time.monotonic() < end, self.seen[begun:]
            try:
                self.seen += os.read(self._terminal, 1 << 16).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.01)

    def read_to_end(self) -> None:
        """Take what it draws until it has ended: a full terminal would hold it up."""
        end = time.monotonic() + _SECONDS
        while True:
            has_ended = self._process.poll() is not None
            try:
                self.seen += os.read(self._terminal, 1 << 16).decode(errors="replace")
            except BlockingIOError:
                if has_ended:
                    return
                time.sleep(0.01)
            assert time.monotonic() < end, self.seen

    def press(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def interrupt(self) -> None:
        self._process.send_signal(2)

    def end(self) -> int:
        """Its exit status; the terminal must be as it was."""
        self.read_to_end()
        status = self._process.wait(_SECONDS)
        assert termios.tcgetattr(self._inside) == self.before
        return status

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)
        os.close(self._inside)
