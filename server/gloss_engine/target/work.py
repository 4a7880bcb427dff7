"""What the target has to do: texts to read, prompts to go on from; one pass or step at a time.

`launch` queues one of them on the device, `read` says later what came of it. Steps of running
Watches and passes over texts alternate while there are both, and a pass beside them takes only as
many tokens as the target read in a stated time before: nobody's text stops another's Watch. What
becomes of the activations is the engine's business.
"""

from __future__ import annotations

import time
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gloss_engine.device_memory import DeviceMemory
from gloss_engine.target.events import TargetEvents, WatchedToken
from gloss_engine.target.generator import FailedStep, Generator, LaunchedRow, LaunchedTokens
from gloss_engine.target.passes import LaunchedPass, Passes
from gloss_engine.target.reader import TextReader, TextToRead
from gloss_engine.target.reading_queue import PROMPT, Job, ReadingQueue
from gloss_engine.target.target import Target
from gloss_engine.target.watch import Watch
from gloss_engine.text_request import SkippedToken, TargetEnd, TargetToken
from gloss_engine.transfer import Stopwatch
from gloss_kernels import FINISH_NAMES, Finish

_LEAST_TOKENS, _FIRST_TOKENS = 16, 128
"""Of a pass beside a Watch: smaller ones cost more than they spare; and before any was timed."""


@dataclass(frozen=True, kw_only=True)
class Launched:
    """Work of the target on its way, and the time it takes."""

    work: LaunchedPass | LaunchedTokens | FailedStep
    stopwatch: Stopwatch


