"""What the command says on stdout: a full disk or a closed pipe there must not end training.

What stages make is in files. Of a bar or a table that cannot be drawn the command tells at its end.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer


class Outlet(io.FileIO):
    """A descriptor to write to; with the first write that fails it is given up, the rest dropped.

    Attributes:
        failure: of that write; None: all was written.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """See `io.RawIOBase`; it never fails."""
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes

    def status(self) -> int:
        """The exit status of a command that did all else: 1, with a line, where it was given up."""
        sys.stdout.flush()
        if self.failure is None:
            return 0
        gone = isinstance(self.failure, BrokenPipeError)
        reason = "nobody reads it any more" if gone else self.failure.strerror
        typer.echo(f"error: stdout: {reason}", err=True)
        return 1


@contextmanager
def lasting_stdout() -> Iterator[Outlet]:
    """Has stdout go through an outlet for as long as the context lasts."""
    before = sys.stdout
    # Python has none where the caller has closed it.
    descriptor = os.open(os.devnull, os.O_WRONLY) if before is None else before.fileno()
    outlet = Outlet(descriptor)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(outlet),
        encoding="utf-8" if before is None else before.encoding,
        errors=None if before is None else before.errors,
        line_buffering=before is not None and bool(before.line_buffering),
    )
    try:
        yield outlet
    finally:
        sys.stdout.flush()
        sys.stdout = before
