"""Reads the streams of a batch's pieces: several in threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

import grpc

from gloss_client.attempts import Attempts
from gloss_client.errors import Cancelled
from gloss_client.inbox import Inbox
from gloss_client.pauses import Pauses
from gloss_client.pieces import Piece
from gloss_client.progress import Progress
from gloss_client.retry_policy import RetryPolicy
from gloss_client.stream_state import Message
from gloss_client.unary import ErrorOf

# Messages that wait for the reader, over all pieces; then gRPC's flow control takes over.
INBOX_SIZE = 64
CLOSED_MEANWHILE = "the client was closed while the call waited to be tried again"
OpenStream = Callable[[Piece], Any]


class PieceStreams:
    """The streams of one batch. Iterate once, from one thread; cancel from any.

    Args:
        begin: plans the pieces, when the first message is asked for.
        open_stream: starts a piece's call.
        error_of: what a failed call raises.
        retry: when a stream is tried again that has brought nothing yet.
        pauses: where it waits for that.

    Attributes:
        cancelled: whether `cancel` was called.
    """

    def __init__(
        self,
        begin: Callable[[], Progress],
        open_stream: OpenStream,
        error_of: ErrorOf,
        retry: RetryPolicy,
        pauses: Pauses,
    ) -> None:
        self._begin, self._open_stream, self._error_of = begin, open_stream, error_of
        self._retry, self._pauses = retry, pauses
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
        self._pauses.wake()
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
            # In the caller's context, so that they belong to its trace.
            work = partial(copy_context().run, self._work, progress)
            threading.Thread(target=work, name="gloss-client-stream", daemon=True).start()
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
        """A piece's messages; of several attempts only the last has any."""
        sent_after, received = progress.sent_after(piece), False
        attempts = Attempts(self._retry, progress.deadline)
        while True:
            with self._opened(piece) as call:
                try:
                    for message in call:
                        received = True
                        yield Message(piece, sent_after, message)
                    yield Message(piece, sent_after, None)
                    return
                except grpc.RpcError:
                    if self._ended:
                        return
                    error = self._error_of(call, piece)
            if received:
                raise error
            pause = attempts.pause_after(call, error)
            if pause is None:
                with self._lock:
                    progress.refused(piece, error)
                return
            connected = self._pauses.wait(pause.seconds, lambda: self._ended)
            if self._ended:
                return
            if not connected:
                raise Cancelled(CLOSED_MEANWHILE, request_id=error.request_id)
            if pause.error is not None:
                raise pause.error

    @contextmanager
    def _opened(self, piece: Piece) -> Iterator[Any]:
        """A piece's call, cancelled at the end."""
        call = self._open_stream(piece)
        with self._lock:
            self._calls.add(call)
        if self._ended:
            call.cancel()
        try:
            yield call
        finally:
            call.cancel()
            with self._lock:
                self._calls.discard(call)
