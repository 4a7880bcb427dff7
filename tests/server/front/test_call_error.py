"""Statuses as they travel."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote

import pytest

from gloss_server.front.call_error import CallError


@pytest.mark.parametrize("letter", ["x", "\u6cb3", "\U0001f600"])
def test_a_status_fits_into_what_clients_take(letter: str) -> None:
    """8 KiB, whatever script the caller's own words have that a message repeats."""
    failure = CallError("INVALID_SAMPLING", "stop: got " + letter * 4096, "options.stop")
    values = [value for _, value in failure.trailing_metadata()]
    num_bytes = len(quote(str(failure))) + sum(
        len(b64encode(value)) if isinstance(value, bytes) else len(value) for value in values
    )
    assert num_bytes < 8192
    assert str(failure).startswith(f"stop: got {letter * 200}")
    assert str(failure)[-1] == letter, "cut within a character"
