"""How fast a teacher may be asked: requests and tokens a minute, and pauses that it asks for.

Every question books its share of both on two timelines and starts when it is its turn on both, so
questions are spread evenly and no minute holds more than the limit and one more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]
_SECONDS: Final = 60.0


@dataclass
class _Timeline:
    """When the next unit is due, at a rate a second; 0: always."""

    rate: float
    due: float = 0.0

    def book(self, amount: float, now: float) -> float:
        """When it is the turn of `amount`; what comes later stands behind it."""
        if not self.rate:
            return now
        start = max(self.due, now)
        self.due = start + amount / self.rate
        return start


class Pace:
    """Spreads questions.

    Args:
        requests_per_minute, tokens_per_minute: 0: no limit.
        clock, sleep: of seconds.
    """

    def __init__(
        self,
        requests_per_minute: float,
        tokens_per_minute: float,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._requests = _Timeline(requests_per_minute / _SECONDS)
        self._tokens = _Timeline(tokens_per_minute / _SECONDS)
        self._clock, self.sleep = clock, sleep
        self._paused_until = 0.0

    async def turn(self, num_tokens: float) -> None:
        """Waits until a question of so many tokens, its answer included, may be asked."""
        now = self._clock()
        start = max(self._requests.book(1, now), self._tokens.book(num_tokens, now))
        while (wait := max(start, self._paused_until) - self._clock()) > 0:
            await self.sleep(wait)

    def correct(self, num_tokens: float) -> None:
        """A question took so many tokens more than it booked; fewer where negative."""
        if self._tokens.rate:
            self._tokens.due += num_tokens / self._tokens.rate

    def pause(self, seconds: float) -> None:
        """Nobody asks for so long: the teacher has said so."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)
