"""Where the rows of a run go: what every format of output does, and opening one by its suffix.

`jsonl_results.py` and `parquet_results.py` are the formats. Whether an output belongs to this
run at all is decided in `run_state.py`; its place on the disk is `output_file.py`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from gloss_server.command_error import CommandError
from gloss_server.files.result_progress import Done
from gloss_server.files.result_row import Row


class Results(Protocol):
    """An open output, locked against a second run.

    Attributes:
        path: the file.
        done: what it holds; kept up to date by `append`.
    """

    path: Path
    done: Done

    def append(self, rows: list[Row]) -> None:
        """Write rows so that they survive whatever comes next; those already there are left out.

        Raises:
            OutputError: they could not be written; what was there before still is.
        """

    def finish(self) -> None:
        """Called once everything is there."""

    def close(self) -> None:
        """Let go of the file; nothing is lost that was appended."""


def open_results(path: Path, num_rows: int, num_samples: int) -> Results:
    """Open an output, new or begun, and read what it holds.

    Raises:
        CommandError: another suffix, another run that writes it, or contents that are not rows
            of this run.
        OutputError: a path that cannot be written.
    """
    done = Done(num_rows=num_rows, num_samples=num_samples)
    if output_format(path) == ".jsonl":
        from gloss_server.files.jsonl_results import JsonlResults

        return JsonlResults(path, done)
    from gloss_server.files.parquet_results import ParquetResults

    return ParquetResults(path, done)


def output_format(path: Path) -> str:
    """The suffix that names the output's format.

    Raises:
        CommandError: one that names none.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        raise CommandError(
            f"--output {path}: got suffix {path.suffix!r}, expected .jsonl or .parquet"
        )
    return path.suffix
