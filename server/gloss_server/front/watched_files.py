"""Files that may be replaced while the server runs: its certificates, its clients' tokens.

They are looked at whenever what they say is needed, and read again when they have changed. What
cannot be used is refused, and what they said before goes on to hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from gloss_server.command_error import CommandError

_Value = TypeVar("_Value")
_Signature = tuple[tuple[int, ...] | None, ...]


class ReadAgain(Protocol):
    """Who hears of files that have changed."""

    def __call__(self, problem: str | None) -> None:
        """They were read again; `problem`: why what they say now does not hold, else None."""


class WatchedFiles(Generic[_Value]):
    """What some files say. Any thread may ask.

    Args:
        paths: the files.
        read: makes a value of what is in them; raises CommandError where it cannot.
        tell: hears of every change, once.

    Raises:
        CommandError: they cannot be used as they are.

    Attributes:
        last: what they said when they were last looked at.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], _Value], tell: ReadAgain) -> None:
        self._paths, self._read, self._tell = tuple(paths), read, tell
        self._lock = threading.Lock()
        # Before they are read: what changes meanwhile is seen the next time.
        self._seen = self._signature()
        self.last = read()

    def current(self) -> _Value:
        """What they say now, or last said that could be used."""
        with self._lock:
            signature = self._signature()
            if signature != self._seen:
                self._seen = signature
                self._take_over()
            return self.last

    def _take_over(self) -> None:
        try:
            self.last = self._read()
        except CommandError as error:
            self._tell(str(error))
        else:
            self._tell(None)

    def _signature(self) -> _Signature:
        """What changes when a file is written or another takes its place."""
        return tuple(_facts(path) for path in self._paths)


def _facts(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode
