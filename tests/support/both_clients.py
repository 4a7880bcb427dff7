"""The asyncio client behind the sync client's methods, so that one test holds for both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from gloss_client import AsyncClient, AsyncExplanationStream, StreamEvent

METHODS = ("verbalize", "reconstruct", "score", "model_info", "stats", "health", "close")


class BlockingStream:
    """An AsyncExplanationStream that is iterated from outside its loop."""

    def __init__(self, runner: asyncio.Runner, stream: AsyncExplanationStream) -> None:
        self._runner, self._stream = runner, stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[StreamEvent]:
        return self

    def __next__(self) -> StreamEvent:
        async def next_event() -> StreamEvent | None:
            return await anext(self._stream, None)

        event = self._runner.run(next_event())
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """As ExplanationStream.close."""
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
        if name not in METHODS:
            raise AttributeError(name)

        def call(*args: Any, **options: Any) -> Any:
            async def run() -> Any:
                return await getattr(self._client, name)(*args, **options)

            return self._runner.run(run())

        return call

    def stream_verbalize(self, *args: Any, **options: Any) -> BlockingStream:
        """As Client.stream_verbalize."""

        async def make() -> AsyncExplanationStream:
            return self._client.stream_verbalize(*args, **options)

        return BlockingStream(self._runner, self._runner.run(make()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
