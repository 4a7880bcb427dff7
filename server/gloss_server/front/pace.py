"""How long a call would take that arrives now: an estimate from steps, corrected by how calls went.

The estimate is of queueing theory's plainest kind. While more explanations are in flight than there
are slots, they begin in waves of full slots; then a call takes as many steps as its longest
explanation has tokens:

    waves      = (in flight, its own included - slots) / slots, at least 0
    seconds    = (waves * mean tokens + own tokens) * seconds of a step of so many rows
    own tokens = mean + deviation * sqrt(2 ln(explanations + 1)), at most max_new_tokens

the latter being how the largest of so many draws grows. Until the first explanation has ended, all
are taken to be as long as they may be: else an engine that is slow when it is full, and meets its
first calls all at once, would finish none in time and never learn how long they are. Seconds of a
step are a line over its rows, stretched by how slow the last steps were for theirs: so sizes that
have not come for a while are known as well. Means of steps are geometric, and one that took many
times what is usual counts as a few times; a size is known after a few steps, of which the fastest
counts at first; and the line says nothing of sizes far above the known ones: what came in a bad
moment keeps nobody away, also when little else is known yet.
What is left out (scoring, calls that come later and slow the steps down) shows in calls that end:
`margin` follows the 0.98 quantile of what they took over what was estimated, by steps up for each
that took longer and small ones down for each that did not (Robbins and Monro, 1951, on the
logarithm). Calls count that were nearly refused or had no end in time; what had plenty of time says
nothing of where to draw the line.

An estimate that refuses everything would never learn that it is wrong. So the margin falls back to
1 with time, and an engine that has stood still for a second is tried again by a call, whatever the
estimate says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_SMOOTHING, _SHAPE_SMOOTHING, _TOKEN_SMOOTHING = 0.05, 0.002, 0.01
_QUANTILE, _RATE = 0.98, 0.05
"""What the margin follows, and how fast. A simulated engine of 256 slots that is offered 8 times
what it gives spends 97% of its tokens on calls that end in time; with 0.95 and 0.1 it is 77%: the
margin falls faster than calls end, and each time too many are let in at once."""
_MOST_WEIGHT = 100
"""Most steps of a size that count in the line."""
_LEAST_COUNT, _YOUNG_COUNT = 3, 10
"""Steps of a size from which on it is known, and from which on their mean is."""
_MOST_LARGER = 2.0
"""Times as many rows as the largest known size has, of which the line still says something."""
_LEAST_SECONDS = 1e-6
"""Of a step: a coarse clock may not have moved."""
_MOST_SLOWER = 4.0
"""Times as slow as the last ones that a step counts at most. An engine that stays slow is known to
be so soon nevertheless: by up to 15% a step."""
_NEAR = 0.5
"""Share of its time that a call must be expected to take, margin included, to be learned from."""
_MOST_MARGIN = 2.0
_MARGIN_SECONDS = 20.0
"""In which the margin's logarithm falls by a factor of e by itself."""
_STALE_SECONDS = 1.0
"""From when on an idle engine is tried again."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a call was let in for.

    Attributes:
        expected: seconds it would take, without the margin; remaining: seconds it had.
        since: when, monotonic seconds.
    """

    expected: float
    remaining: float
    since: float


@dataclass(slots=True)
class _StepTime:
    """How long steps of about so many rows take.

    Attributes:
        rows: mean over steps.
        count: over how many.
    """

    rows: float = 0.0
    count: int = 0
    _mean: float = 0.0
    _fastest: float = math.inf

    @property
    def seconds(self) -> float:
        """Of an engine as fast as it usually is: a geometric mean; of few steps the fastest, since
        what comes between only adds to them."""
        return self._mean if self.count >= _YOUNG_COUNT else self._fastest

    def add(self, rows: int, seconds: float) -> None:
        self.count += 1
        self._fastest = min(self._fastest, seconds)
        share = max(_SHAPE_SMOOTHING, 1 / self.count)
        self.rows += share * (rows - self.rows)
        self._mean = self._mean ** (1 - share) * seconds**share


