"""Values of callers into fields of the contract's messages: what those cannot hold is refused."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from gloss_client.errors import InvalidRequest

_EXPECTED = {
    FieldDescriptor.TYPE_BOOL: "True or False",
    FieldDescriptor.TYPE_DOUBLE: "a number",
    FieldDescriptor.TYPE_INT32: "a whole number, -2^31 to 2^31 - 1",
    FieldDescriptor.TYPE_STRING: "a string that UTF-8 can hold",
    FieldDescriptor.TYPE_UINT64: "a whole number, 0 to 2^64 - 1",
}
"""What fields of requests can hold, by their type."""


def check_known(options: Mapping[str, object], known: type, prefix: str = "") -> None:
    """Refuse keyword arguments that a TypedDict does not have.

    Args:
        options: what was given.
        known: the TypedDict.
        prefix: stands before the error's message.

    Raises:
        TypeError: as Python says it.
    """
    unknown = options.keys() - known.__annotations__.keys()
    if unknown:
        raise TypeError(f"{prefix}unexpected keyword argument {sorted(unknown)[0]!r}")


def set_field(
    message: Message, name: str, value: object, field: str | None = None, reason: str = ""
) -> None:
    """Sets a field of a message.

    Args:
        message, name: the field.
        value: what it is to hold.
        field: the caller's name for it, in errors.
        reason: of those errors.

    Raises:
        InvalidRequest: a value that its type cannot hold.
    """
    try:
        setattr(message, name, value)
    except (OverflowError, TypeError, ValueError):
        raise _cannot_hold(message, name, value, field or name, reason) from None


def extend_field(
    message: Message, name: str, given: Iterable[object], field: str, reason: str
) -> None:
    """Adds whole numbers to a repeated field.

    Args:
        message, name: the field.
        given: what is added to it.
        field: the caller's name for it, in errors.
        reason: of those errors.

    Raises:
        InvalidRequest: one that is none, or that its type cannot hold.
    """
    values = getattr(message, name)
    for index, value in enumerate(given):
        try:
            if isinstance(value, bool):
                raise TypeError
            values.append(operator.index(value))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise _cannot_hold(message, name, value, f"{field}[{index}]", reason) from None


def _cannot_hold(
    message: Message, name: str, value: object, path: str, reason: str
) -> InvalidRequest:
    """What a field's type cannot hold, and what it can."""
    expected = _EXPECTED[message.DESCRIPTOR.fields_by_name[name].type]
    said = f"{path}: got {value!r:.80}, expected {expected}"
    return InvalidRequest(said, reason=reason, field=path)


def is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is a sequence of values of its own: text and bytes are one value."""
    return isinstance(value, Sequence) and not isinstance(
        value, str | bytes | bytearray | memoryview
    )


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold the text: Python strings may have lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
