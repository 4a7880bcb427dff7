"""The errors a command ends with: one line for people and an exit status for scripts.

`cli/app.py` prints them. What the engine raises on purpose (GlossError) is treated as a
CommandError there; everything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class CommandError(Exception):
    """What was asked cannot be done; the message says what was got, expected and the fix."""

    exit_status: ClassVar[int] = 2


class OutputError(CommandError):
    """What was computed cannot be written."""

    exit_status: ClassVar[int] = 1


class SourceLost(CommandError):
    """What explains cannot be reached any more, or cannot go on."""

    exit_status: ClassVar[int] = 1


class Interrupted(CommandError):
    """The user stopped the run; what was written stays."""

    exit_status: ClassVar[int] = 130


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failed write to `path` into an OutputError that says how to go on."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}. What was written before stays valid; when there is "
            "room, or the path can be written, the same command continues"
        ) from error
