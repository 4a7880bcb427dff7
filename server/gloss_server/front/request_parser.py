"""Bytes of a request to its message, if there are not too many fields in them.

On the wire an empty field takes two bytes, as an object fifty: 16 million of them in 32 MiB hold
the event loop for 0.6 s and take 700 MiB. So the fields of a large request are counted before it is
parsed, which takes 0.01 ms where it has one large tensor, and 2 ms where 1024 items have fields.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from gloss_server.front.call_error import CallError

MAX_FIELDS = 1 << 16
"""Of a request, those of its messages included: an activation of 1024 has six, a chat's message
three. They take 30 ms to count, and 80 where they are written as long as can be."""
MAX_PACKED_BYTES = 4 << 20
"""Of a request's lists of numbers: token ids, positions. They take 50 ms to parse."""
_UNCOUNTED_BYTES = 1 << 16
_HEAD_BYTES = 5
"""Of a tag, or of a length."""
_VALUE = re.compile(rb"[\x80-\xff]{0,9}[\x00-\x7f]")
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_GROUP = (3, 4)
"""A group's begin and end. None of ours has one; each counts as a field."""
_SKIPPED = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
_Form = dict[int, "_Form | None"]
"""Of a message: by number, the form of what is a message, and None of what is a number."""


class RequestParser:
    """Parses one kind of request.

    Args:
        message_class: the kind.
    """

    def __init__(self, message_class: Any) -> None:
        self._class = message_class
        self._form = _form_of(message_class.DESCRIPTOR, {})

    def parse(self, content: bytes) -> Message:
        """The message.

        Raises:
            CallError: MALFORMED_REQUEST or BATCH_TOO_LARGE.
        """
        try:
            if len(content) > _UNCOUNTED_BYTES:
                _check_fields(content, self._form)
            message: Message = self._class.FromString(content)
        except DecodeError as error:
            raise CallError(
                "MALFORMED_REQUEST",
                f"the request's {len(content)} bytes are no {self._class.DESCRIPTOR.full_name}",
            ) from error
        return message


def _form_of(descriptor: Descriptor, known: dict[str, _Form]) -> _Form:
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    form = known[descriptor.full_name] = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            form[field.number] = _form_of(field.message_type, known)
        elif field.type not in _SKIPPED:
            form[field.number] = None
    return form


def _check_fields(content: bytes, form: _Form) -> None:
    """Count fields.

    Raises:
        CallError: BATCH_TOO_LARGE.
        DecodeError: fields without an end. Other faults are left to the parser.
    """
    at, end, num_packed = 0, len(content), 0
    outer: list[tuple[int, _Form]] = []
    try:
        for _ in range(MAX_FIELDS):
            while at >= end:
                if not outer:
                    return
                end, form = outer.pop()
            tag, at = _head(content, at)
            kind = tag & 7
            if kind == _DELIMITED:
                length, at = _head(content, at)
                number = tag >> 3
                inner = form.get(number)
                if inner is not None:
                    outer.append((end, form))
                    end, form = at + length, inner
                    continue
                at += length
                if number in form:
                    num_packed += length
                    if num_packed > MAX_PACKED_BYTES:
                        raise _too_large(f"lists of numbers of over {MAX_PACKED_BYTES} bytes")
            elif kind == _VARINT:
                value = _VALUE.match(content, at)
                if value is None:
                    raise DecodeError
                at = value.end()
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            elif kind not in _GROUP:
                raise DecodeError
    except IndexError as error:
        raise DecodeError from error
    raise _too_large(f"more than {MAX_FIELDS} fields")


def _head(content: bytes, at: int) -> tuple[int, int]:
    """A tag or a length, and where it ends.

    Raises:
        IndexError: there is none.
    """
    value = content[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for place in range(1, _HEAD_BYTES):
        byte = content[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise IndexError(at)


def _too_large(what: str) -> CallError:
    return CallError(
        "BATCH_TOO_LARGE", f"the request has {what}, which no call needs; send several calls"
    )
