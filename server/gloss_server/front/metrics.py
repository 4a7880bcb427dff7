"""The Prometheus metrics of a server: their names, help texts, units and label values.

Families of a label are bound to all their values at once: every series is there from the start,
with 0, so a rate sees the first event. `telemetry.py` feeds them, `metrics_server.py` shows them,
`buckets.py` and `labels.py` hold bounds and label values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from gloss_server.front import buckets, labels


class Events:
    """A counter with one label from a closed set.

    Args:
        values: the set; anything else is counted as labels.OTHER.
    """

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, label: str, values: Sequence[str]
    ) -> None:
        family = Counter(name, text, [label], registry=registry)
        self._counters = {value: family.labels(value) for value in (*values, labels.OTHER)}
        self._totals = dict.fromkeys(self._counters, 0)

    def count(self, value: str, num: int = 1) -> None:
        """So many more of `value`."""
        known = value if value in self._counters else labels.OTHER
        self._counters[known].inc(num)
        self._totals[known] += num

    def occurred(self) -> dict[str, int]:
        """How often each came, those that did only."""
        return {value: total for value, total in self._totals.items() if total}


class CountedElsewhere(Collector):
    """A counter whose value is read when it is scraped, on the thread that serves the scrape."""

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, read: Callable[[], int]
    ) -> None:
        self._name, self._text, self._read = name, text, read
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Its one sample."""
        yield CounterMetricFamily(self._name, self._text, value=self._read())


