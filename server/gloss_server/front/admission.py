"""Who is let in: bounds on what is in flight, and whether a call can be answered in time.

A call that would wait for longer than its deadline is refused at once, while its client can still
go elsewhere. `pace.py` makes the estimate.
"""

from __future__ import annotations

import time

from gloss_server.front.call_error import CallError
from gloss_server.front.pace import Pace, Promise
from gloss_server.front.room import Lease, Room

_LEAST_RETRY_SECONDS, _MOST_RETRY_SECONDS = 0.05, 10.0
_UNKNOWN_RETRY_SECONDS = 0.5


class Admission:
    """Counts what is in flight and knows how fast it drains.

    Args:
        max_explanations: most explanations in flight.
        max_tokens: most tokens that those in flight may still generate, by their limits.

    Attributes:
        room: of explanations and of tokens.
        pace: how fast explanations come.
        num_idle: explanations that are kept room for and are not there: a Watch's.
    """

    def __init__(self, max_explanations: int, max_tokens: int) -> None:
        self.room = Room({"explanations": max_explanations, "tokens": max_tokens})
        self.pace, self.num_idle = Pace(), 0

    @property
    def num_explanations(self) -> int:
        """Explanations in flight."""
        return self.room.taken[0]

    @property
    def num_tokens(self) -> int:
        """Tokens that those in flight may still generate."""
        return self.room.taken[1]

    @property
    def _num_there(self) -> int:
        return self.num_explanations - self.num_idle

    def check(
        self,
        num_explanations: int,
        max_new_tokens: int,
        remaining: float | None,
        field: str = "options",
    ) -> None:
        """Refuse a call that there is no room or no time for.

        Args:
            num_explanations: how many it asks for.
            max_new_tokens: most tokens of each.
            remaining: seconds until its deadline; None: it is not checked.
            field: the request's field that decides how many.

        Raises:
            CallError: BATCH_TOO_LARGE, QUEUE_FULL or DEADLINE_UNREACHABLE, the latter two with
                when to come back.
        """
        num_tokens = num_explanations * max_new_tokens
        self.room.check(num_explanations, num_tokens, field=field, retry_after=self.retry_after())
        now = time.monotonic()
        if remaining is not None and not self.pace.is_untested(self._num_there, now):
            expected = self.expected_seconds(num_explanations, max_new_tokens, now)
            if expected is not None and expected > remaining:
                raise CallError(
                    "DEADLINE_UNREACHABLE",
                    f"the call would take about {expected:.2f} s, and its deadline is in "
                    f"{max(remaining, 0):.2f} s; give it longer, or come back later",
                    retry_after=self.retry_after(),
                )

    def admit(self, num_explanations: int, max_new_tokens: int) -> Lease:
        """Let a checked call in; with each explanation that ends, it and its tokens come back."""
        return self.room.take(num_explanations, num_explanations * max_new_tokens)

    def promise(
        self, num_explanations: int, max_new_tokens: int, remaining: float, now: float
    ) -> Promise | None:
        """What is expected of a call that is let in now; None: nothing was measured yet."""
        expected = self._estimate(num_explanations, max_new_tokens)
        if expected is None:
            return None
        return Promise(expected=expected, remaining=remaining, since=now)

    def expected_seconds(
        self, num_explanations: int, max_new_tokens: int, now: float
    ) -> float | None:
        """How long a call that arrives now would take, with a margin; None: not measured yet."""
        expected = self._estimate(num_explanations, max_new_tokens)
        return None if expected is None else expected * self.pace.margin_at(now)

    def retry_after(self) -> float:
        """Seconds until half of what waits has drained."""
        drained = self.pace.drain_seconds(self.num_explanations)
        if drained is None:
            return _UNKNOWN_RETRY_SECONDS
        return min(max(drained / 2, _LEAST_RETRY_SECONDS), _MOST_RETRY_SECONDS)

    def _estimate(self, num_explanations: int, max_new_tokens: int) -> float | None:
        return self.pace.expected_seconds(self._num_there, num_explanations, max_new_tokens)
