"""What the service does at this moment, asked for once a second for all who read it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict

from gloss_client import AsyncClient, GlossClientError
from gloss_server.page.events import failed_event, sse
from gloss_server.page.problem import Problem

SECONDS = 1.0
ASK_SECONDS = 5.0


class StatsFeed:
    """One poller, which runs while it has readers.

    Args:
        client: asks the service.

    Attributes:
        num_readers: who read it.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._latest = ""
        self._number = 0
        self._changed = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self.num_readers = 0

    async def chunks(self) -> AsyncGenerator[str]:
        """An event a second, from now on. A reader that is slow misses some."""
        self.num_readers += 1
        if self._poller is None:
            self._latest = ""
            self._poller = asyncio.create_task(self._poll())
        poller = self._poller
        try:
            # One who comes later has the last figures at once.
            seen = self._number - 1 if self._latest else self._number
            while True:
                while self._number == seen:
                    await self._changed.wait()
                    if poller.done():
                        # A defect of ours, said rather than waited for.
                        await poller
                seen = self._number
                yield self._latest
        finally:
            self.num_readers -= 1
            if not self.num_readers and self._poller is not None:
                self._poller.cancel()
                self._poller = None

    async def _poll(self) -> None:
        while True:
            began = time.monotonic()
            try:
                self._latest = await self._ask()
                self._number += 1
            finally:
                self._changed.set()
                self._changed = asyncio.Event()
            await asyncio.sleep(max(0.0, began + SECONDS - time.monotonic()))

    async def _ask(self) -> str:
        try:
            return sse("stats", asdict(await self._client.stats(timeout=ASK_SECONDS)))
        except GlossClientError as error:
            return failed_event(Problem.of(error))
