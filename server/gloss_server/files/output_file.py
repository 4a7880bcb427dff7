"""The place of an output on the disk: whether it can be written, is free, or is another run's.

What its rows are is for `result_file.py` and `commands/capture/results.py`; whether they belong to
this run at all is decided by the state beside it (`run_state.py`).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gloss_server.command_error import CommandError, OutputError, writing


def check_place(output: Path) -> None:
    """Refuse an output that can never be written before minutes go into loading.

    Raises:
        OutputError: no directory to write it in.
    """
    parent = output.parent
    if not parent.is_dir():
        raise OutputError(f"cannot write {output}: {parent} is no directory. Make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {output}: no permission to write in {parent}")


def output_exists(path: Path) -> bool:
    """Whether there is anything at an output's place that a new run would have to overwrite."""
    parts = parts_directory(path)
    has_parts = parts.is_dir() and any(parts.iterdir())
    return has_parts or path.is_dir() or is_written(path)


def is_written(path: Path) -> bool:
    """Whether a file is there with something in it."""
    return path.exists() and path.stat().st_size > 0


def parts_directory(path: Path) -> Path:
    """Where a parquet output's rows are kept until all are there."""
    return path.with_name(f"{path.name}.parts")


def lock(descriptor: int, path: Path) -> None:
    """Hold an open file or directory for this process.

    Raises:
        CommandError: another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise CommandError(
            f"{path}: another run is writing it. Wait for it, or name another --output"
        ) from error


def foreign(output: Path, where: str) -> CommandError:
    """The refusal of contents that this run has not written.

    Args:
        output: the finished file.
        where: as in "line 2 is no row".
    """
    return CommandError(
        f"{output}: {where} of this run. It was changed; restore it, or remove {output.name} and "
        f"what stands beside it under its name ({output.name}.*) to begin anew"
    )


def write_whole(path: Path, text: str) -> None:
    """Write a small file whole or not at all.

    Raises:
        OutputError: it could not be written.
    """
    unfinished = path.with_name(f"{path.name}.tmp")
    with writing(path):
        try:
            with unfinished.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