class TargetWork:
    """The target's side of an engine.

    Args:
        target: what runs.
        reader: reads texts.
        generator: goes on from prompts; None for a target that only reads.
        budget_seconds: about how long a pass over texts may take while a Watch runs.
        batch_share: share of the tokens that batch texts get while interactive ones wait too.
        memory: the device's; None: nobody else asks for it.

    Attributes:
        tokens_read, tokens_generated, captured: totals.
        seconds: time the target took.
        skipped: tokens that were not explained, by reason.
    """

    def __init__(
        self,
        target: Target,
        reader: TextReader,
        generator: Generator | None,
        budget_seconds: float = 0.025,
        batch_share: float = 0.125,
        memory: DeviceMemory | None = None,
    ) -> None:
        self.target, self.reader, self.generator = target, reader, generator
        self.budget_seconds = budget_seconds
        self._passes = Passes(reader, memory or DeviceMemory(target.decoder.device))
        self._tokens_per_second: float | None = None
        self.queue = ReadingQueue(reader.max_tokens, batch_share)
        self.tokens_read = self.tokens_generated = self.captured = 0
        self.seconds = 0.0
        self.skipped: dict[str, int] = {}
        self._decoded_last = False

    @property
    def has_work(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.queue) or bool(self.generator and self.generator.num_watches)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.target.decoder.device

    def stats(self) -> dict[str, Any]:
        """The target's part of EngineStats."""
        generator = self.generator
        return {
            "num_reading": len(self.queue) + (0 if generator is None else len(generator.waiting)),
            "num_watching": 0 if generator is None else generator.num_generating,
            "target_tokens_read": self.tokens_read,
            "target_tokens_generated": self.tokens_generated,
            "captured": self.captured,
            "capture_seconds": self.seconds,
            "skipped": dict(self.skipped),
        }

    def add_text(self, job: Job) -> None:
        """Queue a text."""
        self.queue.add(job)

    def add_watch(self, watch: Watch) -> None:
        """Queue a Watch."""
        assert self.generator is not None
        self.generator.add(watch)

    def can_run(self, now: float) -> bool:
        """Whether there is something to launch at this moment."""
        self._admit()
        return bool(self.queue) or bool(self.generator and self.generator.due(now))

    def launch(self, now: float) -> Launched:
        """Queue one pass or step; something can run."""
        stopwatch = Stopwatch(self.target.decoder.device)
        decodes = bool(self.generator and self.generator.due(now))
        work: LaunchedPass | LaunchedTokens | FailedStep
        if decodes and not (self.queue and self._decoded_last):
            assert self.generator is not None
            work = self.generator.launch(now)
        else:
            work = self._launch_pass()
        self._decoded_last = not isinstance(work, LaunchedPass)
        stopwatch.stop()
        return Launched(work=work, stopwatch=stopwatch)

    def read(self, launched: Launched) -> TargetEvents:
        """What came of launched work; waits for it."""
        events = TargetEvents()
        if isinstance(launched.work, LaunchedPass):
            self._read_texts(launched.work, events)
        else:
            for watch in launched.work.failed:
                self._fail(watch, events)
            if isinstance(launched.work, LaunchedTokens):
                self._read_step(launched.work, events)
            else:
                self.reader.release([row.place for row in launched.work.rows])
        seconds = launched.stopwatch.seconds()
        self.seconds += seconds
        if isinstance(launched.work, LaunchedPass) and seconds > 0:
            self._learn(launched.work.num_tokens / seconds)
        return events

    def cancel(self, request_ids: Set[str]) -> None:
        """Take requests out, with their texts that were not read to their end."""
        if self.generator is not None:
            for watch in (*self.generator.running.values(), *self.generator.waiting):
                if watch.request_id in request_ids:
                    self.generator.retire(watch)
        for job in self.queue.drop(request_ids):
            self.reader.release(job.text.places)

    def warm_up(self) -> None:
        """Compile what passes and steps run; nothing may be running."""
        if self.target.decoder.device.type == "cuda":
            self.reader.warm_up()
        if self.generator is not None:
            self.generator.warm_up()

    def _most_tokens(self) -> int | None:
        """Tokens that a pass may have now; None: all that fit into one."""
        if self.generator is None or not self.generator.is_speaking:
            return None
        if self._tokens_per_second is None:
            return _FIRST_TOKENS
        return max(_LEAST_TOKENS, int(self.budget_seconds * self._tokens_per_second))

    def _learn(self, rate: float) -> None:
        """Remember how fast the target reads, tokens per second."""
        before = self._tokens_per_second
        self._tokens_per_second = rate if before is None else 0.7 * before + 0.3 * rate

    def _admit(self) -> None:
        """Queue the prompts of Watches that have got a slot."""
        if self.generator is None:
            return
        for watch in self.generator.admit():
            before = watch.prompt_ids[:-1]
            if not before:
                self.generator.start(watch, None)
                continue
            last = len(before)
            positions = tuple(sorted(at for at in watch.prompt_positions if at < last))
            self.queue.add(
                Job(
                    request_id=watch.request_id,
                    kind=PROMPT,
                    text=TextToRead(token_ids=before, positions=positions),
                    layer_index=self.target.layer_index,
                    priority=watch.request.priority,
                    watch=watch,
                )
            )

    def _launch_pass(self) -> LaunchedPass:
        """Queue the next pass over texts."""
        before = self.reader.num_tokens
        launched = self._passes.launch(self.queue.next_pass(self._most_tokens()))
        self.tokens_read += self.reader.num_tokens - before
        for job in launched.failed:
            self.queue.remove(job)
            if job.watch is not None and self.generator is not None:
                self.generator.retire(job.watch)
        for job in launched.jobs:
            if job.watch is not None and not job.watch.ended:
                assert self.generator is not None and job.long is not None
                self.generator.start(job.watch, job.long.prefix)
        return launched

    def _read_texts(self, launched: LaunchedPass, events: TargetEvents) -> None:
        events.texts += self._passes.read(launched)
        self.captured += sum(len(read.norms) for read in events.texts)
        for job in launched.failed:
            if job.watch is not None:
                self._fail(job.watch, events)
            else:
                events.failed_texts.append(job)

    def _read_step(self, launched: LaunchedTokens, events: TargetEvents) -> None:
        result, norms = launched.result()
        now = time.monotonic()
        for row in launched.rows:
            if row.watch.ended:
                self.reader.release([row.place])
                continue
            if row.captured is not None:
                self._take_activation(row, launched.raw, norms, events)
            elif row.skipped:
                self._skip(row.watch, row.watch.position(row.launch), "max_pending", events)
            self._take_token(row, result.tokens[row.slot], result.codes[row.slot], now, events)

    def _take_activation(
        self, row: LaunchedRow, raw: Tensor, norms: list[float], events: TargetEvents
    ) -> None:
        assert row.captured is not None
        row.watch.num_in_flight -= 1
        self.captured += 1
        events.watched.append(
            WatchedToken(
                watch=row.watch,
                position=row.watch.position(row.launch),
                raw=raw[row.captured],
                norm=norms[row.captured],
                place=row.place,
            )
        )

    def _take_token(
        self, row: LaunchedRow, token_id: int, code: int, now: float, events: TargetEvents
    ) -> None:
        """Take in what a launch drew; the last one may be for its activation alone."""
        watch = row.watch
        if row.launch >= watch.max_new_tokens:
            self._finish(watch, events)
            return
        reason = None if code == Finish.RUNNING else FINISH_NAMES[Finish(code)]
        if reason != "error":
            watch.token_ids.append(token_id)
            watch.token_times.append(now)
            self.tokens_generated += 1
            position = watch.position(row.launch) + 1
            events.tokens.append(
                TargetToken(request_id=watch.request_id, position=position, token_id=token_id)
            )
            if not watch.is_every(row.launch):
                self._skip(watch, position, "every", events)
        if reason in (None, "length"):
            reason = self._ends(watch, row.launch)
        if reason is None:
            return
        watch.finish_reason = reason
        events.ends.append(TargetEnd(request_id=watch.request_id, finish_reason=reason))
        if reason == "length" and watch.is_every(row.launch):
            return
        if reason not in ("error", "length") and watch.is_every(row.launch):
            self._skip(watch, watch.position(row.launch) + 1, "target_ended", events)
        self._finish(watch, events)

    def _ends(self, watch: Watch, launch: int) -> str | None:
        """Why a sequence that the device lets go on ends here all the same."""
        stops = watch.request.target_sampling.stop
        if stops:
            text = self.target.tokenizer.decode(watch.token_ids, skip_special_tokens=False)
            if any(stop in text for stop in stops):
                return "stop"
        return "length" if launch == watch.max_new_tokens - 1 else None

    def _finish(self, watch: Watch, events: TargetEvents) -> None:
        assert self.generator is not None
        self.generator.retire(watch)
        events.done.append(watch)

    def _fail(self, watch: Watch, events: TargetEvents) -> None:
        """A Watch that there was no memory for."""
        events.ends.append(TargetEnd(request_id=watch.request_id, finish_reason="error"))
        events.failed_watches.append(watch)

    def _skip(self, watch: Watch, position: int, reason: str, events: TargetEvents) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        events.skipped.append(
            SkippedToken(request_id=watch.request_id, position=position, reason=reason)
        )
