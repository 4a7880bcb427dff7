"""A request's body: read with a bound on its size and time, and parsed."""

from __future__ import annotations

import asyncio
import json

from starlette.requests import Request

from gloss_server.page.json_text import Json
from gloss_server.page.problem import Problem

MAX_BODY_BYTES = (8 << 20) + (64 << 10)
"""2^17 tokens of 16 characters of 4 bytes, the most that services read, and the options."""
READ_SECONDS = 30.0
_MAX_DEPTH_MESSAGE = "the body: got JSON that is nested too deep, expected an object"


async def read_body(request: Request) -> Json:
    """The object that a request carries.

    Raises:
        Problem: no JSON object, too large or too slow.
        ClientDisconnect: the browser went away.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(
            "INVALID_ARGUMENT",
            f"Content-Type: got {kind[:80] or 'none'}, expected application/json",
            reason="NOT_JSON",
            status=415,
        )
    try:
        async with asyncio.timeout(READ_SECONDS):
            body = await _read(request)
    except TimeoutError:
        raise Problem(
            "DEADLINE_EXCEEDED",
            f"the body: got no end of it within {READ_SECONDS:g} s",
            reason="SLOW_REQUEST",
            hint="Send it again.",
            status=408,
        ) from None
    return _parsed(body)


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Problem(
                "INVALID_ARGUMENT",
                f"the body: got over {MAX_BODY_BYTES} bytes, expected at most that",
                reason="BODY_TOO_LARGE",
                hint="Shorten the text.",
                status=413,
            )
    return bytes(body)


def _parsed(body: bytes) -> Json:
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise Problem("INVALID_ARGUMENT", _MAX_DEPTH_MESSAGE, reason="NOT_JSON") from None
    except ValueError as error:
        why = str(error)[:200]
        raise Problem(
            "INVALID_ARGUMENT", f"the body: got no JSON: {why}", reason="NOT_JSON"
        ) from None
    if not isinstance(value, dict):
        raise Problem(
            "INVALID_ARGUMENT",
            f"the body: got {type(value).__name__}, expected an object",
            reason="NOT_JSON",
        )
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
