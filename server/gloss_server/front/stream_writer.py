"""Writes streams: what a cursor finds in its run, as it comes, at a pace that one core can keep.

gRPC holds about 4.5 MB for a client that does not read; then a message waits. What its run brings
meanwhile is bounded: then the call ends, and a run that nobody else reads leaves the engine. The
client that reads on finds what gRPC holds, and then why the stream ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gloss_engine.info import ModelInfo
from gloss_server.front.call import Call
from gloss_server.front.call_error import CallError
from gloss_server.front.run import Run
from gloss_server.front.stream import StreamCursor, StreamMessage

MAX_MESSAGES_PER_SECOND = 4000.0
"""Stream messages a front sends at most, over all streams: each costs it 50 to 100 us. Beyond, a
stream's message waits and takes more tokens along: 64 ms of them with 256 streams."""


class StreamWriter:
    """The streams of one server.

    Args:
        max_unread_bytes: what a run may bring while a message to its reader waits.
    """

    def __init__(self, max_unread_bytes: int) -> None:
        self._max_unread_bytes = max_unread_bytes
        self._num_streams = 0

    async def write(self, cursor: StreamCursor, call: Call, info: ModelInfo) -> None:
        """Write what comes until the cursor's run has ended.

        Raises:
            CallError: the run's failure, or SLOW_READER.
        """
        self._num_streams += 1
        try:
            await self._write(cursor, call, info)
        finally:
            self._num_streams -= 1

    async def _write(self, cursor: StreamCursor, call: Call, info: ModelInfo) -> None:
        run = cursor.run
        async for _ in run.changes():
            messages = cursor.take(info)
            if messages:
                await self.send(messages, call, run)
            if run.failure is not None:
                raise run.failure
            if cursor.is_at_end:
                return
            if messages and not run.has_ended:
                await asyncio.sleep(self._num_streams / MAX_MESSAGES_PER_SECOND)

    async def send(self, messages: Sequence[StreamMessage], call: Call, run: Run) -> None:
        """Send messages, as long as what comes meanwhile is not too much.

        Raises:
            CallError: SLOW_READER.
        """
        most = run.num_bytes + self._max_unread_bytes

        def check() -> None:
            if run.num_bytes > most and patience.when() is None:
                patience.reschedule(asyncio.get_running_loop().time())

        try:
            async with asyncio.timeout(None) as patience:
                with run.telling(check):
                    for message in messages:
                        await call.write(message)
        except TimeoutError as error:
            raise CallError(
                "SLOW_READER",
                f"the client has left over {self._max_unread_bytes} bytes unread; read faster, ask "
                "for less at a time, or send unary calls",
            ) from error
