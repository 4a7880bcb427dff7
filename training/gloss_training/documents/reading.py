"""Documents from files: JSON lines, parquet, a .txt file, or a directory of any of them.

A row states `text` or `messages` and perhaps `doc_id`; a .txt file is one document, named by its
path. A row that holds no document is a `Failure`, which fails alone; a file that holds none at all
is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from gloss_training.documents.document import Document, Messages, content_id
from gloss_training.errors import DocumentError

SUFFIXES: Final = (".jsonl", ".parquet", ".txt")
_COLUMNS: Final = ("text", "messages", "doc_id")
_MAX_BYTES: Final = 1 << 26
"""Of a line or of a .txt file: far beyond any text that is read."""
_BATCH_ROWS: Final = 256


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A document that cannot be used.

    Attributes:
        place: where it stands, such as `texts.jsonl, row 3`.
        reason: UPPER_SNAKE.
        message: what was got and what was expected.
    """

    place: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}: {self.message}"


class _BadRow(Exception):
    """What is wrong with a row: got, expected."""


def read_documents(path: Path) -> Iterator[Document | Failure]:
    """Every document of a file or of a directory's files, in the order of their names.

    Raises:
        DocumentError: no such path, another kind of file, or a file that cannot be read.
    """
    for file in _files(path):
        name = _told(file.name if path.is_file() else file.relative_to(path).as_posix())
        try:
            if file.suffix == ".jsonl":
                yield from _lines(file, name)
            elif file.suffix == ".parquet":
                yield from _parquet(file, name)
            else:
                yield _whole(file, name)
        except OSError as error:
            raise DocumentError(
                str(file),
                got=error.strerror or str(error),
                expected="a file that can be read",
                fix="Mend it or take it out.",
            ) from error


def parse_row(place: str, values: object) -> Document | Failure:
    """The document of a row's fields; null counts as missing, unknown fields are ignored."""
    try:
        if not isinstance(values, Mapping):
            raise _BadRow(f"got {_kind(values)}, expected an object with text or messages")
        text, messages = values.get("text"), _messages(values.get("messages"))
        if text is not None and not isinstance(text, str):
            raise _BadRow(f"text: got {_kind(text)}, expected text")
        if (text is None) == (messages is None):
            given = "neither" if text is None else "both"
            raise _BadRow(f"got {given} of text and messages, expected one of them")
        if not (text or "".join(content for _, content in messages or ())).strip():
            raise _BadRow("got an empty text, expected words")
        doc_id = _doc_id(values.get("doc_id"))
        return Document(doc_id=doc_id or content_id(text, messages), text=text, messages=messages)
    except _BadRow as error:
        return Failure(place=place, reason="INVALID_ROW", message=str(error))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise _refused(path, f"suffix {path.suffix!r}")
        return [path]
    if not path.is_dir():
        raise _refused(path, "no such file or directory")
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise _refused(path, "a directory without such files")
    return found


def _refused(path: Path, got: str) -> DocumentError:
    return DocumentError(
        f"data.documents {path}",
        got=got,
        expected="a .jsonl or .parquet file (text or messages in each row), a .txt file, or a "
        "directory of them",
        fix="Name another path.",
    )


def _lines(file: Path, name: str) -> Iterator[Document | Failure]:
    with file.open("rb") as opened:
        row = 0
        while line := opened.readline(_MAX_BYTES):
            if not line.strip():
                continue
            place = f"{name}, row {row}"
            row += 1
            if len(line) == _MAX_BYTES and not line.endswith(b"\n"):
                while (rest := opened.readline(_MAX_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield _failure(place, f"got more than {_MAX_BYTES:,} bytes, expected a line less")
            else:
                yield _line(place, line)


def _line(place: str, line: bytes) -> Document | Failure:
    try:
        # A file may begin with a byte order mark.
        return parse_row(place, json.loads(line.decode("utf-8-sig")))
    except UnicodeDecodeError:
        return _failure(place, "got bytes that are no UTF-8, expected a line of JSON")
    except (ValueError, RecursionError):
        return _failure(place, "got text that is no JSON, expected an object")


def _parquet(file: Path, name: str) -> Iterator[Document | Failure]:
    try:
        opened = pq.ParquetFile(file)
        columns = [column for column in _COLUMNS if column in opened.schema_arrow.names]
        if not {"text", "messages"} & set(columns):
            raise DocumentError(
                str(file),
                got=f"columns {', '.join(opened.schema_arrow.names)}",
                expected="one named text or messages",
                fix="Rename the column of texts.",
            )
        row = 0
        for batch in opened.iter_batches(_BATCH_ROWS, columns=columns):
            for values in batch.to_pylist():
                yield parse_row(f"{name}, row {row}", values)
                row += 1
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DocumentError(
            str(file),
            got=str(error).splitlines()[0][:200],
            expected="a parquet file of UTF-8 text",
            fix="Write it again or take it out.",
        ) from error


def _whole(file: Path, name: str) -> Document | Failure:
    """A .txt file as one document."""
    if file.stat().st_size > _MAX_BYTES:
        return _failure(name, f"got more than {_MAX_BYTES:,} bytes, expected a text")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return _failure(name, "got bytes that are no UTF-8, expected text")
    return parse_row(name, {"text": text, "doc_id": name})


def _doc_id(given: object) -> str | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise _BadRow(f"doc_id: got {_kind(given)}, expected text or a whole number")
    doc_id = str(given)
    try:
        doc_id.encode()
    except UnicodeEncodeError:
        raise _BadRow("doc_id: got a lone surrogate, expected text UTF-8 can hold") from None
    return doc_id


def _told(name: str) -> str:
    """A file's name as text, whatever bytes it is made of."""
    return os.fsencode(name).decode("utf-8", "replace")


def _messages(given: object) -> Messages | None:
    if given is None:
        return None
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise _BadRow("messages: got text that is no JSON, expected a list") from None
    if not isinstance(given, list):
        raise _BadRow(f"messages: got {_kind(given)}, expected a list")
    turns = []
    for index, message in enumerate(given):
        turn = message if isinstance(message, Mapping) else {}
        role, content = turn.get("role"), turn.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise _BadRow(f"messages[{index}]: expected role and content, both text")
        turns.append((role, content))
    return tuple(turns)


def _failure(place: str, message: str) -> Failure:
    return Failure(place=place, reason="INVALID_ROW", message=message)


def _kind(value: object) -> str:
    """What a value is, as JSON names it, never what it holds."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")
