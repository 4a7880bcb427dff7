"""A browser without a network: requests to an ASGI app, in process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message

SECONDS = 10.0


@dataclass
class Answer:
    """What came back.

    Attributes:
        status: of HTTP; 0: nothing came.
        headers: by name, in lower case.
        chunks: of the body, as they were sent.
        is_whole: the body came to its end.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    is_whole: bool = False

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.chunks)

    def json(self) -> Any:
        """The body's value."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    def events(self) -> list[tuple[str, Any]]:
        """Server-sent events: names and values."""
        assert self.headers["content-type"].startswith("text/event-stream")
        return [event for chunk in self.chunks for event in events_of(chunk.decode())]


def events_of(text: str) -> list[tuple[str, Any]]:
    """Names and values of whole events."""
    assert not text or text.endswith("\n\n")
    found = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


class Exchange:
    """One request that goes on.

    Args:
        app: asked.
        method, path, headers, body: of the request; a body that is no bytes is sent as JSON.

    Attributes:
        answer: what has come so far.
        reading: cleared: the browser takes nothing.
    """

    def __init__(
        self,
        app: ASGIApp,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Any = b"",
    ) -> None:
        given = {"host": "127.0.0.1:8080"} | dict(headers or {})
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            given.setdefault("content-type", "application/json")
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
        }
        self._app, self._body = app, body
        self._left = asyncio.Event()
        self._changed = asyncio.Event()
        self.answer = Answer()
        self.reading = asyncio.Event()
        self.reading.set()
        self._task = asyncio.ensure_future(app(self._scope, self._receive, self._send))
        self._task.add_done_callback(lambda task: self._changed.set())

    def leave(self) -> None:
        """The browser goes away."""
        self._left.set()

    async def end(self) -> Answer:
        """Wait for the app's end."""
        async with asyncio.timeout(SECONDS):
            await self._task
        return self.answer

    async def chunk(self, number: int) -> bytes:
        """Wait for a chunk of the body."""
        async with asyncio.timeout(SECONDS):
            while len(self.answer.chunks) <= number and not self._task.done():
                self._changed.clear()
                await self._changed.wait()
        return self.answer.chunks[number]

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            assert not self.answer.status, "two responses"
            self.answer.status = message["status"]
            self.answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            return
        assert self.answer.status and not self.answer.is_whole
        await self.reading.wait()
        if message.get("body"):
            self.answer.chunks.append(message["body"])
        self.answer.is_whole = not message.get("more_body", False)
        self._changed.set()


async def ask(
    app: ASGIApp,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: Any = b"",
) -> Answer:
    """One request, to its end."""
    return await Exchange(app, method, path, headers, body).end()
