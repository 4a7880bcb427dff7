"""What a run tells while it goes: a JSONL line per step and a progress bar with time left."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Journal:
    """Writes one stage's steps to a file and to the terminal. Use `open_journal`."""

    def __init__(self, path: Path, progress: Progress, stage: str, num_steps: int) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._progress = progress
        self._task = progress.add_task(stage, total=num_steps, figures="")

    def step(self, index: int, **figures: float) -> None:
        """Records step `index` (from 0). The figures carry no clock: equal runs, equal lines."""
        self._file.write(json.dumps({"step": index, **figures}) + "\n")
        self._file.flush()
        shown = f"loss {figures['loss']:.4f}"
        self._progress.update(self._task, completed=index + 1, figures=shown)

    def close(self) -> None:
        self._file.close()


@contextmanager
def open_journal(
    folder: Path, stage: str, num_steps: int, console: Console | None = None
) -> Iterator[Journal]:
    """A journal at `folder`/`stage`.jsonl with its progress bar on `console`."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress:
        journal = Journal(folder / f"{stage}.jsonl", progress, stage, num_steps)
        try:
            yield journal
        finally:
            journal.close()
