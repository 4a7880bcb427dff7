"""Reads the streams of a batch's pieces: several in threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from gloss_client.inbox import Inbox
from gloss_client.pieces import Piece
from gloss_client.progress import Progress
from gloss_client.stream_state import Message
from gloss_client.unary import ErrorOf

# Messages that wait for the reader, over all pieces; then gRPC's flow control takes over.
INBOX_SIZE = 64
OpenStream = Callable[[Piece], Any]


class PieceStreams:
    """The streams of one batch. Iterate once, from one thread; cancel from any.

    Args:
        begin: plans the pieces, when the first message is asked for.
        open_stream: starts a piece's call.
        error_of: what a failed call raises.

    Attributes:
        cancelled: whether `cancel` was called.
    """

    def __init__(
        self, begin: Callable[[], Progress], open_stream: OpenStream, error_of: ErrorOf
    ) -> None:
        self._begin, self._open_stream, self._error_of = begin, open_stream, error_of
        self._lock = threading.Lock()
        self._calls: set[Any] = set()
        self._inbox: Inbox[Message | BaseException | None] = Inbox(INBOX_SIZE)
        self._ended = False
        self.cancelled = False

    def __iter__(self) -> Iterator[Message]:
        """Messages as they come; leaving the loop cancels what still runs.

        Raises:
            GlossClientError: one stream failed; the others are cancelled.
        """
        try:
            progress = self._begin()
            one = progress.num_planned == 1
            yield from self._here(progress) if one else self._apart(progress)
        finally:
            self._end()

    def cancel(self) -> None:
        """Ends all streams at once; the iterator stops without an error."""
        self.cancelled = True
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            calls = list(self._calls)
        self._inbox.close()
        for call in calls:
            call.cancel()

    def _here(self, progress: Progress) -> Iterator[Message]:
        """One piece after the other; there is more than one only if the server refused its size."""
        while (piece := self._next(progress)) is not None:
            yield from self._read(progress, piece)

    def _apart(self, progress: Progress) -> Iterator[Message]:
        """Several pieces at once, a thread each."""
        running = progress.in_flight
        for _ in range(running):
            threading.Thread(
                target=self._work, args=(progress,), name="gloss-client-stream", daemon=True
            ).start()
        while running and not self._ended:
            item = self._inbox.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item

    def _work(self, progress: Progress) -> None:
        """Reads piece after piece, until none waits. What goes wrong, the reader raises."""
        end: BaseException | None = None
        try:
            while (piece := self._next(progress)) is not None:
                for message in self._read(progress, piece):
                    self._inbox.put(message)
        except BaseException as error:
            end = error
        self._inbox.put(end)

    def _next(self, progress: Progress) -> Piece | None:
        with self._lock:
            return None if self._ended else progress.next()

    def _read(self, progress: Progress, piece: Piece) -> Iterator[Message]:
        call, sent_after = self._open_stream(piece), progress.sent_after(piece)
        with self._lock:
            self._calls.add(call)
        if self._ended:
            call.cancel()
        received = False
        try:
            for message in call:
                received = True
                yield Message(piece, sent_after, message)
            yield Message(piece, sent_after, None)
        except grpc.RpcError:
            if self._ended:
                return
            error = self._error_of(call, piece)
            if received:
                raise error from None
            with self._lock:
                progress.refused(piece, error)
        finally:
            call.cancel()
            with self._lock:
                self._calls.discard(call)
