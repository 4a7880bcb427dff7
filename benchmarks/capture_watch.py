"""`Watch` under load: how fast the target generates, and how far behind its explanations are.

A number of Watches is kept running for a while: where a target has ended, the next prompt goes in.
What counts begins after a warm-up and ends with the window; what is left then is cancelled.

alone      one explanation a Watch, of its first token and a token long: as little as can be asked.
explained  every token, by the target's share of step time.

`gap` is the time between two tokens of a Watch as the engine hands them out, in ms. What it is held
to is `bound`: with a share s the target waits for the AV no longer than `shares.py` says, so a gap
takes at most

    (its own step + where others begin meanwhile, their prompts' pass) / s
    + a step of the AV + where there are scores, a batch of the AR

and with a pace its interval on top, of which the longest that were seen are taken. `usual_bound` is
the same with medians, of a step of each alone.
`lag` is `Explanation.lag_seconds`, in ms, of the explanations that were finished in the window.
`goal` says of a paced load whether the target kept its pace, no token found no room, and 95% of the
explanations were finished within a second.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from capture_engine import TextEngine
from common import quantile

from gloss_engine import Engine, SamplingParams, StepOutput, WatchRequest

LAG_GOAL = 1.0
"""Seconds that 95% of the explanations take at most."""
_KEPT = 0.95
"""Of its pace: what counts as kept, since a window holds a token more or less."""
_NEVER = 1 << 30
_PROMPT_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is watched.

    Attributes:
        num_watches: at any time.
        pace: most tokens a second of each; None: as many as the target can.
        share: the target's share of step time; None: alone.
        scored: explanations are scored by the AR.
    """

    num_watches: int
    pace: float | None
    share: float | None
    scored: bool = False

    @property
    def explains(self) -> bool:
        """Whether every token is explained."""
        return self.share is not None


@dataclass(kw_only=True)
class Seen:
    """What happened in a window.

    Attributes:
        seconds: of the window.
        num_tokens: generated.
        num_explanations: finished.
        num_captured: activations taken.
        skipped: tokens by reason.
        gaps, lags: seconds.
        steps, passes: of the target; av_steps: of the AV; scorings: of the AR, seconds.
        num_open: captured and not finished at the end.
    """

    seconds: float = 0.0
    num_tokens: int = 0
    num_explanations: int = 0
    num_captured: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    gaps: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    av_steps: list[float] = field(default_factory=list)
    scorings: list[float] = field(default_factory=list)
    num_open: int = 0


class WatchRun:
    """Watches kept running on one engine, which does nothing else.

    Args:
        loaded: the engine and its texts.
        load: what is watched.
    """

    def __init__(self, loaded: TextEngine, load: Load) -> None:
        self._loaded, self._load = loaded, load
        self._engine: Engine = loaded.with_share(load.share or 0.5)
        self._numbers = count()
        self._last: dict[str, float | None] = {}
        self._open: set[str] = set()
        self._num_open = 0
        self._launched_av = [False] * self._engine.lag

    def run(self, warm_seconds: float, seconds: float) -> Seen:
        """Run for a while, and leave nothing behind.

        Raises:
            RuntimeError: an explanation that failed.
        """
        for _ in range(self._load.num_watches):
            self._submit()
        self._run_for(warm_seconds)
        seen = self._run_for(seconds)
        for request_id in self._open:
            self._engine.cancel(request_id)
        while self._engine.has_work:
            self._engine.step()
        return seen

    def _submit(self) -> None:
        number, load, loaded = next(self._numbers), self._load, self._loaded
        new_tokens = loaded.new_tokens if load.explains else 1
        request = WatchRequest(
            input=loaded.text(number, _PROMPT_TOKENS),
            target_sampling=SamplingParams(max_new_tokens=loaded.watch_tokens, seed=number),
            every=1 if load.explains else _NEVER,
            tokens_per_second=load.pace,
            sampling=SamplingParams(max_new_tokens=new_tokens, seed=number),
            score=load.scored,
        )
        request_id = self._engine.submit_watch(request)
        self._open.add(request_id)
        self._last[request_id] = None

    def _run_for(self, seconds: float) -> Seen:
        seen = Seen()
        started = now = time.monotonic()
        while now - started < seconds:
            now = self._step(seen, now)
        seen.seconds, seen.num_open = now - started, self._num_open
        return seen

    def _step(self, seen: Seen, before: float) -> float:
        """One step; when it had ended."""
        engine = self._engine
        assert engine.target is not None
        target, scoring = engine.target.seconds, _scoring(engine)
        out = engine.step()
        now = time.monotonic()
        own, scoring = engine.target.seconds - target, _scoring(engine) - scoring
        self._launched_av.append(out.num_rows > 0)
        was_av = self._launched_av.pop(0)
        if own:
            (seen.steps if out.target_tokens else seen.passes).append(own)
        elif was_av:
            seen.av_steps.append(now - before - scoring)
        if scoring:
            seen.scorings.append(scoring)
        self._count(out, seen, now)
        return now

    def _count(self, out: StepOutput, seen: Seen, now: float) -> None:
        for token in out.target_tokens:
            last = self._last.get(token.request_id)
            if last is not None:
                seen.gaps.append(now - last)
            self._last[token.request_id] = now
        seen.num_tokens += len(out.target_tokens)
        seen.num_captured += len(out.captured)
        self._num_open += len(out.captured) - len(out.explanations)
        seen.num_explanations += len(out.explanations)
        for explanation in out.explanations:
            if explanation.error is not None or explanation.lag_seconds is None:
                raise RuntimeError(f"explanation {explanation.index}: {explanation.error}")
            seen.lags.append(explanation.lag_seconds)
        seen.skipped.update(skipped.reason for skipped in out.skipped)
        for ended in out.target_ends:
            del self._last[ended.request_id]
            self._submit()
        self._open.difference_update(out.finished)


