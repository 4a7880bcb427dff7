"""Steps on the device: whose turn it is, what is launched, and what of it can be read.

A step is the AV's or, where a target is loaded, the target's, by their shares of time. With a lag
of one a step is launched before the one before is read, so that the device never waits for the
host; both kinds stand in one line, in the order of their stream. What comes of them is the engine's
business.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from gloss_engine.runner import LaunchedStep, Runner, StepResult
from gloss_engine.scheduler import Scheduler, StepPlan
from gloss_engine.sequence import Sequence
from gloss_engine.shares import AV, TARGET, Shares
from gloss_engine.target.events import TargetEvents
from gloss_engine.target.work import Launched as LaunchedTarget
from gloss_engine.target.work import TargetWork
from gloss_engine.transfer import Stopwatch


@dataclass(frozen=True, kw_only=True)
class AvStep:
    """A launched step of the AV.

    Attributes:
        plan: what it runs.
        rows: the sequences it draws for, with the slots they had.
        step: its results, once they are there.
        stopwatch: runs until it is done; None where nobody shares the device.
    """

    plan: StepPlan
    rows: list[tuple[Sequence, int]]
    step: LaunchedStep
    stopwatch: Stopwatch | None


@dataclass(frozen=True, kw_only=True)
class AvResult:
    """What a step of the AV drew, and for whom."""

    rows: list[tuple[Sequence, int]]
    result: StepResult


class Steps:
    """The line of launched steps.

    Args:
        runner: runs the AV's.
        scheduler: decides them.
        target: the target's side, or None.
        target_share: of the time in which both have work.
        lag: steps that are launched before the oldest is read: 0 or 1.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        target: TargetWork | None = None,
        target_share: float = 0.5,
        lag: int = 0,
    ) -> None:
        self.runner, self.scheduler, self.target, self.lag = runner, scheduler, target, lag
        self._shares = Shares(target_share)
        self._launched: deque[tuple[AvStep | LaunchedTarget, float]] = deque()

    def __len__(self) -> int:
        return len(self._launched)

    @property
    def is_busy(self) -> bool:
        """Whether anything waits or runs that a long pause would delay."""
        return self.scheduler.has_work or (self.target is not None and self.target.has_work)

    def launch(self) -> AvStep | LaunchedTarget | None:
        """Start a step, whose turn it is; None where nothing can run at this moment."""
        target = self.target
        if target is None:
            return self._launch_av()
        now = time.monotonic()
        # Asked also while the target idles, for which it is owed nothing.
        turn = self._shares.turn(av=self.scheduler.has_work, target=target.can_run(now))
        launched: AvStep | LaunchedTarget | None = None
        if turn != TARGET:
            # It may wait for pages or slots that a step in flight holds.
            launched = self._launch_av()
        if launched is None and target.can_run(now):
            launched = target.launch(now)
            self._launched.append((launched, self._shares.begin(TARGET)))
        return launched

    def read(self, ahead: bool) -> Iterator[AvResult | TargetEvents]:
        """What the oldest steps brought.

        Args:
            ahead: a step has just been launched, so the last may stay unread by the lag.
        """
        while len(self._launched) > (self.lag if ahead else 0):
            launched, charged = self._launched.popleft()
            if isinstance(launched, LaunchedTarget):
                assert self.target is not None
                yield self.target.read(launched)
                self._shares.end(TARGET, charged, launched.stopwatch.seconds())
                continue
            yield AvResult(rows=launched.rows, result=launched.step.result())
            if launched.stopwatch is not None:
                self._shares.end(AV, charged, launched.stopwatch.seconds())

    def charge_scoring(self, seconds: float) -> None:
        """The AR took so long: the AV's time, as far as the target is concerned."""
        self._shares.charge(AV, seconds)

    def _launch_av(self) -> AvStep | None:
        plan = self.scheduler.schedule()
        if not plan.has_work:
            return None
        rows = [(sequence, sequence.slot) for sequence in plan.sequences]
        stopwatch = None if self.target is None else Stopwatch(self.target.device)
        step = self.runner.launch(plan)
        if stopwatch is not None:
            stopwatch.stop()
        launched = AvStep(plan=plan, rows=rows, step=step, stopwatch=stopwatch)
        self._launched.append((launched, self._shares.begin(AV)))
        return launched
