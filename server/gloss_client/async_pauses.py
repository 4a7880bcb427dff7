"""Where the streams of a client for asyncio wait before they are tried again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable


class AsyncPauses:
    """Waits of tasks of one loop. `Pauses` is the same for threads."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._closed = False

    async def wait(self, seconds: float, is_left: Callable[[], bool]) -> bool:
        """Waits, unless its stream is left; False when the client was closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self._closed or is_left()):
                    await self._changed.wait()
        return not self._closed

    def wake(self) -> None:
        """A stream was left."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Ends all waits, those to come as well."""
        self._closed = True
        self.wake()