def measure_watch(
    loaded: TextEngine, load: Load, warm_seconds: float, seconds: float
) -> dict[str, Any]:
    """The row of one load."""
    seen = WatchRun(loaded, load).run(warm_seconds, seconds)
    skipped = dict(seen.skipped)
    if not load.explains:
        # Those it was not asked for.
        skipped.pop("every", None)
    return {
        "subject": loaded.name,
        "watches": load.num_watches,
        "pace": load.pace,
        "share": load.share,
        "scored": load.scored,
        "seconds": seen.seconds,
        "target_tokens": seen.num_tokens,
        "tokens_per_second": seen.num_tokens / seen.seconds,
        "explanations_per_second": seen.num_explanations / seen.seconds,
        "lag_p50": _ms(seen.lags, 0.5),
        "lag_p95": _ms(seen.lags, 0.95),
        "gap_p50": _ms(seen.gaps, 0.5),
        "gap_p95": _ms(seen.gaps, 0.95),
        "gap_max": _ms(seen.gaps, 1.0),
        **_bounds(load, seen),
        "target_step": _ms(seen.steps, 0.5),
        "av_step": _ms(seen.av_steps, 0.5),
        "captured": seen.num_captured,
        "explanations": seen.num_explanations,
        "skipped": skipped,
        "unfinished": seen.num_open,
        "goal": _verdict(load, seen),
    }


def measure_watches(
    loaded: TextEngine, loads: Iterator[Load], warm_seconds: float, seconds: float
) -> Iterator[dict[str, Any]]:
    """A row for each load; `of_alone` is its target's rate over that of the same Watches alone."""
    alone: dict[tuple[int, float | None], float] = {}
    for load in loads:
        row = measure_watch(loaded, load, warm_seconds, seconds)
        key = (load.num_watches, load.pace)
        if load.explains:
            row["of_alone"] = row["tokens_per_second"] / alone[key] if key in alone else None
        else:
            alone[key] = row["tokens_per_second"]
        yield row


def loads(shares: tuple[float, ...], num_watches: tuple[int, ...], pace: float) -> Iterator[Load]:
    """Every number of Watches, free and paced: alone, by every share, and scored."""
    for number in num_watches:
        for tokens_per_second in (None, pace):
            yield Load(num_watches=number, pace=tokens_per_second, share=None)
            for share in shares:
                yield Load(num_watches=number, pace=tokens_per_second, share=share)
            yield Load(num_watches=number, pace=tokens_per_second, share=0.5, scored=True)


def _bounds(load: Load, seen: Seen) -> dict[str, float | None]:
    """What gaps are held to, by the longest and by the usual steps, ms."""
    if load.share is None or not (seen.steps and seen.av_steps):
        return {"bound": None, "usual_bound": None}
    passes = seen.passes if load.num_watches > 1 else []
    interval = 0.0 if load.pace is None else 1 / load.pace
    longest = (max(seen.steps) + max(passes, default=0.0)) / load.share
    longest += max(seen.av_steps) + max(seen.scorings, default=0.0)
    usual = statistics.median(seen.steps) / load.share + statistics.median(seen.av_steps)
    return {"bound": (longest + interval) * 1e3, "usual_bound": (usual + interval) * 1e3}


def _verdict(load: Load, seen: Seen) -> str | None:
    """Whether every token of a paced load is explained in time."""
    lag = quantile(seen.lags, 0.95)
    if load.pace is None or not load.explains:
        return None
    kept = seen.num_tokens >= _KEPT * load.pace * load.num_watches * seen.seconds
    met = kept and not seen.skipped["max_pending"] and lag is not None and lag <= LAG_GOAL
    return "met" if met else "missed"


def _scoring(engine: Engine) -> float:
    return 0.0 if engine.scores is None else engine.scores.seconds


def _ms(seconds: list[float], share: float) -> float | None:
    found = quantile(seconds, share)
    return None if found is None else found * 1e3
