"""A call's events as they come, for the sync client."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from gloss_client.piece_streams import PieceStreams
from gloss_client.stream_state import ExplanationCall, Message, StreamCall

Event = TypeVar("Event")
Summary = TypeVar("Summary")


class EventStream(Generic[Event, Summary]):
    """An iterator of events, for one thread; `close` may come from any.

    The call begins with the first event that is asked for. Leaving the loop, the `with` block or
    `close` cancels it on the server.
    """

    def __init__(self, call: StreamCall[Event, Summary], streams: PieceStreams) -> None:
        self._streams, self._state = streams, call.state()
        self._messages: Iterator[Message] = iter(streams)
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

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """The next event.

        Raises:
            GlossClientError: the call failed.
        """
        while not self._events:
            try:
                self._events.extend(self._state.events(next(self._messages)))
            except StopIteration:
                if not self._streams.cancelled:
                    self._summary = self._state.summary()
                raise
            except BaseException:
                self.close()
                raise
        return self._events.popleft()

    def ready(self) -> list[Event]:
        """The events that came with the last one, in the same message, and are taken by this."""
        events = list(self._events)
        self._events.clear()
        return events

    def close(self) -> None:
        """Cancels what still runs; no event comes after it."""
        self._streams.cancel()
        self._events.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ExplanationStream(EventStream[Event, Summary]):
    """Explanations as they are generated, and what else a method's stream brings.

    Attributes:
        request_id: the call's id, as the server's log has it.
        seed: seed of the draws.
    """

    def __init__(self, call: ExplanationCall[Event, Summary], streams: PieceStreams) -> None:
        super().__init__(call, streams)
        self.request_id, self.seed = call.id, call.seed