class Pace:
    """Learns from steps, explanations and calls.

    Attributes:
        num_slots: explanations that run at once.
        margin: what estimates are multiplied with, 1 or more.
    """

    def __init__(self) -> None:
        self.num_slots = 1
        self.margin = 1.0
        # By the bits of the number of rows.
        self._steps: dict[int, _StepTime] = {}
        self._base, self._each, self._most_rows = 0.0, 0.0, 0.0
        self._slowness = 1.0
        self._stepped_at = -math.inf
        self._mean_tokens: float | None = None
        self._token_variance = 0.0
        self._num_explanations = 0
        self._told_at: float | None = None

    def step(self, num_rows: int, seconds: float, at: float) -> None:
        """A step of the engine gave `num_rows` sequences a token.

        Args:
            seconds: how long it took; at: when it ended, monotonic seconds.
        """
        self._stepped_at = at
        if num_rows == 0:
            return
        seconds = max(seconds, _LEAST_SECONDS)
        known = self._steps.setdefault(num_rows.bit_length(), _StepTime())
        known.add(num_rows, seconds / self._slowness)
        self._fit()
        if not self._is_measured:
            return
        usual = self._base + self._each * num_rows
        most = _MOST_SLOWER * self._slowness
        self._slowness += _SMOOTHING * (min(seconds / usual, most) - self._slowness)

    def explanation(self, num_tokens: int) -> None:
        """An explanation ended after so many tokens."""
        self._num_explanations += 1
        # All count alike until there are enough: the first to end are the shortest.
        share = max(_TOKEN_SMOOTHING, 1 / self._num_explanations)
        mean = self._mean_tokens or 0.0
        self._token_variance += share * (
            (num_tokens - mean) ** 2 * (1 - share) - self._token_variance
        )
        self._mean_tokens = mean + share * (num_tokens - mean)

    def ended(self, promise: Promise, at: float, is_whole: bool) -> None:
        """A call has ended that was let in.

        Args:
            at: when, monotonic seconds.
            is_whole: with all its results; else it would have taken longer.
        """
        self._recover(at)
        taken, allowed = at - promise.since, self.margin * promise.expected
        was_near = allowed >= _NEAR * promise.remaining or taken >= promise.remaining
        if was_near and taken > allowed:
            step = _RATE * _QUANTILE
        elif was_near and is_whole:
            step = -_RATE * (1 - _QUANTILE)
        else:
            return
        self.margin = min(max(self.margin * math.exp(step), 1.0), _MOST_MARGIN)

    def expected_seconds(
        self, num_ahead: float, num_explanations: int, max_new_tokens: int
    ) -> float | None:
        """How long a call would take, without the margin; None: no size of steps is known yet.

        Args:
            num_ahead: explanations before it; num_explanations: its own.
        """
        if not self._is_measured:
            return None
        mean_tokens = max_new_tokens if self._mean_tokens is None else self._mean_tokens
        there = num_ahead + num_explanations
        spread = math.sqrt(2 * math.log(num_explanations + 1) * self._token_variance)
        own_tokens = min(mean_tokens + spread, max_new_tokens)
        waves = max(there / self.num_slots - 1, 0.0)
        return (waves * mean_tokens + own_tokens) * self._step_seconds(there)

    def drain_seconds(self, num_explanations: float) -> float | None:
        """How long full slots take for so many, a wave at least; None: not measured yet."""
        if not self._is_measured or self._mean_tokens is None:
            return None
        waves = max(num_explanations / self.num_slots, 1)
        return waves * self._mean_tokens * self._step_seconds(self.num_slots)

    def is_untested(self, num_in_flight: int, now: float) -> bool:
        """Whether the estimate is to be tried by a call: the engine has stood still."""
        return num_in_flight == 0 and now - self._stepped_at > _STALE_SECONDS

    def forget(self) -> None:
        """The engine is another: nothing is known of it."""
        self._steps.clear()
        self._most_rows = 0.0
        self._slowness = self.margin = 1.0

    def margin_at(self, now: float) -> float:
        """The margin of a call that arrives now."""
        self._recover(now)
        return self.margin

    @property
    def _is_measured(self) -> bool:
        return self._most_rows > 0

    def _step_seconds(self, num_explanations: float) -> float:
        """A step's seconds while so many are in flight."""
        rows = min(num_explanations, self.num_slots, self._most_rows)
        return (self._base + self._each * rows) * self._slowness

    def _fit(self) -> None:
        """A line through the known sizes' times by their rows, by the least squares of relative
        errors; it neither falls nor begins below 0."""
        known = [step for step in self._steps.values() if step.count >= _LEAST_COUNT]
        if not known:
            return
        self._most_rows = _MOST_LARGER * max(step.rows for step in known)
        total = x = y = xx = xy = 0.0
        for step in known:
            weight = min(step.count, _MOST_WEIGHT) / step.seconds**2
            total += weight
            x += weight * step.rows
            y += weight * step.seconds
            xx += weight * step.rows**2
            xy += weight * step.rows * step.seconds
        spread = total * xx - x * x
        each = (total * xy - x * y) / spread if spread > 1e-9 * total * xx else 0.0
        self._each = min(max(each, 0.0), y / x)
        self._base = (y - self._each * x) / total

    def _recover(self, now: float) -> None:
        if self._told_at is not None:
            fading = math.exp(-max(now - self._told_at, 0.0) / _MARGIN_SECONDS)
            self.margin = math.exp(math.log(self.margin) * fading)
        self._told_at = now
