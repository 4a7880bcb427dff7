"""A file of JSON lines that only grows: what a kill tore off its end is dropped on reopening.

Rows that are appended together reach the disk before the next ones are written. A write that fails
is cut off again, so the file always ends with a whole line except after a kill. What the rows are
is for `jsonl_results.py` and `commands/explain/results.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gloss_server.command_error import writing
from gloss_server.files.output_file import foreign, lock


class JsonlFile:
    """An open file, locked against a second run.

    Args:
        path: the file, new or begun.
        output: what it belongs to, for messages.
        take: is given every row that is there; False: it cannot be one of this run.
        begin: called once the file is this process's alone; then it is emptied, whatever was there.
            None: a file that goes on.

    Raises:
        CommandError: another run writes it, or a line that is no row of this run.
        OutputError: a path that cannot be written.
    """

    def __init__(
        self,
        path: Path,
        output: Path,
        take: Callable[[Any], bool],
        begin: Callable[[], None] | None = None,
    ) -> None:
        self.path, self._output = path, output
        with writing(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        lock(self._file, output)
        if begin is not None:
            self._begin(begin)
        self._end = self._read(take)

    def append(self, rows: Iterable[object]) -> None:
        """Add rows; one write and one fsync.

        Raises:
            OutputError: they could not be written; what was there before still is.
        """
        # Pure ASCII: line separators and terminal controls in hostile text stay escapes.
        text = "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows)
        with writing(self.path):
            try:
                self._write(text.encode())
            except OSError:
                os.ftruncate(self._file, self._end)
                raise

    def close(self) -> None:
        """Let go of the file; nothing is lost that was appended."""
        os.close(self._file)

    def _begin(self, begin: Callable[[], None]) -> None:
        try:
            begin()
            with writing(self.path):
                os.ftruncate(self._file, 0)
        except BaseException:
            os.close(self._file)
            raise

    def _write(self, data: bytes) -> None:
        os.lseek(self._file, self._end, os.SEEK_SET)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)
        self._end += len(data)

    def _read(self, take: Callable[[Any], bool]) -> int:
        """Hand on what is there and drop a torn last line; the offset at which rows go on."""
        end = 0
        with open(self._file, "rb", closefd=False) as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                self._take(line, number, take)
                end += len(line)
        with writing(self.path):
            os.ftruncate(self._file, end)
        return end

    def _take(self, line: bytes, number: int, take: Callable[[Any], bool]) -> None:
        try:
            known = take(json.loads(line))
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            os.close(self._file)
            beside = "" if self.path == self._output else f"{self.path.name}, "
            raise foreign(self._output, f"{beside}line {number} is no row")
