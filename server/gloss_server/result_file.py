"""Where the rows of a run go: what every format of output does, and opening one by its suffix.

`jsonl_results.py` and `parquet_results.py` are the formats. Whether an output belongs to this
run at all is decided in `run_state.py`; its place on the disk is `output_file.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from gloss_server.activation_file import BoolArray
from gloss_server.command_error import CommandError
from gloss_server.result_row import Row


@dataclass(kw_only=True)
class Done:
    """What an output holds so far.

    Attributes:
        num_rows, num_samples: what it will hold.
        marks: [num_rows, num_samples] explanations that are there.
        num_failed: of them, those with an error.
        num_scored, fve_sum: of them, those with an FVE, and the sum of it.
    """

    num_rows: int
    num_samples: int
    num_failed: int = 0
    num_scored: int = 0
    fve_sum: float = 0.0
    marks: BoolArray = field(init=False)

    def __post_init__(self) -> None:
        self.marks = np.zeros((self.num_rows, self.num_samples), dtype=np.bool_)

    @property
    def count(self) -> int:
        """Explanations that are there."""
        return int(np.count_nonzero(self.marks))

    @property
    def mean_fve(self) -> float | None:
        """Of those with an FVE; None: there is none."""
        return self.fve_sum / self.num_scored if self.num_scored else None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return bool(self.marks.all())

    def mark(self, index: object, sample: object, failed: bool, fve: float | None) -> bool:
        """Note an explanation; False where it cannot be one of this run, or is there twice."""
        if not isinstance(index, int) or not isinstance(sample, int):
            return False
        if not (0 <= index < self.num_rows and 0 <= sample < self.num_samples):
            return False
        if self.marks[index, sample]:
            return False
        self.marks[index, sample] = True
        self.num_failed += failed
        if fve is not None:
            self.num_scored += 1
            self.fve_sum += fve
        return True


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
        from gloss_server.jsonl_results import JsonlResults

        return JsonlResults(path, done)
    from gloss_server.parquet_results import ParquetResults

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
