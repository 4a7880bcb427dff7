"""One process at a time works on a run's directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gloss_training.errors import RunFolderError
from gloss_training.storage.disk import writing

LOCK_FILE: Final = "run.lock"


@contextmanager
def run_lock(root: Path) -> Iterator[None]:
    """Holds a run's directory, which is made if it is not there, for as long as the context lasts.

    The system lets go of it when the process ends, however it ends.

    Raises:
        RunFolderError: another process holds it.
        DiskError: there can be no such directory.
    """
    path = root / LOCK_FILE
    with writing(str(path), "Nothing was done."):
        root.mkdir(parents=True, exist_ok=True)
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(
                f"{root}: got a run that another process is working on, expected one at a time; "
                "wait for it to end, or choose another --output"
            ) from None
        yield
    finally:
        os.close(held)
