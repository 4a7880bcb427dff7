"""Writes streams: what a cursor finds in its run, as it comes, at a pace that one core can keep."""

from __future__ import annotations

import asyncio

from gloss_engine.info import ModelInfo
from gloss_server.front.handlers import Call
from gloss_server.front.stream import StreamCursor

MAX_MESSAGES_PER_SECOND = 4000.0
"""Stream messages a front sends at most, over all streams: each costs it 50 to 100 us. Beyond, a
stream's message waits and takes more tokens along: 64 ms of them with 256 streams."""


class StreamWriter:
    """The streams of one server."""

    def __init__(self) -> None:
        self._num_streams = 0

    async def write(self, cursor: StreamCursor, call: Call, info: ModelInfo) -> None:
        """Write what comes until the cursor's run has ended.

        Raises:
            CallError: the run's failure.
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
            for message in messages:
                await call.write(message)
            if run.failure is not None:
                raise run.failure
            if cursor.is_at_end:
                return
            if messages and not run.has_ended:
                await asyncio.sleep(self._num_streams / MAX_MESSAGES_PER_SECOND)
