"""The explanations of a batch as they are generated, for the sync client."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from gloss_client.piece_streams import PieceStreams
from gloss_client.results import StreamEvent, StreamSummary
from gloss_client.stream_state import Message, StreamState


class ExplanationStream:
    """An iterator of events, for one thread; `close` may come from any.

    The call begins with the first event that is asked for. Leaving the loop, the `with` block or
    `close` cancels it on the server.

    Attributes:
        request_id: the call's id, as the server's log has it.
        seed: seed of the draws.
    """

    def __init__(self, request_id: str, seed: int, streams: PieceStreams) -> None:
        self.request_id, self.seed = request_id, seed
        self._streams, self._state = streams, StreamState()
        self._messages: Iterator[Message] = iter(streams)
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

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamEvent:
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
