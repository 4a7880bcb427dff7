"""Where the streams of a client for threads wait before they are tried again."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Pauses:
    """Waits of many threads. They end early when a stream is left, and when the client closes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closed = False

    def wait(self, seconds: float, is_left: Callable[[], bool]) -> bool:
        """Waits, unless its stream is left; False when the client was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or is_left(), seconds)
            return not self._closed

    def wake(self) -> None:
        """A stream was left."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Ends all waits, those to come as well."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
