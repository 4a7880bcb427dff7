"""A call's stream as a response of server-sent events.

The response begins with the call's first message: what is refused before is answered as an error of
HTTP. While the call waits or runs the browser may go away, or the page be shut down; either cancels
the call. Nothing is read ahead: a browser that reads slowly holds up the service's stream, which
bounds what it keeps for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from starlette.types import Receive, Scope, Send

from gloss_client import AsyncExplanationStream, GlossClientError
from gloss_server.page.events import EventWriter, end_event, failed_event
from gloss_server.page.problem import Problem

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # A proxy that gathers what it passes on would hold tokens back.
    (b"x-accel-buffering", b"no"),
]
STALL_SECONDS = 120.0
"""How long a browser may take nothing at all before its call is cancelled."""
LAST_WORD_SECONDS = 1.0
Stream = AsyncExplanationStream[Any, Any]


class EventResponse:
    """Chunks of events, until they end, the browser goes away or the page is shut down.

    Args:
        chunks: gives them; raises a Problem where they break off.
        closing: set when the page is shut down.
    """

    def __init__(self, chunks: Callable[[], AsyncGenerator[str]], closing: asyncio.Event) -> None:
        self._chunks, self._closing = chunks, closing
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        writing = self._write(scope, receive, send)
        ended = await _first(writing, _gone(receive), self._closing.wait())
        if ended == 2:
            problem = Problem(
                "UNAVAILABLE",
                "the page's own server is being shut down",
                reason="PAGE_CLOSING",
                hint="Nothing shown is lost. Start gloss ui again to go on.",
            )
            try:
                async with asyncio.timeout(LAST_WORD_SECONDS):
                    await self._fail(problem, scope, receive, send)
            except TimeoutError:
                return

    async def _write(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    await self._send(chunk, send)
        except TimeoutError:
            return
        except Problem as problem:
            await self._fail(problem, scope, receive, send)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, chunk: str, send: Send) -> None:
        if not self._has_begun:
            self._has_begun = True
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        async with asyncio.timeout(STALL_SECONDS):
            body = chunk.encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _fail(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._has_begun:
            await problem.response()(scope, receive, send)
            return
        body = failed_event(problem).encode()
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def call_chunks(stream: Stream) -> AsyncGenerator[str]:
    """A call's events; leaving the loop cancels the call.

    Raises:
        Problem: the call failed.
    """
    writer = EventWriter(stream.request_id, stream.seed)
    try:
        async with stream:
            async for event in stream:
                yield writer.chunk([event, *stream.ready()], stream.fingerprint)
            assert stream.summary is not None
            yield end_event(stream.summary)
    except GlossClientError as error:
        raise Problem.of(error) from error


async def _gone(receive: Receive) -> None:
    """Wait until the browser goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first(*waits: Coroutine[Any, Any, Any]) -> int:
    """Run all until one ends, and cancel the others; which it was."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = next(index for index, task in enumerate(tasks) if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    tasks[ended].result()
    return ended
