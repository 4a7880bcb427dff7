"""What a server does at this moment and how fast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.enums import SERVING_STATES, name_of


@dataclass(frozen=True, kw_only=True)
class LatencyQuantiles:
    """Quantiles of one duration over the calls of the last minute, seconds.

    Attributes:
        count: how many values.
        p50, p90, p95, p99: the quantiles.
    """

    count: int
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class ServerStats:
    """A server at one moment. Counters count since it started.

    Attributes:
        state: loading, serving, restarting or draining.
        uptime_seconds: since it started.
        calls_in_flight: calls.
        running: explanations that run in slots, of which there are num_slots.
        waiting: activations that wait for a slot; waiting_batch: those of priority batch.
        waiting_to_score: finished texts that wait for the AR.
        num_slots: slots there are.
        kv_pages_used, kv_pages_total: pages of the key-value cache.
        tokens_per_second, explanations_per_second: over the last 10 seconds.
        latencies: by what was measured, such as queue or first_token.
        explanations: finished, by finish reason.
        item_errors: items failed, by reason.
        rejections: calls refused, by reason.
        generated_tokens: tokens generated.
        prefix_tokens_reused: prompt tokens that did not have to be run.
        scored: explanations scored.
        mean_mse: of those; None where none was.
        engine_restarts: times the engine was started again.
        reading: texts and prompts that the target reads or that wait for it.
        watching: watches whose target generates.
        target_tokens_read, target_tokens_generated: by the target.
        captured: activations captured.
        skipped: tokens of watches that were not explained, by reason.
        engine_memory_bytes: resident memory of the engine's process.
        device_memory_reserved_bytes, device_memory_bytes: what it holds of its device's memory,
            and what there is; 0 on a CPU.
    """

    state: str
    uptime_seconds: float
    calls_in_flight: int
    running: int
    waiting: int
    waiting_to_score: int
    num_slots: int
    kv_pages_used: int
    kv_pages_total: int
    tokens_per_second: float
    explanations_per_second: float
    latencies: dict[str, LatencyQuantiles]
    explanations: dict[str, int]
    item_errors: dict[str, int]
    rejections: dict[str, int]
    generated_tokens: int
    prefix_tokens_reused: int
    scored: int
    mean_mse: float | None
    engine_restarts: int
    reading: int
    watching: int
    target_tokens_read: int
    target_tokens_generated: int
    captured: int
    skipped: dict[str, int]
    waiting_batch: int
    engine_memory_bytes: int
    device_memory_reserved_bytes: int
    device_memory_bytes: int

    @classmethod
    def of(cls, reply: pb.GetStatsResponse) -> ServerStats:
        """The contract's message as a value."""
        return cls(
            state=name_of(SERVING_STATES, reply.state),
            uptime_seconds=reply.uptime_seconds,
            calls_in_flight=reply.calls_in_flight,
            running=reply.running,
            waiting=reply.waiting,
            waiting_to_score=reply.waiting_to_score,
            num_slots=reply.num_slots,
            kv_pages_used=reply.kv_pages_used,
            kv_pages_total=reply.kv_pages_total,
            tokens_per_second=reply.tokens_per_second,
            explanations_per_second=reply.explanations_per_second,
            latencies={entry.name: _quantiles(entry) for entry in reply.latencies},
            explanations=_counts(reply.explanations),
            item_errors=_counts(reply.item_errors),
            rejections=_counts(reply.rejections),
            generated_tokens=reply.generated_tokens,
            prefix_tokens_reused=reply.prefix_tokens_reused,
            scored=reply.scored,
            mean_mse=reply.mean_mse if reply.HasField("mean_mse") else None,
            engine_restarts=reply.engine_restarts,
            reading=reply.reading,
            watching=reply.watching,
            target_tokens_read=reply.target_tokens_read,
            target_tokens_generated=reply.target_tokens_generated,
            captured=reply.captured,
            skipped=_counts(reply.skipped),
            waiting_batch=reply.waiting_batch,
            engine_memory_bytes=reply.engine_memory_bytes,
            device_memory_reserved_bytes=reply.device_memory_reserved_bytes,
            device_memory_bytes=reply.device_memory_bytes,
        )


def _quantiles(entry: pb.LatencyQuantiles) -> LatencyQuantiles:
    return LatencyQuantiles(
        count=entry.count, p50=entry.p50, p90=entry.p90, p95=entry.p95, p99=entry.p99
    )


def _counts(entries: Iterable[pb.NamedCount]) -> dict[str, int]:
    return {entry.name: entry.count for entry in entries}
