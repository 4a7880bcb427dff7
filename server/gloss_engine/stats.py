"""What the engine has done so far, for metrics, benchmarks and proofs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gloss_engine.request import Explanation, TextResult


@dataclass(kw_only=True)
class EngineStats:
    """Counters since the engine started, and gauges of this moment.

    Attributes:
        num_steps: steps that ran rows, the AV's and the target's.
        prefix_tokens: prompt tokens computed once for all (AV prefix).
        prefill_tokens: suffix tokens of items that started, the injected rows included; the last of
            a suffix runs as its sequences' first decode row.
        prefix_tokens_reused: prefix tokens that items did not have to compute.
        decode_tokens: tokens generated.
        explanations: explanations finished without an error, by finish reason.
        item_errors: items and samples that failed, by reason.
        scored: explanations scored; ar_tokens: tokens the AR ran.
        step_seconds: time spent in steps; score_seconds: of it, in scoring.
        num_running, num_waiting: sequences in slots, items that wait.
        num_waiting_batch: of the latter, those of priority batch.
        num_to_score: finished texts that wait for the AR.
        pages_used, pages_total: private pages.
        num_reading: texts and prompts that the target reads or that wait for it, also those of
            Watches that wait for a slot.
        num_watching: Watches whose prompt has been read.
        target_tokens_read, target_tokens_generated: tokens the target ran of texts, and made.
        captured: activations read; capture_seconds: time the target's passes took.
        skipped: generated tokens that were not explained, by reason.
        out_of_memory: times that the device's memory did not suffice for some work.
        device_bytes: memory the device has, 0 on a CPU; device_reserved_bytes: of it, what the
            allocator holds; device_used_bytes: of that, what tensors are in. At most a second old.
    """

    num_steps: int = 0
    prefix_tokens: int = 0
    prefill_tokens: int = 0
    prefix_tokens_reused: int = 0
    decode_tokens: int = 0
    explanations: dict[str, int] = field(default_factory=dict)
    item_errors: dict[str, int] = field(default_factory=dict)
    scored: int = 0
    ar_tokens: int = 0
    step_seconds: float = 0.0
    score_seconds: float = 0.0
    num_running: int = 0
    num_waiting: int = 0
    num_waiting_batch: int = 0
    num_to_score: int = 0
    pages_used: int = 0
    pages_total: int = 0
    num_reading: int = 0
    num_watching: int = 0
    target_tokens_read: int = 0
    target_tokens_generated: int = 0
    captured: int = 0
    capture_seconds: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)
    out_of_memory: int = 0
    device_bytes: int = 0
    device_reserved_bytes: int = 0
    device_used_bytes: int = 0

    def count(self, results: Iterable[Explanation | TextResult]) -> None:
        """Count results: explanations by reason, errors by theirs."""
        for result in results:
            if result.error is not None:
                counts, reason = self.item_errors, result.error.reason
            elif isinstance(result, Explanation):
                counts, reason = self.explanations, result.finish_reason
            else:
                continue
            counts[reason] = counts.get(reason, 0) + 1
