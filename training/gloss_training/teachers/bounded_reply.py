"""Replies of a bounded size: a server that never comes to an end must not fill the memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

MAX_BYTES: Final = 1 << 22
"""Of a reply, decompressed: a thousand times what an explanation takes."""


class EndlessReply(Exception):
    """A reply of more than `MAX_BYTES`."""

    def __init__(self) -> None:
        super().__init__(f"it sent a reply of more than {MAX_BYTES >> 20} MiB")


def bounded_http(library: Any) -> Any:
    """An HTTP client for `anthropic` or `openai` as theirs is, whose replies end at `MAX_BYTES`.

    Reading one that does not raises `EndlessReply`.
    """
    return library.DefaultAsyncHttpxClient(event_hooks={"response": [_bound]})


async def _bound(response: Any) -> None:
    """Has a reply counted while it is read; by its interface, whichever httpx the library has."""
    whole = response.aiter_bytes

    async def counted(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in whole(chunk_size):
            size += len(chunk)
            if size > MAX_BYTES:
                raise EndlessReply
            yield chunk

    response.aiter_bytes = counted
