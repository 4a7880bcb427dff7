"""The explanations of a batch as they are generated, for the asyncio client."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from gloss_client.async_piece_streams import AsyncPieceStreams
from gloss_client.results import StreamEvent, StreamSummary
from gloss_client.stream_state import Message, StreamState


class AsyncExplanationStream:
    """An asynchronous iterator of events, for one task; `aclose` may come from any.

    The call begins with the first event that is asked for. Leaving the `async with` block or
    `aclose` cancels it on the server at once; leaving the loop alone, as soon as the loop is idle.

    Attributes:
        request_id: the call's id, as the server's log has it.
        seed: seed of the draws.
    """

    def __init__(self, request_id: str, seed: int, streams: AsyncPieceStreams) -> None:
        self.request_id, self.seed = request_id, seed
        self._streams, self._state = streams, StreamState()
        self._messages: AsyncIterator[Message] = streams.messages()
        self._events: deque[StreamEvent] = deque()
        self._summary: StreamSummary | None = None

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the checkpoints that answer; None before the first event."""
        return self._state.fingerprint

    @property
    def summary(self) -> StreamSummary | None:
        """Counts, usage and timings; None before the end."""
        return self._summary

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamEvent:
        """The next event.

        Raises:
            GlossClientError: the call failed.
        """
        while not self._events:
            try:
                self._events.extend(self._state.events(await anext(self._messages)))
            except StopAsyncIteration:
                if not self._streams.cancelled:
                    self._summary = self._state.summary()
                raise
            except BaseException:
                await self.aclose()
                raise
        return self._events.popleft()

    async def aclose(self) -> None:
        """Cancels what still runs; no event comes after it."""
        self._streams.cancel()
        self._events.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
