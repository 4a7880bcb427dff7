"""A call's events as they come, for the asyncio client."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from gloss_client.async_piece_streams import AsyncPieceStreams
from gloss_client.stream_state import ExplanationCall, Message, StreamCall

Event = TypeVar("Event")
Summary = TypeVar("Summary")


class AsyncEventStream(Generic[Event, Summary]):
    """An asynchronous iterator of events, for one task; `aclose` may come from any.

    The call begins with the first event that is asked for. Leaving the `async with` block or
    `aclose` cancels it on the server at once; leaving the loop alone, as soon as the loop is idle.
    """

    def __init__(self, call: StreamCall[Event, Summary], streams: AsyncPieceStreams) -> None:
        self._streams, self._state = streams, call.state()
        self._messages: AsyncIterator[Message] = streams.messages()
        self._events: deque[Event] = deque()
        self._summary: Summary | None = None

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the checkpoints that answer; None before the first event."""
        return self._state.fingerprint

    @property
    def summary(self) -> Summary | None:
        """What it came to; None before the end."""
        return self._summary

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
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

    def ready(self) -> list[Event]:
        """The events that came with the last one, in the same message, and are taken by this."""
        events = list(self._events)
        self._events.clear()
        return events

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


class AsyncExplanationStream(AsyncEventStream[Event, Summary]):
    """Explanations as they are generated, and what else a method's stream brings.

    Attributes:
        request_id: the call's id, as the server's log has it.
        seed: seed of the draws.
    """

    def __init__(self, call: ExplanationCall[Event, Summary], streams: AsyncPieceStreams) -> None:
        super().__init__(call, streams)
        self.request_id, self.seed = call.id, call.seed
