"""What a value of JSON is, for messages about one that was not expected."""

from __future__ import annotations


def kind_of(value: object) -> str:
    """What a value is, as JSON names it, never what it holds."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"
