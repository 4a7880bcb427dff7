"""Reads the streams of a batch's pieces on an event loop: one in place, several in tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from gloss_client.async_channel import CLOSED, is_cancelled
from gloss_client.async_pauses import AsyncPauses
from gloss_client.attempts import Attempts
from gloss_client.errors import Cancelled
from gloss_client.piece_streams import CLOSED_MEANWHILE, INBOX_SIZE
from gloss_client.pieces import Piece
from gloss_client.progress import Progress
from gloss_client.retry_policy import RetryPolicy
from gloss_client.stream_state import Message
from gloss_client.unary import ErrorOf

OpenStream = Callable[[Piece], grpc.aio.UnaryStreamCall[Any, Any]]


class AsyncPieceStreams:
    """The streams of one batch. Iterate once; cancel from any task of the loop.

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
        begin: Callable[[], Awaitable[Progress]],
        open_stream: OpenStream,
        error_of: ErrorOf,
        retry: RetryPolicy,
        pauses: AsyncPauses,
    ) -> None:
        self._begin, self._open_stream, self._error_of = begin, open_stream, error_of
        self._retry, self._pauses = retry, pauses
        self._calls: set[grpc.aio.UnaryStreamCall[Any, Any]] = set()
        self._inbox: asyncio.Queue[Message | BaseException | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(INBOX_SIZE)
        self._ended = False
        self.cancelled = False

    async def messages(self) -> AsyncIterator[Message]:
        """Messages as they come; leaving the loop cancels what still runs.

        Raises:
            GlossClientError: one stream failed; the others are cancelled.
        """
        try:
            progress = await self._begin()
            one = progress.num_planned == 1
            async for message in self._here(progress) if one else self._apart(progress):
                yield message
        finally:
            self._end()

    def cancel(self) -> None:
        """Ends all streams at once; the iterator stops without an error."""
        self.cancelled = True
        self._end()

    def _end(self) -> None:
        self._ended = True
        for call in list(self._calls):
            call.cancel()
        self._inbox.put_nowait(None)
        self._pauses.wake()

    async def _here(self, progress: Progress) -> AsyncIterator[Message]:
        """One piece after the other; there is more than one only if the server refused its size."""
        while not self._ended and (piece := progress.next()) is not None:
            async for message in self._read(progress, piece):
                yield message

    async def _apart(self, progress: Progress) -> AsyncIterator[Message]:
        """Several pieces at once, a task each."""
        running = progress.in_flight
        tasks = [asyncio.create_task(self._work(progress)) for _ in range(running)]
        try:
            while running:
                item = await self._inbox.get()
                if self._ended:
                    return
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    running -= 1
                else:
                    self._room.release()
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, progress: Progress) -> None:
        """Reads piece after piece, until none waits. What goes wrong, the reader raises."""
        end: BaseException | None = None
        try:
            while not self._ended and (piece := progress.next()) is not None:
                async for message in self._read(progress, piece):
                    await self._room.acquire()
                    self._inbox.put_nowait(message)
        except Exception as error:
            end = error
        self._inbox.put_nowait(end)

    async def _read(self, progress: Progress, piece: Piece) -> AsyncIterator[Message]:
        """A piece's messages; of several attempts only the last has any."""
        sent_after, received = progress.sent_after(piece), False
        attempts = Attempts(self._retry, progress.deadline)
        while True:
            with self._opened(piece) as call:
                try:
                    async for message in call:
                        received = True
                        yield Message(piece, sent_after, message)
                    yield Message(piece, sent_after, None)
                    return
                except asyncio.CancelledError:
                    if is_cancelled():
                        raise
                    if self._ended:
                        return
                    raise self._error_of(CLOSED, piece) from None
                except grpc.aio.AioRpcError as failed:
                    ended, error = failed, self._error_of(failed, piece)
            if received:
                raise error
            pause = attempts.pause_after(ended, error)
            if pause is None:
                progress.refused(piece, error)
                return
            connected = await self._pauses.wait(pause.seconds, lambda: self._ended)
            if self._ended:
                return
            if not connected:
                raise Cancelled(CLOSED_MEANWHILE, request_id=error.request_id)
            if pause.error is not None:
                raise pause.error

    @contextmanager
    def _opened(self, piece: Piece) -> Iterator[grpc.aio.UnaryStreamCall[Any, Any]]:
        """A piece's call, cancelled at the end."""
        call = self._open_stream(piece)
        self._calls.add(call)
        try:
            yield call
        finally:
            call.cancel()
            self._calls.discard(call)
