"""Who is let in: bounds on what is in flight, and whether a call can be answered in time.

A call that would wait for longer than its deadline is refused at once, while its client can still
go elsewhere. The estimate is of queueing theory's plainest kind: while more explanations are in
flight than there are slots, tokens drain at the rate last measured with full slots.
"""

from __future__ import annotations

from gloss_server.front.call_error import CallError
from gloss_server.front.room import Lease, Room

_SMOOTHING = 0.05
_LEAST_RETRY_SECONDS, _MOST_RETRY_SECONDS = 0.05, 10.0
_UNKNOWN_RETRY_SECONDS = 0.5


class Admission:
    """Counts what is in flight and knows how fast it drains.

    Args:
        max_explanations: most explanations in flight.
        max_tokens: most tokens that those in flight may still generate, by their limits.

    Attributes:
        room: of explanations and of tokens.
        num_slots: explanations that run at once.
        num_idle: explanations that are kept room for and are not there: a Watch's.
    """

    def __init__(self, max_explanations: int, max_tokens: int) -> None:
        self.room = Room({"explanations": max_explanations, "tokens": max_tokens})
        self.num_slots, self.num_idle = 1, 0
        self._step_seconds: float | None = None
        self._full_step_seconds: float | None = None
        self._mean_tokens: float | None = None

    @property
    def num_explanations(self) -> int:
        """Explanations in flight."""
        return self.room.taken[0]

    @property
    def num_tokens(self) -> int:
        """Tokens that those in flight may still generate."""
        return self.room.taken[1]

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
        if remaining is not None:
            expected = self.expected_seconds(num_explanations, max_new_tokens)
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

    def step(self, num_rows: int, seconds: float) -> None:
        """A step of the engine gave `num_rows` sequences a token."""
        if num_rows == 0:
            return
        self._step_seconds = _smooth(self._step_seconds, seconds)
        if num_rows == self.num_slots:
            self._full_step_seconds = _smooth(self._full_step_seconds, seconds)

    def explanation(self, num_tokens: int) -> None:
        """An explanation ended after so many tokens."""
        self._mean_tokens = _smooth(self._mean_tokens, num_tokens)

    def expected_seconds(self, num_explanations: int, max_new_tokens: int) -> float | None:
        """How long a call that arrives now would take; None: not measured yet."""
        if self._step_seconds is None or self._mean_tokens is None:
            return None
        own_tokens = min(self._mean_tokens, max_new_tokens)
        step_seconds = self._step_seconds
        # Waves of full slots that go before its last explanation begins.
        ahead = self.num_explanations - self.num_idle + num_explanations - self.num_slots
        if ahead <= 0:
            return own_tokens * step_seconds
        full = self._full_step_seconds or step_seconds
        return (ahead / self.num_slots) * self._mean_tokens * full + own_tokens * full

    def forget_rates(self) -> None:
        """The engine is another: nothing is known of it."""
        self._step_seconds = self._full_step_seconds = None

    def retry_after(self) -> float:
        """Seconds until half of what waits has drained."""
        if self._mean_tokens is None or self._step_seconds is None:
            return _UNKNOWN_RETRY_SECONDS
        full = self._full_step_seconds or self._step_seconds
        waves = max(self.num_explanations / self.num_slots, 1) / 2
        drained = waves * self._mean_tokens * full
        return min(max(drained, _LEAST_RETRY_SECONDS), _MOST_RETRY_SECONDS)


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else before + _SMOOTHING * (now - before)
