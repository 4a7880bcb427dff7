"""What a request has taken of the server's room, from its admission until its end.

`gate.py` makes permits. One gives room back as results come, and the rest when it is closed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from gloss_server.front.admission import Admission
from gloss_server.front.pace import Pace, Promise
from gloss_server.front.rate_limit import RateLimit
from gloss_server.front.room import Lease


@dataclass(kw_only=True)
class Permit:
    """The room of a request whose results are counted beforehand.

    Attributes:
        rates: where tokens are charged; client: to whom; charged: how many.
        results: a share of it comes back with each result; each: that share.
        others: come back with the end.
        waiting: of what is known in number, explanations that have not begun.
        pace, promise: how long it was expected to take, and who learns how long it did; None:
            nothing is expected of it.
    """

    rates: RateLimit
    client: str = ""
    charged: int = 0
    results: Lease | None = None
    each: tuple[int, ...] = ()
    others: tuple[Lease, ...] = ()
    waiting: Lease | None = None
    pace: Pace | None = None
    promise: Promise | None = None

    def opened(self, num_positions: int) -> None:
        """A text was opened, of which `num_positions` will be read.

        Raises:
            CallError: there is no room for so many.
        """

    def captured(self) -> None:
        """An activation was read; its explanations are in flight."""

    def started(self, num_explanations: int) -> None:
        """So many explanations have begun."""
        if self.waiting is not None:
            self.waiting.give_back(num_explanations)

    def text_read(self, num_tokens: int) -> None:
        """A text of so many tokens has been read."""
        self.rates.spend(self.client, num_tokens)

    def result_ended(self) -> None:
        """A result is there: an explanation, or a text's."""
        if self.results is not None and not self.results.is_empty:
            self.results.give_back(*self.each)

    def close(self, num_spent: int) -> None:
        """The request has ended; it took `num_spent` of the tokens it was charged for."""
        for lease in (self.results, self.waiting, *self.others):
            if lease is not None:
                lease.close()
        self.rates.refund(self.client, self.charged - num_spent)

    def run_ended(self, at: float, is_whole: bool) -> None:
        """Its run has ended, with all its results or without, at a moment of the monotonic
        clock."""
        if self.pace is not None and self.promise is not None:
            self.pace.ended(self.promise, at, is_whole)


@dataclass(kw_only=True)
class TextPermit(Permit):
    """The room of a request whose activations are known once its text has been opened.

    Attributes:
        admission: of explanations.
        text: the room of its text, until that has been read.
        num_samples, max_new_tokens: explanations of an activation, and most tokens of each.
        field: the request's field that chooses them.
    """

    admission: Admission
    text: Lease
    num_samples: int
    max_new_tokens: int
    field: str

    def text_read(self, num_tokens: int) -> None:
        """See Permit. Only the first time counts."""
        if not self.text.is_empty:
            super().text_read(num_tokens)
            self.text.close()

    def close(self, num_spent: int) -> None:
        """See Permit."""
        super().close(num_spent)
        self.text.close()


@dataclass(kw_only=True)
class ExplainPermit(TextPermit):
    """The room of an Explain: of one activation first, then of all that its text has.

    Attributes:
        deadline: of its call, monotonic seconds.
        is_batch: its priority is batch.
    """

    deadline: float
    is_batch: bool

    def opened(self, num_positions: int) -> None:
        """See Permit."""
        assert self.results is not None
        self.results.close()
        num_explanations, now = num_positions * self.num_samples, time.monotonic()
        admission, most, remaining = self.admission, self.max_new_tokens, self.deadline - now
        admission.check(num_explanations, most, remaining, self.field, self.is_batch)
        self.promise = admission.promise(num_explanations, most, remaining, now, self.is_batch)
        num_charged = num_explanations * most
        self.rates.charge(self.client, num_charged)
        self.charged += num_charged
        self.results = admission.admit(num_explanations, most, self.is_batch)
        self.waiting = admission.wait(num_explanations, self.is_batch)


@dataclass(kw_only=True)
class WatchPermit(TextPermit):
    """The room of a Watch: of the most explanations it ever has in flight, as long as it lives.

    Attributes:
        max_pending: activations in flight at most, but for the prompt's.
        num_idle: explanations that it has room for and that are not in flight.
    """

    max_pending: int
    num_idle: int = 0

    def opened(self, num_positions: int) -> None:
        """See Permit. The prompt's activations may be more than are in flight later."""
        more = max(num_positions - self.max_pending, 0) * self.num_samples
        self.admission.check(more, self.max_new_tokens, None, self.field)
        self.results = self.admission.admit(more, self.max_new_tokens)
        self.set_idle(self.num_idle + more)

    def captured(self) -> None:
        """See Permit."""
        self.set_idle(self.num_idle - self.num_samples)

    def result_ended(self) -> None:
        """See Permit."""
        if self.results is not None and not self.results.is_empty:
            super().result_ended()
        else:
            self.set_idle(self.num_idle + 1)

    def close(self, num_spent: int) -> None:
        """See Permit."""
        super().close(num_spent)
        self.set_idle(0)

    def set_idle(self, num_idle: int) -> None:
        """Tell admission how much of this room nobody uses."""
        self.admission.num_idle += num_idle - self.num_idle
        self.num_idle = num_idle
