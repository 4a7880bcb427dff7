"""JSON lines: rows are appended chunk by chunk, and a line that was torn is dropped on reopening.

A chunk reaches the disk before the next is written. A write that fails is cut off again, so the
file always ends with a whole line except after a kill.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from gloss_server.command_error import writing
from gloss_server.output_file import foreign, lock
from gloss_server.result_file import Done
from gloss_server.result_row import Row


class JsonlResults:
    """See `Results` and `open_results`."""

    def __init__(self, path: Path, done: Done) -> None:
        self.path, self.done = path, done
        with writing(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        lock(self._file, path)
        self._end = self._read()

    def append(self, rows: list[Row]) -> None:
        """See `Results`. One write and one fsync."""
        fresh = [row for row in rows if not self.done.marks[row["index"], row["sample"]]]
        # Pure ASCII: line separators and terminal controls in hostile text stay escapes.
        text = "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in fresh)
        with writing(self.path):
            try:
                self._write(text.encode())
            except OSError:
                os.ftruncate(self._file, self._end)
                raise
        for row in fresh:
            self.done.mark(row["index"], row["sample"], row["error"] is not None)

    def finish(self) -> None:
        """See `Results`: there is nothing to do."""

    def close(self) -> None:
        """See `Results`."""
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        os.lseek(self._file, self._end, os.SEEK_SET)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)
        self._end += len(data)

    def _read(self) -> int:
        """Mark what is there and drop a torn last line; the offset at which rows go on."""
        end = 0
        with open(self._file, "rb", closefd=False) as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                self._mark(line, number)
                end += len(line)
        with writing(self.path):
            os.ftruncate(self._file, end)
        return end

    def _mark(self, line: bytes, number: int) -> None:
        try:
            row = json.loads(line)
            known = self.done.mark(row["index"], row["sample"], row["error"] is not None)
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            os.close(self._file)
            raise foreign(self.path, f"line {number} is no row")
