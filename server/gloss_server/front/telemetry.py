"""The one object the front tells what happens; metrics and GetStats are made of it.

Its methods are called from the loop's thread. A cumulative counter of the engine's process begins
at 0 again when the engine restarts; what is shown here never goes down.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from gloss_api.v1 import gloss_pb2
from gloss_engine.stats import EngineStats
from gloss_server.front import labels
from gloss_server.front.live_stats import Clock, WindowedQuantiles, WindowedRate
from gloss_server.front.metrics import Events, Metrics

_DURATIONS = ("queue", "first_token", "inter_token", "end_to_end", "engine_step", "watch_lag")


class LoadedModel(Protocol):
    """What is told of a model that was loaded."""

    @property
    def version(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def fve_baseline(self) -> float | None: ...
    @property
    def num_slots(self) -> int: ...
    @property
    def num_pages(self) -> int: ...


class Telemetry:
    """What a server has done since it started, as metrics and as live figures.

    Args:
        metrics: those that are fed; None: new ones.
        clock: monotonic, seconds.
    """

    def __init__(self, metrics: Metrics | None = None, clock: Clock = time.monotonic) -> None:
        self.metrics = metrics or Metrics()
        self._clock, self._began = clock, clock()
        self._state = labels.STATES[0]
        self._calls_in_flight = 0
        self._quantiles = {name: WindowedQuantiles(clock) for name in _DURATIONS}
        self._tokens_rate, self._explanations_rate = WindowedRate(clock), WindowedRate(clock)
        self._num_scored, self._mse_sum = 0, 0.0
        self._num_restarts = 0
        self._num_slots = 0
        self._engine = EngineStats()
        self._generated_tokens = self._prefix_tokens_reused = 0
        self._target_tokens_read = self._target_tokens_generated = self._captured = 0
        self._last_step: float | None = None
        self.engine_state(self._state)

    def call_started(self, method: str) -> None:
        """A call arrived."""
        self._calls_in_flight += 1
        self.metrics.calls_in_flight.set(self._calls_in_flight)

    def call_ended(self, method: str, code: str, reason: str | None, seconds: float) -> None:
        """A call ended, with a gRPC status's name and its ErrorInfo's reason."""
        self._calls_in_flight -= 1
        self.metrics.calls_in_flight.set(self._calls_in_flight)
        name = labels.method_name(method)
        self.metrics.call_time[name].observe(seconds)
        known = code if code in labels.CODES else "UNKNOWN"
        self.metrics.calls[name, known].inc()
        if code != "OK":
            self.metrics.call_errors.count(reason or labels.OTHER)

    def unread(self, method: str) -> None:
        """A call ended before its request had come."""
        self.metrics.unread.count(labels.method_name(method))

    def rejected(self, reason: str, after_seconds: float | None = None) -> None:
        """A call was refused for the server's sake, so long after its arrival; None: it had run."""
        self.metrics.rejected.count(reason)
        if after_seconds is not None:
            self.metrics.refusal_time.observe(after_seconds)

    def expired(self, phase: str) -> None:
        """A call's deadline passed while it was queued or running."""
        self.metrics.expired.count(phase)

    def cancelled(self, phase: str) -> None:
        """A client gave a call up while it was queued or running."""
        self.metrics.cancelled.count(phase)

    def item_queued(self, seconds: float, priority: str, num_tokens: int) -> None:
        """An activation began to run after this wait, and may generate so many tokens."""
        self.metrics.queue_time[priority].observe(seconds)
        self.metrics.requested_tokens.inc(num_tokens)
        self._quantiles["queue"].observe(seconds)

    def first_token(self, seconds: float, priority: str) -> None:
        """A call's first token was there, so long after the call's arrival."""
        self.metrics.time_to_first_token[priority].observe(seconds)
        self._quantiles["first_token"].observe(seconds)

    def run_finished(self, seconds: float, method: str, priority: str) -> None:
        """A call's last explanation was there, so long after the call's arrival."""
        self.metrics.end_to_end[method, priority].observe(seconds)
        self._quantiles["end_to_end"].observe(seconds)

    def explanation(
        self, finish_reason: str, num_tokens: int, mse: float | None, flags: Sequence[str]
    ) -> None:
        """An explanation ended without an error."""
        self.metrics.explanations.count(finish_reason)
        self._explanations_rate.add(1)
        if mse is not None:
            self.metrics.mse.observe(mse)
            self._num_scored += 1
            self._mse_sum += mse
        for flag in flags:
            self.metrics.flags.count(flag)
            if flag == "unclosed":
                self.metrics.unclosed.inc()

    def watch_lag(self, seconds: float) -> None:
        """An explanation of a Watch was finished so long after its token was there."""
        self.metrics.watch_lag.observe(seconds)
        self._quantiles["watch_lag"].observe(seconds)

    def item_error(self, reason: str) -> None:
        """An activation or a sample failed alone."""
        self.metrics.item_errors.count(reason)
        if reason == "NON_FINITE_OUTPUT":
            self.metrics.non_finite_rows.inc()

    def engine_step(self, step_seconds: float, num_rows: int, stats: EngineStats) -> None:
        """The engine reported a step.

        Args:
            step_seconds: how long it took, by the engine's clock.
            num_rows: explanations that got a token in it; a report without any brings only `stats`.
            stats: the engine's own counters, since its process started; never changed later.
        """
        if num_rows:
            self._observe_step(step_seconds, num_rows)
        self._count(stats)
        self._show(stats)

    def _observe_step(self, step_seconds: float, num_rows: int) -> None:
        metrics, now = self.metrics, self._clock()
        metrics.engine_step.observe(step_seconds)
        self._quantiles["engine_step"].observe(step_seconds)
        # Who ran on after the step before has waited for this one since.
        if self._last_step is not None and self._engine.num_running:
            metrics.inter_token_latency.observe(now - self._last_step)
            self._quantiles["inter_token"].observe(now - self._last_step)
        self._last_step = now
        if self._num_slots:
            metrics.batch_occupancy.observe(num_rows / self._num_slots)

    def _count(self, stats: EngineStats) -> None:
        """Add what the engine's counters have gained."""
        metrics, before = self.metrics, self._engine
        if stats.num_steps < before.num_steps:
            # A new process that nobody has announced.
            before = EngineStats()
        generated = max(stats.decode_tokens - before.decode_tokens, 0)
        reused = max(stats.prefix_tokens_reused - before.prefix_tokens_reused, 0)
        if generated:
            metrics.generated_tokens.inc(generated)
            self._tokens_rate.add(generated)
            self._generated_tokens += generated
        if reused:
            metrics.prefix_tokens_reused.inc(reused)
            self._prefix_tokens_reused += reused
        prefilled = stats.prefill_tokens - before.prefill_tokens
        if prefilled > 0:
            metrics.prefill_tokens.inc(prefilled)
        metrics.ar_tokens.inc(max(stats.ar_tokens - before.ar_tokens, 0))
        metrics.out_of_memory.inc(max(stats.out_of_memory - before.out_of_memory, 0))
        scored = stats.score_seconds - before.score_seconds
        if scored > 0:
            metrics.score_time.observe(scored)
        self._count_target(stats, before)
        self._engine = stats

    def _count_target(self, stats: EngineStats, before: EngineStats) -> None:
        metrics = self.metrics
        num_read = max(stats.target_tokens_read - before.target_tokens_read, 0)
        num_said = max(stats.target_tokens_generated - before.target_tokens_generated, 0)
        num_captured = max(stats.captured - before.captured, 0)
        metrics.target_tokens_read.inc(num_read)
        metrics.target_tokens_generated.inc(num_said)
        metrics.captured.inc(num_captured)
        self._target_tokens_read += num_read
        self._target_tokens_generated += num_said
        self._captured += num_captured
        seconds = stats.capture_seconds - before.capture_seconds
        if seconds > 0:
            metrics.capture_time.observe(seconds)
        for reason, count in stats.skipped.items():
            more = count - before.skipped.get(reason, 0)
            if more > 0:
                metrics.skipped.count(reason, more)

    def _show(self, stats: EngineStats) -> None:
        """Set the gauges."""
        metrics = self.metrics
        metrics.running.set(stats.num_running)
        metrics.waiting["batch"].set(stats.num_waiting_batch)
        metrics.waiting["interactive"].set(stats.num_waiting - stats.num_waiting_batch)
        metrics.waiting_to_score.set(stats.num_to_score)
        metrics.pages_used.set(stats.pages_used)
        metrics.pages.set(stats.pages_total)
        metrics.reading.set(stats.num_reading)
        metrics.watching.set(stats.num_watching)
        metrics.device_memory.set(stats.device_bytes)
        metrics.device_memory_reserved.set(stats.device_reserved_bytes)
        metrics.device_memory_used.set(stats.device_used_bytes)

    def engine_state(self, state: str) -> None:
        """What the server can do now: loading, serving, restarting or draining."""
        assert state in labels.STATES, state
        self._state = state
        for name, gauge in self.metrics.states.items():
            gauge.set(name == state)
        self.metrics.serving.set(state == "serving")
        if state == "restarting":
            self._engine_gone()

    def engine_started(self, load_seconds: float, warm_up_seconds: float) -> None:
        """An engine is ready, after so long."""
        self.metrics.engine_start["loading"].set(load_seconds)
        self.metrics.engine_start["warm_up"].set(warm_up_seconds)

    def engine_died(self) -> None:
        """An engine's process is gone."""
        self.metrics.engine_deaths.inc()

    def engine_restarted(self) -> None:
        """A new engine process was started in place of one that died or hung."""
        self.metrics.engine_restarts.inc()
        self._num_restarts += 1
        self._engine_gone()

    def _engine_gone(self) -> None:
        """What an engine's process held is gone with it, and its counters begin anew."""
        before = self._engine
        self._engine = EngineStats(pages_total=before.pages_total, device_bytes=before.device_bytes)
        self._last_step = None
        self._show(self._engine)

    def model_loaded(self, info: LoadedModel) -> None:
        """An engine has loaded its checkpoints."""
        self.metrics.build_info.clear()
        self.metrics.build_info.labels(
            info.version, info.model, info.fingerprint, info.device, info.dtype
        ).set(1)
        baseline = info.fve_baseline
        self.metrics.fve_baseline.set(float("nan") if baseline is None else baseline)
        self._num_slots = info.num_slots
        self.metrics.slots.set(info.num_slots)
        # Steps report it as well, but the first may be long in coming.
        self._engine = replace(self._engine, pages_total=info.num_pages)
        self.metrics.pages.set(info.num_pages)

    def stats_response(self) -> gloss_pb2.GetStatsResponse:
        """What GetStats answers now."""
        engine = self._engine
        response = gloss_pb2.GetStatsResponse(
            state=f"SERVING_STATE_{self._state.upper()}",
            uptime_seconds=self._clock() - self._began,
            calls_in_flight=self._calls_in_flight,
            running=engine.num_running,
            waiting=engine.num_waiting,
            waiting_batch=engine.num_waiting_batch,
            waiting_to_score=engine.num_to_score,
            num_slots=self._num_slots,
            kv_pages_used=engine.pages_used,
            kv_pages_total=engine.pages_total,
            tokens_per_second=self._tokens_rate.read(),
            explanations_per_second=self._explanations_rate.read(),
            latencies=self._latencies(),
            explanations=_named(self.metrics.explanations),
            item_errors=_named(self.metrics.item_errors),
            rejections=_named(self.metrics.rejected),
            generated_tokens=self._generated_tokens,
            prefix_tokens_reused=self._prefix_tokens_reused,
            scored=self._num_scored,
            engine_restarts=self._num_restarts,
            reading=engine.num_reading,
            watching=engine.num_watching,
            target_tokens_read=self._target_tokens_read,
            target_tokens_generated=self._target_tokens_generated,
            captured=self._captured,
            skipped=_named(self.metrics.skipped),
            engine_memory_bytes=self.metrics.engine_resident_bytes(),
            device_memory_reserved_bytes=engine.device_reserved_bytes,
            device_memory_bytes=engine.device_bytes,
        )
        if self._num_scored:
            response.mean_mse = self._mse_sum / self._num_scored
        return response

    def _latencies(self) -> list[gloss_pb2.LatencyQuantiles]:
        found = []
        for name, window in self._quantiles.items():
            quantiles = window.read()
            if quantiles.count:
                p50, p90, p95, p99 = quantiles.values
                found.append(
                    gloss_pb2.LatencyQuantiles(
                        name=name, count=quantiles.count, p50=p50, p90=p90, p95=p95, p99=p99
                    )
                )
        return found


def _named(events: Events) -> list[gloss_pb2.NamedCount]:
    occurred = events.occurred()
    return [gloss_pb2.NamedCount(name=name, count=occurred[name]) for name in sorted(occurred)]
