"""Lines to a file descriptor, from a thread of their own: who logs never waits and never fails.

A full disk, a closed pipe or a reader that stalls costs lines, never a call. Lines that were lost
are counted, and the count is the first thing written once writing works again.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

_CAPACITY = 8192
_CLOSE_SECONDS = 2.0


class LineWriter:
    """Writes lines in order until `close`.

    Args:
        descriptor: where to; a copy is kept, so that a number that is closed and given to
            somebody else is never written to. None: nowhere, every line is lost.
        lost_line: the line that says how many were lost.
        capacity: lines that may wait; more are lost.
    """

    def __init__(
        self,
        descriptor: int | None,
        lost_line: Callable[[int], str],
        capacity: int = _CAPACITY,
    ) -> None:
        self._descriptor = None if descriptor is None else os.dup(descriptor)
        self._lost_line, self._capacity = lost_line, capacity
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._num_lost, self._num_lost_ever = 0, 0
        self._is_torn = self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="gloss-log", daemon=True)
        self._thread.start()

    @property
    def num_lost(self) -> int:
        """Lines that were lost and not yet told of."""
        return self._num_lost

    @property
    def num_lost_ever(self) -> int:
        """Lines that were lost, told of or not."""
        return self._num_lost_ever

    def write(self, line: str) -> None:
        """Hand a line over; it has no line end yet."""
        with self._changed:
            if self._is_closing or len(self._lines) >= self._capacity:
                self._lose()
            else:
                self._lines.append(line)
                self._changed.notify()

    def close(self) -> None:
        """Write what waits, for two seconds at most."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)
        # A thread that hangs in a write keeps its descriptor: the number must not pass on.
        if self._descriptor is not None and not self._thread.is_alive():
            os.close(self._descriptor)
            self._descriptor = None

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._is_closing:
                    self._changed.wait()
                if not self._lines:
                    break
                line = self._lines.popleft()
            self._put(line)
        self._tell_of_lost()

    def _put(self, line: str) -> None:
        if not self._tell_of_lost() or not self._write(line):
            with self._changed:
                self._lose()

    def _lose(self) -> None:
        self._num_lost += 1
        self._num_lost_ever += 1

    def _tell_of_lost(self) -> bool:
        """Whether nothing is untold."""
        num_lost = self._num_lost
        if num_lost:
            if not self._write(self._lost_line(num_lost)):
                return False
            with self._changed:
                self._num_lost -= num_lost
        return True

    def _write(self, line: str) -> bool:
        """Whether the whole line was written; what a torn one left behind is ended first."""
        if self._descriptor is None:
            return False
        data = f"{line}\n".encode(errors="backslashreplace")
        rest = b"\n" + data if self._is_torn else data
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
                self._is_torn = bool(rest)
        except OSError:
            return False
        return True