class Metrics:
    """All metrics of one server, in a registry of its own. Gauges read 0 until they are set."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._engine_process: ProcessCollector | None = None
        self._calls()
        self._durations()
        self._engine()
        self._device()
        self._explanations()
        self._target()

    def read_engine_process(self, pid: Callable[[], int | None]) -> None:
        """Show the engine's process beside the front's own; None: there is none."""
        self._engine_process = ProcessCollector(
            "gloss_engine", pid=lambda: pid() or "none", registry=self.registry
        )

    def engine_resident_bytes(self) -> int:
        """Resident memory of the engine's process; 0 where there is none."""
        if self._engine_process is None:
            return 0
        found = {family.name: family for family in self._engine_process.collect()}
        resident = found.get("gloss_engine_process_resident_memory_bytes")
        return 0 if resident is None else int(resident.samples[0].value)

    def read_lines_lost(self, count: Callable[[], int]) -> None:
        """Show how many lines the log has lost."""
        text = "Lines that the log could not write."
        CountedElsewhere(self.registry, "gloss_log_lines_lost_total", text, count)

    def read_in_flight(self, resource: str, limit: int, count: Callable[[], int]) -> None:
        """Show how much of a bounded resource is in flight."""
        self.in_flight_limit[resource].set(limit)
        self.in_flight[resource].set_function(count)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"gloss_{name}", text, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"gloss_{name}", text, registry=self.registry)

    def _gauges(self, name: str, text: str, label: str, values: Sequence[str]) -> dict[str, Gauge]:
        family = Gauge(f"gloss_{name}", text, [label], registry=self.registry)
        return {value: family.labels(value) for value in values}

    def _histogram(self, name: str, text: str, bounds: Sequence[float]) -> Histogram:
        return Histogram(f"gloss_{name}", text, buckets=bounds, registry=self.registry)

    def _histograms(
        self, name: str, text: str, bounds: Sequence[float], label: str, values: Sequence[str]
    ) -> dict[str, Histogram]:
        family = Histogram(f"gloss_{name}", text, [label], buckets=bounds, registry=self.registry)
        return {value: family.labels(value) for value in values}

    def _events(self, name: str, text: str, label: str, values: Sequence[str]) -> Events:
        return Events(self.registry, f"gloss_{name}", text, label, values)

    def _calls(self) -> None:
        ended = Counter(
            "gloss_calls_total",
            "Calls that ended, by method and gRPC status.",
            ["method", "code"],
            registry=self.registry,
        )
        self.calls = {
            (method, code): ended.labels(method, code)
            for method in (*labels.METHODS, labels.OTHER)
            for code in labels.CODES
        }
        self.calls_in_flight = self._gauge("calls_in_flight", "Calls that have not ended.")
        self.call_errors = self._events(
            "call_errors_total",
            "Calls that ended with an error, by its reason.",
            "reason",
            labels.CALL_REASONS,
        )
        self.unread = self._events(
            "unread_calls_total",
            "Calls that ended before their request had come: too large, or given up.",
            *("method", labels.METHODS),
        )
        self.rejected = self._events(
            "rejected_calls_total",
            "Calls refused for the server's sake, by reason.",
            "reason",
            labels.REJECTIONS,
        )
        self.expired = self._events(
            "expired_calls_total",
            "Calls whose deadline passed, by what they were at.",
            "phase",
            labels.PHASES,
        )
        self.cancelled = self._events(
            "cancelled_calls_total",
            "Calls that their client gave up, by what they were at.",
            "phase",
            labels.PHASES,
        )
        text = "What calls in flight have taken of what the server has room for."
        self.in_flight = self._gauges("in_flight", text, "resource", labels.RESOURCES)
        text = "The most that may be in flight; then calls are refused."
        self.in_flight_limit = self._gauges("in_flight_limit", text, "resource", labels.RESOURCES)

    def _durations(self) -> None:
        bounds = buckets.CALL_SECONDS
        self.call_time = self._histograms(
            "call_seconds",
            "From a call's arrival to its end, by method.",
            *(bounds, "method", (*labels.METHODS, labels.OTHER)),
        )
        self.refusal_time = self._histogram(
            "refusal_seconds",
            "From the arrival of a call that nothing was run for to its refusal.",
            bounds,
        )
        self.queue_time = self._histograms(
            "queue_time_seconds",
            "How long an activation waited until it began to run.",
            *(bounds, "priority", labels.PRIORITIES),
        )
        self.time_to_first_token = self._histograms(
            "time_to_first_token_seconds",
            "From a call's arrival to its first generated token.",
            *(bounds, "priority", labels.PRIORITIES),
        )
        family = Histogram(
            "gloss_end_to_end_seconds",
            "From a call's arrival to its last explanation.",
            ["method", "priority"],
            buckets=bounds,
            registry=self.registry,
        )
        self.end_to_end = {
            (method, priority): family.labels(method, priority)
            for method in labels.EXPLAINING_METHODS
            for priority in labels.PRIORITIES
        }
        self.inter_token_latency = self._histogram(
            "inter_token_latency_seconds",
            "Gap between the tokens of running explanations, once a step.",
            buckets.STEP_SECONDS,
        )
        self.engine_step = self._histogram(
            "engine_step_seconds", "How long an engine step took.", buckets.STEP_SECONDS
        )

    def _engine(self) -> None:
        self.running = self._gauge("running", "Explanations that run in slots.")
        text = "Activations that wait for a slot."
        self.waiting = self._gauges("waiting", text, "priority", labels.PRIORITIES)
        self.waiting_to_score = self._gauge(
            "waiting_to_score", "Finished texts that wait for the AR."
        )
        self.slots = self._gauge("slots", "Slots there are.")
        self.batch_occupancy = self._histogram(
            "batch_occupancy_ratio", "Rows of an engine step over slots.", buckets.OCCUPANCY_RATIO
        )
        self.pages_used = self._gauge("kv_pages_used", "Pages of the key-value cache in use.")
        self.pages = self._gauge("kv_pages", "Pages of the key-value cache there are.")
        self.requested_tokens = self._counter(
            "requested_tokens_total",
            "Tokens that explanations which began to run were allowed to generate.",
        )
        self.score_time = self._histogram(
            "score_seconds",
            "How long the AR's pass of an engine step took, of steps with one.",
            buckets.STEP_SECONDS,
        )
        self.ar_tokens = self._counter("ar_tokens_total", "Tokens the AR ran.")
        self.generated_tokens = self._counter(
            "generated_tokens_total", "Tokens generated, those of cancelled calls included."
        )
        self.prefill_tokens = self._counter(
            "prefill_tokens_total", "Prompt tokens run: an activation's own."
        )
        self.prefix_tokens_reused = self._counter(
            "prefix_tokens_reused_total",
            "Prompt tokens that did not have to be run, because all prompts share them.",
        )
        self.engine_restarts = self._counter(
            "engine_restarts_total", "Times the engine was started again after it died or hung."
        )
        self.engine_deaths = self._counter(
            "engine_deaths_total",
            "Times the engine died, or hung and was killed, whether or not another could start.",
        )
        text = "How long the engine's last start took, by phase."
        self.engine_start = self._gauges("engine_start_seconds", text, "phase", labels.START_PHASES)
        self.serving = self._gauge("serving", "1 while calls are served, else 0.")
        text = "1 for the state the server is in."
        self.states = self._gauges("state", text, "state", labels.STATES)
        self.build_info = Gauge(
            "gloss_build_info",
            "1; what is loaded is in the labels.",
            ["version", "model", "fingerprint", "device", "dtype"],
            registry=self.registry,
        )

    def _device(self) -> None:
        self.device_memory = self._gauge(
            "device_memory_bytes", "Memory the engine's device has; 0 on a CPU."
        )
        self.device_memory_reserved = self._gauge(
            "device_memory_reserved_bytes", "Of it, what the engine's allocator holds."
        )
        self.device_memory_used = self._gauge(
            "device_memory_used_bytes", "Of that, what tensors are in."
        )
        self.out_of_memory = self._counter(
            "out_of_memory_total",
            "Times the device's memory did not suffice for some work, which then ran in smaller "
            "parts or failed.",
        )

    def _explanations(self) -> None:
        self.explanations = self._events(
            "explanations_total",
            "Explanations that ended, by why they did.",
            "finish_reason",
            labels.FINISH_REASONS,
        )
        self.flags = self._events(
            "explanation_flags_total", "Warnings on explanations.", "flag", labels.FLAGS
        )
        self.unclosed = self._counter(
            "unclosed_explanations_total", "Explanations without a closing tag."
        )
        self.item_errors = self._events(
            "item_errors_total",
            "Activations or samples that failed alone, by reason.",
            "reason",
            labels.ITEM_ERRORS,
        )
        self.non_finite_rows = self._counter(
            "non_finite_rows_total", "Samples and texts whose model's output was not finite."
        )
        self.mse = self._histogram(
            "reconstruction_mse",
            "Mean squared error of scored explanations; FVE is 1 - mse / gloss_fve_baseline.",
            buckets.MSE,
        )
        self.fve_baseline = self._gauge(
            "fve_baseline", "Mean squared error at which FVE is 0; NaN where none is known."
        )
        self.fve_baseline.set(float("nan"))

    def _target(self) -> None:
        self.reading = self._gauge(
            "reading", "Texts and prompts that the target reads or that wait for it."
        )
        self.watching = self._gauge("watching", "Watches whose target generates.")
        self.capture_time = self._histogram(
            "capture_seconds",
            "How long the target's passes of an engine step took, of steps with any.",
            buckets.STEP_SECONDS,
        )
        self.watch_lag = self._histogram(
            "watch_lag_seconds",
            "From a token that the target generated until its explanation was finished.",
            buckets.CALL_SECONDS,
        )
        self.target_tokens_read = self._counter(
            "target_tokens_read_total", "Tokens of texts and prompts that the target ran."
        )
        self.target_tokens_generated = self._counter(
            "target_tokens_generated_total", "Tokens the target generated."
        )
        self.captured = self._counter("captured_total", "Activations that the target read.")
        self.skipped = self._events(
            "skipped_tokens_total",
            "Tokens the target generated that were not explained, by why.",
            "reason",
            labels.SKIPS,
        )
