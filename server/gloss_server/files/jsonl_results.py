"""JSON lines of `gloss verbalize`: rows are appended chunk by chunk (`jsonl_file.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gloss_server.files.jsonl_file import JsonlFile
from gloss_server.files.result_progress import Done
from gloss_server.files.result_row import Row


class JsonlResults:
    """See `Results` and `open_results`."""

    def __init__(self, path: Path, done: Done) -> None:
        self.path, self.done = path, done
        self._file = JsonlFile(path, path, self._mark)

    def append(self, rows: list[Row]) -> None:
        """See `Results`."""
        fresh = [row for row in rows if not self.done.marks[row["index"], row["sample"]]]
        self._file.append(fresh)
        for row in fresh:
            self._mark(row)

    def finish(self) -> None:
        """See `Results`: there is nothing to do."""

    def close(self) -> None:
        """See `Results`."""
        self._file.close()

    def _mark(self, row: Any) -> bool:
        return self.done.mark(row["index"], row["sample"], row["error"] is not None, row["fve"])
