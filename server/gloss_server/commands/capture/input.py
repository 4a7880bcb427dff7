"""Files of texts for `gloss capture`, JSON lines or parquet, read one row or batch at a time.

Rows are counted from 0, in the order of the file; blank lines are none. What a row must hold is for
`row.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa

from gloss_server.command_error import CommandError
from gloss_server.commands.capture.row import Failure, TextRow, parse_row, unreadable
from gloss_server.files.input_reading import open_parquet, reading

TEXT, MESSAGES, DOC_ID = "text", "messages", "doc_id"
_MAX_LINE_BYTES = 1 << 24
"""Far beyond the longest text that is read; a file without line ends is not held whole."""
_BATCH_ROWS = 256
_EXPECTED = f"{TEXT} or {MESSAGES} in each row"


class TextFile(Protocol):
    """An open file of texts.

    Attributes:
        path: the file.
        num_rows: documents in it.
    """

    path: Path
    num_rows: int

    def rows(self, start: int) -> Iterator[TextRow | Failure]:
        """Every row from number `start` on, in order."""


def open_texts(path: Path) -> TextFile:
    """Open a file of texts and count its rows.

    Raises:
        CommandError: no such file, another format, no rows, or no column of texts.
    """
    if not path.is_file():
        raise CommandError(f"{path}: got no such file, expected a .jsonl or .parquet file")
    opened: TextFile
    if path.suffix == ".jsonl":
        opened = JsonlTexts(path)
    elif path.suffix == ".parquet":
        opened = ParquetTexts(path)
    else:
        raise CommandError(
            f"{path}: got suffix {path.suffix!r}, expected .jsonl (a text or messages in each "
            "line) or .parquet (a column text or messages)"
        )
    if opened.num_rows == 0:
        raise CommandError(f"{path}: got no rows, expected at least one")
    return opened


class JsonlTexts:
    """A document a line. See `TextFile`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows = sum(1 for _ in self._lines())

    def rows(self, start: int) -> Iterator[TextRow | Failure]:
        """See `TextFile`. A line that is no JSON is the failure of its row."""
        for row, line in islice(enumerate(self._lines()), start, None):
            yield _parse_line(row, line)

    def _lines(self) -> Iterator[bytes | None]:
        """Lines that are not blank; None for one that is too long to be a text."""
        with reading(self.path, _EXPECTED), self.path.open("rb") as file:
            while line := file.readline(_MAX_LINE_BYTES):
                if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
                    _skip_line(file)
                    yield None
                elif line.strip():
                    yield line


class ParquetTexts:
    """A column `text`, `messages` (a list of role and content, or JSON), or both, and perhaps
    `doc_id`. See `TextFile`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path, _EXPECTED):
            self._file = open_parquet(path)
        self.num_rows = int(self._file.metadata.num_rows)
        schema = self._file.schema_arrow
        self._columns = [name for name in (TEXT, MESSAGES, DOC_ID) if name in schema.names]
        if not {TEXT, MESSAGES} & set(self._columns):
            raise CommandError(
                f"{path}: got columns {', '.join(schema.names)}, expected one named {TEXT} or "
                f"{MESSAGES}"
            )

    def rows(self, start: int) -> Iterator[TextRow | Failure]:
        """See `TextFile`. Row groups before `start` are not read."""
        at = 0
        for group in range(self._file.num_row_groups):
            num_rows = self._file.metadata.row_group(group).num_rows
            if at + num_rows > start:
                yield from self._group_rows(group, at, start)
            at += num_rows

    def _group_rows(self, group: int, at: int, start: int) -> Iterator[TextRow | Failure]:
        with reading(self.path, _EXPECTED):
            for batch in self._file.iter_batches(_BATCH_ROWS, [group], self._columns):
                skipped = min(max(start - at, 0), batch.num_rows)
                yield from _parse_batch(batch.slice(skipped), at + skipped)
                at += batch.num_rows


def _parse_batch(batch: pa.RecordBatch, start: int) -> Iterator[TextRow | Failure]:
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            yield unreadable(start, "got bytes that are no UTF-8, expected text")
            return
        for index in range(batch.num_rows):
            yield from _parse_batch(batch.slice(index, 1), start + index)
        return
    for row, values in enumerate(rows, start):
        yield parse_row(row, values)


def _parse_line(row: int, line: bytes | None) -> TextRow | Failure:
    if line is None:
        return unreadable(row, f"got a line of more than {_MAX_LINE_BYTES:,} bytes, expected less")
    try:
        # A file may begin with a byte order mark.
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return unreadable(row, "got bytes that are no UTF-8, expected a line of JSON")
    except (ValueError, RecursionError):
        return unreadable(row, "got a line that is no JSON, expected an object in one line")
    return parse_row(row, values)


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass
