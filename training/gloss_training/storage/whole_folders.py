"""Folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

WRITING: Final = ".writing"


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; it is forced to the disk and gets its name when the context ends well, its
    files readable as new files of this process are.

    Whatever ends it otherwise leaves nothing under the final name; a killed process leaves a
    folder that ends in `.writing`, which the next one of the same name removes.

    Raises:
        ValueError: `folder` is there already.
    """
    if folder.exists():
        raise ValueError(f"{folder}: got a folder that exists, expected a new one; name another")
    writing = folder.with_name(f"{folder.name}{WRITING}")
    if writing.exists():
        shutil.rmtree(writing)
    writing.mkdir(parents=True)
    try:
        yield writing
        # Safetensors files are for their owner alone; a server may run as somebody else.
        readable = writing.stat().st_mode & 0o666
        for path in [*writing.rglob("*"), writing]:
            if path.is_file():
                path.chmod(readable)
            _force(path)
        os.rename(writing, folder)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    _force(folder.parent)


def _force(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
