"""Who is let in: bounds on what is in flight, and whether a call can be answered in time.

A call that would wait for longer than its deadline is refused at once, while its client can still
go elsewhere. `pace.py` makes the estimate; what is in front of a call is counted here, in the order
in which the engine starts activations: interactive ones before batch ones, which get a share of
the starts while both wait. Of each other call of its priority no more than a call's own number goes
first, however many that one has waiting: the engine gives them turns (`gloss_engine.waiting`).
Batch calls fill a part of the room only, so that interactive ones find some.
"""

from __future__ import annotations

import time

from gloss_server.front.call_error import CallError
from gloss_server.front.pace import Pace, Promise
from gloss_server.front.room import Lease, Room

_LEAST_RETRY_SECONDS, _MOST_RETRY_SECONDS = 0.05, 10.0
_UNKNOWN_RETRY_SECONDS = 0.5


class _Line:
    """What waits of one priority, by call.

    Args:
        most: explanations.
    """

    def __init__(self, most: int) -> None:
        self._room = Room({"explanations that wait": most})
        self._calls: list[Lease] = []

    @property
    def num_waiting(self) -> int:
        return self._room.taken[0]

    def wait(self, num_explanations: int) -> Lease:
        # Here too: a line in which nobody ever waits for others is never asked who is ahead.
        self._forget_begun()
        self._calls.append(self._room.take(num_explanations))
        return self._calls[-1]

    def num_ahead(self, num_explanations: int) -> int:
        """Those of all calls that begin before a new call's last of so many."""
        self._forget_begun()
        return sum(min(call.left[0], num_explanations) for call in self._calls)

    def _forget_begun(self) -> None:
        self._calls = [call for call in self._calls if not call.is_empty]


class Admission:
    """Counts what is in flight and knows how fast it drains.

    Args:
        max_explanations: most explanations in flight.
        max_tokens: most tokens that those in flight may still generate, by their limits.
        batch_room: share of both that calls of priority batch may fill.
        batch_share: share of starts that batch gets while interactive waits too.

    Attributes:
        room: of explanations and of tokens, all and those of priority batch.
        pace: how fast explanations come.
        num_idle: explanations that are kept room for and are not there: a Watch's.
    """

    def __init__(
        self,
        max_explanations: int,
        max_tokens: int,
        *,
        batch_room: float = 1.0,
        batch_share: float = 0.125,
    ) -> None:
        self.room = Room(
            {
                "explanations": max_explanations,
                "tokens": max_tokens,
                "explanations of priority batch": max(int(batch_room * max_explanations), 1),
                "tokens of priority batch": max(int(batch_room * max_tokens), 1),
            }
        )
        self._interactive, self._batch = _Line(max_explanations), _Line(max_explanations)
        # Of what waits: so many batch ones begin for each interactive one.
        self._batch_per_interactive = batch_share / (1 - batch_share)
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
    def num_waiting_batch(self) -> int:
        """Explanations of priority batch that have not begun."""
        return self._batch.num_waiting

    def _num_ahead(self, num_explanations: int, is_batch: bool) -> float:
        """Explanations in flight that begin before a call's own have."""
        there = self.num_explanations - self.num_idle
        begun = there - self._interactive.num_waiting - self._batch.num_waiting
        if is_batch:
            return begun + self._interactive.num_waiting + self._batch.num_ahead(num_explanations)
        others = begun + self._interactive.num_ahead(num_explanations)
        queued = max(others + num_explanations - self.pace.num_slots, 0)
        return others + min(self._batch.num_waiting, queued * self._batch_per_interactive)

    def check(
        self,
        num_explanations: int,
        max_new_tokens: int,
        remaining: float | None,
        field: str = "options",
        is_batch: bool = False,
    ) -> None:
        """Refuse a call that there is no room or no time for.

        Args:
            num_explanations: how many it asks for.
            max_new_tokens: most tokens of each.
            remaining: seconds until its deadline; None: it is not checked.
            field: the request's field that decides how many.
            is_batch: its priority is batch.

        Raises:
            CallError: BATCH_TOO_LARGE, QUEUE_FULL or DEADLINE_UNREACHABLE, the latter two with
                when to come back.
        """
        amounts = _amounts(num_explanations, max_new_tokens, is_batch)
        self.room.check(*amounts, field=field, retry_after=self.retry_after())
        now = time.monotonic()
        there = self.num_explanations - self.num_idle
        if remaining is not None and not self.pace.is_untested(there, now):
            expected = self.expected_seconds(num_explanations, max_new_tokens, now, is_batch)
            if expected is not None and expected > remaining:
                raise CallError(
                    "DEADLINE_UNREACHABLE",
                    f"the call would take about {expected:.2f} s, and its deadline is in "
                    f"{max(remaining, 0):.2f} s; give it longer, or come back later",
                    retry_after=self.retry_after(),
                )

    def admit(self, num_explanations: int, max_new_tokens: int, is_batch: bool = False) -> Lease:
        """Let a checked call in; with each explanation that ends, its `share` comes back."""
        return self.room.take(*_amounts(num_explanations, max_new_tokens, is_batch))

    def wait(self, num_explanations: int, is_batch: bool = False) -> Lease:
        """A call's explanations wait; each that begins is given back."""
        return (self._batch if is_batch else self._interactive).wait(num_explanations)

    def promise(
        self,
        num_explanations: int,
        max_new_tokens: int,
        remaining: float,
        now: float,
        is_batch: bool = False,
    ) -> Promise | None:
        """What is expected of a call that is let in now; None: nothing was measured yet. Of a batch
        call nothing can be promised: interactive ones that come later go first."""
        if is_batch:
            return None
        expected = self._estimate(num_explanations, max_new_tokens, is_batch)
        if expected is None:
            return None
        return Promise(expected=expected, remaining=remaining, since=now)

    def expected_seconds(
        self, num_explanations: int, max_new_tokens: int, now: float, is_batch: bool = False
    ) -> float | None:
        """How long a call that arrives now would take, with a margin; None: not measured yet."""
        expected = self._estimate(num_explanations, max_new_tokens, is_batch)
        return None if expected is None else expected * self.pace.margin_at(now)

    def retry_after(self) -> float:
        """Seconds until half of what waits has drained."""
        drained = self.pace.drain_seconds(self.num_explanations)
        if drained is None:
            return _UNKNOWN_RETRY_SECONDS
        return min(max(drained / 2, _LEAST_RETRY_SECONDS), _MOST_RETRY_SECONDS)

    def _estimate(self, num_explanations: int, max_new_tokens: int, is_batch: bool) -> float | None:
        ahead = self._num_ahead(num_explanations, is_batch)
        return self.pace.expected_seconds(ahead, num_explanations, max_new_tokens)


def share(max_new_tokens: int, is_batch: bool = False) -> tuple[int, ...]:
    """What an explanation takes of an Admission's room."""
    return _amounts(1, max_new_tokens, is_batch)


def _amounts(num_explanations: int, max_new_tokens: int, is_batch: bool) -> tuple[int, ...]:
    amounts = (num_explanations, num_explanations * max_new_tokens)
    return (*amounts, *(amounts if is_batch else (0, 0)))
