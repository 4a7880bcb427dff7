"""Values of callers into fields of the contract's messages: what those cannot hold is refused."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from gloss_client.errors import InvalidRequest


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
    message: object, name: str, value: object, field: str | None = None, reason: str = ""
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
    except (TypeError, ValueError) as error:
        path = field or name
        raise InvalidRequest(f"{path}: got {value!r}: {error}", reason=reason, field=path) from None


def extend_field(values: Any, given: Iterable[object], field: str, reason: str) -> None:
    """Adds whole numbers to a repeated field.

    Raises:
        InvalidRequest: one that is none, or that its type cannot hold.
    """
    for index, value in enumerate(given):
        try:
            if isinstance(value, bool):
                raise TypeError("a truth value is no number")
            values.append(operator.index(value))  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            path = f"{field}[{index}]"
            raise InvalidRequest(
                f"{path}: got {value!r:.80}, expected a whole number: {error}",
                reason=reason,
                field=path,
            ) from None


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
