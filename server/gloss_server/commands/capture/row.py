"""A row of texts as `gloss capture` takes it: `text` or `messages`, and perhaps a `doc_id`.

A row that holds no text is a `Failure`, which fails that document alone. What needs the target, its
tokens and its chat template, is judged when the text is encoded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from gloss_engine.text_request import TextInput
from gloss_server.json_kind import kind_of


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """A document of an input.

    Attributes:
        row: of the input, from 0.
        doc_id: as the row states it, else its number.
        text: what to read.
    """

    row: int
    doc_id: str
    text: TextInput


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A document that could not be read, or one of its activations that is of no use.

    Attributes:
        row: of the input, from 0.
        doc_id: as the row states it, else its number.
        position: of the activation; None: the whole document.
        reason: UPPER_SNAKE, such as TEXT_TOO_LONG.
        message: one sentence for people.
    """

    row: int
    doc_id: str
    position: int | None = None
    reason: str
    message: str

    def __str__(self) -> str:
        """One line for people."""
        named = "" if self.doc_id == str(self.row) else f" ({self.doc_id})"
        place = "" if self.position is None else f", position {self.position}"
        return f"row {self.row}{named}{place}: {self.reason}: {self.message}"


class _BadRow(Exception):
    """What is wrong with a row: got, expected."""


def parse_row(row: int, values: object) -> TextRow | Failure:
    """What a row asks for. Fields that are null count as missing; unknown ones are ignored.

    Args:
        row: its number.
        values: the row's fields by name.
    """
    doc_id = str(row)
    try:
        if not isinstance(values, Mapping):
            raise _BadRow(f"got {kind_of(values)}, expected an object with text or messages")
        doc_id = _doc_id(values.get("doc_id"), row)
        return TextRow(row=row, doc_id=doc_id, text=_text(values))
    except _BadRow as error:
        return Failure(row=row, doc_id=doc_id, reason="INVALID_ROW", message=str(error))


def unreadable(row: int, message: str) -> Failure:
    """The failure of a row that is none: `message` says what was got and what was expected."""
    return Failure(row=row, doc_id=str(row), reason="INVALID_ROW", message=message)


def _doc_id(given: object, row: int) -> str:
    if given is None:
        return str(row)
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise _BadRow(f"doc_id: got {kind_of(given)}, expected text or a whole number")
    doc_id = str(given)
    if not _is_unicode(doc_id):
        raise _BadRow("doc_id: got a lone surrogate, expected text UTF-8 can hold")
    return doc_id


def _text(values: Mapping[object, object]) -> TextInput:
    text, messages = values.get("text"), values.get("messages")
    if text is not None and messages is not None:
        raise _BadRow("got text and messages, expected one of both")
    if messages is not None:
        return TextInput(messages=_messages(messages))
    if text is None:
        raise _BadRow("got neither text nor messages, expected one of both")
    if not isinstance(text, str):
        raise _BadRow(f"text: got {kind_of(text)}, expected text")
    return TextInput(text=text)


def _messages(given: object) -> tuple[tuple[str, str], ...]:
    """Of each message its role and content, which is all that a chat of texts has."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise _BadRow("messages: got text that is no JSON, expected a list") from None
    if not isinstance(given, list):
        raise _BadRow(f"messages: got {kind_of(given)}, expected a list")
    turns = []
    for index, message in enumerate(given):
        if not isinstance(message, Mapping):
            raise _BadRow(f"messages[{index}]: got {kind_of(message)}, expected role and content")
        for name in ("role", "content"):
            value = message.get(name)
            if not isinstance(value, str):
                raise _BadRow(f"messages[{index}].{name}: got {kind_of(value)}, expected text")
        turns.append((message["role"], message["content"]))
    return tuple(turns)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
