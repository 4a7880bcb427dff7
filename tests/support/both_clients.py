"""The asyncio client behind the sync client's methods, so that one test holds for both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from gloss_client import AsyncClient, AsyncEventStream

METHODS = (
    "verbalize",
    "explain",
    "capture",
    "reconstruct",
    "score",
    "model_info",
    "stats",
    "health",
    "close",
)
STREAMS = ("stream_verbalize", "stream_explain", "watch", "stream_capture")


class BlockingStream:
    """An asyncio stream that is iterated from outside its loop."""

    def __init__(self, runner: asyncio.Runner, stream: AsyncEventStream[Any, Any]) -> None:
        self._runner, self._stream = runner, stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        async def next_event() -> Any:
            return await anext(self._stream, None)

        event = self._runner.run(next_event())
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """As EventStream.close."""
        self._runner.run(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class BlockingClient:
    """An AsyncClient whose methods wait."""

    def __init__(self, runner: asyncio.Runner, *args: Any, **options: Any) -> None:
        self._runner, self._client = runner, AsyncClient(*args, **options)

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS + STREAMS:
            raise AttributeError(name)

        def call(*args: Any, **options: Any) -> Any:
            async def run() -> Any:
                made = getattr(self._client, name)(*args, **options)
                return made if name in STREAMS else await made

            result = self._runner.run(run())
            return BlockingStream(self._runner, result) if name in STREAMS else result

        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
