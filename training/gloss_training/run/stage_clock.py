"""What a stage takes over all processes that work on it, kept on the disk while it is made.

A process that is killed writes nothing at its end, so its seconds are written while it works.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

EVERY_SECONDS: Final = 5.0
"""How often they are written: what a kill can lose."""


class StageClock:
    """The seconds of one stage.

    Args:
        path: where they are kept.
        goes_on: whether those of stopped processes count, or the stage begins anew.
    """

    def __init__(self, path: Path, *, goes_on: bool) -> None:
        self._path = path
        self._before = _read(path) if goes_on else 0.0
        self._started, self._paused_at = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Of all processes so far."""
        return self._before + (self._paused_at or time.perf_counter()) - self._started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what a person takes to answer."""
        self._paused_at = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - self._paused_at
            self._paused_at = 0.0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Has them on the disk for as long as the context lasts, and at its end."""
        ended = threading.Event()
        thread = threading.Thread(target=self._write_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._write()

    def _write_until(self, ended: threading.Event) -> None:
        self._write()
        while not ended.wait(EVERY_SECONDS):
            self._write()

    def _write(self) -> None:
        # On a full disk the stage's own files say so; not to know the time must not end it.
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps({"seconds": self.seconds}), encoding="utf-8")
            os.replace(temporary, self._path)


def _read(path: Path) -> float:
    """What is kept; 0 where nothing is, or nothing whole after a power failure."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["seconds"])
    except (FileNotFoundError, ValueError):
        return 0.0
